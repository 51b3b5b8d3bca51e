"""Growing and shrinking a pool by its sysfs number (mm/hugetlb.c:set_max_huge_pages, Linux 7.3)."""

from __future__ import annotations

from mm.errno import ENOMEM
from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb import flush_free_hpage_work, prep_and_add_allocated_folios, update_and_free_pages_bulk
from mm.hugetlb_alloc import alloc_pool_huge_folios, next_node
from mm.kernel import Kernel


def adjust_pool_surplus(h: HState, nodes: range, delta: int) -> bool:
    """adjust_pool_surplus (mm/hugetlb.c, 7.3): one surplus page more (+1) or less (-1), nodes in turn."""
    for _ in nodes:
        if delta < 0:
            nid = next_node(h.next_nid_to_alloc, nodes)
            h.next_nid_to_alloc = next_node(nid + 1, nodes)
            found = h.surplus[nid] > 0
        else:
            nid = next_node(h.next_nid_to_free, nodes)
            h.next_nid_to_free = next_node(nid + 1, nodes)
            found = h.surplus[nid] < h.nr[nid]
        if found:
            h.surplus[nid] += delta
            h.touched = True
            return True
    return False


def set_max_huge_pages(k: Kernel, h: HState, count: int, nid: int | None) -> int:
    """set_max_huge_pages (mm/hugetlb.c, 7.3): 0 however many pages were obtained or freed, or -ENOMEM at point `NMASK`.

    `nid` None is the global file, for all nodes. A folio whose vmemmap cannot be restored stays as a free surplus page.
    Left out: signals, memory policy (nr_hugepages_mempolicy).
    """
    if k.faults.fails("NMASK"):
        return -ENOMEM
    flush_free_hpage_work(k, h)
    persistent = h.persistent
    if nid is None:
        nodes = range(len(h.nr))
    else:
        nodes = range(nid, nid + 1)
        count += persistent - (h.nr[nid] - h.surplus[nid])
    if count > persistent:
        _grow(k, h, count - persistent, nodes)
    elif count < persistent:
        _shrink(k, h, count, nodes)
    h.max_huge_pages = h.persistent
    h.touched = True
    return 0


def _grow(k: Kernel, h: HState, missing: int, nodes: range) -> None:
    while missing and any(h.surplus) and adjust_pool_surplus(h, nodes, -1):
        missing -= 1
    if missing:
        folios = alloc_pool_huge_folios(k, h, nodes, missing)
        folios.reverse()  # each was put at the list head
        prep_and_add_allocated_folios(k, h, folios)


def _shrink(k: Kernel, h: HState, count: int, nodes: range) -> None:
    persistent, free, surplus = h.persistent, h.free_count(), sum(h.surplus)
    persistent_free = free
    if free > persistent:
        persistent_free = free - surplus if free > surplus else 0
    min_count = max(count, h.resv + persistent - persistent_free)
    folios = _take_free(h, nodes, persistent - min_count)
    folios.reverse()  # each was put at the list head
    update_and_free_pages_bulk(k, h, folios)
    for _ in range(h.persistent - count):
        if not adjust_pool_surplus(h, nodes, 1):
            break


def _take_free(h: HState, nodes: range, n: int) -> list[Folio]:
    """remove_pool_hugetlb_folio (mm/hugetlb.c, 7.3) `n` times: list heads of the nodes in turn, in the order taken. Who
    frees them ends their hugetlb type.
    """
    out: list[Folio] = []
    if n <= 0:
        return out
    nid = next_node(h.next_nid_to_free, nodes)
    misses = 0
    while len(out) < n and misses < len(nodes):
        free = h.free[nid]
        if free:
            pfn, folio = free.popitem()
            del h.folios[pfn]
            h.nr[nid] -= 1
            out.append(folio)
            misses = 0
        else:
            misses += 1
        nid = nid + 1 if nid + 1 < nodes.stop else nodes.start
    h.next_nid_to_free = nid
    return out
