"""What a program's `machine` line describes: the hardware and the kernel command line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from mm.arch import ARCHES, Arch

OnlineType: TypeAlias = Literal["offline", "online", "online_kernel", "online_movable"]
"""enum mmop (include/linux/memory_hotplug.h), in the words of memoryN/state and memhp_default_state."""

GRANULE = 2 << 20


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine and its boot configuration; sizes in bytes, defaults as in docs/language.md."""

    arch: str = "x86_64"
    page: int = 4096
    ram: int = 4 << 30
    nodes: int = 1
    hugetlb_free_vmemmap: bool = True
    deferred_init: bool = True
    memmap_on_memory: str = "off"
    memhp_default_state: OnlineType = "offline"

    @classmethod
    def coerced(cls, **keys: Any) -> Machine:
        """The machine of these keys; a page size that its architecture does not have becomes the smallest it has."""
        pages = page_sizes(keys.get("arch", "x86_64"))
        return cls(**{**keys, "page": keys["page"] if keys.get("page") in pages else pages[0]})

    def geometry(self) -> Arch:
        """The architecture's geometry."""
        return ARCHES[self.arch, self.page]

    def ram_ranges(self) -> tuple[tuple[int, int, int], ...]:
        """Boot RAM as (nid, start_pfn, end_pfn), in address order; these are the handles ram0, ram1, ...

        Laid out as QEMU's default machine does (`Arch.ram`). Nodes take equal shares, rounded down to 2M, in address
        order; the last node takes the rest.
        """
        return _ram_ranges(self.ram, self.nodes, self.arch, self.page)


@cache
def page_sizes(arch: str) -> tuple[int, ...]:
    """Base page sizes of an architecture, ascending."""
    return tuple(sorted(page for name, page in ARCHES if name == arch))


@cache
def _ram_ranges(ram: int, nodes: int, arch: str, page: int) -> tuple[tuple[int, int, int], ...]:
    layout = ARCHES[arch, page].ram
    if ram < layout.whole:
        spans = [(layout.start, layout.start + ram)]
    else:
        spans = [(layout.start, layout.start + layout.low), (layout.rest, layout.rest + ram - layout.low)]
    share = ram // nodes // GRANULE * GRANULE
    out: list[tuple[int, int, int]] = []
    nid, left = 0, share if nodes > 1 else ram
    for start, end in spans:
        while start < end:
            take = end - start if nid == nodes - 1 else min(end - start, left)
            out.append((nid, start // page, (start + take) // page))
            start += take
            left -= take
            if left == 0 and nid < nodes - 1:
                nid, left = nid + 1, share
    return tuple(out)
