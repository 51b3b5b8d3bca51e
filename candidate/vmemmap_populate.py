"""Populating the vmemmap while the system runs: what all architectures can build on (mm/sparse-vmemmap.c, -mm of
November 2026).

Ranges of whole vmemmap pages are vpns; ranges that may begin or end inside of a vmemmap page, as those of subsections
and of powerpc's sections with large pages do, are pfns. Points: `PGT` for each upper table that is missing, `PTBL` for
a PTE table, `VMB` for a block that becomes a PMD leaf, `VMF` for each single page, `TAIL` for a new shared tail page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from candidate.vmemmap_optimization import section_vmemmap_optimizable, vmemmap_shared_tail_page
from mm.altmap import Altmap
from mm.errno import ENOMEM, EOPNOTSUPP
from mm.kernel import Kernel
from mm.mmzone import ZONE_DEVICE
from mm.page_alloc import OWNER_MEMMAP, OWNER_PGTABLE, Extents
from mm.pgmap import PgMap
from mm.pgtable import PMD_TABLE, PTE_TABLE, PUD_TABLE, Leaf, Pte, Shared, strided

if TYPE_CHECKING:
    from candidate.vmemmap_optimization import Framework

# -- tables ---------------------------------------------------------------------------------------------------------


def _table(k: Kernel, level: int, vpn: int, nid: int, point: str) -> bool:
    """Make sure that the table of `level` over `vpn` exists."""
    tables = k.tables.tables[level]
    index = vpn // k.tables.spans[level]
    if tables.get(index) is None:
        if k.faults.fails(point):
            return False
        frame = k.pages.alloc_page(nid, OWNER_PGTABLE)
        if frame is None:
            return False
        if level == PUD_TABLE:
            k.tables.p4d_populate_kernel(index, frame)
        else:
            tables.set(index, index + 1, frame - index)
    return True


def vmemmap_upper_populate(k: Kernel, vpn: int, nid: int) -> bool:
    """vmemmap_p4d_populate, vmemmap_pud_populate (mm/sparse-vmemmap.c, -mm)."""
    spans = k.tables.spans
    if k.tables.tables[PMD_TABLE].get(vpn // spans[PMD_TABLE]) is not None:
        return True  # and so does the table above it
    if spans[PUD_TABLE] != spans[PMD_TABLE] and not _table(k, PUD_TABLE, vpn, nid, "PGT"):
        return False
    return _table(k, PMD_TABLE, vpn, nid, "PGT")


def vmemmap_pte_table_populate(k: Kernel, vpn: int, nid: int) -> bool:
    """vmemmap_pmd_populate (mm/sparse-vmemmap.c, -mm), where the upper tables exist."""
    return _table(k, PTE_TABLE, vpn, nid, "PTBL")


def vmemmap_tables_populate(k: Kernel, vpn: int, nid: int) -> bool:
    """All tables over `vpn`."""
    return vmemmap_upper_populate(k, vpn, nid) and _table(k, PTE_TABLE, vpn, nid, "PTBL")


# -- frames ---------------------------------------------------------------------------------------------------------


def vmemmap_alloc_frames(k: Kernel, n: int, nid: int, altmap: Altmap | None = None) -> Extents:
    """vmemmap_alloc_block_buf (mm/sparse-vmemmap.c, -mm) `n` times for one page each, until it fails."""
    faults = k.faults
    want = faults.room(n)
    if altmap is None:
        got = k.pages.alloc_bulk(want, nid, OWNER_MEMMAP)
    else:
        got = altmap_alloc_pages(altmap, want)
    have = sum([m for _, m in got])
    faults.grant("VMF", have)
    if have < n:
        faults.fails("VMF")
    return got


def altmap_alloc_pages(altmap: Altmap, n: int) -> Extents:
    """altmap_alloc_block_buf (mm/sparse-vmemmap.c, -mm) `n` times for one page each, until it is exhausted."""
    n = min(n, altmap.capacity - altmap.alloc - altmap.align)
    if n <= 0:
        return []
    pfn = altmap.base_pfn + altmap.reserve + altmap.alloc + altmap.align
    altmap.alloc += n
    return [(pfn, n)]


def vmemmap_alloc_leaf(k: Kernel, nid: int, altmap: Altmap | None) -> int | None:
    """vmemmap_alloc_block_buf (mm/sparse-vmemmap.c, -mm) for PMD_SIZE."""
    if k.faults.fails("VMB"):
        return None
    return altmap.allocate(k.arch.ptrs_per_pte) if altmap else k.pages.alloc_kernel_block(nid, OWNER_MEMMAP)


def page_span(k: Kernel, pfn: int, end: int) -> tuple[int, int]:
    """The vmemmap pages that a loop from the struct page of `pfn` in steps of PAGE_SIZE meets before that of `end`.

    That is not all of them where the range begins inside of one and ends in another.
    """
    lo = k.arch.vpn(pfn)
    return lo, lo + k.arch.vpn_end(end - pfn)


# -- sections that are not optimized --------------------------------------------------------------------------------


def vmemmap_populate_basepages(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None = None) -> int:
    """vmemmap_populate_basepages (mm/sparse-vmemmap.c, -mm) for vmemmap pages [lo, hi) that are not optimized; present
    pages stay.
    """
    ptrs = k.arch.ptrs_per_pte
    while lo < hi:
        end = min(hi, (lo // ptrs + 1) * ptrs)
        if not vmemmap_tables_populate(k, lo, nid):
            return -ENOMEM
        for s, e in k.tables.holes(lo, end):
            if k.tables.map_extents(s, vmemmap_alloc_frames(k, e - s, nid, altmap)) < e:
                return -ENOMEM
        lo = end
    return 0


def vmemmap_populate_hugepages(f: Framework, pfn: int, end: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate_hugepages (mm/sparse-vmemmap.c, -mm): a PMD leaf for each PMD that is empty, whole even where
    the range covers only a part of it.

    Left out: slots of an optimizable section, which at run time go through vmemmap_populate_compound_pages.
    """
    k = f.k
    arch, tables = k.arch, k.tables
    ptrs = arch.ptrs_per_pte
    vpn, last = page_span(k, pfn, end)
    while vpn < last:
        pmd = vpn // ptrs
        stop = min(last, (pmd + 1) * ptrs)
        if not vmemmap_upper_populate(k, vpn, nid):
            return -ENOMEM
        m = tables.get(vpn)
        if m is None and tables.tables[PTE_TABLE].get(pmd) is None:
            frame = vmemmap_alloc_leaf(k, nid, altmap)
            if frame is not None:
                tables.set(pmd * ptrs, (pmd + 1) * ptrs, Leaf(frame - pmd * ptrs))
                vpn = stop
                continue
            if altmap:
                return -ENOMEM
        elif isinstance(m, Leaf):
            if section_vmemmap_optimizable(f, pfn // arch.pages_per_section):
                k.warn_once("an optimizable section's vmemmap has a PMD leaf")
                return -EOPNOTSUPP
            vpn = stop
            continue
        rc = vmemmap_populate_basepages(k, vpn, stop, nid, altmap)
        if rc:
            return rc
        vpn = stop
    return 0


# -- optimized sections ---------------------------------------------------------------------------------------------


def reuse_compound_section(f: Framework, pfn: int, pgmap: PgMap) -> bool:
    """reuse_compound_section (mm/sparse-vmemmap.c, series C): `pfn` continues a compound page.

    Counted from the start of the range being added, while accounting and vmemmap_optimizable_pfn go by the absolute pfn
    (4.2).
    """
    nr = 1 << pgmap.vmemmap_shift
    offset = pfn - pgmap.ranges[pgmap.nr_range][0]
    return offset & (nr - 1) != 0 and nr > f.k.arch.pages_per_subsection


def vmemmap_populate_compound_pages(f: Framework, pfn: int, end: int, nid: int, pgmap: PgMap) -> int:
    """vmemmap_populate_compound_pages (mm/sparse-vmemmap.c, series C) for a DAX section, which lies under one PTE
    table.

    Each slot that maps T takes a reference on it. Left out: pages that are mapped already, but for one at the start,
    which is refused as a mapped tail slot is.
    """
    k = f.k
    tables = k.tables
    lo, hi = page_span(k, pfn, end)
    order = pgmap.vmemmap_shift
    tail = vmemmap_shared_tail_page(f, order, k.nodes[nid].zones[ZONE_DEVICE])
    if tail is None or not vmemmap_tables_populate(k, lo, nid):
        return -ENOMEM
    if tables.get(lo) is not None:
        k.warn_once("vmemmap of an optimizable section is populated already")
        return -ENOMEM
    rw = f.dax_tail_rw
    if reuse_compound_section(f, pfn, pgmap):
        tables.set(lo, hi, Shared(tail, rw))
        k.pages.get_refs(tail, hi - lo)
        return 0
    period = k.arch.vmemmap_pages(order)
    if period > hi - lo:
        got = vmemmap_alloc_frames(k, 1, nid)
        if not got:
            return -ENOMEM
        tables.set(lo, lo + 1, Pte(got[0][0] - lo, True))
        tables.set(lo + 1, hi, Shared(tail, rw))
        k.pages.get_refs(tail, hi - lo - 1)
        return 0
    for frame, n in vmemmap_alloc_frames(k, (hi - lo) // period, nid):
        tables.set(lo, lo + n * period, strided(lo, period, 1, frame, True, tail, rw))
        k.pages.get_refs(tail, n * (period - 1))
        lo += n * period
    return 0 if lo == hi else -ENOMEM


def head_slots(f: Framework, pfn: int, end: int, pgmap: PgMap) -> range | None:
    """Vmemmap pages of whole DAX sections [pfn, end) that vmemmap_populate_compound_pages gives a page of their own
    (reuse_compound_section); None where a row does not help.
    """
    arch = f.k.arch
    size = 1 << pgmap.vmemmap_shift
    spp = arch.spp
    if size <= arch.pages_per_subsection:
        return range(pfn // spp, end // spp, size // spp)
    if size < arch.pages_per_section:
        return None
    start = pgmap.ranges[pgmap.nr_range][0]
    if start % arch.pages_per_section:  # compound pages begin inside of sections, where nobody looks
        return range(0)
    return range((pfn + (start - pfn) % size) // spp, end // spp, size // spp)


# -- HugeTLB --------------------------------------------------------------------------------------------------------


def try_populate_vmemmap_pmd(f: Framework, pmd: int) -> int:
    """try_populate_vmemmap_pmd (include/linux/pgalloc.h, -mm) of the architectures whose update cannot fail."""
    return 0
