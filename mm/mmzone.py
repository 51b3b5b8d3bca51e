"""Zones, nodes and memory sections (include/linux/mmzone.h, mm/sparse.c, Linux 7.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mm.runs import RunMap, RunSet

if TYPE_CHECKING:
    from mm.arch import Arch

ZONE_DMA, ZONE_DMA32, ZONE_NORMAL, ZONE_MOVABLE, ZONE_DEVICE = range(5)
ZONE_NAMES = ("DMA", "DMA32", "Normal", "Movable", "Device")

SECTION_MARKED_PRESENT = 1 << 0
SECTION_HAS_MEM_MAP = 1 << 1
SECTION_IS_ONLINE = 1 << 2
SECTION_IS_EARLY = 1 << 3
SECTION_TAINT_ZONE_DEVICE = 1 << 4
SECTION_IS_VMEMMAP_PREINIT = 1 << 5


class Zone:
    """struct zone: span, present and managed pages, and its free pages.

    The buddy allocator merges eagerly, so "an aligned free block of order o exists" is the same as "all its pages are
    free". Free pages are therefore kept as runs: `blocks` holds wholly free pageblocks (in units of pageblocks, for
    orders at and above pageblock_order), `frags` the free pages of broken pageblocks (in pfns); `cma` those of
    pageblocks of type MIGRATE_CMA, whole or broken (in pfns).
    """

    __slots__ = (
        "blocks",
        "cma",
        "cma_pages",
        "end_pfn",
        "frags",
        "idx",
        "key",
        "managed_pages",
        "nid",
        "present_pages",
        "start_pfn",
    )

    def __init__(self, nid: int, idx: int) -> None:
        self.nid = nid
        self.idx = idx
        self.key = (nid, idx)
        """Identity of the zone on either side."""
        self.start_pfn = self.end_pfn = 0
        """Span; equal when the zone is empty."""
        self.present_pages = 0
        self.managed_pages = 0
        self.blocks = RunSet()
        self.frags = RunSet()
        self.cma = RunSet()
        self.cma_pages = 0
        """Pages in pageblocks of type MIGRATE_CMA, free or not."""

    def __repr__(self) -> str:
        return f"<node {self.nid} zone {ZONE_NAMES[self.idx]} [{self.start_pfn:#x}, {self.end_pfn:#x})>"

    def free_pages(self, pageblock_order: int) -> int:
        """NR_FREE_PAGES of the zone, per-cpu lists included."""
        return (self.blocks.total << pageblock_order) + self.frags.total + self.cma.total

    def spans(self, pfn: int) -> bool:
        """zone_spans_pfn (include/linux/mmzone.h)."""
        return self.start_pfn <= pfn < self.end_pfn

    def intersects(self, start_pfn: int, end_pfn: int) -> bool:
        """zone_intersects (include/linux/mmzone.h)."""
        return self.start_pfn < end_pfn and start_pfn < self.end_pfn

    def grow_span(self, start_pfn: int, end_pfn: int) -> None:
        """resize_zone_range (mm/memory_hotplug.c)."""
        if self.start_pfn == self.end_pfn:
            self.start_pfn, self.end_pfn = start_pfn, end_pfn
        else:
            self.start_pfn = min(self.start_pfn, start_pfn)
            self.end_pfn = max(self.end_pfn, end_pfn)


class Node:
    """pg_data_t: the zones of one NUMA node, indexed by ZONE_*."""

    __slots__ = ("nid", "zones")

    def __init__(self, nid: int) -> None:
        self.nid = nid
        self.zones = [Zone(nid, idx) for idx in range(5)]


def pfn_range_intersects_zones(node: Node, pfn: int, nr: int) -> bool:
    """pfn_range_intersects_zones (mm/mm_init.c): more than one zone of the node meets the range."""
    return sum(zone.intersects(pfn, pfn + nr) for zone in node.zones) > 1


class Sections:
    """struct mem_section for all section numbers, as runs; `touched` collects changed section ranges for the oracle."""

    __slots__ = ("arch", "flags", "nid", "subsections", "touched", "unpopulated", "usage")

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self.flags: RunMap[int] = RunMap()
        """Section number -> SECTION_* bits; a gap is a zero section word."""
        self.nid: RunMap[int] = RunMap()
        """Node of the section's first memory, of boot memory (section_to_node_table)."""
        self.usage: RunMap[str] = RunMap()
        """Section number -> "boot" or "hot": where ms->usage came from; a gap is no usage."""
        self.subsections = RunSet()
        """Union of all subsection maps, in subsection numbers."""
        self.touched: list[tuple[int, int]] = []
        self.unpopulated: list[tuple[int, int]] = []
        """Pieces (pfn, pages) of sections whose memmap could not be made, since the oracle last looked."""

    def word(self, nr: int) -> int:
        """The SECTION_* bits of section `nr`, 0 if it has none."""
        return self.flags.get(nr) or 0

    def set_flags(self, lo: int, hi: int, bits: int) -> None:
        """OR `bits` into the words of sections [lo, hi)."""
        done = lo
        for s, e, old in self.flags.runs(lo, hi):
            if done < s:
                self.flags.set(done, s, bits)
            if old | bits != old:
                self.flags.set(s, e, old | bits)
            done = e
        if done < hi:
            self.flags.set(done, hi, bits)
        self.touched.append((lo, hi))

    def clear_flags(self, lo: int, hi: int, bits: int) -> None:
        """Remove `bits` from the words of sections [lo, hi); a word of 0 becomes a gap."""
        for s, e, old in self.flags.runs(lo, hi):
            if old & ~bits:
                self.flags.set(s, e, old & ~bits)
            else:
                self.flags.clear(s, e)
        self.touched.append((lo, hi))

    def early(self, pfn: int) -> bool:
        """early_section (include/linux/mmzone.h)."""
        return bool((self.flags.get(pfn // self.arch.pages_per_section) or 0) & SECTION_IS_EARLY)

    def valid(self, pfn: int) -> bool:
        """pfn_valid (include/linux/mmzone.h): the section has a memory map and is early or its subsection bit is
        set."""
        word = self.flags.get(pfn // self.arch.pages_per_section) or 0
        if not word & SECTION_HAS_MEM_MAP:
            return False
        return bool(word & SECTION_IS_EARLY) or pfn // self.arch.pages_per_subsection in self.subsections
