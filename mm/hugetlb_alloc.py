"""Making new huge pages (mm/hugetlb.c, Linux 7.3): one, or a row of them in turns over the nodes.

Left out: memory policy, how hard the allocator tries. Nodes that lost all memory keep their turn.
"""

from __future__ import annotations

from functools import cache

from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb_cma import hugetlb_cma_alloc_frozen_folio, hugetlb_cma_total_size
from mm.kernel import Kernel
from mm.page import Compound
from mm.page_alloc import KERNEL_ZONES, MOVABLE_ZONES, OWNER_HUGETLB, Extents, KernelBug


@cache
def hugetlb_compound(order: int, nid: int, zone: int) -> Compound:
    """Content of the struct pages of huge pages, one object for all of a kind."""
    return Compound(order, 0, nid, zone, "hugetlb")


def hstate_is_gigantic(h: HState) -> bool:
    """hstate_is_gigantic (include/linux/hugetlb.h): too large for the buddy allocator (alloc_contig_pages)."""
    return h.gigantic


def htlb_zones(h: HState) -> tuple[int, ...]:
    """Zones that htlb_alloc_mask allows (include/linux/hugetlb.h): gigantic pages stay out of ZONE_MOVABLE.

    Left out: the sysctl vm.movable_gigantic_pages.
    """
    return KERNEL_ZONES if h.gigantic else MOVABLE_ZONES


def _new_folios(k: Kernel, h: HState, extents: Extents) -> list[Folio]:
    """init_new_hugetlb_folio for every folio of `extents`, in order; one write of struct pages for each extent."""
    order, step = h.order, h.pages
    out: list[Folio] = []
    for pfn, n in extents:
        zone = k.pages.zone_of.get(pfn)
        if zone is None:
            raise KernelBug(f"huge page at {pfn:#x} is in no zone")
        k.memmap.write(pfn, n, hugetlb_compound(order, zone.nid, zone.idx))
        out += [Folio(p, order, zone, True) for p in range(pfn, pfn + n, step)]
    return out


def only_alloc_fresh_hugetlb_folio(k: Kernel, h: HState, nid: int, thisnode: bool) -> Folio | None:
    """only_alloc_fresh_hugetlb_folio, alloc_gigantic_frozen_folio (mm/hugetlb.c, 7.3): point `HP`; a gigantic page from
    a CMA area if it has one, else (unless hugetlb_cma_only) from anywhere. Left out: how hard the allocator tries.
    """
    if k.faults.fails("HP"):
        return None
    if h.gigantic and hugetlb_cma_total_size(k):
        pfn = hugetlb_cma_alloc_frozen_folio(k, h.order, nid, thisnode)
        if pfn is not None:
            [folio] = _new_folios(k, h, [(pfn, h.pages)])
            folio.cma = True
            return folio
        if k.hugetlb_cma.only:
            return None
    got = k.pages.alloc_blocks(h.order, 1, nid, OWNER_HUGETLB, thisnode, htlb_zones(h))
    return _new_folios(k, h, got)[0] if got else None


def alloc_fresh_hugetlb_folio(k: Kernel, h: HState, nid: int, thisnode: bool) -> Folio | None:
    """alloc_fresh_hugetlb_folio (mm/hugetlb.c, 7.3): a frozen folio, optimized on its own; the caller accounts it."""
    folio = only_alloc_fresh_hugetlb_folio(k, h, nid, thisnode)
    if folio is not None:
        k.paths.hugetlb_vmemmap_optimize_folio(h, folio)
    return folio


def next_node(start: int, nodes: range) -> int:
    """get_valid_node_allowed (mm/hugetlb_internal.h): `start` if allowed, else the next allowed node, wrapping."""
    return start if nodes.start <= start < nodes.stop else nodes.start


def alloc_pool_huge_folio(k: Kernel, h: HState, nodes: range) -> Folio | None:
    """alloc_pool_huge_folio (mm/hugetlb.c, 7.3): every node of `nodes` once, from the next in turn; point `HP` each."""
    for _ in nodes:
        nid = next_node(h.next_nid_to_alloc, nodes)
        h.next_nid_to_alloc = next_node(nid + 1, nodes)
        folio = only_alloc_fresh_hugetlb_folio(k, h, nid, thisnode=True)
        if folio is not None:
            return folio
    return None


def alloc_pool_huge_folios(k: Kernel, h: HState, nodes: range, n: int) -> list[Folio]:
    """alloc_pool_huge_folio up to `n` times, until it fails; folios in allocation order.

    The part in which every node serves its turns is done at once; from the first failure on it goes one by one, and so
    do gigantic pages where there are CMA areas.
    """
    in_turns = 0 if h.gigantic and hugetlb_cma_total_size(k) else min(n, k.faults.room(n))
    out = _alloc_in_turns(k, h, nodes, in_turns)
    while len(out) < n:
        folio = alloc_pool_huge_folio(k, h, nodes)
        if folio is None:
            break
        out.append(folio)
    return out


def _alloc_in_turns(k: Kernel, h: HState, nodes: range, n: int) -> list[Folio]:
    """The first of `n` turns over `nodes` that all succeed, in turn order."""
    m = len(nodes)
    first = next_node(h.next_nid_to_alloc, nodes) - nodes.start
    zones = htlb_zones(h)
    done = n
    rows: list[Extents] = []
    for i in range(min(n, m)):
        want = (n - i + m - 1) // m
        nid = nodes.start + (first + i) % m
        got = k.pages.alloc_blocks(h.order, want, nid, OWNER_HUGETLB, True, zones)
        rows.append(got)
        have = sum([count for _, count in got]) >> h.order
        if have < want:
            done = min(done, i + have * m)
    if not done:
        for got in rows:
            k.pages.free_extents(got)
        return []
    if done < n:
        for i, got in enumerate(rows):
            rows[i], rest = _cut(got, (max(done - i, 0) + m - 1) // m << h.order)
            k.pages.free_extents(rest)
    k.faults.grant("HP", done)
    h.next_nid_to_alloc = nodes.start + (first + done) % m
    folios = [_new_folios(k, h, got) for got in rows]
    if len(folios) == 1:
        return folios[0]
    return [folios[i % m][i // m] for i in range(done)]


def _cut(extents: Extents, n: int) -> tuple[Extents, Extents]:
    """The first `n` frames of `extents`, and the rest."""
    kept: Extents = []
    for i, (pfn, count) in enumerate(extents):
        if count > n:
            if n:
                kept.append((pfn, n))
            return kept, [(pfn + n, count - n), *extents[i + 1 :]]
        kept.append((pfn, count))
        n -= count
    return kept, []
