"""Memory blocks whose memmap lies in themselves: memory_hotplug.memmap_on_memory (mm/memory_hotplug.c, Linux 7.3)."""

from __future__ import annotations

from mm.altmap import Altmap
from mm.kernel import MIGRATE_UNMOVABLE, Kernel
from mm.mmzone import Zone
from mm.page import SelfHosted
from mm.page_alloc import OWNER_SELFHOSTED


def memory_block_memmap_on_memory_pages(k: Kernel) -> int:
    """memory_block_memmap_on_memory_pages: frames at the start of a block that are set aside for its memmap."""
    nr_pages = -(-k.memory_blocks.pages * k.arch.struct_page // k.arch.page)
    if k.machine.memmap_on_memory == "force":
        pageblock = 1 << k.arch.pmd_order
        return -(-nr_pages // pageblock) * pageblock
    return nr_pages


def get_memmap_mode(k: Kernel) -> str:
    """get_memmap_mode: what /sys/module/memory_hotplug/parameters/memmap_on_memory shows, without the newline."""
    return {"off": "N", "on": "Y", "force": "force"}[k.machine.memmap_on_memory]


def mhp_supports_memmap_on_memory(k: Kernel) -> bool:
    """mhp_supports_memmap_on_memory, arch_supports_memmap_on_memory (P7 of separate-paths.md)."""
    if k.machine.memmap_on_memory == "off" or not k.arch.memmap_on_memory:
        return False
    vmemmap_size = k.memory_blocks.pages * k.arch.struct_page
    memmap_pages = memory_block_memmap_on_memory_pages(k)
    return (
        vmemmap_size % k.arch.page == 0
        and memmap_pages % (1 << k.arch.pmd_order) == 0
        and memmap_pages != k.memory_blocks.pages
        # powerpc with 64K pages (arch/powerpc/include/asm/pgtable.h) leaves this to its fallback to base pages.
        and (vmemmap_size % (1 << k.arch.pmd_shift) == 0 or (k.arch.name, k.arch.page_shift) == ("ppc64_radix", 16))
    )


def mhp_altmap(k: Kernel, start_pfn: int) -> Altmap:
    """The altmap that create_altmaps_and_memory_blocks gives the block at `start_pfn`."""
    end_pfn = start_pfn + k.memory_blocks.pages
    return Altmap(start_pfn, end_pfn, 0, memory_block_memmap_on_memory_pages(k), OWNER_SELFHOSTED)


def altmap_free(k: Kernel, altmap: Altmap) -> None:
    """altmap_free: complain when its frames are still in use."""
    if altmap.alloc:
        k.warn_once("WARNING: altmap_free: Altmap not fully unmapped")


def mhp_init_memmap_on_memory(k: Kernel, start_pfn: int, end_pfn: int, zone: Zone) -> None:
    """mhp_init_memmap_on_memory: the memmap's own frames become pages of the zone that their block goes online in, and
    so do those that force mode sets aside beside them, up to a whole pageblock.

    Left out: the KASAN shadow; a memmap that fills whole sections, which takes blocks of 64 sections.
    """
    zone.grow_span(start_pfn, end_pfn)
    k.memmap.init(start_pfn, end_pfn - start_pfn, SelfHosted(zone.nid, zone.idx))
    k.set_pageblocks(start_pfn, end_pfn, MIGRATE_UNMOVABLE)
    k.pages.online(zone, start_pfn, end_pfn, free=False)
    k.pages.claim(start_pfn, end_pfn, OWNER_SELFHOSTED)
