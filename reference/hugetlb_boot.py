"""Boot: gigantic pages from memblock, the boot memory map with pre-HVO, and gathering (mm/hugetlb.c, mm/sparse.c,
mm/hugetlb_vmemmap.c, Linux 7.3; separate-paths.md 3.2, 3.3, 3.5).

Left out: mirrored memory, KHO, the memory that usage maps occupy (their point USG is there), and what becomes of pages
that straddle zones (hugetlb_free_cross_zone_pages): no zone ends inside a gigantic page, which is aligned to its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mm import hugetlb
from mm.boot import memblocks_present, sparse_init_subsection_map
from mm.cma import init_cma_pageblock
from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb_cma import hugetlb_cma_alloc_bootmem, hugetlb_cma_total_size, hugetlb_early_cma
from mm.kernel import MIGRATE_MOVABLE, Kernel
from mm.mmzone import (
    SECTION_HAS_MEM_MAP,
    SECTION_IS_EARLY,
    SECTION_IS_VMEMMAP_PREINIT,
    Zone,
)
from mm.page import Compound, Tail
from mm.page_alloc import OWNER_HUGETLB, KernelBug
from reference.arch import vmemmap_populate_boot
from reference.hugetlb_rows import HUGETLB_VMEMMAP_RESERVE, keep_head_content
from reference.hugetlb_vmemmap import hugetlb_vmemmap_optimizable, hugetlb_vmemmap_optimize_folios
from reference.populate import vmemmap_populate_hvo
from reference.sparse_vmemmap import section_roots

if TYPE_CHECKING:
    from reference.paths import SeparatePaths


class HugeBootmemPage:
    """struct huge_bootmem_page: the record in the first bytes of a gigantic page reserved at boot."""

    __slots__ = ("cma", "h", "hvo", "pfn")

    def __init__(self, pfn: int, h: HState, cma: bool) -> None:
        self.pfn = pfn
        self.h = h
        self.hvo = False
        """HUGE_BOOTMEM_HVO."""
        self.cma = cma
        """HUGE_BOOTMEM_CMA."""


# -- reservation (3.2) ----------------------------------------------------------------------------------------------


def hugetlb_bootmem_alloc(p: SeparatePaths) -> None:
    """hugetlb_bootmem_alloc: for each gigantic size, the pages that the command line asks for. Left out: the count in
    max_huge_pages, which hugetlb_init sets anew.
    """
    k = p.k
    for h in k.hstates.values():
        h.next_nid_to_alloc = 0
        if h.gigantic:
            for request in k.boot_requests:
                if request.order == h.order:
                    hugetlb_hstate_alloc_pages(p, h, request.count, request.nid)


def hugetlb_hstate_alloc_pages(p: SeparatePaths, h: HState, count: int, nid: int | None) -> None:
    """hugetlb_hstate_alloc_pages, gigantic: up to `count` pages; none where there are CMA areas that give nothing
    before they are active.
    """
    if not hugetlb_cma_total_size(p.k) or hugetlb_early_cma(p.k, h):
        while count and alloc_bootmem_huge_page(p, h, nid):
            count -= 1


def alloc_bootmem_huge_page(p: SeparatePaths, h: HState, nid: int | None) -> bool:
    """alloc_bootmem_huge_page, alloc_bootmem: one page from memblock, or from a CMA area, of that node only, or of the
    next node with fallback.
    """
    k = p.k
    early_cma = hugetlb_early_cma(k, h)
    node = nid
    if node is None:
        node = h.next_nid_to_alloc
        h.next_nid_to_alloc = (node + 1) % len(k.nodes)
    if k.faults.fails("HP"):
        return False
    if early_cma:
        pfn = hugetlb_cma_alloc_bootmem(k, h, node, nid is not None)
    else:
        pfn = k.memblock.alloc(node, h.pages, h.pages, exact=nid is not None, kmemleak_trace=True)
    if pfn is None:
        return False
    k.pages.claim(pfn, pfn + h.pages, OWNER_HUGETLB)
    zone = k.pages.zone_of.get(pfn)
    if zone is None:
        raise AssertionError(f"memblock gave frame {pfn:#x}, which is no RAM")
    p.huge_boot_pages[zone.nid].append(HugeBootmemPage(pfn, h, early_cma))
    # The first struct page tells the folio's zone and node; the others are HugeTLB's to initialise.
    k.memblock.noinit.add(pfn + 1, pfn + h.pages)
    return True


# -- boot memory map (3.3) ------------------------------------------------------------------------------------------


def sparse_init(p: SeparatePaths) -> None:
    """sparse_init (mm/sparse.c): a memmap for every section that has RAM, one run of sections of one node after the
    other.
    """
    k = p.k
    memblocks_present(k)
    nodes: list[tuple[int, int, int]] = []
    for lo, hi, nid in k.sections.nid.items():
        p.section_roots.add(*section_roots(k, lo, hi))
        if nodes and nodes[-1][2] == nid:
            lo = nodes.pop()[0]
        nodes.append((lo, hi, nid))
    for lo, hi, nid in nodes:
        sparse_init_nid(p, nid, lo, hi)
    sparse_init_subsection_map(k)


def sparse_init_nid(p: SeparatePaths, nid: int, begin: int, end: int) -> None:
    """sparse_init_nid (mm/sparse.c): sections [begin, end), all of one node; every failure is a panic."""
    k = p.k
    sections = k.sections
    if k.faults.fails("USG"):
        raise KernelBug(f"panic: Failed to allocate usemap for node {nid}")
    usage = UsageBuf(sum(hi - lo for lo, hi, _ in sections.flags.runs(begin, end)))
    hugetlb_vmemmap_init_early(p, nid, usage)
    arch, per = k.arch, k.arch.pages_per_section
    for lo, hi, word in sections.flags.runs(begin, end):
        if word & SECTION_IS_VMEMMAP_PREINIT:
            continue
        if vmemmap_populate_boot(k, arch.vpn(lo * per), arch.vpn_end(hi * per), nid):
            raise KernelBug(f"panic: Failed to allocate memmap for a section in {lo}..{hi}")
        k.vmstat.nr_memmap_boot += (hi - lo) * arch.vmemmap_per_section
        sparse_init_early_sections(k, lo, hi, 0, usage)


class UsageBuf:
    """sparse_usagebuf: one usage map for each present section of the run in progress."""

    def __init__(self, slots: int) -> None:
        self.slots = slots


def sparse_init_early_sections(k: Kernel, lo: int, hi: int, flags: int, usage: UsageBuf) -> None:
    """sparse_init_early_section (mm/sparse.c) for sections [lo, hi)."""
    usage.slots -= hi - lo
    if usage.slots < 0:
        raise KernelBug("panic: kernel BUG in sparse_init_early_section: no usage map is left for the section")
    k.sections.usage.set(lo, hi, "boot")
    k.sections.set_flags(lo, hi, SECTION_HAS_MEM_MAP | SECTION_IS_EARLY | flags)


def vmemmap_should_optimize_bootmem_page(p: SeparatePaths, m: HugeBootmemPage) -> bool:
    """vmemmap_should_optimize_bootmem_page. Left out: that it asks for whole sections and whole vmemmap PMDs (P6),
    which a gigantic page is where there is pre-HVO.
    """
    return p.vmemmap_optimize_enabled and hugetlb_vmemmap_optimizable(p.k, m.h)


def hugetlb_vmemmap_init_early(p: SeparatePaths, nid: int, usage: UsageBuf) -> None:
    """hugetlb_vmemmap_init_early: pre-HVO of the node's reserved gigantic pages.

    Of all of them, for each run of the node's sections: with a second run, or a page outside of this one, the usage
    maps do not suffice.
    """
    k = p.k
    arch = k.arch
    if not arch.prehvo or not p.vmemmap_optimize_enabled:
        return
    for m in p.huge_boot_pages[nid]:
        if not vmemmap_should_optimize_bootmem_page(p, m):
            continue
        lo = m.pfn // arch.spp
        hi = lo + arch.vmemmap_pages(m.h.order)
        zone = pfn_to_zone(k, nid, m.pfn)
        if vmemmap_populate_hvo(k, p.tails, lo, hi, m.h.order, zone):
            raise KernelBug("panic: Failed to allocate memmap for HugeTLB page")
        k.vmstat.nr_memmap_boot += HUGETLB_VMEMMAP_RESERVE
        first = m.pfn // arch.pages_per_section
        last = first + m.h.pages // arch.pages_per_section
        sparse_init_early_sections(k, first, last, SECTION_IS_VMEMMAP_PREINIT, usage)
        m.hvo = True


def pfn_to_zone(k: Kernel, nid: int, pfn: int) -> Zone:
    """pfn_to_zone (mm/hugetlb_vmemmap.c): by zone spans, since no struct page exists yet."""
    return next(zone for zone in k.nodes[nid].zones if zone.spans(pfn))


# -- gathering (3.5) ------------------------------------------------------------------------------------------------


def hugetlb_bootmem_struct_page_init(p: SeparatePaths) -> None:
    """hugetlb_bootmem_struct_page_init: content of the tail frames made at boot, then the folios of every node."""
    k = p.k
    for ((nid, zone_idx), order), frame in p.tails.items():
        k.memmap.frames[frame] = Tail(order, nid, zone_idx)
    for records in p.huge_boot_pages:
        gather_bootmem_prealloc_node(p, records)


def gather_bootmem_prealloc_node(p: SeparatePaths, records: list[HugeBootmemPage]) -> None:
    """gather_bootmem_prealloc_node: a folio from each record; those of one size are prepared together, and no
    architecture has two gigantic ones.
    """
    k = p.k
    batch: list[Folio] = []
    for m in records:
        h = m.h
        zone = k.pages.zone_of.get(m.pfn)
        if zone is None:
            raise AssertionError(f"boot page {m.pfn:#x} is no RAM")
        folio = Folio(m.pfn, h.order, zone)
        hugetlb_folio_init_vmemmap(k, folio, m.hvo)
        folio.hugetlb = True
        folio.vmemmap_optimized = m.hvo
        folio.cma = m.cma
        batch.insert(0, folio)
        if not folio.cma:
            zone.managed_pages += h.pages
    if batch:
        prep_and_add_bootmem_folios(p, records[0].h, batch)


def hugetlb_folio_init_vmemmap(k: Kernel, folio: Folio, pre_hvo: bool) -> None:
    """hugetlb_folio_init_vmemmap: head and the other struct pages of its vmemmap page. The head itself was
    initialised before.
    """
    head = k.memmap.content(folio.pfn)
    if head is None or head.kind != "plain":
        k.warn(f"boot gigantic page {folio.pfn:#x}: refcount is not 1")
    n = HUGETLB_VMEMMAP_RESERVE * k.arch.spp
    k.memmap.write(folio.pfn, n, _hugetlb_content(folio))
    if pre_hvo:
        keep_head_content(k, folio.pfn, folio.end_pfn)
    k.vmstat.struct_pages_initialized += n - 1


def _hugetlb_content(folio: Folio) -> Compound:
    return Compound(folio.order, 0, folio.nid, folio.zone.idx, "hugetlb")


def prep_and_add_bootmem_folios(p: SeparatePaths, h: HState, batch: list[Folio]) -> None:
    """prep_and_add_bootmem_folios: optimize or write-protect in bulk, initialise the tails of the others, add to
    the pool.
    """
    k = p.k
    hugetlb_vmemmap_optimize_folios(p, h, batch, boot=True)
    kept = HUGETLB_VMEMMAP_RESERVE * k.arch.spp
    for folio in batch:
        if not folio.vmemmap_optimized:
            k.memmap.init(folio.pfn + kept, h.pages - kept, _hugetlb_content(folio))
        # hugetlb_bootmem_init_migratetype
        if folio.cma:
            init_cma_pageblock(k, folio.pfn, folio.end_pfn)
        else:
            k.set_pageblocks(folio.pfn, folio.end_pfn, MIGRATE_MOVABLE)
        hugetlb.add_boot_folio(k, h, folio)
