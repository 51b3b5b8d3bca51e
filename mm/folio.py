"""struct folio as far as the hugetlb pool uses it (include/linux/hugetlb.h, enum hugetlb_page_flags, Linux 7.3)."""

from __future__ import annotations

from typing import Final

from mm.mmzone import Zone


class Folio:
    """A huge page. Pool folios are frozen (refcount 0); a mapped one has refcount 1."""

    OF_THE_FRAMES: Final = (
        *("pfn", "order", "zone", "nid", "hugetlb", "vmemmap_optimized", "temporary", "cma"),
        *("hwpoison", "raw_hwp", "raw_hwp_unreliable"),
    )
    """Every attribute but the reference count, which is of whoever holds the folio."""

    # Most folios never differ from these; demotion makes 512 at a time. Without slots, an instance holds what differs.
    refcount = 0
    vmemmap_optimized = False
    """HPageVmemmapOptimized: the only record of HVO state."""
    temporary = False
    cma = False
    raw_hwp_unreliable = False
    hwpoison = False
    """PG_hwpoison of the head."""
    raw_hwp: tuple[int, ...] = ()
    """_hugetlb_hwpoison: pfns of the poisoned pages, the latest first."""

    def __init__(self, pfn: int, order: int, zone: Zone, hugetlb: bool = False) -> None:
        self.pfn = pfn
        self.order = order
        self.zone = zone
        self.nid = zone.nid
        self.hugetlb = hugetlb
        """PGTY_hugetlb in the head's page type."""

    def __repr__(self) -> str:
        return f"<folio {self.pfn:#x} order {self.order}>"

    @property
    def end_pfn(self) -> int:
        """First pfn after the folio."""
        return self.pfn + (1 << self.order)
