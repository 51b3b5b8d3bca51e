"""Which page frames are free: the free areas of the zones (mm/page_alloc.c, mm/page_isolation.c, Linux 7.3).

Left out: per-cpu lists (counted as free). `mm.page_alloc` says who owns the others, and who gets which.
"""

from __future__ import annotations

from mm.mmzone import Node, Zone
from mm.runs import RunMap, RunSet


class FreeAreas:
    """The free areas of all zones, and what decides where a frame that becomes free goes."""

    __slots__ = ("_zonelists", "block_order", "cma", "isolated", "isolated_free", "nodes", "zone_of")

    def __init__(self, nodes: list[Node], block_order: int) -> None:
        self.nodes = nodes
        self._zonelists: dict[tuple[int, tuple[int, ...], bool], list[Zone]] = {}
        self.block_order = block_order
        """pageblock_order, also the order of a PMD-sized block."""
        self.isolated: tuple[int, int] | None = None
        """Pageblocks under isolation (MIGRATE_ISOLATE) while memory goes offline, as pfns; they lie in one zone."""
        self.isolated_free = RunSet()
        """Free frames of the isolated range: nobody can allocate them."""
        self.zone_of: RunMap[Zone] = RunMap()
        """Online RAM: pfn -> zone (page_zone)."""
        self.cma = RunSet()
        """Frames whose pageblock has the type MIGRATE_CMA; only movable allocations take such frames."""

    def _give(self, zone: Zone, lo: int, hi: int) -> None:
        """Put [lo, hi) on the zone's free areas, merging whole pageblocks."""
        if self.isolated is not None:
            first, last = max(lo, self.isolated[0]), min(hi, self.isolated[1])
            if first < last:
                self.isolated_free.add(first, last)
                if lo < first:
                    self._give(zone, lo, first)
                if last < hi:
                    self._give(zone, last, hi)
                return
        if self.cma.starts:
            for s, e in self.cma.runs(lo, hi):
                zone.cma.add(s, e)
                if lo < s:
                    self._give_ordinary(zone, lo, s)
                lo = e
            if lo == hi:
                return
        self._give_ordinary(zone, lo, hi)

    def _give_ordinary(self, zone: Zone, lo: int, hi: int) -> None:
        """`_give` for frames outside of MIGRATE_CMA pageblocks."""
        order = self.block_order
        if (lo | hi) & ((1 << order) - 1) == 0:
            zone.blocks.add(lo >> order, hi >> order)
            return
        lo, hi = zone.frags.add(lo, hi)
        first, last = -(-lo >> order), hi >> order
        if first < last:
            zone.frags.remove(first << order, last << order)
            zone.blocks.add(first, last)

    def _take(self, zone: Zone, lo: int, hi: int) -> None:
        """Remove [lo, hi), which must be free, from the zone's free areas, breaking pageblocks at its ends."""
        order = self.block_order
        first, last = lo >> order, -(-hi >> order)
        for blk_lo, blk_hi in zone.blocks.runs(first, last):
            zone.blocks.remove(blk_lo, blk_hi)
            left, right = blk_lo << order, blk_hi << order
            if left < lo:
                zone.frags.add(left, min(lo, right))
            if right > hi:
                zone.frags.add(max(hi, left), right)
        zone.frags.remove(lo, hi)
        zone.cma.remove(lo, hi)

    def is_free(self, lo: int, hi: int) -> bool:
        """Whether all frames of [lo, hi) are online and free."""
        return self.free_count(lo, hi) == hi - lo

    def free_count(self, lo: int, hi: int) -> int:
        """How many frames of [lo, hi) are free."""
        order = self.block_order
        n = 0
        for s, e, zone in self.zone_of.runs(lo, hi):
            n += zone.frags.count(s, e) + zone.cma.count(s, e)
            for b, c in zone.blocks.runs(s >> order, -(-e >> order)):
                n += min(c << order, e) - max(b << order, s)
        return n

    def zonelist(self, nid: int, indices: tuple[int, ...], thisnode: bool) -> list[Zone]:
        """Zones in the order an allocation on `nid` tries them: the node's own, then (unless thisnode) the other
        nodes'."""
        got = self._zonelists.get((nid, indices, thisnode))
        if got is None:
            nodes = [nid] if thisnode else [nid, *(node.nid for node in self.nodes if node.nid != nid)]
            got = self._zonelists[nid, indices, thisnode] = [
                self.nodes[node].zones[i] for node in nodes for i in indices
            ]
        return got

    def isolate(self, zone: Zone, lo: int, hi: int) -> None:
        """start_isolate_page_range (mm/page_isolation.c): free frames of [lo, hi), now and later, cannot be allocated.

        The range is made of whole pageblocks of `zone`. Whether it holds unmovable pages is the caller's to check.
        """
        order = self.block_order
        free, frags, blocks = self.isolated_free, zone.frags, zone.blocks
        for s, e in frags.runs(lo, hi):
            free.add(s, e)
        frags.remove(lo, hi)
        for s, e in blocks.runs(lo >> order, hi >> order):
            free.add(s << order, e << order)
        blocks.remove(lo >> order, hi >> order)
        for s, e in zone.cma.runs(lo, hi):
            free.add(s, e)
        zone.cma.remove(lo, hi)
        self.isolated = lo, hi

    def unisolate(self, zone: Zone) -> None:
        """undo_isolate_page_range (mm/page_isolation.c)."""
        self.isolated = None
        free, self.isolated_free = self.isolated_free, RunSet()
        for lo, hi in free.items():
            self._give(zone, lo, hi)

    def free_set(self, zone: Zone) -> RunSet:
        """All free frames of a zone as one set of pfns (for the full comparison and for reports)."""
        out = zone.frags.copy()
        for lo, hi in zone.blocks.items():
            out.add(lo << self.block_order, hi << self.block_order)
        for lo, hi in zone.cma.items():
            out.add(lo, hi)
        return out
