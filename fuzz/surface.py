"""How much of the surface was reached: operation x outcome x architecture.

`surface.toml` says which outcomes an operation can have on which architecture, and where that is written; a run of
programs says which it had. A cell that can be reached and was not is *empty*: a hole in the generator, or a promise of
the table that is not true.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from random import Random
from time import monotonic
from typing import Any, Final, NamedTuple

from fuzz.engines.collector import paused
from fuzz.execute import Profile, RunOutcome
from fuzz.findings import minimized
from fuzz.generate.operations import ALL, MAKERS, aimed
from fuzz.generate.program import run_generated
from fuzz.generate.weights import choose_machine
from fuzz.oracle.finding import Finding, Outcome
from fuzz.program.arguments import format_size
from fuzz.program.model import Program
from fuzz.program.operations import OPERATIONS
from fuzz.program.text import format as format_program
from mm.arch import ARCHES
from mm.errno import errno_name

LEADING: Final = {
    "EHWPOISON": ("memory hard_offline", "memory offline", "dax offline"),
    "ENOMEM": ("pages alloc",),
}
"""Other operations that lead to an outcome."""

Label = str
"""An architecture with its page size: x86_64/4K."""

LABELS: Final[dict[Label, tuple[str, int]]] = {f"{name}/{format_size(page)}": (name, page) for name, page in ARCHES}


class Cell(NamedTuple):
    """One outcome of one operation on one architecture."""

    operation: str
    outcome: str
    arch: Label


def answer(rc: Outcome) -> str:
    """An outcome as the table names it; "died" for a kernel that did."""
    if isinstance(rc, str):
        return "died"
    return errno_name(rc).removeprefix("-") if rc < 0 else "ok"


class Entry(NamedTuple):
    """What the table says about a cell."""

    source: str
    """Where it is written that the outcome is possible."""
    rare: str
    """Why a run of minutes need not reach it; empty if it must."""


def reachable() -> dict[Cell, str]:
    """The cells that a run must reach, and the source that says so."""
    return {cell: entry.source for cell, entry in known().items() if not entry.rare}


@cache
def known() -> dict[Cell, Entry]:
    """The cells that can be reached; a malformed table is a ValueError naming the place."""
    text = resources.files("fuzz").joinpath("surface.toml").read_text(encoding="utf-8")
    out: dict[Cell, Entry] = {}
    for operation, outcomes in tomllib.loads(text).items():
        if operation not in OPERATIONS:
            raise ValueError(f"surface.toml: no operation {operation!r}")
        for outcome, entry in outcomes.items():
            table = {"source": entry} if isinstance(entry, str) else entry
            on, off = _limits(operation, outcome, table)
            for label in LABELS:
                name = label.partition("/")[0]
                if (on is None or label in on or name in on) and label not in off and name not in off:
                    out[Cell(operation, outcome, label)] = Entry(table["source"], table.get("rare", ""))
    return out


def _limits(operation: str, outcome: str, entry: dict[str, Any]) -> tuple[list[str] | None, list[str]]:
    on, off = entry.get("on"), entry.get("not_on", [])
    names = {*LABELS, *(name for name, _ in LABELS.values())}
    unknown = {*(on or ()), *off} - names
    if unknown or not isinstance(entry.get("source"), str):
        raise ValueError(f"surface.toml, {operation}, {outcome}: {sorted(unknown) or 'the source is missing'}")
    if not entry.keys() <= {"source", "on", "not_on", "rare"}:
        raise ValueError(
            f"surface.toml, {operation}, {outcome}: source, on, not_on, rare expected, not {sorted(entry)}"
        )
    return on, off


class Unexplained(NamedTuple):
    """An unexplained difference, and a program that shows it."""

    arch: Label
    finding: Finding
    program: Program
    one_minimal: bool = False
    """Whether it is certain that nothing can be left out of the program."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "signature": self.finding.signature,
            "detail": self.finding.detail,
            "arch": self.arch,
            "program": format_program(self.program),
            "one_minimal": self.one_minimal,
        }


Found = tuple[Label, str]
"""An architecture and the signature of a finding."""


@dataclass(slots=True)
class Surface:
    """What programs reached."""

    programs: int = 0
    operations: int = 0
    cells: Counter[Cell] = field(default_factory=Counter)
    findings: dict[Found, Unexplained] = field(default_factory=dict)
    """The unexplained differences: one program for each signature on each architecture, the shortest."""

    def record(self, program: Program, outcome: RunOutcome) -> None:
        """Count one run, with the reference's answers."""
        label = f"{program.machine.arch}/{format_size(program.machine.page)}"
        self.programs += 1
        self.operations += outcome.ops_executed
        for op, (rc, _) in zip(program.ops, outcome.rcs, strict=False):
            self.cells[Cell(op.name, answer(rc), label)] += 1
        if outcome.finding is not None:
            key = label, outcome.finding.signature
            known = self.findings.get(key)
            if known is None or len(program.ops) < len(known.program.ops):
                self.findings[key] = Unexplained(label, outcome.finding, program)

    def minimize(self, profile: Profile, patience: float | None) -> Iterator[Unexplained]:
        """Make the programs of the findings small, `patience` seconds each; yields each when it is done.

        Findings that turn out to be the same on an architecture are put together. One that is not seen again when its
        program runs by itself stays as it was.
        """
        for key, found in list(self.findings.items()):
            small = minimized(found.program, profile, patience)
            if small is not None:
                del self.findings[key]
                found = Unexplained(found.arch, small.finding, small.program, small.one_minimal)
                self.findings[found.arch, small.finding.signature] = found
            yield found

    def empty_on(self, labels: Collection[Label]) -> list[Cell]:
        """Cells of some architectures that can be reached and were not, in the order of the table."""
        return [cell for cell in reachable() if cell.arch in labels and not self.cells[cell]]

    @property
    def unexpected(self) -> list[Cell]:
        """Cells that were reached although the table does not know them."""
        return sorted(cell for cell in self.cells if cell not in known())

    def rare_on(self, labels: Collection[Label]) -> list[Cell]:
        """Cells of some architectures that were not reached, and need not be."""
        return [cell for cell, entry in known().items() if entry.rare and cell.arch in labels and not self.cells[cell]]

    def to_json(self, labels: Collection[Label]) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "programs": self.programs,
            "operations": self.operations,
            "reachable": sum(cell.arch in labels for cell in reachable()),
            "empty_reachable": [cell._asdict() for cell in self.empty_on(labels)],
            "rare_not_reached": [cell._asdict() for cell in self.rare_on(labels)],
            "unexpected": [cell._asdict() for cell in self.unexpected],
            "findings": [found.to_json() for _, found in sorted(self.findings.items())],
            "cells": [{**cell._asdict(), "count": count} for cell, count in sorted(self.cells.items())],
        }


def explore(
    surface: Surface, seconds: float, seed: int, profile: Profile, labels: Iterable[Label] = LABELS
) -> Iterator[Surface]:
    """Random programs, the architectures in turn and equally long, until the time is up; yields after each program.

    Every other program aims at an empty cell, as long as there is one: at its operation and what leads there. An
    architecture that has none left is still fuzzed: the run is also a search for differences.
    """
    labels = list(labels)
    share = seconds / len(labels)
    random = Random()
    for at, label in enumerate(labels):
        end = monotonic() + share
        number = 0
        while monotonic() < end:
            random.seed(seed << 40 | at << 32 | number)
            number += 1
            draw = random.random
            machine = choose_machine(draw, LABELS[label])
            missing = surface.empty_on([label]) if number % 2 == 0 else []
            goals = [(c.operation, LEADING.get(c.outcome, ())) for c in missing if c.operation in MAKERS]
            table = aimed(draw, goals) if goals else ALL
            with paused():
                surface.record(*run_generated(draw, profile, table, machine))
            yield surface
