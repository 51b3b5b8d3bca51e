"""Writing struct pages (mm/mm_init.c, Linux 7.3; separate-paths.md 3.4, 3.19).

Left out: kernelcore and movablecore, KHO, page_ext, the threads of deferred initialisation (the result is the same).
"""

from __future__ import annotations

from mm.kernel import MIGRATE_MOVABLE, Kernel
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY, Zone
from mm.page import Compound, Content, Plain
from mm.pgmap import PgMap
from reference.populate import VMEMMAP_RESERVE_NR, vmemmap_can_optimize


def memmap_init_range(k: Kernel, zone: Zone, pfn: int, nr: int) -> None:
    """memmap_init_range: ordinary struct pages, pageblocks movable.

    For ZONE_DEVICE the caller passes the part of the range that the altmap covers, the only one that the kernel
    writes here.
    """
    k.memmap.init(pfn, nr, Plain(zone.nid, zone.idx))
    k.set_pageblocks(pfn, pfn + nr, MIGRATE_MOVABLE)


# -- boot -----------------------------------------------------------------------------------------------------------


def init_unavailable_range(k: Kernel, lo: int, hi: int, nid: int, zone_idx: int) -> None:
    """init_unavailable_range: struct pages of holes, as far as a section gives them a memmap; they look like the
    zone beside.
    """
    per = k.arch.pages_per_section
    content = Plain(nid, zone_idx)
    for s, e, word in k.sections.flags.runs(lo // per, -(-hi // per)):
        start, end = max(lo, s * per), min(hi, e * per)
        if word & SECTION_HAS_MEM_MAP and start < end:
            k.memmap.init(start, end - start, content)


def memmap_init(k: Kernel) -> list[int | None]:
    """memmap_init: struct pages of all RAM, the highest zone of each node only up to the first deferred section.

    Returns each node's first_deferred_pfn, None where nothing is deferred.
    """
    first_deferred: list[int | None] = [None] * len(k.nodes)
    node_end = [max(zone.end_pfn for zone in node.zones) for node in k.nodes]
    counted = prev_end = 0  # defer_init's static variables: the pages of the zone that ends at prev_end
    hole_pfn = 0
    nid = zone_idx = 0
    for nid, range_start, range_end in k.machine.ram_ranges():
        for zone in k.nodes[nid].zones:
            start, end = max(range_start, zone.start_pfn), min(range_end, zone.end_pfn)
            if start >= end:
                continue
            stop = end
            if k.machine.deferred_init and zone.end_pfn == node_end[nid]:
                first = first_deferred[nid]
                if first is None:
                    if prev_end != zone.end_pfn:
                        prev_end, counted = zone.end_pfn, 0
                    first = _defer_init(k, start, counted)
                    counted += end - start
                    if first < end:
                        first_deferred[nid] = first
                stop = first
            if start < stop:
                memmap_init_range(k, zone, start, min(stop, end) - start)
            if hole_pfn < start:
                init_unavailable_range(k, hole_pfn, start, nid, zone.idx)
            hole_pfn = end
            zone_idx = zone.idx
    per = k.arch.pages_per_section
    section_end = -(-hole_pfn // per) * per
    if hole_pfn < section_end:
        init_unavailable_range(k, hole_pfn, section_end, nid, zone_idx)
    return first_deferred


def _defer_init(k: Kernel, pfn: int, counted: int) -> int:
    """defer_init: the first section start after more than a section of the zone's struct pages has been counted.

    The page in question is counted before the test, so exactly one section's worth may come before it.
    """
    per = k.arch.pages_per_section
    at = pfn + max(0, per - counted)
    return -(-at // per) * per


def deferred_init_memmap(k: Kernel, first_deferred: list[int | None]) -> None:
    """deferred_init_memmap for every node: struct pages of what memblock has free above first_deferred_pfn."""
    for nid, first in enumerate(first_deferred):
        if first is None:
            continue
        zone = max((z for z in k.nodes[nid].zones if z.present_pages), key=lambda z: z.idx)
        content = Plain(nid, zone.idx)
        for lo, hi in k.memblock.free_by_node[nid].runs(first, zone.end_pfn):
            k.memmap.init(lo, hi - lo, content)


# -- devices --------------------------------------------------------------------------------------------------------


def compound_nr_pages(k: Kernel, early: bool, pgmap: PgMap) -> int:
    """compound_nr_pages: struct pages of one compound page to initialise; `early` tells whether its head's section
    is.
    """
    if early or not vmemmap_can_optimize(k, pgmap.altmap, pgmap):
        return 1 << pgmap.vmemmap_shift
    return VMEMMAP_RESERVE_NR * k.arch.spp


def memmap_init_zone_device(k: Kernel, zone: Zone, pfn: int, nr: int, pgmap: PgMap) -> None:
    """memmap_init_zone_device: struct pages of a device range behind its altmap, pageblocks movable."""
    end = pfn + nr
    if pgmap.altmap is not None:
        pfn = pgmap.altmap.base_pfn + pgmap.altmap.offset()
    if not pgmap.vmemmap_shift:
        # __init_zone_device_page: pages of MEMORY_DEVICE_FS_DAX begin with a reference count of 0.
        k.memmap.init(pfn, end - pfn, Plain(zone.nid, zone.idx, "fsdax" if pgmap.type == "fsdax" else ""))
    else:
        stride = 1 << pgmap.vmemmap_shift
        content: Content = Compound(pgmap.vmemmap_shift, pfn % stride, zone.nid, zone.idx, "devdax")
        per = k.arch.pages_per_section
        at = pfn
        for _, e, word in k.sections.flags.runs(pfn // per, -(-end // per)):
            # Compound pages whose head lies before e * per, the end of this run of equal sections.
            stop = min(end, pfn + -(-(e * per - pfn) // stride) * stride)
            if at < stop:
                n = compound_nr_pages(k, bool(word & SECTION_IS_EARLY), pgmap)
                k.memmap.init_heads(at, stop, stride, n, content)
                at = stop
    k.set_pageblocks(pfn, end, MIGRATE_MOVABLE)
