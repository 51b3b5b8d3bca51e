"""CMA areas for gigantic pages (mm/cma.c, mm/hugetlb_cma.c, mm/hugetlb.c, mm/page_isolation.c of Linux 7.3)."""

from __future__ import annotations

import pytest

from mm.boot import boot
from mm.cma import list_insert_sorted
from mm.contig import pages_contig
from mm.errno import EBUSY, ENOMEM
from mm.folio import Folio
from mm.hugetlb import dissolve_free_hugetlb_folio, hugetlb_map
from mm.hugetlb_cma import cmdline_parse_hugetlb_cma
from mm.hugetlb_sysfs import demote_store, nr_hugepages_store, nr_overcommit_hugepages_store
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.memory_online import memory_block_offline
from mm.page_alloc import OWNER_HUGETLB, OWNER_PAGES_MOVABLE, pages_alloc
from reference.paths import SeparatePaths

M, G = 1 << 20, 1 << 30
SMALL, GIANT = 9, 18
PAGES = 1 << GIANT
"""Pages of 1G."""
Line = tuple[int, int | None, bool]
"""size=, node=, only=."""


def kernel(*lines: Line, requests: tuple[BootRequest, ...] = (), **machine: object) -> Kernel:
    """A booted kernel with these areas on its command line."""
    k = Kernel(Machine(**machine), SeparatePaths)  # type: ignore[arg-type]
    for size, nid, only in lines:
        assert cmdline_parse_hugetlb_cma(k, size, nid, only) == 0
    k.boot_requests += requests
    boot(k)
    return k


def areas(k: Kernel) -> list[list[tuple[int, int]]]:
    """The ranges of each node's area, in gigabytes."""
    return [
        [] if cma is None else [(cmr.base_pfn / PAGES, cmr.count / PAGES) for cmr in cma.ranges]
        for cma in k.hugetlb_cma.areas
    ]


def free_cma(k: Kernel) -> int:
    return sum(zone.cma.total for node in k.nodes for zone in node.zones)


def managed(k: Kernel) -> int:
    return sum(zone.managed_pages for node in k.nodes for zone in node.zones)


def place(k: Kernel, nid: int) -> dict[int, bool]:
    """Head pfn, in gigabytes, and cma flag of the gigantic pages of a node."""
    return {folio.pfn / PAGES: folio.cma for folio in k.hstates[GIANT].folios.values() if folio.nid == nid}


# -- where areas are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ram", "size", "want"),
    [
        (6 * G, 2 * G, [(4.0, 2.0)]),  # bottom up from 4G
        (6 * G, 3 * G, [(4.0, 3.0)]),
        (6 * G, 4 * G, [(4.0, 4.0)]),
        (2 * G, 1 * G, [(1.0, 1.0)]),  # top down where nothing ends behind 4G + size
        (2 * G, 2 * G, []),  # the image is in the way, and no range lies above 4G
        (6 * G, 5 * G, []),
        (2 * G, 1 << 62, []),  # "exceeds limit", -EINVAL
    ],
)
def test_one_range(ram, size, want):
    """cma_alloc_mem."""
    k = kernel((size, None, False), ram=ram)
    assert areas(k) == [want]
    assert k.hugetlb_cma.size == (size if want else 0)
    n = sum(int(count) for _, count in want) * PAGES
    assert free_cma(k) == n
    assert sum(zone.cma_pages for zone in k.nodes[0].zones) == n
    assert managed(k) == managed(kernel(ram=ram))


@pytest.mark.parametrize(
    ("lines", "want"),
    [
        # per_node = round_up(ceil(3G / 2), 1G); the last node gets what is left
        ([(3 * G, None, False)], [2.0, 1.0]),
        ([(1 * G, None, False)], [1.0, 0.0]),
        # a node's size is taken as it is, and forgets what was said for all; and the other way round
        ([(3 * G, None, False), (1 * G, 1, False)], [0.0, 1.0]),
        ([(1 * G, 0, False), (2 * G, 1, False)], [1.0, 2.0]),
        ([(1 * G, 1, False), (2 * G, 1, False)], [0.0, 2.0]),
        ([(1 * G, 1, False), (4 * G, None, False)], [2.0, 2.0]),
        # "must be a multiple of 1024 MiB"
        ([(1536 * M, 0, False), (1 * G, 1, False)], [0.0, 1.0]),
        ([(1536 * M, None, False)], [0.0, 0.0]),
        ([(0, 0, False)], [0.0, 0.0]),
    ],
)
def test_who_gets_how_much(lines, want):
    """cmdline_parse_hugetlb_cma, hugetlb_cma_reserve."""
    k = kernel(*lines, ram=12 * G, nodes=2)
    assert [sum(count for _, count in area) for area in areas(k)] == want


@pytest.mark.parametrize(
    ("lines", "want"),
    [
        ([(50, None)], [3.0, 3.0]),
        ([(20, None)], [1.0, 1.0]),  # 2.4G are rounded down
        ([(5, None)], [0.0, 0.0]),
        ([(100, None)], [0.0, 6.0]),  # 12G, 6G a node: the image is in the way on the first
        ([(50, 0)], [3.0, 0.0]),
        ([(20, 1)], [0.0, 1.0]),  # 1.2G of the node's 6G
        ([(34, 0), (50, 1)], [2.0, 3.0]),
        ([(34, 0), (50, None)], [3.0, 3.0]),
        ([(50, None), (34, 0)], [2.0, 0.0]),
        ([(50, None), (101, None)], [3.0, 3.0]),  # "invalid percentage"
        ([(50, None), (101, 0)], [0.0, 0.0]),  # seen to be invalid when the 50 % are forgotten
    ],
)
def test_percentages(lines, want):
    """cmdline_parse_hugetlb_cma, hugetlb_cma_reserve, on two nodes of 6G."""
    k = Kernel(Machine(ram=12 * G, nodes=2), SeparatePaths)
    for percent, nid in lines:
        assert cmdline_parse_hugetlb_cma(k, 0, nid, False, percent) == 0
    boot(k)
    assert [sum(count for _, count in area) for area in areas(k)] == want


def test_a_size_and_a_percentage_replace_one_another():
    """One of each node; a size is not rounded down as a percentage is, but dropped."""
    k = Kernel(Machine(ram=12 * G, nodes=2), SeparatePaths)
    cmdline_parse_hugetlb_cma(k, 0, 0, False, 60)
    cmdline_parse_hugetlb_cma(k, 1536 * M, 0, False)
    cmdline_parse_hugetlb_cma(k, 1536 * M, 1, False)
    cmdline_parse_hugetlb_cma(k, 0, 1, False, 25)  # 1.5G as well
    boot(k)
    assert [sum(count for _, count in area) for area in areas(k)] == [0.0, 1.0]


def test_several_ranges_come_in_the_order_of_a_sort_that_is_none():
    """cma_declare_contiguous_multi on a node whose memory above 4G are four pieces of 1G, at 4, 6, 8 and 10G.

    Of equal sizes, each is inserted before the last one: 6, 8, 10, 4. Three of them are moved, each before the first
    with a lower address: 10, 8, 6.
    """
    k = kernel((3 * G, 0, False), ram=10 * G, nodes=2, interleave=G)
    assert areas(k)[0] == [(10.0, 1.0), (8.0, 1.0), (6.0, 1.0)]
    assert free_cma(k) == 3 * PAGES
    nr_hugepages_store(k, GIANT, 2, 0)
    assert place(k, 0) == {10.0: True, 8.0: True}


def test_list_insert_sorted():
    """Before the first that the comparison is true of; else before the last, and not behind it."""
    ranges: list[tuple[int, int]] = []
    for new in ((0, 10), (0, 5), (0, 20), (0, 1)):
        list_insert_sorted(ranges, new, lambda old, other: old[1] > other[1])
    assert [size for _, size in ranges] == [1, 5, 20, 10]


@pytest.mark.parametrize(("arch", "ram"), [("arm64", 4 * G), ("riscv64", 3 * G)])
def test_an_area_that_spans_zones_is_ordinary_memory(arch, ram):
    """RAM from 1G (arm64) or 2G up, a zone ends at 4G; 2G top down are 3G to 5G. cma_validate_zones, and the error path
    of cma_activate_area."""
    k = kernel((2 * G, None, False), arch=arch, ram=ram)
    assert len(k.cma.areas) == 1
    assert (areas(k), k.hugetlb_cma.size, free_cma(k)) == ([[]], 0, 0)
    other = kernel(arch=arch, ram=ram)
    assert managed(k) == managed(other)
    # Not zone by zone: the memmap lies elsewhere.
    assert sum(z.free_pages(9) for z in k.nodes[0].zones) == sum(z.free_pages(9) for z in other.nodes[0].zones)


@pytest.mark.parametrize(
    ("arch", "page", "gigabytes"),
    [("arm64", 1 << 12, 1), ("arm64", 1 << 14, 1), ("arm64", 1 << 16, 16), ("riscv64", 1 << 12, 1), ("s390x", 4096, 2)],
)
def test_the_unit_is_arch_hugetlb_cma_order(arch, page, gigabytes):
    """arch/*/mm/hugetlbpage.c: PUD_SIZE; on arm64 CONT_PMD_SIZE without PUD mappings, 32 times 32M or 512M."""
    unit = gigabytes * G
    k = kernel((unit, None, False), arch=arch, page=page, ram=40 * G)
    assert k.hugetlb_cma.areas[0] is not None
    assert k.hugetlb_cma.areas[0].count * page == unit
    assert kernel((unit // 2, None, False), arch=arch, page=page, ram=40 * G).hugetlb_cma.size == 0


def test_where_it_is_not_supported_the_size_stays():
    """hugetlb_cma_reserve returns with hugetlb_cma_size set; powerpc's hash MMU has no order for it."""
    k = kernel((2 * G, None, True), arch="ppc64_hash", page=1 << 16, ram=8 * G)
    assert areas(k) == [[]]
    assert (k.hugetlb_cma.size, k.hugetlb_cma.only) == (2 * G, True)


# -- gigantic pages -------------------------------------------------------------------------------------------------


def test_gigantic_pages_come_from_the_area_first():
    """alloc_gigantic_frozen_folio; the lowest of the area first (cma_range_alloc), then alloc_contig_pages."""
    k = kernel((2 * G, None, False), ram=8 * G)
    nr_hugepages_store(k, GIANT, 3, None)
    places = place(k, 0)
    assert sorted(pfn for pfn, cma in places.items() if cma) == [4.0, 5.0]
    [other] = [pfn for pfn, cma in places.items() if not cma]
    assert not 4.0 <= other < 6.0
    assert free_cma(k) == 0


def test_hugetlb_cma_only():
    """hugetlb_cma_exclusive_alloc; without an area it means nothing (hugetlb_cma_validate_params)."""
    k = kernel((2 * G, None, True), ram=8 * G)
    nr_hugepages_store(k, GIANT, 4, None)
    assert place(k, 0) == {4.0: True, 5.0: True}
    k = kernel((512 * M, None, True), ram=8 * G)
    assert not k.hugetlb_cma.only
    nr_hugepages_store(k, GIANT, 2, None)
    assert k.hstates[GIANT].nr == [2]


def test_this_node_only_or_any():
    """Pool growth asks each node for its own (__GFP_THISNODE); a surplus page may come from another node's area."""
    k = kernel((1 * G, 1, True), ram=12 * G, nodes=2)
    nr_hugepages_store(k, GIANT, 2, 0)
    assert k.hstates[GIANT].nr == [0, 0]
    nr_overcommit_hugepages_store(k, GIANT, 2)
    used: list[Folio] = []
    assert hugetlb_map(k, GIANT, 1, None, used) == 0
    assert [(folio.nid, folio.cma) for folio in used] == [(1, True)]
    assert hugetlb_map(k, GIANT, 1, None, used) == -ENOMEM


def test_what_is_freed_is_the_areas_again():
    """hugetlb_cma_free_frozen_folio: bitmap, available count, and free pages of type MIGRATE_CMA."""
    k = kernel((2 * G, None, True), ram=8 * G)
    cma = k.hugetlb_cma.areas[0]
    assert cma is not None
    for _ in range(2):
        nr_hugepages_store(k, GIANT, 2, None)
        assert (cma.available_count, cma.ranges[0].bitmap.total, free_cma(k)) == (0, 2 * PAGES, 0)
        nr_hugepages_store(k, GIANT, 0, None)
        assert (cma.available_count, cma.ranges[0].bitmap.total, free_cma(k)) == (2 * PAGES, 0, 2 * PAGES)


def test_pieces_of_a_demoted_page_go_back_one_by_one():
    """demote_free_hugetlb_folios copies the flag; order_per_bit is HUGETLB_PAGE_ORDER. Only when the whole gigabyte is
    back can it be had again."""
    k = kernel((1 * G, None, True), ram=8 * G)
    cma = k.hugetlb_cma.areas[0]
    assert cma is not None
    nr_hugepages_store(k, GIANT, 1, None)
    assert demote_store(k, GIANT, 1, None) == 0
    assert all(folio.cma for folio in k.hstates[SMALL].folios.values())
    assert cma.available_count == 0
    assert dissolve_free_hugetlb_folio(k, 4 * PAGES + 512) == 0
    assert cma.available_count == free_cma(k) == 512
    assert cma.ranges[0].bitmap.runs(4 * PAGES, 5 * PAGES)[0] == (4 * PAGES, 4 * PAGES + 512)
    nr_hugepages_store(k, GIANT, 1, None)
    assert k.hstates[GIANT].nr == [0]
    nr_hugepages_store(k, SMALL, 0, None)
    nr_hugepages_store(k, GIANT, 1, None)
    assert place(k, 0) == {4.0: True}


def test_the_flag_is_lost_when_a_restore_fails():
    """separate-paths.md 3.11: add_hugetlb_folio resets the flag word. The page is freed as any later; the area's bitmap
    keeps it, and the area never hands it out again."""
    k = kernel((1 * G, None, True), ram=8 * G)
    cma = k.hugetlb_cma.areas[0]
    assert cma is not None
    nr_hugepages_store(k, GIANT, 1, None)
    k.faults.nth = 1  # RES
    k.faults.begin()
    assert dissolve_free_hugetlb_folio(k, 4 * PAGES) == -ENOMEM
    k.faults.begin()
    assert place(k, 0) == {4.0: False}
    nr_hugepages_store(k, GIANT, 0, None)
    assert (cma.available_count, free_cma(k)) == (0, PAGES)
    nr_hugepages_store(k, GIANT, 1, None)
    assert k.hstates[GIANT].nr == [0]


def test_nothing_small_is_demoted_beside_areas():
    """hugetlb_init_hstates: "we can not demote HUGETLB_PAGE_ORDER or smaller size pages"."""
    k = kernel((1 * G, None, False), ram=8 * G)
    assert (k.hstates[GIANT].demote_order, k.hstates[SMALL].demote_order) == (SMALL, 0)


# -- movable pages --------------------------------------------------------------------------------------------------


def test_only_movable_allocations_live_in_the_area():
    """gfp_to_alloc_flags_cma: ALLOC_CMA for MIGRATE_MOVABLE only."""
    k = kernel((4 * G, None, False), ram=6 * G)
    free = [zone.free_pages(9) for zone in k.nodes[0].zones]
    rest = sum(free) - 4 * PAGES
    assert pages_alloc(k, 0, rest + 1, movable=False) == -ENOMEM
    assert isinstance(pages_alloc(k, 0, rest, movable=False), list)
    assert free_cma(k) == 4 * PAGES
    nr_hugepages_store(k, SMALL, 10, None)  # pages of 2M are movable; their memmap is given up, and more
    assert k.hstates[SMALL].nr == [10]
    assert free_cma(k) == 4 * PAGES - 10 * 512
    assert not any(folio.cma for folio in k.hstates[SMALL].folios.values())


def test_movable_pages_are_moved_away():
    """cma_range_alloc, alloc_contig_frozen_range: the owner finds its pages elsewhere."""
    k = kernel((2 * G, None, False), ram=6 * G)
    normal = k.nodes[0].zones[2]
    extents = pages_alloc(k, 0, normal.free_pages(9) - 2 * PAGES + 100, movable=True)
    assert isinstance(extents, list)
    assert k.pages.owners.get(4 * PAGES) == OWNER_PAGES_MOVABLE
    nr_hugepages_store(k, GIANT, 1, None)
    assert place(k, 0) == {4.0: True}
    assert k.pages.owners.get(4 * PAGES) == OWNER_HUGETLB
    assert not any(4 * PAGES <= pfn < 5 * PAGES for pfn, _ in extents)
    assert all(k.pages.owners.get(pfn) == OWNER_PAGES_MOVABLE for pfn, _ in extents)


def test_a_free_huge_page_in_the_area_is_replaced_and_a_used_one_moves():
    """isolate_or_dissolve_huge_folio; pages of 2M got here as movable ones, without the flag."""
    k = kernel((1 * G, None, True), ram=6 * G)
    normal = k.nodes[0].zones[2]
    held = pages_alloc(k, 0, normal.free_pages(9) - PAGES, movable=True)
    assert isinstance(held, list)
    nr_hugepages_store(k, SMALL, 2, None)
    used: list[Folio] = []
    assert hugetlb_map(k, SMALL, 1, None, used) == 0
    assert {folio.pfn // PAGES for folio in k.hstates[SMALL].folios.values()} == {4}
    nr_hugepages_store(k, GIANT, 1, None)
    assert place(k, 0) == {4.0: True}
    assert k.hstates[SMALL].nr == [2]
    assert used[0].pfn // PAGES != 4


def test_when_they_cannot_move_the_area_gives_nothing():
    """-ENOMEM of the migration ends the search (cma_range_alloc); what could be moved was."""
    k = kernel((1 * G, None, False), ram=2 * G)
    free = sum(zone.free_pages(9) for zone in k.nodes[0].zones)
    extents = pages_alloc(k, 0, free - 10, movable=True)
    assert isinstance(extents, list)
    cma = k.hugetlb_cma.areas[0]
    assert cma is not None
    nr_hugepages_store(k, GIANT, 1, None)
    assert k.hstates[GIANT].nr == [0]
    assert (cma.available_count, cma.ranges[0].bitmap.total) == (PAGES, 0)
    assert sum(n for _, n in extents) == free - 10


def test_nobody_else_takes_pageblocks_of_the_area():
    """has_unmovable_pages: offlining, alloc_contig_range of others, and alloc_contig_pages of gigantic pages."""
    k = kernel((1 * G, None, False), ram=6 * G)
    assert memory_block_offline(k, 4 * G // (128 * M)) == -EBUSY
    assert memory_block_offline(k, 5 * G // (128 * M)) == 0
    assert pages_contig(k, 4 * PAGES + 512, 4 * PAGES + 1024) == -EBUSY
    assert free_cma(k) == PAGES


# -- boot pages -----------------------------------------------------------------------------------------------------


def test_reserved_pages_come_from_the_area_with_only():
    """cma_reserve_early: from the bottom up; init_cma_pageblock makes them managed."""
    k = kernel((2 * G, None, True), requests=(BootRequest(GIANT, 1, None),), ram=8 * G)
    assert place(k, 0) == {4.0: True}
    cma = k.hugetlb_cma.areas[0]
    assert cma is not None
    assert (cma.available_count, cma.ranges[0].bitmap.items()) == (PAGES, [(4 * PAGES, 5 * PAGES)])
    assert k.nodes[0].zones[2].cma_pages == 2 * PAGES
    assert free_cma(k) == PAGES
    assert {k.pageblocks.get(pfn >> 9) for pfn in (4 * PAGES, 5 * PAGES - 1, 5 * PAGES, 6 * PAGES - 1)} == {"cma"}
    assert k.pageblocks.get(6 * PAGES >> 9) == "movable"
    nr_hugepages_store(k, GIANT, 0, None)
    assert (cma.available_count, free_cma(k)) == (2 * PAGES, 2 * PAGES)
    nr_hugepages_store(k, GIANT, 2, None)
    assert place(k, 0) == {4.0: True, 5.0: True}


def test_another_nodes_area_serves_a_boot_page_unless_the_node_is_given():
    """hugetlb_cma_alloc_bootmem: node_exact."""
    only_on_1 = ((2 * G, 1, True),)
    k = kernel(*only_on_1, requests=(BootRequest(GIANT, 3, None),), ram=12 * G, nodes=2)
    assert (k.hstates[GIANT].nr, k.hstates[GIANT].max_huge_pages) == ([0, 2], 2)
    k = kernel(*only_on_1, requests=(BootRequest(GIANT, 1, 0), BootRequest(GIANT, 1, 1)), ram=12 * G, nodes=2)
    assert (k.hstates[GIANT].nr, k.hstates[GIANT].max_huge_pages) == ([0, 1], 1)


def test_without_only_reserving_gigantic_pages_is_skipped():
    """hugetlb_hstate_alloc_pages: "hugetlb_cma is enabled, skip boot time allocation"; max_huge_pages stays."""
    requests = (BootRequest(GIANT, 2, None), BootRequest(SMALL, 5, None))
    k = kernel((1 * G, None, False), requests=requests, ram=8 * G)
    assert (k.hstates[GIANT].nr, k.hstates[GIANT].max_huge_pages) == ([0], 2)
    assert k.hstates[SMALL].nr == [5]
