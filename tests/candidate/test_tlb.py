"""The flushes of mm/hugetlb_vmemmap.c and arch/*/mm: with a TLB that records (mm/tlb.py), HVO never frees a frame that
a CPU may still reach, whatever fails; removal of memory does where the architecture flushes last."""

import pytest

from candidate.framework import UnifiedFramework
from mm.boot import boot
from mm.hugetlb_sysfs import demote_store, nr_hugepages_store
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.memory_hotplug import add_memory, remove_memory
from mm.tlb import RecordingTlb, record


def recorded(profile, arch="x86_64", page=4096, **machine):
    k = Kernel(Machine(arch=arch, page=page, ram=4 << 30, **machine), lambda k: UnifiedFramework(k, profile))
    record(k)
    k.boot_requests.append(BootRequest(k.arch.hugetlb_shifts[0] - k.arch.page_shift, 1, None))
    boot(k)
    assert isinstance(k.tlb, RecordingTlb)
    k.tlb.violations.clear()
    return k


@pytest.mark.parametrize("arch", ["x86_64", "riscv64"])
def test_hvo_flushes_before_it_frees(profile, arch):
    k = recorded(profile, arch)
    for order, count in ((9, 40), (18, 2), (9, 3), (18, 0), (9, 0)):
        assert nr_hugepages_store(k, order, count, None) == 0
    assert nr_hugepages_store(k, 18, 1, None) == 0
    demote_store(k, 18, 1, None)
    assert k.hstates[9].nr == [512]
    assert k.tlb.violations == []


@pytest.mark.parametrize("nth", [*range(1, 60), 200, 513, 514, 515, 516])
def test_hvo_flushes_when_something_fails(profile, nth):
    """Every point of growing and shrinking a pool of 2M pages and one of 1G fails in turn."""
    k = recorded(profile)
    for order, count in ((9, 4), (18, 2)):
        k.faults.nth = nth
        k.faults.begin()
        nr_hugepages_store(k, order, count, None)
        k.faults.nth = nth
        k.faults.begin()
        nr_hugepages_store(k, order, 0, None)
    assert k.tlb.violations == []


@pytest.mark.parametrize(
    ("arch", "page", "late"),
    [
        ("x86_64", 4096, True),
        ("riscv64", 4096, True),
        ("s390x", 4096, True),
        ("ppc64_radix", 4096, True),
        ("ppc64_hash", 65536, True),
        ("arm64", 4096, False),
        ("arm64", 65536, False),
        ("loongarch64", 16384, False),
    ],
)
def test_removal_of_memory(profile, arch, page, late):
    """arm64 flushes each entry before its page is freed, loongarch frees nothing; the others free first."""
    k = recorded(profile, arch, page)
    at, nr = (1 << 43) // page, max(k.memory_blocks.pages, k.arch.ptrs_per_pte * k.arch.spp)
    assert add_memory(k, 0, at, nr, False) == 0
    assert remove_memory(k, at, nr) == 0
    assert (k.tlb.violations != []) == late
