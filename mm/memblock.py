"""The boot allocator (mm/memblock.c, Linux 7.3): memory by node, top-down, until it hands what is left to the buddy
allocator.

Left out: mirrored memory, hotpluggable memory, regions that are not multiples of 2M.
"""

from __future__ import annotations

from mm.page_alloc import Extents
from mm.runs import RunSet


class Memblock:
    """Free boot memory of each node, what was reserved without its struct pages being initialised, and what the leak
    detector was told of.

    kmemleak knows all that memblock gives but the memory map and its page tables, which it reads as such (memmap_alloc,
    mm/mm_init.c, asks for MEMBLOCK_ALLOC_NOLEAKTRACE). It is told when memblock gets something back; nobody tells it
    of frames that go to the buddy allocator later, so that it still knows the place of a gigantic page that is gone.
    """

    __slots__ = ("free_by_node", "kmemleak", "noinit")

    def __init__(self, nodes: int) -> None:
        self.free_by_node = [RunSet() for _ in range(nodes)]
        """Per node: free pfns."""
        self.noinit = RunSet()
        """Reserved pfns marked MEMBLOCK_RSRV_NOINIT: nobody initialises their struct pages."""
        self.kmemleak = RunSet()
        """Pfns of objects of the leak detector (kmemleak_alloc_phys, mm/kmemleak.c)."""

    def add(self, nid: int, lo: int, hi: int) -> None:
        """memblock_add_node."""
        self.free_by_node[nid].add(lo, hi)

    def prep_allocation(self, pfn: int, n: int, kmemleak_trace: bool) -> None:
        """memblock_prep_allocation: kmemleak_alloc_phys, or not."""
        if kmemleak_trace:
            self.kmemleak.add(pfn, pfn + n)

    def alloc(self, nid: int, n: int, align: int, exact: bool = False, kmemleak_trace: bool = False) -> int | None:
        """`n` frames aligned to `align`, highest address first, of node `nid`, else (unless exact) of any node; None
        if none. memmap_alloc, or with `kmemleak_trace` memblock_alloc_hugetlb."""
        order = [nid] if exact else [nid] + [i for i in range(len(self.free_by_node)) if i != nid]
        for node in order:
            free = self.free_by_node[node]
            for lo, hi in zip(reversed(free.starts), reversed(free.ends), strict=True):
                pfn = (hi - n) // align * align
                if pfn >= lo:
                    free.remove(pfn, pfn + n)
                    self.prep_allocation(pfn, n, kmemleak_trace)
                    return pfn
        return None

    def alloc_range(self, nid: int, n: int, align: int, lo: int, hi: int, bottom_up: bool = False) -> int | None:
        """memblock_alloc_range_nid of that node only: `n` aligned frames of [lo, hi), highest or lowest address first;
        None if there are none. Frame 0 is never taken. The leak detector is told (kmemleak_ignore_phys in mm/cma.c lets
        it keep the object, and not look into it).
        """
        free = self.free_by_node[nid]
        runs = free.runs(max(lo, 1), hi)
        for start, end in runs if bottom_up else reversed(runs):
            pfn = -(-start // align) * align if bottom_up else (end - n) // align * align
            if start <= pfn and pfn + n <= end:
                free.remove(pfn, pfn + n)
                self.prep_allocation(pfn, n, True)
                return pfn
        return None

    def alloc_many(self, nid: int, count: int, n: int) -> Extents:
        """`count` allocations of `n` frames each, aligned to n, as extents (first pfn, frames); fewer when memory runs
        out (memmap_alloc).

        Neighbouring allocations are joined in one extent, so that the memmap of a 16T machine is one run.
        """
        out: Extents = []
        for node in [nid] + [i for i in range(len(self.free_by_node)) if i != nid]:
            free = self.free_by_node[node]
            for lo, hi in reversed(free.items()):
                if not count:
                    return out
                hi = hi // n * n
                take = min(count, (hi - -(-lo // n) * n) // n)
                if take > 0:
                    out.append((hi - take * n, take * n))
                    free.remove(hi - take * n, hi)
                    self.prep_allocation(hi - take * n, take * n, False)
                    count -= take
        return out

    def release(self, lo: int, hi: int, nid: int) -> None:
        """memblock_phys_free: the range is free boot memory again, and no object of the leak detector
        (kmemleak_free_part_phys)."""
        self.kmemleak.remove(lo, hi)
        self.free_by_node[nid].add(lo, hi)
        self.noinit.remove(lo, hi)
