"""Boot, as far as both trees share it (mm/mm_init.c:mm_core_init_early, mm_core_init, page_alloc_init_late;
mm/memblock.c, Linux 7.3).

Order here: memblock learns the RAM, zones are sized, areas for gigantic pages are set aside, the side builds the boot
memory map (`mm_core_init_early`), memblock gives its free memory to the buddy allocator, the side finishes struct pages
and boot gigantic folios (`page_alloc_init_late`), the areas become active, ordinary boot huge pages are allocated. Left
out: firmware tables, mirrored memory, movablecore, page tables of the direct map.
"""

from __future__ import annotations

from mm.arch import SUBSECTION_SHIFT
from mm.cma import cma_init_reserved_areas
from mm.contig import alloc_contig_range
from mm.direct_map import radix_init_pgtable
from mm.hugetlb import hugetlb_init
from mm.hugetlb_cma import hugetlb_cma_reserve
from mm.kernel import MIGRATE_MOVABLE, Kernel
from mm.memmap_on_memory import get_memmap_mode
from mm.mmzone import (
    SECTION_IS_ONLINE,
    SECTION_MARKED_PRESENT,
    ZONE_NORMAL,
)
from mm.page import Plain
from mm.page_alloc import OWNER_RESERVED


def boot(k: Kernel) -> int:
    """Boot the kernel; 0. Panics are KernelBug."""
    setup_bootmem(k)
    free_area_init(k)
    radix_init_pgtable(k)
    hugetlb_cma_reserve(k)
    k.paths.mm_core_init_early()
    memblock_free_all(k)
    k.slab_available = True
    k.paths.page_alloc_init_late()
    memory_dev_init(k)
    k.cma.alloc_contig_range = alloc_contig_range
    cma_init_reserved_areas(k)
    hugetlb_init(k)
    k.tables.pgd_ctor()
    if k.arch.memmap_on_memory:  # CONFIG_MHP_MEMMAP_ON_MEMORY
        k.parameters["memory_hotplug.memmap_on_memory"] = get_memmap_mode(k)
    return 0


def setup_bootmem(k: Kernel) -> None:
    """setup_bootmem (arch/riscv/mm/init.c): which memory the vmemmap has room for."""
    arch = k.arch
    if arch.vmemmap_shift:
        first = vmemmap_start_pfn(k) // arch.spp
        k.tables.window = first, first + (1 << (arch.vmemmap_shift - arch.page_shift)) // arch.spp


def vmemmap_start_pfn(k: Kernel) -> int:
    """vmemmap_start_pfn (arch/riscv/mm/init.c): the vmemmap begins with the struct pages of the first RAM."""
    arch = k.arch
    return k.machine.start() >> arch.vmemmap_align << arch.vmemmap_align >> arch.page_shift


def free_area_init(k: Kernel) -> None:
    """memblock_add_node for all RAM, free_area_init: zone spans and present pages (mm/mm_init.c)."""
    shift = k.arch.page_shift
    limits = []
    low = 0
    for idx, end in (*k.arch.zones, (ZONE_NORMAL, 1 << 63)):
        limits.append((idx, low, end >> shift))
        low = end >> shift
    for nid, start, end in k.machine.ram_ranges():
        k.memblock.add(nid, start, end)
        k.iomem.set(start, end, "ram")
        for idx, low, high in limits:
            lo, hi = max(start, low), min(end, high)
            if lo < hi:
                zone = k.nodes[nid].zones[idx]
                zone.grow_span(lo, hi)
                zone.present_pages += hi - lo
                k.pages.online(zone, lo, hi, free=False)
    base = k.machine.ram_ranges()[0][1]
    for first, last in k.arch.image:
        lo, hi = base + (first >> shift), base + (last >> shift)
        for free in k.memblock.free_by_node:
            free.remove(lo, hi)
        k.pages.claim(lo, hi, OWNER_RESERVED)


def memblocks_present(k: Kernel) -> None:
    """memblocks_present (mm/sparse.c): sections with any RAM are PRESENT and ONLINE; the first range's node wins."""
    per = k.arch.pages_per_section
    done = 0
    for nid, start, end in k.machine.ram_ranges():
        lo, hi = max(start // per, done), -(-end // per)
        if lo < hi:
            k.sections.nid.set(lo, hi, nid)
            k.sections.set_flags(lo, hi, SECTION_MARKED_PRESENT | SECTION_IS_ONLINE)
            done = hi


def sparse_init_subsection_map(k: Kernel) -> None:
    """sparse_init_subsection_map (mm/sparse-vmemmap.c): subsection bits from the RAM map."""
    per = 1 << (SUBSECTION_SHIFT - k.arch.page_shift)
    for _, start, end in k.machine.ram_ranges():
        k.sections.subsections.add(start // per, -(-end // per))


def memblock_free_all(k: Kernel) -> None:
    """memblock_free_all (mm/memblock.c): struct pages of reserved ranges that nobody initialised yet, then free memory
    to buddy.

    Struct pages of ranges marked noinit are left alone, as memmap_init_reserved_pages does.
    """
    for _, start, end in k.machine.ram_ranges():
        for lo, hi, zone in k.pages.zone_of.runs(start, end):
            content = Plain(zone.nid, zone.idx)
            for s, e, _ in k.pages.owners.runs(lo, hi):
                _init_reserved(k, s, e, content)
    for free in k.memblock.free_by_node:
        for lo, hi in free.items():
            for s, e, zone in k.pages.zone_of.runs(lo, hi):
                k.pages.online(zone, s, e, free=True)
                k.set_pageblocks(s, e, MIGRATE_MOVABLE)


def _init_reserved(k: Kernel, lo: int, hi: int, content: Plain) -> None:
    """reserve_bootmem_region for [lo, hi) less the noinit parts; already initialised struct pages stay."""
    for s, e in k.memblock.noinit.runs(lo, hi):
        _init_raw(k, lo, s, content)
        lo = e
    _init_raw(k, lo, hi, content)


def _init_raw(k: Kernel, lo: int, hi: int, content: Plain) -> None:
    """__init_page_from_nid (mm/mm_init.c) for the raw struct pages of [lo, hi): a pageblock's first page makes it
    movable."""
    for s, e, _ in k.memmap.own.runs(lo, hi):
        if lo < s:
            k.memmap.init(lo, s - lo, content)
            k.set_pageblocks(lo, s, MIGRATE_MOVABLE)
        lo = e
    if lo < hi:
        k.memmap.init(lo, hi - lo, content)
        k.set_pageblocks(lo, hi, MIGRATE_MOVABLE)


def memory_dev_init(k: Kernel) -> None:
    """memory_dev_init (drivers/base/memory.c): one online block device for each present boot section."""
    per = k.memory_blocks.pages
    done = 0
    for nid, start, end in k.machine.ram_ranges():
        for lo, hi, zone in k.pages.zone_of.runs(start, end):
            first, last = max(lo // per, done), -(-hi // per)
            if first < last:
                k.memory_blocks.put(first, last, nid, zone.key)
                done = last
