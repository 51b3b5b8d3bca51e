"""From which end of the free lists huge pages come and go, whose turn it is, and how many can be made.

A free list is a stack: enqueue_hugetlb_folio puts at its head, and dequeue_hugetlb_folio_node_exact,
remove_pool_hugetlb_folio and demote_pool_huge_page take from there (mm/hugetlb.c, Linux 7.3). Nodes take turns
(for_each_node_mask_to_alloc, for_each_node_mask_to_free). `HState.free` has the head at its end.

Only what no failed allocation disturbs is asked about; each law looks at as many entries as the operation moves.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.mmzone import ZONE_MOVABLE


class Heads(NamedTuple):
    """The free lists before an operation."""

    lists: dict[int, list[Folio]]
    """As many of each node's free folios as may go, from the head on."""
    free: list[int]
    """Length of each node's list."""
    next_nid_to_free: int
    next_nid_to_alloc: int
    room: int
    """How many pages there is memory for, if any are to be made."""
    areas: int
    """How many gigantic pages areas of CMA can give at once."""
    nr: list[int]
    surplus: list[int]
    short: int
    quiet: bool
    """Nothing waits for the work item, no allocation is to fail."""


def heads(k: Kernel, h: HState, nid: int | None, count: int) -> Heads:
    """What the laws want to know of a pool from which `count` pages may be taken, of one node or of all."""
    nodes = list(range(len(h.free))) if nid is None else [nid] if nid < len(h.free) else []
    lists = {node: _first(h.free[node], count) for node in nodes}
    quiet = not k.hpage_freelist and not k.faults.nth
    free = [len(free) for free in h.free]
    room = aligned_blocks(k, h, nodes) if count < 0 else 0
    turns = h.next_nid_to_free, h.next_nid_to_alloc
    areas = _in_areas(k, h.pages) if h.gigantic and k.hugetlb_cma.size else 0
    return Heads(lists, free, *turns, room, areas, h.nr[:], h.surplus[:], k.pages.short, quiet)


def _first(free: dict[int, Folio], count: int) -> list[Folio]:
    """The folios at the head of a list, `count` at most."""
    return list(islice(reversed(free.values()), count)) if count > 0 and free else []


def aligned_blocks(k: Kernel, h: HState, nodes: list[int]) -> int:
    """Free aligned blocks of the size: gigantic pages stay out of ZONE_MOVABLE (htlb_alloc_mask), others may also lie
    in MIGRATE_CMA pageblocks."""
    shift = k.pages.block_order
    step = h.pages >> shift
    n = 0
    for nid in nodes:
        for zone in k.nodes[nid].zones[: ZONE_MOVABLE + (not h.gigantic)]:
            if step == 1:
                n += zone.blocks.total
            elif zone.blocks.total >= step:
                n += sum([max(0, hi // step - -(-lo // step)) for lo, hi in zone.blocks.items()])
            if zone.cma.starts and not h.gigantic:
                n += sum([max(0, hi // h.pages - -(-lo // h.pages)) for lo, hi in zone.cma.items()])
    return n


def _in_areas(k: Kernel, size: int) -> int:
    """Aligned pieces of areas that nobody has and from which nothing must be moved away."""
    n = 0
    for cma in k.cma.areas:
        free = [zone.cma for zone in k.nodes[cma.nid].zones]
        for cmr in cma.ranges if cma.activated else ():
            for pfn in range(-(-cmr.base_pfn // size) * size, cmr.end_pfn - size + 1, size):
                n += not cmr.bitmap.overlaps(pfn, pfn + size) and any(f.covers(pfn, pfn + size) for f in free)
    return n


def _given_out(k: Kernel, folio: Folio) -> bool:
    """Whether an area has pages of a huge page for handed out."""
    return any(cmr.bitmap.overlaps(folio.pfn, folio.end_pfn) for cma in k.cma.areas for cmr in cma.ranges)


def _disturbed(k: Kernel, then: Heads) -> bool:
    return not then.quiet or k.pages.short != then.short


def mapped(count: int, then: Heads, folios: list[Folio]) -> str | None:
    """Sound pages from the heads of the task's nodes, the nearest first; the task runs on node 0."""
    first = [folio for found in then.lists.values() for folio in found]
    if any(folio.hwpoison for folio in first) or len(first) < count or folios == first[:count]:
        return None
    return f"{_list(folios)} were taken, at the heads are {_list(first[:count])}"


def unmapped(h: HState, folios: list[Folio]) -> str | None:
    """Pages of the pool go to the heads, one after the other."""
    for nid, free in enumerate(h.free):
        back = [folio for folio in folios if folio.nid == nid and not folio.temporary]
        found = _first(free, len(back))
        if found != back[::-1]:
            return f"{_list(back)} were freed, at the head of node {nid} are {_list(found)}"
    return None


def shrunk(k: Kernel, h: HState, then: Heads) -> str | None:
    """Pages leave from the heads, and nodes take turns."""
    if h.next_nid_to_alloc != then.next_nid_to_alloc:
        return f"it is node {h.next_nid_to_alloc}'s turn to give a page now, and no page was made"
    if _disturbed(k, then):
        return None
    lost = {nid: then.free[nid] - len(h.free[nid]) for nid in then.lists}
    for nid, n in lost.items():
        gone = then.lists[nid]
        if n < 0 or n > len(gone) or any(folio.pfn in h.free[nid] for folio in gone[:n]):
            return f"node {nid} has {len(h.free[nid])} free pages, and not lost those at the head"
        if n < len(gone) and next(reversed(h.free[nid].values())) is not gone[n]:
            return f"another page than {gone[n]!r} is at the head of node {nid}"
        if any(folio.cma and not folio.raw_hwp_unreliable and _given_out(k, folio) for folio in gone[:n]):
            return f"not all of {_list(gone[:n])} went back to their area"
    free, surplus = sum(then.free), sum(then.surplus)
    spare = free if free <= sum(then.nr) - surplus else max(free - surplus, 0)  # persistent_free
    if sum(lost.values()) > spare:
        return f"{lost} pages left, and {spare} of those that are free are not surplus"
    text = _turns(lost, then.next_nid_to_free, [nid for nid in lost if not h.free[nid]])
    if text is not None:
        return text
    # adjust_pool_surplus: of those in use as many as are left to go become surplus, nodes in turn.
    more = {nid: h.surplus[nid] - then.surplus[nid] for nid in lost}
    first = _next(lost, then.next_nid_to_free)
    return _turns(more, first, [nid for nid in more if h.surplus[nid] >= h.nr[nid]]) or _ended(
        more, first, h.next_nid_to_free
    )


def grown(k: Kernel, h: HState, then: Heads, wanted: int) -> str | None:
    """Surplus pages are no longer, and as many are made as there is memory for; nodes take turns."""
    if h.next_nid_to_free != then.next_nid_to_free:
        return f"it is node {h.next_nid_to_free}'s turn to lose a page now, and no page left"
    if not then.quiet:
        return None
    less = {nid: then.surplus[nid] - h.surplus[nid] for nid in then.lists}
    kept = sum(less.values())
    if kept != min(wanted, sum([then.surplus[nid] for nid in less])):
        return f"{kept} of {then.surplus} surplus pages were kept, {wanted} more were asked for"
    first = _next(less, then.next_nid_to_alloc)
    text = _turns(less, then.next_nid_to_alloc, [nid for nid in less if not h.surplus[nid]])
    if text is not None or (h.gigantic and k.hugetlb_cma.size):
        return text
    made = sum([len(free) for free in h.free]) - sum(then.free)
    if made != min(wanted - kept, then.room):
        return f"{made} of {wanted - kept} pages were made, and there was memory for {then.room}"
    got = {nid: len(h.free[nid]) - then.free[nid] for nid in then.lists}
    text = None if k.pages.short != then.short else _turns(got, first, [])
    return text or _ended(got, first, h.next_nid_to_alloc)


def given_back(k: Kernel, h: HState, then: Heads, count: int, nid: int | None) -> str | None:
    """A mapping of `count` pages that failed: surplus pages that were made for it go before any of them is taken, or,
    where the task's node turns out to have too few (hugetlb_acct_memory), in turns over the nodes that have some
    (return_unused_surplus_pages). Nobody looks where poisoned pages are passed over, or an area may have had none."""
    if _disturbed(k, then) or any(folio.hwpoison for found in then.lists.values() for folio in found):
        return None
    made = max(0, h.resv + count - sum(then.free))
    if h.gigantic and k.hugetlb_cma.size:  # whether an area had none is not known
        enough = nid is None and made <= min(then.areas, h.nr_overcommit - sum(then.surplus))
        return f"areas had {then.areas} pages for {made}" if enough else None
    if nid is None or (made and sum(then.surplus) + made > h.nr_overcommit):
        made = count = 0  # gather_surplus_pages: none was made, or all of them went at once
    gone = {node: nr + (made if node == nid else 0) - h.nr[node] for node, nr in enumerate(then.nr)}
    n = sum(gone.values())
    if n != min(count, sum(then.surplus) + made) and any(map(_both, h.free, h.surplus)):
        return f"{n} surplus pages are gone, {made} were made for {count} that were asked for, and {h.surplus} are left"
    return _turns(gone, then.next_nid_to_free, [node for node in gone if not _both(h.free[node], h.surplus[node])]) or (
        _ended(gone, then.next_nid_to_free, h.next_nid_to_free)
    )


def _both(free: dict[int, Folio], surplus: int) -> bool:
    return bool(free) and surplus > 0


def _turns(shares: dict[int, int], first: int, empty: list[int]) -> str | None:
    """Nodes that take turns from node `first` on get equal shares, but for one, and those that have no more."""
    n, m = sum(shares.values()), len(shares)
    if empty:
        full = [share for nid, share in shares.items() if nid not in empty]
        if full and max(shares.values()) > min(full) + 1:
            return f"nodes took turns, and their shares are {shares}, and the nodes {empty} had no more"
        return None
    wanted = {nid: n // m + ((nid - first) % m < n % m) for nid in shares}
    return None if shares == wanted else f"nodes took turns from node {first} on, and their shares are {shares}"


def _next(shares: dict[int, int], first: int) -> int:
    """Whose turn it is when nodes have taken turns from node `first` on, those that had no more left out: that of the
    node behind the one that was served last, which has the most, of several the last in the row."""
    nodes, m = list(shares), len(shares)
    if not any(shares.values()):
        return first  # nobody was asked, or everybody in vain
    served = max(range(m), key=lambda i: (shares[nodes[i]], (nodes[i] - first) % m))
    return nodes[(served + 1) % m]


def _ended(shares: dict[int, int], first: int, now: int) -> str | None:
    """Turns that began at node `first`, and whose turn it is now. One node alone may have been asked in vain."""
    wanted = _next(shares, first)
    if now == wanted or (len(shares) == 1 and now in shares):
        return None
    return f"{shares} in turns from node {first} on, and it is node {now}'s turn now, not node {wanted}'s"


def demoted(k: Kernel, src: HState, dst: HState, then: Heads, count: int, gone: int) -> str | None:
    """Pages leave from the head of a node's list, and their pieces are at the head of the other one, the first piece of
    the first page foremost (demote_free_hugetlb_folios). Of several nodes, only what one served is looked at."""
    if _disturbed(k, then):
        return None
    m = len(then.lists)
    if m > 1 and gone == count:
        turns = [(then.next_nid_to_free + i) % m for i in range(m)]
        served = next((nid for nid in turns if any(not folio.hwpoison for folio in then.lists[nid])), 0)
        if sum([not folio.hwpoison for folio in then.lists[served]]) == gone > 0:
            now = src.next_nid_to_free
            if then.free[served] - len(src.free[served]) != gone or now != (served + 1) % m:
                return f"it was the turn of node {served}, which lost not {gone} pages, or it is node {now}'s now"
    for nid, found in then.lists.items():
        taken = [folio for folio in found if not folio.hwpoison][:gone]
        if len(then.lists) > 1 and len(taken) < gone:
            return None
        if then.free[nid] - len(src.free[nid]) != gone:
            continue
        if any(src.folios.get(folio.pfn) is folio for folio in taken):
            return f"of {_list(taken)}, at the head of node {nid}, not all are gone"
        pieces = [pfn for folio in taken for pfn in range(folio.pfn, folio.end_pfn, dst.pages)]
        at_head = list(islice(reversed(dst.free[nid]), len(pieces)))
        if at_head != pieces:
            return f"the pieces of {_list(taken)} are not at the head of node {nid} in their order"
    return None


def _list(folios: list[Folio]) -> str:
    return ", ".join(f"{folio.pfn:#x}" for folio in folios) or "none"
