"""Populating the vmemmap at boot, from memblock (mm/sparse-vmemmap.c, mm/sparse.c, -mm of November 2026).

Rows of whole sections of one node, in ascending order. Where memory runs out the framework panics; UNCONFIRMED: that
the caller does (mm/sparse.c, "panic on memmap and usemap allocation failure").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mm.kernel import Kernel
from mm.page_alloc import OWNER_MEMMAP_BOOT, OWNER_PGTABLE_BOOT, Extents, KernelBug
from mm.pgtable import PMD_TABLE, PTE_TABLE, PUD_TABLE, Leaf

if TYPE_CHECKING:
    from candidate.vmemmap_optimization import Framework

UPPER = (PUD_TABLE, PMD_TABLE)
ALL = (PUD_TABLE, PMD_TABLE, PTE_TABLE)


def boot_frames(k: Kernel, nid: int, count: int, n: int, owner: str) -> Extents:
    """`count` boot allocations of `n` frames each, one after the other in the vmemmap; panics when memory runs out."""
    got = try_boot_frames(k, nid, count, n, owner)
    left = count * n - sum([m for _, m in got])
    if left:
        raise KernelBug(f"panic: Failed to allocate memmap for a section of node {nid}: {left} frames of {owner}")
    return got


def try_boot_frames(k: Kernel, nid: int, count: int, n: int, owner: str) -> Extents:
    """The same; fewer when memory runs out."""
    got = k.memblock.alloc_many(nid, count, n)
    for pfn, m in got:
        k.pages.claim(pfn, pfn + m, owner)
    return got


def boot_tables(k: Kernel, lo: int, hi: int, nid: int, levels: tuple[int, ...]) -> None:
    """Missing page tables of `levels` over vmemmap pages [lo, hi) from memblock."""
    tables = k.tables
    for level in levels:
        if level == PUD_TABLE and tables.spans[PUD_TABLE] == tables.spans[PMD_TABLE]:
            continue
        for first, last in tables.missing_tables(level, lo, hi):
            tables.add_tables(level, first, boot_frames(k, nid, last - first, 1, OWNER_PGTABLE_BOOT))


def boot_basepages(f: Framework, pfn: int, end: int, nid: int) -> None:
    """vmemmap_populate_basepages (mm/sparse-vmemmap.c, -mm) for sections that are not optimized."""
    arch = f.k.arch
    _basepages(f.k, arch.vpn(pfn), arch.vpn_end(end), nid)


def _basepages(k: Kernel, lo: int, hi: int, nid: int) -> None:
    boot_tables(k, lo, hi, nid, ALL)
    for s, e in k.tables.holes(lo, hi):
        k.tables.map_extents(s, boot_frames(k, nid, e - s, 1, OWNER_MEMMAP_BOOT))


def boot_hugepages(f: Framework, pfn: int, end: int, nid: int) -> None:
    """vmemmap_populate_hugepages (mm/sparse-vmemmap.c, -mm) for sections that are not optimized: PMD leaves, and base
    pages once there are no blocks left.
    """
    arch = f.k.arch
    boot_leaves(f.k, arch.vpn(pfn), arch.vpn_end(end), nid)


def boot_leaves(k: Kernel, lo: int, hi: int, nid: int) -> None:
    """PMD leaves over vmemmap pages [lo, hi); what lies in front of it under the same PMD is mapped already, if at all.

    Later rows under the same PMD find the leaf, or the table of base pages.
    """
    tables = k.tables
    ptrs = k.arch.ptrs_per_pte
    boot_tables(k, lo, hi, nid, UPPER)
    pmd, last = lo // ptrs, -(-hi // ptrs)
    if isinstance(tables.get(pmd * ptrs), Leaf):
        pmd += 1
    elif tables.tables[PTE_TABLE].get(pmd) is not None:
        _basepages(k, lo, min(hi, (pmd + 1) * ptrs), nid)
        pmd += 1
    if pmd < last:
        vpn = pmd * ptrs
        for frame, n in try_boot_frames(k, nid, last - pmd, ptrs, OWNER_MEMMAP_BOOT):
            tables.set(vpn, vpn + n, Leaf(frame - vpn))
            vpn += n
        if vpn < hi:
            _basepages(k, max(lo, vpn), hi, nid)
