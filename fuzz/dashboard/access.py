"""Who may look, and what a page may do: an ASGI layer in front of everything that is served.

Without a token, only requests to a loopback name are answered: a page elsewhere whose name was made to point here
(DNS rebinding) asks for another. With one, it is asked for once, as `?token=` or `Authorization: Bearer`, and then
known by a cookie, which holds a value made from the token, not the token. Nobody writes: methods other than GET and
HEAD are refused.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

COOKIE: Final = "vmemmap_fuzz"
TABLES: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Datasette's own pages have scripts in them."""
HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host in ("localhost", ""):
        return host == "localhost"
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """The layer. `token` None: whoever reaches the socket may look, under a loopback name (`names` False: any)."""

    def __init__(self, app: App, token: str | None, *, names: bool = True) -> None:
        self.app = app
        self.token = token
        self.names = names
        self.cookie = hmac.new((token or "").encode(), b"cookie of vmemmap-fuzz serve", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if scope["method"] not in ("GET", "HEAD"):
            await _say(send, 405, "read only\n", {"allow": "GET, HEAD"})
        elif self.token is not None:
            await self._with_token(scope, headers, receive, send)
        elif self.names and not loopback(_host(headers.get("host", ""))):
            await _say(send, 421, "this server answers to the names of its own machine only\n", {})
        else:
            await self.app(scope, receive, self._sealed(send))

    async def _with_token(self, scope: Message, headers: dict[str, str], receive: Receive, send: Send) -> None:
        assert self.token is not None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None and same(given, self.token):
            rest = urlencode([(key, value) for key, value in query if key != "token"])
            # The token goes from the address line at once, and with it from the history.
            to = quoted(scope["path"]) + (f"?{rest}" if rest else "")
            cookie = f"{COOKIE}={self.cookie}; Path=/; HttpOnly; SameSite=Strict"
            await _say(send, 303, "", {"location": to, "set-cookie": cookie})
            return
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if same(bearer, self.token) or same(_cookie(headers.get("cookie", "")), self.cookie):
            await self.app(scope, receive, self._sealed(send))
            return
        await _say(send, 401, "open the address with ?token=... that the server printed\n", {})

    def _sealed(self, send: Send) -> Send:
        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                have = {key.lower() for key, _ in message.get("headers", [])}
                wanted = {**HEADERS, "content-security-policy": TABLES, "cache-control": "no-store"}
                more = [(k.encode(), v.encode()) for k, v in wanted.items() if k.encode() not in have]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        return sealed


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def quoted(path: str) -> str:
    """A path for a Location header: never one that a browser takes for another host (`//elsewhere`)."""
    return "/" + quote(path.lstrip("/\\"))


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0].lower()


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


async def _say(send: Send, status: int, text: str, headers: dict[str, str]) -> None:
    all_headers = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store", **HEADERS, **headers}
    raw = [(key.encode(), value.encode()) for key, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": text.encode()})
