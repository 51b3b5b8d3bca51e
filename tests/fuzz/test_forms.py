"""Mutants of the canonical form: one that is too coarse is seen by two states, an equivalent one by none."""

from __future__ import annotations

from random import Random
from time import process_time

import pytest

from fuzz.engines.explore import canonical_pair
from fuzz.execute import Lockstep
from fuzz.mutants.forms import MODULE, Forms, moved
from fuzz.mutants.planted import Source
from fuzz.mutants.sites import function_of, mutants, plant
from fuzz.mutants.trials import POSTED
from fuzz.program.text import parse

HELD = """vmm 1
machine arch=x86_64 page=4K ram=4G nodes=1
boot
p0 = pages alloc count=5 node=0
p1 = pages alloc count=3 node=0
pages free p0
p2 = pages alloc count=2 node=0
memory hard_offline at=0x3000000
"""
SOURCES = [Source(POSTED, "held", parse(HELD))]


def search(function: str, before: str, after: str, seconds: float) -> tuple[str | None, int]:
    """By what the mutant that reads like this is killed, and how many forms were taken."""
    mutant = next(m for m in mutants(MODULE) if (m.function, m.before, m.after) == (function, before, after))
    found = function_of(mutant.module, mutant.function)
    original = found.__code__
    plant(mutant)
    try:
        forms = Forms(mutant, original, 3)
        kill = forms.search(SOURCES, process_time() + seconds)
    finally:
        found.__code__ = original
    return kill and kill.by, forms.pairs


@pytest.mark.parametrize(
    ("function", "before", "after"),
    [
        # what the frames of a handle are no longer counts
        ("Side.extents", "pfn + n", "pfn - n"),
        # nor the references of shared frames
        ("Side._special", "return tuple(sorted(rows, key=repr))", "return 0"),
        # nor what a pageblock holds
        ("Side._owners", "counts[block, owner] += e - s", "pass"),
    ],
)
def test_a_form_that_is_too_coarse_is_seen(function: str, before: str, after: str) -> None:
    assert search(function, before, after, 60.0)[0] == "search"


def test_an_equivalent_form_survives() -> None:
    # A count that goes down says as much as one that goes up.
    by, pairs = search("Side._owners", "counts[block, owner] += e - s", "counts[block, owner] -= e - s", 2.0)
    assert by is None
    assert pairs > 50


def test_pages_that_lie_elsewhere_in_their_pageblock_are_the_same() -> None:
    program = SOURCES[0].program
    pair = Lockstep(program.machine)
    for op in program.ops[:-1]:
        pair.step(op)
    sound = canonical_pair(pair)
    texts = [moved(pair.candidate, Random(seed)) for seed in range(6)]
    assert any(texts)
    assert canonical_pair(pair) == sound
