"""The handles of a program on one guest: which device, range or block each stands for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from live.pagetable import SECTION_PFNS
from mm.machine import Machine

PAGE: Final = 4096


@dataclass(slots=True)
class Range:
    """What a handle of kind m or d is: a dax device and its ranges in bytes."""

    device: str
    ranges: tuple[tuple[int, int], ...]
    nvdimm: str = ""
    """The nvdimm device that claims the namespace, for a device made of one."""
    driver: str = "device_dax"
    """The driver that is bound, or nothing."""

    def overlaps(self, at: int, size: int) -> bool:
        """Whether any of it lies in [at, at + size)."""
        return any(at < a + n and a < at + size for a, n in self.ranges)


@dataclass(slots=True)
class Names:
    """The program's handles on one guest. A handle whose making was refused is in none of them."""

    machine: Machine
    region: tuple[int, int]
    namespaces: Collection[tuple[int, int]] = ()
    """Address and size of the namespaces of persistent memory."""
    memory: dict[str, Range] = field(default_factory=dict)
    devices: dict[str, Range] = field(default_factory=dict)
    maps: dict[str, int] = field(default_factory=dict)
    next_slot: int = 0
    poisoned: set[int] = field(default_factory=set)
    """Single pages that the program has taken out of use."""

    def block(self, handle: str, index: int) -> int | None:
        """Number of a range's memory block, None if there is none."""
        if handle.startswith("ram") and handle not in self.memory:
            _, lo, hi = self.machine.ram_ranges()[int(handle[3:])]
        elif handle in self.memory:
            at, size = self.memory[handle].ranges[0]
            lo, hi = at // PAGE, (at + size) // PAGE
        else:
            return None
        block = lo // SECTION_PFNS + index
        return block if block * SECTION_PFNS < hi else None
