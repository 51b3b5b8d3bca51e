"""The quick look never calls alike what the forms tell apart."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fuzz.execute import Lockstep
from fuzz.generate.program import run_generated
from fuzz.oracle.alike import mapping_alike
from fuzz.oracle.observe import expand, mapping, tails_by_frame
from mm.pgtable import Pte, Shared, Strided


def sides(seed: int) -> tuple[Any, Any]:
    """The two kernels after a random program, without any DAX."""
    program, _ = run_generated(random.Random(seed).random, "posted")
    pair = Lockstep(program.machine)
    for op in program.ops:
        if op.name != "dax create":
            pair.step(op)
        if pair.over:
            break
    return pair.reference.kernel, pair.candidate.kernel


def forms_alike(a: Any, b: Any, lo: int, hi: int) -> bool:
    return expand(mapping(a, tails_by_frame(a), lo, hi)) == expand(mapping(b, tails_by_frame(b), lo, hi))


def windows(k: Any) -> list[tuple[int, int]]:
    """All of the vmemmap, each run, cut runs, and what lies between two."""
    runs = k.tables.entries.items()
    out = [(lo, hi) for lo, hi, _ in runs] + [(lo, hi - 1) for lo, hi, _ in runs if hi - lo > 1]
    out += [(lo + 1, hi + 3) for lo, hi, _ in runs]
    return [(0, runs[-1][1]), *out] if runs else []


def test_alike_means_that_the_forms_are_equal() -> None:
    plain = looked = 0
    for seed in range(40):
        a, b = sides(seed)
        names = tails_by_frame(a), tails_by_frame(b)
        for lo, hi in windows(a) + windows(b):
            looked += 1
            if mapping_alike(a, b, names, lo, hi):
                plain += 1
                assert forms_alike(a, b, lo, hi), (seed, lo, hi)
    assert plain > looked // 2  # or it saves nothing


def damaged(kind: str, lo: int, hi: int, k: Any) -> bool:
    """Damage one run of a kernel; whether it could."""
    m = k.tables.entries.run(lo)[2]
    tables = k.tables
    if kind == "gone":
        tables.clear(hi - 1, hi)
    elif kind == "protection":
        if isinstance(m, Strided):
            tables.set(lo, hi, m._replace(tail_rw=not m.tail_rw))
        elif isinstance(m, Pte | Shared):
            tables.set(hi - 1, hi, m._replace(rw=not m.rw))
        else:
            return False
    elif kind == "owner":
        if isinstance(m, Shared | Strided):
            return False
        k.pages.owners.set(hi - 1 + m.delta, hi + m.delta, "buddy")
    elif kind == "tail":
        if not isinstance(m, Shared):
            return False
        tables.set(lo, hi, m._replace(frame=m.frame + 1))
    elif kind == "keep":
        if not isinstance(m, Strided):
            return False
        tables.set(lo, hi, m._replace(keep=m.keep + 1))
    return True


@pytest.mark.parametrize("kind", ["gone", "protection", "owner", "tail", "keep"])
def test_damage_is_not_alike(kind: str) -> None:
    done = 0
    for seed in range(60):
        a, b = sides(seed)
        names = tails_by_frame(a), tails_by_frame(b)
        draw = random.Random(seed)
        runs = [(lo, hi, k) for k in (a, b) for lo, hi, _ in k.tables.entries.items()]
        draw.shuffle(runs)
        for lo, hi, k in runs:
            if mapping_alike(a, b, names, lo, hi) and damaged(kind, lo, hi, k):
                assert not mapping_alike(a, b, names, lo, hi), (seed, lo, hi)
                done += 1
                break
    assert done >= 5
