"""struct dev_dax: a device on the dax bus, and what its drivers keep (drivers/dax/dax-private.h, Linux 7.3)."""

from __future__ import annotations

from typing import Literal

from mm.pgmap import PgMap

Range = tuple[int, int]
"""(first pfn, end pfn)."""
Driver = Literal["none", "devdax", "fsdev", "kmem"]
KmemState = Literal["unplugged", "offline", "online", "online_kernel", "online_movable"]


class KmemData:
    """struct dax_kmem_data (drivers/dax/kmem.c)."""

    __slots__ = ("res", "state")

    def __init__(self, nr_range: int) -> None:
        self.res = [False] * nr_range
        """Which ranges are reserved, hence have memory added."""
        self.state: KmemState = "unplugged"
        """What was last written, or the default online type. Onlining single blocks does not change it."""


class DevDax:
    """struct dev_dax (drivers/dax/dax-private.h): a device on the dax bus."""

    __slots__ = ("align", "driver", "kmem", "memmap_on_memory", "nid", "pgmap", "ranges", "static")

    def __init__(self, ranges: list[Range], align: int, static: PgMap | None, nid: int) -> None:
        self.ranges = ranges
        """(first pfn, end pfn) of its data."""
        self.align = align
        """In pages."""
        self.static = static
        """The page map that a static device was made with: its range begins with what is in front of the data. It
        outlives its drivers."""
        self.nid = nid
        self.memmap_on_memory = False
        """The attribute of that name."""
        self.driver: Driver = "none"
        self.pgmap: PgMap | None = None
        """The page map in use, while device_dax or fsdev is bound."""
        self.kmem: KmemData | None = None
        """What the kmem driver keeps while it is bound."""
