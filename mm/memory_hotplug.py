"""Memory hotplug: ranges of RAM or of device memory come and go (mm/memory_hotplug.c, Linux 7.3).

The memory map of a section is behind the seam; here is what surrounds it: resources, block devices, altmaps, and the
order in which an error is undone. Blocks go online and offline in `mm.memory_online`.

Left out: the direct map but on powerpc, memory groups, node hotplug, firmware map.
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.direct_map import arch_create_linear_mapping, arch_remove_linear_mapping
from mm.errno import E2BIG, EBUSY, EEXIST, EINVAL, ENOMEM
from mm.kernel import Kernel
from mm.machine import OnlineType
from mm.memmap_on_memory import altmap_free, mhp_altmap, mhp_supports_memmap_on_memory
from mm.memory import MemoryBlocks
from mm.memory_online import memory_block_offline, memory_block_online, memory_blocks_offline, memory_blocks_online
from mm.mmzone import ZONE_MOVABLE
from mm.pgmap import PgMap
from mm.resource import KMEM_RAM, release_region, request_region

__all__ = [
    "add_memory",
    "add_memory_driver_managed",
    "arch_add_memory",
    "arch_remove_memory",
    "memory_block_offline",
    "memory_block_online",
    "mhp_range_allowed",
    "offline_and_remove_memory_ranges",
    "remove_memory",
]

# -- sections -------------------------------------------------------------------------------------------------------


def mhp_range_allowed(k: Kernel, pfn: int, nr_pages: int) -> bool:
    """mhp_range_allowed (mm/memory_hotplug.c, 7.3): whether the vmemmap has room for a range (DIRECT_MAP_PHYSMEM_END).

    Left out: arch_get_mappable_range, what the direct map has room for.
    """
    window, spp = k.tables.window, k.arch.spp
    return window is None or (window[0] * spp <= pfn and pfn + nr_pages <= window[1] * spp)


def add_pages(k: Kernel, nid: int, pfn: int, nr_pages: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
    """__add_pages (mm/memory_hotplug.c, 7.3). The loop over the sections is behind the seam, which does many at
    once."""
    if altmap is not None:
        if altmap.base_pfn != pfn or altmap.offset() > nr_pages:
            k.warn_once("memory add fail, invalid altmap")
            return -EINVAL
        altmap.alloc = 0
    if (pfn | nr_pages) % k.arch.pages_per_subsection:  # check_pfn_span (P8)
        k.warn(f"WARNING: Misaligned __add_pages start: {pfn:#x} end: {pfn + nr_pages - 1:#x}")
        return -EINVAL
    return k.paths.sparse_add_section(nid, pfn, nr_pages, altmap, pgmap)


def arch_add_memory(k: Kernel, nid: int, pfn: int, nr_pages: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
    """arch_add_memory, add_pages (arch/x86/mm/init_64.c, 7.3), with the direct map of arch/powerpc/mm/mem.c. Left out:
    max_pfn."""
    arch_create_linear_mapping(k, pfn, nr_pages)
    rc = add_pages(k, nid, pfn, nr_pages, altmap, pgmap)
    if rc:
        k.warn_once("WARNING: add_pages")
        arch_remove_linear_mapping(k, pfn, nr_pages)
    if altmap is not None and altmap.alloc:
        first = altmap.base_pfn + altmap.reserve
        k.pages.claim(first, first + altmap.alloc + altmap.align, altmap.owner)
    return rc


def arch_remove_memory(k: Kernel, pfn: int, nr_pages: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
    """arch_remove_memory (arch/x86/mm/init_64.c, arch/powerpc/mm/mem.c), __remove_pages (mm/memory_hotplug.c, 7.3).

    Left out: the span check, since only what was added is removed.
    """
    k.paths.sparse_remove_section(pfn, nr_pages, altmap, pgmap)
    arch_remove_linear_mapping(k, pfn, nr_pages)
    if k.pages.hwpoison:
        k.pages.forget_poison(pfn, pfn + nr_pages)
    if altmap is not None and not altmap.alloc:
        k.pages.disclaim(pfn + altmap.reserve, pfn + altmap.offset())


# -- block devices --------------------------------------------------------------------------------------------------


def create_memory_block_devices(k: Kernel, pfn: int, nr_pages: int, nid: int, altmap: Altmap | None) -> int:
    """create_memory_block_devices (drivers/base/memory.c, 7.3): offline devices for all blocks, or none and -ENOMEM."""
    blocks = k.memory_blocks
    first, last = pfn // blocks.pages, (pfn + nr_pages) // blocks.pages
    if k.faults.grant("BLK", last - first) < last - first:
        return -ENOMEM
    blocks.put(first, last, nid, MemoryBlocks.OFFLINE)
    if altmap is not None:
        blocks.altmaps[first] = altmap
    return 0


# -- RAM ------------------------------------------------------------------------------------------------------------


def add_memory(k: Kernel, nid: int, start_pfn: int, nr: int, memmap_on_memory: bool) -> int:
    """add_memory (mm/memory_hotplug.c, 7.3); 0 or an errno. Blocks go online as memhp_default_state says.

    `memmap_on_memory` is the request flag MHP_MEMMAP_ON_MEMORY.
    """
    return _add_memory(k, nid, start_pfn, nr, memmap_on_memory, k.machine.memhp_default_state, "hotplug")


def add_memory_driver_managed(
    k: Kernel, nid: int, start_pfn: int, nr: int, memmap_on_memory: bool, online_type: OnlineType
) -> int:
    """__add_memory_driver_managed (mm/memory_hotplug.c, 7.3) inside the reservation of the kmem driver."""
    return _add_memory(k, nid, start_pfn, nr, memmap_on_memory, online_type, KMEM_RAM)


def _add_memory(
    k: Kernel, nid: int, start_pfn: int, nr: int, memmap_on_memory: bool, online_type: OnlineType, kind: str
) -> int:
    if nr <= 0 or start_pfn + nr > 1 << (k.arch.physmem_bits - k.arch.page_shift):
        return -E2BIG
    if not mhp_range_allowed(k, start_pfn, nr):
        return -E2BIG
    if not request_region(k, start_pfn, start_pfn + nr, kind):
        return -EEXIST
    rc = add_memory_resource(k, nid, start_pfn, nr, memmap_on_memory)
    if rc:
        release_region(k, start_pfn, start_pfn + nr)
        return rc
    if online_type != "offline":
        per = k.memory_blocks.pages
        # A failure does not fail the add.
        memory_blocks_online(k, start_pfn // per, (start_pfn + nr) // per, online_type)
    return 0


def add_memory_resource(k: Kernel, nid: int, start_pfn: int, nr: int, memmap_on_memory: bool) -> int:
    """__add_memory_resource (mm/memory_hotplug.c, 7.3) up to onlining; 0 or an errno."""
    if (start_pfn | nr) % k.memory_blocks.pages:
        return -EINVAL  # check_hotplug_memory_range
    if memmap_on_memory and mhp_supports_memmap_on_memory(k):
        return create_altmaps_and_memory_blocks(k, nid, start_pfn, nr)
    rc = arch_add_memory(k, nid, start_pfn, nr, None, None)
    if rc:
        return rc
    rc = create_memory_block_devices(k, start_pfn, nr, nid, None)
    if rc:
        arch_remove_memory(k, start_pfn, nr, None, None)
    return rc


def create_altmaps_and_memory_blocks(k: Kernel, nid: int, start_pfn: int, nr: int) -> int:
    """create_altmaps_and_memory_blocks (mm/memory_hotplug.c, 7.3): an error removes the blocks before it."""
    per = k.memory_blocks.pages
    for pfn in range(start_pfn, start_pfn + nr, per):
        rc = _add_self_hosted_block(k, nid, pfn, per)
        if rc:
            if pfn != start_pfn:
                remove_memory_blocks_and_altmaps(k, start_pfn, pfn - start_pfn)
            return rc
    return 0


def _add_self_hosted_block(k: Kernel, nid: int, pfn: int, nr: int) -> int:
    if k.faults.fails("ALT"):
        return -ENOMEM
    altmap = mhp_altmap(k, pfn)
    rc = arch_add_memory(k, nid, pfn, nr, altmap, None)
    if not rc:
        rc = create_memory_block_devices(k, pfn, nr, nid, altmap)
        if not rc:
            return 0
        arch_remove_memory(k, pfn, nr, altmap, None)
    altmap_free(k, altmap)
    return rc


def remove_memory_blocks_and_altmaps(k: Kernel, start_pfn: int, nr: int) -> None:
    """remove_memory_blocks_and_altmaps (mm/memory_hotplug.c, 7.3)."""
    blocks = k.memory_blocks
    per = blocks.pages
    for pfn in range(start_pfn, start_pfn + nr, per):
        block = pfn // per
        altmap = blocks.altmaps.pop(block)
        blocks.drop(block, block + 1)
        arch_remove_memory(k, pfn, per, altmap, None)
        altmap_free(k, altmap)


def memory_blocks_have_altmaps(k: Kernel, first: int, last: int) -> int:
    """memory_blocks_have_altmaps (mm/memory_hotplug.c, 7.3): 1 if all blocks have one, 0 if none has, else -EINVAL."""
    altmaps = k.memory_blocks.altmaps
    found = sum(first <= block < last for block in altmaps)
    if found and found != last - first:
        k.warn_once("WARNING: memory_blocks_have_altmaps")
        return -EINVAL
    return int(found > 0)


def remove_memory(k: Kernel, start_pfn: int, nr: int) -> int:
    """remove_memory, try_remove_memory (mm/memory_hotplug.c, 7.3); 0 or an errno.

    A range that is no row of blocks is a BUG there, and no driver asks for it; here it is -EINVAL.
    """
    blocks = k.memory_blocks
    per = blocks.pages
    if nr <= 0 or (start_pfn | nr) % per:
        return -EINVAL
    first, last = start_pfn // per, (start_pfn + nr) // per
    for _, _, state in blocks.zone.runs(first, last):
        if state != MemoryBlocks.OFFLINE:
            return -EBUSY
    rc = memory_blocks_have_altmaps(k, first, last)
    if rc < 0:
        return rc
    if rc:
        remove_memory_blocks_and_altmaps(k, start_pfn, nr)
    else:
        blocks.drop(first, last)
        arch_remove_memory(k, start_pfn, nr, None, None)
    release_region(k, start_pfn, start_pfn + nr)
    return 0


def offline_and_remove_memory_ranges(k: Kernel, ranges: list[tuple[int, int]]) -> int:
    """offline_and_remove_memory_ranges (mm/memory_hotplug.c, 7.3): all ranges (first pfn, pages), or none and an errno.

    Every block of every range goes offline first. If one does not, those that did go online again, in ZONE_MOVABLE if
    they were there, else in a kernel zone.
    """
    blocks = k.memory_blocks
    per = blocks.pages
    if not ranges or any(nr <= 0 or (start | nr) % per for start, nr in ranges):
        return -EINVAL
    offlined: list[tuple[int, int, OnlineType]] = []
    for start, nr in ranges:
        for lo, hi, zone in blocks.zone.runs(start // per, (start + nr) // per):
            if zone == MemoryBlocks.OFFLINE:
                continue  # try_offline_memory_block: what is offline is fine
            online_type: OnlineType = "online_movable" if zone[1] == ZONE_MOVABLE else "online_kernel"
            while lo < hi:
                rc, end = memory_blocks_offline(k, lo, hi)
                if rc:
                    for row in offlined:
                        memory_blocks_online(k, *row)  # try_reonline_memory_block
                    return rc
                offlined.append((lo, end, online_type))
                lo = end
    for start, nr in ranges:
        rc = remove_memory(k, start, nr)
        assert not rc  # where the kernel warns: every block is offline
    return 0
