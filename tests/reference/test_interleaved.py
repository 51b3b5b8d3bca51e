"""Boot of nodes whose memory is not in one piece (mm/sparse.c:sparse_init, mm/mm_init.c:defer_init, 7.3.4)."""

from __future__ import annotations

import pytest

from mm.boot import boot, free_area_init
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.page_alloc import KernelBug
from reference.paths import SeparatePaths

M, G = 1 << 20, 1 << 30


def booted(*requests: BootRequest, **keys: object) -> Kernel:
    k = Kernel(Machine(**keys), SeparatePaths)  # type: ignore[arg-type]
    k.boot_requests += requests
    boot(k)
    return k


@pytest.mark.parametrize("node", [0, 1])
def test_boot_huge_pages_of_a_node_in_two_rows_use_up_the_usage_maps(node: int) -> None:
    """docs/findings/0003: "kernel BUG at mm/sparse.c:252!" on a real 7.3.4 (there with 6G)."""
    with pytest.raises(KernelBug, match="sparse_init_early_section"):
        booted(BootRequest(18, 1, node), ram=4 * G, nodes=2, interleave=G)


def test_not_without_the_optimization_nor_with_one_row_a_node() -> None:
    """The two counter-checks of docs/findings/0003."""
    off = booted(BootRequest(18, 1, 0), ram=4 * G, nodes=2, interleave=G, hugetlb_free_vmemmap=False)
    assert off.hstates[18].nr == [1, 0]
    one = booted(BootRequest(18, 1, 0), ram=6 * G, nodes=2, hole=576 * M)
    assert one.hstates[18].nr == [1, 0]


@pytest.mark.parametrize(("step", "late"), [(64 * M, False), (192 * M, True), (1 * G, True)])
def test_deferral_counts_a_zone_anew_after_another_one(step: int, late: bool) -> None:
    """defer_init: nr_initialised starts again at 0 where prev_end_pfn changes, and must exceed a section (128M) before
    a section's first page is met. Turns of 64M never get there. Of those of 192M, the one at 4224M (the 33rd border)
    meets a border 128M later.
    """
    k = Kernel(Machine(ram=4 * G, nodes=2, interleave=step), SeparatePaths)
    free_area_init(k)
    k.paths.mm_core_init_early()
    deferred = 4 * G // 4096 - k.vmstat.struct_pages_initialized
    assert (deferred > 0) is late
