"""nr_hugepages (separate-paths.md 3.8 order rule, 3.11, 3.12)."""

import pytest

from mm.errno import ENOMEM
from mm.folio import Folio
from mm.hugetlb import hugetlb_map, hugetlb_unmap
from mm.hugetlb_sysfs import nr_hugepages_store, nr_overcommit_hugepages_store
from mm.machine import Machine
from mm.mmzone import ZONE_MOVABLE, ZONE_NORMAL
from mm.page import Compound, Plain
from mm.pgtable import Leaf
from tests.mm.hugetlb.lab import ALWAYS, Lab

SMALL, GIANT = 9, 18
FIRST = 0x100000
"""Lowest frame of Normal memory."""
HEADS = [FIRST + 512 * i for i in range(16)]


def test_free_list_is_in_allocation_order(lab: Lab) -> None:
    assert nr_hugepages_store(lab.begin(), SMALL, 4, None) == 0
    assert lab.counts(lab.small) == (4, 4, 0, 4)
    assert lab.paths.calls == [("optimize_folios", HEADS[3::-1])]
    assert lab.free_list(lab.small) == HEADS[:4]
    assert lab.points() == ["NMASK", "HP", "HP", "HP", "HP"]


def test_later_pages_go_before_earlier_ones(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 2, None)
    nr_hugepages_store(lab.begin(), SMALL, 4, None)
    assert lab.free_list(lab.small) == [*HEADS[2:4], *HEADS[:2]]


def test_struct_pages_follow_the_folio(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 2, None)
    compound = Compound(9, 0, 0, ZONE_NORMAL, "hugetlb")
    assert lab.k.memmap.view(FIRST, FIRST + 1024) == [(FIRST, FIRST + 1024, compound)]
    nr_hugepages_store(lab.begin(), SMALL, 0, None)
    assert lab.k.memmap.view(FIRST, FIRST + 1024) == [(FIRST, FIRST + 1024, Plain(0, ZONE_NORMAL))]


def test_grow_and_shrink_conserve_memory(lab: Lab) -> None:
    before = lab.free_pages()
    nr_hugepages_store(lab.begin(), SMALL, 16, None)
    nr_hugepages_store(lab.begin(), GIANT, 1, None)
    assert lab.free_pages() == before - 16 * 512 - (1 << 18)
    nr_hugepages_store(lab.begin(), GIANT, 0, None)
    nr_hugepages_store(lab.begin(), SMALL, 0, None)
    assert lab.free_pages() == before
    assert not lab.small.folios


def test_node_mask_fails(lab: Lab) -> None:
    assert nr_hugepages_store(lab.begin(nth=1), SMALL, 4, None) == -ENOMEM
    assert lab.counts(lab.small) == (0, 0, 0, 0)
    assert lab.points() == ["NMASK"]


def test_failed_allocation_ends_growth_but_not_the_write(lab: Lab) -> None:
    assert nr_hugepages_store(lab.begin(nth=4), SMALL, 5, None) == 0
    assert lab.counts(lab.small) == (2, 2, 0, 2)
    assert lab.points() == ["NMASK", "HP", "HP", "HP"]


def test_growth_ends_with_memory(lab: Lab) -> None:
    assert nr_hugepages_store(lab.begin(), SMALL, 1 << 63, None) == 0
    # 2G below 2G, less the first 2M and the 32M of the kernel image; 2G above 4G.
    blocks = 1024 + 1024 - 1 - 16
    assert lab.counts(lab.small) == (blocks, blocks, 0, blocks)
    assert lab.points() == ["NMASK"] + ["HP"] * (blocks + 1)


def test_turns_over_the_nodes(two: Lab) -> None:
    nr_hugepages_store(two.begin(), SMALL, 3, None)
    assert two.small.nr == [2, 1]
    nr_hugepages_store(two.begin(), SMALL, 4, None)
    assert two.small.nr == [2, 2]
    nr_hugepages_store(two.begin(), SMALL, 1, None)
    assert sum(two.small.nr) == 1
    assert two.small.nr == [0, 1]  # freed: node 0, 1, 0


def test_failed_turn_falls_to_the_next_node(two: Lab) -> None:
    assert nr_hugepages_store(two.begin(nth=3), SMALL, 4, None) == 0
    assert two.points() == ["NMASK", "HP", "HP", "HP", "HP", "HP"]
    # Node 0; node 1 fails, so node 0; node 1; node 0.
    assert two.small.nr == [3, 1]


def test_exhausted_node_leaves_the_other(two: Lab) -> None:
    nr_hugepages_store(two.begin(), SMALL, 1 << 20, 0)
    full = two.small.nr[0]
    assert nr_hugepages_store(two.begin(), SMALL, full + 3, None) == 0
    assert two.small.nr == [full, 3]


def test_one_node_only(two: Lab) -> None:
    nr_hugepages_store(two.begin(), SMALL, 4, None)
    assert nr_hugepages_store(two.begin(), SMALL, 5, 1) == 0
    assert two.small.nr == [2, 5]
    assert two.small.max_huge_pages == 7
    assert nr_hugepages_store(two.begin(), SMALL, 0, 0) == 0
    assert two.small.nr == [0, 5]
    assert two.free_list(two.small, 1)[0] == min(two.small.free[1]) + 2 * 512


def test_shrink_takes_the_list_head_and_restores_in_reverse(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 4, None)
    nr_hugepages_store(lab.begin(), SMALL, 1, None)
    assert lab.paths.calls == [("restore_folios", HEADS[2::-1])]
    assert lab.free_list(lab.small) == [HEADS[3]]


def test_pages_in_use_become_surplus_and_persistent_again(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 4, None)
    used: list[Folio] = []
    hugetlb_map(lab.begin(), SMALL, 3, None, used)
    assert nr_hugepages_store(lab.begin(), SMALL, 1, None) == 0
    assert lab.counts(lab.small) == (3, 0, 2, 1)
    assert nr_hugepages_store(lab.begin(), SMALL, 2, None) == 0
    assert lab.counts(lab.small) == (3, 0, 1, 2)
    assert lab.points() == ["NMASK"]  # taken from surplus
    hugetlb_unmap(lab.begin(), SMALL, used)
    assert lab.counts(lab.small) == (2, 2, 0, 2)


def test_surplus_of_another_node_stays(two: Lab) -> None:
    nr_hugepages_store(two.begin(), SMALL, 1, 0)
    used: list[Folio] = []
    hugetlb_map(two.begin(), SMALL, 1, None, used)
    nr_hugepages_store(two.begin(), SMALL, 0, 0)
    assert two.small.surplus == [1, 0]
    nr_hugepages_store(two.begin(), SMALL, 1, 1)
    assert two.small.surplus == [1, 0]
    assert two.small.nr == [1, 1]


def test_failed_restore_leaves_free_surplus(lab: Lab) -> None:
    """I7: nr is the same, surplus one more, the write succeeds."""
    nr_hugepages_store(lab.begin(), SMALL, 1, None)
    folio = lab.small.folios[FIRST]
    folio.cma = True
    lab.paths.fail_restores[FIRST] = ALWAYS
    assert nr_hugepages_store(lab.begin(), SMALL, 0, None) == 0
    assert lab.counts(lab.small) == (1, 1, 1, 0)
    assert folio.vmemmap_optimized
    assert folio.hugetlb
    assert not folio.cma  # the flag word was reset


def test_error_in_the_middle_of_a_batch(lab: Lab) -> None:
    """3.11: free what was restored and try again; with nothing restored go one by one to the first success."""
    nr_hugepages_store(lab.begin(), SMALL, 4, None)
    bad = HEADS[1]  # the list is 3, 2, 1, 0
    lab.paths.fail_restores[bad] = ALWAYS
    assert nr_hugepages_store(lab.begin(), SMALL, 0, None) == 0
    assert lab.paths.calls == [
        ("restore_folios", HEADS[3::-1]),
        ("restore_folios", HEADS[1::-1]),
        ("restore", [HEADS[1]]),
        ("restore", [HEADS[0]]),
        ("restore_folios", []),
    ]
    assert lab.counts(lab.small) == (1, 1, 1, 0)
    assert lab.free_list(lab.small) == [bad]


def test_free_surplus_is_not_subtracted_twice(lab: Lab) -> None:
    """persistent_free = free - surplus where free exceeds persistent, so the last persistent page can be freed."""
    nr_hugepages_store(lab.begin(), SMALL, 4, None)
    lab.paths.fail_restores = {HEADS[0]: 3, HEADS[1]: 3, HEADS[2]: 3}
    nr_hugepages_store(lab.begin(), SMALL, 1, None)
    assert lab.counts(lab.small) == (4, 4, 3, 1)
    lab.paths.fail_restores.clear()
    nr_hugepages_store(lab.begin(), SMALL, 0, None)
    assert lab.counts(lab.small) == (3, 3, 3, 0)


def test_after_one_success_the_rest_goes_in_bulk_again(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 4, None)
    lab.paths.fail_restores[HEADS[3]] = ALWAYS  # the first of the list
    nr_hugepages_store(lab.begin(), SMALL, 0, None)
    assert lab.paths.calls == [
        ("restore_folios", HEADS[3::-1]),
        ("restore", [HEADS[3]]),
        ("restore", [HEADS[2]]),
        ("restore_folios", HEADS[1::-1]),
    ]
    assert lab.counts(lab.small) == (1, 1, 1, 0)


def test_free_surplus_is_kept_from_the_floor(lab: Lab) -> None:
    """nr 6, two in use, 4 free of which 3 are surplus: 1 persistent one is free, so the floor is 0 + 3 - 1 = 2."""
    nr_hugepages_store(lab.begin(), SMALL, 6, None)
    hugetlb_map(lab.begin(), SMALL, 2, None, [])
    lab.paths.fail_restores = dict.fromkeys(HEADS[2:5], ALWAYS)
    nr_hugepages_store(lab.begin(), SMALL, 3, None)
    assert lab.counts(lab.small) == (6, 4, 3, 3)
    lab.paths.fail_restores.clear()
    nr_hugepages_store(lab.begin(), SMALL, 0, None)
    # One is freed, the two persistent ones that are left become surplus.
    assert lab.counts(lab.small) == (5, 3, 5, 0)


def test_unreliable_poison_is_leaked(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 2, None)
    before = lab.free_pages()
    lab.small.folios[HEADS[0]].hwpoison = lab.small.folios[HEADS[0]].raw_hwp_unreliable = True
    nr_hugepages_store(lab.begin(), SMALL, 0, None)
    assert lab.counts(lab.small) == (0, 0, 0, 0)
    assert lab.free_pages() == before + 512


@pytest.mark.parametrize(("order", "movable"), [(SMALL, True), (GIANT, False)])
def test_only_ordinary_pages_come_from_the_movable_zone(lab: Lab, order: int, movable: bool) -> None:
    lo, hi = 0x200000, 0x280000
    lab.k.tables.set(lo // 64, hi // 64, Leaf(1 << 40))
    lab.k.pages.online(lab.k.nodes[0].zones[ZONE_MOVABLE], lo, hi, free=True)
    nr_hugepages_store(lab.begin(), order, 1, None)
    assert [pfn >= lo for pfn in lab.k.hstates[order].folios] == [movable]


def test_gigantic_pages_are_aligned_and_from_free_memory(lab: Lab) -> None:
    assert nr_hugepages_store(lab.begin(), GIANT, 8, None) == 0
    # 4G to 6G is two; of the 2G at 0 the first 1G holds the kernel.
    assert lab.free_list(lab.giant) == [0x100000, 0x140000, 0x40000]


def test_overcommit_is_only_a_number(lab: Lab) -> None:
    assert nr_overcommit_hugepages_store(lab.begin(), SMALL, 7) == 0
    assert lab.small.nr_overcommit == 7
    assert lab.counts(lab.small) == (0, 0, 0, 0)
    assert lab.points() == []


def test_touched_tells_of_changes(lab: Lab) -> None:
    for count in (3, 1):
        lab.small.touched = False
        nr_hugepages_store(lab.begin(), SMALL, count, None)
        assert lab.small.touched


def test_in_turns_is_the_same_as_one_by_one() -> None:
    """Growing by many does what growing by one as often does, but for the batch."""
    for nth in range(6):
        many, single = (Lab(Machine(ram=8 << 30, nodes=2)) for _ in range(2))
        nr_hugepages_store(many.begin(nth=nth and nth + 1), SMALL, 6, None)
        for i in range(1, 7):
            # Point 1 of each single write is its node mask.
            nr_hugepages_store(single.begin(nth=2 if i == nth else 0), SMALL, i, None)
        assert many.small.nr == single.small.nr
        assert sorted(many.small.folios) == sorted(single.small.folios)
