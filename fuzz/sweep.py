"""Failing each allocation point of a program in turn: `sweep`.

The points that each operation reaches are first traced on each side alone; then, for each operation and each number,
the program runs with a `fail alloc` in front of that operation. Points that stand in a row and only differ by position
(the four thousand frames of a 1G page) are tried at the ends of the row and at a few places between, unless all are
asked for; how many were left out is part of the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from candidate.framework import UnifiedFramework
from fuzz.execute import Profile, run_program
from fuzz.program.model import Op, Program, make_op
from fuzz.program.operations import AFTER_BOOT, OPERATIONS
from fuzz.side import MakePaths, Side
from reference.paths import SeparatePaths

FAULT: Final = "fail alloc"
OF_A_ROW: Final = 8
"""Points of a row that are tried if not all are."""

Trace = list[tuple[str, int]]


@dataclass(slots=True)
class Swept:
    """One operation of the program, and what failing its points gave."""

    index: int
    """Of the operation in the program."""
    op: Op
    reference: Counter[str]
    """Points that each side reaches, by kind."""
    candidate: Counter[str]
    tried: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    clauses: set[str] = field(default_factory=set)
    findings: dict[str, int] = field(default_factory=dict)
    """Signature -> the first number that shows it."""

    @property
    def points(self) -> int:
        """Numbers that hit a point on one side at least."""
        return max(self.reference.total(), self.candidate.total())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "operation": self.index,
            "name": self.op.name,
            "points": {"reference": dict(self.reference), "candidate": dict(self.candidate)},
            "reached": self.points,
            "tried": self.tried,
            "verdicts": dict(self.verdicts),
            "clauses": sorted(self.clauses),
            "findings": self.findings,
        }


def with_fault(program: Program, index: int, nth: int) -> Program:
    """The program with the nth allocation point of its operation `index` failing."""
    ops = (*program.ops[:index], make_op(FAULT, nth=nth), *program.ops[index:])
    return Program(program.machine, ops).bare()


def sweep(program: Program, profile: Profile = "posted", *, everything: bool = False) -> Iterator[Swept]:
    """Each operation behind the boot that reaches an allocation point, in order, when its points have been tried.

    An operation that has a `fail alloc` in front of it already is left as it is.
    """
    traces = [
        trace(program, SeparatePaths),
        trace(program, lambda k: UnifiedFramework(k, profile)),
    ]
    for index, op in enumerate(program.ops):
        if OPERATIONS[op.name].when != AFTER_BOOT or program.ops[index - 1].name == FAULT:
            continue
        mine, theirs = (one[index] if index < len(one) else [] for one in traces)
        swept = Swept(index, op, _kinds(mine), _kinds(theirs))
        if not swept.points:
            continue
        numbers = range(1, swept.points + 1) if everything else sorted({*_ends(mine), *_ends(theirs)})
        for nth in numbers:
            out = run_program(with_fault(program, index, nth), profile=profile)
            swept.tried += 1
            swept.verdicts[out.verdict] += 1
            swept.clauses |= out.clauses
            if out.finding is not None:
                swept.findings.setdefault(out.finding.signature, nth)
        yield swept


def trace(program: Program, make_paths: MakePaths) -> list[Trace]:
    """The allocation points that each operation reaches on one side, as rows of (kind, how many); ends where the side
    dies."""
    side = Side(program.machine, make_paths)
    out: list[Trace] = []
    for op in program.ops:
        side.kernel.faults.points = []
        rc = side.run(op)
        out.append(list(side.kernel.faults.points or []))
        if isinstance(rc, str):
            break
    return out


def _kinds(points: Trace) -> Counter[str]:
    out: Counter[str] = Counter()
    for kind, count in points:
        if count:
            out[kind] += count
    return out


def _ends(points: Iterable[tuple[str, int]]) -> Iterator[int]:
    """Numbers of the first and the last point of each row of one kind, and of some between."""
    rows: list[tuple[str, int]] = []
    for kind, count in points:
        if rows and rows[-1][0] == kind:
            rows[-1] = kind, rows[-1][1] + count
        else:
            rows.append((kind, count))
    done = 0
    for _, count in rows:
        few = min(count, OF_A_ROW)
        yield from (done + 1 + (count - 1) * i // max(1, few - 1) for i in range(few))
        done += count
