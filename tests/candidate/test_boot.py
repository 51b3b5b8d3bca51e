"""unified-framework.md 3.2, 3.5, 3.6 and 3.11: boot."""

import pytest

from mm.kernel import MIGRATE_MOVABLE, BootRequest
from mm.mmzone import ZONE_DMA32, ZONE_NORMAL
from mm.page import Compound, Plain, Tail
from mm.page_alloc import OWNER_TAIL_BOOT

G = 1 << 18
"""Pages of 1 GiB."""


def folios(b):
    return list(b.k.hstates[18].folios.values())


def test_boot_without_requests(make):
    b = make()
    assert b.total == 32 * 512
    assert b.paths.zone_tails() == {}
    assert b.paths.orders.items() == []
    b.check()


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_gigantic_page_is_optimized_at_boot(make, deferred, count):
    """3.5, 3.11: one private page, T(zone) read-only after gathering; 3.2: the order is used up; 4: S = 64 struct pages
    are initialised for the page, T's are valid from birth."""
    b = make([BootRequest(18, count, None)], deferred_init=deferred)
    assert len(folios(b)) == count
    assert b.paths.orders.items() == []
    for folio in folios(b):
        assert folio.vmemmap_optimized
        assert folio.hugetlb
        tail = b.paths.zone_tails()[folio.zone.key, 18]
        slots = [(f, w) for _, f, w in b.slots(folio.pfn // 64, folio.end_pfn // 64)]
        assert slots[0][1]
        assert slots[0][0] != tail
        assert slots[1:] == [(tail, False)] * 4095
        assert b.k.memmap.content(folio.pfn) == Compound(18, 0, 0, folio.zone.idx, "hugetlb")
        assert b.k.memmap.content(folio.pfn + 63) == Compound(18, 0, 0, folio.zone.idx, "hugetlb")
        assert b.k.memmap.content(folio.pfn + 64) == Tail(18, 0, folio.zone.idx)
        assert b.k.pages.owners.get(tail) == OWNER_TAIL_BOOT
        blocks = folio.pfn >> 9, folio.end_pfn >> 9
        assert b.k.pageblocks.runs(*blocks) == [(*blocks, MIGRATE_MOVABLE)]
    # memmap_init_range wrote the first 64 of those outside the deferred part; gathering writes 63 of them again.
    again = sum(not deferred or folio.pfn == 4 * G for folio in folios(b)) * 63
    assert b.k.vmstat.struct_pages_initialized == 4 * G - count * (G - 64) + again
    b.check(folios(b))


@pytest.mark.parametrize("deferred", [False, True])
def test_gigantic_page_without_hvo(make, deferred):
    """3.6: no order is set; gathering writes all tails."""
    b = make([BootRequest(18, 1, None)], hugetlb_free_vmemmap=False, deferred_init=deferred)
    (folio,) = folios(b)
    assert not folio.vmemmap_optimized
    assert b.total == 32 * 512
    assert b.paths.zone_tails() == {}
    assert b.k.memmap.content(folio.pfn + G - 1) == Compound(18, 0, 0, folio.zone.idx, "hugetlb")
    written = 4 * G if deferred else 4 * G + G - 1
    assert b.k.vmstat.struct_pages_initialized == written
    b.check(folios(b))


def test_every_struct_page_is_initialised(make):
    """3.6: ordinary RAM, before and behind the deferred part, and the rest of a section that RAM fills in part."""
    for deferred in (False, True):
        b = make(ram=(512 << 20) + (2 << 20), deferred_init=deferred)
        pages = (514 << 20) // 4096
        assert b.k.memmap.view(0, 4096) == [(0, 4096, Plain(0, 0))]
        assert b.k.memmap.view(4096, 5 * 32768) == [(4096, 5 * 32768, Plain(0, ZONE_DMA32))]
        assert b.k.vmstat.struct_pages_initialized == 5 * 32768
        assert b.k.pageblocks.runs(0, pages >> 9) == [(0, pages >> 9, MIGRATE_MOVABLE)]
        assert b.total == 5 * 512
        b.check()


def test_managed_pages(make):
    """Gathering gives the page back to its zone's managed pages."""
    b = make([BootRequest(18, 1, None)])
    (folio,) = folios(b)
    plain = make()
    zone, other = b.k.nodes[0].zones[folio.zone.idx], plain.k.nodes[0].zones[folio.zone.idx]
    # 8 sections' leaves were not needed, but for one head, one shared tail and eight PTE tables.
    assert zone.managed_pages - other.managed_pages == 8 * 512 - 1 - 1 - 8


def test_reservation_by_node(make):
    """Requests for a node are exact; round robin falls back to any node; a failure ends the request."""
    b = make([BootRequest(18, 9, 0)], ram=8 << 30, nodes=2)
    assert [f.nid for f in folios(b)] == [0] * len(folios(b))
    got = len(folios(b))
    assert 0 < got < 5
    assert b.k.hstates[18].max_huge_pages == got
    b.check(folios(b))
    b = make([BootRequest(18, 4, None)], ram=8 << 30, nodes=2)
    assert sorted(f.nid for f in folios(b)) == [0, 0, 1, 1]
    assert len(b.paths.zone_tails()) == len({f.zone.key for f in folios(b)})
    b.check(folios(b))
    b = make([BootRequest(18, 99, None)], ram=8 << 30, nodes=2)
    assert b.k.hstates[18].max_huge_pages == len(folios(b)) < 8
    b.check(folios(b))


def test_first_reserved_is_first_out(make):
    """The list of folios is built back to front and enqueued to the head."""
    b = make([BootRequest(18, 2, None)])
    pfns = list(b.k.hstates[18].free[0])
    assert pfns[-1] == max(pfns)  # memblock allocates top-down


def test_boot_folio_is_restored_and_optimized_again(make):
    """5.13 e: its head leaves the boot counter late: +4095 run-time pages after restoring."""
    b = make([BootRequest(18, 1, None)])
    (folio,) = folios(b)
    boot = b.k.vmstat.nr_memmap_boot
    assert b.restore([folio]) == 1
    assert (b.k.vmstat.nr_memmap_boot, b.k.vmstat.nr_memmap) == (boot, 4095)
    b.check([folio])
    b.optimize([folio])
    assert (b.k.vmstat.nr_memmap_boot, b.k.vmstat.nr_memmap) == (boot - 1, 1)
    assert b.k.vmstat.nr_page_table_pages == 0  # the PTE tables are from boot
    b.check([folio])


def test_sysctl(make):
    b = make(hugetlb_free_vmemmap=False)
    assert not b.paths.vmemmap_optimize_enabled
    assert b.paths.hugetlb_optimize_vmemmap_sysctl(True) == 0
    pages = b.folios(9, 1)
    b.optimize(pages)
    assert pages[0].vmemmap_optimized


def test_large_machine(make):
    """Cost follows runs: 16 TiB boots, with the right counters, in a handful of runs."""
    b = make([BootRequest(18, 3, None)], ram=16 << 40, nodes=2)
    assert b.total == (16 << 40 >> 27) * 512 - 3 * 4096 + 3
    assert len(b.k.tables.entries) < 20
    assert {f.zone.idx for f in folios(b)} == {ZONE_NORMAL}
