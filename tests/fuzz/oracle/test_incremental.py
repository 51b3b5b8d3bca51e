"""Comparing what an operation touched finds what comparing everything finds, and the reverse."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from candidate.framework import UnifiedFramework
from fuzz.execute import Lockstep
from fuzz.generate.program import run_generated
from fuzz.program import Program
from mm.pgtable import Pte, Shared, Strided

PROGRAMS = int(os.environ.get("VMM_PROGRAMS", "16"))
"""How many random programs; run thousands by hand after a change of the oracle."""


def random_program(seed: int, profile: str) -> Program:
    return run_generated(random.Random(seed).random, profile)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", ["posted", "merged"])
def test_no_step_hides_what_everything_shows(profile: str) -> None:
    """After each step without a finding, everything agrees too."""
    steps = 0
    for seed in range(PROGRAMS):
        program = random_program(seed, profile)
        pair = Lockstep(program.machine, profile, full_every=0)  # type: ignore[arg-type]
        for op in program.ops:
            result = pair.step(op)
            if pair.over:
                break
            assert pair.oracle.full() is None, (seed, op, result.rcs)
            steps += 1
    assert steps > 5 * PROGRAMS


class Sloppy(UnifiedFramework):
    """A candidate that damages something once in a while, deterministically."""

    kind = 0

    def __init__(self, k: Any, profile: str = "posted") -> None:
        super().__init__(k, profile)
        self.calls = 0

    def damage(self, lo: int, hi: int) -> None:
        self.calls += 1
        if self.calls % 3:
            return
        k = self.k
        spp = k.arch.spp
        runs = k.tables.runs(lo // spp, hi // spp)
        if not runs:
            return
        s, e, m = runs[-1]
        if self.kind == 0:
            k.vmstat.nr_memmap -= 1
        elif self.kind == 1:
            if isinstance(m, Strided):
                k.tables.set(s, e, m._replace(tail_rw=not m.tail_rw))
            elif isinstance(m, Pte | Shared):
                k.tables.set(s, e, m._replace(rw=not m.rw))
        elif self.kind == 2:
            k.memmap.forget(lo, spp)
        elif self.kind == 3:
            k.pages.alloc_page(0, "memmap")
        else:
            k.set_pageblocks(lo, lo + 512, "unmovable")

    def sparse_add_section(self, nid: int, pfn: int, nr: int, altmap: Any, pgmap: Any) -> int:
        rc = super().sparse_add_section(nid, pfn, nr, altmap, pgmap)
        self.damage(pfn, pfn + nr)
        return rc

    def hugetlb_vmemmap_optimize_folios(self, h: Any, folios: list[Any]) -> None:
        super().hugetlb_vmemmap_optimize_folios(h, folios)
        for folio in folios:
            self.damage(folio.pfn, folio.end_pfn)


@pytest.mark.parametrize("kind", range(5))
def test_a_step_finds_what_everything_finds(kind: int) -> None:
    """With a damaged candidate: the first step at which the two comparisons speak up is the same."""
    sloppy = type("Sloppy", (Sloppy,), {"kind": kind})
    found = 0
    for seed in range(PROGRAMS):
        program = random_program(seed, "posted")
        first = []
        for full_every in (0, 1):
            pair = Lockstep(program.machine, full_every=full_every, make_candidate=sloppy)
            for i, op in enumerate(program.ops):
                result = pair.step(op)
                if pair.over:
                    first.append((i, result.finding is not None, result.terminal))
                    break
            else:
                first.append((-1, pair.finish() is not None, None))
        assert first[0] == first[1], (seed, first)
        found += first[0][1]
    assert found > PROGRAMS // 8
