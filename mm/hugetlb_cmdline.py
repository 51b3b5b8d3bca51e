"""Huge pages on the kernel command line (mm/hugetlb.c:hugepagesz_setup, hugepages_setup, Linux 7.3).

Left out: KHO. `mm.hugetlb_cma` has hugetlb_cma=.
"""

from __future__ import annotations

from mm.errno import EINVAL
from mm.kernel import BootRequest, Kernel


def hugepages_setup(k: Kernel, order: int, count: int, nid: int | None) -> int:
    """`hugepagesz=` and `hugepages=` of one size: 0, or -EINVAL for what the kernel ignores.

    A size has one number for all nodes, or `hugepages=0:2,1:3`; what comes second of the two kinds is ignored, with a
    message. Numbers of one kind add up. Nodes are served in ascending order, whatever the order of the numbers.
    """
    mine = [r for r in k.boot_requests if r.order == order]
    if any((r.nid is None) != (nid is None) for r in mine):
        return -EINVAL
    have = sum(r.count for r in mine if r.nid == nid)
    k.boot_requests = [r for r in k.boot_requests if r.order != order or r.nid != nid]
    k.boot_requests.append(BootRequest(order, have + count, nid))
    k.boot_requests.sort(key=lambda r: (-r.order, -1 if r.nid is None else r.nid))
    return 0
