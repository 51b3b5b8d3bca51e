"""What a program's `machine` line describes: the hardware and the kernel command line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from mm.arch import ARCHES, WITH_KFENCE, Arch

OnlineType: TypeAlias = Literal["offline", "online", "online_kernel", "online_movable"]
"""enum mmop (include/linux/memory_hotplug.h), in the words of memoryN/state and memhp_default_state."""

GRANULE = 2 << 20
HOLE_AT = 192 << 20
"""In the middle of a 128M section, behind the kernel image."""
HOLE_KEEPS = 64 << 20
TURNS = 64


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
    interleave: int = 0
    """Nodes take turns of so many bytes of RAM; 0: each has one share."""
    hole: int = 0
    """Bytes of RAM that are missing behind the first `HOLE_AT`, as with memmap=SIZE$ADDRESS."""
    base: int = 0
    """On riscv64, bytes by which RAM begins higher than in QEMU's machine; of no effect elsewhere."""
    kfence: bool = False
    """On loongarch64 with 4K pages, a kernel with CONFIG_KFENCE, whose struct pages are larger; of no effect
    elsewhere."""

    @classmethod
    def coerced(cls, **keys: Any) -> Machine:
        """The machine of these keys; a page size that its architecture does not have becomes the smallest it has."""
        pages = page_sizes(keys.get("arch", "x86_64"))
        return cls(**{**keys, "page": keys["page"] if keys.get("page") in pages else pages[0]})

    def geometry(self) -> Arch:
        """The architecture's geometry."""
        key = self.arch, self.page
        return WITH_KFENCE[key] if self.kfence and key in WITH_KFENCE else ARCHES[key]

    def ram_ranges(self) -> tuple[tuple[int, int, int], ...]:
        """Boot RAM as (nid, start_pfn, end_pfn), in address order; these are the handles ram0, ram1, ...

        Laid out as QEMU's default machine does (`Arch.ram`). Nodes take equal shares, rounded down to 2M, in address
        order; the last node takes the rest. With `interleave` they take turns instead, of which there are at most
        `TURNS` and at least two a node. The hole leaves `HOLE_KEEPS` at the end of low RAM.
        """
        return _ram_ranges(self.ram, self.nodes, self.interleave, self.hole, self.start(), self.arch, self.page)

    def start(self) -> int:
        """Where RAM begins, in bytes."""
        arch = ARCHES[self.arch, self.page]
        return arch.ram.start + (self.base if arch.vmemmap_shift else 0)


@cache
def page_sizes(arch: str) -> tuple[int, ...]:
    """Base page sizes of an architecture, ascending."""
    return tuple(sorted(page for name, page in ARCHES if name == arch))


@cache
def _ram_ranges(
    ram: int, nodes: int, interleave: int, hole: int, begin: int, arch: str, page: int
) -> tuple[tuple[int, int, int], ...]:
    layout = ARCHES[arch, page].ram
    if ram < layout.whole:
        spans = [(begin, begin + ram)]
    else:
        spans = [(layout.start, layout.start + layout.low), (layout.rest, layout.rest + ram - layout.low)]
    share = ram // nodes // GRANULE * GRANULE
    last = nodes - 1
    if interleave and nodes > 1:
        share = min(max(interleave, -(-ram // TURNS // GRANULE) * GRANULE), share // 2 // GRANULE * GRANULE)
        last = -1  # nobody takes all the rest
    lo = spans[0][0] + HOLE_AT
    hi = min(lo + hole, spans[0][1] - HOLE_KEEPS)
    out: list[tuple[int, int, int]] = []
    nid, left = 0, share if nodes > 1 else ram
    for start, end in spans:
        while start < end:
            stop = end if nid == last else min(end, start + left)
            left -= stop - start
            for a, b in ((start, min(stop, lo)), (max(start, hi), stop)) if lo < hi else ((start, stop),):
                if a < b:
                    out.append((nid, a // page, b // page))
            start = stop
            if left == 0 and nid != last:
                nid, left = (nid + 1) % nodes, share
    return tuple(out)
