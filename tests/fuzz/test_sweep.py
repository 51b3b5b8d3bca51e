"""Failing each allocation point in turn. Points and their order: separate-paths.md 3.0, 3.7 to 3.9."""

from collections import Counter
from typing import Any

import pytest

from fuzz.program import parse
from fuzz.sweep import sweep, with_fault
from mm.kernel import Kernel
from reference import hugetlb_vmemmap

GROW = "vmm 1\nmachine arch=x86_64 page=4K ram=2G nodes=1\nboot\n"


def test_growing_by_two_pages_reaches_the_points_of_the_specification() -> None:
    """3.8, worked x86: HP1, HP2, SPLIT, TAIL, HEAD2, HEAD1, behind NMASK of the write (3.12)."""
    program = parse(GROW + "hugetlb resize size=2M to=2\n")
    (swept,) = sweep(program, everything=True)
    expected = Counter(NMASK=1, HP=2, SPLIT=1, TAIL=1, HEAD=2)
    assert (swept.reference, swept.candidate) == (expected, expected)
    assert swept.tried == swept.points == 7
    assert swept.verdicts == {"ok": 7}


def test_restoring_takes_all_but_the_kept_page_and_points_of_a_row_are_sampled_at_their_ends() -> None:
    """3.9: RES x (V - 1), here of 4 pages of 8 vmemmap pages."""
    program = parse(GROW + "hugetlb resize size=2M to=4\nhugetlb resize size=2M to=0\n")
    shrink = list(sweep(program))[1]
    assert shrink.reference == Counter(NMASK=1, RES=4 * 7)
    assert shrink.tried == 1 + 8
    assert [swept.tried for swept in sweep(program, everything=True)][1] == 29


def test_an_operation_whose_failure_is_armed_already_is_left_alone() -> None:
    program = parse(GROW + "fail alloc nth=2\nhugetlb resize size=2M to=2\nhugetlb resize size=2M to=3\n")
    assert [swept.index for swept in sweep(program)] == [3]


def test_a_difference_that_only_a_failing_restore_shows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.9, 3.14: dissolving one 2M page takes 7 frames; the planted defect miscounts when the last of them fails."""
    sound = hugetlb_vmemmap.alloc_row

    def alloc_row(k: Kernel, kind: str, *rest: Any) -> Any:
        got = sound(k, kind, *rest)
        if got is None and kind == "RES":
            k.vmstat.nr_memmap -= 1
        return got

    program = parse(GROW + "hugetlb resize size=2M to=1 node=0\nhugetlb dissolve at=0x3000000\n")
    assert [swept.points for swept in sweep(program)][1:] == [7]
    assert not any(swept.findings for swept in sweep(program))
    monkeypatch.setattr(hugetlb_vmemmap, "alloc_row", alloc_row)
    first, dissolve = sweep(program)
    assert not first.findings
    assert dissolve.verdicts == {"finding": 7}
    assert list(dissolve.findings.values()) == [1]


def test_the_program_with_a_fault_names_the_operation() -> None:
    program = parse(GROW + "hugetlb resize size=2M to=2\n")
    assert [op.name for op in with_fault(program, 1, 3).ops] == ["boot", "fail alloc", "hugetlb resize"]
