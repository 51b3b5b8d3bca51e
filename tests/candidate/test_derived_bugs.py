"""unified-framework.md 5.13: bugs derived from the newest code, which the framework has and the model keeps. One test
each, a to h, under the letter that names it there; they become findings when a program shows them."""

from dataclasses import replace

import pytest

from candidate import hugetlb_vmemmap
from candidate.framework import UnifiedFramework
from candidate.vmemmap_optimization import section_set_compound_order
from mm.arch import ARCHES
from mm.boot import boot
from mm.errno import EAGAIN
from mm.fault import FaultInjector
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.mmzone import ZONE_DEVICE, ZONE_DMA32
from mm.page import RAW, Compound, Plain, Tail
from mm.pgtable import Shared
from tests.candidate.conftest import Hooks
from tests.flushes import Flushes

PPS = 32768
DAX = 6 << 18
X86 = ("x86_64", 4096)
ORDER = 13
"""32M: gigantic, but less than a section, so that bootmem pages of it get no order (f) and are optimized late."""
V = 128


@pytest.fixture
def small_gigantic(monkeypatch):
    """x86-64 with gigantic pages of 32M; boots in profile merged with one of them and given hooks that fail."""
    monkeypatch.setitem(ARCHES, X86, replace(ARCHES[X86], hugetlb_shifts=(25, 21)))

    def make(bad, deferred=True):
        k = Kernel(Machine(ram=4 << 30, deferred_init=deferred), lambda k: UnifiedFramework(k, "merged"))
        k.boot_requests.append(BootRequest(ORDER, 1, None))
        if bad:
            k.faults = Hooks(bad)
        boot(k)
        (folio,) = k.hstates[ORDER].folios.values()
        return k, folio

    return make


def slots(k, folio):
    lo = folio.pfn // 64
    return [k.tables.get(vpn) for vpn in range(lo, lo + V)]


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize(("walked", "restored"), [(2, 0), (90, 40), (127, 125)])
def test_a_incomplete_at_boot_exposes_raw_struct_pages(small_gigantic, walked, restored, deferred):
    """Optimize stops at slot `walked`, rollback after `restored` slots: the flag stays, gathering skips the tails, and
    slots `walked`.. show what nobody initialised (DEFERRED=y; with n, memmap_init_range wrote them). A later restore
    does not touch them."""
    k, folio = small_gigantic({walked + 1, walked + 1 + restored + 1}, deferred)
    assert folio.vmemmap_optimized
    shared = [isinstance(m, Shared) for m in slots(k, folio)]
    assert shared == [restored < i < walked for i in range(V)]
    exposed = RAW if deferred else Plain(0, folio.zone.idx)
    assert [k.memmap.content(folio.pfn + 64 * i) for i in (walked, V - 1)] == [exposed] * 2
    k.faults = FaultInjector()
    assert k.paths.hugetlb_vmemmap_restore_folio(k.hstates[ORDER], folio) == 0
    assert not folio.vmemmap_optimized
    assert not any(isinstance(m, Shared) for m in slots(k, folio))
    assert k.memmap.content(folio.pfn + 64 * walked) == exposed
    assert k.memmap.content(folio.pfn + 64) == Tail(ORDER, 0, folio.zone.idx)


def test_a_complete_rollback_at_boot_initialises_all(small_gigantic):
    """The other outcome: the rollback is complete, the flag cleared, and gathering writes the tails (3.6)."""
    k, folio = small_gigantic({50})
    assert not folio.vmemmap_optimized
    head = Compound(ORDER, 0, 0, folio.zone.idx, "hugetlb")
    assert {k.memmap.content(folio.pfn + 64 * i) for i in range(V)} == {head}


def test_b_optimizing_at_boot_looks_at_raw_struct_pages(small_gigantic, monkeypatch):
    """The check that each tail slot holds tails (DEBUG_VM, "tail expected") reads struct pages that nobody initialised:
    of the folio only the first 64 are."""
    seen = []

    def look(f, head, tail, lo, hi, pages, flush):
        seen.extend(f.k.memmap.content(vpn * 64) for vpn in range(lo, hi))
        return remap(f, head, tail, lo, hi, pages, flush)

    remap = hugetlb_vmemmap.vmemmap_remap_free
    monkeypatch.setattr(hugetlb_vmemmap, "vmemmap_remap_free", look)
    monkeypatch.setattr(hugetlb_vmemmap, "optimize_easily", lambda *a: -1)
    _, folio = small_gigantic(())
    assert folio.vmemmap_optimized
    assert seen == [Compound(ORDER, 0, 0, folio.zone.idx, "hugetlb")] + [RAW] * (V - 1)


def test_c_restore_by_another_zone_restores_nothing(make):
    """Restore knows T by (order, zone of the folio): if the slots map the T of another zone it returns success having
    restored nothing, and clears the flag. (I4 is broken then, so nothing checks the kernel here.)"""
    b = make()
    (folio,) = b.folios(9, 1)
    b.optimize([folio])
    tail = b.paths.zone_tails()[folio.zone.key, 9]
    before = b.total
    folio.zone = b.k.nodes[0].zones[ZONE_DMA32 if folio.zone.idx != ZONE_DMA32 else ZONE_DMA32 + 1]
    assert b.restore([folio]) == 1
    assert not folio.vmemmap_optimized
    assert b.total == before
    lo = folio.pfn // 64
    assert b.k.tables.runs(lo + 1, lo + 8) == [(lo + 1, lo + 8, Shared(tail, False))]


@pytest.mark.parametrize("alone", [False, True])
def test_d_failed_list_restore_does_not_flush(merged, alone):
    """The first folio fails after some slots were updated and none is complete: no flush, and CPUs may still read T
    through those slots. Restored alone, or behind another folio that was restored, it is flushed."""
    b = merged
    folios = b.folios(9, 2)
    b.optimize(folios)
    b.k.tlb = tlb = Flushes()
    h = b.k.hstates[9]
    b.k.faults = Hooks({4})
    b.k.faults.points = []  # traced: folio by folio
    if alone:
        assert b.paths.hugetlb_vmemmap_restore_folio(h, folios[0]) == -EAGAIN
        lo = folios[0].pfn // 64
        assert tlb.flushes == [(lo + 1, lo + 8)]
    else:
        assert b.paths.hugetlb_vmemmap_restore_folios(h, list(folios), []) == -EAGAIN
        assert tlb.flushes == []
        b.k.faults = Hooks({4 + 4})
        b.k.faults.points = []
        assert b.paths.hugetlb_vmemmap_restore_folios(h, list(folios), []) == -EAGAIN
        assert tlb.flushes == ["all"]


def test_e_counters_part_when_boot_sections_go(make):
    """A gigantic bootmem page counts 1 at boot; restored, 4095 more at run time; when its eight sections are removed
    all 4096 leave the boot counter: it is 4095 too low and the other 4095 too high, the sum is right."""
    b = make([BootRequest(18, 1, None)])
    (folio,) = b.k.hstates[18].folios.values()
    assert b.restore([folio]) == 1
    boot_pages, runtime = b.k.vmstat.nr_memmap_boot, b.k.vmstat.nr_memmap
    assert runtime == 4095
    b.remove(folio.pfn, 8 * PPS)
    assert b.k.vmstat.nr_memmap_boot == boot_pages - 4096
    assert b.k.vmstat.nr_memmap == 4095
    others = sum(hi - lo for lo, hi, _ in b.k.sections.flags.items())
    assert b.k.vmstat.nr_memmap_boot == others * 512 - 4095
    assert b.total == others * 512


def test_f_no_order_for_pages_smaller_than_a_section(small_gigantic):
    """section_set_compound_order_range does nothing for 32M in 128M sections, and nobody says so: the boot memmap is
    full, and the optimization comes when the folio is gathered."""
    k, folio = small_gigantic(())
    assert k.log == []
    assert folio.vmemmap_optimized
    assert k.vmstat.nr_memmap_boot + k.vmstat.nr_memmap == 32 * 512 - (V - 1)
    assert k.vmstat.nr_memmap_boot == 32 * 512 - V
    assert k.vmstat.nr_page_table_pages == 1


def test_g_a_stale_order_is_a_warning_only(make):
    """An order that a failed removal left behind is overwritten with a warning."""
    b = make()
    section_set_compound_order(b.paths, DAX // PPS, 18)
    assert b.add(DAX, PPS, b.pgmap(DAX, PPS, 9)) == 0
    assert len(b.k.log) == 1
    assert b.paths.orders.items() == [(DAX // PPS, DAX // PPS + 1, 9)]


def test_h_a_failed_device_leaves_its_tail_page(make):
    """Population fails after T was made: T stays for ever, one page, and is in no counter."""
    b = make()
    before, free = b.total, b.frames_free()
    pgmap = b.pgmap(DAX, PPS, 9)
    b.k.faults.points = []
    assert b.add(DAX, PPS, pgmap) == 0
    kinds = [kind for kind, n in b.k.faults.points for _ in range(n)]
    b.remove(DAX, PPS)
    b.k.faults.points = None
    tail = b.paths.zone_tails()
    assert list(tail) == [((0, ZONE_DEVICE), 9)]
    other = make()
    other.k.faults.nth = kinds.index("VMF") + 1
    assert other.add(DAX, PPS, other.pgmap(DAX, PPS, 9)) < 0
    assert other.k.faults.fired == "VMF"
    assert list(other.paths.zone_tails()) == list(tail)
    assert (other.total, other.frames_free()) == (before, free - 1)
