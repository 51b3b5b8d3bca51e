"""Huge pages that stand in the way of memory offline (mm/hugetlb.c, mm/migrate.c, Linux 7.3).

Who mapped a folio holds the `Folio` object, so migration keeps the object and moves its place: it and the target swap
what describes the frames, and the object that was the target's then describes the old frames and is freed.
"""

from __future__ import annotations

from collections.abc import Sequence

from mm.errno import EBUSY
from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb import (
    account_new_hugetlb_folio,
    dequeue_hugetlb_folio_node_exact,
    folio_at,
    free_hpage_workfn,
    free_huge_folio,
)
from mm.hugetlb_alloc import alloc_fresh_hugetlb_folio, hstate_is_gigantic
from mm.kernel import Kernel
from mm.page_alloc import OWNER_HUGETLB


def mapped_folios(k: Kernel, lo: int, hi: int) -> list[Folio]:
    """Huge pages in use that meet [lo, hi), ascending (scan_movable_pages, mm/memory_hotplug.c)."""
    out: list[Folio] = []
    for s, e, owner in k.pages.owners.runs(lo, hi):
        if owner != OWNER_HUGETLB:
            continue
        while s < e:
            folio = folio_at(k, s)
            if folio is None:  # it waits for the work item, in no pool
                s = (s | (1 << k.arch.pmd_order) - 1) + 1
                continue
            if folio.refcount:
                out.append(folio)
            s = folio.end_pfn
    return out


def isolate_or_migrate(k: Kernel, lo: int, hi: int) -> int:
    """The hugetlb part of do_migrate_range (mm/memory_hotplug.c, 7.3) for offlining [lo, hi): 0 when none is in use.

    A pass moves the folios in ascending order and ends at the first that gets no target. The kernel repeats that until
    a signal comes; here a pass that moved nothing is repeated only if an injected failure ended it, else the result is
    -EBUSY. Folios that were moved stay moved. The old folios are freed, or queued and then freed, before this returns;
    a temporary one that cannot be restored is a free surplus page in the range afterwards.
    """
    rc = 0
    while folios := mapped_folios(k, lo, hi):
        failed = k.faults.failed
        done = 0
        nid = folios[0].nid  # do_migrate_range: that of the first for all
        for folio in folios:
            # Another node if there is one.
            others = [node for node in range(len(k.nodes)) if node != nid] or [nid]
            if not migrate_hugetlb(k, folio, others, False, (lo, hi)):
                break
            done += 1
        if not done and k.faults.failed == failed:
            rc = -EBUSY
            break
    free_hpage_workfn(k)
    return rc


def migrate_hugetlb(
    k: Kernel, folio: Folio, nodes: Sequence[int], fallback: bool, isolated: tuple[int, int] = (0, 0)
) -> bool:
    """unmap_and_move_huge_page (mm/migrate.c, 7.3): a folio in use moves to a target; False if there is none.

    The old place is freed, or queued for the work item, which the caller runs.
    """
    h = k.hstates[folio.order]
    target = alloc_hugetlb_folio_nodemask(k, h, nodes, fallback, isolated)
    if target is None:
        return False
    move_hugetlb_state(h, folio, target)
    _swap_places(h, folio, target)
    free_huge_folio(k, h, target)
    return True


def alloc_hugetlb_folio_nodemask(
    k: Kernel, h: HState, nodes: Sequence[int], fallback: bool, isolated: tuple[int, int]
) -> Folio | None:
    """alloc_migration_target, alloc_hugetlb_folio_nodemask (mm/migrate.c, mm/hugetlb.c, 7.3).

    A free folio of the pool of one of `nodes`, the preferred first, outside the pageblocks `isolated`; else a temporary
    one of the preferred node, with `fallback` of any.
    """
    if h.free_count() > h.resv:
        for node in nodes:
            folio = dequeue_hugetlb_folio_node_exact(h, node, *isolated)
            if folio is not None:
                return folio
    return alloc_migrate_hugetlb_folio(k, h, nodes[0], fallback)


def alloc_migrate_hugetlb_folio(k: Kernel, h: HState, nid: int, fallback: bool) -> Folio | None:
    """alloc_migrate_hugetlb_folio (mm/hugetlb.c, 7.3) on `nid`: in use and temporary; no gigantic page."""
    if hstate_is_gigantic(h):
        return None
    folio = alloc_fresh_hugetlb_folio(k, h, nid, thisnode=not fallback)
    if folio is not None:
        account_new_hugetlb_folio(h, folio)
        folio.refcount = 1
        folio.temporary = True
    return folio


def move_hugetlb_state(h: HState, old: Folio, new: Folio) -> None:
    """move_hugetlb_state (mm/hugetlb.c, 7.3): a temporary target becomes final, and the old folio temporary.

    Across nodes one surplus page moves along, if the old node has any.
    """
    if not new.temporary:
        return
    old.temporary, new.temporary = True, False
    if old.nid != new.nid and h.surplus[old.nid]:
        h.surplus[old.nid] -= 1
        h.surplus[new.nid] += 1


def _swap_places(h: HState, a: Folio, b: Folio) -> None:
    """`a` describes the frames of `b` from now on, and `b` those of `a`; both stay in the pool and keep their users."""
    for name in Folio.OF_THE_FRAMES:
        mine, theirs = getattr(a, name), getattr(b, name)
        if mine != theirs:
            setattr(a, name, theirs)
            setattr(b, name, mine)
    h.folios[a.pfn] = a
    h.folios[b.pfn] = b
