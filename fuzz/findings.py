"""Reports: a finding, minimized, in a folder of its own, `reports/<slug>/`.

A folder appears with whole files only: each is written beside its place and renamed. A finding that is already there is
replaced only by a smaller program.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from fuzz.execute import Profile, RunOutcome, run_program
from fuzz.minimize import Minimized, OutOfBudget, minimize
from fuzz.oracle.finding import Finding
from fuzz.program.model import Program
from fuzz.program.text import format as format_program
from fuzz.program.text import parse_file
from zoo import Version

REPRO: Final = "repro.vmm"
FINDING: Final = "finding.json"
PAGE: Final = "report.html"
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
    confirmed: bool | None = None
    """Whether a fresh process saw the same difference; one that did not depends on what ran before it. None: it has not
    been run again yet, as what is found last when a campaign is ended early."""
    one_minimal: bool = False
    """Whether it is certain that nothing more can be left out."""
    page: str = ""
    """Its page for a browser, where one could be made."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return slug(self.finding.signature)

    @property
    def seen(self) -> str:
        """What became of it in a fresh process, in words."""
        if self.confirmed is None:
            return "not minimized nor run again yet"
        return f"{'seen' if self.confirmed else 'NOT seen'} again in a fresh process"


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


def write(
    report: Report, reports: Path, profile: Profile, plant: str | None = None, reference: Version = "v7.3"
) -> None:
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
        "reference": reference,
        "engine": report.engine,
        "confirmed_in_fresh_process": report.confirmed,
        "planted_defect": plant,
        "operations_found": report.original,
        "operations_minimized": len(report.program.ops),
        "one_minimal": report.one_minimal,
        "program": format_program(report.program),
    }
    # The program last: where there is a repro, there is all of it.
    if report.page:
        put_text(folder / PAGE, report.page)
    else:
        (folder / PAGE).unlink(missing_ok=True)  # that of a longer program
    put_text(folder / FINDING, json.dumps(data, indent=2) + "\n")
    put_text(folder / REPRO, format_program(report.program))


def put_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def minimized(program: Program, profile: Profile, patience: float | None = None) -> Minimized | None:
    """The program as small as it gets in `patience` seconds, everything compared after every operation.

    None when it shows no difference in this process: what an engine saw then depends on what ran before. Its signature
    may be another than the engine's, who compares everything only now and then and may blame a later operation than the
    guilty one. Without a clock, equal programs give equal results.
    """
    end = float("inf") if patience is None else monotonic() + patience

    def run(candidate: Program) -> RunOutcome:
        if monotonic() > end:
            raise OutOfBudget
        return run_program(candidate, profile=profile, full_every=1)

    try:
        return minimize(program, profile=profile, run=run)
    except ValueError:
        return None
