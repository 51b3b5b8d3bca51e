"""HugeTLB vmemmap optimization at run time (mm/hugetlb_vmemmap.c, Linux 7.3; separate-paths.md 3.7-3.10, 3.16).

An optimized folio's memmap is one `Strided` period: its first vmemmap page maps a private frame RW, all others map
the tail frame of (zone, order) RO. Allocation points: TAIL, HEAD, SPLIT, RES. TLB flushes are left out.

`Freed` is the kernel's list of vmemmap pages to free, oldest first: frames pushed later stand at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mm.errno import ENOMEM, ENOTSUPP
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.page import Tail
from mm.page_alloc import OWNER_MEMMAP, OWNER_MEMMAP_BOOT, OWNER_PGTABLE, OWNER_SELFHOSTED, OWNER_TAIL, Extents
from mm.pgtable import Leaf, Pte, Strided, frame_at, private_frames
from reference.populate import alloc_row

if TYPE_CHECKING:
    from reference.paths import SeparatePaths

HUGETLB_VMEMMAP_RESERVE = 1
"""Vmemmap pages that a HugeTLB folio keeps (HUGETLB_VMEMMAP_RESERVE_SIZE)."""

Freed = Extents


def hugetlb_vmemmap_optimizable(k: Kernel, h: HState) -> bool:
    """hugetlb_vmemmap_optimizable (mm/hugetlb_vmemmap.h): the memmap is larger than what is kept."""
    return k.arch.hvo and k.arch.vmemmap_pages(h.order) > HUGETLB_VMEMMAP_RESERVE


def vmemmap_should_optimize_folio(p: SeparatePaths, h: HState, folio: Folio) -> bool:
    """vmemmap_should_optimize_folio."""
    return not folio.vmemmap_optimized and p.vmemmap_optimize_enabled and hugetlb_vmemmap_optimizable(p.k, h)


def vmemmap_get_tail(p: SeparatePaths, order: int, folio: Folio) -> int | None:
    """vmemmap_get_tail (mm/hugetlb_vmemmap.c, the run-time one): the tail frame of the folio's zone, made on first
    use.
    """
    k = p.k
    zone = folio.zone
    if k.faults.fails("TAIL"):
        return None
    tail = k.pages.alloc_page(zone.nid, OWNER_TAIL)
    if tail is not None:
        k.memmap.frames[tail] = Tail(order, zone.nid, zone.idx)
        p.tails[zone.key, order] = tail
    return tail


# -- splitting ------------------------------------------------------------------------------------------------------


def vmemmap_self_hosted(k: Kernel, vpn: int) -> bool:
    """The check in vmemmap_pmd_entry: the frame behind `vpn` lies in the memory block that it describes (P3)."""
    m = k.tables.get(vpn)
    return m is not None and k.pages.owners.get(frame_at(m, vpn)) == OWNER_SELFHOSTED


def vmemmap_split_pmd(k: Kernel, pmd: int) -> bool:
    """vmemmap_split_pmd: a PTE table in place of leaf `pmd`; False: no memory.

    The table comes from the node of the running CPU (pte_alloc_one_kernel takes no node), which is node 0 here.
    """
    if k.faults.fails("SPLIT"):
        return False
    frame = k.pages.alloc_page(0, OWNER_PGTABLE)
    if frame is None:
        return False
    k.vmstat.nr_page_table_pages += 1
    k.tables.counted.add(pmd)
    k.tables.split_leaf(pmd, frame)
    return True


def vmemmap_remap_split(k: Kernel, lo: int, hi: int) -> int:
    """vmemmap_remap_split: split every leaf of [lo, hi), checking each PMD for self-hosted memory. 0, -ENOMEM or
    -ENOTSUPP.
    """
    ptrs = k.arch.ptrs_per_pte
    hosted = bool(k.memory_blocks.altmaps)
    while lo < hi:
        if hosted and vmemmap_self_hosted(k, lo):
            return -ENOTSUPP
        if isinstance(k.tables.get(lo), Leaf) and not vmemmap_split_pmd(k, lo // ptrs):
            return -ENOMEM
        lo = (lo // ptrs + 1) * ptrs
    return 0


# -- optimizing -----------------------------------------------------------------------------------------------------


def free_vmemmap_page_list(k: Kernel, freed: Freed) -> None:
    """free_vmemmap_page_list: each frame by its class, boot or buddy."""
    pages, vmstat = k.pages, k.vmstat
    for frame, n in freed:
        for lo, hi, owner in pages.owners.runs(frame, frame + n):
            if owner == OWNER_MEMMAP_BOOT:
                vmstat.nr_memmap_boot -= hi - lo
            else:
                vmstat.nr_memmap -= hi - lo
            pages.free(lo, hi - lo)


def _walk(k: Kernel, lo: int, hi: int) -> tuple[int, int]:
    """The PMD side of the walk in vmemmap_remap_free: how far PTEs can be remapped, and 0, -ENOMEM or -ENOTSUPP.

    The self-hosted check only sees the first PMD: after it, something has been remapped.
    """
    ptrs = k.arch.ptrs_per_pte
    if k.memory_blocks.altmaps and vmemmap_self_hosted(k, lo):
        return lo, -ENOTSUPP
    at = lo
    while at < hi:
        if isinstance(k.tables.get(at), Leaf) and not vmemmap_split_pmd(k, at // ptrs):
            return at, -ENOMEM
        at = (at // ptrs + 1) * ptrs
    return hi, 0


def vmemmap_remap_free(k: Kernel, folio: Folio, lo: int, hi: int, head: int, tail: int, freed: Freed) -> int:
    """vmemmap_remap_free: map [lo, hi) to the head copy and the tail frame, or put it back as vmemmap_restore_pte
    does.

    The head copy is on nobody's list while this runs; when nothing was remapped it goes on `freed`. 0, -ENOMEM or
    -ENOTSUPP.
    """
    end, rc = _walk(k, lo, hi)
    if end == lo:
        freed.append((head, 1))
        return rc
    old: Extents = []
    for s, e, m in k.tables.runs(lo, end):
        old += private_frames(m, s, e)
    if rc:
        _rollback(k, folio, lo, end, head, old)
        freed.append((old[0][0], 1))
        return rc
    k.tables.set(lo, hi, _row(lo, hi, head, tail))
    # The row keeps its kept page's content for the whole period.
    own, pfn = k.memmap.own, folio.pfn
    run = own.run(pfn)
    if run is None:
        own.clear(pfn, folio.end_pfn)
    elif run[1] < folio.end_pfn:
        own.set(pfn, folio.end_pfn, run[2])
    k.memmap.touched.append((pfn, folio.end_pfn))
    freed += old
    return 0


def _row(lo: int, hi: int, head: int, tail: int) -> Strided:
    """One optimized folio as a row of period hi - lo; equal to mm.pgtable.strided, but this is the hot path."""
    period = hi - lo
    periods, phase = divmod(lo, period)
    return Strided(period, 1, phase, head - periods, True, tail, False)


def _rollback(k: Kernel, folio: Folio, lo: int, end: int, head: int, old: Extents) -> None:
    """The second walk of vmemmap_remap_free: page 0 keeps the head copy; the others take the old frames, latest
    pushed first, filled with what they showed, the tail page. The old frame of page 0 is left over.
    """
    spp, zone = k.arch.spp, folio.zone
    tables = k.tables
    tables.set(lo, lo + 1, Pte(head - lo, True))
    vpn = lo + 1
    for frame, n in reversed(old):
        for f in range(frame + n - 1, frame - 1, -1):
            if vpn < end:
                tables.set(vpn, vpn + 1, Pte(f - vpn, True))
            vpn += 1
    k.memmap.own.set((lo + 1) * spp, end * spp, Tail(folio.order, zone.nid, zone.idx))
    k.memmap.touched.append((lo * spp, end * spp))


def __hugetlb_vmemmap_optimize_folio(p: SeparatePaths, h: HState, folio: Folio, freed: Freed) -> int:
    """__hugetlb_vmemmap_optimize_folio: 0 (also when there is nothing to do), -ENOMEM or -ENOTSUPP; frames to free
    on `freed`.
    """
    if not vmemmap_should_optimize_folio(p, h, folio):
        return 0
    k = p.k
    tail = p.tails.get((folio.zone.key, h.order)) or vmemmap_get_tail(p, h.order, folio)
    if tail is None:
        return -ENOMEM
    if k.faults.fails("HEAD"):
        return -ENOMEM
    head = k.pages.alloc_page(folio.nid, OWNER_MEMMAP)
    if head is None:
        return -ENOMEM
    k.vmstat.nr_memmap += 1
    lo = folio.pfn // k.arch.spp
    rc = vmemmap_remap_free(k, folio, lo, lo + k.arch.vmemmap_pages(h.order), head, tail, freed)
    if not rc:
        folio.vmemmap_optimized = True
    return rc


optimize_folio = __hugetlb_vmemmap_optimize_folio


def hugetlb_vmemmap_optimize_folio(p: SeparatePaths, h: HState, folio: Folio) -> None:
    """hugetlb_vmemmap_optimize_folio."""
    freed: Freed = []
    optimize_folio(p, h, folio, freed)
    free_vmemmap_page_list(p.k, freed)


def hugetlb_vmemmap_optimize_folios(p: SeparatePaths, h: HState, folios: list[Folio], boot: bool) -> None:
    """__hugetlb_vmemmap_optimize_folios: split all leaves, then optimize each folio, with one retry after freeing
    what is held.
    """
    k = p.k
    spp, pages = k.arch.spp, k.arch.vmemmap_pages(h.order)
    todo = False
    for folio in folios:
        if boot and folio.vmemmap_optimized:
            vmemmap_wrprotect_hvo(k, folio.pfn // spp, pages)
            continue
        todo = True
        if vmemmap_should_optimize_folio(p, h, folio):
            lo = folio.pfn // spp
            if vmemmap_remap_split(k, lo, lo + pages) == -ENOMEM:
                break
    if not todo:
        return
    freed: Freed = []
    for folio in folios:
        if optimize_folio(p, h, folio, freed) == -ENOMEM and freed:
            free_vmemmap_page_list(k, freed)
            freed.clear()
            optimize_folio(p, h, folio, freed)
    free_vmemmap_page_list(k, freed)


def vmemmap_wrprotect_hvo(k: Kernel, lo: int, pages: int) -> None:
    """vmemmap_wrprotect_hvo (mm/sparse-vmemmap.c): the shared PTEs of a pre-HVO folio become RO."""
    m = k.tables.get(lo)
    if not isinstance(m, Strided):
        raise AssertionError(f"vmemmap page {lo:#x} of a pre-HVO folio is mapped by {m}")
    k.tables.set(lo, lo + pages, m._replace(tail_rw=False))


# -- restoring ------------------------------------------------------------------------------------------------------


def hugetlb_vmemmap_restore_folio(k: Kernel, h: HState, folio: Folio) -> int:
    """__hugetlb_vmemmap_restore_folio: a frame with a copy of the tail page for each shared vmemmap page; 0 or
    -ENOMEM.
    """
    if not folio.vmemmap_optimized:
        return 0
    n = k.arch.vmemmap_pages(h.order) - HUGETLB_VMEMMAP_RESERVE
    got = alloc_row(k, "RES", n, folio.nid, OWNER_MEMMAP)
    if got is None:
        return -ENOMEM
    _restore(k, folio, n, got)
    return 0


def _restore(k: Kernel, folio: Folio, n: int, got: Extents) -> None:
    """vmemmap_remap_alloc once it has its frames.

    The kernel's list is LIFO; here the frames go out in allocation order, which nobody can tell apart (all are
    fresh and become copies of one page) and which keeps runs whole.
    """
    spp, tables = k.arch.spp, k.tables
    k.vmstat.nr_memmap += n
    lo = folio.pfn // spp
    m = tables.get(lo)
    if not isinstance(m, Strided) or m.tail is None:
        raise AssertionError(f"vmemmap page {lo:#x} of an optimized folio is mapped by {m}")
    tables.set(lo, lo + 1, Pte(m.kept_frame(lo) - lo, True))
    tables.map_extents(lo + 1, got)
    content = k.memmap.frames[m.tail]
    k.memmap.own.set(folio.pfn + spp, folio.end_pfn, content)
    k.memmap.touched.append((folio.pfn, folio.end_pfn))
    folio.vmemmap_optimized = False


def hugetlb_vmemmap_restore_folios(k: Kernel, h: HState, folios: list[Folio], non_hvo: list[Folio]) -> int:
    """hugetlb_vmemmap_restore_folios: stops at the first error; how many were restored, or the error."""
    restored = 0
    rc = 0
    done = 0
    for folio in folios:
        if folio.vmemmap_optimized:
            rc = hugetlb_vmemmap_restore_folio(k, h, folio)
            if rc:
                break
            restored += 1
        done += 1
    non_hvo += folios[:done]
    del folios[:done]
    return rc or restored
