"""Numbers of unified-framework.md sections 0, 3.7, 4 (column NEW), and the worked counters below its table."""

import pytest

from candidate.vmemmap_optimization import (
    section_nr_vmemmap_pages,
    section_set_compound_order_range,
    vmemmap_can_optimize,
    vmemmap_optimizable_order,
    vmemmap_optimizable_pfn,
    vmemmap_shared_tail_page,
)
from mm.altmap import Altmap
from mm.kernel import BootRequest
from mm.mmzone import ZONE_DEVICE

PPS = 32768
DAX = 6 << 18


def test_constants(make):
    """Section 0: MIN_ORDER = 7, 16 orders for each zone, V(9) = 8, V(18) = 4096."""
    b = make()
    assert b.paths.min_order == 7
    assert not vmemmap_optimizable_order(b.paths, 6)
    assert vmemmap_optimizable_order(b.paths, 7)
    assert [b.k.arch.vmemmap_pages(o) for o in (9, 18)] == [8, 4096]
    b.optimize(b.folios(9, 1))
    assert [len(array) for array in b.paths.tails.values()] == [22 - 7 + 1]


@pytest.mark.parametrize(("order", "heads"), [(0, None), (6, None), (7, 1 << 7), (9, 1 << 9), (18, 1 << 18)])
def test_pfn_tail(make, order, heads):
    """Section 0: pfn_tail = (pfn mod 2^order) >= S; always false below MIN_ORDER."""
    b = make()
    section_set_compound_order_range(b.paths, DAX, 8 * PPS, order)
    for pfn in (DAX, DAX + 63, DAX + 64, DAX + 127, DAX + 128, DAX + 511, DAX + 512, DAX + PPS):
        want = heads is not None and (pfn - DAX) % heads >= 64
        assert vmemmap_optimizable_pfn(b.paths, pfn) == want


@pytest.mark.parametrize(
    ("order", "counts"),
    [
        (0, [512] * 9),
        (9, [64] * 9),
        (14, [2] * 9),
        (15, [1] * 9),
        (16, [1, 0, 1, 0, 1, 0, 1, 0, 1]),
        (18, [1] + [0] * 7 + [1]),
    ],
)
def test_section_nr_vmemmap_pages(make, order, counts):
    """3.7: ceil(nr / 64); nr / 2^order below a section; R for the first section of a larger compound page."""
    b = make()
    section_set_compound_order_range(b.paths, DAX, 9 * PPS, order)
    assert [section_nr_vmemmap_pages(b.paths, DAX + i * PPS, PPS) for i in range(9)] == counts


def test_part_of_a_section_counts_in_full(make):
    """3.7, first line: a range of a section that is not optimized."""
    b = make()
    assert section_nr_vmemmap_pages(b.paths, DAX, 512) == 8


@pytest.mark.parametrize(("shift", "per_section"), [(9, [64] * 8), (18, [1] + [0] * 7), (0, [512] * 8)])
def test_dax_counter_per_section(make, shift, per_section):
    """4: +64 for each section of 2 MiB compounds; +1, +0 x7 for 1 GiB compounds; all of it for base pages."""
    b = make()
    pgmap = b.pgmap(DAX, 8 * PPS, shift)
    got = []
    for i in range(8):
        before = b.k.vmstat.nr_memmap
        assert b.add(DAX + i * PPS, PPS, pgmap) == 0
        got.append(b.k.vmstat.nr_memmap - before)
    assert got == per_section
    b.check()


@pytest.mark.parametrize("k", [1, 3])
def test_unaligned_device(make, k):
    """4, "DAX granularity": a subsection, k sections and a subsection count 8 + 64 k + 8."""
    b = make()
    start, nr = DAX + PPS - 512, 512 + k * PPS + 512
    before = b.total
    assert b.add(start, nr, b.pgmap(start, nr, 9)) == 0
    assert b.total - before == 8 + 64 * k + 8
    b.check()
    b.remove(start, nr)
    assert b.total == before
    b.check()


@pytest.mark.parametrize(("order", "saved"), [(9, 7), (18, 4095)])
def test_hugetlb_runtime(make, order, saved):
    """4, worked counters: optimize -7 and restore +7 for 2 MiB, 4095 for 1 GiB."""
    b = make()
    folios = b.folios(order, 1)
    before = b.total
    b.optimize(folios)
    assert b.total - before == -saved
    b.check(folios)
    assert b.restore(folios) == 1
    assert b.total == before
    b.check(folios)


def test_pool_of_n_folios(make):
    """4: (boot + runtime) = base - N (V - 1)."""
    b = make()
    before = b.total
    b.optimize(b.folios(9, 20))
    b.optimize(b.folios(18, 1))
    assert b.total == before - 20 * 7 - 4095
    b.check()


@pytest.mark.parametrize("count", [1, 2])
def test_boot_counter_of_gigantic_pages(make, count):
    """4: +1 for the first section of a 1 GiB page, +0 for the seven others."""
    plain = make().k.vmstat.nr_memmap_boot
    assert plain == 32 * 512
    b = make([BootRequest(18, count, None)])
    assert b.k.vmstat.nr_memmap_boot == plain - count * 8 * 512 + count
    assert b.k.vmstat.nr_memmap == 0
    b.check(list(b.k.hstates[18].folios.values()))


def test_what_can_be_optimized(make):
    """4, "what decides", "altmap DAX": no altmap, a compound page of more than one vmemmap page."""
    b = make()
    altmap = Altmap(DAX, DAX + PPS, 0, 1024)
    assert vmemmap_can_optimize(b.paths, None, b.pgmap(DAX, PPS, 9))
    assert vmemmap_can_optimize(b.paths, None, b.pgmap(DAX, PPS, 7))
    assert not vmemmap_can_optimize(b.paths, None, b.pgmap(DAX, PPS, 6))
    assert not vmemmap_can_optimize(b.paths, altmap, b.pgmap(DAX, PPS, 9))
    assert not vmemmap_can_optimize(b.paths, None, None)


def test_no_shared_tail_page_outside_of_the_orders(make):
    """3.3: an order below MIN_ORDER = 7 or above MAX_FOLIO_ORDER = 22 has no T: warned about once, and the zone gets no
    array for it."""
    b = make()
    zone = b.k.nodes[0].zones[ZONE_DEVICE]
    for order in (6, 23, 23):
        assert vmemmap_shared_tail_page(b.paths, order, zone) is None
    assert len(b.k.log) == 1
    assert b.paths.tails == {}
    for order in (7, 22):
        assert vmemmap_shared_tail_page(b.paths, order, zone) is not None
    assert set(b.paths.zone_tails()) == {(zone.key, 7), (zone.key, 22)}
