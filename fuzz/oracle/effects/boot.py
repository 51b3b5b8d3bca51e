"""The boot: what the firmware and the command line said is there."""

from __future__ import annotations

from itertools import pairwise

from fuzz.oracle.effects.common import Args, Before, SideLike


def command_line(side: SideLike, args: Args) -> tuple[int, bool, dict[int, int]]:
    """hugetlb_cma= in bytes, hugetlb_cma_only=, and how many huge pages of each order were asked for."""
    k = side.kernel
    asked: dict[int, int] = {}
    for request in k.boot_requests:
        asked[request.order] = asked.get(request.order, 0) + request.count
    state = k.hugetlb_cma
    ram = [0] * len(k.nodes)
    for nid, lo, hi in k.machine.ram_ranges():
        ram[nid] += (hi - lo) * k.arch.page
    of_nodes = [
        of * percent // 100 if percent else size
        for of, percent, size in zip(ram, state.percent_in_node, state.size_in_node, strict=True)
    ]
    return state.size or sum(ram) * state.percent // 100 or sum(of_nodes), state.only, asked


def booted(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """All RAM is in zones of its node (free_area_init, mm/mm_init.c); huge pages are what was asked for, fewer for want
    of memory only (hugetlb_hstate_alloc_pages, mm/hugetlb.c); hugetlb_cma_only is nothing without an area
    (hugetlb_cma_validate_params, mm/hugetlb_cma.c)."""
    size, only, asked = then
    k = side.kernel
    text = _memory(side)
    if text is not None:
        return text
    if k.hugetlb_cma.only is not (only and k.hugetlb_cma.size > 0):
        return f"hugetlb_cma_only is {k.hugetlb_cma.only}, with areas of {k.hugetlb_cma.size} bytes"
    areas = [area for area in k.hugetlb_cma.areas if area is not None]
    if k.arch.hugetlb_cma_shift and bool(areas) is not (k.hugetlb_cma.size > 0):
        return f"areas of {k.hugetlb_cma.size} bytes were made, on {len(areas)} nodes"
    if any(not area.activated for area in areas):
        return "an area that spans zones is used"  # cma_validate_zones
    if k.hugetlb_cma.size > size:
        return f"areas of {k.hugetlb_cma.size} bytes were made, {size} were asked for"
    for order, h in k.hstates.items():
        wanted, got = asked.get(order, 0), sum(h.nr)
        if got > wanted:
            return f"{got} pages of order {order} were made, {wanted} were asked for"
        if got < wanted and not h.gigantic and not k.faults.armed and k.pages.short == 0:
            return f"{got} of {wanted} pages of order {order} were made, and no allocation failed"
        if h.resv or h.nr_overcommit or any(h.surplus):
            return f"the pool of order {order} has reservations or surplus pages"
    return None


def _memory(side: SideLike) -> str | None:
    k = side.kernel
    ranges = k.machine.ram_ranges()
    there = sum([hi - lo for _, lo, hi in ranges])
    ram = k.machine.ram // k.arch.page
    if there > ram or there < ram - k.machine.hole // k.arch.page:
        return f"there are {there} pages of RAM in a machine of {ram}"
    for (_, _, end), (_, start, _) in pairwise(ranges):
        if start < end:
            return f"RAM ranges meet at {start:#x}"
    for node in k.nodes:
        own = sum([hi - lo for nid, lo, hi in ranges if nid == node.nid])
        present = sum([zone.present_pages for zone in node.zones])
        if own != present:  # none, where the hole is as large as the node
            return f"node {node.nid} has {own} pages of RAM, {present} of them are present"
    for zone in (zone for node in k.nodes for zone in node.zones):
        if any(nid != zone.nid for nid, lo, hi in ranges if k.pages.zone_of.get(lo) is zone):
            return f"{zone!r} has memory of another node"
    return None
