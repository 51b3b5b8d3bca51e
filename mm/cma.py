"""The contiguous memory allocator (mm/cma.c, Linux 7.3): memory set aside at boot, in which movable pages may live
until somebody asks for a contiguous piece of it.

An area is made of at most CMA_MAX_RANGES ranges of one node. Its pages go to the buddy allocator when it is activated;
their pageblocks have the type MIGRATE_CMA (`PageAllocator.cma`). A bitmap, here the pages that are handed out, says
what belongs to the area's users. Sizes are in pages.

Left out: areas of other users than HugeTLB, failing bitmaps (they are allocated before an allocation can fail here),
the lock and what it is dropped for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mm.errno import EBUSY
from mm.mmzone import pfn_range_intersects_zones
from mm.page_alloc import OWNER_CMA
from mm.runs import RunSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from mm.kernel import Kernel

CMA_MAX_RANGES = 8
MIGRATE_CMA = "cma"
SZ_4G = 4 << 30


class CmaMemrange:
    """struct cma_memrange."""

    __slots__ = ("base_pfn", "bitmap", "count", "early_pfn")

    def __init__(self, base_pfn: int, count: int) -> None:
        self.base_pfn = base_pfn
        self.count = count
        self.early_pfn = base_pfn
        """First page that cma_reserve_early has not handed out."""
        self.bitmap = RunSet()
        """Pages handed out, once the area is active."""

    @property
    def end_pfn(self) -> int:
        """First page after the range."""
        return self.base_pfn + self.count


class Cma:
    """struct cma: an area of one node."""

    __slots__ = ("activated", "available_count", "count", "nid", "order_per_bit", "ranges", "zones_valid")

    def __init__(self, count: int, order_per_bit: int, nid: int) -> None:
        self.nid = nid
        self.count = self.available_count = count
        self.order_per_bit = order_per_bit
        self.ranges: list[CmaMemrange] = []
        self.zones_valid: bool | None = None
        """CMA_ZONES_VALID or CMA_ZONES_INVALID; None before the check."""
        self.activated = False


class CmaAreas:
    """cma_areas, and what the allocator needs from above it."""

    __slots__ = ("alloc_contig_range", "areas")

    def __init__(self) -> None:
        self.areas: list[Cma] = []
        self.alloc_contig_range: Callable[[Kernel, int, int, str, bool], int] | None = None
        """`mm.contig.alloc_contig_range`, from the boot on: it moves huge pages, whose allocation may come here."""


# -- declaring ------------------------------------------------------------------------------------------------------


def cma_declare_contiguous_multi(k: Kernel, total: int, align: int, order_per_bit: int, nid: int) -> Cma | None:
    """cma_declare_contiguous_multi: an area of `total` pages of memblock memory, in one range if there is one, else in
    the largest ranges above 4G; None when there is not enough.

    The lists that the kernel means to sort are kept as its list_insert_sorted does it, which is not sorted.
    """
    limit = max(end for _, _, end in k.machine.ram_ranges())
    if total > limit:
        return None
    base = cma_alloc_mem(k, total, align, limit, nid)
    if base is not None:
        return _new_area(k, total, order_per_bit, nid, [(base, total)])
    high = SZ_4G >> k.arch.page_shift
    ranges: list[tuple[int, int]] = []
    sizesum = 0
    for lo, hi in k.memblock.free_by_node[nid].items():
        start, end = -(-lo // align) * align, hi // align * align
        if lo < high or start >= end:
            continue
        sizesum += end - start
        if len(ranges) == CMA_MAX_RANGES:
            if end - start < ranges[-1][1]:
                sizesum -= end - start
                continue
            sizesum -= ranges.pop()[1]
        list_insert_sorted(ranges, (start, end - start), lambda old, new: old[1] > new[1])
    if sizesum < total:
        return None
    final: list[tuple[int, int]] = []
    sizesum = 0
    for found in ranges:
        list_insert_sorted(final, found, lambda old, new: old[0] < new[0])
        sizesum += found[1]
        if sizesum >= total:
            break
    pieces = []
    left = total
    for start, size in final:
        n = min(left, size)
        k.memblock.free_by_node[nid].remove(start, start + n)
        pieces.append((start, n))
        left -= n
        if not left:
            break
    return _new_area(k, total, order_per_bit, nid, pieces)


def list_insert_sorted(
    ranges: list[tuple[int, int]],
    new: tuple[int, int],
    cmp: Callable[[tuple[int, int], tuple[int, int]], bool],
) -> None:
    """list_insert_sorted: before the first entry of which `cmp(entry, new)` is true, else before the last one."""
    at = next((i for i, old in enumerate(ranges) if cmp(old, new)), max(len(ranges) - 1, 0))
    ranges.insert(at, new)


def cma_alloc_mem(k: Kernel, n: int, align: int, limit: int, nid: int) -> int | None:
    """cma_alloc_mem: `n` frames of memblock memory of the node, bottom up from 4G if they can lie there, else top down
    below `limit`; None if there are none.
    """
    high = SZ_4G >> k.arch.page_shift
    pfn = None
    if limit >= high + n:
        pfn = k.memblock.alloc_range(nid, n, align, high, limit, bottom_up=True)
    return k.memblock.alloc_range(nid, n, align, 0, limit) if pfn is None else pfn


def _new_area(k: Kernel, total: int, order_per_bit: int, nid: int, pieces: list[tuple[int, int]]) -> Cma:
    """cma_new_area, with its ranges."""
    cma = Cma(total, order_per_bit, nid)
    for pfn, n in pieces:
        cma.ranges.append(CmaMemrange(pfn, n))
        k.pages.claim(pfn, pfn + n, OWNER_CMA)
    k.cma.areas.append(cma)
    return cma


def cma_validate_zones(k: Kernel, cma: Cma) -> bool:
    """cma_validate_zones: no range of the area meets two zones."""
    if cma.zones_valid is None:
        node = k.nodes[cma.nid]
        cma.zones_valid = not any(pfn_range_intersects_zones(node, cmr.base_pfn, cmr.count) for cmr in cma.ranges)
    return cma.zones_valid


def cma_reserve_early(k: Kernel, cma: Cma | None, n: int) -> int | None:
    """cma_reserve_early: `n` pages of an area that is not active yet, from the bottom of the first range that has them;
    None if none has. Who gets them initialises their struct pages, and calls `init_cma_pageblock`.
    """
    if cma is None or cma.activated or n % (1 << max(cma.order_per_bit, k.arch.pmd_order)):
        return None
    if n > cma.available_count:
        return None
    for cmr in cma.ranges:
        if n <= cmr.end_pfn - cmr.early_pfn:
            pfn = cmr.early_pfn
            cmr.early_pfn += n
            cma.available_count -= n
            return pfn
    return None


# -- activating -----------------------------------------------------------------------------------------------------


def cma_init_reserved_areas(k: Kernel) -> None:
    """cma_init_reserved_areas, a core_initcall."""
    for cma in k.cma.areas:
        cma_activate_area(k, cma)


def cma_activate_area(k: Kernel, cma: Cma) -> None:
    """cma_activate_area: the pages go to the buddy allocator, those of an area that spans zones as ordinary ones."""
    if not cma_validate_zones(k, cma):
        for cmr in cma.ranges:
            k.pages.free(cmr.early_pfn, cmr.end_pfn - cmr.early_pfn)
        cma.count = cma.available_count = 0
        return
    for cmr in cma.ranges:
        if cmr.early_pfn != cmr.base_pfn:
            cmr.bitmap.add(cmr.base_pfn, cmr.early_pfn)
        if cmr.early_pfn < cmr.end_pfn:
            init_cma_reserved_pageblock(k, cmr.early_pfn, cmr.end_pfn)
    cma.activated = True


def init_cma_reserved_pageblock(k: Kernel, lo: int, hi: int) -> None:
    """init_cma_reserved_pageblock (mm/mm_init.c) for each pageblock of [lo, hi): of type MIGRATE_CMA, managed, free."""
    k.pages.disclaim(lo, hi)
    init_cma_pageblock(k, lo, hi)
    k.pages.give_cma(lo, hi)


def init_cma_pageblock(k: Kernel, lo: int, hi: int) -> None:
    """init_cma_pageblock (mm/mm_init.c) for each pageblock of [lo, hi), which lies in one zone: managed, of type
    MIGRATE_CMA.
    """
    zone = k.pages.zone_of.get(lo)
    assert zone is not None
    k.set_pageblocks(lo, hi, MIGRATE_CMA)
    k.pages.cma.add(lo, hi)
    zone.managed_pages += hi - lo
    zone.cma_pages += hi - lo


# -- allocating -----------------------------------------------------------------------------------------------------


def cma_alloc_frozen_compound(k: Kernel, cma: Cma | None, order: int, owner: str) -> int | None:
    """cma_alloc_frozen_compound, __cma_alloc_frozen: 2**order pages of the area, aligned to their size, from which what
    is movable has been moved away; None when there are none. What was moved stays so.
    """
    if cma is None:
        return None
    for cmr in cma.ranges:
        got = cma_range_alloc(k, cma, cmr, 1 << order, owner)
        if got >= 0:
            return got
        if got != -EBUSY:
            return None
    return None


def cma_range_alloc(k: Kernel, cma: Cma, cmr: CmaMemrange, n: int, owner: str) -> int:
    """cma_range_alloc: the lowest `n` pages of the range, aligned to `n`, that are not handed out and can be emptied:
    their first pfn, or -EBUSY, or another error of alloc_contig_range, with which the search ends.
    """
    assert k.cma.alloc_contig_range is not None
    pfn = -(-cmr.base_pfn // n) * n
    while n <= cma.available_count and pfn + n <= cmr.end_pfn:
        if not cmr.bitmap.overlaps(pfn, pfn + n):
            cmr.bitmap.add(pfn, pfn + n)
            cma.available_count -= n
            rc = k.cma.alloc_contig_range(k, pfn, pfn + n, owner, True)
            if not rc:
                return pfn
            cma_clear_bitmap(cma, cmr, pfn, n)
            if rc != -EBUSY:
                return rc
        pfn += n
    return -EBUSY


def cma_clear_bitmap(cma: Cma, cmr: CmaMemrange, pfn: int, n: int) -> None:
    """cma_clear_bitmap: the pages are nobody's."""
    cmr.bitmap.remove(pfn, pfn + n)
    cma.available_count += n


def find_cma_memrange(cma: Cma | None, pfn: int, n: int) -> CmaMemrange | None:
    """find_cma_memrange: the range of the area that has all of [pfn, pfn + n), None if there is none."""
    if cma is None:
        return None
    return next((cmr for cmr in cma.ranges if cmr.base_pfn <= pfn and pfn + n <= cmr.end_pfn), None)
