"""The vmemmap on x86-64 (arch/x86/mm/init_64.c, Linux 7.3; separate-paths.md 3.17).

Left out: the tracking of used parts of a PMD leaf (vmemmap_use_sub_pmd and friends): a leaf maps the memmap of
exactly one section, and a section that was added whole is removed whole.
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.pgtable import PMD_TABLE, PTE_TABLE
from reference.populate import vmemmap_populate_basepages, vmemmap_populate_hugepages
from reference.teardown import crediting, free_frames, free_tables, unmap


def vmemmap_populate(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate: PMD leaves for a whole section, base pages from RAM for less, whatever the altmap. 0 or
    -ENOMEM. Top-level entries are synchronised once more than where they are made.
    """
    if hi - lo < k.arch.vmemmap_per_section:
        rc = vmemmap_populate_basepages(k, lo, hi, nid, None)
    else:
        rc = vmemmap_populate_hugepages(k, lo, hi, nid, altmap)
    if not rc:
        k.tables.sync_global_pgds(lo, hi)
    return rc


def vmemmap_free(k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
    """vmemmap_free, remove_pagetable: frames by class, PMD leaves to the altmap if there is one, then tables that
    became empty.

    A PTE table that HVO made is freed without its destructor (free_pagetable calls pagetable_free only), so
    NR_PAGETABLE keeps counting it. Empty PUD tables stay (remove_p4d_table, with four levels), for the page tables of
    processes have them too. A frame is free before its entry is cleared, so that the flush after each PTE table
    (remove_pte_table) makes no difference to the one at the end.
    """
    unmap(k, lo, hi, crediting(altmap), free_frames)
    free_tables(k, lo, hi, (PTE_TABLE, PMD_TABLE))
    k.tlb.flush_tlb_all()
