"""The vmemmap on powerpc with the hash MMU (arch/powerpc/mm/init_64.c, Linux 7.3): blocks of 16M bolted into the hash
table, remembered in a list, without page tables.

A block stands as a PMD leaf without tables. Left out: the list's own memory (a page taken at boot serves 43T), and
machines without 16M pages.
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.errno import ENOMEM
from mm.kernel import Kernel
from mm.pgtable import Leaf
from reference.populate import alloc_pmd_block
from reference.teardown import crediting_window, leaf_edges, unmap, vmemmap_populated


def altmap_cross_boundary(k: Kernel, altmap: Altmap, vpn: int, n: int) -> bool:
    """altmap_cross_boundary: vmemmap pages [vpn, vpn + n) describe something outside the device."""
    spp = k.arch.spp
    return (vpn + n) * spp > altmap.end_pfn or vpn * spp < altmap.base_pfn


def vmemmap_populate(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """__vmemmap_populate: a block wherever none is, from the altmap or else from RAM. 0 or -ENOMEM.

    The kernel asks whether a subsection there is valid, which is the same: the last one takes the block away.
    """
    tables, size = k.tables, k.arch.ptrs_per_pte
    for vpn in range(lo - lo % size, hi, size):
        if tables.get(vpn) is not None:
            continue
        frame = None
        if altmap is not None and not altmap_cross_boundary(k, altmap, vpn, size):
            frame = alloc_pmd_block(k, nid, altmap)
        if frame is None:
            frame = alloc_pmd_block(k, nid, None)
        if frame is None:
            return -ENOMEM
        tables.set(vpn, vpn + size, Leaf(frame - vpn))
    return 0


def vmemmap_free(k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
    """__vmemmap_free: a block goes when no subsection that it describes is valid any more.

    Its translation is invalidated after it is free, block by block: vmemmap_remove_mapping takes the entry out of the
    hash table.
    """
    lo, hi = leaf_edges(k, lo, hi, lambda first, end: vmemmap_populated(k, first, end))
    release = crediting_window(altmap)
    unmap(k, lo, hi, release, release)
    k.tlb.flush_tlb_kernel_range(lo, hi)
