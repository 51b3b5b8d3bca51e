"""x86-64's part of populating and freeing the vmemmap (arch/x86/mm/init_64.c, mm/sparse-vmemmap.c, -mm of November
2026).

Whole sections get PMD leaves unless their order says that they are optimized; anything smaller gets base pages. Left
out: p4d tables (four levels), synchronisation of the processes' page tables, memmap that a leaf covers only in part.
"""

from __future__ import annotations

from candidate.vmemmap_optimization import Framework, section_vmemmap_optimizable
from mm.altmap import Altmap
from mm.errno import ENOMEM, EOPNOTSUPP
from mm.kernel import Kernel
from mm.page_alloc import (
    OWNER_MEMMAP,
    OWNER_MEMMAP_BOOT,
    OWNER_PGTABLE,
    OWNER_PGTABLE_BOOT,
    Extents,
    KernelBug,
)
from mm.pgtable import PMD_TABLE, PTE_TABLE, PUD_TABLE, Leaf, Shared, Strided, private_frames, shared_uses

# -- allocation while the system runs -------------------------------------------------------------------------------


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
        tables.set(index, index + 1, frame - index)
    return True


def vmemmap_upper_populate(k: Kernel, vpn: int, nid: int) -> bool:
    """vmemmap_p4d_populate, vmemmap_pud_populate (mm/sparse-vmemmap.c, -mm): point `PGT` for each table that is
    missing.
    """
    if k.tables.tables[PMD_TABLE].get(vpn // k.tables.spans[PMD_TABLE]) is not None:
        return True  # and so does the table above it
    return _table(k, PUD_TABLE, vpn, nid, "PGT") and _table(k, PMD_TABLE, vpn, nid, "PGT")


def vmemmap_tables_populate(k: Kernel, vpn: int, nid: int) -> bool:
    """All tables over `vpn`; the PTE table's point is `PTBL` (vmemmap_pmd_populate, mm/sparse-vmemmap.c, -mm)."""
    return vmemmap_upper_populate(k, vpn, nid) and _table(k, PTE_TABLE, vpn, nid, "PTBL")


def vmemmap_alloc_frames(k: Kernel, n: int, nid: int) -> Extents:
    """vmemmap_alloc_block_buf `n` times for one page each, until it fails; point `VMF` for each."""
    faults = k.faults
    got = k.pages.alloc_bulk(faults.room(n), nid, OWNER_MEMMAP)
    have = sum([m for _, m in got])
    faults.grant("VMF", have)
    if have < n:
        faults.fails("VMF")
    return got


def vmemmap_populate_basepages(k: Kernel, lo: int, hi: int, nid: int) -> int:
    """vmemmap_populate_basepages (mm/sparse-vmemmap.c, -mm) for vmemmap pages [lo, hi) that are not optimized;
    present pages stay.

    Left out: base pages from an altmap, which x86 asks for only below an existing PTE table.
    """
    ptrs = k.arch.ptrs_per_pte
    while lo < hi:
        end = min(hi, (lo // ptrs + 1) * ptrs)
        if not vmemmap_tables_populate(k, lo, nid):
            return -ENOMEM
        for s, e in k.tables.holes(lo, end):
            if k.tables.map_extents(s, vmemmap_alloc_frames(k, e - s, nid)) < e:
                return -ENOMEM
        lo = end
    return 0


def vmemmap_populate(f: Framework, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate, vmemmap_populate_hugepages (arch/x86/mm/init_64.c, mm/sparse-vmemmap.c, -mm); point `VMB` for
        each block.

    Left out: CPUs without PSE; slots of an optimizable section, which at run time go through
    vmemmap_populate_compound_pages.
    """
    k = f.k
    arch = k.arch
    if hi - lo < arch.vmemmap_per_section:
        return vmemmap_populate_basepages(k, lo, hi, nid)
    ptrs = arch.ptrs_per_pte
    for pmd in range(lo // ptrs, hi // ptrs):
        vpn = pmd * ptrs
        if not vmemmap_upper_populate(k, vpn, nid):
            return -ENOMEM
        m = k.tables.get(vpn)
        if m is None and k.tables.tables[PTE_TABLE].get(pmd) is None:
            frame = None
            if not k.faults.fails("VMB"):
                frame = altmap.allocate(ptrs) if altmap else k.pages.alloc_kernel_block(nid, OWNER_MEMMAP)
            if frame is not None:
                k.tables.set(vpn, vpn + ptrs, Leaf(frame - vpn))
                continue
            if altmap:
                return -ENOMEM
        elif isinstance(m, Leaf):
            if section_vmemmap_optimizable(f, vpn * arch.spp // arch.pages_per_section):
                k.warn_once("an optimizable section's vmemmap has a PMD leaf")
                return -EOPNOTSUPP
            continue
        rc = vmemmap_populate_basepages(k, vpn, vpn + ptrs, nid)
        if rc:
            return rc
    return 0


# -- allocation from memblock ---------------------------------------------------------------------------------------


def boot_frames(k: Kernel, nid: int, count: int, n: int, owner: str) -> Extents:
    """`count` boot allocations of `n` frames each, one after the other in the vmemmap; panics when memory runs out.

    UNCONFIRMED: that the caller panics (mm/sparse.c, "panic on memmap and usemap allocation failure").
    """
    got = k.memblock.alloc_many(nid, count, n)
    left = count * n
    for pfn, m in got:
        k.pages.claim(pfn, pfn + m, owner)
        left -= m
    if left:
        raise KernelBug(f"panic: node {nid} has no boot memory for {owner} ({left} frames are missing)")
    return got


def boot_tables(k: Kernel, lo: int, hi: int, nid: int, levels: tuple[int, ...]) -> None:
    """Missing page tables of `levels` over [lo, hi) from memblock."""
    tables = k.tables
    for level in levels:
        for first, last in tables.missing_tables(level, lo, hi):
            tables.add_tables(level, first, boot_frames(k, nid, last - first, 1, OWNER_PGTABLE_BOOT))


def vmemmap_populate_boot(k: Kernel, lo: int, hi: int, nid: int) -> None:
    """vmemmap_populate for a row of whole sections that are not optimized, at boot: PMD leaves. Left out: the
    fallback to base pages.
    """
    boot_tables(k, lo, hi, nid, (PUD_TABLE, PMD_TABLE))
    ptrs = k.arch.ptrs_per_pte
    for frame, n in boot_frames(k, nid, (hi - lo) // ptrs, ptrs, OWNER_MEMMAP_BOOT):
        k.tables.set(lo, lo + n, Leaf(frame - lo))
        lo += n


# -- freeing --------------------------------------------------------------------------------------------------------


def free_pages(k: Kernel, pfn: int, n: int) -> None:
    """Give memmap or page-table frames back, whoever allocated them (free_reserved_page or __free_page)."""
    owners = k.pages.owners
    while n:
        run = owners.run(pfn)
        m = n if run is None else min(n, run[1] - pfn)
        k.pages.free(pfn, m)  # raises for a frame that nobody owns
        pfn += m
        n -= m


def put_tail(k: Kernel, frame: int, n: int) -> None:
    """The unmapping of `n` slots that map shared tail page `frame`; each slot of device DAX holds a reference.

    Slots of HugeTLB hold none: to unmap them would free T under all its users (3.3), or raise for a negative count.
    UNCONFIRMED: who takes the references once DAX uses the common path (series D); here they are taken as in series C.
    """
    if k.pages.put_refs(frame, n):
        k.pages.free(frame, 1)


def vmemmap_free(k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
    """vmemmap_free, remove_pagetable (arch/x86/mm/init_64.c, -mm): unmap [lo, hi), free what was private and the
    tables left empty.

    PMD leaves are credited to the altmap if one is given, PTE-level frames never. Left out: leaves that [lo, hi) cuts.
    """
    tables = k.tables
    for s, e, m in tables.clear(lo, hi):
        if isinstance(m, Leaf) and altmap:
            altmap.release(e - s)
            continue
        for pfn, n in private_frames(m, s, e):
            free_pages(k, pfn, n)
        if isinstance(m, Shared | Strided):
            use = shared_uses(m, s, e)
            if use:
                put_tail(k, *use)
    spp = k.arch.spp
    k.memmap.forget(lo * spp, (hi - lo) * spp)
    # free_pagetable (arch/x86/mm/init_64.c) runs no destructor: a table that HVO made stays counted in NR_PAGETABLE.
    for pfn, n in tables.pop_empty_tables(lo, hi):
        free_pages(k, pfn, n)
