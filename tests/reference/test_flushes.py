"""Every flush of the TLB that mm/hugetlb_vmemmap.c and the architectures' vmemmap_free of Linux 7.3 make, in order; the
expectations are read off the source, function by function."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mm.boot import boot
from mm.dax import create_dev_dax, unregister_dev_dax
from mm.dev_dax import DevDax
from mm.hugetlb_sysfs import nr_hugepages_store
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.memory_hotplug import add_memory, remove_memory
from mm.page_alloc import KernelBug
from mm.tlb import record
from reference.paths import SeparatePaths
from tests.flushes import Flushes

M2, G1 = 9, 18
"""Orders of 2M and 1G; V = 8 and 4096 vmemmap pages, 512 to a PMD leaf."""


@contextmanager
def flushes(k: Kernel, nth: int = 0) -> Iterator[list[str | tuple[int, int]]]:
    """The flushes of the block, whose `nth` allocation point fails."""
    log = Flushes()
    old, k.tlb = k.tlb, log
    k.faults.nth = nth
    k.faults.begin()
    yield log.flushes
    k.tlb = old


def pmd(vpn: int) -> tuple[int, int]:
    """The vmemmap pages of the PMD leaf around one."""
    return vpn // 512 * 512, vpn // 512 * 512 + 512


# -- one folio ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_single_optimization_that_fails_early_flushes_nothing(boot_kernel, fresh, nth):
    """TAIL and HEAD come before the walk; when the split fails, vmemmap_remap_range returns before its flush, and
    vmemmap_remap_free returns because nothing was walked."""
    k = boot_kernel()
    [folio] = fresh(k, M2, 1)
    with flushes(k, nth) as seen:
        k.paths.hugetlb_vmemmap_optimize_folio(k.hstates[M2], folio)
    assert not folio.vmemmap_optimized
    assert seen == []


def test_a_single_optimization_flushes_the_split_leaf_and_the_folio(boot_kernel, fresh):
    """vmemmap_split_pmd with flags 0, then vmemmap_remap_range; the second folio of the leaf has nothing to split."""
    k = boot_kernel()
    second, first = fresh(k, M2, 2)
    lo = first.pfn // 64
    with flushes(k) as seen:
        k.paths.hugetlb_vmemmap_optimize_folio(k.hstates[M2], first)
    assert seen == [pmd(lo), (lo, lo + 8)]
    with flushes(k) as seen:
        k.paths.hugetlb_vmemmap_optimize_folio(k.hstates[M2], second)
    assert seen == [(lo + 8, lo + 16)]


def test_a_rollback_flushes_what_was_walked(boot_kernel, fresh):
    """1G: points TAIL, HEAD and eight SPLITs. With the third SPLIT failed, two leaves were split (and flushed) and 1024
    PTEs walked; the failing walk flushes nothing, putting back flushes those (flags 0)."""
    k = boot_kernel()
    [folio] = fresh(k, G1, 1)
    lo = folio.pfn // 64
    with flushes(k, 5) as seen:
        k.paths.hugetlb_vmemmap_optimize_folio(k.hstates[G1], folio)
    assert seen == [pmd(lo), pmd(lo + 512), (lo, lo + 1024)]


def test_a_single_restore_flushes_all_but_the_kept_page(boot_kernel, fresh):
    """__hugetlb_vmemmap_restore_folio: vmemmap_start += HUGETLB_VMEMMAP_RESERVE_SIZE; without memory it gets nowhere,
    and a folio that is not optimized returns at once."""
    k = boot_kernel()
    h = k.hstates[M2]
    [folio] = fresh(k, M2, 1)
    lo = folio.pfn // 64
    with flushes(k) as seen:
        assert k.paths.hugetlb_vmemmap_restore_folio(h, folio) == 0
    assert seen == []
    k.paths.hugetlb_vmemmap_optimize_folio(h, folio)
    with flushes(k, 7) as seen:
        assert k.paths.hugetlb_vmemmap_restore_folio(h, folio) < 0
    assert seen == []
    with flushes(k) as seen:
        assert k.paths.hugetlb_vmemmap_restore_folio(h, folio) == 0
    assert seen == [(lo + 1, lo + 8)]


# -- many -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", [True, False])
def test_a_batch_flushes_after_its_splits_and_before_it_frees(boot_kernel, switch):
    """nr_to_optimize counts folios that should not be optimized too, so the switch makes no difference."""
    k = boot_kernel(hugetlb_free_vmemmap=switch)
    with flushes(k) as seen:
        nr_hugepages_store(k, M2, 3, None)
    assert seen == ["all", "all"]


def test_no_folio_no_flush(boot_kernel):
    """list_empty(folio_list): points NMASK, HP; without a page there is no batch."""
    k = boot_kernel()
    with flushes(k, 2) as seen:
        nr_hugepages_store(k, M2, 1, None)
    assert k.hstates[M2].nr == [0]
    assert seen == []


@pytest.mark.parametrize(("switch", "want"), [(True, ["all"]), (False, ["all", "all"])])
def test_boot_pages_that_pre_hvo_did_need_one(switch, want):
    """Goto `out` when nr_to_optimize is 0; without pre-HVO the folio counts."""
    k = Kernel(Machine(ram=4 << 30, hugetlb_free_vmemmap=switch), SeparatePaths)
    k.boot_requests.append(BootRequest(G1, 1, None))
    log = Flushes()
    k.tlb = log
    boot(k)
    assert log.flushes == want


def test_a_retry_flushes_before_it_frees(boot_kernel, fresh):
    """Points of a batch of one 1G folio: the first SPLIT fails and ends the first pass; in the second pass TAIL, HEAD,
    SPLITs, each of which flushes its leaf. The retry of a folio with a failed HEAD has an empty list: none."""
    k = boot_kernel()
    [folio] = fresh(k, G1, 1)
    lo = folio.pfn // 64
    with flushes(k, 1) as seen:
        k.paths.hugetlb_vmemmap_optimize_folios(k.hstates[G1], [folio])
    assert folio.vmemmap_optimized
    assert seen == ["all", *(pmd(lo + 512 * i) for i in range(8)), "all"]
    other = fresh(k, M2, 2)
    k.paths.hugetlb_vmemmap_optimize_folios(k.hstates[M2], other)
    k.paths.hugetlb_vmemmap_restore_folios(k.hstates[M2], other, restored := [])
    with flushes(k, 1) as seen:
        k.paths.hugetlb_vmemmap_optimize_folios(k.hstates[M2], restored)
    assert [f.vmemmap_optimized for f in restored] == [False, True]
    assert seen == ["all", "all"]
    k.paths.hugetlb_vmemmap_restore_folios(k.hstates[M2], [restored[1]], [])
    with flushes(k, 2) as seen:  # the second HEAD: the first folio's frames are on the list
        k.paths.hugetlb_vmemmap_optimize_folios(k.hstates[M2], restored)
    assert [f.vmemmap_optimized for f in restored] == [True, True]
    assert seen == ["all", "all", "all"]


def test_a_bulk_restore_flushes_once_if_anything_was_restored(boot_kernel, fresh):
    """hugetlb_vmemmap_restore_folios."""
    k = boot_kernel()
    h = k.hstates[M2]
    folios = fresh(k, M2, 2)
    with flushes(k) as seen:
        k.paths.hugetlb_vmemmap_restore_folios(h, list(folios), [])
    assert seen == []
    k.paths.hugetlb_vmemmap_optimize_folios(h, folios)
    with flushes(k, 1) as seen:
        assert k.paths.hugetlb_vmemmap_restore_folios(h, list(folios), []) < 0
    assert seen == []
    with flushes(k, 8) as seen:
        assert k.paths.hugetlb_vmemmap_restore_folios(h, list(folios), []) < 0
    assert [f.vmemmap_optimized for f in folios] == [False, True]
    assert seen == ["all"]


@pytest.mark.parametrize("nth", range(1, 14))
def test_no_frame_is_free_before_its_flush(nth):
    """I5, with the TLB that records, whichever point fails: 1G by the batch and alone."""
    k = Kernel(Machine(ram=4 << 30), SeparatePaths)
    record(k)
    boot(k)
    k.faults.nth = nth
    k.faults.begin()
    nr_hugepages_store(k, G1, 1, None)
    nr_hugepages_store(k, M2, 100, None)
    nr_hugepages_store(k, M2, 0, None)
    nr_hugepages_store(k, G1, 0, None)
    assert k.tlb.violations == []


# -- removal --------------------------------------------------------------------------------------------------------

SECTION = {"x86_64": 128 << 20, "riscv64": 128 << 20, "arm64": 128 << 20, "s390x": 128 << 20, "ppc64_radix": 256 << 20}


@pytest.mark.parametrize(
    ("arch", "want"),
    [
        ("x86_64", "all"),  # remove_pagetable: flush_tlb_all
        ("riscv64", "all"),  # remove_pgd_mapping: flush_tlb_all
        ("s390x", "range"),  # modify_pagetable: flush_tlb_kernel_range (there of all, but that is the TLB's)
        ("ppc64_radix", "all"),  # remove_pagetable: radix__flush_tlb_kernel_range is tlbie of PID 0, RIC_FLUSH_ALL
        ("arm64", "range"),  # unmap_hotplug_pmd_range: flush_tlb_kernel_range
    ],
)
def test_removal_of_memory(boot_kernel, arch, want):
    k = boot_kernel(arch=arch, ram=1 << 30)
    at = (64 << 30) // k.arch.page
    nr = SECTION[arch] // k.arch.page
    assert add_memory(k, 0, at, nr, False) == 0
    with flushes(k) as seen:
        assert remove_memory(k, at, nr) == 0
    lo = at // k.arch.spp
    assert set(seen) == ({"all"} if want == "all" else {(lo, lo + nr // k.arch.spp)})


def test_a_boot_frame_that_a_device_shares_is_freed_by_the_first_entry(boot_kernel):
    """compound_section_tail_page takes the frame of an early section whose leaf HVO has split, and get_page counts it;
    free_reserved_pages (mm/page_alloc.c), which free_vmemmap_pages calls for a reserved page, sets the count to 0."""
    k = boot_kernel(ram=1138 << 20)
    nr_hugepages_store(k, M2, 2000, None)
    start = (1138 << 20) >> 12
    device = create_dev_dax(k, [(start, start + (1 << 18))], 1 << 30, False, 0)
    assert isinstance(device, DevDax)
    # Seven whole sections and the first 114M of an eighth, all of them on the last page of the boot section.
    [(frame, count)] = k.pages.refs.items()
    assert count == 1 + ((1 << 30) - (14 << 20)) // (64 * 4096)
    with pytest.raises(KernelBug, match=f"frame {frame:#x} is freed while other entries map it"):
        unregister_dev_dax(k, device)
