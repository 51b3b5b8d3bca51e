"""The vmemmap on riscv64 (arch/riscv/mm/init.c, Linux 7.3; separate-paths.md 1.2, 2.3)."""

from __future__ import annotations

from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.pgtable import PMD_TABLE, PTE_TABLE
from reference.populate import vmemmap_populate_hugepages
from reference.teardown import crediting, free_tables, leaf_edges, unmap


def vmemmap_populate(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate: PMD leaves, also for a part of a section; with an altmap nothing else. 0 or -ENOMEM."""
    return vmemmap_populate_hugepages(k, lo, hi, nid, altmap)


def vmemmap_free(k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
    """vmemmap_free, remove_pgd_mapping: a given altmap is credited with every frame, of leaves and of PTEs.

    remove_pmd_mapping does not ask how much of a leaf the range covers: the memmap of whatever shares the section
    goes with it. PTE tables run through pagetable_dtor whether populated or split from a leaf, and only the latter had
    a constructor: NR_PAGETABLE drifts down. With four levels empty PUD tables stay. The only flush is at the end.
    """
    lo, hi = leaf_edges(k, lo, hi, lambda _first, _end: False)
    release = crediting(altmap)
    unmap(k, lo, hi, release, release)
    free_tables(k, lo, hi, (PTE_TABLE, PMD_TABLE), destroyed=(PTE_TABLE,), reserved_too=True)
    k.tlb.flush_tlb_all()
