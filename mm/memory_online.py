"""Memory blocks go online and offline (drivers/base/memory.c, mm/memory_hotplug.c, Linux 7.3).

Onlining has no point of failure here. Offlining moves away what can be moved and dissolves the free huge pages. Where
the kernel would try to migrate until a signal comes, the result here is -EBUSY.

The kernel walks over the blocks of a range one by one; here neighbours to which the same happens go in one step, since
a machine of 16 TiB has 131,072 of them.

Left out: notifiers (but arm64's), the auto-movable policy and its memory groups, the span of nodes, and that a zone's
span does not shrink over the hole at the end of a partly backed boot section.
"""

from __future__ import annotations

from mm.errno import EBUSY, EHWPOISON, EINVAL, ENODEV, EPERM
from mm.hugetlb import dissolve_free_hugetlb_folios
from mm.hugetlb_isolate import isolate_or_migrate
from mm.kernel import Kernel
from mm.machine import OnlineType
from mm.memmap_on_memory import mhp_init_memmap_on_memory
from mm.memory import MemoryBlocks
from mm.mmzone import SECTION_IS_EARLY, SECTION_IS_ONLINE, ZONE_MOVABLE, Zone
from mm.page_alloc import (
    KERNEL_ZONES,
    MOVABLE_ZONES,
    OWNER_HUGETLB,
    OWNER_HWPOISON,
    OWNER_OFFLINE,
    OWNER_PAGES_MOVABLE,
    Extents,
    default_zone_for_kernel_pfn,
)
from mm.search import bisect_left

MOVABLE_OWNERS = frozenset({OWNER_HUGETLB, OWNER_PAGES_MOVABLE})


def zone_for_pfn_range(k: Kernel, online_type: OnlineType, nid: int, start_pfn: int, end_pfn: int) -> Zone:
    """zone_for_pfn_range, default_zone_for_pfn (mm/memory_hotplug.c, 7.3) with online_policy=contig-zones and without
    movable_node: plain "online" takes the zone that the range meets, a kernel zone if it meets both kinds or none.
    """
    movable = k.nodes[nid].zones[ZONE_MOVABLE]
    if online_type == "online_movable":
        return movable
    kernel = default_zone_for_kernel_pfn(k.nodes, nid, start_pfn, end_pfn)
    if online_type == "online" and movable.intersects(start_pfn, end_pfn) and not kernel.intersects(start_pfn, end_pfn):
        return movable
    return kernel


def memory_block_online(k: Kernel, block: int, online_type: OnlineType) -> int:
    """state_store of one of the online types, memory_block_online (drivers/base/memory.c, 7.3); 0 or an errno."""
    blocks = k.memory_blocks
    state = blocks.zone.get(block)
    nid = blocks.nid.get(block)
    if state is None or nid is None:
        return -ENODEV
    if state != MemoryBlocks.OFFLINE:
        return -EINVAL
    if blocks.nr_hwpoison.get(block):
        return -EHWPOISON
    _online_row(k, block, block + 1, nid, online_type)
    return 0


def memory_blocks_online(k: Kernel, first: int, last: int, online_type: OnlineType) -> None:
    """memory_block_online of all of the blocks [first, last) in turn, whatever it returns."""
    while first < last:
        end = _online_alike(k, first, last)
        if end == first:
            end += 1
            memory_block_online(k, first, online_type)
        else:
            nid = k.memory_blocks.nid.get(first)
            assert nid is not None
            _online_row(k, first, end, nid, online_type)
        first = end


def _online_alike(k: Kernel, first: int, last: int) -> int:
    """Where the row of blocks from `first` on ends that go online in the same zone, none of them self-hosted; `first`
    if it does not go online or is self-hosted.
    """
    blocks = k.memory_blocks
    if first in blocks.altmaps or first in blocks.nr_hwpoison:
        return first
    state, nid = blocks.zone.run(first), blocks.nid.run(first)
    if state is None or nid is None or state[2] != MemoryBlocks.OFFLINE:
        return first
    last = min(last, state[1], nid[1])
    for other in (*blocks.altmaps, *blocks.nr_hwpoison):
        if first < other < last:
            last = other
    # A zone that begins or ends behind the first block may be another one's. The one that grows is the same for all.
    per = blocks.pages
    for zone in k.nodes[nid[2]].zones:
        for pfn in (zone.start_pfn, zone.end_pfn):
            if first * per < pfn < last * per:
                last = max(pfn // per, first + 1)
    return last


def _online_row(k: Kernel, first: int, last: int, nid: int, online_type: OnlineType) -> None:
    """memory_block_online of blocks that are alike: [first, last), a single one if it is self-hosted."""
    blocks = k.memory_blocks
    start, end = first * blocks.pages, last * blocks.pages
    target = zone_for_pfn_range(k, online_type, nid, start, end)
    altmap = blocks.altmaps.get(first)
    if altmap is None:
        online_pages(k, start, end, target)
    else:
        rest = start + altmap.capacity
        mhp_init_memmap_on_memory(k, start, rest, target)
        online_pages(k, rest, end, target)
        target.present_pages += altmap.capacity
    blocks.put(first, last, nid, target.key)


def online_pages(k: Kernel, start_pfn: int, end_pfn: int, zone: Zone) -> None:
    """online_pages, move_pfn_range_to_zone, online_pages_range (mm/memory_hotplug.c, 7.3)."""
    zone.grow_span(start_pfn, end_pfn)
    k.paths.memmap_init_range(zone, start_pfn, end_pfn - start_pfn)
    done = start_pfn
    for lo, hi in [*k.memory_blocks.unplugged.runs(start_pfn, end_pfn), (end_pfn, end_pfn)]:
        if done < lo:
            k.pages.online(zone, done, lo, free=True)
        if lo < hi:  # virtio_mem_online_page
            k.pages.online(zone, lo, hi, free=False)
            k.pages.claim(lo, hi, OWNER_OFFLINE)
        done = hi
    per = k.arch.pages_per_section
    k.sections.set_flags(start_pfn // per, -(-end_pfn // per), SECTION_IS_ONLINE)
    zone.present_pages += end_pfn - start_pfn


def memory_block_offline(k: Kernel, block: int) -> int:
    """state_store of offline, memory_block_offline (drivers/base/memory.c, 7.3); 0 or an errno."""
    blocks = k.memory_blocks
    state = blocks.zone.get(block)
    if state is None:
        return -ENODEV
    start = block * blocks.pages
    run = k.pages.zone_of.run(start)
    if state == MemoryBlocks.OFFLINE or run is None or run[1] < start + blocks.pages:
        return -EINVAL  # offline already; or it has holes, or more than one zone
    return _offline_row(k, block, block + 1, run[2])


def memory_blocks_offline(k: Kernel, first: int, last: int) -> tuple[int, int]:
    """memory_block_offline of `first`, and of those before `last` that go offline like it: 0 or an errno of the first,
    and the end of the row that it is about.
    """
    end = _offline_alike(k, first, last)
    if end == first:
        return memory_block_offline(k, first), first + 1
    zone = k.pages.zone_of.get(first * k.memory_blocks.pages)
    assert zone is not None
    return _offline_row(k, first, end, zone), end


def _offline_alike(k: Kernel, first: int, last: int) -> int:
    """Where the row of blocks from `first` on ends that are online in one zone and have nothing but free frames, in
    none of the ways of offline_pages; `first` if it is none of them.
    """
    blocks, pages = k.memory_blocks, k.pages
    per = blocks.pages
    state, home = blocks.zone.run(first), pages.zone_of.run(first * per)
    if state is None or state[2] == MemoryBlocks.OFFLINE or home is None:
        return first
    last = min(last, state[1], home[1] // per)
    for busy in (pages.owners.next(first * per), pages.cma.next(first * per)):
        if busy is not None:
            last = min(last, busy // per)
    if k.arch.boot_memory_stays:
        section = k.arch.pages_per_section
        for lo, _, word in k.sections.flags.runs(first * per // section, last * per // section):
            if word & SECTION_IS_EARLY:
                last = min(last, lo * section // per)
    for block in blocks.altmaps:
        if first <= block < last:
            last = block
    return max(first, last)


def _offline_row(k: Kernel, first: int, last: int, zone: Zone) -> int:
    """memory_block_offline of online blocks of one zone that are alike, [first, last); 0, or an errno of a single
    one."""
    blocks = k.memory_blocks
    start, end = first * blocks.pages, last * blocks.pages
    blocks.tried.append((start, end))
    altmap = blocks.altmaps.get(first)
    rest = start if altmap is None else start + altmap.capacity
    rc = offline_pages(k, rest, end, zone)
    if rc:
        return rc
    if altmap is not None:
        # mhp_deinit_memmap_on_memory
        k.pages.zone_of.clear(start, rest)
    zone.present_pages -= end - start
    shrink_zone_span(k, zone, start, end)
    blocks.zone.set(first, last, MemoryBlocks.OFFLINE)
    blocks.touched.append((first, last))
    return 0


def offline_pages(k: Kernel, start_pfn: int, end_pfn: int, zone: Zone) -> int:
    """offline_pages (mm/memory_hotplug.c, 7.3) up to the zone's accounting; 0 or an errno.

    The caller has seen that the range has no holes and lies in `zone`. Frames that poison took out of use do not
    hinder; left out: neither do poisoned ones that the kernel itself uses.
    """
    pages = k.pages
    if pages.cma.overlaps(start_pfn, end_pfn):
        return -EBUSY  # has_unmovable_pages: a pageblock of type MIGRATE_CMA
    found = set()
    for lo, hi, owner in pages.owners.runs(start_pfn, end_pfn):
        if owner == OWNER_OFFLINE:
            continue  # the driver drops its references
        if owner not in MOVABLE_OWNERS and not (owner == OWNER_HWPOISON and _poisoned(k, lo, hi)):
            return -EBUSY  # has_unmovable_pages
        found.add(owner)
    if k.arch.boot_memory_stays and k.sections.early(start_pfn):
        return -EPERM  # prevent_memory_remove_notifier (arch/arm64/mm/mmu.c)
    if found:
        pages.isolate(zone, start_pfn, end_pfn)
        rc = _empty(k, start_pfn, end_pfn, zone, OWNER_HUGETLB in found)
        pages.unisolate(zone)
        if rc:
            return rc
    pages.offline(zone, start_pfn, end_pfn)
    for lo, hi in k.memory_blocks.unplugged.runs(start_pfn, end_pfn):
        pages.disclaim(lo, hi)
        zone.managed_pages += hi - lo  # they were not managed
    per = k.arch.pages_per_section
    k.sections.clear_flags(start_pfn // per, -(-end_pfn // per), SECTION_IS_ONLINE)
    return 0


def _empty(k: Kernel, start_pfn: int, end_pfn: int, zone: Zone, hugetlb: bool) -> int:
    """The loop of offline_pages: migrate what is in use, then dissolve free huge pages; 0 when every frame is free."""
    # migrate_pages moves the huge pages of its list before the others.
    rc = isolate_or_migrate(k, start_pfn, end_pfn) if hugetlb else 0
    rc = rc or do_migrate_range(k, start_pfn, end_pfn, zone)
    if not rc and hugetlb:
        rc = dissolve_free_hugetlb_folios(k, start_pfn, end_pfn)
    if not rc:
        # test_pages_isolated: what poison or a driver took out of use is as good as free
        out = k.pages.isolated_free.copy()
        for lo, hi in k.memory_blocks.unplugged.runs(start_pfn, end_pfn):
            out.add(lo, hi)
        at = start_pfn
        for lo, hi in [*out.runs(start_pfn, end_pfn), (end_pfn, end_pfn)]:
            if not _poisoned(k, at, lo):
                return -EBUSY
            at = hi
    return rc


def _poisoned(k: Kernel, lo: int, hi: int) -> bool:
    """Whether every frame of [lo, hi) has PG_hwpoison."""
    return hi - lo <= len(k.pages.hwpoison) and all(pfn in k.pages.hwpoison for pfn in range(lo, hi))


def do_migrate_range(k: Kernel, start_pfn: int, end_pfn: int, zone: Zone) -> int:
    """do_migrate_range (mm/memory_hotplug.c, 7.3) for order-0 pages of programs; 0 or -EBUSY.

    Targets come from the other nodes, from the own node only if no other has memory.
    """
    others = [n.nid for n in k.nodes if n.nid != zone.nid and any(z.present_pages for z in n.zones)]
    return -EBUSY if migrate_movable(k, start_pfn, end_pfn, zone, others or [zone.nid]) else 0


def migrate_movable(k: Kernel, start_pfn: int, end_pfn: int, zone: Zone, nodes: list[int]) -> int:
    """migrate_pages, alloc_migration_target (mm/migrate.c, 7.3) for order-0 pages of programs, to `nodes` in turn.

    How many found no room; the first ones are moved then all the same.
    """
    pages = k.pages
    runs = pages.holders.runs(start_pfn, end_pfn)
    if not runs:
        return 0
    need = sum(e - s for s, e, _ in runs)
    zones = MOVABLE_ZONES if zone.idx == ZONE_MOVABLE else KERNEL_ZONES
    targets: Extents = []
    for nid in nodes:
        got = pages.alloc_bulk(need, nid, OWNER_PAGES_MOVABLE, thisnode=True, zones=zones)
        need -= sum(n for _, n in got)
        targets += got
    targets.reverse()  # the next one is at the end
    for lo, hi, extents in runs:
        new: Extents = []
        at = lo
        while at < hi and targets:
            pfn, n = targets.pop()
            if n > hi - at:
                targets.append((pfn + hi - at, n - (hi - at)))
                n = hi - at
            pages.holders.set(pfn, pfn + n, extents)
            new.append((pfn, n))
            at += n
        if at == lo:
            break
        replace_extent(extents, lo, at, new)
        pages.holders.clear(lo, at)
        pages.free(lo, at - lo)
    return need


def replace_extent(extents: Extents, lo: int, hi: int, new: Extents) -> None:
    """The holder of `extents` has the frames `new` instead of [lo, hi)."""
    out: Extents = []
    for pfn, n in extents:
        if pfn < lo:
            out.append((pfn, min(n, lo - pfn)))
        if pfn + n > hi:
            out.append((max(pfn, hi), pfn + n - max(pfn, hi)))
    extents[:] = out + new


def shrink_zone_span(k: Kernel, zone: Zone, start_pfn: int, end_pfn: int) -> None:
    """shrink_zone_span (mm/memory_hotplug.c, 7.3): nothing of [start_pfn, end_pfn) is online any more.

    A whole row of blocks at once gives what the kernel gets in several steps, ascending.
    """
    runs = k.pages.zone_of
    if zone.start_pfn == start_pfn:
        for i in range(bisect_left(runs.starts, end_pfn), len(runs.starts)):
            if runs.starts[i] >= zone.end_pfn:
                break
            if runs.vals[i] is zone:
                zone.start_pfn = runs.starts[i]
                return
    elif zone.end_pfn == end_pfn:
        for i in range(bisect_left(runs.starts, start_pfn) - 1, -1, -1):
            if runs.vals[i] is zone:
                zone.end_pfn = runs.ends[i]
                return
    else:
        return
    zone.start_pfn = zone.end_pfn = 0
