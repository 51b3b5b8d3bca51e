"""Taking a given range of frames out of the page allocator (mm/page_alloc.c: alloc_contig_range, Linux 7.3).

What is in the way is moved or replaced, in address order. Left out: reclaim of clean pages; that up to 32 pages are
isolated before they are moved.
"""

from __future__ import annotations

from mm.errno import EBUSY, EINVAL, ENOMEM
from mm.folio import Folio
from mm.hugetlb import (
    account_new_hugetlb_folio,
    enqueue_hugetlb_folio,
    folio_at,
    free_hpage_workfn,
    remove_hugetlb_folio,
    update_and_free_hugetlb_folio,
    wait_for_freed_hugetlb_folios,
)
from mm.hugetlb_alloc import alloc_fresh_hugetlb_folio, hstate_is_gigantic
from mm.hugetlb_isolate import migrate_hugetlb
from mm.kernel import Kernel
from mm.memory_online import MOVABLE_OWNERS, migrate_movable
from mm.mmzone import ZONE_MOVABLE, Zone
from mm.page_alloc import OWNER_HUGETLB, OWNER_PAGES, Extents


def alloc_contig_range(k: Kernel, start: int, end: int, owner: str, cma: bool = False) -> int:
    """alloc_contig_range (mm/page_alloc.c, 7.3): frames [start, end) of one zone belong to `owner`.

    0, -EBUSY, or -ENOMEM. What was moved or replaced before a failure stays so. The pageblocks at the ends are isolated
    as a whole. `cma` is ACR_FLAGS_CMA: for everybody else a pageblock of type MIGRATE_CMA is unmovable, and for CMA it
    is movable whatever it holds.
    """
    pages = k.pages
    zone = pages.zone_of.get(start)
    assert zone is not None
    if pages.cma.overlaps(start, end):
        if not cma:
            return -EBUSY  # has_unmovable_pages
    elif zone.idx != ZONE_MOVABLE and any(o not in MOVABLE_OWNERS for _, _, o in pages.owners.runs(start, end)):
        return -EBUSY  # page_is_unmovable
    mask = (1 << pages.block_order) - 1
    isolated = start & ~mask, (end + mask) & ~mask
    pages.isolate(zone, *isolated)
    rc = _alloc_contig_migrate_range(k, start, end, zone, isolated) or replace_free_hugepage_folios(k, start, end)
    if not rc:
        wait_for_freed_hugetlb_folios(k)  # test_pages_isolated
        if not pages.isolated_free.covers(start, end):
            rc = -EBUSY
    pages.unisolate(zone)
    if rc:
        free_hpage_workfn(k)  # nobody has waited for it, but it was scheduled, and runs
    else:
        pages.take(zone, start, end, owner)
    return rc


def _folios(k: Kernel, start: int, end: int) -> list[Folio]:
    """The huge pages of the pools that meet [start, end), ascending."""
    out = []
    for lo, hi, owner in k.pages.owners.runs(start, end):
        at = lo
        while owner == OWNER_HUGETLB and at < hi:
            folio = folio_at(k, at)
            if folio is not None:
                out.append(folio)
            at = folio.end_pfn if folio is not None else (at | (1 << k.arch.pmd_order) - 1) + 1
    return out


def pages_contig(k: Kernel, start: int, end: int) -> int | Extents:
    """`alloc_contig_range` for a program, which holds the frames then.

    -EINVAL for what is no row of online pages of one zone, which no caller may ask for.
    """
    run = k.pages.zone_of.run(start)
    if start >= end or run is None or run[1] < end:
        return -EINVAL
    return alloc_contig_range(k, start, end, OWNER_PAGES) or [(start, end - start)]


def _alloc_contig_migrate_range(k: Kernel, start: int, end: int, zone: Zone, isolated: tuple[int, int]) -> int:
    """__alloc_contig_migrate_range (mm/page_alloc.c), isolate_or_dissolve_huge_folio (mm/hugetlb.c, 7.3).

    0 or -ENOMEM. A gigantic page in the way is -ENOMEM, before anything behind it is touched.
    """
    nodes = [zone.nid, *(node.nid for node in k.nodes if node.nid != zone.nid)]
    at = start
    for folio in [*_folios(k, start, end), None]:
        stop = end if folio is None else folio.pfn
        if at < stop and migrate_movable(k, at, stop, zone, nodes):
            return -ENOMEM
        if folio is None:
            break
        h = k.hstates[folio.order]
        if hstate_is_gigantic(h):
            return -ENOMEM
        at = folio.end_pfn
        if not folio.refcount:
            rc = alloc_and_dissolve_hugetlb_folio(k, folio)
            if rc:
                return rc
        elif not migrate_hugetlb(k, folio, nodes, False, isolated):
            return -ENOMEM
    return 0


def alloc_and_dissolve_hugetlb_folio(k: Kernel, old: Folio) -> int:
    """alloc_and_dissolve_hugetlb_folio (mm/hugetlb.c, 7.3): a new folio of the same node takes the place of a free one
    in the pool; 0 or -ENOMEM. An old one that cannot be restored stays, as surplus.
    """
    h = k.hstates[old.order]
    new = alloc_fresh_hugetlb_folio(k, h, old.nid, thisnode=True)
    if new is None:
        return -ENOMEM
    remove_hugetlb_folio(h, old, False)
    account_new_hugetlb_folio(h, new)
    enqueue_hugetlb_folio(h, new)
    update_and_free_hugetlb_folio(k, h, old)
    return 0


def replace_free_hugepage_folios(k: Kernel, start: int, end: int) -> int:
    """replace_free_hugepage_folios (mm/hugetlb.c, 7.3): what became free in [start, end) meanwhile; 0 or -ENOMEM.

    No gigantic page is left there: it would have ended the migration.
    """
    if all(hstate_is_gigantic(h) or not h.free_count() for h in k.hstates.values()):
        return 0
    for folio in _folios(k, start, end):
        if not folio.refcount:
            rc = alloc_and_dissolve_hugetlb_folio(k, folio)
            if rc:
                return rc
    return 0
