"""Boot gigantic pages from CMA areas, as the framework takes them (mm/hugetlb.c and mm/hugetlb_cma.c of the -mm tree;
unified-framework.md 1.3 patches 12, 15, 18 and 3.2, row "taken from memblock/early CMA").

4 GiB of RAM lie at 0..2 GiB and 4..6 GiB; an area is made bottom up from 4 GiB (cma_alloc_mem).
"""

import pytest

from candidate.framework import UnifiedFramework
from mm.boot import boot
from mm.cma import MIGRATE_CMA
from mm.hugetlb import dissolve_free_hugetlb_folio
from mm.hugetlb_cma import cmdline_parse_hugetlb_cma
from mm.hugetlb_sysfs import demote_store, nr_hugepages_store
from mm.kernel import MIGRATE_MOVABLE, BootRequest, Kernel
from mm.machine import Machine
from mm.page import Compound, Tail
from mm.page_alloc import OWNER_HUGETLB, OWNER_PAGES_MOVABLE, pages_alloc

GB = 1 << 30
G = 1 << 18
"""Pages of 1 GiB."""


def kernel(profile, areas, requests, **machine):
    """Booted with areas (bytes, node or None, hugetlb_cma_only)."""
    machine.setdefault("ram", 4 * GB)
    k = Kernel(Machine(**machine), lambda k: UnifiedFramework(k, profile))
    for size, nid, only in areas:
        assert cmdline_parse_hugetlb_cma(k, size, nid, only) == 0
    k.boot_requests += [BootRequest(18, count, nid) for count, nid in requests]
    boot(k)
    return k


def managed(k):
    return sum(zone.managed_pages for node in k.nodes for zone in node.zones)


def folios(k):
    return list(k.hstates[18].folios.values())


@pytest.mark.parametrize("deferred", [False, True])
def test_pages_of_an_area_are_optimized_before_their_memmap_is_made(profile, deferred):
    """The order is set for them as for pages from memblock: one private page each, T for the rest, read-only; the order
    is used up; S = 64 struct pages of each are written, 63 of them twice if none is left to later (3.6)."""
    k = kernel(profile, [(2 * GB, None, True)], [(1, None)], deferred_init=deferred)
    (folio,) = folios(k)
    assert (folio.pfn, folio.cma, folio.vmemmap_optimized) == (4 * G, True, True)
    assert k.paths.orders.items() == []
    assert k.vmstat.nr_memmap_boot + k.vmstat.nr_memmap == 32 * 512 - 4095
    ((key, tail),) = k.paths.zone_tails().items()
    assert key == (folio.zone.key, 18)
    lo = folio.pfn // 64
    assert [(s, e, m.frame, m.rw) for s, e, m in k.tables.runs(lo + 1, lo + 4096)] == [(lo + 1, lo + 4096, tail, False)]
    assert k.memmap.content(folio.pfn + 63) == Compound(18, 0, 0, folio.zone.idx, "hugetlb")
    assert k.memmap.content(folio.pfn + 64) == Tail(18, 0, folio.zone.idx)
    assert k.pages.owners.get(folio.pfn) == OWNER_HUGETLB
    # The zone's first section is never deferred: its struct pages are written twice in either case.
    assert k.vmstat.struct_pages_initialized == 4 * G - G + 64 + 63


@pytest.mark.parametrize("enabled", [False, True])
def test_its_pageblocks_and_managed_pages(profile, enabled):
    """init_cma_pageblock makes its blocks MIGRATE_CMA and raises managed_pages and the zone's CMA pages; gathering
    does not raise them too. What is left of the area goes to the buddy allocator as CMA, ordinary memory stays MOVABLE.
    """
    k = kernel(profile, [(2 * GB, None, True)], [(1, None)], hugetlb_free_vmemmap=enabled)
    (folio,) = folios(k)
    zone = folio.zone
    assert zone.cma_pages == 2 * G
    assert zone.managed_pages == 2 * G
    assert zone.free_pages(k.pages.block_order) == G
    blocks = 4 * G >> 9, 6 * G >> 9
    assert k.pageblocks.runs(*blocks) == [(*blocks, MIGRATE_CMA)]
    assert k.pageblocks.runs(0, 2 * G >> 9) == [(0, 2 * G >> 9, MIGRATE_MOVABLE)]
    # With HVO the memmap of eight sections was not needed, but for a head, T and eight tables.
    saved = 8 * 512 - 1 - 1 - 8 if enabled else 0
    assert managed(k) == 4 * G - 32 * 512 + saved - _boot_tables(profile)


def _boot_tables(profile):
    """What the boot takes besides memmap: the same without areas."""
    k = kernel(profile, [], [])
    return 4 * G - 32 * 512 - managed(k)


def test_without_hvo_gathering_writes_all_tails(profile):
    """3.6: no order, the whole memmap, and the tail struct pages from S on are written when the page is gathered."""
    k = kernel(profile, [(GB, None, True)], [(1, None)], hugetlb_free_vmemmap=False)
    (folio,) = folios(k)
    assert (folio.cma, folio.vmemmap_optimized) == (True, False)
    assert k.vmstat.nr_memmap_boot == 32 * 512
    assert k.memmap.content(folio.end_pfn - 1) == Compound(18, 0, 0, folio.zone.idx, "hugetlb")


@pytest.mark.parametrize("count", [1, 3])
def test_none_at_boot_unless_the_areas_are_for_all(profile, count):
    """hugetlb_hstate_alloc_pages: with areas but without hugetlb_cma_only no gigantic page is taken at boot; the pool
    grows from the area later, by pages that are optimized by remapping."""
    k = kernel(profile, [(GB, None, False)], [(count, None)])
    assert folios(k) == []
    assert k.paths.zone_tails() == {}
    assert k.paths.orders.items() == []
    assert k.vmstat.nr_memmap_boot == 32 * 512
    assert nr_hugepages_store(k, 18, 1, None) == 0
    (folio,) = folios(k)
    assert (folio.pfn, folio.cma, folio.vmemmap_optimized) == (4 * G, True, True)
    assert k.vmstat.nr_memmap_boot + k.vmstat.nr_memmap == 32 * 512 - 4095


def test_an_area_that_failed_is_none(profile):
    """hugetlb_cma_reserve leaves size 0 where no node has an area, and hugetlb_cma_validate_params drops `only`: boot
    pages come from memblock, top down."""
    k = kernel(profile, [(64 * GB, None, True)], [(1, None)])
    (folio,) = folios(k)
    assert (folio.pfn, folio.cma) == (5 * G, False)
    assert folio.zone.cma_pages == 0


def test_only_as_many_as_the_area_holds(profile):
    """cma_reserve_early gives the area's pages from the bottom; when it has none left, the request ends there."""
    k = kernel(profile, [(2 * GB, None, True)], [(5, None)], ram=8 * GB)
    assert sorted(folio.pfn for folio in folios(k)) == [4 * G, 5 * G]
    assert k.hstates[18].max_huge_pages == 2
    assert all(folio.cma for folio in folios(k))


def test_nodes(profile):
    """A request for a node is exact; round robin falls back to the other node's area (hugetlb_cma_alloc_bootmem). Each
    page is listed under the node it lies on."""
    machine = {"ram": 16 * GB, "nodes": 2}
    k = kernel(profile, [(2 * GB, 1, True)], [(3, 0)], **machine)
    assert folios(k) == []
    k = kernel(profile, [(2 * GB, 1, True)], [(3, None)], **machine)
    assert [folio.nid for folio in folios(k)] == [1, 1]
    k = kernel(profile, [(4 * GB, None, True)], [(3, None)], **machine)
    assert sorted(folio.nid for folio in folios(k)) == [0, 0, 1]


def test_its_memory_goes_back_to_the_area(profile):
    """Dissolved, the page gets its memmap back (V - 1 run-time pages) and is the area's again: movable pages may live
    in it, and the pool may have it back."""
    k = kernel(profile, [(GB, None, True)], [(1, None)])
    (folio,) = folios(k)
    k.faults.begin()
    assert dissolve_free_hugetlb_folio(k, folio.pfn) == 0
    assert k.vmstat.nr_memmap == 4095
    assert k.pages.is_free(4 * G, 5 * G)
    assert k.hugetlb_cma.areas[0].available_count == G
    k.faults.begin()
    extents = pages_alloc(k, 0, sum(zone.free_pages(k.pages.block_order) for zone in k.nodes[0].zones) - 8, True)
    assert not isinstance(extents, int)
    assert k.pages.owners.get(4 * G) == OWNER_PAGES_MOVABLE


def test_its_pieces_are_optimized_each(profile):
    """Demotion: 512 pages of 2M, each with one private page and 7 that map T of its own order."""
    k = kernel(profile, [(GB, None, True)], [(1, None)])
    k.faults.begin()
    assert demote_store(k, 18, 1, None) == 0
    pieces = list(k.hstates[9].folios.values())
    assert len(pieces) == 512
    assert all(piece.vmemmap_optimized and piece.cma for piece in pieces)
    assert k.vmstat.nr_memmap_boot + k.vmstat.nr_memmap == 32 * 512 - 512 * 7
    assert set(k.paths.zone_tails()) == {(pieces[0].zone.key, 9), (pieces[0].zone.key, 18)}
