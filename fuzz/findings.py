"""From a discovery to a report: verify in a fresh process, minimize, write `reports/<slug>/`.

A folder appears with whole files only: each is written beside its place and renamed. A finding that is already there is
replaced only by a smaller program.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

from fuzz.engines.protocol import Discovery
from fuzz.execute import Profile, RunOutcome, run_program
from fuzz.oracle.finding import Finding
from fuzz.program.model import Program
from fuzz.program.text import format as format_program
from fuzz.program.text import parse_file

REPRO: Final = "repro.vmm"
FINDING: Final = "finding.json"
_SLUG: Final = 64


@dataclass(frozen=True, slots=True)
class Report:
    """A finding on its way to its folder, or there."""

    finding: Finding
    program: Program
    """As small as it got."""
    original: int
    """Operations of the program as it was found."""
    engine: str
    confirmed: bool = False
    """Whether a fresh process saw the same difference; one that did not depends on what ran before it."""
    one_minimal: bool = False
    """Whether it is certain that nothing more can be left out."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return slug(self.finding.signature)


def slug(signature: str) -> str:
    """A folder name for a signature: readable, and different for different signatures."""
    words = re.sub(r"[^a-z0-9]+", "-", signature.lower()).strip("-")[:_SLUG].strip("-")
    return f"{words}-{hashlib.sha256(signature.encode()).hexdigest()[:8]}"


def check_writable(folder: Path) -> None:
    """Make the reports folder, and prove that files can be made in it; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".writable-{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink()


def write(report: Report, reports: Path, profile: Profile, plant: str | None = None) -> None:
    """Put a report's files into its folder, unless a smaller program is there."""
    folder = reports / report.name
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / REPRO).exists() and len(parse_file(folder / REPRO).ops) <= len(report.program.ops):
        return
    data: dict[str, Any] = {
        "version": 1,
        "signature": report.finding.signature,
        "finding": dataclasses.asdict(report.finding),
        "profile": profile,
        "engine": report.engine,
        "confirmed_in_fresh_process": report.confirmed,
        "planted_defect": plant,
        "operations_found": report.original,
        "operations_minimized": len(report.program.ops),
        "one_minimal": report.one_minimal,
        "program": format_program(report.program),
    }
    # The program last: where there is a repro, there is all of it.
    put_text(folder / FINDING, json.dumps(data, indent=2) + "\n")
    put_text(folder / REPRO, format_program(report.program))


def put_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


class Reporter:
    """Turns discoveries into reports, one for each signature.

    A discovery is known by the signature that the engine saw, which may blame a later operation than the guilty one: an
    engine compares everything only now and then. A report has the signature that the minimized program shows when
    everything is compared after every operation.
    """

    def __init__(self, folder: Path, profile: Profile, plant: str | None = None, patience: float | None = None) -> None:
        self.folder = folder
        self.profile = profile
        self.plant = plant
        """Name of the defect that is planted in this process, for the fresh one."""
        self.patience = patience
        """Seconds that minimizing one program may take; None for as long as it takes, which makes equal runs equal."""
        self.reports: dict[str, Report] = {}
        self.seen: set[str] = set()

    def report(self, discovery: Discovery) -> Report | None:
        """Minimize, verify and write; None when this signature is known.

        Ctrl-C stops the minimizing, not the report: what was found is written, and then the KeyboardInterrupt goes on.
        """
        if discovery.finding.signature in self.seen:
            return None
        self.seen.add(discovery.finding.signature)
        found = Report(discovery.finding, discovery.program, len(discovery.program.ops), discovery.engine)
        try:
            found = self._minimized(found)
        except KeyboardInterrupt:
            self._keep(found)
            raise
        return self._keep(found)

    def _minimized(self, found: Report) -> Report:
        from fuzz.minimize import OutOfBudget, minimize
        from fuzz.verify import signature_in_fresh_process

        end = float("inf") if self.patience is None else monotonic() + self.patience

        def run(program: Program) -> RunOutcome:
            if monotonic() > end:
                raise OutOfBudget
            return run_program(program, profile=self.profile, full_every=1)

        try:
            small = minimize(found.program, run=run)
        except ValueError:
            return found  # it does not show again even here: it depends on what ran before it
        confirmed = signature_in_fresh_process(small.program, self.profile, self.plant) == small.finding.signature
        return replace(
            found,
            finding=small.finding,
            program=small.program,
            confirmed=confirmed,
            one_minimal=small.one_minimal,
        )

    def _keep(self, found: Report) -> Report | None:
        """Write a report if it is new, or smaller than the one that is known; the report if it is new."""
        signature = found.finding.signature
        known = self.reports.get(signature)
        if known is not None and len(known.program.ops) <= len(found.program.ops):
            return None
        write(found, self.folder, self.profile, self.plant)
        self.reports[signature] = found
        return found if known is None else None
