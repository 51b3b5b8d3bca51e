"""Mistakes of the old paths that the unified framework could repeat, put into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from candidate.vmemmap_optimization import Framework
from mm.altmap import Altmap
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.mmzone import Zone
from mm.page import RAW
from mm.page_alloc import Extents, KernelBug
from mm.pgmap import PgMap
from mm.runs import RunMap
from zoo.defect import Defect


def _charged_before_success(original: Callable[[Kernel, int, int], Extents], k: Kernel, n: int, nid: int) -> Extents:
    """Of a restore that an injected failure ends; one that memory ends charges all of its pages here, not those that
    there were.
    """
    reached = k.faults.room(n)
    got = original(k, n, nid)
    if not got:
        k.vmstat.nr_memmap += reached
    return got


def _by_shift_alone(
    original: Callable[[Framework, Zone, int, int, PgMap], None],
    f: Framework,
    zone: Zone,
    pfn: int,
    nr: int,
    pgmap: PgMap,
) -> None:
    orders = f.orders
    if f.k.arch.vmemmap_pages(pgmap.vmemmap_shift) > 1:
        per = f.k.arch.pages_per_section
        f.orders = RunMap()
        f.orders.set(pfn // per, -(-(pfn + nr) // per), pgmap.vmemmap_shift)
    original(f, zone, pfn, nr, pgmap)
    f.orders = orders


def _without_destructor(
    original: Callable[..., tuple[int, int]], k: Kernel, lo: int, hi: int, levels: tuple[int, ...] = (0, 1, 2)
) -> tuple[int, int]:
    freed, fresh = original(k, lo, hi, levels)
    return (0, fresh) if k.arch.name.startswith("arm64") else (freed, fresh)


def _last_block_rejected(
    original: Callable[[Kernel, Altmap, int, int], bool], k: Kernel, altmap: Altmap, vpn: int, n: int
) -> bool:
    return original(k, altmap, vpn, n) or (vpn + n) * k.arch.spp >= altmap.end_pfn


def _zone_of_a_blank_tail(
    original: Callable[[Framework, HState, list[Folio]], None], f: Framework, h: HState, folios: list[Folio]
) -> None:
    if any(folio.vmemmap_optimized for folio in folios):
        raise KernelBug("VM_BUG_ON_PAGE: init_pageblock_migratetype asks a tail page that is not initialised")
    original(f, h, folios)


def _blank_until_later(
    original: Callable[[Framework, int, Zone], int | None], f: Framework, order: int, zone: Zone
) -> int | None:
    frame = original(f, order, zone)
    if frame is not None and not f.k.slab_available:
        f.k.memmap.frames[frame] = RAW
    return frame


CHARGED_ON_FAILURE: Final = Defect(
    id="ACC-2024-35",
    switch="charge_on_failure",
    title="a restore that fails leaves nr_memmap_pages too high",
    side="candidate",
    source="mm: don't account memmap on failure (ace0741a55e3; Fixes 15995a352474)",
    mechanism="the list allocator counts the pages it got even when it gives all of them back",
    layer="accounting",
    spot="candidate.vmemmap_remap:alloc_vmemmap_page_list",
    replacement=_charged_before_success,
    program="vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\nhugetlb resize size=2M to=1\n"
    "fail alloc nth=2\nhugetlb dissolve at=0x3000000\n",
)

INIT_BY_SHIFT: Final = Defect(
    id="DAX-2023-54",
    switch="init_by_shift",
    title="tail struct pages of a device that is not optimized stay uninitialised",
    side="candidate",
    source="mm/vmemmap/devdax: fix kernel crash when probing devdax devices (87a7ae75d738; Fixes 4917f55b4ef9)",
    mechanism="initialisation goes by vmemmap_shift, population by whether the section can be optimized",
    layer="structpages",
    spot="candidate.mm_init:memmap_init_zone_device",
    replacement=_by_shift_alone,
    program="vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\n"
    "d0 = dax create at=0x100000000 size=128M altmap=on\n",
)

NO_DESTRUCTOR: Final = Defect(
    id="ARM64-2026-18",
    switch="pgtable_without_dtor",
    title="page tables of removed memory stay counted (arm64)",
    side="candidate",
    source="arm64: mm: call pagetable dtor when freeing hot-removed page tables (20260521032730.2104017-1; "
    "Fixes 5e8eb9aeeda3)",
    mechanism="tables are freed without their destructor, which counts them in NR_PAGETABLE",
    layer="accounting",
    spot="candidate.vmemmap_remove:free_empty_tables",
    replacement=_without_destructor,
    # The last 2M find no room in the altmap, and what was populated goes again.
    program="vmm 1\nmachine arch=arm64 page=4K ram=1G nodes=1\nboot\n"
    "d0 = dax create at=0x2000000000 size=130M align=4K altmap=on\n",
)

ALTMAP_END_INCLUSIVE: Final = Defect(
    id="PPC-2023-56",
    switch="altmap_last_block",
    title="the last page of a device's memory map comes from RAM (powerpc)",
    side="candidate",
    source="powerpc/mm/dax: Fix the condition when checking if altmap vmemap can cross-boundary (Fixes cf387d9644d8)",
    mechanism="the end of the range, exclusive, is compared as if it were inclusive",
    layer="mapping",
    spot="candidate.arch.powerpc:altmap_cross_boundary",
    replacement=_last_block_rejected,
    program="vmm 1\nmachine arch=ppc64_radix page=4K ram=1G nodes=1\nboot\n"
    "d0 = dax create at=0x100000000 size=32M altmap=on\n",
)

TAIL_ZONE_ASKED: Final = Defect(
    id="BOOT-2026-10",
    switch="tails_after_gather",
    title="boot panics over a tail page that is not initialised yet",
    side="candidate",
    source="mm/hugetlb: fix boot panic with CONFIG_DEBUG_VM and HVO bootmem pages (2ddf429e25cf; Fixes 622026e87c40)",
    mechanism="shared tail pages are initialised after gigantic pages are gathered, which asks them for their zone",
    layer="returns",
    spot="candidate.hugetlb_boot:prep_and_add_bootmem_folios",
    replacement=_zone_of_a_blank_tail,
    program="vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1\nreserve size=1G count=1\nboot\n",
)

TAIL_BLANK: Final = Defect(
    id="BOOT-2026-11",
    switch="boot_tails_blank",
    title="tail struct pages of boot gigantic pages are read before they are written",
    side="candidate",
    source="mm/hugetlb: initialize gigantic bootmem hugepage struct pages earlier (title only: inferred)",
    mechanism="a shared tail page that comes from memblock is not initialised when it is allocated",
    layer="structpages",
    spot="candidate.vmemmap_optimization:vmemmap_shared_tail_page",
    replacement=_blank_until_later,
    program="vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1\nreserve size=1G count=1\nboot\n",
)

CANDIDATE: Final = (
    CHARGED_ON_FAILURE,
    INIT_BY_SHIFT,
    NO_DESTRUCTOR,
    ALTMAP_END_INCLUSIVE,
    TAIL_ZONE_ASKED,
    TAIL_BLANK,
)
