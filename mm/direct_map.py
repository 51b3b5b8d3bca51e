"""The kernel's own mapping of all memory on powerpc with the radix MMU: which sizes of pages it is made of, and the
counters of them that /proc/meminfo shows (arch/powerpc/mm/mem.c, book3s64/radix_pgtable.c, Linux 7.3).

Left out: its page tables, and that there is no memory for them; protection, so that kernel text is as the rest; KFENCE
and debug_pagealloc; the end of the address range (RADIX_VMALLOC_START, -EFAULT). Other architectures: x86-64 and s390
split pages at run time for what is not modelled here, the hash MMU counts pages of one size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mm.arch import Arch
from mm.runs import RunMap

if TYPE_CHECKING:
    from mm.kernel import Kernel

_LABELS: Final = {12: "DirectMap4k", 16: "DirectMap64k", 21: "DirectMap2M", 30: "DirectMap1G"}


class DirectMap:
    """Pages of the direct map and their counters."""

    __slots__ = ("entries", "orders", "page_shift", "pages")

    def __init__(self, arch: Arch) -> None:
        self.page_shift: Final = arch.page_shift
        shifts = arch.pud_shift, arch.pmd_shift, arch.page_shift
        self.orders: Final = tuple([s - arch.page_shift for s in shifts if s <= arch.memory_block_shift])
        """Sizes of pages, the largest first; no page is larger than a memory block, so that each block can be removed
        by itself (max_mapping_size in create_physical_mapping)."""
        self.entries: RunMap[int] = RunMap()
        """Pfn -> order of the page that maps it."""
        self.pages = dict.fromkeys(self.orders, 0)
        """direct_pages_count (book3s64/pgtable.c): pages of each order."""

    def arch_report_meminfo(self) -> dict[str, int]:
        """arch_report_meminfo (book3s64/pgtable.c): the lines of /proc/meminfo, in kB."""
        shift = self.page_shift
        return {_LABELS[order + shift]: pages << (order + shift - 10) for order, pages in self.pages.items()}


def update_page_count(direct: DirectMap, order: int, count: int) -> None:
    """update_page_count (book3s/64/pgalloc.h)."""
    direct.pages[order] += count


def create_physical_mapping(direct: DirectMap, start: int, end: int) -> None:
    """create_physical_mapping (radix_pgtable.c): the largest pages that fit, from `start` on."""
    _create(direct, start, end, 0)


def _create(direct: DirectMap, start: int, end: int, level: int) -> None:
    """All but the pages larger than those of `level`, for which there is no room in [start, end)."""
    if start >= end:
        return
    order = direct.orders[level]
    first, last = -(-start >> order), end >> order
    if first >= last:
        _create(direct, start, end, level + 1)
        return
    _create(direct, start, first << order, level + 1)
    direct.entries.set(first << order, last << order, order)
    update_page_count(direct, order, last - first)
    _create(direct, last << order, end, level + 1)


def remove_pagetable(direct: DirectMap, start: int, end: int) -> None:
    """remove_pagetable (radix_pgtable.c) with `direct`: whole pages go, one that lies in the range in part stays."""
    for lo, hi, order in direct.entries.runs(start, end):
        first, last = -(-lo >> order), hi >> order
        if first < last:
            direct.entries.clear(first << order, last << order)
            update_page_count(direct, order, first - last)


def radix_init_pgtable(k: Kernel) -> None:
    """radix_init_pgtable (radix_pgtable.c): the boot maps all RAM."""
    if k.direct_map is not None:
        for _, start, end in k.machine.ram_ranges():
            create_physical_mapping(k.direct_map, start, end)


def arch_create_linear_mapping(k: Kernel, pfn: int, nr_pages: int) -> None:
    """arch_create_linear_mapping (arch/powerpc/mm/mem.c), radix__create_section_mapping."""
    if k.direct_map is not None:
        create_physical_mapping(k.direct_map, pfn, pfn + nr_pages)


def arch_remove_linear_mapping(k: Kernel, pfn: int, nr_pages: int) -> None:
    """arch_remove_linear_mapping (arch/powerpc/mm/mem.c), radix__remove_section_mapping."""
    if k.direct_map is not None:
        remove_pagetable(k.direct_map, pfn, pfn + nr_pages)
