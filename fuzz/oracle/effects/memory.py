"""Memory blocks and subblocks: add, remove, online, offline, plug, unplug."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from fuzz.oracle.effects.common import Args, Before, SideLike, in_the_way, states_of, subsections_of
from fuzz.oracle.effects.pages import refused
from mm.errno import EBUSY
from mm.kernel import Kernel
from mm.memory import MemoryBlocks
from mm.mmzone import ZONE_MOVABLE, ZONE_NORMAL
from mm.page_alloc import OWNER_HUGETLB, OWNER_HWPOISON, OWNER_OFFLINE, OWNER_PAGES_MOVABLE
from mm.pgtable import PMD_TABLE, PTE_TABLE
from mm.runs import RunMap
from mm.virtio_mem import subblock_pages

MOVED: Final = frozenset({OWNER_HUGETLB, OWNER_PAGES_MOVABLE})
"""Whose frames are moved away."""
UNUSED: Final = frozenset({OWNER_OFFLINE})
"""Whose frames may stay."""


def block_before(side: SideLike, args: Args) -> tuple[int, Any]:
    """The block that m or d and block= name, -1 if it has no device; and its state."""
    k = side.kernel
    if "m" in args:
        memory = side.handles.get(args["m"])
        block = -1 if memory is None else memory.block(k.arch, args["block"])
    else:
        device = side.handles.get(args["d"])
        block = -1 if device is None else _block_of(k, device.ranges, args["block"])
    return block, k.memory_blocks.zone.get(block) if block >= 0 else None


def _block_of(k: Kernel, ranges: list[tuple[int, int]], number: int) -> int:
    """docs/language.md: the blocks of a device are numbered through the whole memory blocks of its ranges, in their
    order; -1 for a number too large."""
    per = k.memory_blocks.pages
    for start, end in ranges:
        blocks = range(-(-start // per), end // per)
        if number < len(blocks):
            return blocks[number]
        number -= len(blocks)
    return -1


def online_before(side: SideLike, args: Args) -> tuple[int, Any, tuple[int, int] | None]:
    """The block, its state, and the zone that it is to go online in (zone_for_pfn_range, default_kernel_zone_for_pfn in
    mm/memory_hotplug.c): a zone that it meets, of the kernel before the movable one, else ZONE_NORMAL."""
    block, state = block_before(side, args)
    k = side.kernel
    nid = k.memory_blocks.nid.get(block) if state is not None else None
    if nid is None:
        return block, state, None
    lo = block * k.memory_blocks.pages
    met = [
        zone.idx for zone in k.nodes[nid].zones[: ZONE_MOVABLE + 1] if zone.intersects(lo, lo + k.memory_blocks.pages)
    ]
    idx = ([i for i in met if i < ZONE_MOVABLE] or [ZONE_NORMAL])[0]
    if args["zone"] == "movable" or (args["zone"] == "default" and met == [ZONE_MOVABLE]):
        idx = ZONE_MOVABLE
    return block, state, (nid, idx)


def online(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """memory_block_online (drivers/base/memory.c)."""
    block, was, wanted = then
    now = side.kernel.memory_blocks.zone.get(block)
    if rc:
        return None if now == was else f"block {block} changed from {was} to {now}"
    return None if now == wanted else f"block {block} is in zone {now}, not {wanted}"


def offline_before(side: SideLike, args: Args) -> tuple[int, Any, int, tuple[int, int, int] | None]:
    """The block, its state, how often memory ran short, and if the block is of one of several nodes: its node and what
    must be moved away to be left there, in frames of huge pages and of programs."""
    block, state = block_before(side, args)
    k = side.kernel
    short = k.pages.short
    if state is None or state == MemoryBlocks.OFFLINE or len(k.nodes) == 1:
        return block, state, short, None
    nid = state[0]
    if not any(zone.present_pages for node in k.nodes if node.nid != nid for zone in node.zones):
        return block, state, short, None
    lo = block * k.memory_blocks.pages
    hi = lo + k.memory_blocks.pages
    if all(owner not in MOVED for _, _, owner in k.pages.owners.runs(lo, hi)):
        return block, state, short, None
    huge, pages = _in_use(k, nid)
    mine = [f for h in k.hstates.values() for folios in h.mapped for f in folios if f.pfn < hi and f.end_pfn > lo]
    huge -= sum([1 << folio.order for folio in mine])
    pages -= sum([e - s for s, e, owner in k.pages.owners.runs(lo, hi) if owner == OWNER_PAGES_MOVABLE])
    return block, state, short, (nid, huge, pages)


def _in_use(k: Kernel, nid: int) -> tuple[int, int]:
    """Frames of a node in huge pages that are mapped, and in movable pages of programs."""
    huge = [1 << f.order for h in k.hstates.values() for folios in h.mapped for f in folios if f.nid == nid]
    pages = 0
    for lo, hi, owner in k.pages.owners.items():
        if owner == OWNER_PAGES_MOVABLE:
            pages += sum([e - s for s, e, zone in k.pages.zone_of.runs(lo, hi) if zone.nid == nid])
    return sum(huge), pages


def offline(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """memory_block_offline (drivers/base/memory.c); what is moved goes to another node if there is one
    (do_migrate_range, mm/memory_hotplug.c), and free huge pages are dissolved."""
    block, was, short, left = then
    k = side.kernel
    now = k.memory_blocks.zone.get(block)
    if rc == 0:
        if left is not None and _in_use(k, left[0]) != left[1:]:
            return f"{_in_use(k, left[0])} frames are in use on node {left[0]}, {left[1:]} were to be left there"
        return None if now == MemoryBlocks.OFFLINE else f"block {block} is not offline"
    if now != was:
        return f"block {block} changed from {was} to {now}"
    if rc == -EBUSY and not _stuck(k, block, short):
        return f"nothing is in the way in block {block}"
    return None


def _stuck(k: Kernel, block: int, short: int) -> bool:
    """Whether a block has what keeps it online (offline_pages, mm/memory_hotplug.c): pages of programs only where
    memory ran short, of which there were `short` cases before. A free huge page that is not dissolved for want of
    memory is -ENOMEM."""
    lo = block * k.memory_blocks.pages
    idle = UNUSED if k.pages.short != short or k.faults.fired else UNUSED | {OWNER_PAGES_MOVABLE}
    return in_the_way(k, lo, lo + k.memory_blocks.pages, idle)


def ranges_before(side: SideLike, args: Args) -> tuple[Any, list[tuple[int, int, Any]]]:
    memory = side.handles.get(args["m"])
    return memory, [] if memory is None else states_of(side.kernel, memory[0], memory[0] + memory[1])


def _kinds(k: Kernel, states: list[tuple[int, int, Any]]) -> list[tuple[int, int, tuple[bool, bool]]]:
    """Rows of blocks: first, end, (online, movable). What goes online again may find itself in another kernel zone, and
    with a poisoned page it cannot: such blocks are left out.
    """
    kinds: RunMap[tuple[bool, bool]] = RunMap()
    for lo, hi, state in states:
        kinds.set(lo, hi, (state != MemoryBlocks.OFFLINE, state[1] == ZONE_MOVABLE))
    for block in k.memory_blocks.nr_hwpoison:
        kinds.clear(block, block + 1)
    return kinds.items()


def unplug_before(side: SideLike, args: Args) -> tuple[Any, int]:
    return ranges_before(side, args), side.kernel.pages.short


def unplugged_whole(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """offline_and_remove_memory_ranges (mm/memory_hotplug.c): block after block, each emptied before the next one is
    asked, so that the first one that is not empty is the one that did not go."""
    before, short = then
    k = side.kernel
    if rc == -EBUSY:
        block = _not_empty(k, before[1])
        if not _stuck(k, block, short):
            return f"nothing is in the way in block {block}"
    return gone(side, args, rc, before, result)


def _not_empty(k: Kernel, states: list[tuple[int, int, Any]]) -> int:
    """The first of the blocks that were online which has something, or cannot be emptied; -1 if none has."""
    per = k.memory_blocks.pages
    for first, last, state in states:
        if state != MemoryBlocks.OFFLINE:
            found = [lo for lo, _, owner in k.pages.owners.runs(first * per, last * per) if owner != OWNER_OFFLINE]
            found += [lo for lo, _ in k.pages.cma.runs(first * per, last * per)]
            if found:
                return min(found) // per
    return -1


def gone(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """remove_memory, offline_and_remove_memory_ranges (mm/memory_hotplug.c): all of the range, or nothing."""
    memory, states = then
    k = side.kernel
    if memory is None:
        return None
    lo, hi = memory[0], memory[0] + memory[1]
    now = states_of(k, lo, hi)
    if rc:
        return None if _kinds(k, now) == _kinds(k, states) else "memory blocks changed"
    if now or k.iomem.overlaps(lo, hi) or k.sections.subsections.overlaps(*subsections_of(k, lo, hi)):
        return f"something of {lo:#x}..{hi:#x} is left"
    return _idle_table(k, lo // k.arch.spp, -(-hi // k.arch.spp)) if k.arch.name == "x86_64" else None


def _idle_table(k: Kernel, lo: int, hi: int) -> str | None:
    """free_pte_table, free_pmd_table (arch/x86/mm/init_64.c): where vmemmap pages [lo, hi) were, no table is left that
    has no entry."""
    for level in (PTE_TABLE, PMD_TABLE):
        span = k.tables.spans[level]
        for at in {lo // span, (hi - 1) // span}:
            first, end = at * span, (at + 1) * span
            below = level == PMD_TABLE and k.tables.tables[PTE_TABLE].overlaps(
                first // k.arch.ptrs_per_pte, end // k.arch.ptrs_per_pte
            )
            if k.tables.tables[level].get(at) is not None and not below and not k.tables.entries.overlaps(first, end):
                return f"table {at:#x} of level {level} is empty"
    return None


def range_before(side: SideLike, args: Args) -> tuple[int, int, list[Any]] | None:
    k = side.kernel
    page = k.arch.page
    if args["at"] % page or args["size"] % page:
        return None
    lo, hi = args["at"] // page, (args["at"] + args["size"]) // page
    return lo, hi, k.iomem.runs(lo, hi)


def added(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """add_memory (mm/memory_hotplug.c): blocks of the whole range, of that node, or nothing."""
    if then is None:
        return None
    lo, hi, busy = then
    k = side.kernel
    if rc:
        return None if k.iomem.runs(lo, hi) == busy else "the range is reserved"
    per = k.memory_blocks.pages
    first, last = lo // per, hi // per
    states, nids = k.memory_blocks.zone.runs(first, last), k.memory_blocks.nid.runs(first, last)
    if sum([e - s for s, e, _ in states]) != last - first or any(nid != args["node"] for _, _, nid in nids):
        return f"{lo:#x}..{hi:#x} is not in blocks of node {args['node']}"
    if not k.sections.subsections.covers(*subsections_of(k, lo, hi)):
        return f"{lo:#x}..{hi:#x} lacks struct pages"
    policy = k.machine.memhp_default_state
    if policy == "offline" and any(state != MemoryBlocks.OFFLINE for _, _, state in states):
        return "blocks are online"
    if policy != "offline" and any(state == MemoryBlocks.OFFLINE for _, _, state in states):
        return "blocks are offline"
    return None


class Subblocks(NamedTuple):
    """Subblocks that an operation names."""

    lo: int
    hi: int
    """Their frames, [lo, hi)."""
    gone: int
    """Frames of them that are not plugged in."""
    online: bool
    short: int
    """How often memory has run short."""


def subblock_before(side: SideLike, args: Args) -> Subblocks | None:
    block, state = block_before(side, args)
    if state is None:
        return None
    k = side.kernel
    size = subblock_pages(k)
    lo = block * k.memory_blocks.pages + args["first"] * size
    hi = lo + args["count"] * size
    gone = k.memory_blocks.unplugged.count(lo, hi)
    return Subblocks(lo, hi, gone, state != MemoryBlocks.OFFLINE, k.pages.short)


def _subblocks_stay(side: SideLike, then: Subblocks | None) -> str | None:
    """What is wrong with plugging or unplugging that did nothing: there is no block, or it failed."""
    same = then is None or side.kernel.memory_blocks.unplugged.count(then.lo, then.hi) == then.gone
    return None if same else "subblocks changed"


def unplugged(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """virtio_mem_sbm_unplug_sb_online (drivers/virtio/virtio_mem.c)."""
    if rc or then is None:
        text = _subblocks_stay(side, then)
        return refused(side.kernel, then.lo, then.hi, then.short) if text is None and then and rc == -EBUSY else text
    lo, hi, _, online, _ = then
    k = side.kernel
    if not k.memory_blocks.unplugged.covers(lo, hi):
        return "the subblocks are not unplugged"
    if online and k.pages.owners.runs(lo, hi) != [(lo, hi, OWNER_OFFLINE)]:
        return "the frames are not the driver's"
    return None


def plugged(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """virtio_mem_sbm_plug_any_sb (drivers/virtio/virtio_mem.c)."""
    if rc or then is None:
        return _subblocks_stay(side, then)
    lo, hi, _, online, _ = then
    k = side.kernel
    if k.memory_blocks.unplugged.overlaps(lo, hi):
        return "the subblocks are not plugged"
    if online and any(owner != OWNER_HWPOISON for _, _, owner in k.pages.owners.runs(lo, hi)):
        return "the frames are not free"
    return None
