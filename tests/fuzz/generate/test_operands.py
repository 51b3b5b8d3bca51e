"""Operands that the language can say, in states where a number of the kernel's cannot be said."""

from __future__ import annotations

from pathlib import Path
from random import Random

from fuzz.execute import Lockstep
from fuzz.generate.live import Live
from fuzz.generate.operands import pool_target
from fuzz.program.text import parse_file

ROOT = Path(__file__).resolve().parents[3]


def test_a_pool_with_more_surplus_pages_than_pages_is_not_resized_to_less_than_nothing() -> None:
    program = parse_file(ROOT / "corpus" / "regressions" / "demote-of-surplus.vmm").bare()
    pair = Lockstep(program.machine)
    live = Live(pair.reference.kernel, pair.candidate.kernel)
    for op in program.ops:
        rc = pair.step(op).rcs[0]
        assert isinstance(rc, int)
        live.advance(op, rc)
    (pool,) = [pool for pool in live.pools if pool.persistent < 0]
    draw = Random(1).random
    targets = {pool_target(draw, live, pool, None) for _ in range(2000)}
    assert min(targets) == 0
    assert len(targets) > 1
