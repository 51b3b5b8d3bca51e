"""Defects of the separate paths that Linux 7.3 has no more (separate-paths.md section 5).

Each replacement does what the code did before the patch; what was right then too is left to the function itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mm.altmap import Altmap
from mm.errno import ENOMEM
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import MIGRATE_MOVABLE, Kernel
from mm.memmap_on_memory import altmap_free, mhp_altmap
from mm.memory_hotplug import arch_add_memory, arch_remove_memory, create_memory_block_devices
from mm.mmzone import SECTION_HAS_MEM_MAP, Zone
from mm.page import Tail
from mm.page_alloc import Extents, KernelBug
from mm.pgmap import PgMap
from mm.pgtable import PMD_TABLE, PTE_TABLE, Leaf, Pte, Shared, Strided, frame_at
from reference.hugetlb_rows import HUGETLB_VMEMMAP_RESERVE
from reference.paths import SeparatePaths
from reference.populate import alloc_pmd_block, ensure_tables, memmap_row, populate_ptes
from reference.radix_pgtable import CONSTRUCTED
from zoo.defect import Defect

SectionOp = Callable[[Kernel, int, int, Altmap | None, PgMap | None], None]


def _count_after_success_only(
    original: Callable[[Kernel, int, int, int, Altmap | None, PgMap | None], int],
    k: Kernel,
    nid: int,
    pfn: int,
    nr: int,
    altmap: Altmap | None,
    pgmap: PgMap | None,
) -> int:
    before = k.vmstat.nr_memmap
    rc = original(k, nid, pfn, nr, altmap, pgmap)
    if rc:
        k.vmstat.nr_memmap = before
    return rc


def _count_of_the_last_part(
    original: SectionOp, k: Kernel, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None
) -> None:
    before = k.vmstat.nr_memmap_boot
    original(k, pfn, nr, altmap, pgmap)
    if k.vmstat.nr_memmap_boot != before:
        k.vmstat.nr_memmap_boot = before - k.arch.vpn_end(nr)


def _end_by_pages_instead_of_bytes(
    original: Callable[[Kernel, int, int], None], k: Kernel, lo: int, pages: int
) -> None:
    """The registration with the wrong section, which went with it, raised reference counts that are not modelled."""
    original(k, lo, pages)
    protected = -(-pages * k.arch.spp // k.arch.page)
    m = k.tables.get(lo)
    if isinstance(m, Strided) and protected < pages:
        k.tables.set(lo + protected, lo + pages, m._replace(tail_rw=True))


def _rollback_of_every_page(
    original: object, k: Kernel, folio: Folio, lo: int, end: int, head: int, old: Extents
) -> Extents:
    vpn = lo
    for frame, n in reversed(old):
        for f in range(frame + n - 1, frame - 1, -1):
            k.tables.set(vpn, vpn + 1, Pte(f - vpn, True))
            vpn += 1
    spp = k.arch.spp
    k.memmap.own.set(lo * spp, end * spp, Tail(folio.order, folio.nid, folio.zone.idx))
    k.memmap.touched.append((lo * spp, end * spp))
    return []


def _remove_without_altmap(original: object, k: Kernel, nid: int, pfn: int, nr: int) -> int:
    if k.faults.fails("ALT"):
        return -ENOMEM
    altmap = mhp_altmap(k, pfn)
    rc = arch_add_memory(k, nid, pfn, nr, altmap, None)
    if not rc:
        rc = create_memory_block_devices(k, pfn, nr, nid, altmap)
        if not rc:
            return 0
        arch_remove_memory(k, pfn, nr, None, None)
    altmap_free(k, altmap)
    return rc


def _count_as_if_not_optimized(
    original: object, k: Kernel, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None
) -> int:
    return k.arch.vpn_end(nr)


def _pageblock_of_the_head_only(
    original: Callable[[Kernel, Zone, int, int, PgMap], None], k: Kernel, zone: Zone, pfn: int, nr: int, pgmap: PgMap
) -> None:
    order = k.arch.pmd_order
    if pgmap.vmemmap_shift <= order:
        original(k, zone, pfn, nr, pgmap)
        return
    end = pfn + nr
    if pgmap.altmap is not None:
        pfn = pgmap.altmap.base_pfn + pgmap.altmap.offset()
    lo, hi = pfn >> order, -(-end >> order)
    before = k.pageblocks.runs(lo, hi)
    original(k, zone, end - nr, nr, pgmap)
    k.pageblocks.clear(lo, hi)
    for s, e, migratetype in before:
        k.pageblocks.set(s, e, migratetype)
    for head in range(pfn, end, 1 << pgmap.vmemmap_shift):
        k.pageblocks.set(head >> order, (head >> order) + 1, MIGRATE_MOVABLE)


def _blind_to_early_sections(
    original: Callable[[Kernel, bool, PgMap], int], k: Kernel, early: bool, pgmap: PgMap
) -> int:
    return original(k, False, pgmap)


def _pfn_by_vmemmap_page(
    original: Callable[[Kernel, int, int, int, int, PgMap], int],
    k: Kernel,
    start_pfn: int,
    lo: int,
    hi: int,
    nid: int,
    pgmap: PgMap,
) -> int:
    """The offset in the compound page grows by one with each vmemmap page, and starts right with each section.

    So a later page of the first section takes itself for the second page of the compound page, and one of another
    section takes that of the first section for it. With 64K pages a section is less than a page: no effect. Left out:
    pages before a range that begins inside a compound page, which the kernel makes.
    """
    per = k.arch.pages_per_section // k.arch.spp
    node = 0 if k.slab_available else nid
    compound = k.arch.vmemmap_pages(pgmap.vmemmap_shift)
    if per < 1:
        return original(k, start_pfn, lo, hi, nid, pgmap)
    for section in range(lo // per * per, hi, per):
        piece, end = max(lo, section), min(hi, section + per)
        first = piece - piece % compound
        if not ensure_tables(k, piece, node, PMD_TABLE, CONSTRUCTED):
            return -ENOMEM
        for s, e in k.tables.holes(piece, end):
            if not ensure_tables(k, s, node, PTE_TABLE, CONSTRUCTED):
                return -ENOMEM
            if compound <= per:
                done = populate_ptes(k, s, e, nid)
            else:
                done = all(_populate_drifted(k, vpn, piece, first, nid) for vpn in range(s, e))
            if not done:
                return -ENOMEM
    return 0


def _populate_drifted(k: Kernel, vpn: int, piece: int, first: int, nid: int) -> bool:
    """A vmemmap page of a compound page that is larger than a section and begins at `first`; False: no memory."""
    second = first + max(1, vpn - piece)
    lender = k.tables.get(second) if piece != first else None
    if lender is not None and not isinstance(lender, Leaf):
        frame = frame_at(lender, second)
        k.tables.set(vpn, vpn + 1, Shared(frame, True))
        k.pages.get_refs(frame, 1)
        return True
    got = memmap_row(k, 1, nid)
    if got is not None:
        # A page of the first section is lent to the other sections.
        k.tables.set(vpn, vpn + 1, Shared(got[0][0], True))
    return got is not None


def _drop_what_has_no_memmap(
    original: Callable[[SeparatePaths, int, int, int], None], p: SeparatePaths, nid: int, begin: int, end: int
) -> None:
    try:
        original(p, nid, begin, end)
    except KernelBug as bug:
        if "Failed to allocate" not in str(bug) or "HugeTLB" in str(bug):
            raise  # sparse_init_early_section's BUG is no failed allocation
        for lo, hi, word in p.k.sections.flags.runs(begin, end):
            if not word & SECTION_HAS_MEM_MAP:
                p.k.sections.flags.clear(lo, hi)
                p.k.sections.touched.append((lo, hi))


def _keep_the_boot_count(original: Callable[[Kernel, int], None], k: Kernel, section: int) -> None:
    before = k.vmstat.nr_memmap_boot
    original(k, section)
    k.vmstat.nr_memmap_boot = before


def _hole_for_want_of_a_block(
    original: Callable[[Kernel, int, int, int, Altmap | None], int],
    k: Kernel,
    lo: int,
    hi: int,
    nid: int,
    altmap: Altmap | None,
) -> int:
    """PMD by PMD, as the kernel goes; an attempt that gets no block, and so goes on with base pages, is undone."""
    if altmap is not None:
        return original(k, lo, hi, nid, altmap)
    ptrs = k.arch.ptrs_per_pte
    for first in range(lo - lo % ptrs, hi, ptrs):
        if not ensure_tables(k, first, 0 if k.slab_available else nid, PMD_TABLE, CONSTRUCTED):
            return -ENOMEM
        empty = k.tables.get(first) is None and k.tables.tables[PTE_TABLE].get(first // ptrs) is None
        if empty:
            frame = alloc_pmd_block(k, nid, altmap)
            if frame is not None:
                k.tables.set(first, first + ptrs, Leaf(frame - first))
        elif original(k, max(first, lo), min(first + ptrs, hi), nid, altmap):
            return -ENOMEM
    return 0


def _selected_on_arm64(original: Callable[[Kernel, HState], bool], k: Kernel, h: HState) -> bool:
    return original(k, h) or (k.arch.name == "arm64" and _large_enough(k, h))


def _selected_on_s390(original: Callable[[Kernel, HState], bool], k: Kernel, h: HState) -> bool:
    return original(k, h) or (k.arch.name == "s390x" and _large_enough(k, h))


def _with_any_struct_page(original: Callable[[Kernel, HState], bool], k: Kernel, h: HState) -> bool:
    """Left out: that all struct pages of the tails are torn, for the shared tail page begins with a whole one."""
    return original(k, h) or (k.arch.hvo and _large_enough(k, h))


def _large_enough(k: Kernel, h: HState) -> bool:
    return k.arch.vmemmap_pages(h.order) > HUGETLB_VMEMMAP_RESERVE


def _remove_without_pgmap(
    original: Callable[[SeparatePaths, int, int, Altmap | None, PgMap | None], None],
    p: SeparatePaths,
    pfn: int,
    nr: int,
    altmap: Altmap | None,
    pgmap: PgMap | None,
) -> None:
    original(p, pfn, nr, altmap, None)


def _counted_when_free(original: Callable[[Kernel, Extents], None], k: Kernel, freed: Extents) -> None:
    """No page is reserved any more when it is asked: all leave NR_MEMMAP."""
    before = k.vmstat.nr_memmap_boot
    original(k, freed)
    k.vmstat.nr_memmap -= before - k.vmstat.nr_memmap_boot
    k.vmstat.nr_memmap_boot = before


_MACHINE = "vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1"

ACCT_UNDERFLOW_ON_POPULATE_FAIL: Final = Defect(
    id="ACC-2026-01",
    switch="acct_underflow_on_populate_fail",
    title="a failed add of memory lowers nr_memmap_pages",
    side="reference",
    source="mm/sparse-vmemmap: fix vmemmap accounting underflow (20260426092640.375967-2; Fixes c3576889d87b)",
    mechanism="section_activate counts after a successful populate only; section_deactivate, its error path, subtracts "
    "all the same",
    layer="accounting",
    spot="reference.sparse_vmemmap:populate_section_memmap",
    replacement=_count_after_success_only,
    program=f"{_MACHINE}\nboot\nfail alloc nth=3\nm0 = memory add at=0x2000000000 size=128M\n",
)

EARLY_FINAL_REMOVE_PARTIAL_COUNT: Final = Defect(
    id="early_final_remove_partial_count",
    switch="early_final_remove_partial_count",
    title="emptying an early section in parts leaves nr_memmap_boot_pages too high",
    side="reference",
    source="mm/sparse-vmemmap.c:free_map_bootmem of 7.3 counts a whole section (separate-paths.md Q2)",
    mechanism="the boot counter falls by what the last part describes, though the whole section's memmap goes",
    layer="accounting",
    spot="reference.sparse_vmemmap:section_deactivate",
    replacement=_count_of_the_last_part,
    # RAM goes by the block, which is the section, and a device in an early section never empties it.
    program=None,
)

PREHVO_WRPROTECT_RANGE: Final = Defect(
    id="HVO-2026-09",
    switch="prehvo_wrprotect_range",
    title="tail pages of a pre-HVO boot page stay writable",
    side="reference",
    source="mm/hugetlb_vmemmap: fix __hugetlb_vmemmap_optimize_folios() (Fixes 752fe17af693)",
    mechanism="the end of the range to protect is its start plus a number of pages, taken as bytes",
    layer="mapping",
    spot="reference.hugetlb_vmemmap:vmemmap_wrprotect_hvo",
    replacement=_end_by_pages_instead_of_bytes,
    program="vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1\nreserve size=1G count=1\nboot\n",
)

ROLLBACK_DESTROYS_HEAD: Final = Defect(
    id="HVO-2026-08",
    switch="rollback_destroys_head",
    title="rolling back an optimization overwrites the head's struct pages",
    side="reference",
    source="mm/hugetlb_vmemmap: fix incorrect vmemmap restore in rollback (20260525025213.2229628-1; "
    "Fixes c0b495b91a47)",
    mechanism="the rollback fills every page from the tail template, the head's too, and loses the head's copy",
    layer="mapping",
    spot="reference.hugetlb_vmemmap:rollback",
    replacement=_rollback_of_every_page,
    program="vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1\nboot\nhugetlb overcommit size=1G to=1\n"
    "fail alloc nth=5\nu0 = hugetlb map size=1G count=1\n",
)

BLOCK_CREATE_FAIL_NO_ALTMAP: Final = Defect(
    id="MHP-2026-02",
    switch="block_create_fail_no_altmap",
    title="self-hosted memmap frames go to the buddy allocator",
    side="reference",
    source="mm/memory_hotplug: fix incorrect altmap passing in error path (20260428081855.1249045-3; "
    "Fixes 6b8f0798b85a)",
    mechanism="when the block device cannot be made, the memory is removed without its altmap",
    layer="returns",
    spot="mm.memory_hotplug:_add_self_hosted_block",
    replacement=_remove_without_altmap,
    program="vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1 memmap_on_memory=on\nboot\nfail alloc nth=4\n"
    "m0 = memory add at=0x100000000 size=128M memmap_on_memory=on\n",
)

DAX_FULL_COUNT: Final = Defect(
    id="ACC-2026-03",
    switch="dax_full_count",
    title="device DAX memmap is counted as if it were not optimized",
    side="reference",
    source="mm/sparse-vmemmap: fix DAX vmemmap accounting with optimization (20260428081855.1249045-5; "
    "Fixes 15995a352474)",
    mechanism="what a section counts for does not depend on vmemmap_shift",
    layer="accounting",
    spot="reference.sparse_vmemmap:section_nr_vmemmap_pages",
    replacement=_count_as_if_not_optimized,
    program=f"{_MACHINE}\nboot\nd0 = dax create at=0x100000000 size=2M align=2M\n",
)

PAGEBLOCK_FIRST_ONLY: Final = Defect(
    id="INIT-2026-05",
    switch="pageblock_first_only",
    title="pageblocks of device compound pages keep no migratetype",
    side="reference",
    source="mm/mm_init: fix pageblock migratetype for ZONE_DEVICE compound pages (20260428081855.1249045-6; "
    "Fixes c4386bd8ee3a)",
    mechanism="only the pageblock of each compound page's head is set",
    layer="structpages",
    spot="reference.mm_init:memmap_init_zone_device",
    replacement=_pageblock_of_the_head_only,
    program=f"{_MACHINE}\nboot\nd0 = dax create at=0x100000000 size=1G align=1G\n",
)

EARLY_SECTION_SHORT_INIT: Final = Defect(
    id="INIT-2026-06",
    switch="early_section_short_init",
    title="struct pages of a device in an early section stay uninitialised",
    side="reference",
    source="mm/mm_init: fix uninitialized struct pages for ZONE_DEVICE (20260428081855.1249045-7; Fixes 6fd3620b3428)",
    mechanism="an early section's memmap is complete, yet only what a shared one needs is initialised",
    layer="structpages",
    spot="reference.mm_init:compound_nr_pages",
    replacement=_blind_to_early_sections,
    program="vmm 1\nmachine arch=x86_64 page=4K ram=1088M nodes=1\nboot\n"
    "d0 = dax create at=0x44000000 size=2M align=2M\n",
)

PPC_ADDR_PFN: Final = Defect(
    id="PPC-2026-13",
    switch="ppc_addr_pfn",
    title="powerpc takes vmemmap pages for others of their compound page",
    side="reference",
    source="powerpc/mm: fix wrong addr_pfn tracking in compound vmemmap population (9c914b7a0bd1; Fixes f2b79c0d7968)",
    mechanism="the pfn beside the address grows by one for each vmemmap page, which describes 64 pages",
    layer="mapping",
    spot="reference.radix_pgtable:vmemmap_populate_compound_pages",
    replacement=_pfn_by_vmemmap_page,
    program="vmm 1\nmachine arch=ppc64_radix page=4K ram=1G nodes=1\nboot\n"
    "d0 = dax create at=0x100000000 size=16M align=2M\n",
)

BOOT_POPULATE_DROP: Final = Defect(
    id="boot_populate_drop",
    switch="boot_populate_drop",
    title="boot sections that get no memmap are dropped instead of a panic",
    side="reference",
    source="mm/sparse.c: sparse_init_nid before it panicked (separate-paths.md Q21)",
    mechanism="a section that cannot be populated, and all behind it on the node, are no longer present, though zones "
    "and memblock go on with their memory",
    layer="returns",
    spot="reference.hugetlb_boot:sparse_init_nid",
    replacement=_drop_what_has_no_memmap,
    # Only reservations of nearly all memory show it (corpus/history/boot-populate-drop.vmm): random programs do not.
    program=None,
)

REMOVAL_COUNTS_ALL: Final = Defect(
    id="ACC-2026-04",
    switch="removal_counts_all",
    title="removing a device lowers nr_memmap_pages by more than adding it raised it",
    side="reference",
    source="mm/sparse-vmemmap: pass @pgmap argument to memory deactivation paths (20260428081855.1249045-4)",
    mechanism="removal does not know the page map, and counts as if nothing had been optimized",
    layer="accounting",
    spot="reference.paths:SeparatePaths.sparse_remove_section",
    replacement=_remove_without_pgmap,
    program=f"{_MACHINE}\nboot\nd0 = dax create at=0x100000000 size=2M align=2M\ndax destroy d0\n",
)

BOOT_COUNT_KEPT: Final = Defect(
    id="ACC-2025-27",
    switch="boot_count_kept",
    title="boot memory that goes leaves nr_memmap_boot_pages too high",
    side="reference",
    source="mm: fix accounting of memmap pages (c3576889d87b; Fixes 15995a352474)",
    mechanism="freeing the memmap of an early section lowers no counter",
    layer="accounting",
    spot="reference.sparse_vmemmap:free_map_bootmem",
    replacement=_keep_the_boot_count,
    program="vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=2 interleave=1G\nboot\nmemory unplug ram1\n",
)

RADIX_HOLE: Final = Defect(
    id="PPC-2025-32",
    switch="radix_hole",
    title="memory is added with a hole in its memmap (powerpc)",
    side="reference",
    source="book3s64/radix: Handle error conditions properly in radix_vmemmap_populate (2025-06, v2 1/2)",
    mechanism="without an altmap, a PMD for which no block is to be had is neither filled with base pages nor an error",
    layer="returns",
    spot="reference.radix_pgtable:vmemmap_populate",
    replacement=_hole_for_want_of_a_block,
    program="vmm 1\nmachine arch=ppc64_radix page=4K ram=1G nodes=1\nboot\nfail alloc nth=3\n"
    "m0 = memory add at=0x100000000 size=256M\n",
)

HVO_ON_ARM64: Final = Defect(
    id="ARM64-2023-53",
    switch="hvo_on_arm64",
    title="optimizing a huge page changes valid entries (arm64)",
    side="reference",
    source="arm64: mm: hugetlb: Disable HUGETLB_PAGE_OPTIMIZE_VMEMMAP (060a2c92d1b6; Fixes 1e63ac088f20)",
    mechanism="HVO is selected on arm64, where a valid entry has to be made invalid before it maps another frame",
    layer="mapping",
    spot="reference.hugetlb_vmemmap:hugetlb_vmemmap_optimizable",
    replacement=_selected_on_arm64,
    program="vmm 1\nmachine arch=arm64 page=4K ram=1G nodes=1\nboot\nhugetlb resize size=2M to=1\n",
)

HVO_ON_S390: Final = Defect(
    id="S390-2025-24",
    switch="hvo_on_s390",
    title="vmemmap pages are freed while CPUs still have their translations (s390)",
    side="reference",
    source="mm: hugetlb: fix HVO crash on s390 (20251028153930.37107-1; Fixes f13b83fdd996)",
    mechanism="HVO is selected on s390, where flush_tlb_all, which it relies on, is an empty function",
    layer="mapping",
    spot="reference.hugetlb_vmemmap:hugetlb_vmemmap_optimizable",
    replacement=_selected_on_s390,
    program="vmm 1\nmachine arch=s390x page=4K ram=1G nodes=1\nboot\nhugetlb resize size=1M to=1\n",
)

COUNTED_WHEN_FREE: Final = Defect(
    id="ACC-2024-37",
    switch="counted_when_free",
    title="a vmemmap page is counted by what its struct page says once it is free",
    side="reference",
    source="mm: update the memmap stat before page is freed (Fixes 15995a352474)",
    mechanism="free_vmemmap_page gives the page back and then derives the counter from it; 6.11-rc took the node, and "
    "since the counters are no longer of nodes it is PG_reserved, which free_reserved_page has cleared",
    layer="accounting",
    spot="reference.hugetlb_vmemmap:free_vmemmap_page_list",
    replacement=_counted_when_free,
    program=f"{_MACHINE}\nboot\nhugetlb resize size=2M to=1\n",
)

STRUCT_PAGES_CROSS: Final = Defect(
    id="HVO-2022-68",
    switch="struct_pages_cross",
    title="huge pages are optimized though struct pages cross the borders of vmemmap pages",
    side="reference",
    source="mm: hugetlb_vmemmap: disable hugetlb_optimize_vmemmap when struct page crosses page boundaries (5.19)",
    mechanism="nobody asks whether sizeof(struct page) is a power of two: tails get halves of other struct pages",
    layer="mapping",
    spot="reference.hugetlb_vmemmap:hugetlb_vmemmap_optimizable",
    replacement=_with_any_struct_page,
    program="vmm 1\nmachine arch=loongarch64 page=4K ram=1G nodes=1 kfence=on\nboot\nhugetlb resize size=2M to=1\n",
)

OLDER: Final = (
    *(REMOVAL_COUNTS_ALL, BOOT_COUNT_KEPT, RADIX_HOLE, HVO_ON_ARM64, HVO_ON_S390, COUNTED_WHEN_FREE),
    STRUCT_PAGES_CROSS,
)
"""Those that are not of the profile v7.0-base."""
