"""HugeTLB vmemmap optimization at run time (mm/hugetlb_vmemmap.c, Linux 7.3; separate-paths.md 3.7-3.10, 3.16).

An optimized folio's memmap is one `Strided` period: its first vmemmap page maps a private frame RW, all others map
the tail frame of (zone, order) RO. Allocation points: TAIL, HEAD, SPLIT, RES.

`Freed` is the kernel's list of vmemmap pages to free, oldest first: frames pushed later stand at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mm.errno import ENOMEM, ENOTSUPP
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.page import Tail
from mm.page_alloc import (
    OWNER_MEMMAP,
    OWNER_MEMMAP_BOOT,
    OWNER_PGTABLE,
    OWNER_SELFHOSTED,
    OWNER_TAIL,
    Extents,
    joined,
)
from mm.pgtable import Leaf, Pte, Strided, frame_at
from reference.hugetlb_rows import (
    HUGETLB_VMEMMAP_RESERVE,
    folio_rows,
    keep_head_content,
    optimize_rows,
    restore_rows,
    split_rows,
)
from reference.populate import alloc_row

if TYPE_CHECKING:
    from reference.paths import SeparatePaths

Freed = Extents

NOT_HUGETLB = "VM_WARN_ON_ONCE_FOLIO(!folio_test_hugetlb(folio))"
"""A folio is to be optimized, or was, while its head is not marked: poison would go to a page that tails share."""


def hugetlb_vmemmap_optimizable(k: Kernel, h: HState) -> bool:
    """hugetlb_vmemmap_optimizable (mm/hugetlb_vmemmap.h): the memmap is larger than what is kept, and no struct page
    crosses the border of two vmemmap pages."""
    if k.arch.struct_page.bit_count() > 1:
        return False
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


def vmemmap_split_pmd(k: Kernel, pmd: int, flush: bool) -> bool:
    """vmemmap_split_pmd: a PTE table in place of leaf `pmd`; False: no memory.

    The table comes from the node of the running CPU (pte_alloc_one_kernel takes no node), which is node 0 here. `flush`
    the range of the leaf: always but with VMEMMAP_SPLIT_NO_TLB_FLUSH, which only vmemmap_remap_split sets.
    """
    if k.faults.fails("SPLIT"):
        return False
    frame = k.pages.alloc_page(0, OWNER_PGTABLE)
    if frame is None:
        return False
    k.vmstat.nr_page_table_pages += 1
    k.tables.split_leaf(pmd, frame)
    if flush:
        ptrs = k.arch.ptrs_per_pte
        k.tlb.flush_tlb_kernel_range(pmd * ptrs, (pmd + 1) * ptrs)
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
        if isinstance(k.tables.get(lo), Leaf) and not vmemmap_split_pmd(k, lo // ptrs, False):
            return -ENOMEM
        lo = (lo // ptrs + 1) * ptrs
    return 0


# -- optimizing -----------------------------------------------------------------------------------------------------


def free_vmemmap_page_list(k: Kernel, freed: Freed) -> None:
    """free_vmemmap_page_list: each frame by its class, boot or buddy; neighbours at once."""
    free_row, vmstat = k.pages.free_row, k.vmstat
    for frame, n in joined(freed):
        end = frame + n
        while frame < end:
            stop, owner = free_row(frame, end)
            if owner == OWNER_MEMMAP_BOOT:
                vmstat.nr_memmap_boot -= stop - frame
            else:
                vmstat.nr_memmap -= stop - frame
            frame = stop


def _walk(k: Kernel, lo: int, hi: int) -> tuple[int, int]:
    """The PMD side of the walk in vmemmap_remap_free: how far PTEs can be remapped, and 0, -ENOMEM or -ENOTSUPP.

    The self-hosted check only sees the first PMD: after it, something has been remapped.
    """
    ptrs = k.arch.ptrs_per_pte
    if k.memory_blocks.altmaps and vmemmap_self_hosted(k, lo):
        return lo, -ENOTSUPP
    at = lo
    while at < hi:
        if isinstance(k.tables.get(at), Leaf) and not vmemmap_split_pmd(k, at // ptrs, True):
            return at, -ENOMEM
        at = (at // ptrs + 1) * ptrs
    return hi, 0


def _private(k: Kernel, lo: int, hi: int) -> Extents:
    """The frames behind PTEs [lo, hi) of a folio that is not optimized; none if some are PMD leaves."""
    out: Extents = []
    for s, e, m in k.tables.entries.runs(lo, hi):
        if isinstance(m, Leaf):
            return []
        if not isinstance(m, Pte):
            raise AssertionError(f"vmemmap page {s:#x} of a folio that is not optimized is mapped by {m}")
        out.append((s + m.delta, e - s))
    return out


def vmemmap_remap_free(
    k: Kernel, folio: Folio, lo: int, hi: int, head: int, tail: int, freed: Freed, flush: bool
) -> int:
    """vmemmap_remap_free: map [lo, hi) to the head copy and the tail frame, or put it back as vmemmap_restore_pte
    does.

    The head copy is on nobody's list while this runs; when nothing was remapped it goes on `freed`. 0, -ENOMEM or
    -ENOTSUPP. `flush` [lo, hi) when all of it was remapped: unless VMEMMAP_REMAP_NO_TLB_FLUSH. A walk that fails
    flushes nothing; putting back flushes what it walked, whatever the flags.
    """
    tables = k.tables
    old = _private(k, lo, hi)
    if not old or k.memory_blocks.altmaps:
        end, rc = _walk(k, lo, hi)
        if end == lo:
            freed.append((head, 1))
            return rc
        old = _private(k, lo, end)
        if rc:
            freed += rollback(k, folio, lo, end, head, old)
            tables.undone.append((lo, end))
            k.tlb.flush_tlb_kernel_range(lo, end)
            return rc
    freed += old
    period = hi - lo
    periods, phase = divmod(lo, period)
    base = head - periods * HUGETLB_VMEMMAP_RESERVE
    tables.set(lo, hi, Strided(period, HUGETLB_VMEMMAP_RESERVE, phase, base, True, tail, False))
    pfn, end_pfn = folio.pfn, folio.pfn + (1 << folio.order)
    keep_head_content(k, pfn, end_pfn)
    k.memmap.touched.append((pfn, end_pfn))
    if flush:
        k.tlb.flush_tlb_kernel_range(lo, hi)
    return 0


def rollback(k: Kernel, folio: Folio, lo: int, end: int, head: int, old: Extents) -> Freed:
    """The second walk of vmemmap_remap_free: page 0 keeps the head copy; the others take the old frames, latest
    pushed first, filled with what they showed, the tail page. Returns what is left over: one frame.
    """
    arch, zone = k.arch, folio.zone
    tables = k.tables
    tables.set(lo, lo + 1, Pte(head - lo, True))
    vpn = lo + 1
    for frame, n in reversed(old):
        for f in range(frame + n - 1, frame - 1, -1):
            if vpn < end:
                tables.set(vpn, vpn + 1, Pte(f - vpn, True))
            vpn += 1
    k.memmap.own.set(arch.pfn(lo + 1), arch.pfn(end), Tail(folio.order, zone.nid, zone.idx))
    k.memmap.touched.append((arch.pfn(lo), arch.pfn(end)))
    return [(old[0][0], 1)]


def __hugetlb_vmemmap_optimize_folio(p: SeparatePaths, h: HState, folio: Folio, freed: Freed, flush: bool) -> int:
    """__hugetlb_vmemmap_optimize_folio: 0 (also when there is nothing to do), -ENOMEM or -ENOTSUPP; frames to free
    on `freed`. `flush`: as vmemmap_remap_free takes it. Left out: the warning about a folio that has references.
    """
    if not folio.hugetlb:
        p.k.warn_once(NOT_HUGETLB)
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
    lo = k.arch.vpn(folio.pfn)
    rc = vmemmap_remap_free(k, folio, lo, lo + k.arch.vmemmap_pages(h.order), head, tail, freed, flush)
    if not rc:
        folio.vmemmap_optimized = True
    return rc


def hugetlb_vmemmap_optimize_folio(p: SeparatePaths, h: HState, folio: Folio) -> None:
    """hugetlb_vmemmap_optimize_folio."""
    freed: Freed = []
    __hugetlb_vmemmap_optimize_folio(p, h, folio, freed, True)
    free_vmemmap_page_list(p.k, freed)


def hugetlb_vmemmap_optimize_folios(p: SeparatePaths, h: HState, folios: list[Folio], boot: bool) -> None:
    """__hugetlb_vmemmap_optimize_folios: split all leaves, then optimize each folio, with one retry after freeing what
    is held.

    Where nothing can fail, neighbouring folios are done in one go. The TLB is flushed as a whole after the splits and
    before frames are freed; not after the splits if pre-HVO did all folios. Folios that may not be optimized count
    there (nr_to_optimize).
    """
    k = p.k
    todo: list[Folio] = []
    if p.vmemmap_optimize_enabled and hugetlb_vmemmap_optimizable(k, h):
        todo = [folio for folio in folios if not folio.vmemmap_optimized]
    rows = folio_rows(k, todo)
    pages = k.arch.vmemmap_pages(h.order)
    if boot:
        # Where there is pre-HVO it did all folios of a node, or none.
        for folio in folios:
            if folio.vmemmap_optimized:
                vmemmap_wrprotect_hvo(k, k.arch.vpn(folio.pfn), pages)
    old = split_rows(k, rows)
    if old is None and _first_pass(k, todo, pages):
        old = split_rows(k, rows)
    if not folios:
        return
    if not boot or not all(folio.vmemmap_optimized for folio in folios):
        k.tlb.flush_tlb_all()
        _warn_of_unmarked(k, folios)
    if not todo:
        k.tlb.flush_tlb_all()
        return
    if old is not None and optimize_rows(p, h, todo, rows):
        k.tlb.flush_tlb_all()
        free_vmemmap_page_list(k, old)
        return
    freed: Freed = []
    for folio in todo:
        if __hugetlb_vmemmap_optimize_folio(p, h, folio, freed, False) == -ENOMEM and freed:
            k.tlb.flush_tlb_all()
            free_vmemmap_page_list(k, freed)
            freed.clear()
            __hugetlb_vmemmap_optimize_folio(p, h, folio, freed, False)
    k.tlb.flush_tlb_all()
    free_vmemmap_page_list(k, freed)


def _warn_of_unmarked(k: Kernel, folios: list[Folio]) -> None:
    """The warning of pass 2, for all folios at once."""
    if False in [folio.hugetlb for folio in folios]:
        k.warn_once(NOT_HUGETLB)


def _first_pass(k: Kernel, folios: list[Folio], pages: int) -> bool:
    """Pass 1, in list order: hugetlb_vmemmap_split_folio. The first lack of memory ends it. False: leaves are left."""
    for folio in folios:
        lo = k.arch.vpn(folio.pfn)
        if vmemmap_remap_split(k, lo, lo + pages) == -ENOMEM:
            return False
    return True


def vmemmap_wrprotect_hvo(k: Kernel, lo: int, pages: int) -> None:
    """vmemmap_wrprotect_hvo (mm/sparse-vmemmap.c): the shared PTEs of a pre-HVO folio become RO."""
    m = k.tables.get(lo)
    if not isinstance(m, Strided):
        raise AssertionError(f"vmemmap page {lo:#x} of a pre-HVO folio is mapped by {m}")
    k.tables.set(lo, lo + pages, m._replace(tail_rw=False))


# -- restoring ------------------------------------------------------------------------------------------------------


def hugetlb_vmemmap_restore_folio(k: Kernel, h: HState, folio: Folio) -> int:
    """hugetlb_vmemmap_restore_folio: one folio; vmemmap_remap_range flushes what was mapped anew."""
    optimized = folio.vmemmap_optimized
    rc = __hugetlb_vmemmap_restore_folio(k, h, folio)
    if optimized and not rc:
        vpn = k.arch.vpn
        k.tlb.flush_tlb_kernel_range(vpn(folio.pfn) + HUGETLB_VMEMMAP_RESERVE, vpn(folio.end_pfn))
    return rc


def __hugetlb_vmemmap_restore_folio(k: Kernel, h: HState, folio: Folio) -> int:
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
    tables = k.tables
    k.vmstat.nr_memmap += n
    lo = k.arch.vpn(folio.pfn)
    m = tables.get(lo)
    if not isinstance(m, Strided) or m.tail is None:
        raise AssertionError(f"vmemmap page {lo:#x} of an optimized folio is mapped by {m}")
    tables.set(lo, lo + 1, Pte(m.kept_frame(lo) - lo, True))
    # alloc_vmemmap_page_list puts each frame at the head of its list, restoring takes them from there. Within an
    # extent they
    # stay ascending, so that a row stays one run: private frames of one zone cannot be told apart.
    tables.map_extents(lo + 1, got[::-1])
    content = k.memmap.frames[m.tail]
    k.memmap.own.set(k.arch.pfn(lo + 1), folio.end_pfn, content)
    k.memmap.touched.append((folio.pfn, folio.end_pfn))
    folio.vmemmap_optimized = False


def hugetlb_vmemmap_restore_folios(k: Kernel, h: HState, folios: list[Folio], non_hvo: list[Folio]) -> int:
    """hugetlb_vmemmap_restore_folios: stops at the first error; how many were restored, or the error.

    Where no point can fail by injection and memory suffices, all frames are taken at once.
    """
    todo = [folio for folio in folios if folio.vmemmap_optimized]
    if len(todo) > 1 and restore_rows(k, h, todo):
        k.tlb.flush_tlb_all()
        non_hvo += folios
        folios.clear()
        return len(todo)
    restored = 0
    rc = 0
    done = 0
    for folio in folios:
        if folio.vmemmap_optimized:
            rc = __hugetlb_vmemmap_restore_folio(k, h, folio)
            if rc:
                break
            restored += 1
        done += 1
    if restored:
        k.tlb.flush_tlb_all()
    non_hvo += folios[:done]
    del folios[:done]
    return rc or restored
