"""riscv64 (arch/riscv/mm/init.c, Linux 7.3): vmemmap_populate is vmemmap_populate_hugepages, also for parts of a
section.

So a part of a section gets the PMD leaf of the whole, later parts find it, and the first part to go takes it away from
the others. The series reaches that: what it does not optimize any more, the parts of a section at a device's ends,
had base pages of its own before.

Left out: the tables of the vmemmap's upper level that pgtable_cache_init makes in advance.
"""

from __future__ import annotations

from candidate.arch.vmemmap import ArchVmemmap
from candidate.vmemmap_optimization import Framework
from candidate.vmemmap_remove import free_empty_tables, unmap, whole_leaves
from mm.altmap import Altmap
from mm.pgtable import PMD_TABLE, PTE_TABLE


def vmemmap_free(f: Framework, pfn: int, end: int, altmap: Altmap | None) -> None:
    """vmemmap_free, remove_pgd_mapping, free_vmemmap_storage (arch/riscv/mm/init.c): all is credited to the altmap if
    one is given, whoever it came from; tables of the level below the PGD stay.
    """
    k = f.k
    spp = k.arch.spp
    lo, hi = whole_leaves(k, pfn // spp, end // spp)
    unmap(k, lo, hi, altmap)
    # free_pte_table runs the destructor even for a table that vmemmap_populate made, which was never counted.
    k.vmstat.nr_page_table_pages -= free_empty_tables(k, lo, hi, (PTE_TABLE,))[0]
    free_empty_tables(k, lo, hi, (PMD_TABLE,))
    k.tlb.flush_tlb_all()  # after the pages are free


VMEMMAP: ArchVmemmap = ArchVmemmap(vmemmap_free=vmemmap_free)
