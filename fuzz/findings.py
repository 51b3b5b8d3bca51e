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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fuzz.engines.protocol import Discovery
from fuzz.execute import Profile
from fuzz.oracle.finding import Finding
from fuzz.program.model import Program
from fuzz.program.text import format as format_program
from fuzz.program.text import parse_file

REPRO: Final = "repro.vmm"
FINDING: Final = "finding.json"
_SLUG: Final = 64


@dataclass(frozen=True, slots=True)
class Report:
    """A finding that was verified and written."""

    finding: Finding
    program: Program
    """Minimized."""
    original: int
    """Operations of the program as it was found."""
    folder: Path
    engine: str
    confirmed: bool
    """Whether a fresh process saw the same difference; one that did not depends on what ran before it."""


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


def write(report: Report, profile: Profile, plant: str | None = None) -> None:
    """Put a report's files into its folder, unless a smaller program is there."""
    folder = report.folder
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
    """Turns discoveries into reports, one for each signature."""

    def __init__(self, folder: Path, profile: Profile, plant: str | None = None) -> None:
        self.folder = folder
        self.profile = profile
        self.plant = plant
        """Name of the defect that is planted in this process, for the fresh one."""
        self.reports: dict[str, Report] = {}
        self.seen: set[str] = set()

    def report(self, discovery: Discovery) -> Report | None:
        """Verify, minimize and write; None when this signature is known."""
        from fuzz.minimize import minimize
        from fuzz.verify import signature_in_fresh_process

        signature = discovery.finding.signature
        if signature in self.seen:
            return None
        self.seen.add(signature)
        small = minimize(discovery.program, discovery.finding, profile=self.profile).program
        confirmed = signature_in_fresh_process(small, self.profile, self.plant) == signature
        if not confirmed:
            # Keep what was really seen: the minimizer may have been led astray by what ran before.
            small = discovery.program
        found = Report(
            discovery.finding,
            small,
            len(discovery.program.ops),
            self.folder / slug(signature),
            discovery.engine,
            confirmed,
        )
        write(found, self.profile, self.plant)
        self.reports[signature] = found
        return found
