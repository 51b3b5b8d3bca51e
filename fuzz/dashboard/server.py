"""`vmemmap-fuzz serve`: Datasette with the pages of one campaign or two in front of its view of the tables.

Reading only: the databases are opened read-only, and nothing but GET is answered (`fuzz.dashboard.access`). Every page
is made anew from the index when it is asked for, on a connection of its own, so that an index that a running campaign
makes again is the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sqlite3
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import uvicorn
from datasette.app import Datasette
from datasette.database import Database
from datasette.plugins import pm
from datasette.utils.asgi import Request, Response
from pluggy import HookimplMarker

from fuzz.dashboard import data
from fuzz.dashboard.access import App, Guard
from fuzz.dashboard.claims import Examiner
from fuzz.dashboard.data import Filter
from fuzz.dashboard.pages import Shown, Site, named
from fuzz.dashboard.static import file_of
from fuzz.findings import FINDING, PAGE, REPRO
from fuzz.store.index import NAME

hookimpl: Final = HookimplMarker("datasette")

OURS: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
REPORT: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; "
    "base-uri 'none'"
)
"""`report.html` is one file with its script in it."""
KINDS: Final = {PAGE: "text/html; charset=utf-8", REPRO: "text/plain; charset=utf-8", FINDING: "application/json"}


class ServerLinks:
    """Addresses below `/-/campaign/NAME/`; Datasette's tables keep theirs."""

    live = True

    def __init__(self, both: bool) -> None:
        self.both = both

    def page(self, campaign: str, name: str) -> str:
        return f"/-/campaign/{quote(campaign)}/{name}"

    def finding(self, campaign: str, record: str) -> str:
        return f"/-/campaign/{quote(campaign)}/finding/{record}"

    def file(self, campaign: str, record: str, name: str) -> str:
        return f"/-/campaign/{quote(campaign)}/finding/{record}/{name}"

    def program(self, campaign: str, digest: str) -> str:
        return f"/-/campaign/{quote(campaign)}/program/{digest}"

    def compare(self) -> str:
        return "/-/compare" if self.both else ""

    def tables(self, campaign: str) -> str:
        return f"/{quote(campaign)}"


class Plugin:
    """Our pages, as a plugin of Datasette."""

    def __init__(self, folders: list[Path], reports: Path) -> None:
        self.__name__ = "vmemmap_fuzz_pages"
        """Datasette asks for it."""
        self.campaigns = named(folders)
        self.reports = reports
        self.site = Site(self.campaigns, ServerLinks(len(folders) > 1))
        self.examiners = {shown.name: Examiner(shown.folder) for shown in self.campaigns}

    @hookimpl
    def register_routes(self) -> list[tuple[str, Callable[..., Awaitable[Response]]]]:
        """Ours come before Datasette's."""
        one = r"^/-/campaign/(?P<name>[^/]+)"
        routes: list[tuple[str, Callable[..., Awaitable[Response]]]] = [
            (r"^/$", self._front),
            (one + r"/(?P<page>overview|findings|coverage|corpus)$", self._page),
            (one + r"/finding/(?P<record>[0-9a-f]+)$", self._finding),
            (one + r"/finding/(?P<record>[0-9a-f]+)/(?P<file>[a-z]+\.[a-z]+)$", self._file),
            (one + r"/program/(?P<digest>[0-9a-f]+)$", self._program),
        ]
        return [*routes, (r"^/-/compare$", self._compare)] if len(self.campaigns) > 1 else routes

    @hookimpl
    def menu_links(self) -> list[dict[str, str]]:
        """The way back from Datasette's pages."""
        return [
            {"href": self.site.links.page(s.name, "overview"), "label": f"Campaign {s.name}"} for s in self.campaigns
        ]

    @hookimpl
    def handle_exception(self, exception: Exception) -> Response:
        """One line, in place of Datasette's own answer."""
        status = int(getattr(exception, "status", 500))
        if status >= 500:
            traceback.print_exception(exception)
        text = getattr(exception, "message", "") or str(exception) or type(exception).__name__
        return Response.text(f"{text}\n" if status < 500 else "an error of this program\n", status=status)

    # -- views ------------------------------------------------------------------------------------------------------

    def _shown(self, request: Request) -> Shown | None:
        name = request.url_vars["name"]
        return next((shown for shown in self.campaigns if quote(shown.name) == name or shown.name == name), None)

    async def _front(self) -> Response:
        return await self._make(lambda site: self._overview(site, self.campaigns[0]))

    def _overview(self, site: Site, shown: Shown) -> str:
        with data.connect(shown.folder) as db:
            programs = db.execute("select count(*) from programs").fetchone()[0]
        return site.overview(shown, self.examiners[shown.name].ask(programs))

    async def _page(self, request: Request) -> Response:
        shown, page, args = self._shown(request), request.url_vars["page"], request.args
        if shown is None:
            return _missing()
        number = args.get("page") or "0"
        wanted = Filter(
            args.get("arch") or "",
            args.get("text") or "",
            args.get("feature") or "",
            args.get("order") or "shortest",
            int(number) if number.isdecimal() and len(number) < 10 else 0,
        )
        make: dict[str, Callable[[Site], str]] = {
            "overview": lambda site: self._overview(site, shown),
            "findings": lambda site: site.findings(shown),
            "coverage": lambda site: site.coverage(shown),
            "corpus": lambda site: site.corpus(shown, wanted),
        }
        return await self._make(make[page])

    async def _finding(self, request: Request) -> Response:
        shown = self._shown(request)
        return await self._make(lambda site: site.finding(shown, request.url_vars["record"]) if shown else None)

    async def _program(self, request: Request) -> Response:
        shown = self._shown(request)
        return await self._make(lambda site: site.program(shown, request.url_vars["digest"]) if shown else None)

    async def _compare(self) -> Response:
        return await self._make(lambda site: site.compare())

    async def _file(self, request: Request) -> Response:
        shown, record, name = self._shown(request), request.url_vars["record"], request.url_vars["file"]
        if shown is None or name not in KINDS:
            return _missing()

        def read() -> str:
            with data.connect(shown.folder) as db:
                row = data.finding(db, record)
            return file_of(shown.folder, row, self.reports, name) if row else ""

        text = await _apart(read)
        if isinstance(text, Response):
            return text
        return (
            Response(text, headers={"content-security-policy": REPORT}, content_type=KINDS[name])
            if text
            else _missing()
        )

    async def _make(self, page: Callable[[Site], str | None]) -> Response:
        """A page, made in a thread of its own."""
        nonce = secrets.token_urlsafe(16)
        text = await _apart(lambda: page(replace(self.site, nonce=nonce)))
        if isinstance(text, Response):
            return text
        policy = {"content-security-policy": OURS.format(nonce=nonce)}
        return Response.html(text, headers=policy) if text else _missing()


async def _apart(work: Callable[[], str | None]) -> str | Response | None:
    try:
        return await asyncio.to_thread(work)
    except sqlite3.Error as error:
        text = f"The index cannot be read ({error}). A running campaign makes it again; else start the server anew.\n"
        return Response.text(text, status=503)


def _missing() -> Response:
    return Response.text("There is nothing of that name.\n", status=404)


# -- the process ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen: a socket's path, or an address and a port, 0 for any that is free."""

    host: str = "127.0.0.1"
    port: int = 0
    path: Path | None = None

    def listen(self) -> socket.socket:
        """The socket; raises OSError. One in the file system is for its owner alone."""
        if self.path is None:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            made = socket.socket(family, socket.SOCK_STREAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            where: Any = (self.host, self.port)
        else:
            _forget(self.path)
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            where = str(self.path)
        mask = os.umask(0o177)
        try:
            made.bind(where)
        except OSError as error:
            made.close()
            raise OSError(error.errno, error.strerror, str(self.path or f"{self.host}:{self.port}")) from None
        finally:
            os.umask(mask)
        made.listen(64)
        return made


def _forget(path: Path) -> None:
    """Remove a socket that nobody listens on; any other file stays, and binding complains."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


def application(folders: list[Path], reports: Path, token: str | None, *, names: bool = True) -> App:
    """What answers requests. Plugins of Datasette are those of a process: one application in each."""
    plugin = Plugin(folders, reports)
    # It prints a traceback with all locals for every 404, where rich is installed, and fails where there is none.
    pm.unregister(name="datasette.handle_exception")
    pm.register(plugin, name="vmemmap-fuzz")
    read_only = {"allow_facet": True, "allow_download": False, "num_sql_threads": 2}
    datasette = Datasette([], settings=read_only, memory=False)
    with contextlib.suppress(KeyError):
        datasette.remove_database("_memory")
    for shown in plugin.campaigns:
        fixed = not os.access(shown.folder, os.W_OK)
        database = Database(datasette, path=str(shown.folder / NAME), is_mutable=not fixed)
        datasette.add_database(database, name=shown.name)
    return Guard(datasette.app(), token, names=names)


def serve(app: App, listening: socket.socket, path: Path | None = None) -> None:
    """Answer until SIGINT or SIGTERM; the socket's file goes with the server."""
    quiet: dict[str, Any] = {
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }
    config = uvicorn.Config(app, lifespan="on", timeout_graceful_shutdown=2, **quiet)
    with contextlib.suppress(KeyboardInterrupt), _signals():
        uvicorn.Server(config).run(sockets=[listening])
    if path is not None:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM ends a server as Ctrl-C does. uvicorn stops at either, and then sends the signal on."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
