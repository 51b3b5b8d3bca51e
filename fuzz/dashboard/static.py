"""The pages of a campaign as files: one folder that a CI job keeps, read with nothing but a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from fuzz.campaign.helper import Helper
from fuzz.campaign.settings import CampaignError, Settings
from fuzz.dashboard import claims, data
from fuzz.dashboard.data import Filter, Row, connect
from fuzz.dashboard.pages import Shown, Site, named
from fuzz.findings import FINDING, PAGE, REPRO, put_text, slug

PROGRAMS: Final = 500
"""Programs on the corpus page, the shortest; the corpus itself has all."""


class FileLinks:
    """A folder a campaign, all pages two steps below the front page at most."""

    live = False

    def __init__(self, both: bool) -> None:
        self.both = both

    def page(self, campaign: str, name: str) -> str:
        return f"../{campaign}/{'index' if name == 'overview' else name}.html"

    def finding(self, campaign: str, record: str) -> str:
        return f"../{campaign}/finding-{record[:16]}.html"

    def file(self, campaign: str, record: str, name: str) -> str:
        return f"../{campaign}/{record[:16]}-{name}"

    def program(self, campaign: str, digest: str) -> str:
        return ""

    def compare(self) -> str:
        return "../compare/index.html" if self.both else ""

    def tables(self, campaign: str) -> str:
        return ""


def write_site(
    folders: list[Path], out: Path, reports: Path, say: Callable[[str], None] = lambda text: None
) -> list[claims.Claims]:
    """Write the pages of one campaign or two below `out`; what their programs say about the promises."""
    campaigns = named(folders)
    links = FileLinks(len(campaigns) > 1)
    site = Site(campaigns, links)
    known = []
    for shown in campaigns:
        say(f"{shown.name}: running programs against the promises")
        known.append(claims.examine(shown.folder))
        _write_campaign(site, shown, known[-1], out, reports, say)
    if len(campaigns) > 1:
        _put(out / "compare" / "index.html", site.compare())
    first = campaigns[0].name
    _put(out / "index.html", f'<!doctype html><meta http-equiv="refresh" content="0; url={first}/index.html">\n')
    return known


def _write_campaign(
    site: Site, shown: Shown, known: claims.Claims, out: Path, reports: Path, say: Callable[[str], None]
) -> None:
    folder = out / shown.name
    _put(folder / "index.html", site.overview(shown, known))
    _put(folder / "findings.html", site.findings(shown))
    _put(folder / "coverage.html", site.coverage(shown))
    _put(folder / "corpus.html", site.corpus(shown, Filter(), PROGRAMS))
    with connect(shown.folder) as db:
        rows = [data.finding(db, row["record"]) for row in data.findings(db)]
    for i, row in enumerate(filter(None, rows), 1):
        say(f"{shown.name}: finding {i} of {len(rows)}")
        page = site.finding(shown, row["record"])
        assert page is not None
        _put(folder / f"finding-{row['record'][:16]}.html", page)
        for name, text in files_of(shown.folder, row, reports).items():
            _put(folder / f"{row['record'][:16]}-{name}", text)


def files_of(campaign: Path, row: Row, reports: Path) -> dict[str, str]:
    """The files of a finding: those in its folder below the reports if it is there, else the record's and a page made
    anew; "" for what cannot be had."""
    return {name: file_of(campaign, row, reports, name) for name in (PAGE, REPRO, FINDING)}


def file_of(campaign: Path, row: Row, reports: Path, name: str) -> str:
    """One file of a finding."""
    folder = reports / slug(row["signature"])
    # Reports of several campaigns may share a folder, and the smaller program of another one may be there.
    if (folder / name).is_file() and (folder / REPRO).read_text() == row["text"]:
        return (folder / name).read_text()
    if name == REPRO:
        return str(row["text"])
    if name == FINDING:
        record = campaign / "findings" / f"{row['record']}.json"
        return record.read_text() if record.is_file() else ""
    if row["kind"] != "difference":
        return ""  # it would end or hang the helper too
    try:
        settings = Settings.load(campaign)
    except CampaignError:
        settings = Settings()
    both = {"profile": row["profile"], "reference": row["reference"] or settings.reference}
    ended = Helper({"do": "page", "program": row["text"], **settings.planted(), **both}).wait()
    return str(ended.answer["page"]) if ended.answer is not None else ""


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if text:
        put_text(path, text)
