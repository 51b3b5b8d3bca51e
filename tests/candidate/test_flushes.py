"""Which flushes there are, and which there are not: mm/hugetlb_vmemmap.c of the -mm tree (VMEMMAP_SPLIT_NO_TLB_FLUSH,
VMEMMAP_REMAP_NO_TLB_FLUSH), and vmemmap_free of arch/*/mm, Linux 7.3. Populating flushes nothing anywhere."""

import pytest

from candidate.framework import UnifiedFramework
from mm.altmap import Altmap
from mm.boot import boot
from mm.errno import EAGAIN
from mm.folio import Folio
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.memory_hotplug import add_memory, remove_memory
from mm.mmzone import ZONE_NORMAL
from mm.page_alloc import OWNER_SELFHOSTED
from tests.candidate.conftest import Hooks
from tests.flushes import Flushes

PPS = 32768
DAX = 6 << 18


def watch(b):
    b.k.tlb = tlb = Flushes()
    return tlb.flushes


def test_one_folio(make):
    """vmemmap_remap_range: the PMD that was split, then all slots; the same leaf is not split twice."""
    b = make()
    first, second = b.folios(9, 2)
    h = b.k.hstates[9]
    flushes = watch(b)
    lo = first.pfn // 64
    b.paths.hugetlb_vmemmap_optimize_folio(h, first)
    assert flushes == [(lo - lo % 512, lo - lo % 512 + 512), (lo, lo + 8)]
    flushes.clear()
    b.paths.hugetlb_vmemmap_optimize_folio(h, second)
    assert flushes == [(second.pfn // 64, second.pfn // 64 + 8)]
    flushes.clear()
    assert b.paths.hugetlb_vmemmap_restore_folio(h, first) == 0
    assert flushes == [(lo + 1, lo + 8)]


def test_one_folio_that_is_left_alone(make):
    """-ENOTSUPP of a self-hosted memmap: the walk is over before it wrote anything, and the range is flushed."""
    b = make()
    altmap = Altmap(DAX, DAX + PPS, 0, 512, OWNER_SELFHOSTED)
    assert b.paths.sparse_add_section(0, DAX, PPS, altmap, None) == 0
    b.k.pages.claim(DAX, DAX + 512, OWNER_SELFHOSTED)
    folio = Folio(DAX + 1024, 9, b.k.nodes[0].zones[ZONE_NORMAL], hugetlb=True)
    flushes = watch(b)
    b.paths.hugetlb_vmemmap_optimize_folio(b.k.hstates[9], folio)
    assert not folio.vmemmap_optimized
    assert flushes == [(folio.pfn // 64, folio.pfn // 64 + 8)]


@pytest.mark.parametrize("traced", [False, True])
def test_list(make, traced):
    """Splitting flushes nothing; once everything before entries are replaced, once when all are; restoring once."""
    b = make()
    folios = b.folios(9, 70)  # more than one leaf
    flushes = watch(b)
    if traced:
        b.k.faults.points = []
    b.optimize(folios)
    assert flushes == ["all", "all"]
    flushes.clear()
    assert b.restore(folios) == 70
    assert flushes == ["all"]
    assert b.restore(folios) == 0
    assert flushes == ["all"]


def test_list_with_nothing_to_do(make):
    """Folios that are optimized already count as ones to optimize, unless boot made them so; so does the knob off."""
    b = make()
    folios = b.folios(9, 2)
    flushes = watch(b)
    b.optimize(folios)
    flushes.clear()
    b.optimize(folios)
    assert flushes == ["all", "all"]
    flushes.clear()
    b.paths.hugetlb_optimize_vmemmap_sysctl(False)
    b.optimize(b.folios(9, 1))
    assert flushes == ["all", "all"]


@pytest.mark.parametrize(("order", "enabled", "expected"), [(18, True, ["all"]), (18, False, ["all", "all"])])
def test_gathering(profile, order, enabled, expected):
    """3.11: only pages that boot optimized: "just flush"; else also in front of the second pass."""
    k = Kernel(Machine(ram=4 << 30, hugetlb_free_vmemmap=enabled), lambda k: UnifiedFramework(k, profile))
    k.tlb = tlb = Flushes()
    k.boot_requests.append(BootRequest(order, 1, None))
    boot(k)
    (folio,) = k.hstates[order].folios.values()
    assert folio.vmemmap_optimized == enabled
    assert tlb.flushes == expected


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("stop", [1, 2, 8])
def test_rollback_always_flushes(merged, listed, stop):
    """3.9: slot `stop` fails (from 1): the rollback walk has no flags, so that it flushes what it went over even for a
    list; with nothing replaced there is no rollback."""
    b = merged
    b.optimize(b.folios(9, 1))  # T, and the split of the leaf
    (folio,) = b.folios(9, 1)
    lo = folio.pfn // 64
    flushes = watch(b)
    b.k.faults = Hooks({stop})
    if listed:
        b.optimize([folio])
    else:
        b.paths.hugetlb_vmemmap_optimize_folio(b.k.hstates[9], folio)
    assert not folio.vmemmap_optimized
    back = [(lo, lo + stop - 1)] if stop > 1 else []
    assert flushes == (["all", *back, "all"] if listed else [(lo, lo + 8), *back])


def test_list_flushes_before_it_frees_for_a_retry(make):
    """No memory for the second head: what the first folio gave up is flushed, then freed, then used."""
    b = make()
    b.optimize(b.folios(9, 1))
    folios = b.folios(9, 2)
    b.k.faults.nth = 2 if b.profile == "posted" else 2 + 8
    flushes = watch(b)
    b.optimize(folios)
    assert b.k.faults.fired == "HEAD"
    assert all(folio.vmemmap_optimized for folio in folios)
    assert flushes == ["all", "all", "all"]


def test_failed_restore_flushes(merged):
    """The walk that -EAGAIN ended flushes all of the folio's tail slots, and only then frees what it did not use."""
    b = merged
    (folio,) = b.folios(9, 1)
    b.optimize([folio])
    flushes = watch(b)
    b.k.faults = Hooks({4})
    assert b.paths.hugetlb_vmemmap_restore_folio(b.k.hstates[9], folio) == -EAGAIN
    assert flushes == [(folio.pfn // 64 + 1, folio.pfn // 64 + 8)]


@pytest.mark.parametrize(
    ("arch", "page", "expected"),
    [
        ("x86_64", 4096, "all"),  # remove_pagetable: flush_tlb_all
        ("riscv64", 4096, "all"),  # remove_pgd_mapping: flush_tlb_all
        ("s390x", 4096, "range"),  # modify_pagetable: flush_tlb_kernel_range (there of all, but that is the TLB's)
        ("ppc64_radix", 4096, "all"),  # remove_pagetable: radix__flush_tlb_kernel_range flushes PID 0
        ("ppc64_radix", 65536, "all"),
        ("ppc64_hash", 65536, "range"),  # vmemmap_remove_mapping of each block
        ("arm64", 4096, "range"),  # unmap_hotplug_pmd_range, in front of free_hotplug_page_range
        ("arm64", 65536, "range"),
        ("loongarch64", 16384, None),  # vmemmap_free is empty
    ],
)
def test_memory_comes_and_goes(profile, arch, page, expected):
    """One unit of memory that no other shares a leaf, a block or a vmemmap page with."""
    k = Kernel(Machine(arch=arch, page=page, ram=4 << 30), lambda k: UnifiedFramework(k, profile))
    boot(k)
    k.tlb = tlb = Flushes()
    at, nr = (1 << 43) // page, max(k.memory_blocks.pages, k.arch.ptrs_per_pte * k.arch.spp)
    assert add_memory(k, 0, at, nr, False) == 0
    assert tlb.flushes == []
    assert remove_memory(k, at, nr) == 0
    if expected == "range":
        covered = set()
        for lo, hi in tlb.flushes:
            assert not covered & {*range(lo, hi)}
            covered |= {*range(lo, hi)}
        assert covered == {*range(at // k.arch.spp, (at + nr) // k.arch.spp)}
    else:
        assert set(tlb.flushes) == ({expected} if expected else set())
