"""powerpc with the radix MMU (arch/powerpc/mm/book3s64/radix_pgtable.c, -mm of November 2026, series D).

The one architecture with a population code of its own for optimized sections (4.1): head or tail is decided by the pfn
of each slot alone, and what is mapped already is silently kept, PMD leaf or PTE. Ordinary sections start at the PMD
boundary in front of them, so that they can map the memmap of a neighbour, optimized or not, too.

Page tables come from the running CPU's node at run time. Left out: that several tables of 64K kernels share a page.
"""

from __future__ import annotations

from candidate.arch.powerpc import altmap_cross_boundary, free_vmemmap_pages, vmemmap_populated
from candidate.arch.vmemmap import ArchVmemmap
from candidate.vmemmap_boot import boot_leaves
from candidate.vmemmap_optimization import Framework, vmemmap_shared_tail_page
from candidate.vmemmap_populate import (
    page_span,
    vmemmap_alloc_frames,
    vmemmap_alloc_leaf,
    vmemmap_pte_table_populate,
    vmemmap_upper_populate,
)
from candidate.vmemmap_remove import forget, free_empty_tables
from mm.altmap import Altmap
from mm.errno import ENOMEM
from mm.kernel import Kernel
from mm.mmzone import ZONE_DEVICE
from mm.page_alloc import Extents
from mm.pgmap import PgMap
from mm.pgtable import PMD_TABLE, PTE_TABLE, PUD_TABLE, Leaf, Pte, Shared, strided

NID = 0
"""The node of the running CPU, where pud_alloc, pmd_alloc and pte_alloc_kernel allocate."""


def _upper_tables(k: Kernel, vpn: int) -> bool:
    """vmemmap_pud_alloc, vmemmap_pmd_alloc; a PMD table counts in NR_PAGETABLE."""
    pmds = k.tables.tables[PMD_TABLE]
    index = vpn // k.tables.spans[PMD_TABLE]
    if pmds.get(index) is not None:
        return True
    if not vmemmap_upper_populate(k, vpn, NID):
        return False
    k.vmstat.nr_page_table_pages += 1
    return True


def _pte_table(k: Kernel, pmd: int) -> bool:
    """vmemmap_pte_alloc; the table counts in NR_PAGETABLE."""
    if k.tables.tables[PTE_TABLE].get(pmd) is not None:
        return True
    if not vmemmap_pte_table_populate(k, pmd * k.arch.ptrs_per_pte, NID):
        return False
    k.vmstat.nr_page_table_pages += 1
    return True


# -- sections that are not optimized --------------------------------------------------------------------------------


def vmemmap_populate(f: Framework, pfn: int, end: int, nid: int, altmap: Altmap | None) -> int:
    """radix__vmemmap_populate: PMD leaves from the boundary in front of the range; with an altmap only leaves that lie
    in the range as a whole; where there is no block, base pages.
    """
    k = f.k
    tables = k.tables
    ptrs, spp = k.arch.ptrs_per_pte, k.arch.spp
    at, stop = pfn // spp, -(-end // spp)
    if altmap is None:
        at -= at % ptrs
    while at < stop:
        pmd = at // ptrs
        after = min(stop, (pmd + 1) * ptrs)
        if not _upper_tables(k, at):
            return -ENOMEM
        if isinstance(tables.get(at), Leaf):
            at = after
            continue
        if tables.tables[PTE_TABLE].get(pmd) is None:
            if altmap is None or not (at % ptrs or altmap_cross_boundary(k, altmap, at, ptrs)):
                frame = vmemmap_alloc_leaf(k, nid, altmap)
                if frame is not None:
                    tables.set(at, at + ptrs, Leaf(frame - at))
                    at = after
                    continue
            if not _pte_table(k, pmd):
                return -ENOMEM
        for s, e in tables.holes(at, after):
            if tables.map_extents(s, _alloc_pages(k, s, e, nid, altmap)) < e:
                return -ENOMEM
        at = after
    return 0


def _alloc_pages(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> Extents:
    """radix__vmemmap_pte_populate for [lo, hi), under one PTE table: from the altmap what lies in the device as long as
    there is room, else from RAM; fewer when memory runs out.
    """
    if altmap is None:
        return vmemmap_alloc_frames(k, hi - lo, nid)
    out: Extents = []
    for vpn in range(lo, hi):
        got: Extents = []
        if not altmap_cross_boundary(k, altmap, vpn, 1):
            got = vmemmap_alloc_frames(k, 1, nid, altmap)
        got = got or vmemmap_alloc_frames(k, 1, nid)
        if not got:
            break
        out += got
    return out


def vmemmap_populate_boot(f: Framework, pfn: int, end: int, nid: int) -> None:
    """radix__vmemmap_populate at boot. Rows ascend, so that what lies in front of one under its first PMD is mapped, or
    a hole that gets base pages here where there is no block.
    """
    spp, ptrs = f.k.arch.spp, f.k.arch.ptrs_per_pte
    lo = pfn // spp
    boot_leaves(f.k, lo - lo % ptrs, -(-end // spp), nid)


# -- optimized sections ---------------------------------------------------------------------------------------------


def vmemmap_populate_compound_pages(f: Framework, pfn: int, end: int, nid: int, pgmap: PgMap) -> int:
    """vmemmap_populate_compound_pages: T for every slot but those whose pfn is a multiple of the compound page.

    With 64K pages a section is less than a vmemmap page: the first section to come decides what maps there.
    """
    k = f.k
    tables = k.tables
    ptrs, spp = k.arch.ptrs_per_pte, k.arch.spp
    tail = vmemmap_shared_tail_page(f, pgmap.vmemmap_shift, k.nodes[nid].zones[ZONE_DEVICE])
    if tail is None:
        return -ENOMEM
    at, stop = page_span(k, pfn, end)
    # A slot in front of which the range begins inside of a vmemmap page never has an aligned pfn.
    period = k.arch.vmemmap_pages(pgmap.vmemmap_shift) if pfn % spp == 0 else 0
    while at < stop:
        pmd = at // ptrs
        after = min(stop, (pmd + 1) * ptrs)
        if not _upper_tables(k, at):
            return -ENOMEM
        if not isinstance(tables.get(at), Leaf):
            if not _pte_table(k, pmd):
                return -ENOMEM
            for s, e in tables.holes(at, after):
                if not _map_compounds(f, s, e, nid, period, tail):
                    return -ENOMEM
        at = after
    return 0


def _map_compounds(f: Framework, lo: int, hi: int, nid: int, period: int, tail: int) -> bool:
    """Fill the empty slots [lo, hi) of compound pages of `period` vmemmap pages, to the first head that gets no page;
    `period` 0: no heads.
    """
    k = f.k
    tables, rw = k.tables, f.dax_tail_rw
    head = lo + -lo % period if period else hi
    at = min(head, hi)
    _map_tails(f, lo, at, tail)
    if head >= hi:
        return True
    whole = (hi - at) // period
    for frame, n in vmemmap_alloc_frames(k, whole, nid) if whole else []:
        tables.set(at, at + n * period, strided(at, period, 1, frame, True, tail, rw))
        k.pages.get_refs(tail, n * (period - 1))
        at += n * period
    if at < head + whole * period:
        return False
    if at < hi:
        got = vmemmap_alloc_frames(k, 1, nid)
        if not got:
            return False
        tables.set(at, at + 1, Pte(got[0][0] - at, True))
        _map_tails(f, at + 1, hi, tail)
    return True


def _map_tails(f: Framework, lo: int, hi: int, tail: int) -> None:
    if lo < hi:
        f.k.tables.set(lo, hi, Shared(tail, f.dax_tail_rw))
        f.k.pages.get_refs(tail, hi - lo)


def head_slots(f: Framework, pfn: int, end: int, pgmap: PgMap) -> range:
    """The heads of fresh sections: by the absolute pfn."""
    size = 1 << pgmap.vmemmap_shift
    spp = f.k.arch.spp
    return range((pfn + -pfn % size) // spp, end // spp, size // spp)


# -- removal --------------------------------------------------------------------------------------------------------


def vmemmap_free(f: Framework, pfn: int, end: int, altmap: Altmap | None) -> None:
    """radix__vmemmap_free, remove_pagetable: leaves and vmemmap pages that the range cuts go once no subsection in them
    is valid.
    """
    k = f.k
    tables = k.tables
    ptrs, spp = k.arch.ptrs_per_pte, k.arch.spp
    lo, hi = pfn // spp, -(-end // spp)
    if isinstance(tables.get(lo), Leaf):
        if pfn % (ptrs * spp):
            lo = _unless_populated(k, lo - lo % ptrs, ptrs, 0)
    elif pfn % spp:
        lo = _unless_populated(k, lo, 1, 0)
    if lo < hi and isinstance(tables.get(hi - 1), Leaf):
        if end % (ptrs * spp):
            hi = _unless_populated(k, hi + -hi % ptrs - ptrs, ptrs, 1)
    elif end % spp:
        hi = _unless_populated(k, hi - 1, 1, 1)
    if lo >= hi:
        return
    for s, e, m in tables.clear(lo, hi):
        free_vmemmap_pages(k, m, s, e, altmap)
    forget(k, lo, hi)
    k.vmstat.nr_page_table_pages -= free_empty_tables(k, lo, hi, (PTE_TABLE, PMD_TABLE))[1]
    free_empty_tables(k, lo, hi, (PUD_TABLE,))
    k.tlb.flush_tlb_all()  # radix__flush_tlb_kernel_range, which knows no ranges; after the pages are free


def _unless_populated(k: Kernel, vpn: int, n: int, end: int) -> int:
    """vmemmap_pmd_is_unused, vmemmap_page_is_unused for a unit of `n` vmemmap pages that an `end` of the range cuts:
    where the range then begins (0) or ends (1).
    """
    return vpn + n * (end ^ vmemmap_populated(k, vpn, n))


VMEMMAP: ArchVmemmap = ArchVmemmap(
    vmemmap_free=vmemmap_free,
    vmemmap_populate=vmemmap_populate,
    vmemmap_populate_boot=vmemmap_populate_boot,
    vmemmap_populate_compound_pages=vmemmap_populate_compound_pages,
    head_slots=head_slots,
    table_nid=NID,
    counts_tables=True,
)
