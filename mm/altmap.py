"""Memmap storage that the added range brings along (include/linux/memremap.h struct vmem_altmap; mm/sparse-vmemmap.c).

Who does what. A side that populates from an altmap calls `allocate(n)` and maps the frames it gets; one that frees
such frames calls `release(n)`. It never touches `Kernel.pages` for them: they belong to no zone. Their owner in
`Kernel.pages` is recorded in front of the seam, by `mm.memory_hotplug`: `arch_add_memory` claims what the add has
taken out of the altmap (also when it failed and kept sections), `arch_remove_memory` gives up the whole window when
everything was returned.
"""

from __future__ import annotations

from mm.page_alloc import OWNER_ALTMAP


class Altmap:
    """A bump allocator over frames [base_pfn + reserve, base_pfn + reserve + capacity).

    `capacity` is the kernel's `free` field: how many frames may be given out. `owner` is the OWNER_* its frames get.
    """

    __slots__ = ("align", "alloc", "base_pfn", "capacity", "end_pfn", "owner", "reserve")

    def __init__(self, base_pfn: int, end_pfn: int, reserve: int, capacity: int, owner: str = OWNER_ALTMAP) -> None:
        self.base_pfn = base_pfn
        self.end_pfn = end_pfn
        self.reserve = reserve
        self.capacity = capacity
        self.align = 0
        self.alloc = 0
        self.owner = owner

    def offset(self) -> int:
        """vmem_altmap_offset: frames at the start of the range that are not the device's data."""
        return self.reserve + self.capacity

    def allocate(self, n: int) -> int | None:
        """altmap_alloc_block_buf: `n` frames aligned to the lowest set bit of n; None when exhausted."""
        pfn = self.base_pfn + self.reserve + self.alloc + self.align
        lowest = n & -n
        pad = -pfn % lowest
        if n + pad > self.capacity - self.alloc - self.align:
            return None
        self.alloc += n
        self.align += pad
        return pfn + pad

    def allocate_pages(self, n: int) -> tuple[int, int]:
        """`allocate(1)` `n` times in a row: the first frame, and how many there were before it was exhausted."""
        pfn = self.base_pfn + self.reserve + self.alloc + self.align
        n = max(0, min(n, self.capacity - self.alloc - self.align))
        self.alloc += n
        return pfn, n

    def taken(self) -> tuple[int, int]:
        """First frame and end of what was given out, with the gaps for alignment."""
        first = self.base_pfn + self.reserve
        return first, first + self.alloc + self.align

    def release(self, n: int) -> None:
        """vmem_altmap_free (include/linux/mm.h)."""
        self.alloc -= n
