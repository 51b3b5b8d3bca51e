"""What holds in the state of any kernel, whoever brought it there: memory blocks, zones, resources, poison, pools.

Both sides share the code that keeps these, so a mistake in it gives equal states, and no comparison sees it. Each law
is a statement of the kernel's source about structures that different functions keep, and each looks at one side only.
`fuzz.oracle.invariants` has those of frames, mapping and pools that the two sides keep by code of their own;
`live/laws.py` asks a real kernel what can be asked there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Final

from fuzz.oracle import books, contents, roots
from fuzz.oracle.finding import Broken, Difference
from fuzz.oracle.observe import union, without
from mm.altmap import Altmap
from mm.hugetlb import folio_at
from mm.kernel import Kernel
from mm.memory import MemoryBlocks
from mm.mmzone import (
    SECTION_HAS_MEM_MAP,
    SECTION_IS_EARLY,
    SECTION_IS_ONLINE,
    SECTION_TAINT_ZONE_DEVICE,
    ZONE_DEVICE,
    Zone,
)
from mm.page_alloc import (
    BOOT_OWNERS,
    OWNER_LEAKED,
    OWNER_OFFLINE,
    OWNER_PAGES_MOVABLE,
    OWNER_SELFHOSTED,
)
from mm.pgtable import PMD_TABLE, PUD_TABLE

UNMANAGED: Final = BOOT_OWNERS | {OWNER_OFFLINE, OWNER_SELFHOSTED}
"""Frames of online memory that the buddy allocator never had, or that a driver took from its count."""


Law = Callable[[Kernel], Broken | None]


def broken(k: Kernel, side: str, which: Iterable[Law] | None = None) -> Difference | None:
    """The first law that a kernel's state breaks."""
    for law in LAWS if which is None else which:
        found = law(k)
        if found is not None:
            return Difference(found.layer, f"{side}: {found.field}", found.drift, f"{side}: {found.detail}")
    return None


# -- zones and memory blocks ----------------------------------------------------------------------------------------


def zone_counters(k: Kernel) -> Broken | None:
    """present_pages counts the pages of a zone, managed_pages those of them that the buddy allocator was given
    (struct zone, include/linux/mmzone.h); the span begins with the first page and ends with the last one."""
    present: dict[Zone, int] = {}
    managed: dict[Zone, int] = {}
    spans: dict[Zone, tuple[int, int]] = {}
    owners = k.pages.owners
    for lo, hi, zone in k.pages.zone_of.items():
        present[zone] = present.get(zone, 0) + hi - lo
        spans[zone] = spans.get(zone, (lo, hi))[0], hi
        kept = sum([e - s for s, e, owner in owners.runs(lo, hi) if owner in UNMANAGED])
        managed[zone] = managed.get(zone, 0) + hi - lo - kept
    for node in k.nodes:
        for zone in node.zones:
            span = zone.start_pfn, zone.end_pfn
            for name, counted, there in (
                ("present_pages", zone.present_pages, present.get(zone, 0)),
                ("managed_pages", zone.managed_pages, managed.get(zone, 0)),
            ):
                if counted != there:
                    text = f"{zone!r} has {name} {counted}, and {there} such pages"
                    return Broken("accounting", f"zone.{name}", "+" if counted > there else "-", text)
            if span != spans.get(zone, (0, 0)) and zone.idx != ZONE_DEVICE:
                text = f"{zone!r} spans {span[0]:#x}..{span[1]:#x}, its pages {spans.get(zone, (0, 0))}"
                return Broken("accounting", "zone.span", "changed", text)
    return None


def free_areas(k: Kernel) -> Broken | None:
    """Free pages merge eagerly: no whole pageblock stays in pieces (__free_one_page, mm/page_alloc.c); pages of
    MIGRATE_CMA pageblocks are free there and nowhere else, and nothing stays isolated."""
    order = k.pages.block_order
    cma = k.pages.cma
    for node in k.nodes:
        for zone in node.zones:
            for lo, hi in zone.frags.items():
                if -(-lo >> order) < hi >> order:
                    text = f"{zone!r}: a free pageblock in {lo:#x}..{hi:#x} is in pieces"
                    return Broken("frames", "free", "apart", text)
            if cma.starts or zone.cma.starts:
                for lo, hi in zone.cma.items():
                    if not cma.covers(lo, hi):
                        return Broken("frames", "free", "cma", f"{zone!r}: {lo:#x}..{hi:#x} is no CMA pageblock")
                runs = [*zone.frags.items(), *((lo << order, hi << order) for lo, hi in zone.blocks.items())]
                for lo, hi in runs:
                    if cma.overlaps(lo, hi):
                        return Broken("frames", "free", "cma", f"{zone!r}: CMA pages in {lo:#x}..{hi:#x} are ordinary")
    if k.pages.isolated is not None or k.pages.isolated_free.starts:
        return Broken("frames", "isolated", "left", f"pageblocks {k.pages.isolated} are isolated after the operation")
    return None


def totals(k: Kernel) -> Broken | None:
    """The number of free pages that a zone counts (NR_FREE_PAGES, __free_one_page and __rmqueue in mm/page_alloc.c) is
    that of the pages in its free areas, and they are its own (bad_range there)."""
    zone_of, order = k.pages.zone_of, k.pages.block_order
    for node in k.nodes:
        for zone in node.zones:
            for name, free in (("blocks", zone.blocks), ("frags", zone.frags), ("cma", zone.cma)):
                there = sum(free.ends) - sum(free.starts)
                if free.total != there:
                    drift = "+" if free.total > there else "-"
                    return Broken("accounting", "free", drift, f"{zone!r}: {free.total} {name} counted, {there} there")
            runs = [
                *zone.frags.items(),
                *zone.cma.items(),
                *((lo << order, hi << order) for lo, hi in zone.blocks.items()),
            ]
            for lo, hi in runs:
                if [own for _, _, own in zone_of.runs(lo, hi)] != [zone]:
                    return Broken("frames", "free", "zone", f"{zone!r} has {lo:#x}..{hi:#x} of others")
    return None


def page_tables(k: Kernel) -> Broken | None:
    """Where the vmemmap has PMD or PUD tables, every mapped page lies under one (vmemmap_pmd_populate,
    vmemmap_pud_populate in mm/sparse-vmemmap.c; free_pmd_table in arch/x86/mm/init_64.c leaves those in use). Page
    tables of processes have the top-level entries of init_mm where they are copies (ARCH_PAGE_TABLE_SYNC_MASK,
    include/linux/pgalloc.h), and no others."""
    entries = k.tables.entries
    mapped = union(list(zip(entries.starts, entries.ends, strict=True)))
    for level in (PMD_TABLE, PUD_TABLE):
        tables, span = k.tables.tables[level], k.tables.spans[level]
        for lo, hi in mapped if any(t.starts for t in k.tables.tables[level:]) else ():
            first, last = lo // span, -(-hi // span)
            if sum([e - s for s, e, _ in tables.runs(first, last)]) != last - first:
                return Broken("mapping", "page table", "none", f"vmemmap pages {lo:#x}..{hi:#x} lie under no table")
    roots = k.tables.roots
    if roots is not None:
        mine = union([(lo, hi) for lo, hi, _ in k.tables.tables[PUD_TABLE].items()])
        if mine != roots.items():
            text = f"init_mm has the top-level entries {mine}, processes have {roots.items()}"
            return Broken("mapping", "page table", "unsynced", text)
    return None


def vmemmap_window(k: Kernel) -> Broken | None:
    """All that is mapped has an address in the vmemmap (WARN_ON in vmemmap_populate, arch/riscv/mm/init.c)."""
    window, entries = k.tables.window, k.tables.entries
    if window is not None and entries.starts and (entries.starts[0] < window[0] or entries.ends[-1] > window[1]):
        text = f"of vmemmap pages {entries.starts[0]:#x}..{entries.ends[-1]:#x} some are not in {window}"
        return Broken("mapping", "vmemmap window", "outside", text)
    return None


def blocks(k: Kernel) -> Broken | None:
    """A block that is online in a zone has all its pages there, but for what no boot memory backs, and for pages of
    others in a boot block of several zones; of one that is offline no page is online (memory_block_online,
    memory_block_offline, drivers/base/memory.c). Between operations nobody holds a reference of a block, so that one
    that is removed is released (unregister_memory)."""
    memory, zone_of, owners = k.memory_blocks, k.pages.zone_of, k.pages.owners
    per = memory.pages
    online = 0
    exist = union([(lo, hi) for lo, hi, _ in memory.zone.items()])
    known = union([(lo, hi) for lo, hi, _ in memory.nid.items()])
    if exist != known:
        return Broken("accounting", "memory block", "nid", f"blocks {exist} exist, of a node are {known}")
    if memory.refs:
        return Broken("accounting", "memory block", "reference", f"references of blocks are left: {memory.refs}")
    for lo, hi, key in memory.zone.items():
        here = sum([e - s for s, e, _ in zone_of.runs(lo * per, hi * per)])
        if key == MemoryBlocks.OFFLINE:
            if here:
                return Broken(
                    "accounting", "memory block", "online", f"blocks {lo}..{hi} are offline with pages online"
                )
            continue
        online += here
        for s, e, zone in zone_of.runs(lo * per, hi * per):
            if zone.key != key and not _shared_blocks(k, s, e):
                text = f"blocks {lo}..{hi} are in zone {key}, pages {s:#x}..{e:#x} in {zone.key}"
                return Broken("accounting", "memory block", "zone", text)
        for s, e in _added_later(k, lo * per, hi * per):
            runs = zone_of.runs(s, e)
            if sum([b - a for a, b, _ in runs]) != e - s or any(zone.key != key for _, _, zone in runs):
                return Broken("accounting", "memory block", "pages", f"blocks {lo}..{hi} are not wholly in zone {key}")
            if any(nid != key[0] for _, _, nid in memory.nid.runs(s // per, e // per)):
                return Broken("accounting", "memory block", "node", f"blocks {lo}..{hi} are in zone {key}")
    there = sum([hi - lo for lo, hi in zip(zone_of.starts, zone_of.ends, strict=True)])
    if online != there:
        return Broken("accounting", "memory block", "none", f"{there} pages are online, {online} in online blocks")
    drivers = [(lo, hi) for lo, hi, owner in owners.items() if owner == OWNER_OFFLINE]
    if drivers and not _covered(drivers, memory.unplugged.items()):
        return Broken("accounting", "memory block", "plugged", "frames are PageOffline in subblocks that are plugged")
    for lo, hi in memory.unplugged.items():
        if not _covered([(lo, hi)], [(a * per, b * per) for a, b, _ in memory.zone.items()]):
            return Broken("accounting", "subblock", "none", f"unplugged frames {lo:#x}..{hi:#x} are in no block")
        offline = sum([e - s for s, e, owner in owners.runs(lo, hi) if owner == OWNER_OFFLINE])
        if offline != sum([e - s for s, e, _ in zone_of.runs(lo, hi)]):
            return Broken(
                "accounting", "subblock", "plugged", f"of unplugged {lo:#x}..{hi:#x} {offline} are PageOffline"
            )
    return None


def _shared_blocks(k: Kernel, lo: int, hi: int) -> bool:
    """Whether each block with pages of [lo, hi), which are online in one zone, has pages of another zone too, so that
    its zone can be that one (early_node_zone_for_memory_block, drivers/base/memory.c, has none then)."""
    per = k.memory_blocks.pages
    each = (k.pages.zone_of.runs(block * per, (block + 1) * per) for block in range(lo // per, -(-hi // per)))
    return all(len({zone.key for _, _, zone in zones}) > 1 for zones in each)


def _added_later(k: Kernel, lo: int, hi: int) -> list[tuple[int, int]]:
    """The frames of blocks in [lo, hi) that did not boot: with no early section in them."""
    section, block = k.arch.pages_per_section, k.memory_blocks.pages
    early = [
        (s * section // block * block, -(-e * section // block) * block)
        for s, e, word in k.sections.flags.runs(lo // section, hi // section)
        if word & SECTION_IS_EARLY
    ]
    return without([(lo, hi)], early)


def section_words(k: Kernel) -> Broken | None:
    """A section with any subsection has a memory map, one without has none unless it booted with it
    (section_activate, section_deactivate, mm/sparse-vmemmap.c); ONLINE sections are those of online blocks, and of
    RAM that no longer has one."""
    sections = k.sections
    arch = k.arch
    ratio = arch.pages_per_section // arch.pages_per_subsection
    per = arch.pages_per_section
    have = [(lo // ratio, -(-hi // ratio)) for lo, hi in sections.subsections.items()]
    for lo, hi, word in sections.flags.items():
        if word & SECTION_HAS_MEM_MAP:
            for nr in (lo, hi - 1):
                if not sections.subsections.overlaps(nr * ratio, (nr + 1) * ratio):
                    return Broken("structpages", "section", "mem_map", f"section {nr:#x} has a memory map of nothing")
        online = bool(k.pages.zone_of.overlaps(lo * per, hi * per))
        if online != bool(word & SECTION_IS_ONLINE):
            return Broken("structpages", "section", "online", f"sections {lo:#x}..{hi:#x}: word {word:#x}, {online=}")
    for lo, hi in have:
        runs = sections.flags.runs(lo, hi)
        if sum([e - s for s, e, _ in runs]) != hi - lo or not all(w & SECTION_HAS_MEM_MAP for _, _, w in runs):
            return Broken("structpages", "section", "no mem_map", f"sections {lo:#x}..{hi:#x} lack a memory map")
    return None


def memory_maps(k: Kernel) -> Broken | None:
    """Each subsection that is valid has its struct pages mapped: pfn_valid says that they can be read
    (include/linux/mmzone.h). Not so where an open finding takes or misses a neighbour's: vmemmap pages that describe
    more than a subsection (docs/findings/0004, 0008), and what goes with a shared PMD leaf (0008, 0009)."""
    arch = k.arch
    shared_leaf = arch.vmemmap_frees_shared and arch.vmemmap_leaf_for_part
    if shared_leaf or arch.spp > arch.pages_per_subsection:
        return None
    pages = arch.vpn(arch.pages_per_subsection)
    for lo, hi in k.sections.subsections.items():
        holes = k.tables.holes(lo * pages, hi * pages)
        if holes:
            return Broken(
                "mapping", "memory map", "missing", f"vmemmap page {holes[0][0]:#x} of a valid pfn is unmapped"
            )
    return None


def resources(k: Kernel) -> Broken | None:
    """Whatever has struct pages, a block device or a device's page map was reserved in the resource tree before
    (register_memory_resource, mm/memory_hotplug.c; dev_dax_probe, drivers/dax/device.c)."""
    busy = [(lo, hi) for lo, hi, _ in k.iomem.items()]
    sub = k.arch.pages_per_subsection
    maps = [(start, end) for pgmap in k.pgmaps for start, end in pgmap.ranges]
    per = k.memory_blocks.pages
    added = [run for lo, hi, _ in k.memory_blocks.zone.items() for run in _added_later(k, lo * per, hi * per)]
    for what, runs in (
        ("memory of a device", maps),
        ("a memory block", added),
        ("online memory", [(lo, hi) for lo, hi, _ in k.pages.zone_of.items()]),
    ):
        if runs and not _covered(runs, busy):
            return Broken("accounting", "resource", "free", f"{what} lies where no resource is busy")
    if maps:
        have = k.sections.subsections
        for start, end in maps:
            if not have.covers(start // sub, -(-end // sub)):
                text = f"device {start:#x}..{end:#x} lacks struct pages"
                return Broken("structpages", "subsections", "missing", text)
    return None


def _covered(runs: Iterable[tuple[int, int]], by: list[tuple[int, int]]) -> bool:
    """Whether every run lies in the union of `by`."""
    return not without(sorted(runs), union(by))


def device_zones(k: Kernel) -> Broken | None:
    """ZONE_DEVICE of its node spans a device, and never shrinks; sections that it begins or ends in are marked as such
    that have frames of ZONE_DEVICE in parts (move_pfn_range_to_zone, section_taint_zone_device in mm/memory_hotplug.c).
    """
    per = k.arch.pages_per_section
    for pgmap in k.pgmaps:
        for pfn in [pfn for ends in pgmap.ranges for pfn in ends if pfn % per]:
            if not k.sections.word(pfn // per) & SECTION_TAINT_ZONE_DEVICE:
                text = f"section {pfn // per:#x} of a device with {pgmap.ranges} is not SECTION_TAINT_ZONE_DEVICE"
                return Broken("structpages", "section", "taint", text)
        zone = k.nodes[pgmap.nid].zones[ZONE_DEVICE]
        if any(start < zone.start_pfn or end > zone.end_pfn for start, end in pgmap.ranges):
            text = f"a device with {pgmap.ranges} lies outside of {zone!r}, {zone.start_pfn:#x}..{zone.end_pfn:#x}"
            return Broken("accounting", "zone.span", "device", text)
    return None


def pageblocks(k: Kernel) -> Broken | None:
    """Every pageblock of online memory has a migratetype (memmap_init_range, mm/mm_init.c)."""
    order = k.arch.pmd_order
    for lo, hi, _ in k.pages.zone_of.items():
        first, last = -(-lo >> order), hi >> order
        if first < last and sum([e - s for s, e, _ in k.pageblocks.runs(first, last)]) != last - first:
            return Broken("structpages", "pageblock", "none", f"pageblocks of {lo:#x}..{hi:#x} have no migratetype")
    return None


# -- storage of memory maps -----------------------------------------------------------------------------------------


def altmaps(k: Kernel) -> Broken | None:
    """What an altmap gave out, alignment included, is what it has (vmem_altmap_nr_free, mm/sparse-vmemmap.c)."""
    mine: list[Altmap] = [pgmap.altmap for pgmap in k.pgmaps if pgmap.altmap is not None]
    for altmap in (*mine, *k.memory_blocks.altmaps.values()):
        if altmap.alloc < 0 or altmap.align < 0 or altmap.alloc + altmap.align > altmap.capacity:
            text = (
                f"altmap of {altmap.capacity} frames at {altmap.base_pfn:#x}: {altmap.alloc} and {altmap.align} given"
            )
            return Broken("accounting", "altmap", "over", text)
    gone = [block for block in k.memory_blocks.altmaps if k.memory_blocks.zone.get(block) is None]
    if gone:
        return Broken("accounting", "altmap", "left", f"altmap of block {min(gone)}, which does not exist")
    return None


# -- programs, poison -----------------------------------------------------------------------------------------------


def holders(k: Kernel) -> Broken | None:
    """Every movable page of a program is in its holder's list once."""
    pages = k.pages
    owned = [(lo, hi) for lo, hi, owner in pages.owners.items() if owner == OWNER_PAGES_MOVABLE]
    if not owned and not pages.holders.starts:
        return None
    listed = {id(extents): extents for _, _, extents in pages.holders.items()}
    runs = sorted((pfn, pfn + n) for extents in listed.values() for pfn, n in extents)
    if any(a[1] > b[0] for a, b in pairwise(runs)):
        return Broken("frames", "holders", "twice", "a movable page is in two lists, or twice in one")
    if sum([hi - lo for lo, hi in runs]) != sum([hi - lo for lo, hi in owned]) or not _covered(runs, owned):
        return Broken("frames", "holders", "changed", "movable pages in use are not those that programs hold")
    return None


def poison(k: Kernel) -> Broken | None:
    """memblk_nr_poison counts the marks in a block (num_poisoned_pages_inc, mm/memory-failure.c): those of single
    frames, and the raw ones that huge pages remember. A mark is in a struct page, so the frame has one. Not the other
    way round: a page of a huge page, or one that was freed inside a block, can be hit again and is counted again. Huge
    pages that forgot theirs (raw_hwp_unreliable) are counted no more."""
    counts = k.memory_blocks.nr_hwpoison
    marks = k.pages.hwpoison
    folios = [f for h in k.hstates.values() for f in h.folios.values() if f.hwpoison] if counts or marks else []
    if not (counts or marks or folios):
        return None
    for pfn in marks:
        if not k.sections.valid(pfn):
            return Broken("accounting", "hwpoison", "nowhere", f"frame {pfn:#x} is poisoned and has no struct page")
    folios += k.hpage_freelist
    if any(f.raw_hwp_unreliable for f in folios) or OWNER_LEAKED in k.pages.owners.vals:
        return None
    there: dict[int, int] = {}
    for pfn in [*marks, *(raw for f in folios for raw in f.raw_hwp)]:
        block = pfn // k.memory_blocks.pages
        there[block] = there.get(block, 0) + 1
    if any(counts.get(block, 0) < n for block, n in there.items()):
        text = f"poisoned pages by block: {counts} counted, {there} marked"
        return Broken("accounting", "nr_hwpoison", "-", text)
    return None


# -- huge pages -----------------------------------------------------------------------------------------------------


def pools(k: Kernel) -> Broken | None:
    """Free huge pages have no reference and are not temporary (add_hugetlb_folio), and those in use have one; a
    reservation is always backed by a free page; every page is aligned, of its node and zone, and in one list
    (enqueue_hugetlb_folio, hugetlb_acct_memory in mm/hugetlb.c)."""
    for h in k.hstates.values():
        name = f"hugetlb.{h.order}"
        if not 0 <= h.resv <= h.free_count():
            return Broken("accounting", f"{name}.resv", "+", f"{h.resv} reserved, {h.free_count()} free")
        listed = 0
        for nid, free in enumerate(h.free):
            for pfn, folio in free.items():
                if folio.nid != nid or folio.refcount or folio.temporary or h.folios.get(pfn) is not folio:
                    return Broken("accounting", f"{name}.free", "wrong", f"{folio!r} is on the free list of node {nid}")
            listed += len(free)
        for mapped in h.mapped:
            for folio in mapped:
                if folio.refcount != 1 or h.folios.get(folio.pfn) is not folio:
                    text = f"{folio!r} is mapped, with a reference count of {folio.refcount}"
                    return Broken("accounting", f"{name}.mapped", "wrong", text)
            listed += len(mapped)
        if listed != len(h.folios):
            text = f"{len(h.folios)} pages, {listed} of them free or mapped"
            return Broken("accounting", f"{name}.folios", "lost", text)
        for pfn, folio in h.folios.items():
            zone = k.pages.zone_of.get(pfn)
            if zone is not folio.zone or zone.nid != folio.nid or pfn % h.pages or folio.order != h.order:
                return Broken("accounting", f"{name}.folios", "wrong", f"{folio!r} is not what lies there")
            if not folio.hugetlb or folio_at(k, pfn) is not folio:
                return Broken("accounting", f"{name}.folios", "type", f"{folio!r} is of no hugetlb type")
    return None


LAWS: Final[tuple[Law, ...]] = (
    zone_counters,
    free_areas,
    totals,
    page_tables,
    vmemmap_window,
    blocks,
    section_words,
    memory_maps,
    resources,
    pageblocks,
    altmaps,
    holders,
    poison,
    pools,
    books.runs,
    books.windows,
    books.areas,
    books.busy,
    books.direct_map,
    books.out_of_use,
    contents.online_pages,
    contents.device_pages,
    contents.migratetypes,
    device_zones,
    roots.missing,
)

OF_UNINITIALISED: Final[tuple[Law, ...]] = tuple([law for law in LAWS if law is not contents.device_pages])
"""Those that hold where a device has struct pages that nobody initialised (docs/findings/0001, 0005)."""
