"""The heart of the framework: the compound page order of each memory section, and the shared tail page of each (zone,
order).

include/linux/vmemmap-optimization.h and mm/sparse-vmemmap.c of the -mm tree of November 2026. A section whose order
is not 0 says how its vmemmap is mapped: of each compound page of that order the first vmemmap page is private, all
others map T(zone, order). The order is set before the section is populated and decides everything after it: mapping,
accounting, which struct pages are written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mm.altmap import Altmap
from mm.mmzone import ZONE_DEVICE, Zone
from mm.page import Tail
from mm.page_alloc import OWNER_TAIL, OWNER_TAIL_BOOT
from mm.pgmap import PgMap
from mm.runs import RunMap, RunSet

if TYPE_CHECKING:
    from candidate.arch.vmemmap import ArchVmemmap
    from mm.arch import Arch
    from mm.kernel import Kernel

VMEMMAP_OPTIMIZATION_PAGES = 1
"""Private vmemmap pages kept for each compound page."""


NO_ORDER = 64
"""No compound page is of this order, or of a larger one."""


class Framework:
    """State of the framework in one kernel; the functions of this package take it first.

    `merged` selects the profile: -mm as merged by November 2026 instead of the series as posted.
    """

    merged: bool
    vmemmap_optimize_enabled: bool

    def __init__(self, k: Kernel, merged: bool, vmemmap: ArchVmemmap) -> None:
        self.k = k
        self.vmemmap = vmemmap
        self.merged = merged
        self.vmemmap_optimize_enabled = k.machine.hugetlb_free_vmemmap
        self.min_order = k.arch.spp.bit_length() if k.arch.spp else NO_ORDER
        """VMEMMAP_OPTIMIZATION_MIN_ORDER: the smallest compound page with more than one vmemmap page. None is large
        enough if sizeof(struct page) is no power of two, which vmemmap_optimizable_order asks too.
        """
        self.dax_tail_rw = merged
        """Whether DAX sections map T writable. UNCONFIRMED for `posted`: read-only from population on."""
        self.orders: RunMap[int] = RunMap()
        """Section -> compound_page_order; a gap is 0."""
        self.tails: dict[tuple[int, int], list[int | None]] = {}
        """Zone key -> zone->vmemmap_tails: the frame of T by order - min_order. An array exists from its zone's first
        use.
        """
        self.roots: set[int] = set()
        """Numbers of the mem_section roots that are allocated; they are never freed."""
        self.sections_per_root = k.arch.page // mem_section_size(k.arch)
        self.page_unused = RunSet()
        """Vmemmap pages filled with PAGE_UNUSED (`candidate.arch.s390`)."""
        self.boot_pages: list[list[tuple[int, int]]] = [[] for _ in k.nodes]
        """huge_boot_pages: (order, first pfn) by node, from reservation to gathering."""


def mem_section_size(arch: Arch) -> int:
    """sizeof(struct mem_section) (include/linux/mmzone.h, -mm) in bytes: the memmap word, usage, and where an
    optimization is selected the order; the series dropped its power-of-two size. UNCONFIRMED: no page_ext.

    A powerpc kernel has both MMUs, and so the order even where hash is in use.
    """
    return 24 if arch.hvo or arch.dax_dedup or arch.name == "ppc64_hash" else 16


# -- predicates -----------------------------------------------------------------------------------------------------


def vmemmap_optimizable_order(f: Framework, order: int) -> bool:
    """vmemmap_optimizable_order (include/linux/vmemmap-optimization.h, -mm)."""
    return order >= f.min_order


def section_vmemmap_optimizable(f: Framework, section: int) -> bool:
    """section_vmemmap_optimizable (mm/sparse.h, -mm)."""
    return (f.orders.get(section) or 0) >= f.min_order


def vmemmap_optimizable_pfn(f: Framework, pfn: int) -> bool:
    """vmemmap_optimizable_pfn (include/linux/vmemmap-optimization.h, -mm): the struct page of `pfn` lies in a shared
    tail page.
    """
    order = f.orders.get(pfn // f.k.arch.pages_per_section) or 0
    return order >= f.min_order and pfn & ((1 << order) - 1) >= f.k.arch.spp


def vmemmap_can_optimize(f: Framework, altmap: Altmap | None, pgmap: PgMap | None) -> bool:
    """vmemmap_can_optimize (include/linux/mm.h, -mm): device pages in compound pages, with their memmap in RAM."""
    return (
        pgmap is not None
        and altmap is None
        and f.k.arch.dax_dedup
        and f.k.arch.vmemmap_pages(pgmap.vmemmap_shift) > VMEMMAP_OPTIMIZATION_PAGES
    )


# -- section order --------------------------------------------------------------------------------------------------


def section_set_compound_order(f: Framework, section: int, order: int) -> None:
    """section_set_compound_order (include/linux/vmemmap-optimization.h, -mm): warns when it replaces another order."""
    old = f.orders.get(section)
    if old == order or (old is None and not order):
        return
    if not order:
        f.orders.clear(section, section + 1)
        return
    if old:
        f.k.warn(f"order {old} of section {section} is replaced by {order}")
    f.orders.set(section, section + 1, order)


def section_set_compound_order_range(f: Framework, pfn: int, nr: int, order: int) -> None:
    """section_set_compound_order_range (include/linux/vmemmap-optimization.h, -mm): does nothing unless the range is
    whole sections.
    """
    per = f.k.arch.pages_per_section
    if not (pfn | nr) & (per - 1):
        for section in range(pfn // per, (pfn + nr) // per):
            section_set_compound_order(f, section, order)


# -- shared tail pages ----------------------------------------------------------------------------------------------


def vmemmap_shared_tail_page(f: Framework, order: int, zone: Zone) -> int | None:
    """vmemmap_shared_tail_page, vmemmap_tails_alloc (mm/sparse-vmemmap.c, -mm): the frame of T(zone, order); point
        `TAIL` if it is new.

    Its struct pages are valid from allocation on. It is never replaced nor freed, and in neither memmap counter. Left
    out: losers of the race to publish it; the array's own memory, which is less than a page.
    """
    idx = order - f.min_order
    nr_orders = f.k.arch.max_folio_order - f.min_order + 1  # VMEMMAP_OPTIMIZATION_NR_ORDERS
    if not 0 <= idx < nr_orders:
        f.k.warn_once("a shared tail page is asked for of an order that has none")
        return None
    array = f.tails.get(zone.key)
    if array is None:
        array = f.tails[zone.key] = [None] * nr_orders
    frame = array[idx]
    if frame is None:
        frame = array[idx] = _alloc_tail(f, zone)
        if frame is not None:
            f.k.memmap.frames[frame] = Tail(order, zone.nid, zone.idx, zone.idx == ZONE_DEVICE)
    return frame


def _alloc_tail(f: Framework, zone: Zone) -> int | None:
    k = f.k
    if k.slab_available:
        return None if k.faults.fails("TAIL") else k.pages.alloc_page(zone.nid, OWNER_TAIL)
    frame = k.memblock.alloc(zone.nid, 1, 1)
    if frame is not None:
        k.pages.claim(frame, frame + 1, OWNER_TAIL_BOOT)
    return frame


# -- accounting -----------------------------------------------------------------------------------------------------


def section_nr_vmemmap_pages(f: Framework, pfn: int, nr: int) -> int:
    """section_nr_vmemmap_pages (mm/sparse-vmemmap.c, -mm): what [pfn, pfn + nr), inside one section, counts for.

    Left out: warnings about ranges that no caller passes (not whole subsections, more than a section).
    """
    arch = f.k.arch
    order = f.orders.get(pfn // arch.pages_per_section) or 0
    if order < f.min_order:
        return arch.vpn_end(nr)
    if 1 << order < arch.pages_per_section:
        return VMEMMAP_OPTIMIZATION_PAGES * nr >> order
    return 0 if pfn & ((1 << order) - 1) else VMEMMAP_OPTIMIZATION_PAGES
