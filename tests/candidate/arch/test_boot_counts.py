"""unified-framework.md 3.6: which struct pages are initialised at boot, how often, DEFERRED on and off, on every
architecture with gigantic pages. All expected numbers are sums of the table's rows."""

from dataclasses import replace

import pytest

from mm.arch import ARCHES
from tests.candidate.arch.conftest import EVERY, ArchBench, G, named, reserve

GIGANTIC = [key for key in EVERY if ARCHES[key].hugetlb_shifts[0] - ARCHES[key].page_shift > ARCHES[key].max_page_order]


def early(b, pfn):
    """Whether memmap_init_range wrote the struct page of `pfn`: all but what lies behind the first section of the
    node's last zone."""
    if not b.k.machine.deferred_init:
        return True
    zone = b.k.pages.zone_of.get(pfn)
    last = max((z for z in b.k.nodes[zone.nid].zones if z.present_pages), key=lambda z: z.end_pfn)
    return zone is not last or pfn < zone.start_pfn // b.per * b.per + b.per


def expected(b, order, folios, optimized):
    """The rows of 3.6 summed: ordinary RAM once each; of a gigantic page the part that memmap_init_range may write,
    the head as a reserved page if nobody did, then the S - 1 tails beside it by gathering, and all further ones if the
    folio is not optimized."""
    present = sum(hi - lo for lo, hi, _ in b.k.sections.flags.items()) * b.per
    n, s = 1 << order, b.arch.spp
    total = present - n * len(folios)
    for folio in folios:
        if early(b, folio.pfn):
            total += (
                s
                if optimized
                else sum(min(b.per, n) for pfn in range(folio.pfn, folio.end_pfn, b.per) if early(b, pfn))
            )
        else:
            total += 1
        total += (s if optimized else n) - 1
    return total


@pytest.mark.parametrize("key", GIGANTIC, ids=named)
@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("knob", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_gigantic_bootmem(key, deferred, knob, count, profile):
    """With HVO and the knob on: S each, "2^order -> S" (4); HVO off or not selected: all."""
    order = ARCHES[key].hugetlb_shifts[0] - ARCHES[key].page_shift
    ram = 8 * G if order + ARCHES[key].page_shift > 30 else 4 * G
    b = ArchBench(
        key, profile, ram=ram, deferred_init=deferred, hugetlb_free_vmemmap=knob, requests=reserve(order, count)
    )
    folios = list(b.k.hstates[order].folios.values())
    assert len(folios) == count
    optimized = knob and b.arch.hvo
    assert [f.vmemmap_optimized for f in folios] == [optimized] * count
    assert b.k.vmstat.struct_pages_initialized == expected(b, order, folios, optimized)


@pytest.mark.parametrize("deferred", [False, True])
def test_gigantic_pages_smaller_than_a_section(monkeypatch, deferred, profile):
    """ "section order never set: page smaller than section": memmap_init_range writes them all; with DEFERRED they stay
    raw, head and S - 1 tails apart, and HVO when gathered leaves them so."""
    key = ("riscv64", 4096)
    monkeypatch.setitem(ARCHES, key, replace(ARCHES[key], hugetlb_shifts=(25, 21)))
    b = ArchBench(key, profile, deferred_init=deferred, requests=reserve(13, 1))
    (folio,) = b.k.hstates[13].folios.values()
    assert folio.vmemmap_optimized
    ram = 4 << 18
    assert b.k.vmstat.struct_pages_initialized == (ram - (1 << 13) + 64 if deferred else ram + 63)
