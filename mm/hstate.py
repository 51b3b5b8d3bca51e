"""struct hstate: one pool of huge pages of one size (include/linux/hugetlb.h, Linux 7.3)."""

from __future__ import annotations

from mm.folio import Folio


class HState:
    """Counters and free lists of one huge page size, per node."""

    __slots__ = (
        "demote_order",
        "folios",
        "free",
        "gigantic",
        "mapped",
        "max_huge_pages",
        "next_nid_to_alloc",
        "next_nid_to_free",
        "nr",
        "nr_overcommit",
        "order",
        "pages",
        "resv",
        "surplus",
        "touched",
    )

    def __init__(self, order: int, demote_order: int, nodes: int, gigantic: bool) -> None:
        self.order = order
        self.gigantic = gigantic
        """Above MAX_PAGE_ORDER: too large for the buddy allocator."""
        self.pages = 1 << order
        """Base pages of one huge page."""
        self.demote_order = demote_order
        """Order of the pieces that demotion makes, 0 for none."""
        self.nr = [0] * nodes
        """nr_huge_pages_node."""
        self.surplus = [0] * nodes
        self.free: list[dict[int, Folio]] = [{} for _ in range(nodes)]
        """hugepage_freelists, by head pfn in insertion order: the END is the list head. Enqueue inserts, dequeue takes
        the last, and a folio in the middle leaves in constant time."""
        self.resv = 0
        """resv_huge_pages."""
        self.nr_overcommit = 0
        self.max_huge_pages = 0
        self.next_nid_to_alloc = 0
        self.next_nid_to_free = 0
        self.folios: dict[int, Folio] = {}
        """Every folio of the pool, free or mapped, by head pfn."""
        self.mapped: list[list[Folio]] = []
        """Every mapping, the oldest first: its folios in address order."""
        self.touched = False
        """Set whenever counters or lists change; the oracle clears it."""

    @property
    def persistent(self) -> int:
        """persistent_huge_pages: nr - surplus."""
        return sum(self.nr) - sum(self.surplus)

    def free_count(self) -> int:
        """free_huge_pages, all nodes."""
        n = 0
        for folios in self.free:
            n += len(folios)
        return n
