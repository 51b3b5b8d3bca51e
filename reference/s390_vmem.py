"""The vmemmap on s390 (arch/s390/mm/vmem.c, Linux 7.3): its own code, segments of 1M, page tables of 256 entries.

Left out: machines without EDAT1; that segment and region tables are blocks of four frames (here one, as everywhere).
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.errno import ENOMEM
from mm.kernel import Kernel
from mm.pgtable import PMD_TABLE, PTE_TABLE, Leaf
from reference.populate import alloc_pmd_block, ensure_tables, vmemmap_populate_basepages
from reference.teardown import crediting, free_tables, leaf_edges, unmap


def vmemmap_populate(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate, add_pagetable: segments, also where the range covers a part only. 0, or -ENOMEM with the range
    taken away again.

    The node is not looked at: memory comes from the running CPU's node, which is 0 here, and at boot from the top.
    """
    rc = modify_pagetable(k, lo, hi, 0 if k.slab_available else len(k.nodes) - 1, altmap)
    if rc:
        vmemmap_free(k, lo, hi, altmap)
    return rc


def modify_pagetable(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """modify_pagetable, modify_pmd_table, adding: a segment; a table of base pages where no block is to be had, from
    the altmap too if there is one. 0 or -ENOMEM.
    """
    tables, ptrs = k.tables, k.arch.ptrs_per_pte
    for first in range(lo - lo % ptrs, hi, ptrs):
        vpn, end = max(first, lo), min(first + ptrs, hi)
        if not ensure_tables(k, vpn, nid, PMD_TABLE):
            return -ENOMEM
        if tables.tables[PTE_TABLE].get(first // ptrs) is None:
            if tables.get(vpn) is not None:
                continue
            frame = alloc_pmd_block(k, nid, altmap)
            if frame is not None:
                tables.set(first, first + ptrs, Leaf(frame - first))
                continue
        if not ensure_tables(k, vpn, nid, PTE_TABLE, constructed=(PTE_TABLE,)):
            return -ENOMEM
        if vmemmap_populate_basepages(k, vpn, end, nid, altmap):
            return -ENOMEM
    return 0


def vmemmap_free(k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
    """vmemmap_free, remove_pagetable: a given altmap is credited with every frame. A segment goes when all of it is
    unused (vmemmap_unuse_sub_pmd).

    The kernel knows what is unused by a pattern that it writes there; here, by the subsections that are there outside
    the range. Page tables (not segment and region tables) are constructed and destroyed, so NR_PAGETABLE counts them.
    flush_tlb_kernel_range (asm/tlbflush.h), at the end, flushes the whole kernel address space.
    """
    lo, hi = leaf_edges(k, lo, hi, lambda first, end: _in_use(k, first, lo) or _in_use(k, hi, end))
    release = crediting(altmap)
    unmap(k, lo, hi, release, release)
    free_tables(k, lo, hi, destroyed=(PTE_TABLE,))
    k.tlb.flush_tlb_kernel_range(lo, hi)


def _in_use(k: Kernel, lo: int, hi: int) -> bool:
    """Whether a subsection that [lo, hi) describes is there."""
    sub, spp = k.arch.pages_per_subsection, k.arch.spp
    return lo < hi and k.sections.subsections.overlaps(lo * spp // sub, -(-hi * spp // sub))
