"""Struct pages for device memory (mm/memremap.c, Linux 7.3), for page maps of device DAX (MEMORY_DEVICE_GENERIC) and
of fsdev (MEMORY_DEVICE_FS_DAX).

Left out: private, coherent and p2p memory; page references; PAT tracking; the KASAN shadow; the search for a
conflicting page map or RAM in the range, which finds nothing because `mm.dax` owns the range's resource by then.
"""

from __future__ import annotations

from mm.errno import EINVAL
from mm.kernel import Kernel
from mm.memory_hotplug import arch_add_memory, arch_remove_memory, mhp_range_allowed
from mm.mmzone import SECTION_TAINT_ZONE_DEVICE, ZONE_DEVICE
from mm.pgmap import PgMap


def memremap_pages(k: Kernel, pgmap: PgMap) -> int:
    """memremap_pages: give every range struct pages, or none; 0 or an errno.

    Sections that the failing range has added are not undone, only the ranges before it are.
    """
    if pgmap.vmemmap_shift > k.arch.max_folio_order:
        k.warn_once("requested folio size unsupported")
        return -EINVAL
    k.remaps.append((pgmap, k.sections.subsections.copy()))
    pgmap.nr_range = 0
    for range_id in range(len(pgmap.ranges)):
        rc = pagemap_range(k, pgmap, range_id)
        if rc:
            memunmap_pages(k, pgmap)
            return rc
        pgmap.nr_range += 1
    return 0


def pagemap_range(k: Kernel, pgmap: PgMap, range_id: int) -> int:
    """pagemap_range, move_pfn_range_to_zone (mm/memory_hotplug.c) for ZONE_DEVICE."""
    start, end = pgmap.ranges[range_id]
    altmap = pgmap.altmap
    if not mhp_range_allowed(k, start, end - start):
        return -EINVAL
    rc = arch_add_memory(k, pgmap.nid, start, end - start, altmap, pgmap)
    if rc:
        return rc
    zone = k.nodes[pgmap.nid].zones[ZONE_DEVICE]
    zone.grow_span(start, end)
    per = k.arch.pages_per_section
    for pfn in (start, end):
        if pfn % per:
            k.sections.set_flags(pfn // per, pfn // per + 1, SECTION_TAINT_ZONE_DEVICE)
    if altmap is not None:
        # memmap_init_range: of a device only the frames that hold its memory map, less the reserved ones.
        first, last = start + altmap.reserve, start + altmap.offset()
        k.paths.memmap_init_range(zone, first, last - first)
    k.paths.memmap_init_zone_device(zone, start, end - start, pgmap)
    return 0


def memunmap_pages(k: Kernel, pgmap: PgMap) -> None:
    """memunmap_pages, pageunmap_range: take the finished ranges away, ascending. The span of ZONE_DEVICE stays."""
    k.remaps.append((pgmap, None))
    for start, end in pgmap.ranges[: pgmap.nr_range]:
        arch_remove_memory(k, start, end - start, pgmap.altmap, pgmap)
    if pgmap.altmap is not None and pgmap.altmap.alloc:
        k.warn_once("failed to free all reserved pages")
