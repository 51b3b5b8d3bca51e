"""s390 (arch/s390/mm/vmem.c, Linux 7.3): its own page table code, leaves of 1 MiB even for parts of them.

A part that is in use is known by the contents of the memmap: what is not is filled with PAGE_UNUSED, and a leaf goes
when all of it is. `Framework.page_unused` stands for those contents. Allocations ask for no node. Left out: CPUs
without EDAT1; that tables above the PTE level take four pages.
"""

from __future__ import annotations

from candidate.arch.vmemmap import ArchVmemmap
from candidate.vmemmap_boot import boot_leaves
from candidate.vmemmap_optimization import Framework
from candidate.vmemmap_populate import (
    page_span,
    vmemmap_alloc_frames,
    vmemmap_alloc_leaf,
    vmemmap_pte_table_populate,
    vmemmap_upper_populate,
)
from candidate.vmemmap_remove import free_empty_tables, unmap
from mm.altmap import Altmap
from mm.errno import ENOMEM
from mm.pgtable import PMD_TABLE, PTE_TABLE, PUD_TABLE, Leaf

NID = 0
"""The node of the running CPU."""


def vmemmap_populate(f: Framework, pfn: int, end: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate, modify_pagetable (arch/s390/mm/vmem.c): on failure the whole range is unmapped again."""
    lo, hi = page_span(f.k, pfn, end)
    rc = _add(f, lo, hi, altmap)
    if rc:
        _remove(f, lo, hi, altmap)
    return rc


def _add(f: Framework, lo: int, hi: int, altmap: Altmap | None) -> int:
    """modify_pmd_table with `add`: a leaf, or where no block can be had base pages, from the altmap if there is one."""
    k = f.k
    tables = k.tables
    ptrs = k.arch.ptrs_per_pte
    while lo < hi:
        if not vmemmap_upper_populate(k, lo, NID):
            return -ENOMEM
        pmd = lo // ptrs
        stop = min(hi, (pmd + 1) * ptrs)
        if isinstance(tables.get(lo), Leaf):
            f.page_unused.remove(lo, stop)  # vmemmap_use_sub_pmd
            lo = stop
            continue
        if tables.tables[PTE_TABLE].get(pmd) is None:
            frame = vmemmap_alloc_leaf(k, NID, altmap)
            if frame is not None:
                first = pmd * ptrs
                tables.set(first, first + ptrs, Leaf(frame - first))
                f.page_unused.add(first, first + ptrs)  # vmemmap_use_new_sub_pmd
                f.page_unused.remove(lo, stop)
                lo = stop
                continue
            if not vmemmap_pte_table_populate(k, lo, NID):
                return -ENOMEM
            k.vmstat.nr_page_table_pages += 1
        for s, e in tables.holes(lo, stop):
            if tables.map_extents(s, vmemmap_alloc_frames(k, e - s, NID, altmap)) < e:
                return -ENOMEM
        lo = stop
    return 0


def vmemmap_populate_boot(f: Framework, pfn: int, end: int, nid: int) -> None:
    """vmemmap_populate at boot: from the highest memory that is free."""
    boot_leaves(f.k, pfn // f.k.arch.spp, end // f.k.arch.spp, len(f.k.nodes) - 1)


def vmemmap_free(f: Framework, pfn: int, end: int, altmap: Altmap | None) -> None:
    """vmemmap_free (arch/s390/mm/vmem.c)."""
    _remove(f, *page_span(f.k, pfn, end), altmap)


def _remove(f: Framework, lo: int, hi: int, altmap: Altmap | None) -> None:
    """modify_pmd_table without `add`: a leaf that the range cuts goes if the rest of it is unused."""
    k = f.k
    ptrs = k.arch.ptrs_per_pte
    f.page_unused.add(lo, hi)
    first, last = lo // ptrs * ptrs, -(-hi // ptrs) * ptrs
    if first < lo and isinstance(k.tables.get(lo), Leaf):
        lo = first if f.page_unused.covers(first, first + ptrs) else first + ptrs
    if hi < last and lo < hi and isinstance(k.tables.get(hi - 1), Leaf):
        hi = last if f.page_unused.covers(last - ptrs, last) else last - ptrs
    f.page_unused.remove(lo, max(lo, hi))
    if lo >= hi:
        return
    unmap(k, lo, hi, altmap)
    k.vmstat.nr_page_table_pages -= free_empty_tables(k, lo, hi, (PTE_TABLE,))[1]
    free_empty_tables(k, lo, hi, (PMD_TABLE, PUD_TABLE))
    k.tlb.flush_tlb_kernel_range(lo, hi)  # after the pages are free


VMEMMAP: ArchVmemmap = ArchVmemmap(
    vmemmap_free=vmemmap_free,
    vmemmap_populate=vmemmap_populate,
    vmemmap_populate_boot=vmemmap_populate_boot,
    memmap_nid=NID,
    table_nid=NID,
)
