"""Generating a program while it runs: each operation is drawn against the state that the ones before it left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from fuzz.execute import Lockstep, Observer, Profile, RunOutcome, StepResult
from fuzz.generate.afford import affordable
from fuzz.generate.live import Live
from fuzz.generate.operations import ALL, Table, generate_op, reserves
from fuzz.generate.weights import Draw, choose_length, choose_machine
from fuzz.program.model import Op, Program
from mm.machine import Machine

BOOT: Final = Op("boot")
FULL_EVERY: Final = 0
"""No full comparison but the one at the end while searching. The minimizer, which compares everything after every
operation, finds the guilty one.
"""
DEEP: Final = 0.25
"""Share of programs that compare all of mapping and struct pages at their end. They are compared whenever they are
touched, so this can only find what a model changes without saying so; invariants are checked in each program.
"""


def run_generated(
    draw: Draw,
    profile: Profile,
    table: Table = ALL,
    machine: Machine | None = None,
    above: int = 0,
    *,
    prefix: Sequence[Op] = (),
    observer: Observer | None = None,
    deep_share: float = DEEP,
) -> tuple[Program, RunOutcome]:
    """Generate and run one program; it ends early where the two sides part.

    The machine is drawn if none is given. `deep_share` is the chance that it is looked at deeply. New ranges of memory
    and devices go above `above`. A `prefix` is run first: the beginning of a program of that machine, the boot
    included, with canonical handle names.
    """
    if machine is None:
        machine = choose_machine(draw)
    deep = draw() < deep_share
    pair = Lockstep(machine, profile, full_every=FULL_EVERY, deep=deep)
    live = Live(pair.reference.kernel, pair.candidate.kernel, above)
    out = RunOutcome("ok", None, 0)
    rcs = out.rcs
    step, advance = pair.step, live.advance
    ops: list[Op] = list(prefix)
    if not prefix:
        ops += reserves(draw, live)
        ops.append(BOOT)
    for op in ops:
        result = step(op)
        rcs.append(result.rcs)
        if observer is not None:
            observer(pair, op, result)
        if pair.over:
            break
        if prefix:
            advance(op, result.rcs[0])  # type: ignore[arg-type]  # as below
    else:
        for _ in range(choose_length(draw)):
            op = generate_op(draw, live, table)
            ops.append(op)
            result = step(op)
            rc = result.rcs[0]
            rcs.append(result.rcs)
            if observer is not None:
                observer(pair, op, result)
            if pair.over:
                break
            advance(op, rc)  # type: ignore[arg-type]  # a text is the death of both sides, and then the pair is over
    return _ended(pair, ops[: len(rcs)], result, out, deep)


def run_affordable(
    program: Program, profile: Profile, *, deep: bool = True, observer: Observer | None = None
) -> tuple[Program, RunOutcome]:
    """Run a program that nobody generated, with its numbers cut to what is affordable; the program as it was run."""
    pair = Lockstep(program.machine, profile, full_every=FULL_EVERY, deep=deep)
    out = RunOutcome("ok", None, 0)
    ops: list[Op] = []
    for op in program.ops:
        op = affordable(op, pair.reference)
        ops.append(op)
        result = pair.step(op)
        out.rcs.append(result.rcs)
        if observer is not None:
            observer(pair, op, result)
        if pair.over:
            break
    return _ended(pair, ops, result, out, deep)


def _ended(
    pair: Lockstep, ops: Iterable[Op], last: StepResult, out: RunOutcome, deep: bool
) -> tuple[Program, RunOutcome]:
    """The end of a program: the final comparison, if the sides have not parted before."""
    if pair.over:
        out.finding = last.finding
        if last.finding is None and last.terminal is not None:
            out.verdict = "explained"
    else:
        out.finding = pair.finish(deep=deep)
    if out.finding is not None:
        out.verdict = "finding"
    out.ops_executed = len(out.rcs)
    out.clauses = pair.oracle.clauses
    pair.close()
    return Program(pair.reference.kernel.machine, tuple(ops)), out
