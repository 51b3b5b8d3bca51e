"""CMA areas for gigantic pages (mm/hugetlb_cma.c, Linux 7.3): `hugetlb_cma=` on the kernel command line.

Sizes of the command line are in bytes, as in the kernel. Left out: memory policies and cpusets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mm.cma import (
    Cma,
    cma_alloc_frozen_compound,
    cma_clear_bitmap,
    cma_declare_contiguous_multi,
    cma_reserve_early,
    cma_validate_zones,
    find_cma_memrange,
)
from mm.page_alloc import OWNER_HUGETLB

if TYPE_CHECKING:
    from mm.folio import Folio
    from mm.hstate import HState
    from mm.kernel import Kernel


class HugetlbCma:
    """The variables of mm/hugetlb_cma.c."""

    __slots__ = ("areas", "only", "percent", "percent_in_node", "size", "size_in_node")

    def __init__(self, nodes: int) -> None:
        self.size = 0
        """hugetlb_cma_size: what is asked for; after the boot, 0 if no node has an area."""
        self.size_in_node = [0] * nodes
        self.percent = 0
        """hugetlb_cma_percent: of all memory."""
        self.percent_in_node = [0] * nodes
        self.only = False
        """hugetlb_cma_only: gigantic pages come from nowhere else."""
        self.areas: list[Cma | None] = [None] * nodes
        """hugetlb_cma: the area of each node."""


# -- command line ---------------------------------------------------------------------------------------------------


def cmdline_parse_hugetlb_cma(k: Kernel, size: int, nid: int | None, only: bool, percent: int = 0) -> int:
    """cmdline_parse_hugetlb_cma, cmdline_parse_hugetlb_cma_only: `hugetlb_cma=SIZE` or `hugetlb_cma=NID:SIZE`, and with
    `only` hugetlb_cma_only=on; 0. With `percent` it is `PERCENT%` in place of SIZE.

    A size for all nodes replaces what was said before; one for a node replaces that for all, and that for the node.
    More than 100 percent is ignored, but with a node it has replaced what was said for all by then.
    """
    state = k.hugetlb_cma
    if percent:
        size = 0
    if nid is None:
        if percent <= 100:
            state.size, state.percent = size, percent
            state.size_in_node = [0] * len(k.nodes)
            state.percent_in_node = [0] * len(k.nodes)
    else:
        state.size = state.percent = 0
        if percent <= 100:
            state.size_in_node[nid], state.percent_in_node[nid] = size, percent
    state.only = state.only or only
    return 0


# -- boot -----------------------------------------------------------------------------------------------------------


def hugetlb_cma_reserve(k: Kernel) -> None:
    """hugetlb_cma_reserve, called when zones are sized (mm_core_init_early); and hugetlb_cma_validate_params, which
    hugetlb_bootmem_alloc begins with.

    Where the architecture has no order for it, the size stays what was asked for.
    """
    _reserve(k)
    if not k.hugetlb_cma.size:
        k.hugetlb_cma.only = False


def _reserve(k: Kernel) -> None:
    state = k.hugetlb_cma
    sizes, percents = state.size_in_node, state.percent_in_node
    if any(sizes) or any(percents):
        for nid, percent in enumerate(percents):
            if percent:
                sizes[nid] = _memory_size(k, nid) * percent // 100
        state.size = sum(sizes)
    elif state.percent:
        state.size = _memory_size(k, None) * state.percent // 100
    if not state.size or not k.arch.hugetlb_cma_shift:
        return
    gigantic = 1 << k.arch.hugetlb_cma_shift
    if state.percent:
        state.size -= state.size % gigantic
    for nid, percent in enumerate(percents):
        if percent:
            state.size -= sizes[nid] % gigantic
            sizes[nid] -= sizes[nid] % gigantic
    specific = False
    for nid, size in enumerate(sizes):
        if size % gigantic:  # every node has memory
            state.size -= size
            sizes[nid] = 0
        elif size:
            specific = True
    if state.size % gigantic:
        state.size = 0
    if not state.size:
        return
    per_node = -(-state.size // len(k.nodes))
    per_node = -(-per_node // gigantic) * gigantic
    reserved = 0
    for nid in range(len(k.nodes)):
        size = sizes[nid] if specific else min(per_node, state.size - reserved)
        if not size:
            continue
        cma = cma_declare_contiguous_multi(k, size // k.arch.page, gigantic // k.arch.page, k.arch.pmd_order, nid)
        if cma is None or not cma_validate_zones(k, cma):
            continue
        state.areas[nid] = cma
        reserved += size
        if reserved >= state.size:
            break
    if not reserved:
        state.size = 0


def _memory_size(k: Kernel, nid: int | None) -> int:
    """memblock_node_memory_size, memblock_phys_mem_size without a node (mm/memblock.c): bytes of RAM, used or not."""
    return k.arch.page * sum(end - start for n, start, end in k.machine.ram_ranges() if nid in (None, n))


def hugetlb_cma_total_size(k: Kernel) -> int:
    """hugetlb_cma_total_size: 0 iff there is no hugetlb_cma."""
    return k.hugetlb_cma.size


def hugetlb_early_cma(k: Kernel, h: HState) -> bool:
    """hugetlb_early_cma: boot pages of this size come from the areas. Left out: arch_has_huge_bootmem_alloc, which is
    true of powerpc's hash MMU only, without gigantic pages here.
    """
    return h.gigantic and k.hugetlb_cma.only


def hugetlb_cma_alloc_bootmem(k: Kernel, h: HState, nid: int, node_exact: bool) -> int | None:
    """hugetlb_cma_alloc_bootmem: a boot page from the node's area, or unless `node_exact` from another's; its first
    pfn, or None. The frames are owned by `OWNER_CMA` until the caller claims them.
    """
    areas = k.hugetlb_cma.areas
    pfn = cma_reserve_early(k, areas[nid], h.pages)
    if pfn is None and not node_exact:
        for node, cma in enumerate(areas):
            if node != nid:
                pfn = cma_reserve_early(k, cma, h.pages)
                if pfn is not None:
                    break
    return pfn


# -- run time -------------------------------------------------------------------------------------------------------


def hugetlb_cma_alloc_frozen_folio(k: Kernel, order: int, nid: int, thisnode: bool) -> int | None:
    """hugetlb_cma_alloc_frozen_folio: first pfn of a gigantic page from the node's area, or unless `thisnode` from
    another's; None if none has one.
    """
    areas = k.hugetlb_cma.areas
    pfn = cma_alloc_frozen_compound(k, areas[nid], order, OWNER_HUGETLB)
    if pfn is None and not thisnode:
        for node, cma in enumerate(areas):
            if node != nid and cma is not None:
                pfn = cma_alloc_frozen_compound(k, cma, order, OWNER_HUGETLB)
                if pfn is not None:
                    break
    return pfn


def hugetlb_cma_free_frozen_folio(k: Kernel, folio: Folio) -> None:
    """hugetlb_cma_free_frozen_folio, cma_release_frozen of a folio whose pages the caller gives to the buddy allocator:
    the area of its node may hand them out again.
    """
    cma = k.hugetlb_cma.areas[folio.nid]
    n = 1 << folio.order
    cmr = find_cma_memrange(cma, folio.pfn, n)
    assert cma is not None
    assert cmr is not None
    cma_clear_bitmap(cma, cmr, folio.pfn, n)
