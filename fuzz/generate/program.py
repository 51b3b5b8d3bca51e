"""Generating a program while it runs: each operation is drawn against the state that the ones before it left."""

from __future__ import annotations

from typing import Final

from fuzz.execute import Lockstep, Profile, RunOutcome
from fuzz.generate.live import Live
from fuzz.generate.operations import ALL, Table, generate_op, reserve
from fuzz.generate.weights import Draw, choose_length, choose_machine, choose_reserves
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
    draw: Draw, profile: Profile, table: Table = ALL, machine: Machine | None = None, above: int = 0
) -> tuple[Program, RunOutcome]:
    """Generate and run one program; it ends early where the two sides part.

    The machine is drawn if none is given. New ranges of memory and devices go above `above`.
    """
    if machine is None:
        machine = choose_machine(draw)
    pair = Lockstep(machine, profile, full_every=FULL_EVERY)
    live = Live(pair.reference.kernel, above)
    out = RunOutcome("ok", None, 0)
    rcs = out.rcs
    step, advance = pair.step, live.advance
    ops: list[Op] = [reserve(draw, live) for _ in range(choose_reserves(draw))]
    ops.append(BOOT)
    for op in ops:
        result = step(op)
        rcs.append(result.rcs)
        if pair.over:
            break
    else:
        for _ in range(choose_length(draw)):
            op = generate_op(draw, live, table)
            ops.append(op)
            result = step(op)
            rc = result.rcs[0]
            rcs.append(result.rcs)
            if pair.over:
                break
            advance(op, rc)  # type: ignore[arg-type]  # a text is the death of both sides, and then the pair is over
    if pair.over:
        out.finding = result.finding
        if result.finding is None and result.terminal is not None:
            out.verdict = "explained"
    else:
        out.finding = pair.finish(deep=draw() < DEEP)
    if out.finding is not None:
        out.verdict = "finding"
    out.ops_executed = len(rcs)
    out.clauses = pair.oracle.clauses
    return Program(machine, tuple(ops[: len(rcs)])), out
