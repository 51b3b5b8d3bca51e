"""HugeTLB vmemmap optimization of folios (mm/hugetlb_vmemmap.c, -mm of November 2026).

An optimized folio maps its first vmemmap page to a private copy and all others to the shared tail page of (zone,
order), read-only. Boot gigantic pages get there by the order of their sections (`hugetlb_boot`); all other folios by
remapping (`vmemmap_remap`). Lists are done in bulk where nothing can go wrong on the way (`hugetlb_vmemmap_bulk`).
"""

from __future__ import annotations

from candidate.hugetlb_vmemmap_bulk import optimize_easily, restore_easily
from candidate.vmemmap_optimization import (
    VMEMMAP_OPTIMIZATION_PAGES,
    Framework,
    vmemmap_optimizable_order,
    vmemmap_shared_tail_page,
)
from candidate.vmemmap_remap import (
    Pages,
    free_vmemmap_page_list,
    mapped_pages,
    vmemmap_remap_alloc,
    vmemmap_remap_free,
    vmemmap_remap_split,
)
from mm.errno import ENOMEM
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.page_alloc import OWNER_MEMMAP, OWNER_SELFHOSTED
from mm.pgtable import Shared

NO_TYPE = "VM_WARN_ON_ONCE_FOLIO(!folio_test_hugetlb(folio))"
"""The series says nothing of this warning, and so keeps what stands at the top of __hugetlb_vmemmap_optimize_folio in
7.3."""


def hugetlb_vmemmap_optimizable(f: Framework, h: HState) -> bool:
    """hugetlb_vmemmap_optimizable (mm/hugetlb_vmemmap.h, -mm)."""
    return f.k.arch.hvo and vmemmap_optimizable_order(f, h.order)


def vmemmap_should_optimize_folio(f: Framework, h: HState, folio: Folio) -> bool:
    """vmemmap_should_optimize_folio (mm/hugetlb_vmemmap.c, -mm)."""
    return not folio.vmemmap_optimized and f.vmemmap_optimize_enabled and hugetlb_vmemmap_optimizable(f, h)


# -- optimize ---------------------------------------------------------------------------------------------------------


def __hugetlb_vmemmap_optimize_folio(f: Framework, h: HState, folio: Folio, pages: Pages, flush: bool) -> int:
    """__hugetlb_vmemmap_optimize_folio (mm/hugetlb_vmemmap.c, -mm): points `TAIL`, `HEAD`, and those of the walk.

    0, a negative error with nothing changed (but leaves may stay split), or VMEMMAP_REMAP_INCOMPLETE with the flag set.
    Warns of a folio without the type. Left out: that it must have no references.
    """
    if not folio.hugetlb:
        f.k.warn_once(NO_TYPE)
    if not vmemmap_should_optimize_folio(f, h, folio):
        return 0
    k = f.k
    tail = vmemmap_shared_tail_page(f, h.order, folio.zone)
    if tail is None:
        return -ENOMEM
    head = None if k.faults.fails("HEAD") else k.pages.alloc_page(folio.nid, OWNER_MEMMAP)
    if head is None:
        return -ENOMEM
    k.vmstat.nr_memmap += 1
    lo = folio.pfn // k.arch.spp
    rc = vmemmap_remap_free(f, head, tail, lo, lo + k.arch.vmemmap_pages(h.order), pages, flush)
    folio.vmemmap_optimized = rc >= 0
    return rc


def hugetlb_vmemmap_optimize_folio(f: Framework, h: HState, folio: Folio) -> None:
    """hugetlb_vmemmap_optimize_folio (mm/hugetlb_vmemmap.c, -mm)."""
    pages: Pages = []
    __hugetlb_vmemmap_optimize_folio(f, h, folio, pages, flush=True)
    free_vmemmap_page_list(f.k, pages)


def hugetlb_vmemmap_optimize_folios(f: Framework, h: HState, folios: list[Folio], boot: bool = False) -> None:
    """__hugetlb_vmemmap_optimize_folios (mm/hugetlb_vmemmap.c, -mm): write-protect what boot optimized, split all, then
    remap all.

    What is replaced is freed at the end, or when memory runs out; then the folio at hand gets a second chance.
    """
    if not folios:
        return
    k = f.k
    enabled = f.vmemmap_optimize_enabled and hugetlb_vmemmap_optimizable(f, h)
    easy = not k.faults.armed and k.faults.points is None
    spp = k.arch.spp
    v = k.arch.vmemmap_pages(h.order)
    todo: list[tuple[Folio, int, Pages]] = []
    nr_to_optimize = 0
    for folio in folios:
        if folio.vmemmap_optimized and boot:
            vmemmap_wrprotect_hvo(k, h, folio)
            continue
        nr_to_optimize += 1
        if folio.vmemmap_optimized or not enabled:
            continue
        lo = folio.pfn // spp
        leaf, old = mapped_pages(k, lo, lo + v)
        todo.append((folio, lo, old))
        if old[0][2] == OWNER_SELFHOSTED:
            easy = False
        elif leaf:
            rc = vmemmap_remap_split(f, lo, lo + v)
            if rc:
                easy = False
                if rc == -ENOMEM:
                    break
    pages: Pages = []
    if nr_to_optimize:
        k.tlb.flush_tlb_all()
        for folio in folios:
            if not folio.hugetlb:
                k.warn_once(NO_TYPE)
                break
        if not easy or optimize_easily(f, h, todo, pages) < len(todo):
            _optimize_in_turn(f, h, folios, pages)
    k.tlb.flush_tlb_all()
    free_vmemmap_page_list(k, pages)


def _optimize_in_turn(f: Framework, h: HState, folios: list[Folio], pages: Pages) -> None:
    """The second pass of __hugetlb_vmemmap_optimize_folios."""
    for folio in folios:
        if __hugetlb_vmemmap_optimize_folio(f, h, folio, pages, flush=False) == -ENOMEM and pages:
            f.k.tlb.flush_tlb_all()
            free_vmemmap_page_list(f.k, pages)
            pages.clear()
            __hugetlb_vmemmap_optimize_folio(f, h, folio, pages, flush=False)


def vmemmap_wrprotect_hvo(k: Kernel, h: HState, folio: Folio) -> None:
    """vmemmap_wrprotect_hvo (mm/sparse-vmemmap.c, -mm): slots 1 to V - 1 of a folio optimized at boot become
    read-only in place.
    """
    lo = folio.pfn // k.arch.spp
    for s, e, m in k.tables.runs(lo + 1, lo + k.arch.vmemmap_pages(h.order)):
        if isinstance(m, Shared):
            k.tables.set(s, e, Shared(m.frame, False))


# -- restore ----------------------------------------------------------------------------------------------------------


def hugetlb_vmemmap_restore_folio(f: Framework, h: HState, folio: Folio, flush: bool = True) -> int:
    """__hugetlb_vmemmap_restore_folio (mm/hugetlb_vmemmap.c, -mm): 0, or an error with the flag still set."""
    if not folio.vmemmap_optimized:
        return 0
    lo = folio.pfn // f.k.arch.spp
    end = lo + f.k.arch.vmemmap_pages(h.order)
    rc = vmemmap_remap_alloc(f, h, folio, lo + VMEMMAP_OPTIMIZATION_PAGES, end, flush)
    if not rc:
        folio.vmemmap_optimized = False
    return rc


def hugetlb_vmemmap_restore_folios(f: Framework, h: HState, folios: list[Folio], non_hvo: list[Folio]) -> int:
    """hugetlb_vmemmap_restore_folios (mm/hugetlb_vmemmap.c, -mm): stops at the first error; what is done moves over.

    One flush at the end, and none at all when no folio was restored (5.13 d).
    """
    todo = [folio for folio in folios if folio.vmemmap_optimized]
    if len(todo) > 1 and restore_easily(f, h, todo):
        f.k.tlb.flush_tlb_all()
        non_hvo += folios
        folios.clear()
        return len(todo)
    restored = rc = done = 0
    for folio in folios:
        if folio.vmemmap_optimized:
            rc = hugetlb_vmemmap_restore_folio(f, h, folio, flush=False)
            if rc:
                break
            restored += 1
        done += 1
    if restored:
        f.k.tlb.flush_tlb_all()
    non_hvo += folios[:done]
    del folios[:done]
    return rc or restored
