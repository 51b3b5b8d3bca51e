"""A finding with everything that is told about it; page, mail and exports are made from this and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from fuzz.execute import Profile
from fuzz.oracle.finding import Finding
from fuzz.oracle.ledger import Clause, ledger
from fuzz.program.model import Program
from fuzz.report.authors import Authors, find_authors
from fuzz.report.edits import Edits, try_edits
from fuzz.report.entered import Entered, entered
from fuzz.trace import Block, SideStep, Trace, differences, trace

_PAGE: Final = re.compile(r"vmemmap page (0x[0-9a-f]+)")
_PFN: Final = re.compile(r"pfn (0x[0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class Considered:
    """A ledger clause that could have explained the difference, and did not."""

    clause: Clause
    steps: tuple[int, ...]
    """Operations where it explained something for the first time."""


@dataclass(frozen=True, slots=True)
class Case:
    """A program, its trace, and what was tried with it."""

    program: Program
    trace: Trace
    edits: Edits
    functions: tuple[Entered, ...]
    considered: tuple[Considered, ...]
    ranges: tuple[tuple[int, int], ...]
    """Ranges of vmemmap pages that are concerned."""
    authors: Authors
    """Which kernel functions brought the difference about."""
    planted: str | None
    """Names of defects that were planted for it."""

    @property
    def guilty(self) -> int:
        """Number of the operation after which the difference was seen; 0 if there is none."""
        return len(self.trace.steps) if self.trace.finding else 0


def examine(program: Program, profile: Profile = "posted", planted: str | None = None) -> Case:
    """Run a program and everything that is to be known about it; what `planted` names must be planted already."""
    told = trace(program, profile)
    finding = told.finding
    edits = try_edits(program, finding.signature, profile) if finding else Edits((), True)
    functions = tuple(entered(program, profile)) if finding else ()
    page, pfn = (place(finding, told), place_pfn(finding)) if finding else (None, None)
    authors = find_authors(program, profile, told, page, pfn)
    return Case(program, told, edits, functions, _considered(told), concerned(told), authors, planted)


def _considered(told: Trace) -> tuple[Considered, ...]:
    """The clauses that were used, and those of the layer that differs."""
    out = []
    for clause in ledger().values():
        steps = tuple(step.number for step in told.steps if clause.id in step.clauses)
        holds = told.profile in clause.profiles and clause.reference in ("", told.reference)
        of_layer = told.finding is not None and clause.layer == told.finding.layer and holds
        if steps or of_layer:
            out.append(Considered(clause, steps))
    return tuple(out)


def place(finding: Finding, told: Trace) -> int | None:
    """The vmemmap page that a finding's sentence names, itself or by what it describes."""
    page = _PAGE.search(finding.detail)
    if page:
        return int(page[1], 16)
    pfn = _PFN.search(finding.detail)
    return told.vpn(int(pfn[1], 16)) if pfn else None


def place_pfn(finding: Finding) -> int | None:
    """The struct page that a finding's sentence names."""
    pfn = _PFN.search(finding.detail)
    return int(pfn[1], 16) if pfn else None


MOST_RANGES: Final = 6


def concerned(told: Trace) -> tuple[tuple[int, int], ...]:
    """Ranges of vmemmap pages worth drawing: what operations after the boot changed, else where the sides differ."""
    changed = [
        (change.first, change.end)
        for step in told.steps
        if step.text != "boot"
        for side in (step.reference, step.candidate)
        for change in side.mapping
    ]
    if told.steps and told.finding is not None:
        last = told.steps[-1]
        at = place(told.finding, told)
        if at is not None and not any(lo <= at < hi for lo, hi in changed):
            changed += [block[:2] for block in (block_at(last.reference, at), block_at(last.candidate, at)) if block]
        if not changed:
            changed = [(lo, hi) for lo, hi, _, _ in differences(last.reference.blocks, last.candidate.blocks)]
    out: list[tuple[int, int]] = []
    for lo, hi in sorted(changed):
        if out and lo <= out[-1][1]:
            out[-1] = out[-1][0], max(hi, out[-1][1])
        else:
            out.append((lo, hi))
    if len(out) > MOST_RANGES:
        at = place(told.finding, told) if told.finding else None
        out.sort(key=lambda part: (at is None or not part[0] <= at < part[1], part[0] - part[1]))
        out = sorted(out[:MOST_RANGES])
    return tuple(out)


def block_at(side: SideStep, page: int) -> Block | None:
    """The block that a vmemmap page lies in."""
    return next((block for block in side.blocks if block.first <= page < block.end), None)
