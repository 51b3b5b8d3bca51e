"""The vmemmap on arm64 (arch/arm64/mm/mmu.c, Linux 7.3; separate-paths.md 1.2, 3.17).

Left out: the notifier that keeps boot memory online (it belongs to memory hotplug, not to the vmemmap).
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.pgtable import PMD_TABLE, PTE_TABLE, PUD_TABLE
from reference.populate import vmemmap_populate_basepages, vmemmap_populate_hugepages
from reference.teardown import crediting, free_tables, unmap


def leaves(k: Kernel) -> bool:
    """CONFIG_ARM64_4K_PAGES: only there the vmemmap has PMD leaves."""
    return k.arch.page_shift == 12


def vmemmap_populate(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate: PMD leaves for whole sections of 4K pages, else base pages; both from the altmap if there is
    one. 0 or -ENOMEM.
    """
    if not leaves(k) or hi - lo < k.arch.vmemmap_per_section:
        return vmemmap_populate_basepages(k, lo, hi, nid, altmap)
    return vmemmap_populate_hugepages(k, lo, hi, nid, altmap)


def vmemmap_free(k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
    """vmemmap_free, unmap_hotplug_range and free_empty_tables: a given altmap is credited with every frame.

    An entry is flushed before its frames are free; for a leaf, the flush of its first page is enough. A leaf is a whole
    section and goes as one. Tables run through pagetable_dtor though they had no constructor:
    NR_PAGETABLE drifts down. Left out: the complaint about frames reserved at boot.
    """
    release = crediting(altmap)
    unmap(k, lo, hi, release, release, flush_first=True)
    free_tables(k, lo, hi, destroyed=(PTE_TABLE, PMD_TABLE, PUD_TABLE), reserved_too=True)
