"""The pages as files: complete, self-contained, and what they say."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from fuzz.campaign.settings import Settings
from fuzz.dashboard import data
from fuzz.dashboard.pages import Shown, Site
from fuzz.dashboard.ready import make_ready
from fuzz.dashboard.static import FileLinks, write_site
from fuzz.findings import FINDING, PAGE, REPRO
from fuzz.program.text import format as format_program
from tests.fuzz.browser import Visit
from tests.fuzz.dashboard.places import Made


@pytest.fixture(scope="module")
def site(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    write_site([made.folder, made.folder], out, made.reports)
    return out


def test_every_link_leads_somewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    links = [(page, link) for page in pages for link in re.findall(r'(?<!xlink:)href="([^"]+)"', page.read_text())]
    assert len(links) > 20
    for page, link in links:
        assert link.startswith("data:") or (page.parent / link).is_file(), (page, link)


def test_the_first_page_says_what_was_planted(site: Path, made: Made, tmp_path: Path) -> None:
    """Whoever looks at a campaign's findings must know whether they are Linux's."""
    assert "was planted" not in (site / "night" / "index.html").read_text()
    other = tmp_path / "other"
    shutil.copytree(made.folder, other)
    settings = Settings.load(other)
    replace(settings, defect="ACC-2026-03").save(other)
    pages = Site((Shown("other", other),), FileLinks(False))
    assert "The defect <code>ACC-2026-03</code> was planted for this campaign" in pages.overview(
        pages.campaigns[0], None
    )


def test_pages_say_what_the_index_says(site: Path, made: Made) -> None:
    front = (site / "night" / "index.html").read_text()
    assert escape(made.signature) in front
    assert "struct pages fewer at boot" in front
    assert front.count("<svg") == 1
    assert "<script" not in front
    coverage = (site / "night" / "coverage.html").read_text()
    assert "dax create" in coverage
    assert "EMPTY" in coverage
    assert (site / "night" / f"{made.record[:16]}-{REPRO}").read_text() == format_program(made.program)
    assert made.signature in (site / "night" / f"{made.record[:16]}-{FINDING}").read_text()
    assert (site / "night" / f"{made.record[:16]}-{PAGE}").read_text() == "<!doctype html>the page"
    assert "night-2" in (site / "compare" / "index.html").read_text()


def test_plots_have_the_colours_of_the_page(site: Path) -> None:
    """No colour is fixed, so dark and light work; text stays text."""
    svg = (site / "night" / "index.html").read_text().partition("<svg")[2].partition("</svg>")[0]
    assert "var(--fg)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}
    assert "features seen" in svg


def test_a_browser_opens_the_files(site: Path, visit: Callable[[str], Visit]) -> None:
    seen = visit((site / "night" / "index.html").as_uri())
    assert "Campaign night" in seen.dom
    assert seen.console == []
    assert seen.requests == []


def test_a_lost_index_is_made_again(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "night"
    shutil.copytree(made.folder, folder)
    database = folder / "campaign.db"
    database.write_bytes(database.read_bytes()[:5000])
    said: list[str] = []
    make_ready(folder, said.append)
    assert len(said) == 1
    assert "campaign.db is broken" in said[0]
    assert "campaign.db.broken" in said[0]
    with data.connect(folder) as db, data.connect(made.folder) as before:
        assert data.engines(db)[0]["programs"] == 40
        assert [row["record"] for row in data.findings(db)] == [made.record]
        assert data.corpus(db, data.Filter()).total == data.corpus(before, data.Filter()).total
    make_ready(folder, said.append)
    assert len(said) == 1
