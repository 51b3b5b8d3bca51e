"""x86-64 (arch/x86/mm/init_64.c, Linux 7.3).

Whole sections get PMD leaves unless their order says that they are optimized; anything smaller gets base pages, from
RAM. Left out: p4d tables (four levels), CPUs without PSE, memmap that a leaf covers only in part.
"""

from __future__ import annotations

from candidate.arch.vmemmap import ArchVmemmap
from candidate.vmemmap_optimization import Framework
from candidate.vmemmap_populate import page_span, vmemmap_populate_basepages, vmemmap_populate_hugepages
from candidate.vmemmap_remove import forget, free_empty_tables, free_mapped
from mm.altmap import Altmap
from mm.pgtable import PMD_TABLE, PTE_TABLE, Leaf


def vmemmap_populate(f: Framework, pfn: int, end: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate (arch/x86/mm/init_64.c); what is populated goes into the page tables of all processes."""
    k = f.k
    lo, hi = page_span(k, pfn, end)
    if end - pfn < k.arch.pages_per_section:
        error = vmemmap_populate_basepages(k, lo, hi, nid)
    else:
        error = vmemmap_populate_hugepages(f, pfn, end, nid, altmap)
    if error:
        return error
    k.tables.sync_global_pgds(lo, hi)
    return 0


def vmemmap_free(f: Framework, pfn: int, end: int, altmap: Altmap | None) -> None:
    """vmemmap_free, remove_pagetable (arch/x86/mm/init_64.c): PMD leaves are credited to the altmap if one is given,
    PTE-level frames never.
    """
    k = f.k
    lo, hi = page_span(k, pfn, end)
    for s, e, m in k.tables.clear(lo, hi):
        if altmap and isinstance(m, Leaf):
            altmap.release(e - s)
        else:
            free_mapped(k, m, s, e)
    forget(k, lo, hi)
    # free_pagetable runs no destructor: a table that HVO made stays counted in NR_PAGETABLE. PUD tables are never freed
    # while the p4d is folded (remove_p4d_table).
    free_empty_tables(k, lo, hi, (PTE_TABLE, PMD_TABLE))
    k.tlb.flush_tlb_all()  # after the pages are free


VMEMMAP: ArchVmemmap = ArchVmemmap(vmemmap_free=vmemmap_free, vmemmap_populate=vmemmap_populate)
