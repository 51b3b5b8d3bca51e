"""Which struct pages are initialised, and when (mm/mm_init.c, -mm of November 2026).

One rule: nobody writes a struct page that lies in a shared tail page; T was valid from its allocation on.
"""

from __future__ import annotations

from functools import cache

from candidate.vmemmap_optimization import Framework
from mm.kernel import MIGRATE_MOVABLE, Kernel
from mm.mmzone import ZONE_DEVICE, Zone
from mm.page import Compound, Content, Plain
from mm.pgmap import PgMap


@cache
def plain(nid: int, zone: int) -> Plain:
    return Plain(nid, zone)


# -- boot -----------------------------------------------------------------------------------------------------------


def memmap_init(f: Framework) -> None:
    """memmap_init, memmap_init_zone_range (mm/mm_init.c, -mm): all boot RAM, and the holes of present sections, which
    go to the zone of the RAM behind them, at the end to that in front.
    """
    k = f.k
    hole = 0
    deferral = Deferral(k)
    for _, start, end in k.machine.ram_ranges():
        for lo, hi, zone in k.pages.zone_of.runs(start, end):
            _init_range(f, zone, lo, deferral.defer_init(zone, lo, hi))
            init_unavailable_range(k, hole, lo, zone)
            hole = hi
        k.set_pageblocks(start, end, MIGRATE_MOVABLE)
    per = k.arch.pages_per_section
    init_unavailable_range(k, hole, -(-hole // per) * per, zone)


def init_unavailable_range(k: Kernel, lo: int, hi: int, zone: Zone) -> None:
    """init_unavailable_range (mm/mm_init.c, 7.3): struct pages of [lo, hi), as far as its sections have a memory map.

    There is no RAM in it, so that only the sections at its ends can have one.
    """
    per = k.arch.pages_per_section
    for s, e, _ in k.sections.flags.runs(lo // per, -(-hi // per)):
        first, last = max(s * per, lo), min(e * per, hi)
        if first < last:
            k.memmap.init(first, last - first, plain(zone.nid, zone.idx))


class Deferral:
    """defer_init (mm/mm_init.c, 7.3), asked about range after range: what it remembers in between."""

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.begun: set[int] = set()
        """Nodes with a first_deferred_pfn."""
        self.zone: Zone | None = None
        """Whose pages were counted last (prev_end_pfn)."""
        self.seen = 0
        """nr_initialised: a zone that comes back after another one is counted anew."""

    def defer_init(self, zone: Zone, start: int, end: int) -> int:
        """Where in [start, end) the struct pages that are initialised late begin.

        Only the last zone of a node is deferred, from the first section that begins after a section's worth of pages.
        """
        node = self.k.nodes[zone.nid]
        if not self.k.machine.deferred_init or zone.end_pfn < max(z.end_pfn for z in node.zones):
            return end
        if zone.nid in self.begun:
            return start
        if self.zone is not zone:
            self.zone, self.seen = zone, 0
        per = self.k.arch.pages_per_section
        late = -(-(start + max(per - self.seen, 0)) // per) * per
        self.seen += end - start
        if late >= end:
            return end
        self.begun.add(zone.nid)
        return late


def memmap_init_range(f: Framework, zone: Zone, pfn: int, nr: int) -> None:
    """memmap_init_range (mm/mm_init.c, -mm), MEMINIT_HOTPLUG: skips shared tail pages, but not their pageblocks."""
    _init_range(f, zone, pfn, pfn + nr)
    f.k.set_pageblocks(pfn, pfn + nr, MIGRATE_MOVABLE)


def _init_range(f: Framework, zone: Zone, at: int, end: int) -> None:
    """The struct pages of [at, end) that are not in a shared tail page."""
    k = f.k
    content = plain(zone.nid, zone.idx)
    per = k.arch.pages_per_section
    for first, last, order in f.orders.runs(at // per, -(-end // per)):
        if order >= f.min_order:
            lo, hi = max(first * per, at), min(last * per, end)
            if at < lo:
                k.memmap.init(at, lo - at, content)
            _init_heads(k, lo, hi, 1 << order, k.arch.spp, content)
            at = hi
    if at < end:
        k.memmap.init(at, end - at, content)


def _init_heads(k: Kernel, lo: int, hi: int, stride: int, n: int, content: Content) -> None:
    """The first `n` struct pages of each compound page that begins in [lo, hi), where a section begins."""
    for head in range(-(-lo // stride) * stride, hi, stride):
        k.memmap.init(head, min(n, hi - head), content)


def deferred_init_memmap(k: Kernel) -> None:
    """deferred_init_memmap (mm/mm_init.c, -mm): struct pages of free boot memory that are still raw.

    By now reserved memory has its struct pages, except where it is marked noinit.
    """
    for _, start, end in k.machine.ram_ranges():
        for lo, hi, zone in k.pages.zone_of.runs(start, end):
            content = plain(zone.nid, zone.idx)
            at = lo
            for s, e in k.memblock.noinit.runs(lo, hi):
                _init_raw(k, at, s, content)
                at = e
            _init_raw(k, at, hi, content)


def _init_raw(k: Kernel, lo: int, hi: int, content: Content) -> None:
    for s, e, _ in k.memmap.own.runs(lo, hi):
        if lo < s:
            k.memmap.init(lo, s - lo, content)
        lo = e
    if lo < hi:
        k.memmap.init(lo, hi - lo, content)


# -- device memory --------------------------------------------------------------------------------------------------


def memmap_init_zone_device(f: Framework, zone: Zone, pfn: int, nr: int, pgmap: PgMap) -> None:
    """memmap_init_zone_device, compound_nr_pages (mm/mm_init.c, -mm): heads and what of the tails is private, by the
    section's order.

    UNCONFIRMED: that the section of the head decides for the whole compound page.
    """
    k = f.k
    end = pfn + nr
    if pgmap.altmap is not None:
        pfn = pgmap.altmap.base_pfn + pgmap.altmap.offset()
    order = pgmap.vmemmap_shift
    if not order:
        page = plain(zone.nid, ZONE_DEVICE)
        k.memmap.init(pfn, end - pfn, page._replace(use="fsdax") if pgmap.type == "fsdax" else page)
    else:
        stride = 1 << order
        content = Compound(order, pfn & (stride - 1), zone.nid, ZONE_DEVICE, "devdax")
        per = k.arch.pages_per_section
        at = pfn
        for first, last, _ in f.orders.runs(pfn // per, -(-end // per)):
            # Heads in front of the optimized sections, then heads in them.
            head = at + -(-max(first * per - at, 0) // stride) * stride
            stop = min(end, at + -(-(last * per - at) // stride) * stride)
            if at < head:
                k.memmap.init_heads(at, head, stride, stride, content)
            if head < stop:
                k.memmap.init_heads(head, stop, stride, k.arch.spp, content)
            at = max(head, stop)
        if at < end:
            k.memmap.init_heads(at, end, stride, stride, content)
    k.set_pageblocks(pfn, end, MIGRATE_MOVABLE)
