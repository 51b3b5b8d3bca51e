"""What struct pages must say, and what is kept beside them: laws of one side, as those of `fuzz.oracle.laws`.

Which zone and node a struct page names, and whether it is one of a huge page, follows from who has the frame. Both
sides write most struct pages through functions that they share, so what is wrong there is wrong on both.
"""

from __future__ import annotations

from typing import Final

from fuzz.oracle.finding import Broken
from fuzz.oracle.history import VERSION
from mm.cma import MIGRATE_CMA
from mm.kernel import MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, Kernel
from mm.mmzone import ZONE_DEVICE, Zone
from mm.page import Content, Row
from mm.page_alloc import OWNER_LEAKED, OWNER_SELFHOSTED
from mm.pgmap import PgMap
from mm.runs import RunMap

ORDINARY: Final = 0
"""In `_orders`: in no huge page."""


def _view(k: Kernel, lo: int, hi: int) -> list[tuple[int, int, Content | Row]]:
    """What the struct pages of [lo, hi) show."""
    arch = k.arch
    first, end = arch.pfn(arch.vpn(lo)), arch.pfn(arch.vpn_end(hi))
    out = []
    for s, e, content in k.memmap.view(first, end):
        s, e = max(s, lo), min(e, hi)
        if s < e:
            out.append((s, e, content))
    return out


def _wrong(what: str, lo: int, hi: int, found: object) -> Broken:
    return Broken("structpages", "content", what, f"struct pages of {lo:#x}..{hi:#x}: {found}, {what}")


def _parts(content: Content | Row) -> tuple[Content, ...]:
    return (content.kept, content.tail) if isinstance(content, Row) else (content,)


# -- online memory --------------------------------------------------------------------------------------------------


def online_pages(k: Kernel) -> Broken | None:
    """page_zone and page_to_nid name the zone and node that a page is online in (__init_single_page, mm/mm_init.c);
    struct pages of huge pages are those of hugetlb compound pages of their order, all others of none
    (init_new_hugetlb_folio, __update_and_free_hugetlb_folio in mm/hugetlb.c), and those that hold their block's memmap
    are marked (mhp_init_memmap_on_memory, mm/memory_hotplug.c)."""
    orders = _orders(k)
    owners = k.pages.owners
    for lo, hi, zone in k.pages.zone_of.items():
        looks: dict[Content | Row, tuple[str | None, int | None]] = {}
        for s, e, content in _view(k, lo, hi):
            if content.kind == "plain":  # most are
                if content.nid != zone.nid or content.zone != zone.idx:
                    return _wrong("of another zone", s, e, content)
                if orders.starts and orders.overlaps(s, e):
                    return _wrong("no huge page", s, e, content)
                continue
            if content not in looks:
                looks[content] = _look(content, zone)
            wrong, order = looks[content]
            if wrong is not None:
                return _wrong(wrong, s, e, content)
            if order is not None:
                huge = [b - a for a, b, found in orders.runs(s, e) if found == order]
                if sum(huge) != e - s:
                    huge += [b - a for a, b, owner in owners.runs(s, e) if owner == OWNER_LEAKED]
                    if sum(huge) != e - s:
                        return _wrong("a huge page that does not exist", s, e, content)
            elif owners.runs(s, e) != [(s, e, OWNER_SELFHOSTED)]:
                return _wrong("no memmap of its block", s, e, content)
    return None


def _look(content: Content | Row, zone: Zone) -> tuple[str | None, int | None]:
    """What is wrong with struct pages of a zone that look like this, whatever has them; and the order of the huge page
    that they must be in, None for memmap of its own block."""
    for part in _parts(content):
        if part.kind == "raw" or part.kind == "poison":
            return "not initialised", None
        if part.nid != zone.nid or part.zone != zone.idx:
            return "of another zone", None
    kinds = {part.kind for part in _parts(content)}
    if kinds <= {"compound", "tail"}:
        order = _order(content)
        return ("of no huge page" if order is None else None), order
    return (None if kinds == {"selfhosted"} else "no huge page"), None


def _orders(k: Kernel) -> RunMap[int]:
    """The order of the huge page that frames are in, those that wait for the work item included."""
    out: RunMap[int] = RunMap()
    for h in k.hstates.values():
        for pfn in sorted(h.folios):
            out.set(pfn, pfn + h.pages, h.order)
    for folio in k.hpage_freelist:
        out.set(folio.pfn, folio.end_pfn, folio.order)
    return out


def _order(content: Content | Row) -> int | None:
    """The order of the hugetlb compound pages that begin at a multiple of their size and look like this."""
    orders = set()
    for part in _parts(content):
        if part.kind == "compound" and (part.use != "hugetlb" or part.phase):
            return None
        if (part.kind != "compound" and part.kind != "tail") or (part.kind == "tail" and part.reserved):
            return None
        orders.add(part.order)
    if isinstance(content, Row):
        orders |= {content.period.bit_length() - 1} if content.phase == 0 else {-1}
    return orders.pop() if len(orders) == 1 else None


# -- devices --------------------------------------------------------------------------------------------------------


def device_pages(k: Kernel) -> Broken | None:
    """Struct pages of a device name ZONE_DEVICE of its node. Those of its altmap are single ones (memmap_init_range in
    mm/mm_init.c), those behind it are compound pages of the order of its page map, or single ones
    (memmap_init_zone_device, __init_zone_device_page there)."""
    if k.paths.version == VERSION:
        return None  # its bugs leave struct pages that nobody initialises (fuzz.oracle.history)
    arch = k.arch
    for pgmap in k.pgmaps:
        for start, end in pgmap.ranges:
            altmap = pgmap.altmap
            first = at = start if altmap is None else start + altmap.offset()
            for s, e, content in () if altmap is None else _view(k, start + altmap.reserve, first):
                if content.kind != "plain" or content.nid != pgmap.nid or content.zone != ZONE_DEVICE or content.use:
                    return _wrong("no memory map of a device", s, e, content)
            if arch.vmemmap_frees_shared:
                # docs/findings/0008: what lies in one vmemmap page, or leaf, with another device may be gone with it.
                unit = arch.spp * (arch.ptrs_per_pte if arch.vmemmap_leaf_for_part else 1)
                at, end = -(-first // unit) * unit, end // unit * unit
            for s, e, content in _view(k, at, end):
                if s != at:
                    return _wrong("not mapped", at, s, "none")
                at = e
                wrong = _of_device(pgmap, content, first)
                if wrong is not None:
                    return _wrong(wrong, s, e, content)
            if at < end:
                return _wrong("not mapped", at, end, "none")
    return None


def _of_device(pgmap: PgMap, content: Content | Row, first: int) -> str | None:
    order = pgmap.vmemmap_shift
    for part in _parts(content):
        if part.kind == "raw" or part.kind == "poison":
            return "not initialised"
        if part.nid != pgmap.nid or part.zone != ZONE_DEVICE:
            return "of another zone"
        if part.kind == "plain":
            if order or (part.use == "fsdax") is not (pgmap.type == "fsdax"):
                return "a single page"
        elif part.kind == "compound":
            if part.order != order or part.use != "devdax" or part.phase != first % (1 << order):
                return "another compound page"
        elif part.kind != "tail" or part.order != order:
            return "another tail page"
    return None


# -- pageblocks -----------------------------------------------------------------------------------------------------


def migratetypes(k: Kernel) -> Broken | None:
    """Pageblocks are movable when their struct pages are initialised (memmap_init_range, memmap_init_zone_device in
    mm/mm_init.c); MIGRATE_CMA are those of areas (init_cma_pageblock), unmovable those with the memmap of their own
    block (mhp_init_memmap_on_memory, mm/memory_hotplug.c)."""
    order = k.arch.pmd_order
    cma, owners = k.pages.cma, k.pages.owners
    for start, end, _ in k.pages.zone_of.items():
        for lo, hi, kind in k.pageblocks.runs(-(-start >> order), end >> order):
            first, last = lo << order, hi << order
            if kind == MIGRATE_CMA:
                right = cma.covers(first, last)
            elif kind == MIGRATE_UNMOVABLE:
                right = owners.runs(first, last) == [(first, last, OWNER_SELFHOSTED)]
            else:
                right = kind == MIGRATE_MOVABLE and not cma.overlaps(first, last)
            if not right:
                return Broken("structpages", "pageblock", "type", f"pageblocks of {first:#x}..{last:#x} are {kind}")
    return None
