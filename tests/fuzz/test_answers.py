"""Both models against what a real kernel answered: the programs of corpus/live, and that faults of mm are seen."""

from pathlib import Path

import pytest

from fuzz.answers import check, unexcused
from fuzz.mutants.panel import spoiled
from fuzz.mutants.sites import mutants, mutated_code
from fuzz.program.text import parse
from live.recorded import FOLDER, load, programs, replay

PROGRAMS = programs([FOLDER])


@pytest.mark.parametrize("path", PROGRAMS, ids=[path.stem for path in PROGRAMS])
def test_both_models_do_what_the_kernel_did(path: Path) -> None:
    wrong = check(load(path)).wrong
    assert wrong is None, f"{wrong[0]}: {wrong[1].detail}"


def test_there_are_programs_and_they_stay_small() -> None:
    assert len(PROGRAMS) >= 100
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000


@pytest.mark.parametrize(
    ("module", "function", "number"),
    [
        ("mm.hugetlb_resize", "_grow", 8),  # the order of the free lists, on both sides
        ("mm.memory_online", "_empty", 13),  # a poisoned page keeps its block online
    ],
)
def test_a_fault_that_both_sides_share_is_seen(module: str, function: str, number: int) -> None:
    mutant = next(m for m in mutants(module) if (m.function, m.number) == (function, number))
    with spoiled(mutant, mutated_code(mutant)):
        assert any(replay(load(path)).finding for path in PROGRAMS)


BEGIN = "vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\n"


def test_the_candidate_may_differ_from_the_first_clause_on() -> None:
    """A device DAX range whose memory map the series shares in another way (clauses dax-*), behind two operations."""
    ops = "boot\nhugetlb resize size=2M to=3\nhugetlb resize size=2M to=1\n"
    assert unexcused(parse(BEGIN + ops), "posted") == 2
    ops += "d0 = dax create at=0x48000000 size=256M\nhugetlb resize size=2M to=3\n"
    assert unexcused(parse(BEGIN + ops), "posted") == 2
