"""The command line and the boot: what they say is there."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from fuzz.oracle.effects.cma import Areas, Asked, areas
from fuzz.oracle.effects.common import Args, Before, SideLike
from fuzz.oracle.effects.order import aligned_blocks
from fuzz.oracle.observe import union
from mm.errno import EINVAL
from mm.hstate import HState
from mm.kernel import Kernel, gigantic_folios
from mm.machine import Machine
from mm.page_alloc import OWNER_CMA, OWNER_RESERVED


def requests(side: SideLike, args: Args) -> dict[tuple[int, int | None], int]:
    """How many huge pages of an order were asked for, on a node or on any."""
    return {(request.order, request.nid): request.count for request in side.kernel.boot_requests}


def asked(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """hugepages_setup (mm/hugetlb.c): numbers add up; of a size that has one for all nodes and one for a node, what
    came first counts."""
    mine, nid = (side.order(args["size"]), args["node"]), args["node"]
    refused = any(order == mine[0] and (node is None) is not (nid is None) for order, node in then)
    refused = refused or (nid is not None and nid >= len(side.kernel.nodes))
    wanted = then if refused else {**then, mine: then.get(mine, 0) + args["count"]}
    if (rc == -EINVAL) is not refused:
        return f"{then} was asked for before"
    now = requests(side, args)
    return None if now == wanted else f"{now} is asked for, not {wanted}"


def sizes(side: SideLike, args: Args) -> tuple[Asked, bool]:
    """What was said of areas for gigantic pages, hugetlb_cma_only the last."""
    state = side.kernel.hugetlb_cma
    return Asked(state.size, state.percent, list(state.size_in_node), list(state.percent_in_node)), state.only


def cma_asked(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """cmdline_parse_hugetlb_cma (mm/hugetlb_cma.c): what is said for all nodes and what for single ones exclude each
    other, what came last counts, and more than all memory is nothing, but for a node it ends what was said for all."""
    before, only = then
    nid, percent = args["node"], args["percent"]
    now = sizes(side, args)
    if nid is not None and nid >= len(before.in_node):
        return None if now == then else "a node that is not there has a size"
    if rc:
        return "it is never refused"
    size = 0 if percent else args["size"]
    said = before
    if nid is None and percent <= 100:
        none = [0] * len(before.in_node)
        said = Asked(size, percent, none, none)
    elif nid is not None:
        said = before._replace(size=0, percent=0)
        if percent <= 100:
            said.in_node[nid], said.percent_in_node[nid] = size, percent
    wanted = said, only or args["only"]
    return None if now == wanted else f"{now} is asked for, not {wanted}"


def command_line(side: SideLike, args: Args) -> tuple[bool, dict[tuple[int, int | None], int], Areas | None]:
    """hugetlb_cma_only=, how many huge pages of each order were asked for, on a node or on any, and which areas must
    come of hugetlb_cma=, if anything was said."""
    said, only = sizes(side, args)
    anything = said.size or said.percent or any(said.in_node) or any(said.percent_in_node)
    return only, requests(side, args), areas(side.kernel, said) if anything else None


def booted(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """All RAM is in zones of its node (free_area_init, mm/mm_init.c); huge pages are what was asked for, fewer for want
    of memory only (hugetlb_hstate_alloc_pages, mm/hugetlb.c); hugetlb_cma_only is nothing without an area
    (hugetlb_cma_validate_params, mm/hugetlb_cma.c); parameters show what the command line said (set_memmap_mode,
    get_memmap_mode, mm/memory_hotplug.c)."""
    only, requested, wanted_areas = then
    k = side.kernel
    text = _memory(side) or _leak_detector(k)
    if text is not None:
        return text
    mode = k.machine.memmap_on_memory
    shown = {"memory_hotplug.memmap_on_memory": mode if mode == "force" else "Y" if mode == "on" else "N"}
    if k.parameters != (shown if k.arch.memmap_on_memory else {}):
        return f"the parameters show {k.parameters}, and the command line says memmap_on_memory={mode}"
    if k.hugetlb_cma.only is not (only and bool(k.hugetlb_cma.size)):
        return f"hugetlb_cma_only is {k.hugetlb_cma.only}, with areas of {k.hugetlb_cma.size} bytes"
    areas = [area for area in k.hugetlb_cma.areas if area is not None]
    if k.arch.hugetlb_cma_shift and bool(areas) is not bool(k.hugetlb_cma.size):
        return f"areas of {k.hugetlb_cma.size} bytes were made, on {len(areas)} nodes"
    if any(not area.activated for area in areas):
        return "an area that spans zones is used"  # cma_validate_zones
    if OWNER_CMA in k.pages.owners.vals or any(cma.count for cma in k.cma.areas if not cma.activated):
        return "an area has kept memory that nobody can use"  # cma_activate_area
    if wanted_areas is None:
        if k.cma.areas or k.hugetlb_cma.size:
            return f"areas of {k.hugetlb_cma.size} bytes were made, and none were asked for"
    else:
        made = [(cma.nid, [(cmr.base_pfn, cmr.end_pfn) for cmr in cma.ranges]) for cma in k.cma.areas]
        used = [nid for nid, area in enumerate(k.hugetlb_cma.areas) if area is not None]
        found = Areas(k.hugetlb_cma.size, made, used)
        if found != wanted_areas:
            return f"the areas are {found}, not {wanted_areas}"
    for order, h in k.hstates.items():
        mine = {nid: count for (size, nid), count in requested.items() if size == order}
        wanted, got = sum(mine.values()), sum(h.nr)
        if got > wanted:
            return f"{got} pages of order {order} were made, {wanted} were asked for"
        if got < wanted and not h.gigantic and not k.pages.short:
            return f"{got} of {wanted} pages of order {order} were made, and no allocation failed"
        if got < wanted and len(requested) == 1 and not h.gigantic:
            # What optimizing gives back is asked for again (hugetlb_pages_alloc_boot).
            nid = min(mine, key=str)
            room = aligned_blocks(k, h, [node.nid for node in k.nodes if nid in (None, node.nid)])
            if room:
                return f"{got} of {wanted} pages of order {order} were made, and there is memory for {room} more"
        if h.gigantic and k.hugetlb_cma.only and got < _due(k, h, mine):
            return f"{got} of {wanted} pages of order {order} were made, and areas have room"
        if h.resv or h.nr_overcommit or any(h.surplus):
            return f"the pool of order {order} has reservations or surplus pages"
        skipped = h.gigantic and k.hugetlb_cma.size and not k.hugetlb_cma.only
        if h.max_huge_pages != (wanted if skipped else got):
            # hugetlb_hstate_alloc_pages, which leaves the number alone where areas of CMA end it
            return f"max_huge_pages is {h.max_huge_pages} of order {order}, {wanted} were asked for, {got} made"
        if h.next_nid_to_alloc or h.next_nid_to_free:
            # hugetlb_init_hstates: first_memory_node, whoever had a turn while memblock gave the gigantic pages.
            return f"turns begin at nodes {h.next_nid_to_alloc} and {h.next_nid_to_free} in the pool of order {order}"
    return None


def _due(k: Kernel, h: HState, wanted: dict[int | None, int]) -> int:
    """How many gigantic pages the areas have for what is `wanted` on a node, or on any (hugetlb_cma_alloc_bootmem)."""
    room = [0 if cma is None else sum([cmr.count // h.pages for cmr in cma.ranges]) for cma in k.hugetlb_cma.areas]
    return sum([min(count, sum(room) if nid is None else room[nid]) for nid, count in wanted.items()])


def _leak_detector(k: Kernel) -> str | None:
    """kmemleak knows of the gigantic pages of the boot and of areas that memblock gave in one piece, those of several
    ranges being reserved (cma_declare_contiguous_multi); of the memory map it knows nothing (memmap_alloc in
    mm/mm_init.c)."""
    known = [(folio.pfn, folio.end_pfn) for folio in gigantic_folios(k) if not folio.cma]
    known += [(cma.ranges[0].base_pfn, cma.ranges[0].end_pfn) for cma in k.cma.areas if len(cma.ranges) == 1]
    found = k.memblock.kmemleak.items()
    if found != union(known):
        return f"the leak detector knows frames {found}, gigantic pages and areas are {union(known)}"
    return None


def _turns(machine: Machine, ranges: Iterable[tuple[int, int, int]]) -> str | None:
    """docs/language.md: nodes have equal shares in address order, whole multiples of 2M, and the last one the rest; or
    they take turns of `interleave` bytes, at least two each and at most 64 in all."""
    nodes, layout = machine.nodes, machine.geometry().ram
    part = machine.ram // nodes >> 21 << 21
    if machine.interleave:
        part = min(max(machine.interleave, -(-machine.ram // 64 // (2 << 20)) * (2 << 20)), part // 2 >> 21 << 21)
    for nid, lo, hi in ranges:
        first, last = lo * machine.page - machine.start(), hi * machine.page - 1 - machine.start()
        if machine.ram >= layout.whole and lo * machine.page >= layout.rest:
            gap = layout.rest - layout.low  # RAM begins at 0 there
            first, last = first - gap, last - gap
        turns = first // part, last // part
        wanted = {turn % nodes if machine.interleave else min(turn, nodes - 1) for turn in turns}
        if wanted != {nid}:
            return f"RAM at {lo:#x}..{hi:#x} is of node {nid}, in turns of {part:#x} bytes"
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
    text = _turns(k.machine, ranges)
    if text is not None:
        return text
    for first, last in k.arch.image:
        lo, hi = (ranges[0][1] + at // k.arch.page for at in (first, last))
        if k.pages.owners.runs(lo, hi) != [(lo, hi, OWNER_RESERVED)]:
            return f"the kernel's image is not kept at {lo:#x}..{hi:#x}"
    for node in k.nodes:
        own = sum([hi - lo for nid, lo, hi in ranges if nid == node.nid])
        present = sum([zone.present_pages for zone in node.zones])
        if own != present:  # none, where the hole is as large as the node
            return f"node {node.nid} has {own} pages of RAM, {present} of them are present"
    for zone in (zone for node in k.nodes for zone in node.zones):
        if any(nid != zone.nid for nid, lo, hi in ranges if k.pages.zone_of.get(lo) is zone):
            return f"{zone!r} has memory of another node"
    return None
