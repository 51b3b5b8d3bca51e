"""The guest's huge pages, read from its struct pages: where they are, their flags, and the order of the free lists.

This is what lets the reference model be held to the kernel exactly: where a huge page is placed is the buddy
allocator's business, which the model leaves out, so the model is told (live.placement), and everything that follows
from it must then agree.

Layout of struct page since Linux 6.12 (include/linux/mm_types.h, include/linux/page-flags.h): word 0 flags, 1 and 2
lru, 5 private, 6 page_type (low half, type in the top byte) and refcount (high half). Order of a large folio: lowest
byte of word 0 of its second page.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from live.pagetable import VMEMMAP_START, StructPages

PGTY_HUGETLB: Final = 0xF4
HPG_FREED: Final = 1 << 3
HPG_VMEMMAP_OPTIMIZED: Final = 1 << 4
HPG_CMA: Final = 1 << 6
"""Bits of enum hugetlb_page_flags (include/linux/hugetlb.h)."""
PMD_PFNS: Final = 512
LRU: Final = 8
"""Offset of folio.lru in bytes."""


class HugeFolio(NamedTuple):
    """One huge page."""

    pfn: int
    order: int
    optimized: bool
    free: bool
    """It is on a free list of its pool."""
    refcount: int
    next: int | None
    """Head pfn of the next folio of the list it is on, None for the list's head."""
    cma: bool = False
    """It came from a CMA area and goes back there."""


def huge_folios(pages: StructPages, sections: Iterable[int]) -> dict[int, HugeFolio]:
    """Every huge page whose head lies in the given sections, by head pfn."""
    out: dict[int, HugeFolio] = {}
    for section in sections:
        for pfn, word in pages.column(section, 6, PMD_PFNS):
            if word >> 24 & 0xFF != PGTY_HUGETLB:
                continue
            head, second = pages.read(pfn), pages.read(pfn + 1)
            if head is None or second is None:
                continue
            after, rest = divmod(head[1] - LRU - VMEMMAP_START, 64)
            linked = after if rest == 0 and 0 <= after < 1 << 40 else None
            optimized, free = bool(head[5] & HPG_VMEMMAP_OPTIMIZED), bool(head[5] & HPG_FREED)
            cma = bool(head[5] & HPG_CMA)
            out[pfn] = HugeFolio(pfn, second[0] & 0xFF, optimized, free, word >> 32, linked, cma)
    return out


def list_order(folios: dict[int, HugeFolio]) -> list[list[int]]:
    """The lists that folios hang on, each from its head on, as head pfns."""
    followed = {f.next for f in folios.values()}
    out = []
    for pfn in folios:
        if pfn in followed:
            continue
        row = [pfn]
        while (after := folios[row[-1]].next) is not None and after in folios and len(row) <= len(folios):
            row.append(after)
        out.append(row)
    return out
