"""What is kept twice, or in a form of its own: laws of one side, as those of `fuzz.oracle.laws`.

Runs are maximal; a window that an altmap gave out is owned; an area of the contiguous memory allocator knows which of
its pages are huge pages; a resource is busy as long as something lies in it and no longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fuzz.oracle.finding import Broken
from fuzz.oracle.observe import union
from mm.cma import SZ_4G
from mm.kernel import Kernel
from mm.memory import MemoryBlocks
from mm.page_alloc import OWNER_HWPOISON, OWNER_SELFHOSTED, Poisoned
from mm.resource import KMEM, KMEM_RAM
from mm.runs import RunMap, RunSet

# -- representation -------------------------------------------------------------------------------------------------


def _maps(k: Kernel) -> list[tuple[str, RunMap[Any]]]:
    tables, blocks, sections = k.tables, k.memory_blocks, k.sections
    out: list[tuple[str, RunMap[Any]]] = [
        ("owners", k.pages.owners),
        ("zone_of", k.pages.zone_of),
        ("sections.flags", sections.flags),
        ("sections.nid", sections.nid),
        ("sections.usage", sections.usage),
        ("pageblocks", k.pageblocks),
        ("memory_blocks.zone", blocks.zone),
        ("memory_blocks.nid", blocks.nid),
        ("iomem", k.iomem),
        ("entries", tables.entries),
        ("memmap.own", k.memmap.own),
    ]
    out += [(f"tables {level}", found) for level, found in enumerate(tables.tables)]
    if k.direct_map is not None:
        out.append(("direct_map", k.direct_map.entries))
    return out


def _sets(k: Kernel) -> Iterator[tuple[str, RunSet]]:
    yield "cma", k.pages.cma
    yield "subsections", k.sections.subsections
    yield "unplugged", k.memory_blocks.unplugged
    for node in k.nodes:
        for zone in node.zones:
            yield "blocks", zone.blocks
            yield "frags", zone.frags
            yield "free cma", zone.cma


def runs(k: Kernel) -> Broken | None:
    """Runs ascend, are not empty, and are maximal: neighbours that touch differ (mm/runs.py). What is kept otherwise
    compares unequal, or is looked for in vain."""
    for name, found in _maps(k):
        starts, ends, vals = found.starts, found.ends, found.vals
        end = -1
        for i, s in enumerate(starts):
            if s >= ends[i]:
                return Broken("frames", name, "empty", f"{name} has an empty run")
            if end > s or (end == s and vals[i - 1] == vals[i]):
                text = f"{name}: runs end at {end:#x} and begin at {s:#x}, {vals[i - 1]}"
                return Broken("frames", name, "runs", text)
            end = ends[i]
    for name, members in _sets(k):
        end = -1
        for i, s in enumerate(members.starts):
            if s <= end or s >= members.ends[i]:
                return Broken("frames", name, "runs", f"{name} has the runs {members.items()}")
            end = members.ends[i]
    return None


# -- memory maps in memory of their own -----------------------------------------------------------------------------


def windows(k: Kernel) -> Broken | None:
    """Of a memory block that holds its own memmap, the frames that its altmap gave out belong to the memmap, and once
    it is online all that were set aside (mhp_init_memmap_on_memory, mm/memory_hotplug.c); of no other block."""
    blocks, owners = k.memory_blocks, k.pages.owners
    aside = RunSet()
    for block, altmap in blocks.altmaps.items():
        first = block * blocks.pages
        if altmap.base_pfn != first:
            return Broken("accounting", "altmap", "elsewhere", f"altmap of block {block} is at {altmap.base_pfn:#x}")
        online = blocks.zone.get(block) != MemoryBlocks.OFFLINE
        end = first + (altmap.capacity if online else altmap.alloc + altmap.align)
        if first < end and owners.runs(first, end) != [(first, end, OWNER_SELFHOSTED)]:
            text = f"frames {first:#x}..{end:#x} hold their block's memmap, and are {owners.runs(first, end)}"
            return Broken("frames", "selfhosted", "missing", text)
        aside.add(first, first + altmap.capacity)
    for lo, hi, owner in owners.items():
        # Adding that failed leaves what it had taken, in memory that is no block.
        blockless = blocks.zone.get(lo // blocks.pages) is None
        if owner == OWNER_SELFHOSTED and not aside.covers(lo, hi) and not blockless:
            return Broken("frames", "selfhosted", "extra", f"frames {lo:#x}..{hi:#x} are set aside for no memmap")
    return None


# -- areas of the contiguous memory allocator -----------------------------------------------------------------------


def areas(k: Kernel) -> Broken | None:
    """The bitmap of an area has the pages that are handed out, which are huge pages of HugeTLB, and available_count is
    the rest (cma_range_alloc, cma_release in mm/cma.c); several ranges lie above 4G (cma_declare_contiguous_multi); all
    pages have MIGRATE_CMA and are counted in their zone (init_cma_pageblock, mm/mm_init.c)."""
    taken = RunSet()
    everything = RunSet()
    for cma in k.cma.areas:
        if not cma.activated:
            continue
        used = 0
        bases = [cmr.base_pfn for cmr in cma.ranges]
        if len(bases) > 1 and min(bases) << k.arch.page_shift < SZ_4G:
            return Broken("accounting", "cma", "low", f"an area of several ranges begins at {min(bases):#x}")
        if sum([cmr.count for cmr in cma.ranges]) != cma.count or any(
            base >> cma.order_per_bit << cma.order_per_bit != base for base in bases
        ):
            return Broken("accounting", "cma", "size", f"an area of {cma.count} pages has ranges at {bases}")
        for cmr in cma.ranges:
            everything.add(cmr.base_pfn, cmr.end_pfn)
            used += cmr.bitmap.total
            for lo, hi in cmr.bitmap.items():
                if lo < cmr.base_pfn or hi > cmr.end_pfn:
                    return Broken("accounting", "cma", "beyond", f"an area has given out {lo:#x}..{hi:#x}")
                taken.add(lo, hi)
        if cma.available_count != cma.count - used:
            text = f"an area of {cma.count} pages gave out {used} and has {cma.available_count}"
            return Broken("accounting", "cma", "available", text)
    folios = RunSet()
    for h in k.hstates.values():
        for folio in h.folios.values():
            if folio.cma:
                folios.add(folio.pfn, folio.end_pfn)
    for folio in k.hpage_freelist:
        if folio.cma:
            folios.add(folio.pfn, folio.end_pfn)
    if any(not taken.covers(lo, hi) for lo, hi in folios.items()):
        return Broken("accounting", "cma", "given", f"areas gave out {taken.items()}, huge pages are {folios.items()}")
    if everything.items() != k.pages.cma.items():
        return Broken("accounting", "cma", "type", f"areas {everything.items()}, MIGRATE_CMA {k.pages.cma.items()}")
    for node in k.nodes:
        for zone in node.zones:
            here = sum([k.pages.cma.count(lo, hi) for lo, hi, z in k.pages.zone_of.items() if z is zone])
            if zone.cma_pages != here:
                return Broken(
                    "accounting", "cma", "pages", f"{zone!r} has cma_pages {zone.cma_pages}, there are {here}"
                )
    return None


# -- resources ------------------------------------------------------------------------------------------------------


def busy(k: Kernel) -> Broken | None:
    """RAM is where it was at boot, less what was removed; memory that was added is busy while its blocks exist
    (register_memory_resource, release_memory_resource in mm/memory_hotplug.c)."""
    booted = RunSet()
    for _, lo, hi in k.machine.ram_ranges():
        booted.add(lo, hi)
    per = k.memory_blocks.pages
    for lo, hi, kind in k.iomem.items():
        if kind == "ram":
            if not booted.covers(lo, hi):
                return Broken("accounting", "resource", "ram", f"RAM is at {lo:#x}..{hi:#x}")
        elif kind == "hotplug" or kind == KMEM_RAM:
            there = k.memory_blocks.zone.runs(lo // per, -(-hi // per))
            if sum([e - s for s, e, _ in there]) * per != hi - lo:
                return Broken("accounting", "resource", "left", f"{lo:#x}..{hi:#x} is busy with memory that is gone")
    return None


def direct_map(k: Kernel) -> Broken | None:
    """The direct map is of RAM and of devices with struct pages, and of nothing else (arch_add_memory,
    arch_remove_memory, arch/powerpc/mm/mem.c). All of it is pages of 2M: memory comes and goes in subsections, and a
    larger page would be of several memory blocks (create_physical_mapping, radix_pgtable.c)."""
    direct = k.direct_map
    if direct is None:
        return None
    ram = [(lo, hi) for lo, hi, kind in k.iomem.items() if kind != KMEM and kind != "dax"]
    there = union(ram + [(start, end) for pgmap in k.pgmaps for start, end in pgmap.ranges])
    mapped = union([(lo, hi) for lo, hi, _ in direct.entries.items()])
    if mapped != there:
        text = f"pages {mapped} are in the direct map, and {there} are memory"
        return Broken("accounting", "direct map", "memory", text)
    total = sum([hi - lo for lo, hi in there]) << k.arch.page_shift >> 10
    for name, shown in direct.arch_report_meminfo().items():
        wanted = total if name == "DirectMap2M" else 0
        if shown != wanted:
            text = f"{name}: {shown} kB counted, {wanted} kB of {total} kB are mapped so"
            return Broken("accounting", name, "+" if shown > wanted else "-", text)
    return None


# -- poison ---------------------------------------------------------------------------------------------------------


def out_of_use(k: Kernel) -> Broken | None:
    """Frames that were taken off the buddy allocator, or are held by the failure handler, or did not get back to the
    free lists, are out of use (take_page_off_buddy and free_pages_prepare, mm/page_alloc.c; page_handle_poison,
    mm/memory-failure.c)."""
    for pfn, state in k.pages.hwpoison.items():
        owner = k.pages.owners.get(pfn)
        if state is not Poisoned.MARKED and owner != OWNER_HWPOISON:
            return Broken("accounting", "hwpoison", "in use", f"poisoned frame {pfn:#x}, {state.value}, is of {owner}")
    return None
