"""Boot: gigantic pages are reserved first and leave their order in their sections; then sparse_init maps T where they
say so.

mm/hugetlb.c, mm/sparse.c, -mm of November 2026. The order is a boot-time hint for HugeTLB: gathering the folios
resets it.
"""

from __future__ import annotations

from candidate.hugetlb_vmemmap import hugetlb_vmemmap_optimize_folios
from candidate.vmemmap_boot import ALL, boot_frames, boot_tables
from candidate.vmemmap_optimization import (
    Framework,
    section_nr_vmemmap_pages,
    section_set_compound_order_range,
    vmemmap_optimizable_order,
    vmemmap_shared_tail_page,
)
from mm.boot import memblocks_present, sparse_init_subsection_map
from mm.cma import init_cma_pageblock
from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb import add_boot_folio
from mm.hugetlb_cma import hugetlb_cma_alloc_bootmem, hugetlb_cma_total_size, hugetlb_early_cma
from mm.kernel import MIGRATE_MOVABLE, Kernel
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY
from mm.page import Compound
from mm.page_alloc import OWNER_HUGETLB, OWNER_MEMMAP_BOOT, KernelBug
from mm.pgtable import Pte, Shared

# -- reservation ----------------------------------------------------------------------------------------------------


def hugetlb_bootmem_alloc(f: Framework) -> None:
    """hugetlb_bootmem_alloc, hugetlb_hstate_alloc_pages (mm/hugetlb.c, -mm), gigantic orders: none at all where CMA has
    areas for them and gives none at boot.
    """
    k = f.k
    for h in k.hstates.values():
        if not h.gigantic or (hugetlb_cma_total_size(k) and not hugetlb_early_cma(k, h)):
            continue
        for request in k.boot_requests:
            if request.order == h.order:
                h.max_huge_pages += _alloc_request(f, h, request.count, request.nid)


def _alloc_request(f: Framework, h: HState, count: int, nid: int | None) -> int:
    """Up to `count` pages of one request; pages that cross zones are given back when it is done."""
    cross: list[tuple[int, int]] = []
    got = 0
    for _ in range(count):
        if not alloc_bootmem_huge_page(f, h, nid, cross):
            break
        got += 1
    for pfn, node in cross:
        f.k.pages.disclaim(pfn, pfn + h.pages)
        f.k.memblock.release(pfn, pfn + h.pages, node)
    return got - len(cross)


def alloc_bootmem_huge_page(f: Framework, h: HState, nid: int | None, cross: list[tuple[int, int]]) -> bool:
    """alloc_bootmem_huge_page, hugetlb_vmemmap_optimize_bootmem_page (mm/hugetlb.c, mm/hugetlb_vmemmap.c, -mm).

    Round robin starts at the next node in turn and falls back to any. A page that crosses zones goes to `cross` and
    gets no order; those of a CMA area cannot, its zones were looked at when it was reserved.
    """
    k = f.k
    n = h.pages
    if nid is None:
        pfn = alloc_bootmem(k, h, h.next_nid_to_alloc, False)
        h.next_nid_to_alloc = (h.next_nid_to_alloc + 1) % len(k.nodes)
    else:
        pfn = alloc_bootmem(k, h, nid, True)
    if pfn is None:
        return False
    k.pages.claim(pfn, pfn + n, OWNER_HUGETLB)
    zones = k.pages.zone_of.runs(pfn, pfn + n)
    zone = zones[0][2]
    if not hugetlb_early_cma(k, h) and len(zones) > 1:
        cross.append((pfn, zone.nid))
        return True
    f.boot_pages[zone.nid].append((h.order, pfn))
    if f.vmemmap_optimize_enabled and k.arch.hvo:
        section_set_compound_order_range(f, pfn, n, h.order)
    k.memblock.noinit.add(pfn + 1, pfn + n)
    return True


def alloc_bootmem(k: Kernel, h: HState, nid: int, node_exact: bool) -> int | None:
    """alloc_bootmem, memblock_alloc_hugetlb (mm/hugetlb.c, mm/memblock.c, -mm): the first pfn, or None."""
    if hugetlb_early_cma(k, h):
        return hugetlb_cma_alloc_bootmem(k, h, nid, node_exact)
    return k.memblock.alloc(nid, h.pages, h.pages, exact=node_exact, kmemleak_trace=True)


# -- memory map -----------------------------------------------------------------------------------------------------


def sparse_init(f: Framework) -> None:
    """sparse_init, sparse_init_nid (mm/sparse.c, -mm): usage and memmap of every present section, counted by its order.

    UNCONFIRMED: the exact call sites in front of it.
    """
    k = f.k
    sections = k.sections
    rows = sections.nid.items()
    for lo, hi, nid in rows:
        done = lo
        for s, e, order in f.orders.runs(lo, hi):
            _populate_row(f, done, s, nid)
            _populate_optimized(f, s, e, order, nid)
            done = e
        _populate_row(f, done, hi, nid)
        sections.usage.set(lo, hi, "boot")
        sections.set_flags(lo, hi, SECTION_HAS_MEM_MAP | SECTION_IS_EARLY)
    sparse_init_subsection_map(k)


def _populate_row(f: Framework, lo: int, hi: int, nid: int) -> None:
    """Sections [lo, hi) that are not optimized."""
    if lo < hi:
        per = f.k.arch.pages_per_section
        f.vmemmap.vmemmap_populate_boot(f, lo * per, hi * per, nid)
        f.k.vmstat.nr_memmap_boot += (hi - lo) * f.k.arch.vmemmap_per_section


def _populate_optimized(f: Framework, lo: int, hi: int, order: int, nid: int) -> None:
    """Sections [lo, hi) of gigantic pages of `order`: vmemmap_populate_basepages, vmemmap_alloc_pte
    (mm/sparse-vmemmap.c, -mm).

    T is that of the zone of each slot's pfn, writable, without a reference.
    """
    k = f.k
    arch = k.arch
    per = arch.vmemmap_per_section
    boot_tables(k, lo * per, hi * per, nid, ALL)
    period = arch.vmemmap_pages(order)
    for vpn in range(lo * per, hi * per, period):
        zone = k.pages.zone_of.get(vpn * arch.spp)
        tail = None if zone is None else vmemmap_shared_tail_page(f, order, zone)
        if tail is None:
            raise KernelBug("panic: no shared tail page for the boot memory map")
        frame = boot_frames(k, nid, 1, 1, OWNER_MEMMAP_BOOT)[0][0]
        k.tables.set(vpn, vpn + 1, Pte(frame - vpn, True))
        k.tables.set(vpn + 1, vpn + period, Shared(tail, True))
    for section in range(lo, hi):
        k.vmstat.nr_memmap_boot += section_nr_vmemmap_pages(f, section * arch.pages_per_section, arch.pages_per_section)


def sparse_sections_init(f: Framework) -> None:
    """sparse_sections_init (mm/sparse.c, -mm): mem_section roots and present marks, in front of the gigantic
    reservation.
    """
    memblocks_present(f.k)
    for lo, hi, _ in f.k.sections.nid.items():
        f.roots.update(range(lo // f.sections_per_root, (hi - 1) // f.sections_per_root + 1))


# -- gathering ------------------------------------------------------------------------------------------------------


def hugetlb_bootmem_struct_page_init(f: Framework) -> None:
    """hugetlb_bootmem_struct_page_init, gather_bootmem_prealloc_node (mm/hugetlb.c, -mm): node by node.

    The list of folios is built back to front, so that the page reserved first ends up as the first to be handed out.
    """
    k = f.k
    for pages in f.boot_pages:
        by_order: dict[int, list[Folio]] = {}
        for order, pfn in pages:
            by_order.setdefault(order, []).append(_gather_folio(f, order, pfn))
        pages.clear()
        for order, folios in by_order.items():
            h = k.hstates[order]
            folios.reverse()
            prep_and_add_bootmem_folios(f, h, folios)


def _gather_folio(f: Framework, order: int, pfn: int) -> Folio:
    """gather_bootmem_prealloc_node (mm/hugetlb.c, -mm), one page: head and the S - 1 tails beside it; the order of the
    sections is used up.
    """
    k = f.k
    zone = k.pages.zone_of.get(pfn)
    if zone is None:
        raise KernelBug(f"gigantic page at {pfn:#x} is in no zone")
    content = Compound(order, 0, zone.nid, zone.idx, "hugetlb")
    k.memmap.write(pfn, 1, content)  # initialised already, as a reserved page
    k.memmap.init(pfn + 1, k.arch.spp - 1, content)
    folio = Folio(pfn, order, zone)
    folio.hugetlb = True
    section_order = f.orders.get(pfn // k.arch.pages_per_section) or 0
    folio.vmemmap_optimized = vmemmap_optimizable_order(f, section_order)
    section_set_compound_order_range(f, pfn, 1 << order, 0)
    if hugetlb_early_cma(k, k.hstates[order]):
        folio.cma = True  # and init_cma_pageblock, below, raises managed_pages
    else:
        zone.managed_pages += 1 << order
    return folio


def prep_and_add_bootmem_folios(f: Framework, h: HState, folios: list[Folio]) -> None:
    """prep_and_add_bootmem_folios (mm/hugetlb.c, -mm): optimize or write-protect, or else initialise the remaining
    tails.

    A folio that stays partly optimized counts as optimized, and its remaining tails stay raw (5.13 a).
    """
    k = f.k
    hugetlb_vmemmap_optimize_folios(f, h, folios, boot=True)
    spp = k.arch.spp
    for folio in folios:
        if not folio.vmemmap_optimized:
            k.memmap.init(folio.pfn + spp, h.pages - spp, Compound(h.order, 0, folio.nid, folio.zone.idx, "hugetlb"))
        hugetlb_bootmem_init_migratetype(k, folio)
        add_boot_folio(k, h, folio)


def hugetlb_bootmem_init_migratetype(k: Kernel, folio: Folio) -> None:
    """hugetlb_bootmem_init_migratetype (mm/hugetlb.c, -mm): MIGRATE_CMA or MIGRATE_MOVABLE."""
    if folio.cma:
        init_cma_pageblock(k, folio.pfn, folio.end_pfn)
    else:
        k.set_pageblocks(folio.pfn, folio.end_pfn, MIGRATE_MOVABLE)
