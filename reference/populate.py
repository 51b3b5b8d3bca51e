"""Populating the vmemmap: the arch-independent builders (mm/sparse-vmemmap.c, Linux 7.3; separate-paths.md 3.3,
3.17, 3.19). `reference.arch` says which architecture uses which.

Ranges are half-open [lo, hi) in vmemmap pages (vpn). The builders never undo: their caller frees the whole range
with the architecture's vmemmap_free, so what a failing builder does not map it frees itself. Allocation points: PGT,
PTBL, VMB, VMF.
"""

from __future__ import annotations

from collections.abc import Callable

from mm.altmap import Altmap
from mm.errno import ENOMEM
from mm.kernel import Kernel
from mm.mmzone import Zone
from mm.page_alloc import (
    OWNER_MEMMAP,
    OWNER_MEMMAP_BOOT,
    OWNER_PGTABLE,
    OWNER_PGTABLE_BOOT,
    OWNER_TAIL_BOOT,
    Extents,
    KernelBug,
)
from mm.pgmap import PgMap
from mm.pgtable import PMD_TABLE, PTE_TABLE, PUD_TABLE, Leaf, Pte, Shared, frame_at, strided

VMEMMAP_RESERVE_NR = 2
"""Vmemmap pages that a device compound page keeps (include/linux/mm.h)."""

Tails = dict[tuple[tuple[int, int], int], int]
"""zone->vmemmap_tails of all zones: (zone key, order) -> frame."""

TABLE_POINTS = ("PTBL", "PGT", "PGT")
"""Allocation point of a page table, by level."""


# -- allocation -----------------------------------------------------------------------------------------------------


def vmemmap_alloc_block(k: Kernel, kind: str, nid: int, owner: str, boot_owner: str) -> int | None:
    """vmemmap_alloc_block(PAGE_SIZE): one frame from buddy, or from memblock while slab is not up; None on failure."""
    if k.faults.fails(kind):
        return None
    if k.slab_available:
        return k.pages.alloc_page(nid, owner)
    frame = k.memblock.alloc(nid, 1, 1)
    if frame is not None:
        k.pages.claim(frame, frame + 1, boot_owner)
    return frame


def alloc_row(k: Kernel, kind: str, n: int, nid: int, owner: str) -> Extents | None:
    """`n` points of one kind, each followed by the allocation of one frame from buddy; None (and nothing kept) on
    failure.

    The points reached are those of the one-by-one loop: up to the first that fails by injection or for want of
    memory.
    """
    got = k.pages.alloc_bulk(n, nid, owner)
    if len(got) == 1 and got[0][1] == n:
        have = n
    else:
        have = sum([m for _, m in got])
    reach = n if have == n else have + 1
    if k.faults.grant(kind, reach) == reach and have == n:
        return got
    k.pages.free_extents(got)
    return None


def memmap_row(k: Kernel, n: int, nid: int) -> Extents | None:
    """A row of `n` VMF points, after the boot; on failure None, and nothing is kept."""
    return alloc_row(k, "VMF", n, nid, OWNER_MEMMAP)


def populate_ptes(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None = None) -> bool:
    """vmemmap_pte_populate for each of [lo, hi), all empty: frames of their own, from the altmap if there is one.

    False: no memory. What was had before that is mapped, and stays where vmemmap_free does nothing.
    """
    n = hi - lo
    room = k.faults.room(n)
    if altmap is not None:
        got = [altmap.allocate_pages(room)]
    elif k.slab_available:
        got = k.pages.alloc_bulk(room, nid, OWNER_MEMMAP)
    else:
        got = k.memblock.alloc_many(nid, room, 1)
        for frame, m in got:
            k.pages.claim(frame, frame + m, OWNER_MEMMAP_BOOT)
    have = sum([m for _, m in got])
    k.faults.grant("VMF", n if have == n else have + 1)
    if have:
        k.tables.map_extents(lo, got)
    return have == n


def ensure_tables(k: Kernel, vpn: int, nid: int, lowest: int, constructed: tuple[int, ...] = ()) -> bool:
    """vmemmap_p4d_populate, vmemmap_pud_populate and, for `lowest` PTE_TABLE, vmemmap_pmd_populate at `vpn`; False:
    no memory.

    Tables of the levels `constructed` run through pagetable_*_ctor, which raises NR_PAGETABLE, once the slab is up.
    With four levels the p4d is folded, so vmemmap_pgd_populate never allocates; with three the PUD is too.
    """
    tables = k.tables
    if tables.tables[lowest].get(vpn // tables.spans[lowest]) is not None:
        return True
    for level in range(upper_tables(k)[0], lowest - 1, -1):
        index = vpn // tables.spans[level]
        if tables.tables[level].get(index) is None:
            frame = vmemmap_alloc_block(k, TABLE_POINTS[level], nid, OWNER_PGTABLE, OWNER_PGTABLE_BOOT)
            if frame is None:
                return False
            if level == PUD_TABLE:
                tables.p4d_populate_kernel(index, frame)
            else:
                tables.tables[level].set(index, index + 1, frame - index)
            if level in constructed and k.slab_available:
                k.vmstat.nr_page_table_pages += 1
    return True


def upper_tables(k: Kernel) -> tuple[int, ...]:
    """The levels of tables above PTE tables, highest first."""
    return (PMD_TABLE,) if k.arch.pgd_shift == k.arch.pud_shift else (PUD_TABLE, PMD_TABLE)


# -- private memmaps ------------------------------------------------------------------------------------------------


def vmemmap_populate_basepages(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate_basepages: a frame of its own for every vmemmap page that has none. 0, or -ENOMEM with those
    mapped that came before (loongarch64 never takes them away).
    """
    ptrs = k.arch.ptrs_per_pte
    while lo < hi:
        end = min(hi, (lo // ptrs + 1) * ptrs)
        if not ensure_tables(k, lo, nid, PTE_TABLE):
            return -ENOMEM
        for s, e in k.tables.holes(lo, end):
            if not populate_ptes(k, s, e, nid, altmap):
                return -ENOMEM
        lo = end
    return 0


def alloc_pmd_block(k: Kernel, nid: int, altmap: Altmap | None) -> int | None:
    """vmemmap_alloc_block_buf(PMD_SIZE)."""
    if k.faults.fails("VMB"):
        return None
    n = k.arch.ptrs_per_pte
    if altmap is not None:
        return altmap.allocate(n)
    if k.slab_available:
        return k.pages.alloc_kernel_block(nid, OWNER_MEMMAP)
    frame = k.memblock.alloc(nid, n, n)
    if frame is not None:
        k.pages.claim(frame, frame + n, OWNER_MEMMAP_BOOT)
    return frame


def vmemmap_populate_hugepages(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate_hugepages: PMD leaves, base pages where no block is to be had (never with an altmap). 0 or
    -ENOMEM.

    A leaf is whole even where the range covers a part of it only; base pages stay inside the range.
    """
    tables = k.tables
    ptrs = k.arch.ptrs_per_pte
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
            if altmap is not None:
                return -ENOMEM
        if vmemmap_populate_basepages(k, vpn, end, nid, altmap):
            return -ENOMEM
    return 0


Populate = Callable[[Kernel, int, int, int, Altmap | None], int]
"""An architecture's vmemmap_populate."""


def populate_boot_sections(k: Kernel, lo: int, hi: int, nid: int, populate: Populate, levels: tuple[int, ...]) -> int:
    """`populate` for whole sections at boot where it makes PMD leaves, as the loop over them in sparse_init_nid does
    it. 0 or -ENOMEM. `levels` are the tables above the leaves.

    The whole row is allocated at once: a 16T machine costs as much as a 1G one. No program can arm a failure before the
    boot; whoever does gets the architecture's own loop. Leaves reach beyond the range, and some may be there already.
    """
    ptrs = k.arch.ptrs_per_pte
    tables, faults = k.tables, k.faults
    first, last = lo // ptrs * ptrs, -(-hi // ptrs) * ptrs
    absent = tables.holes(first, last)
    if faults.armed or any(s % ptrs or e % ptrs for s, e in absent):
        return populate(k, lo, hi, nid, None)
    for level in levels:
        for s, e in tables.missing_tables(level, lo, hi):
            got = k.memblock.alloc_many(nid, e - s, 1)
            faults.grant("PGT", e - s)
            if sum([n for _, n in got]) < e - s:
                return -ENOMEM
            for frame, n in got:
                k.pages.claim(frame, frame + n, OWNER_PGTABLE_BOOT)
            tables.add_tables(level, s, got)
    for s, e in absent:
        for frame, n in k.memblock.alloc_many(nid, (e - s) // ptrs, ptrs):
            faults.grant("VMB", n // ptrs)
            k.pages.claim(frame, frame + n, OWNER_MEMMAP_BOOT)
            tables.set(s, s + n, Leaf(frame - s))
            s += n
        if s < e:
            # No PMD-sized block is left: leaf by leaf, each tries for one and falls back as the architecture does.
            return populate(k, max(s, lo), hi, nid, None)
    return 0


# -- HugeTLB at boot ------------------------------------------------------------------------------------------------


def vmemmap_get_tail(k: Kernel, tails: Tails, order: int, zone: Zone) -> int | None:
    """vmemmap_get_tail (mm/sparse-vmemmap.c, the boot-time one): the zone's tail frame for `order`, allocated
    without content.
    """
    key = (zone.key, order)
    tail = tails.get(key)
    if tail is None:
        tail = vmemmap_alloc_block(k, "TAIL", zone.nid, OWNER_TAIL_BOOT, OWNER_TAIL_BOOT)
        if tail is not None:
            tails[key] = tail
    return tail


def vmemmap_populate_hvo(k: Kernel, tails: Tails, lo: int, hi: int, order: int, zone: Zone) -> int:
    """vmemmap_populate_hvo: a private frame (HUGETLB_VMEMMAP_RESERVE), all other PTEs RW to the zone's tail frame,
    uncounted. 0 or -ENOMEM.
    """
    tables = k.tables
    tail = vmemmap_get_tail(k, tails, order, zone)
    if tail is None:
        return -ENOMEM
    if not ensure_tables(k, lo, zone.nid, PTE_TABLE):
        return -ENOMEM
    head = vmemmap_alloc_block(k, "VMF", zone.nid, OWNER_MEMMAP, OWNER_MEMMAP_BOOT)
    if head is None:
        return -ENOMEM
    for vpn in range(lo, hi, k.arch.ptrs_per_pte):
        if not ensure_tables(k, vpn, zone.nid, PTE_TABLE):
            return -ENOMEM
    tables.set(lo, hi, strided(lo, hi - lo, 1, head, True, tail, True))
    return 0


# -- device DAX -----------------------------------------------------------------------------------------------------


def vmemmap_can_optimize(k: Kernel, altmap: Altmap | None, pgmap: PgMap | None) -> bool:
    """__vmemmap_can_optimize (include/linux/mm.h): a device's compound pages share their tail struct pages."""
    if pgmap is None or altmap is not None or not pgmap.vmemmap_shift:
        return False
    return k.arch.dax_dedup and k.arch.vmemmap_pages(pgmap.vmemmap_shift) > VMEMMAP_RESERVE_NR


def reuse_compound_section(k: Kernel, start_pfn: int, pgmap: PgMap) -> bool:
    """reuse_compound_section: the piece continues a compound page, seen from the start of the range in progress."""
    nr_pages = 1 << pgmap.vmemmap_shift
    offset = start_pfn - pgmap.ranges[pgmap.nr_range][0]
    return offset % nr_pages != 0 and nr_pages > k.arch.pages_per_subsection


def compound_section_tail_page(k: Kernel, vpn: int) -> int:
    """compound_section_tail_page: the frame that the vmemmap page before `vpn` maps.

    The kernel walks to a PTE without looking at the PMD: it takes data for a PTE if the page before lies in a PMD
    leaf, which the memmap of an early section does.
    """
    m = k.tables.get(vpn - 1)
    if m is None or isinstance(m, Leaf):
        what = "a PMD leaf" if m is not None else "an empty entry"
        raise KernelBug(f"compound_section_tail_page: the PTE of vmemmap page {vpn - 1:#x} is read through {what}")
    return frame_at(m, vpn - 1)


def vmemmap_populate_compound_pages(k: Kernel, start_pfn: int, lo: int, hi: int, nid: int, pgmap: PgMap) -> int:
    """vmemmap_populate_compound_pages for one piece of a section: two frames a compound page, shared RW. 0 or
    -ENOMEM.

    A piece lies in one section, hence under one PTE table.
    """
    tables = k.tables
    if reuse_compound_section(k, start_pfn, pgmap):
        frame = compound_section_tail_page(k, lo)
        _ask_no_leaf(k, lo)
        if not ensure_tables(k, lo, nid, PTE_TABLE):
            return -ENOMEM
        tables.set(lo, hi, Shared(frame, True))
        k.pages.get_refs(frame, hi - lo)
        return 0
    _ask_no_leaf(k, lo)
    if not ensure_tables(k, lo, nid, PTE_TABLE):
        return -ENOMEM
    stride = min(hi - lo, k.arch.vmemmap_pages(pgmap.vmemmap_shift))
    got = memmap_row(k, VMEMMAP_RESERVE_NR * ((hi - lo) // stride), nid)
    if got is None:
        return -ENOMEM
    # Sections that follow may share this compound page's tail frame.
    map_compounds(k, lo, stride, got, lends=1 << pgmap.vmemmap_shift > k.arch.pages_per_subsection)
    return 0


def _ask_no_leaf(k: Kernel, vpn: int) -> None:
    """vmemmap_populate_address asks vmemmap_pmd_populate for a table, which takes any PMD that is not empty, and
    vmemmap_pte_populate looks up the PTE in it: under a leaf, which riscv64 maps for a part of a section too, in a
    struct page.
    """
    if isinstance(k.tables.get(vpn), Leaf):
        raise KernelBug(f"vmemmap_populate_address: the PTE of vmemmap page {vpn:#x} is looked up in a PMD leaf")


def map_compounds(k: Kernel, lo: int, stride: int, frames: Extents, lends: bool) -> None:
    """Map compound pages of `stride` vmemmap pages from `lo` on, two of `frames` for each.

    `lends` keeps the tail frame's references by number, because PTEs of other pieces can join. Otherwise compound pages
    whose frames follow each other are one row.
    """
    head = None
    for frame, n in frames:
        if head is not None:
            _map_compound(k, lo, stride, head, frame)
            lo += stride
            frame, n = frame + 1, n - 1
        head = frame + n - 1 if n % 2 else None
        end = lo + n // 2 * stride
        if lends:
            while lo < end:
                _map_compound(k, lo, stride, frame, frame + 1)
                lo += stride
                frame += VMEMMAP_RESERVE_NR
        elif lo < end:
            k.tables.set(lo, end, strided(lo, stride, VMEMMAP_RESERVE_NR, frame, True, None, True))
        lo = end


def _map_compound(k: Kernel, lo: int, stride: int, head: int, tail: int) -> None:
    """One compound page whose two frames may lie anywhere; the tail frame's references are counted."""
    k.tables.set(lo, lo + 1, Pte(head - lo, True))
    k.tables.set(lo + 1, lo + stride, Shared(tail, True))
    k.pages.get_refs(tail, stride - VMEMMAP_RESERVE_NR)
