"""Pages of programs."""

from __future__ import annotations

from typing import Any

from fuzz.oracle.effects.common import Args, Before, SideLike
from mm.errno import ENODEV
from mm.mmzone import ZONE_MOVABLE
from mm.page_alloc import OWNER_HWPOISON, OWNER_LEAKED, OWNER_PAGES, OWNER_PAGES_MOVABLE


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


def contiguous(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """alloc_contig_range (mm/page_alloc.c): exactly these frames."""
    if rc or result is None:
        return None
    page = side.kernel.arch.page
    lo, hi = args["at"] // page, (args["at"] + args["size"]) // page
    if side.handles[result] != [(lo, hi - lo)]:
        return f"the frames are {side.handles[result]}"
    found = side.kernel.pages.owners.runs(lo, hi)
    if sum([e - s for s, e, _ in found]) != hi - lo or any(owner != OWNER_PAGES for _, _, owner in found):
        return "the frames are not the program's"
    return None


def extents_before(side: SideLike, args: Args) -> Any:
    extents = side.handles.get(args["p"])
    return None if extents is None else list(extents)


def freed(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """Nobody has the pages, but for those that are poisoned."""
    if then is None:
        return None if rc == -ENODEV else "there were no pages"
    owners = side.kernel.pages.owners
    for pfn, n in then:
        if any(owner not in (OWNER_HWPOISON, OWNER_LEAKED) for _, _, owner in owners.runs(pfn, pfn + n)):
            return f"pages from {pfn:#x} are in use"
    return None
