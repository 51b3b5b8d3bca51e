"""The pages of a campaign; where they link to is the only difference between a server and files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from jinja2 import ChoiceLoader, Environment, PackageLoader

from fuzz.dashboard import data
from fuzz.dashboard.claims import BOOTED, Claims
from fuzz.dashboard.data import Filter, connect
from fuzz.dashboard.plots import curves
from fuzz.findings import FINDING, PAGE, REPRO
from fuzz.report.page import environment as report_environment


class Links(Protocol):
    """Addresses, relative to the page that they stand on."""

    live: bool
    """Whether somebody answers: pages then refresh themselves, and the corpus can be filtered."""

    def page(self, campaign: str, name: str) -> str:
        """`overview`, `findings`, `coverage` or `corpus` of a campaign."""

    def finding(self, campaign: str, record: str) -> str:
        """The page of a finding."""

    def file(self, campaign: str, record: str, name: str) -> str:
        """A file of a finding's folder: `report.html`, `repro.vmm`, `finding.json`."""

    def program(self, campaign: str, digest: str) -> str:
        """The page of a program of the corpus; empty where it has none."""

    def compare(self) -> str:
        """The comparison of the two campaigns that are shown; empty if there is one only."""

    def tables(self, campaign: str) -> str:
        """Datasette's view of the index; empty without a server."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A campaign under the name that it is shown by."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Site:
    """One campaign or two, and how their pages are linked."""

    campaigns: tuple[Shown, ...]
    links: Links
    nonce: str = ""
    """Of the scripts of this page, for its Content-Security-Policy; empty in files."""

    def _render(self, template: str, shown: Shown, name: str, **values: Any) -> str:
        common = {"site": self, "links": self.links, "shown": shown, "here": name, "kinds": ()}
        return environment().get_template(template).render(**common, **values)

    def overview(self, shown: Shown, claims: Claims | None) -> str:
        """Rates, novelty, engines, promises, findings, what happened last."""
        with connect(shown.folder) as db:
            values: dict[str, Any] = {
                "last": data.last_numbers(db),
                "engines": data.engines(db),
                "findings": data.findings(db),
                "events": data.events(db),
                "runs": data.runs(db),
                "sides": data.sides(db),
                "planted": data.planted(shown.folder),
                "coverage": data.coverage(db),
                "clauses": data.clauses(db),
                "plot": curves([(shown.name, data.curve(db))], "overview"),
            }
        running = data.running(shown.folder)
        return self._render("overview.html", shown, "overview", claims=claims, booted=BOOTED, running=running, **values)

    def findings(self, shown: Shown) -> str:
        """All findings."""
        with connect(shown.folder) as db:
            return self._render("findings.html", shown, "findings", findings=data.findings(db))

    def finding(self, shown: Shown, record: str) -> str | None:
        """One finding; None if there is no such record."""
        with connect(shown.folder) as db:
            row = data.finding(db, record)
        files = REPRO, FINDING
        if row is None:
            return None
        return self._render("finding_of.html", shown, "findings", finding=row, page=PAGE, files=files)

    def coverage(self, shown: Shown) -> str:
        """Operation x outcome x architecture."""
        with connect(shown.folder) as db:
            return self._render(
                "coverage.html", shown, "coverage", coverage=data.coverage(db), clauses=data.clauses(db)
            )

    def corpus(self, shown: Shown, wanted: Filter, most: int = data.PAGE) -> str:
        """Programs of the corpus."""
        with connect(shown.folder) as db:
            programs = data.corpus(db, wanted, most)
        return self._render("corpus.html", shown, "corpus", programs=programs, wanted=wanted, most=most)

    def program(self, shown: Shown, digest: str) -> str | None:
        """One program of the corpus; None if there is none of this name."""
        with connect(shown.folder) as db:
            row = data.program(db, digest)
        return None if row is None else self._render("program.html", shown, "corpus", program=row)

    def compare(self) -> str:
        """Two campaigns side by side."""
        first, second = self.campaigns
        with connect(first.folder) as one, connect(second.folder) as other:
            found = data.compare(one, other)
            plot = curves([(first.name, data.curve(one)), (second.name, data.curve(other))], "compare")
        return self._render("compare.html", first, "compare", second=second, found=found, plot=plot)


def named(folders: list[Path]) -> tuple[Shown, ...]:
    """Campaigns by the names of their folders; of two that are called alike, the second gets a number."""
    out: list[Shown] = []
    for folder in folders:
        name = folder.resolve().name or "campaign"
        known = {shown.name for shown in out}
        out.append(Shown(name if name not in known else f"{name}-{len(out) + 1}", folder))
    return tuple(out)


@cache
def environment() -> Environment:
    """The reports' templates and those of the pages."""
    return report_environment().overlay(
        loader=ChoiceLoader([PackageLoader("fuzz.dashboard"), PackageLoader("fuzz.report")])
    )
