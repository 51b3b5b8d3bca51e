"""What the laws read, and what several of them ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mm.arch import Arch
from mm.hugetlb import folio_at
from mm.kernel import Kernel
from mm.page_alloc import OWNER_HUGETLB

Args = dict[str, Any]
Before = Any
"""What a law wants to know of the state before the operation."""


class SideLike:
    """What laws read of a side. A base class and no protocol, whose attributes take longer to get where this is
    compiled."""

    __slots__ = ("handles", "kernel", "page_shift")

    def __init__(self, kernel: Kernel, handles: dict[str, Any]) -> None:
        self.kernel = kernel
        self.page_shift = kernel.arch.page_shift
        self.handles = handles
        """Live handles; one whose making was refused is not here."""

    def order(self, size: int) -> int:
        """Order of a huge page of `size` bytes."""
        return size.bit_length() - 1 - self.page_shift


Look = Callable[[SideLike, Args], Before]
Law = Callable[[SideLike, Args, int, Before, str | None], str | None]


def states_of(k: Kernel, lo: int, hi: int) -> list[tuple[int, int, Any]]:
    """The blocks that meet frames [lo, hi), and their states."""
    per = k.memory_blocks.pages
    return k.memory_blocks.zone.runs(lo // per, -(-hi // per))


def subsections_of(k: Kernel, lo: int, hi: int) -> tuple[int, int]:
    """The subsections that meet frames [lo, hi)."""
    per = k.arch.pages_per_subsection
    return lo // per, -(-hi // per)


def self_hosted(k: Kernel, first: int, last: int) -> bool | None:
    """Whether all memory blocks of [first, last) hold their own memmap, or none does; None for some of them."""
    hosted = sum([first <= block < last for block in k.memory_blocks.altmaps])
    return None if 0 < hosted < last - first else hosted > 0


def in_the_way(k: Kernel, lo: int, hi: int, idle: frozenset[str]) -> bool:
    """Whether something in frames [lo, hi) cannot be made free: what has them is not `idle`, no free huge page that is
    sound, and no poison (has_unmovable_pages, test_pages_isolated in mm/page_isolation.c)."""
    if k.pages.cma.overlaps(lo, hi):
        return True
    for s, e, owner in k.pages.owners.runs(lo, hi):
        if owner in idle:
            continue
        if owner != OWNER_HUGETLB:
            return True
        while s < e:
            folio = folio_at(k, s)
            if folio is None or folio.refcount or folio.hwpoison or k.hstates[folio.order].gigantic:
                return True
            s = folio.end_pfn
    return False


def dax_align_valid(arch: Arch, align: int) -> bool:
    """Whether page table entries have an alignment of a device, in bytes (drivers/dax/dax-private.h)."""
    shift = align.bit_length() - 1
    wanted = shift in (arch.page_shift, arch.pmd_shift) or (arch.pud_thp and shift == arch.pud_shift)
    return wanted and align == 1 << shift


def data_of(k: Kernel, lo: int, hi: int, align: int) -> tuple[int, int]:
    """The frames of a namespace in [lo, hi) that are data (nd_pfn_init, drivers/nvdimm/pfn_devs.c): behind an info
    block of 8K and the memory map, from a multiple of the alignment (in bytes; at least a subsection) to another one;
    none if they end where they begin or before."""
    page = k.arch.page
    info = -(-(8 << 10) // page)
    data = lo + info - (lo + info - hi) * 64 // page  # 64 bytes for each page behind the info block, rounded up
    pages = max(align // page, k.arch.pages_per_subsection)
    return -(-data // pages) * pages, hi // pages * pages
