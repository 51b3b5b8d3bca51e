"""The vmemmap on powerpc with the radix MMU (arch/powerpc/mm/book3s64/radix_pgtable.c, Linux 7.3; separate-paths.md
3.20), which has code of its own for ordinary and for compound pages.

PTE and PMD tables made at run time are counted in NR_PAGETABLE. Left out: page table fragments (with 64K pages one
frame holds many tables; here a table is a frame).
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.errno import ENOMEM
from mm.kernel import Kernel
from mm.pgmap import PgMap
from mm.pgtable import PMD_TABLE, PTE_TABLE, Leaf, Pte, Shared, Strided, frame_at
from reference.hash_vmemmap import altmap_cross_boundary
from reference.populate import (
    VMEMMAP_RESERVE_NR,
    alloc_pmd_block,
    ensure_tables,
    map_compounds,
    memmap_row,
    populate_ptes,
)
from reference.teardown import crediting_window, free_tables, leaf_edges, unmap, vmemmap_populated

CONSTRUCTED = (PTE_TABLE, PMD_TABLE)
"""pte_alloc_kernel and pmd_alloc run constructors, pud_alloc does not."""


def _ensure_tables(k: Kernel, vpn: int, nid: int, lowest: int) -> bool:
    """vmemmap_{pud,pmd,pte}_alloc: from the node at boot, later from that of the running CPU, which is 0 here."""
    return ensure_tables(k, vpn, 0 if k.slab_available else nid, lowest, CONSTRUCTED)


# -- ordinary memmap ------------------------------------------------------------------------------------------------


def vmemmap_populate(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """radix__vmemmap_populate: PMD leaves from the start of the PMD, also for what lies before the range; with an
    altmap a leaf only where all of it is in the range and in the device. 0 or -ENOMEM.

    Where no block is to be had, base pages: from the start of the PMD too.
    """
    tables, ptrs = k.tables, k.arch.ptrs_per_pte
    for first in range(lo - lo % ptrs, hi, ptrs):
        vpn = first if altmap is None else max(first, lo)
        end = min(first + ptrs, hi)
        if not _ensure_tables(k, vpn, nid, PMD_TABLE):
            return -ENOMEM
        if tables.tables[PTE_TABLE].get(first // ptrs) is None:
            if tables.get(vpn) is not None:
                continue
            if altmap is None or (vpn == first and not altmap_cross_boundary(k, altmap, vpn, ptrs)):
                frame = alloc_pmd_block(k, nid, altmap)
                if frame is not None:
                    tables.set(first, first + ptrs, Leaf(frame - first))
                    continue
        if not _ensure_tables(k, vpn, nid, PTE_TABLE):
            return -ENOMEM
        for s, e in tables.holes(vpn, end):
            if not _populate_ptes(k, s, e, nid, altmap):
                return -ENOMEM
    return 0


def _populate_ptes(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> bool:
    """radix__vmemmap_pte_populate for [lo, hi), all empty: from the altmap for what lies in the device, else, or when
    that fails, from RAM. False: no memory.
    """
    while altmap is not None and lo < hi:
        if altmap_cross_boundary(k, altmap, lo, 1):
            n, source = 1, None
        elif k.faults.armed > k.faults.reached or altmap_cross_boundary(k, altmap, lo, hi - lo):
            n, source = 1, altmap
        else:
            n, source = max(1, min(hi - lo, altmap.capacity - altmap.alloc - altmap.align)), altmap
        if not populate_ptes(k, lo, lo + n, nid, source) and (source is None or not populate_ptes(k, lo, lo + n, nid)):
            return False
        lo += n
    return lo == hi or populate_ptes(k, lo, hi, nid)


# -- compound pages of a device -------------------------------------------------------------------------------------


def vmemmap_populate_compound_pages(k: Kernel, start_pfn: int, lo: int, hi: int, nid: int, pgmap: PgMap) -> int:
    """vmemmap_populate_compound_pages of powerpc: two frames for each compound page, found by the ABSOLUTE offset of a
    vmemmap page in its compound page; may map the first two pages of a compound page outside the range. 0 or -ENOMEM.

    What is mapped already, in a leaf or by PTEs, stays.
    """
    tables, ptrs = k.tables, k.arch.ptrs_per_pte
    pages = k.arch.vmemmap_pages(pgmap.vmemmap_shift)
    vpn = lo
    while vpn < hi:
        if not _ensure_tables(k, vpn, nid, PMD_TABLE):
            return -ENOMEM
        pmd_end = min(hi, (vpn // ptrs + 1) * ptrs)
        if isinstance(tables.get(vpn), Leaf):
            vpn = pmd_end
            continue
        if not _ensure_tables(k, vpn, nid, PTE_TABLE):
            return -ENOMEM
        run = tables.entries.run(vpn)
        if run is not None:
            vpn = min(run[1], pmd_end)
            continue
        end = tables.holes(vpn, pmd_end)[0][1]
        first = vpn - vpn % pages
        if vpn == first:
            vpn = _populate_heads(k, vpn, end, nid, pages)
        else:
            vpn = _populate_tails(k, vpn, min(end, first + pages), nid, first)
        if not vpn:
            return -ENOMEM
    return 0


def _populate_heads(k: Kernel, vpn: int, end: int, nid: int, pages: int) -> int:
    """The compound pages that begin at `vpn`, as many as are whole before `end`; else the first two pages of one. The
    page after; 0: no memory.

    The kernel takes no notice when it gets no frame for the second page: whoever comes to a later page tries again.
    """
    n = (end - vpn) // pages
    faults = k.faults
    if n and not faults.reached < faults.armed <= faults.reached + VMEMMAP_RESERVE_NR * n:
        got = memmap_row(k, VMEMMAP_RESERVE_NR * n, nid)
        if got is not None:
            map_compounds(k, vpn, pages, got, lends=pages * k.arch.spp > k.arch.pages_per_subsection)
            return vpn + n * pages
    if not _populate_address(k, vpn, nid):
        return 0
    _populate_tail_page(k, vpn + 1, nid)
    return vpn + VMEMMAP_RESERVE_NR


def _populate_tails(k: Kernel, vpn: int, end: int, nid: int, first: int) -> int:
    """Tail pages [vpn, end) of the compound page at `first`, all empty and under one table: shared, or private where
    its second page lies in a leaf. The page after; 0: no memory.
    """
    tail = _compound_tail_page(k, first, nid)
    if tail is None:
        # For want of memory, each page tries anew.
        stop = end if isinstance(k.tables.get(first + 1), Leaf) else vpn + 1
        return stop if populate_ptes(k, vpn, stop, nid) else 0
    # Making the second page may have made this one.
    if k.tables.get(vpn) is not None:
        return vpn + 1
    k.tables.set(vpn, end, Shared(tail, True))
    k.pages.get_refs(tail, end - vpn)
    return end


def _compound_tail_page(k: Kernel, first: int, nid: int) -> int | None:
    """vmemmap_compound_tail_page: the frame of a compound page's second vmemmap page, made if there is none, and the
    first with it; None where a leaf or a lack of memory is in the way.
    """
    vpn = first + 1
    if not _ensure_tables(k, vpn, nid, PMD_TABLE) or isinstance(k.tables.get(vpn), Leaf):
        return None
    if not _ensure_tables(k, vpn, nid, PTE_TABLE):
        return None
    if k.tables.get(vpn) is None:
        _populate_address(k, first, nid)
        if not _populate_tail_page(k, vpn, nid):
            return None
    return _lent(k, vpn)


def _populate_address(k: Kernel, vpn: int, nid: int) -> bool:
    """radix__vmemmap_populate_address under a table that exists: a frame for `vpn` if it has none. False: no memory."""
    return k.tables.get(vpn) is not None or populate_ptes(k, vpn, vpn + 1, nid)


def _populate_tail_page(k: Kernel, vpn: int, nid: int) -> bool:
    """`_populate_address` for a page that others will share."""
    if k.tables.get(vpn) is None:
        got = memmap_row(k, 1, nid)
        if got is None:
            return False
        k.tables.set(vpn, vpn + 1, Shared(got[0][0], True))
    return True


def _lent(k: Kernel, vpn: int) -> int:
    """The frame that `vpn` maps, with its references kept by number, since more PTEs are to map it.

    The page may belong to a row of smaller compound pages of another device: its compound page leaves the row.
    """
    m = k.tables.get(vpn)
    assert m is not None
    frame = frame_at(m, vpn)
    if isinstance(m, Strided) and m.tail is None and (vpn - m.phase) % m.period >= m.keep - 1:
        start = vpn - (vpn - m.phase) % m.period
        last = start + m.keep - 1
        content = k.memmap.own.get(last * k.arch.spp)
        k.tables.set(start, last, Pte(m.kept_frame(start) - start, True))
        k.tables.set(last, start + m.period, Shared(frame, True))
        k.pages.get_refs(frame, m.period - m.keep)
        if content is not None:
            k.memmap.frames[frame] = content
    return frame


# -- freeing --------------------------------------------------------------------------------------------------------


def vmemmap_free(k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
    """radix__vmemmap_free, remove_pagetable: a leaf or, with 64K pages, a page that the range meets in part goes when
    no subsection that it describes is valid. Frames inside the altmap's window are credited to it.

    radix__flush_tlb_kernel_range (radix_tlb.c), at the end, invalidates all translations of the kernel (PID 0), also
    those of a leaf that reaches beyond the range.
    """
    if k.arch.spp > k.arch.pages_per_subsection:
        if vmemmap_populated(k, lo, lo + 1):
            lo += 1
        if lo < hi and vmemmap_populated(k, hi - 1, hi):
            hi -= 1
    lo, hi = leaf_edges(k, lo, hi, lambda first, end: vmemmap_populated(k, first, end))
    release = crediting_window(altmap)
    unmap(k, lo, hi, release, release)
    free_tables(k, lo, hi, destroyed=CONSTRUCTED)
    k.tlb.flush_tlb_all()
