"""A kernel whose side behind the seam is as small as can be: what is tested is the hotplug code in front of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from mm.altmap import Altmap
from mm.boot import boot, memblocks_present, sparse_init_subsection_map
from mm.errno import EEXIST, ENOMEM
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import MIGRATE_MOVABLE, Kernel
from mm.machine import Machine
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY, SECTION_MARKED_PRESENT, ZONE_DEVICE, Zone
from mm.page import Plain
from mm.page_alloc import OWNER_MEMMAP, OWNER_MEMMAP_BOOT, OWNER_PGTABLE_BOOT, Extents
from mm.pgmap import PgMap
from mm.pgtable import PMD_TABLE, PUD_TABLE, Leaf, Pte

SECTION = 32768
"""Pages of a section, which is also a memory block."""
LEAF = 512
"""Frames that hold the memmap of a section."""


def by_section(pfn: int, end: int) -> list[tuple[int, int]]:
    """[pfn, end) cut at the borders of sections."""
    cuts = [pfn, *range((pfn // SECTION + 1) * SECTION, end, SECTION), end]
    return list(pairwise(cuts))


class FakePaths:
    """A PMD leaf for whole sections, single frames for parts, nothing optimized; hotplug calls are recorded,
    those for sections section by section."""

    vmemmap_optimize_enabled = False

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.calls: list[tuple[object, ...]] = []
        self.fail_section: int | None = None
        """This section cannot be added."""

    def zone_tails(self) -> dict[tuple[tuple[int, int], int], int]:
        return {}

    def mm_core_init_early(self) -> None:
        k = self.k
        memblocks_present(k)
        sparse_init_subsection_map(k)
        for lo, hi, _ in list(k.sections.flags.items()):
            k.sections.set_flags(lo, hi, SECTION_HAS_MEM_MAP | SECTION_IS_EARLY)
            k.sections.usage.set(lo, hi, "boot")
            for level in (PUD_TABLE, PMD_TABLE):
                for s, e in k.tables.missing_tables(level, lo * LEAF, hi * LEAF):
                    k.tables.add_tables(level, s, boot_frames(k, e - s, 1, OWNER_PGTABLE_BOOT))
            vpn = lo * LEAF
            for frame, n in boot_frames(k, hi - lo, LEAF, OWNER_MEMMAP_BOOT):
                k.tables.set(vpn, vpn + n, Leaf(frame - vpn))
                vpn += n
        for nid, start, end in k.machine.ram_ranges():
            for zone in k.nodes[nid].zones:
                lo, hi = max(start, zone.start_pfn), min(end, zone.end_pfn)
                if lo < hi:
                    k.memmap.init(lo, hi - lo, Plain(nid, zone.idx))

    def page_alloc_init_late(self) -> None:
        pass

    def sparse_add_section(self, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
        for lo, hi in by_section(pfn, pfn + nr):
            rc = self.add_section(nid, lo, hi - lo, altmap, pgmap)
            if rc:
                return rc
        return 0

    def add_section(self, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
        k = self.k
        self.calls.append(("add", nid, pfn, nr, altmap, pgmap and pgmap.nr_range))
        section = pfn // SECTION
        if k.faults.fails("USG") or section == self.fail_section:
            return -ENOMEM
        lo, hi = pfn // 512, (pfn + nr) // 512
        if k.sections.subsections.overlaps(lo, hi):
            return -EEXIST
        if nr == SECTION or not k.sections.word(section) & SECTION_IS_EARLY:
            vpn, end = pfn // 64, (pfn + nr) // 64
            if nr < SECTION:
                k.tables.map_extents(vpn, k.pages.alloc_bulk(end - vpn, nid, OWNER_MEMMAP))
            else:
                frame = altmap.allocate(LEAF) if altmap else k.pages.alloc_kernel_block(nid, OWNER_MEMMAP)
                if frame is None:
                    return -ENOMEM
                k.tables.set(vpn, end, Leaf(frame - vpn))
            k.vmstat.nr_memmap += end - vpn
        k.sections.subsections.add(lo, hi)
        k.sections.set_flags(section, section + 1, SECTION_MARKED_PRESENT | SECTION_HAS_MEM_MAP)
        k.sections.nid.set(section, section + 1, nid)
        return 0

    def sparse_remove_section(self, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
        for lo, hi in by_section(pfn, pfn + nr):
            self.remove_section(lo, hi - lo, altmap, pgmap)

    def remove_section(self, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
        k = self.k
        self.calls.append(("remove", pfn, nr, altmap, pgmap))
        section = pfn // SECTION
        k.sections.subsections.remove(pfn // 512, (pfn + nr) // 512)
        if k.sections.word(section) & SECTION_IS_EARLY:
            return
        for lo, hi, m in k.tables.clear(pfn // 64, (pfn + nr) // 64):
            k.vmstat.nr_memmap -= hi - lo
            if isinstance(m, Leaf) and altmap is not None:
                altmap.release(hi - lo)
            else:
                assert isinstance(m, Leaf | Pte)
                k.pages.free(lo + m.delta, hi - lo)
        k.memmap.forget(pfn, nr)
        if not k.sections.subsections.overlaps(section * 64, section * 64 + 64):
            k.sections.flags.clear(section, section + 1)
            k.sections.nid.clear(section, section + 1)

    def memmap_init_range(self, zone: Zone, pfn: int, nr: int) -> None:
        self.calls.append(("init", zone.key, pfn, nr))
        self.k.memmap.init(pfn, nr, Plain(*zone.key))
        self.k.set_pageblocks(pfn, pfn + nr, MIGRATE_MOVABLE)

    def memmap_init_zone_device(self, zone: Zone, pfn: int, nr: int, pgmap: PgMap) -> None:
        self.calls.append(("init device", zone.key, pfn, nr))
        if pgmap.altmap is not None:
            pfn, nr = pfn + pgmap.altmap.offset(), nr - pgmap.altmap.offset()
        self.k.memmap.init(pfn, nr, Plain(*zone.key))

    def hugetlb_vmemmap_optimizable(self, h: HState) -> bool:
        return False

    def hugetlb_vmemmap_optimize_folio(self, h: HState, folio: Folio) -> None:
        pass

    def hugetlb_vmemmap_optimize_folios(self, h: HState, folios: list[Folio]) -> None:
        pass

    def hugetlb_vmemmap_restore_folio(self, h: HState, folio: Folio) -> int:
        return 0

    def hugetlb_vmemmap_restore_folios(self, h: HState, folios: list[Folio], non_hvo: list[Folio]) -> int:
        non_hvo += folios
        folios.clear()
        return 0

    def hugetlb_optimize_vmemmap_sysctl(self, value: bool) -> int:
        return 0


def boot_frames(k: Kernel, count: int, n: int, owner: str) -> Extents:
    extents = k.memblock.alloc_many(0, count, n)
    for frame, m in extents:
        k.pages.claim(frame, frame + m, owner)
    return extents


def state(k: Kernel) -> dict[str, object]:
    """Everything that adding and removing must leave as it was."""
    return {
        "iomem": k.iomem.items(),
        "owners": k.pages.owners.items(),
        "zone_of": k.pages.zone_of.items(),
        "free": [k.pages.free_set(z).items() for node in k.nodes for z in node.zones],
        "zones": [
            (z.start_pfn, z.end_pfn, z.present_pages, z.managed_pages)
            for node in k.nodes
            for z in node.zones[:ZONE_DEVICE]
        ],
        "sections": (k.sections.flags.items(), k.sections.subsections.items()),
        "entries": k.tables.entries.items(),
        "memmap": k.memmap.own.items(),
        "blocks": (k.memory_blocks.zone.items(), k.memory_blocks.nid.items(), dict(k.memory_blocks.altmaps)),
        "nr_memmap": k.vmstat.nr_memmap,
        "pgmaps": list(k.pgmaps),
    }


@pytest.fixture(name="state")
def state_fixture() -> Callable[[Kernel], dict[str, object]]:
    return state


@pytest.fixture
def make() -> Callable[..., Kernel]:
    """Boots a kernel; the first operation after boot has begun."""

    def booted(**machine: object) -> Kernel:
        k = Kernel(Machine(**machine), FakePaths)  # type: ignore[arg-type]
        boot(k)
        k.faults.begin()
        return k

    return booted
