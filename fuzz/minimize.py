"""Making the program behind a finding small, without letting it become another bug.

The target is the signature that the program has when everything is compared after every operation; a smaller program
counts only if its signature is the same, or says the same of one side (`kin`). Steps, repeated until none helps: cut
what follows the finding, keep only what the last operation's handles depend on, delta debugging over operations,
dropping pairs, a simpler machine, simpler arguments. Every edit goes through `fuzz.program.repair`, so that dropping
the operation that makes a handle drops those that use it; and where an operation cannot just be dropped, numbers behind
it that stand for something follow it (`fuzz.adapt`).

What is simpler is a well-founded order for each argument type (`simpler`), so that the search ends; a result is
1-minimal when a whole pass over all single operations and all proposals for single arguments finds nothing.
`Minimized.one_minimal` says whether that pass was completed within the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from fuzz.adapt import FAULT, adapted, fired, lacked, last_points
from fuzz.execute import Profile, RunOutcome, run_program
from fuzz.kin import hidden, kin
from fuzz.oracle.finding import Finding
from fuzz.program.arguments import LISTS, Argument, G, M, Type
from fuzz.program.model import Op, Program, make_op
from fuzz.program.operations import AFTER_BOOT, MACHINE, OPERATIONS
from fuzz.program.repair import repair
from fuzz.resynthesis import RUN_OUT, Resynthesis
from fuzz.shortcuts import shortcuts
from mm.machine import Machine

BUDGET = 4000
"""Executions that a minimization may cost."""

PAIRS_UP_TO = 24
"""Longest program, in operations, of which all pairs are tried."""

ARMED = (*range(1, 9), 12, 16, 24, 32, 48, 64)
"""Allocation points of the last operation that are tried in place of memory that runs out."""

BOTH = 3
"""Of them, how many are tried in two operations at once."""

EARLY = 5
"""Operations of a program that is cut before any other way to make it short is tried."""

Run = Callable[[Program], RunOutcome]
Ops = tuple[Op, ...]


@dataclass(frozen=True, slots=True)
class Minimized:
    """The small program, and how sure it is that it is small."""

    program: Program
    finding: Finding
    executions: int
    one_minimal: bool
    """No operation can be dropped and no argument made simpler, by the proposals of this module, without losing the
    finding.
    """


class OutOfBudget(Exception):
    """The executions are used up."""


# -- simpler values -------------------------------------------------------------------------------------------------


def complexity(value: Any) -> tuple[int, ...]:
    """The order of simplicity; the smaller, the simpler. Of numbers the short ones come first, as a reader would."""
    if value is None:
        return (0,)
    if isinstance(value, tuple):
        return (len(value), *(part for entry in value for part in complexity(entry)))
    if isinstance(value, int):
        digits = f"{value:x}".rstrip("0")
        return len(digits), value
    raise TypeError(value)


def simpler(argument: Argument, value: Any) -> Iterator[Any]:
    """Values of the argument that are simpler than `value`, the boldest first."""
    kind = argument.type
    if kind in (Type.BOOL, Type.CHOICE):
        if not argument.required and value != argument.default:
            yield argument.default
        return
    if kind is Type.NODE:
        if value is not None and argument.default is None:
            yield None
        if value:
            yield 0
        return
    if kind in LISTS:
        for i, entry in enumerate(value):
            for other in _numbers(kind, entry, argument.minimum):
                yield (*value[:i], other, *value[i + 1 :])
        return
    if argument.choices:
        yield from (choice for choice in sorted(argument.choices) if choice < value)
        return
    if kind is not Type.HANDLE:
        yield from (v for v in _numbers(kind, value, argument.minimum) if argument.clamp(v) == v)


_BYTES = (Type.ADDRESS, Type.ADDRESSES, Type.SIZE, Type.SIZES)


def _numbers(kind: Type, value: int, minimum: int) -> Iterator[int]:
    """Simpler numbers. Sizes and counts fall; an address gets rounder, or falls among equally round ones."""
    proposals: list[int]
    if kind in _BYTES:
        proposals = [2 * M, 128 * M, 256 * M, 512 * M, G, 2 * G, 4 * G, 5 * G, 8 * G]
        proposals += [value // unit * unit for unit in (G, 128 * M, 2 * M)]
        proposals += [value - unit for unit in (G, 128 * M, 2 * M)]
    else:
        proposals = [minimum, minimum + 1, value // 2, *(value - (value >> n) for n in (2, 4, 8, 12, 16)), value - 1]
    seen = {value}
    for proposal in proposals:
        if proposal < minimum or proposal in seen:
            continue
        seen.add(proposal)
        if kind in (Type.ADDRESS, Type.ADDRESSES):
            if complexity(proposal) < complexity(value):
                yield proposal
        elif proposal < value:
            yield proposal


def simpler_ops(op: Op) -> Iterator[Op]:
    """The operation with one argument simpler; of a device also with one range less."""
    operation = OPERATIONS[op.name]
    lists = [a.name for a in operation.arguments if a.type in LISTS]
    if lists and len(op.args[lists[0]]) > 1:
        for i in range(len(op.args[lists[0]])):
            shorter = {name: (*op.args[name][:i], *op.args[name][i + 1 :]) for name in lists}
            yield op.changed({**op.args, **shorter})
    for argument in operation.arguments:
        for value in simpler(argument, op.args[argument.name]):
            yield op.changed({**op.args, argument.name: value})


def simpler_machines(machine: Machine) -> Iterator[Machine]:
    """The machine with one key simpler: smaller, or the default."""
    for argument in MACHINE:
        value = getattr(machine, argument.name)
        if argument.name == "ram":
            sizes = (argument.minimum, G, 2 * G, 4 * G, value // 2, value // G * G, value // (128 * M) * (128 * M))
            for size in sorted({argument.clamp(size) for size in sizes}):
                if size < value:
                    yield replace(machine, ram=size)
        elif value != argument.default:
            yield Machine.coerced(**{**asdict(machine), argument.name: argument.default})


# -- search ---------------------------------------------------------------------------------------------------------


class Minimizer:
    """One minimization: the best program so far, and what has been tried."""

    def __init__(self, program: Program, run: Run, budget: int, profile: Profile | None = None) -> None:
        self.run = run
        self.profile = profile
        self.budget = budget
        self.executions = 0
        self._tried: dict[tuple[Machine, Ops], bool] = {}
        bare = program.bare()
        self.machine, self.ops = bare.machine, repair(bare.machine, bare.ops)
        finding = self._execute(self.machine, self.ops).finding
        if finding is None:
            raise ValueError("the program has no finding")
        self.finding = self.target = finding
        self._failed: tuple[Machine, Ops, str | None] = self.machine, (), None

    def _execute(self, machine: Machine, ops: Ops) -> RunOutcome:
        if self.executions >= self.budget:
            raise OutOfBudget
        self.executions += 1
        return self.run(Program(machine, ops))

    def attempt(self, ops: Ops | list[Op], machine: Machine | None = None) -> bool:
        """Take the smaller program if it shows the same bug."""
        machine = self.machine if machine is None else machine
        ops = repair(machine, ops)
        if (machine, ops) == (self.machine, self.ops):
            return False
        key = machine, ops
        if key in self._tried:
            return False
        outcome = self._execute(machine, ops)
        finding = outcome.finding
        same = finding is not None and self._same(finding, Program(machine, ops))
        self._tried[key] = same
        if same and finding is not None:
            self.machine, self.finding = machine, finding
            self.ops = ops[: outcome.ops_executed]
        return same

    def _same(self, finding: Finding, program: Program) -> bool:
        """Whether it is the bug of the target."""
        if finding.signature == self.finding.signature or kin(self.target, finding):
            return True
        return self.profile is not None and hidden(self.target, finding, program, self.profile)

    def drop(self, ops: Ops, machine: Machine | None = None) -> bool:
        """Take the program with some operations less, with its numbers as they are or as they would have to be."""
        machine = self.machine if machine is None else machine
        if self.attempt(ops, machine):
            return True
        shorter = repair(machine, ops)
        if not shorter or len(shorter) >= len(self.ops):
            return False
        return any(self.attempt(other, machine) for other in adapted(machine, shorter, self._kind()))

    def _kind(self) -> str | None:
        """Kind of the allocation point that the program's last `fail alloc` failed; asked for every drop that fails."""
        machine, ops, kind = self._failed
        if machine is not self.machine or ops is not self.ops:
            kind = fired(self.machine, self.ops)
            self._failed = self.machine, self.ops, kind
        return kind

    # -- passes -----------------------------------------------------------------------------------------------------

    def related(self) -> None:
        """Keep only what makes or changes the handles of the last operation, and failures that are for any of these."""
        wanted: set[str] = set()
        keep: list[Op] = []
        kept = False
        for op in reversed(self.ops):
            handle = OPERATIONS[op.name].handle
            used = op.args[handle.name] if handle is not None else None
            armed = op.name == FAULT and kept
            needed = op.result in wanted or used in wanted or OPERATIONS[op.name].when != AFTER_BOOT
            kept = not keep or armed or needed
            if kept:
                keep.append(op)
                if used is not None:
                    wanted.add(used)
        keep.reverse()
        self.attempt(keep)

    def armed(self) -> bool:
        """Where memory runs out in the last operation, the one before or both, have allocations fail there instead:
        then nothing has to use the memory up. The program is longer by that, and is kept if it gets shorter without the
        others, or fills less memory.
        """
        before = self.machine, self.ops, self.finding
        ops, n, fillers = self.ops, len(self.ops), self._fillers()
        places = [at for at in (n - 1, n - 2) if at > 1 and FAULT not in (ops[at].name, ops[at - 1].name)]
        lacking = lacked(self.machine, ops) if places else set()
        if not lacking.intersection((n - 1, n - 2)):
            return False
        numbers = dict.fromkeys((*ARMED, *last_points(self.machine, ops)))
        variants = [
            (*ops[:at], make_op(FAULT, nth=nth, times=times), *ops[at:])
            for at, nth, times in product(places, numbers, (1, RUN_OUT))
            if nth
        ]
        if len(places) == 2:
            first, last = ([make_op(FAULT, nth=nth, times=RUN_OUT) for nth in ARMED[:BOTH]] for _ in places)
            variants += [(*ops[:-2], a, ops[-2], b, ops[-1]) for a, b in product(first, last)]
        for variant in variants:
            try:
                if self.attempt(variant):
                    self.related()
                    self.chunks()
            finally:  # also where the budget ends
                better = (len(self.ops), self._fillers()) < (n, fillers)
                if not better:
                    self.machine, self.ops, self.finding = before
            if better:
                return True
        return False

    def _fillers(self) -> int:
        """Operations that only use memory up."""
        return sum(op.name == "pages alloc" for op in self.ops)

    def shortcuts(self) -> bool:
        """Other ways to the same state with fewer operations."""
        return any(self.drop(ops, machine) for machine, ops in shortcuts(self.machine, self.ops))

    def anew(self, early: bool = False) -> bool:
        """A shorter program that was not cut from this one; `early`: of what the last operation's handle needs."""
        if len(self.ops) < 3 or self.finding.operation != self.ops[-1].name:
            return False
        search = Resynthesis(self.machine, self.ops, self.finding, early)
        return any(self.attempt(ops, machine) for machine, ops in search.proposals())

    def chunks(self) -> None:
        """Delta debugging: drop ever smaller runs of operations."""
        size = len(self.ops) // 2
        while size:
            at = 0
            while at < len(self.ops):
                if not self.drop(self.ops[:at] + self.ops[at + size :]):
                    at += size
            size //= 2

    def pairs(self) -> bool:
        """Drop two operations that are only needed together."""
        n = len(self.ops)
        if n > PAIRS_UP_TO:
            return False
        for i in range(n):
            for j in range(i + 1, n):
                if self.drop(self.ops[:i] + self.ops[i + 1 : j] + self.ops[j + 1 :]):
                    return True
        return False

    def singles(self) -> bool:
        """Drop one operation, or make one argument or one key of the machine simpler; whether anything helped."""
        helped = False
        at = len(self.ops) - 1
        while at >= 0:
            if at < len(self.ops) and self.drop(self.ops[:at] + self.ops[at + 1 :]):
                helped = True
            at -= 1
        while any(self.attempt(self.ops, machine) for machine in simpler_machines(self.machine)):
            helped = True
        at = 0
        while at < len(self.ops):
            if any(self.attempt((*self.ops[:at], op, *self.ops[at + 1 :])) for op in simpler_ops(self.ops[at])):
                helped = True
            else:
                at += 1
        return helped

    def minimize(self) -> Minimized:
        """All passes until none helps."""
        done = False
        try:
            self.related()
            self.chunks()
            if len(self.ops) > EARLY:
                self.anew(early=True)
            self.armed()
            while self.shortcuts() or self.singles() or self.pairs() or self.anew() or self.armed():
                pass
            done = True
        except OutOfBudget:
            pass
        return Minimized(Program(self.machine, self.ops), self.finding, self.executions, done)


def minimize(
    program: Program, *, profile: Profile | None = "posted", budget: int = BUDGET, run: Run | None = None
) -> Minimized:
    """The smallest program found that shows the same bug as `program` does; ValueError if that shows none.

    `run` executes a program; by default both models of `profile`, with everything compared after every operation. It
    alone judges where `profile` is None.
    """
    if run is None:

        def run(candidate: Program) -> RunOutcome:
            return run_program(candidate, profile=profile or "posted", full_every=1)

    return Minimizer(program, run, budget, profile).minimize()
