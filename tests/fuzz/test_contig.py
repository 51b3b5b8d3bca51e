"""Ranges of pages that are taken by address, on both sides (mm/page_alloc.c:alloc_contig_range, 7.3; separate-paths.md
3.13, "Replacement").

A huge page of 2M has V = 8 vmemmap pages: optimizing the new one takes 7 off the memmap, restoring the old one puts 7
back.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzz.program import parse
from fuzz.side import Side
from mm.errno import EBUSY, EINVAL, ENOMEM
from mm.kernel import Kernel
from mm.page_alloc import OWNER_PAGES
from mm.vmemmap import VmemmapPaths
from tests.fuzz.test_poison import SIDES, Lab

M = 1 << 20


@pytest.fixture(params=SIDES, ids=["reference", "candidate"])
def lab(request: pytest.FixtureRequest) -> Lab:
    lab = Lab(request.param)
    lab.do("hugetlb resize size=2M to=4")
    return lab


def test_free_memory_is_taken_as_asked(lab: Lab) -> None:
    assert lab.delta("p0 = pages contig at=0x20001000 size=24K") == (0, (0, -6, 0, 0))
    assert lab.kernel.pages.owners.run(0x20001) == (0x20001, 0x20007, OWNER_PAGES)
    assert lab.delta("pages free p0") == (0, (0, 6, 0, 0))


def test_a_free_huge_page_is_replaced(lab: Lab) -> None:
    """alloc_and_dissolve_hugetlb_folio: the pool keeps its number, and the new page is optimized."""
    at = lab.heads()[2]
    assert lab.delta(f"p0 = pages contig at={at:#x} size=2M") == (0, (0, -512, 0, 0))
    assert len(lab.heads()) == 4
    assert at not in lab.heads()
    assert all(folio.vmemmap_optimized for folio in lab.kernel.hstates[9].folios.values())


def test_a_mapped_huge_page_moves_to_a_free_one_and_its_place_is_replaced(lab: Lab) -> None:
    at, target, *_ = lab.heads()
    lab.do("u0 = hugetlb map size=2M count=1")
    assert lab.delta(f"p0 = pages contig at={at:#x} size=2M") == (0, (0, -512, 0, 0))
    _, mapped = lab.side.handles["u0"]
    assert [folio.pfn * 4096 for folio in mapped] == [target]
    assert len(lab.heads()) == 3


def test_without_a_free_one_it_moves_to_a_temporary_one(lab: Lab) -> None:
    """alloc_migrate_hugetlb_folio, move_hugetlb_state: the target stays, the old one leaves the pool."""
    at = lab.heads()[0]
    lab.do("u0 = hugetlb map size=2M count=4")
    assert lab.delta(f"p0 = pages contig at={at:#x} size=2M") == (0, (0, -512, 0, 0))
    assert lab.do("hugetlb unmap u0") == 0
    assert len(lab.heads()) == 4


def test_a_replacement_whose_old_page_cannot_be_restored(lab: Lab) -> None:
    """The old one becomes a surplus page (3.13); it is in the way until it is replaced once more.

    Points: HP and HEAD of the new page, then the first RES of the old one.
    """
    at = lab.heads()[2]
    assert lab.do("fail alloc nth=3", f"p0 = pages contig at={at:#x} size=2M") == 0
    h = lab.kernel.hstates[9]
    assert (h.nr, h.surplus, len(lab.heads())) == ([5], [1], 5)


def test_no_huge_page_to_replace_it_with(lab: Lab) -> None:
    at = lab.heads()[2]
    before = lab.counts()
    assert lab.do("fail alloc nth=1", f"p0 = pages contig at={at:#x} size=2M") == -ENOMEM
    assert lab.counts() == before


@pytest.mark.parametrize("make", SIDES, ids=["reference", "candidate"])
def test_gigantic_pages_are_in_the_way(make: Callable[[Kernel], VmemmapPaths]) -> None:
    lab = Lab(make, "ram=4G")
    lab.do("hugetlb resize size=1G to=1")
    at = lab.heads(18)[0]
    assert lab.do(f"p0 = pages contig at={at + 32 * M:#x} size=2M") == -ENOMEM


def test_movable_pages_move_and_others_do_not(lab: Lab) -> None:
    lab.do("p0 = pages alloc count=700 movable=on", "p1 = pages alloc count=10")
    pages = lab.kernel.pages
    movable = sorted(lab.side.handles["p0"])[0][0] * 4096
    stuck = lab.side.handles["p1"][0][0] * 4096
    assert lab.delta(f"p2 = pages contig at={movable & -2 * M:#x} size=2M")[0] in (0, -EBUSY)
    assert lab.delta(f"p3 = pages contig at={stuck:#x} size=4K") == (-EBUSY, (0, 0, 0, 0))
    assert sum(n for _, n in lab.side.handles["p0"]) == 700
    assert all(pages.holders.get(pfn) is lab.side.handles["p0"] for pfn, _ in lab.side.handles["p0"])


@pytest.mark.parametrize(("at", "size"), [(0, 0), (1 << 40, 2 * M), (2048 * M - 2 * M, 4 * M), (0x800, 4096)])
def test_what_is_no_row_of_online_pages(lab: Lab, at: int, size: int) -> None:
    assert lab.do(f"p0 = pages contig at={at:#x} size={size}") == -EINVAL


def test_poison_moves_with_the_replaced_page() -> None:
    """A poisoned page of the pool is replaced like any other; its mark goes to the raw page, which is taken."""
    for make in SIDES:
        lab = Lab(make)
        lab.do("hugetlb resize size=2M to=4")
        at = lab.heads()[1]
        lab.do("fail alloc nth=2", f"memory hard_offline at={at:#x}")
        assert lab.do(f"p0 = pages contig at={at:#x} size=2M") == 0
        assert list(lab.kernel.pages.hwpoison) == [at // 4096]
        assert lab.delta("pages free p0") == (0, (0, 511, 0, 0))


def test_handles_of_both_kinds_are_pages() -> None:
    program = parse("vmm 1\nmachine ram=2G\nboot\np0 = pages contig at=0x20000000 size=4M\npages free p0\n")
    side = Side(program.machine, SIDES[0])
    assert [side.run(op) for op in program.ops] == [0, 0, 0]
