"""hugepagesz= and hugepages= (mm/hugetlb.c:hugepages_setup, hugetlb_hstate_alloc_pages, 7.3)."""

from __future__ import annotations

from mm.errno import EINVAL
from mm.hugetlb_cmdline import hugepages_setup
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from reference.paths import SeparatePaths

SMALL, GIANT = 9, 18


def kernel() -> Kernel:
    return Kernel(Machine(ram=8 << 30, nodes=2), SeparatePaths)


def test_nodes_are_served_in_ascending_order() -> None:
    """hugetlb_hstate_alloc_pages_specific_nodes goes over the online nodes: hugepages=1:3,0:2 is hugepages=0:2,1:3."""
    k = kernel()
    assert hugepages_setup(k, GIANT, 3, 1) == 0
    assert hugepages_setup(k, GIANT, 2, 0) == 0
    assert k.boot_requests == [BootRequest(GIANT, 2, 0), BootRequest(GIANT, 3, 1)]


def test_several_sizes_each_have_their_numbers() -> None:
    k = kernel()
    assert hugepages_setup(k, SMALL, 64, None) == 0
    assert hugepages_setup(k, GIANT, 1, 1) == 0
    assert hugepages_setup(k, SMALL, 36, None) == 0
    assert k.boot_requests == [BootRequest(GIANT, 1, 1), BootRequest(SMALL, 100, None)]


def test_the_second_kind_is_ignored() -> None:
    """hugepagesz_setup: "specified twice, ignoring"; its hugepages= then follows no valid size."""
    k = kernel()
    assert hugepages_setup(k, GIANT, 1, None) == 0
    assert hugepages_setup(k, GIANT, 2, 0) == -EINVAL
    assert k.boot_requests == [BootRequest(GIANT, 1, None)]
    assert hugepages_setup(k, SMALL, 5, 1) == 0
    assert hugepages_setup(k, SMALL, 5, None) == -EINVAL
