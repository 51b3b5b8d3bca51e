"""The page allocator: who owns each page frame, and who gets which (mm/page_alloc.c, Linux 7.3).

Left out: watermarks, lowmem reserve, migratetype fallback, compaction and reclaim, per-cpu lists (counted as free).
Placement is the model's own and deterministic: single frames come from broken pageblocks first, lowest address first,
and a pageblock is broken at the high end of the zone; huge pages come from the low end. So a side that needs fewer
memmap frames still puts its huge pages where the other side does, until memory runs short.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from mm.errno import ENOMEM
from mm.free_area import FreeAreas
from mm.mmzone import ZONE_MOVABLE, ZONE_NORMAL, Node, Zone
from mm.runs import RunMap
from mm.search import bisect_right

if TYPE_CHECKING:
    from mm.kernel import Kernel

OWNER_RESERVED = "reserved"
"""Kernel image and the like: taken at boot, never freed."""
OWNER_MEMMAP_BOOT = "memmap_boot"
"""Memmap frame from memblock (reserved flag set): freed by free_reserved_page, counted in NR_MEMMAP_BOOT."""
OWNER_MEMMAP = "memmap"
"""Memmap frame from the buddy allocator, counted in NR_MEMMAP."""
OWNER_TAIL_BOOT = "tail_boot"
"""Shared tail frame of a (zone, order) from memblock."""
OWNER_TAIL = "tail"
"""Shared tail frame of a (zone, order) from the buddy allocator."""
OWNER_PGTABLE_BOOT = "pgtable_boot"
OWNER_PGTABLE = "pgtable"
OWNER_HUGETLB = "hugetlb"
OWNER_PAGES = "pages"
"""Order-0 pages taken by `pages alloc movable=off`."""
OWNER_PAGES_MOVABLE = "pages_movable"
OWNER_SELFHOSTED = "selfhosted"
"""Memmap frames that lie in the memory block they describe (memmap_on_memory)."""
OWNER_ALTMAP = "altmap"
"""Memmap frames in the device they describe."""
OWNER_HWPOISON = "hwpoison"
"""Single frames out of use for good, or until they are unpoisoned (`PageAllocator.hwpoison`)."""
OWNER_OFFLINE = "offline"
"""Pages that a driver took out of use (PageOffline): unplugged subblocks of virtio-mem in online blocks."""
OWNER_CMA = "cma"
"""Set aside at boot for an area of the contiguous memory allocator that is not active yet."""
OWNER_LEAKED = "leaked"
"""Huge pages of which nobody knows any more which of their pages are poisoned (raw_hwp_unreliable)."""

BOOT_OWNERS = frozenset({OWNER_RESERVED, OWNER_MEMMAP_BOOT, OWNER_TAIL_BOOT, OWNER_PGTABLE_BOOT, OWNER_CMA})

KERNEL_ZONES = (2, 1, 0)
MOVABLE_ZONES = (3, 2, 1, 0)

Extents = list[tuple[int, int]]
"""Runs of page frames as (first pfn, number of frames)."""


def joined(extents: Extents) -> Extents:
    """The same frames by address, neighbours in one extent; frames that occur twice stay in two extents."""
    if len(extents) < 2:
        return extents
    out: Extents = []
    rows = iter(sorted(extents))
    lo, n = next(rows)
    for pfn, count in rows:
        if pfn == lo + n:
            n += count
        else:
            out.append((lo, n))
            lo, n = pfn, count
    out.append((lo, n))
    return out


class KernelBug(Exception):
    """The modelled kernel would hit BUG(), panic, or a fault: what the message says happened."""


class Poisoned(Enum):
    """Where a frame with PG_hwpoison is."""

    TAKEN_OFF = "taken off the buddy allocator"
    HELD = "held by a reference of the failure handler"
    LEAKED = "freed, but not to the buddy allocator"
    MARKED = "where any other frame could be"


class PageAllocator(FreeAreas):
    """All page frames: their owner, reference counts above one, and the zones' free areas."""

    __slots__ = ("freeing", "holders", "hwpoison", "owners", "refs", "short", "short_of_blocks", "spilled", "touched")

    def __init__(self, nodes: list[Node], block_order: int) -> None:
        super().__init__(nodes, block_order)
        self.owners: RunMap[str] = RunMap()
        """Frames in use -> OWNER_*; free, offline and absent frames are gaps."""
        self.refs: dict[int, int] = {}
        """Reference counts of frames where they differ from 1."""
        self.holders: RunMap[Extents] = RunMap()
        """OWNER_PAGES_MOVABLE frames -> the extents they are part of; migration rewrites those in place."""
        self.hwpoison: dict[int, Poisoned] = {}
        """Frames with PG_hwpoison that are no head of a huge page."""
        self.freeing: Callable[[int, int], None] | None = None
        """Told of frames (first pfn, end pfn) that are about to become free; for `mm.tlb`."""
        self.short = 0
        """How many allocations got less than they asked for; only observers ask."""
        self.short_of_blocks = 0
        """How many of them asked for whole pageblocks."""
        self.spilled = 0
        """How many times a populated zone had too little for an allocation, which then went on to the next zone."""
        self.touched: list[tuple[int, int]] = []
        """Frame ranges whose owner changed since the oracle last looked, as (first pfn, end pfn)."""

    # -- allocation -------------------------------------------------------------------------------------------------

    def alloc_page(self, nid: int, owner: str, thisnode: bool = False) -> int | None:
        """One frame with kernel GFP; None when no zone has one. The caller has passed its allocation point."""
        for zone in self.zonelist(nid, KERNEL_ZONES, thisnode):
            if zone.frags.starts:
                pfn = zone.frags.starts[0]
                zone.frags.pop_front(0, pfn + 1)
                self.owners.set(pfn, pfn + 1, owner)
                self.touched.append((pfn, pfn + 1))
                return pfn
            if zone.blocks.starts or zone.managed_pages:
                break
        got = self.alloc_bulk(1, nid, owner, thisnode=thisnode)
        return got[0][0] if got else None

    def alloc_bulk(
        self, n: int, nid: int, owner: str, thisnode: bool = False, zones: tuple[int, ...] = KERNEL_ZONES
    ) -> Extents:
        """`n` single-frame allocations in a row, as extents in allocation order; fewer frames when memory runs out.

        Movable ones take what MIGRATE_CMA pageblocks have when the rest of the zone has nothing. Left out: that they
        take it first as long as more than half of what is free in the zone is there.
        """
        out: Extents = []
        order = self.block_order
        movable = owner == OWNER_PAGES_MOVABLE
        for zone in self.zonelist(nid, zones, thisnode):
            frags, blocks = zone.frags, zone.blocks
            while n:
                if frags.starts:
                    lo = frags.starts[0]
                    hi = frags.ends[0]
                    if hi > lo + n:
                        hi = lo + n
                    frags.pop_front(0, hi)
                elif blocks.starts:
                    top = blocks.ends[-1]
                    want = min(n >> order, top - blocks.starts[-1])
                    if want:
                        blocks.remove(top - want, top)
                        lo, hi = (top - want) << order, top << order
                    else:
                        blocks.remove(top - 1, top)
                        frags.add((top - 1) << order, top << order)
                        continue
                elif movable and zone.cma.starts:
                    lo = zone.cma.starts[0]
                    hi = min(zone.cma.ends[0], lo + n)
                    zone.cma.pop_front(0, hi)
                else:
                    break
                self.owners.set(lo, hi, owner)
                self.touched.append((lo, hi))
                out.append((lo, hi - lo))
                n -= hi - lo
            if not n:
                return out
            self.spilled += zone.managed_pages > 0
        if n:
            self.short += 1
        return out

    def alloc_block(
        self, order: int, nid: int, owner: str, thisnode: bool, zones: tuple[int, ...] = MOVABLE_ZONES
    ) -> int | None:
        """One naturally aligned block of `order` >= pageblock_order, lowest address first; None when there is none.

        Stands for alloc_pages of a huge page and, above MAX_PAGE_ORDER, for alloc_contig_pages (which on a real kernel
        also moves movable pages out of the way; left out).
        """
        got = self.alloc_blocks(order, 1, nid, owner, thisnode, zones)
        return got[0][0] if got else None

    def alloc_blocks(
        self, order: int, n: int, nid: int, owner: str, thisnode: bool, zones: tuple[int, ...] = MOVABLE_ZONES
    ) -> Extents:
        """`alloc_block` `n` times in a row, as extents in allocation order; fewer when memory runs out.

        `zones` with ZONE_MOVABLE are those of movable allocations, which also take MIGRATE_CMA pageblocks, last.
        """
        shift = self.block_order
        step = 1 << (order - shift)
        out: Extents = []
        for zone in self.zonelist(nid, zones, thisnode):
            blocks = zone.blocks
            if blocks.total < step and not zone.cma.starts:
                self.spilled += zone.managed_pages > 0
                continue
            at = 0  # runs before this one hold no aligned block
            while n and at < len(blocks.starts):
                first = -(-blocks.starts[at] // step) * step
                take = (blocks.ends[at] - first) // step
                if take <= 0:
                    at += 1
                    continue
                if take > n:
                    take = n
                last = first + take * step
                if first > blocks.starts[at]:
                    blocks.remove(first, last)
                    at += 1
                else:
                    blocks.pop_front(at, last)
                lo, hi = first << shift, last << shift
                self.owners.set(lo, hi, owner)
                self.touched.append((lo, hi))
                out.append((lo, hi - lo))
                n -= take
            if n and zone.cma.starts and ZONE_MOVABLE in zones:
                n = self._alloc_cma_blocks(zone, 1 << order, n, owner, out)
            if not n:
                return out
            self.spilled += 1
        if n:
            self.short += 1
            self.short_of_blocks += 1
        return out

    def _alloc_cma_blocks(self, zone: Zone, size: int, n: int, owner: str, out: Extents) -> int:
        """Blocks of `size` frames in MIGRATE_CMA pageblocks, up to `n`, appended to `out`; how many are missing."""
        for s, e in zone.cma.items():
            lo = -(-s // size) * size
            take = min(n, (e - lo) // size)
            if take > 0:
                hi = lo + take * size
                zone.cma.remove(lo, hi)
                self.owners.set(lo, hi, owner)
                self.touched.append((lo, hi))
                out.append((lo, hi - lo))
                n -= take
        return n

    def alloc_kernel_block(self, nid: int, owner: str) -> int | None:
        """One PMD-sized block with kernel GFP and retry-mayfail, from the high end; None when there is none."""
        got = self.alloc_kernel_blocks(1, nid, owner)
        return got[0][0] if got else None

    def alloc_kernel_blocks(self, n: int, nid: int, owner: str) -> Extents:
        """`alloc_kernel_block` `n` times in a row, as extents; fewer when there are none left."""
        order = self.block_order
        out: Extents = []
        for zone in self.zonelist(nid, KERNEL_ZONES, False):
            blocks = zone.blocks
            while n and blocks.starts:
                top = blocks.ends[-1]
                take = min(n, top - blocks.starts[-1])
                blocks.remove(top - take, top)
                lo, hi = (top - take) << order, top << order
                self.owners.set(lo, hi, owner)
                self.touched.append((lo, hi))
                out.append((lo, hi - lo))
                n -= take
            if not n:
                return out
            self.spilled += zone.managed_pages > 0
        self.short += 1
        self.short_of_blocks += 1
        return out

    # -- freeing ----------------------------------------------------------------------------------------------------

    def free(self, pfn: int, n: int) -> None:
        """Give frames [pfn, pfn + n), all owned by one owner, back to the buddy allocator.

        Frames taken from memblock were never managed: they raise managed_pages, as free_reserved_page does.
        Raises KernelBug on a double free and on a frame that is not online RAM ("Bad page state").
        """
        if self.free_row(pfn, pfn + n)[0] < pfn + n:
            raise KernelBug(f"bad page state: frames {pfn:#x}+{n} are freed but not all allocated")

    def free_row(self, pfn: int, end: int) -> tuple[int, str]:
        """`free` for the frames of [pfn, end) that have the same owner as the first: where they end, and the owner."""
        owners = self.owners
        i = bisect_right(owners.starts, pfn) - 1
        if i < 0 or owners.ends[i] <= pfn:
            raise KernelBug(f"bad page state: frames {pfn:#x}+{end - pfn} are freed but not all allocated")
        owner = owners.vals[i]
        if owners.ends[i] < end:
            end = owners.ends[i]
        if self.freeing is not None:
            self.freeing(pfn, end)
        if owners.starts[i] == pfn:
            if owners.ends[i] == end:
                del owners.starts[i], owners.ends[i], owners.vals[i]
            else:
                owners.starts[i] = end
        else:
            owners.clear(pfn, end)
        self.touched.append((pfn, end))
        if self.hwpoison and owner != OWNER_HUGETLB:
            marked = [p for p in self.hwpoison if pfn <= p < end]
            if marked:
                self._free_around(pfn, end, owner, sorted(marked))
                return end, owner
        self._home(pfn, end, owner)
        return end, owner

    def _free_around(self, pfn: int, end: int, owner: str, marked: list[int]) -> None:
        """free_pages_prepare (mm/page_alloc.c, 7.3) for single frames: poisoned ones do not get to the free lists.

        Left out: a PMD-sized block of memmap, which goes there as a whole.
        """
        for p in [*marked, end]:
            if pfn < p:
                self._home(pfn, p, owner)
            pfn = p + 1
        for p in marked:
            zone = self.zone_of.get(p)
            if zone is not None and owner in BOOT_OWNERS:
                zone.managed_pages += 1
            self.owners.set(p, p + 1, OWNER_HWPOISON)
            self.hwpoison[p] = Poisoned.LEAKED

    def _home(self, pfn: int, end: int, owner: str) -> None:
        """Frames [pfn, end), no longer owned, go back to their zones."""
        done = pfn
        homes = self.zone_of
        i = bisect_right(homes.starts, pfn) - 1
        if i >= 0 and homes.ends[i] >= end:
            zone = homes.vals[i]
            if owner in BOOT_OWNERS:
                zone.managed_pages += end - pfn
            self._give(zone, pfn, end)
            return
        for lo, hi, zone in homes.runs(pfn, end):
            if lo != done:
                break
            if owner in BOOT_OWNERS:
                zone.managed_pages += hi - lo
            self._give(zone, lo, hi)
            done = hi
        if done != end:
            raise KernelBug(f"bad page state: frame {done:#x} is freed but is not online RAM")

    def take_off(self, pfn: int) -> bool:
        """take_page_off_buddy (mm/page_alloc.c, 7.3): a free frame is out of use from now on; False if it is not."""
        zone = self.zone_of.get(pfn)
        if zone is None or not self.free_count(pfn, pfn + 1):
            return False
        self._take(zone, pfn, pfn + 1)
        self.claim(pfn, pfn + 1, OWNER_HWPOISON)
        self.hwpoison[pfn] = Poisoned.TAKEN_OFF
        return True

    def put_back(self, pfn: int) -> None:
        """put_page_back_buddy (mm/page_alloc.c, 7.3), or the last reference of a frame held by the failure handler."""
        del self.hwpoison[pfn]
        self.free(pfn, 1)

    def forget_poison(self, lo: int, hi: int) -> None:
        """The struct pages of [lo, hi), and their marks with them, are gone."""
        for pfn in [p for p in self.hwpoison if lo <= p < hi]:
            if self.hwpoison.pop(pfn) is not Poisoned.MARKED:
                self.disclaim(pfn, pfn + 1)

    def free_extents(self, extents: Extents) -> None:
        """`free` for all extents, neighbours of one owner at once."""
        for pfn, n in joined(extents):
            end = pfn + n
            while pfn < end:
                pfn, _ = self.free_row(pfn, end)

    def get_refs(self, frame: int, n: int) -> None:
        """Take `n` more references on `frame`."""
        self.refs[frame] = self.refs.get(frame, 1) + n

    def put_refs(self, frame: int, n: int) -> bool:
        """Drop `n` references on `frame`; True when the last one is gone (the caller then frees the frame)."""
        left = self.refs.get(frame, 1) - n
        if left < 0:
            raise KernelBug(f"reference count of frame {frame:#x} falls below zero")
        if left > 1:
            self.refs[frame] = left
        else:
            self.refs.pop(frame, None)
        return left == 0

    # -- onlining ---------------------------------------------------------------------------------------------------

    def online(self, zone: Zone, lo: int, hi: int, free: bool) -> None:
        """Frames [lo, hi) become online RAM of `zone`; with `free` they are managed and go to its free areas."""
        self.zone_of.set(lo, hi, zone)
        if free:
            zone.managed_pages += hi - lo
            self._give(zone, lo, hi)
            self.touched.append((lo, hi))

    def offline(self, zone: Zone, lo: int, hi: int) -> None:
        """Frames [lo, hi), all free, leave `zone` (__offline_isolated_pages)."""
        self._take(zone, lo, hi)
        zone.managed_pages -= hi - lo
        self.zone_of.clear(lo, hi)
        self.touched.append((lo, hi))

    def give_cma(self, lo: int, hi: int) -> None:
        """Frames [lo, hi) of one zone, in MIGRATE_CMA pageblocks, become free."""
        zone = self.zone_of.get(lo)
        assert zone is not None
        self._give(zone, lo, hi)
        self.touched.append((lo, hi))

    def take(self, zone: Zone, lo: int, hi: int, owner: str) -> None:
        """Frames [lo, hi) of `zone`, all free, belong to `owner`."""
        self._take(zone, lo, hi)
        self.claim(lo, hi, owner)

    def claim(self, lo: int, hi: int, owner: str) -> None:
        """Record an owner for frames that no zone manages (reserved at boot, self-hosted, altmap)."""
        self.owners.set(lo, hi, owner)
        self.touched.append((lo, hi))

    def disclaim(self, lo: int, hi: int) -> None:
        """Forget the owner of frames recorded by `claim`."""
        self.owners.clear(lo, hi)
        self.touched.append((lo, hi))


def pages_alloc(k: Kernel, nid: int, count: int, movable: bool) -> int | Extents:
    """`count` order-0 pages of node `nid` for a program, all or none; migration rewrites the list that is returned."""
    pages = k.pages
    owner, zones = (OWNER_PAGES_MOVABLE, MOVABLE_ZONES) if movable else (OWNER_PAGES, KERNEL_ZONES)
    extents = pages.alloc_bulk(count, nid, owner, thisnode=True, zones=zones)
    if sum(n for _, n in extents) < count:
        pages.free_extents(extents)
        return -ENOMEM
    if movable:
        for pfn, n in extents:
            pages.holders.set(pfn, pfn + n, extents)
    return extents


def pages_free(k: Kernel, extents: Extents) -> None:
    """Undo `pages_alloc`, wherever the pages are by now."""
    pages = k.pages
    pages.free_extents(extents)
    if extents and pages.holders.get(extents[0][0]) is not None:
        for pfn, n in extents:
            pages.holders.clear(pfn, pfn + n)


def default_zone_for_kernel_pfn(nodes: list[Node], nid: int, start_pfn: int, end_pfn: int) -> Zone:
    """default_kernel_zone_for_pfn (mm/memory_hotplug.c): first kernel zone that intersects the range, else Normal."""
    for idx in range(ZONE_MOVABLE):
        zone = nodes[nid].zones[idx]
        if zone.intersects(start_pfn, end_pfn):
            return zone
    return nodes[nid].zones[ZONE_NORMAL]
