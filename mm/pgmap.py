"""struct dev_pagemap (include/linux/memremap.h, Linux 7.3) as far as device DAX uses it."""

from __future__ import annotations

from mm.altmap import Altmap


class PgMap:
    """A device's ranges of struct pages. `ranges` are (first pfn, end pfn)."""

    __slots__ = ("altmap", "nid", "nr_range", "ops", "ranges", "type", "vmemmap_shift")

    def __init__(
        self, ranges: list[tuple[int, int]], vmemmap_shift: int, altmap: Altmap | None, nid: int, type: str
    ) -> None:
        self.ranges = ranges
        self.nr_range = 0
        """Finished ranges; while adding, the index of the range in progress (mm/memremap.c:memremap_pages)."""
        self.vmemmap_shift = vmemmap_shift
        """Order of the compound pages, 0 for base pages."""
        self.altmap = altmap
        self.nid = nid
        self.type = type
        """"generic" (device_dax) or "fsdax" (fsdev)."""
        self.ops = ""
        """"fsdev" with the ops of that driver (fsdev_pagemap_ops) and the device as owner, which come and go together.
        device_dax has none."""
