"""Files of /sys/kernel/mm/hugepages, and their per-node copies, that change a pool (mm/hugetlb_sysfs.c, Linux 7.3)."""

from __future__ import annotations

from mm.errno import EBUSY, ENOENT
from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb import add_hugetlb_folio, prep_and_add_allocated_folios, remove_hugetlb_folio
from mm.hugetlb_alloc import hugetlb_compound, next_node
from mm.hugetlb_resize import set_max_huge_pages
from mm.kernel import Kernel


def nr_hugepages_store(k: Kernel, order: int, count: int, nid: int | None) -> int:
    """nr_hugepages_store, __nr_hugepages_store_common (mm/hugetlb_sysfs.c, mm/hugetlb.c, 7.3): 0 or -ENOMEM.

    A size that the machine does not have has no files: -ENOENT, here and below.
    """
    h = k.hstates.get(order)
    return -ENOENT if h is None else set_max_huge_pages(k, h, count, nid)


def nr_overcommit_hugepages_store(k: Kernel, order: int, count: int) -> int:
    """nr_overcommit_hugepages_store (mm/hugetlb_sysfs.c, 7.3): 0."""
    h = k.hstates.get(order)
    if h is None:
        return -ENOENT
    h.nr_overcommit = count
    h.touched = True
    return 0


def demote_store(k: Kernel, order: int, count: int, nid: int | None) -> int:
    """demote_store (mm/hugetlb_sysfs.c, 7.3): 0, also for fewer pages than asked for, or an error.

    -ENOENT for a size that cannot be demoted: the file does not exist. Left out: demote_size.
    """
    h = k.hstates.get(order)
    if h is None or not h.demote_order:
        return -ENOENT
    nodes = range(len(h.nr)) if nid is None else range(nid, nid + 1)
    while count:
        free = h.free_count() if nid is None else len(h.free[nid])
        if free == h.resv:
            break
        rc = demote_pool_huge_page(k, h, nodes, count)
        if rc < 0:
            return rc
        count -= rc
    return 0


def demote_pool_huge_page(k: Kernel, src: HState, nodes: range, nr_to_demote: int) -> int:
    """demote_pool_huge_page (mm/hugetlb.c, 7.3): how many, or a restore's error, or -EBUSY (all poisoned)."""
    dst = k.hstates[src.demote_order]
    rc = nr_demoted = 0
    for _ in nodes:
        nid = next_node(src.next_nid_to_free, nodes)
        src.next_nid_to_free = next_node(nid + 1, nodes)
        folios: list[Folio] = []
        for folio in reversed(src.free[nid].values()):
            if nr_demoted + len(folios) == nr_to_demote:
                break
            if not folio.hwpoison:
                folios.append(folio)
        for folio in folios:
            remove_hugetlb_folio(src, folio, False)
        nr_demoted += len(folios)
        folios.reverse()  # each was put at the list head
        rc = demote_free_hugetlb_folios(k, src, dst, folios)
        for folio in folios:
            add_hugetlb_folio(src, folio, False)
        nr_demoted -= len(folios)
        if rc < 0 or nr_demoted == nr_to_demote:
            break
    src.max_huge_pages -= nr_demoted
    dst.max_huge_pages += nr_demoted << (src.order - dst.order)
    src.touched = dst.touched = True
    if rc < 0:
        return rc
    return nr_demoted or -EBUSY


def demote_free_hugetlb_folios(k: Kernel, src: HState, dst: HState, folios: list[Folio]) -> int:
    """demote_free_hugetlb_folios (mm/hugetlb.c, 7.3): cut restored folios in pieces; others stay in `folios`.

    Returns what the restore returned. All pieces are optimized as one batch, the last piece of the last folio first.
    """
    if not folios:
        return 0
    restored: list[Folio] = []
    rc = k.paths.hugetlb_vmemmap_restore_folios(src, folios, restored)
    # The kernel's list of restored folios is last in, first out. Behind one that failed may be some never optimized.
    restored.reverse()
    restored += [folio for folio in folios if not folio.vmemmap_optimized]
    folios[:] = [folio for folio in folios if folio.vmemmap_optimized]
    pieces: list[Folio] = []
    for folio in restored:
        zone = folio.zone
        k.memmap.write(folio.pfn, src.pages, hugetlb_compound(dst.order, zone.nid, zone.idx))
        new = [Folio(pfn, dst.order, zone, True) for pfn in range(folio.pfn, folio.end_pfn, dst.pages)]
        if folio.cma:
            for piece in new:
                piece.cma = True
        pieces += new
    pieces.reverse()
    prep_and_add_allocated_folios(k, dst, pieces)
    return rc
