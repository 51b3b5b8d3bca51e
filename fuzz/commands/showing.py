"""Commands that show a campaign: `vmemmap-fuzz serve`, and `report` for the same pages as files."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from fuzz.commands.common import REPORTS, JsonOption, app, fail, guarded, print_json

TOKEN: Final = "VMEMMAP_FUZZ_TOKEN"

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A campaign's folder.", show_default=False)]
OtherArgument = Annotated[
    Path | None, typer.Argument(metavar="DIR2", help="Another one, to compare it with.", show_default=False)
]
FoundOption = Annotated[Path, typer.Option(help="Where the campaign put its findings' folders.")]


def _ready(folder: Path, other: Path | None) -> list[Path]:
    """The campaigns, each with an index that can be read."""
    from fuzz.campaign.settings import CampaignError
    from fuzz.dashboard.ready import make_ready

    folders = [folder] if other is None else [folder, other]
    for one in folders:
        try:
            make_ready(one, _say)
        except CampaignError as error:
            raise fail(str(error)) from None
    return folders


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@app.command("serve")
@guarded
def serve_command(
    folder: FolderArgument,
    other: OtherArgument = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. One that is not loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes one that is free.")] = 8001,
    unix_socket: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Listen on a socket there instead, for its owner alone.", show_default=False),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=f"Ask visitors for the token in this file, or in ${TOKEN}.", show_default=False
        ),
    ] = None,
    reports: FoundOption = REPORTS,
) -> None:
    """Show a campaign in a browser, while it runs or later: pages of its own, and the index in Datasette.

    Nothing is written, and no page asks another machine for anything. Where the host is not loopback, a token is asked
    for, once; if none is given, one is made and printed. Ctrl-C ends it. Needs Datasette (pip install
    'vmemmap-fuzz[report]').
    """
    from fuzz.dashboard.access import loopback

    try:
        from fuzz.dashboard.server import Place, application, serve
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in ("datasette", "uvicorn"):
            raise
        raise fail(f"{name} is not installed: pip install 'vmemmap-fuzz[report]'") from None
    token = _token(token_file)
    if token is None and unix_socket is None and not loopback(host):
        token = secrets.token_urlsafe(32)
    folders = _ready(folder, other)
    place = Place("127.0.0.1" if host == "localhost" else host, port, unix_socket)
    with place.listen() as listening:
        if unix_socket is not None:
            print(f"listening on {unix_socket}", flush=True)
        else:
            name = f"[{host}]" if ":" in host else host
            query = "" if token is None else f"?token={token}"
            print(f"http://{name}:{listening.getsockname()[1]}/{query}", flush=True)
        serve(application(folders, reports, token, names=unix_socket is None), listening, unix_socket)


def _token(file: Path | None) -> str | None:
    """The token that was given, if one was."""
    where = str(file) if file is not None else f"${TOKEN}"
    token = file.read_text().strip() if file is not None else os.environ.get(TOKEN)
    if token is None:
        return None
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise fail(f"{where}: a token is at least 16 printable characters without blanks")
    return token


@app.command("report")
@guarded
def report_command(
    folder: FolderArgument,
    other: OtherArgument = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Write the pages into this folder; begin with index.html.")
    ] = Path("campaign-report"),
    reports: FoundOption = REPORTS,
    as_json: JsonOption = False,
) -> None:
    """Write a campaign, or two and how they differ, as pages that need nothing but a browser.

    The pages are those of `vmemmap-fuzz serve`: speed, novelty, findings, engines, promises, outcomes by architecture.
    With --json the numbers are printed and nothing is written. Curves need matplotlib (pip install
    'vmemmap-fuzz[report]').
    """
    folders = _ready(folder, other)
    if as_json:
        print_json(_numbers(folders))
        return
    from fuzz.dashboard.static import write_site

    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / "index.html").exists())):
        raise fail(f"{output} is there and is no report: give another folder with --output")
    write_site(folders, output, reports, _say)
    print(output / "index.html")


def _numbers(folders: list[Path]) -> object:
    """What `--json` prints: a list of campaigns, and the comparison of two."""
    from dataclasses import asdict

    from fuzz.dashboard import data
    from fuzz.dashboard.claims import examine

    out: dict[str, object] = {"campaigns": [{**data.numbers(f), "claims": asdict(examine(f))} for f in folders]}
    if len(folders) > 1:
        with data.connect(folders[0]) as first, data.connect(folders[1]) as second:
            out["comparison"] = asdict(data.compare(first, second))
    return out
