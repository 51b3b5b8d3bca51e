"""Who gets in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fuzz.dashboard.access import COOKIE, Guard, Message, Receive, Send, loopback, quoted

TOKEN = "correct-horse-battery-staple"


async def inside(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"inside"})


def ask(
    guard: Guard, path: str = "/", query: str = "", method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(guard({**scope, "query_string": query.encode()}, receive, send))
    given = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], given, sent[1]["body"]


def test_a_token_is_needed_once() -> None:
    guard = Guard(inside, TOKEN)
    assert ask(guard)[0] == 401
    assert ask(guard, query="token=wrong")[0] == 401
    assert ask(guard, cookie=f"{COOKIE}={TOKEN}")[0] == 401  # the cookie is not the token
    status, headers, _ = ask(guard, "/-/campaign/a b/corpus", f"token={TOKEN}&text=dax+create")
    assert (status, headers["location"]) == (303, "/-/campaign/a%20b/corpus?text=dax+create")
    assert TOKEN not in str(headers)
    cookie, *flags = headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(flags)
    assert ask(guard, cookie=cookie)[2] == b"inside"
    assert ask(guard, authorization=f"Bearer {TOKEN}")[2] == b"inside"
    assert ask(Guard(inside, TOKEN + "!"), cookie=cookie)[0] == 401


def test_a_redirect_stays_here() -> None:
    assert quoted("//elsewhere.example/x") == "/elsewhere.example/x"
    assert quoted("/\\elsewhere.example") == "/elsewhere.example"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8001", 200),
        ("127.0.0.1:8001", 200),
        ("127.1.2.3", 200),
        ("[::1]:8001", 200),
        ("elsewhere.example", 421),
        ("127.0.0.1.elsewhere.example", 421),
        ("10.0.0.1", 421),
        ("", 421),
    ],
)
def test_without_a_token_only_loopback_names_are_answered(host: str, status: int) -> None:
    assert ask(Guard(inside, None), host=host)[0] == status
    assert ask(Guard(inside, None, names=False), host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nobody_writes(method: str) -> None:
    assert ask(Guard(inside, None), method=method, host="localhost")[0] == 405


def test_what_is_served_may_load_nothing_from_elsewhere() -> None:
    headers = ask(Guard(inside, None), host="localhost")[1]
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert all(set(source.split()) <= {"'none'", "'self'", "'unsafe-inline'", "data:"} for source in policy.values())
    assert headers["cache-control"] == "no-store"


def test_which_addresses_are_loopback() -> None:
    assert all(map(loopback, ("localhost", "127.0.0.1", "::1", "[::1]")))
    assert not any(map(loopback, ("", "0.0.0.0", "::", "192.168.1.1", "localhost.example")))
