"""Running programs on both models in lock step.

One `Op` is done once on each side (`fuzz.side`), and then the oracle looks at both kernels. `Lockstep` steps operation
by operation, so that a generator can look at the live state in between; `run_program` runs a whole program. A kernel
that dies ends the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, final

from candidate.framework import UnifiedFramework
from fuzz.oracle import listed
from fuzz.oracle.compare import Oracle
from fuzz.oracle.effects.effect import LAWS
from fuzz.oracle.finding import Finding, Outcome
from fuzz.program.model import Op, Program
from fuzz.side import MakePaths, Side
from mm.machine import Machine
from mm.tlb import record
from reference.paths import SeparatePaths

Profile = Literal["posted", "merged"]

FULL_EVERY = 128
"""Operations between two full comparisons."""


class Recorder(Protocol):
    """Is told what is about to be run."""

    def begin(self, machine: Machine) -> None:
        """A program, on this machine."""

    def step(self, op: Op) -> None:
        """Its next operation."""


TRAIL: Recorder | None = None
"""Set by `fuzz.trail` in a process whose death must not hide what it was doing."""


@final
class StepResult:
    """What one operation did. Made after each, and so no dataclass (as `Op`)."""

    __slots__ = ("finding", "rcs", "terminal")

    def __init__(self, rcs: tuple[Outcome, Outcome], finding: Finding | None, terminal: str | None) -> None:
        self.rcs: Final = rcs
        """Reference's, candidate's."""
        self.finding: Final = finding
        self.terminal: Final = terminal
        """Ledger clause that explains why the two sides part for good here; the program ends."""


@dataclass(slots=True)
class RunOutcome:
    """What a program did. `verdict` is "explained" when a terminal ledger clause ended it early."""

    verdict: Literal["ok", "finding", "explained"]
    finding: Finding | None
    ops_executed: int
    clauses: set[str] = field(default_factory=set)
    """Ledger clauses that explained a difference."""
    rcs: list[tuple[Outcome, Outcome]] = field(default_factory=list)


class Lockstep:
    """Both sides, stepped together and compared after every step.

    After a finding, a terminal clause or the death of both kernels, `over` is true and no step may follow. `deep`: look
    at what the CPUs may still hold too, at whether each operation did what it says, and at everything now and then
    before the end, which costs some.
    """

    __slots__ = ("candidate", "deep", "full_every", "oracle", "over", "reference", "steps")

    def __init__(
        self,
        machine: Machine,
        profile: Profile = "posted",
        *,
        full_every: int = FULL_EVERY,
        make_reference: MakePaths = SeparatePaths,
        make_candidate: MakePaths | None = None,
        deep: bool = True,
    ) -> None:
        self.reference = Side(machine, make_reference)
        self.candidate = Side(machine, make_candidate or (lambda k: UnifiedFramework(k, profile)))
        self.deep = deep
        if deep:
            record(self.reference.kernel)
            record(self.candidate.kernel)
        self.oracle = Oracle(self.reference.kernel, self.candidate.kernel, profile, self.deep)
        self.full_every = full_every
        """Operations between two full comparisons if `deep`, 0 for none but the last."""
        self.steps = 0
        self.over = False
        if TRAIL is not None:
            TRAIL.begin(machine)

    def step(self, op: Op) -> StepResult:
        """Run one operation on both sides and compare."""
        if TRAIL is not None:
            TRAIL.step(op)
        oracle = self.oracle
        oracle.before(op.name, op.args)
        law = LAWS.get(op.name) if self.deep else None
        if law is not None:
            seen, seen2 = law.before(self.reference, op.args), law.before(self.candidate, op.args)
        audited = self.deep and listed.turn(self.steps)
        if audited:
            books = listed.look(self.reference.kernel), listed.look(self.candidate.kernel)
        rc = self.reference.run(op)
        rc2 = self.candidate.run(op)
        self.steps += 1
        unlisted = None
        if audited and not isinstance(rc, str) and not isinstance(rc2, str):
            unlisted = listed.missing(self.reference.kernel, "reference", books[0])
            unlisted = unlisted or listed.missing(self.candidate.kernel, "candidate", books[1])
        full = self.deep and self.full_every > 0 and self.steps % self.full_every == 0
        finding = oracle.after(rc, rc2, full)
        if law is not None and finding is None:
            name, args, result = op.name, op.args, op.result
            found = law.missing(self.reference, "reference", name, args, rc, result, seen)
            found = found or law.missing(self.candidate, "candidate", name, args, rc2, result, seen2)
            finding = None if found is None else oracle.effect(found, (rc, rc2))
        if unlisted is not None and finding is None:
            finding = oracle.effect(unlisted, (rc, rc2))
        if finding is not None or oracle.terminal is not None or oracle.dead:
            self.over = True
        return StepResult((rc, rc2), finding, oracle.terminal)

    def finish(self, deep: bool = True) -> Finding | None:
        """The full comparison at the end of a program; if not `deep`, without mapping and struct pages."""
        if self.over:
            return None
        self.over = True
        return self.oracle.full(deep=deep)

    def close(self) -> None:
        """Take the kernels apart, once nobody looks at them any more.

        A kernel and its side refer to each other, so that the collector would have to find them; without the cycle
        they go at once.
        """
        for side in (self.reference, self.candidate):
            del side.kernel.paths


Observer = Callable[[Lockstep, Op, StepResult], None]


def run_program(
    program: Program,
    *,
    profile: Profile = "posted",
    full_every: int = FULL_EVERY,
    observer: Observer | None = None,
    make_reference: MakePaths = SeparatePaths,
    make_candidate: MakePaths | None = None,
) -> RunOutcome:
    """Run a program from power-on to its end, or to the first finding or terminal clause."""
    pair = Lockstep(
        program.machine, profile, full_every=full_every, make_reference=make_reference, make_candidate=make_candidate
    )
    return run_ops(pair, program.ops, observer)


def run_ops(pair: Lockstep, ops: Iterable[Op], observer: Observer | None = None) -> RunOutcome:
    """Run operations on a fresh or already stepped pair, and the final full comparison."""
    out = RunOutcome("ok", None, 0)
    for op in ops:
        result = pair.step(op)
        out.rcs.append(result.rcs)
        if observer is not None:
            observer(pair, op, result)
        out.finding = result.finding
        if pair.over:
            if result.terminal is not None and result.finding is None:
                out.verdict = "explained"
            break
    else:
        out.finding = pair.finish()
    out.ops_executed = len(out.rcs)
    out.clauses = pair.oracle.clauses
    if out.finding is not None:
        out.verdict = "finding"
    return out
