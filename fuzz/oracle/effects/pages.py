"""Pages of programs."""

from __future__ import annotations

from typing import Any, NamedTuple

from fuzz.oracle.effects.common import Args, Before, SideLike, in_the_way
from mm.errno import EBUSY
from mm.kernel import Kernel
from mm.mmzone import ZONE_MOVABLE
from mm.page_alloc import OWNER_HUGETLB, OWNER_HWPOISON, OWNER_LEAKED, OWNER_PAGES, OWNER_PAGES_MOVABLE


def allocated(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """Single pages of one node, all or none."""
    if rc or result is None:
        return None
    k = side.kernel
    extents = side.handles[result]
    owner = OWNER_PAGES_MOVABLE if args["movable"] else OWNER_PAGES
    if sum([n for _, n in extents]) != args["count"]:
        return f"{sum([n for _, n in extents])} pages were taken"
    for pfn, n in extents:
        for _, _, zone in k.pages.zone_of.runs(pfn, pfn + n):
            if zone.nid != args["node"] or (zone.idx == ZONE_MOVABLE and not args["movable"]):
                return f"pages from {pfn:#x} are of {zone!r}"
        found = k.pages.owners.runs(pfn, pfn + n)
        if sum([e - s for s, e, _ in found]) != n or any(o != owner for _, _, o in found):
            return f"pages from {pfn:#x} are not the program's"
    return None


class Contig(NamedTuple):
    """Before a contiguous range is asked for."""

    short: int
    """How many allocations got too little so far."""
    mapped: list[list[int]]
    """Huge pages in use, of each pool by node."""
    free: list[list[int]]
    """Free ones."""
    nr: list[list[int]]
    """All."""


def contig_before(side: SideLike, args: Args) -> Contig:
    pools = side.kernel.hstates.values()
    free = [[len(free) for free in h.free] for h in pools]
    return Contig(side.kernel.pages.short, _mapped(side.kernel), free, [h.nr[:] for h in pools])


def _mapped(k: Kernel) -> list[list[int]]:
    pools = []
    for h in k.hstates.values():
        nodes = [0] * len(k.nodes)
        for folios in h.mapped:
            for folio in folios:
                nodes[folio.nid] += 1
        pools.append(nodes)
    return pools


def contiguous(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """alloc_contig_range (mm/page_alloc.c): exactly these frames; what is in the way is moved, or replaced. A huge
    page moves to another node only if a free one is there (alloc_hugetlb_folio_nodemask, mm/hugetlb.c)."""
    short, mapped, free, nr = then
    for pool, was, most in zip(_mapped(side.kernel), mapped, free, strict=True):
        if any(now > before + spare for now, before, spare in zip(pool, was, most, strict=True)):
            return f"{pool} huge pages of the nodes are in use, {was} were, and {most} were free"
    k = side.kernel
    if rc == 0 and k.pages.short == short and not k.faults.fired:  # else a page that could not be restored stays
        for h, was in zip(k.hstates.values(), nr, strict=True):
            if any(now > before for now, before in zip(h.nr, was, strict=True)):
                return f"{h.nr} huge pages are of the nodes, {was} were"  # alloc_and_dissolve_hugetlb_folio
    page = k.arch.page
    lo, hi = args["at"] // page, (args["at"] + args["size"]) // page
    if rc == -EBUSY:
        return _movable(k, lo, hi) or refused(k, lo, hi, short)
    if rc or result is None:
        return None
    if side.handles[result] != [(lo, hi - lo)]:
        return f"the frames are {side.handles[result]}"
    found = k.pages.owners.runs(lo, hi)
    if sum([e - s for s, e, _ in found]) != hi - lo or any(owner != OWNER_PAGES for _, _, owner in found):
        return "the frames are not the program's"
    return None


def _movable(k: Kernel, lo: int, hi: int) -> str | None:
    """What alloc_contig_range could not move for want of memory is -ENOMEM, unless the range has something else too."""
    owners = {owner for _, _, owner in k.pages.owners.runs(lo, hi)}
    if k.pages.cma.overlaps(lo, hi) or not owners <= {OWNER_HUGETLB, OWNER_PAGES_MOVABLE}:
        return None
    used = [f for h in k.hstates.values() for folios in h.mapped for f in folios if f.pfn < hi and lo < f.end_pfn]
    return f"{used} were to move" if used else None


def refused(k: Kernel, lo: int, hi: int, short: int) -> str | None:
    """-EBUSY of alloc_contig_range, which has moved or replaced what it could, but for want of memory, of which there
    were `short` cases before: replace_free_hugepage_folios (mm/hugetlb.c) comes last."""
    if k.pages.short != short or k.faults.fired or in_the_way(k, lo, hi, frozenset()):
        return None
    return f"nothing is in the way in {lo:#x}..{hi:#x}"


def extents_before(side: SideLike, args: Args) -> Any:
    extents = side.handles.get(args["p"])
    return None if extents is None else list(extents)


def freed(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """Nobody has the pages, but for those that are poisoned."""
    if then is None:
        return None
    owners = side.kernel.pages.owners
    for pfn, n in then:
        if any(owner not in (OWNER_HWPOISON, OWNER_LEAKED) for _, _, owner in owners.runs(pfn, pfn + n)):
            return f"pages from {pfn:#x} are in use"
        if any(pfn <= marked < pfn + n and owners.get(marked) is None for marked in side.kernel.pages.hwpoison):
            return f"a poisoned page of those from {pfn:#x} is free"  # free_pages_prepare (mm/page_alloc.c)
    return None
