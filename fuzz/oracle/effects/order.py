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
    surplus: int
    short: int
    quiet: bool
    """Nothing waits for the work item, no allocation is to fail."""


def heads(k: Kernel, h: HState, nid: int | None, count: int) -> Heads:
    """What the laws want to know of a pool from which `count` pages may be taken, of one node or of all."""
    nodes = list(range(len(h.free))) if nid is None else [nid] if nid < len(h.free) else []
    lists = {node: _first(h.free[node], count) for node in nodes}
    quiet = not k.hpage_freelist and not k.faults.nth
    free = [len(free) for free in h.free]
    room = _room(k, h, nodes) if count < 0 else 0
    return Heads(lists, free, h.next_nid_to_free, h.next_nid_to_alloc, room, sum(h.surplus), k.pages.short, quiet)


def _first(free: dict[int, Folio], count: int) -> list[Folio]:
    """The folios at the head of a list, `count` at most."""
    return list(islice(reversed(free.values()), count)) if count > 0 and free else []


def _room(k: Kernel, h: HState, nodes: list[int]) -> int:
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


def _disturbed(k: Kernel, then: Heads) -> bool:
    return not then.quiet or k.pages.short != then.short


def mapped(count: int, then: Heads, folios: list[Folio]) -> str | None:
    """Sound pages from the heads of the task's nodes, the nearest first; the task runs on node 0."""
    sound = [folio for found in then.lists.values() for folio in found if not folio.hwpoison]
    if then.surplus or any(len(found) < count and len(found) < then.free[nid] for nid, found in then.lists.items()):
        return None
    if any(folio.hwpoison for found in then.lists.values() for folio in found) or len(sound) < count:
        return None
    return None if folios == sound[:count] else f"{_list(folios)} were taken, at the heads are {_list(sound[:count])}"


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
    if _disturbed(k, then):
        return None
    lost = {nid: then.free[nid] - len(h.free[nid]) for nid in then.lists}
    for nid, n in lost.items():
        gone = then.lists[nid]
        if n < 0 or n > len(gone) or any(folio.pfn in h.free[nid] for folio in gone[:n]):
            return f"node {nid} has {len(h.free[nid])} free pages, and not lost those at the head"
        if n < len(gone) and next(reversed(h.free[nid].values())) is not gone[n]:
            return f"another page than {gone[n]!r} is at the head of node {nid}"
    empty = [nid for nid in lost if not h.free[nid]]
    text = _turns(lost, then.next_nid_to_free, empty)
    if text is not None or sum(h.surplus) != then.surplus:  # becoming surplus takes turns of its own
        return text
    return _next(lost, then.next_nid_to_free, h.next_nid_to_free, empty)


def grown(k: Kernel, h: HState, then: Heads, wanted: int) -> str | None:
    """As many as there is memory for, and nodes take turns."""
    if not then.quiet or then.surplus or (h.gigantic and k.hugetlb_cma.size):
        return None
    made = sum([len(free) for free in h.free]) - sum(then.free)
    if made != min(wanted, then.room):
        return f"{made} of {wanted} pages were made, and there was memory for {then.room}"
    if k.pages.short != then.short:
        return None
    got = {nid: len(h.free[nid]) - then.free[nid] for nid in then.lists}
    return _turns(got, then.next_nid_to_alloc, []) or _next(got, then.next_nid_to_alloc, h.next_nid_to_alloc, [])


def _turns(shares: dict[int, int], first: int, empty: list[int]) -> str | None:
    """Nodes that take turns from node `first` on get equal shares, but for one, and those that have no more."""
    n, m = sum(shares.values()), len(shares)
    if m < 2 or empty:
        full = [share for nid, share in shares.items() if nid not in empty]
        if full and (max(full) - min(full) > 1 or max(shares.values()) > max(full) + 1 - (len(full) == m)):
            return f"nodes took turns, and their shares are {shares}"
        return None
    wanted = {nid: n // m + ((nid - first) % m < n % m) for nid in shares}
    return None if shares == wanted else f"nodes took turns from node {first} on, and their shares are {shares}"


def _next(shares: dict[int, int], first: int, now: int, empty: list[int]) -> str | None:
    """After `n` turns of all nodes the next is `n` further; nobody knows where those ended who skipped nodes."""
    n, m = sum(shares.values()), len(shares)
    if m < 2 or empty or not n or now == (first + n) % m:
        return None
    return f"{n} turns from node {first} on ended at node {now}"


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
