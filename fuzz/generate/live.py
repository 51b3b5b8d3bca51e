"""What a program has made so far, as a generator sees it: handles, address ranges, and the reference kernel.

Operands are resolved against this: "the second live device", "behind the last range", "one page more than is free".
That, rather than the choice of an engine, is what reaches deep states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from fuzz.program.model import Op
from fuzz.program.operations import DAX, MAPPING, MEMORY, PAGES
from mm.kernel import Kernel

_REMEMBERED: Final = 4
"""How many vacated ranges are kept to be used again."""


class Range(NamedTuple):
    """A named range of physical memory, in bytes."""

    name: str
    at: int
    size: int


@dataclass(slots=True)
class Device:
    """A live DAX device; ranges are (address, size) in bytes."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    driver: str


def points_of(op: Op) -> tuple[str, object]:
    """What the number of an operation's allocation points goes by: its name and the size of its huge pages."""
    return op.name, op.args["size"] if op.name in _OF_A_SIZE else None


_OF_A_SIZE: Final = frozenset({"hugetlb resize", "hugetlb map"})


class Live:
    """State of one program between two operations. The kernel is only read."""

    __slots__ = (
        "after_fail",
        "bottom",
        "devices",
        "kernel",
        "last_points",
        "made",
        "mappings",
        "memory",
        "other",
        "pages",
        "pools",
        "ram_end",
        "rams",
        "refused",
        "section",
        "top",
        "vacated",
    )

    def __init__(self, kernel: Kernel, other: Kernel, above: int = 0) -> None:
        self.kernel = kernel
        self.other = other
        """The other side, which is asked for nothing but how many allocation points it reached."""
        page = kernel.machine.page
        self.section = kernel.memory_blocks.pages * page
        """Bytes of a memory block: a section, or a row of them."""
        self.pools = list(kernel.hstates.values())
        """Huge page pools, largest first."""
        ranges = kernel.machine.ram_ranges()
        self.rams = [Range(f"ram{i}", lo * page, (hi - lo) * page) for i, (_, lo, hi) in enumerate(ranges)]
        self.ram_end = ranges[-1][2] * page
        self.bottom = max(self.ram_end, above)
        """New ranges lie above this address, if they are not put elsewhere on purpose."""
        self.top = self.bottom
        """End of the highest range in use."""
        self.memory: list[Range] = []
        """Hot-added ranges that exist."""
        self.devices: list[Device] = []
        self.mappings: list[str] = []
        self.pages: list[str] = []
        self.refused: dict[str, list[str]] = {MEMORY: [], DAX: [], MAPPING: [], PAGES: []}
        """Handles that can be named but stand for nothing: their making was refused, or they were removed."""
        self.vacated: list[tuple[int, int]] = []
        """The last ranges that were removed: (address, size)."""
        self.made = {MEMORY: 0, DAX: 0, MAPPING: 0, PAGES: 0}
        self.last_points: dict[tuple[str, object], int] = {}
        """Allocation points that the last operation of each name reached, on the side where they were more."""
        self.after_fail: Op | None = None
        """The operation for which an allocation failure was just armed: it comes next."""

    def fresh(self, kind: str) -> str:
        """The canonical name of the next handle of a kind."""
        return f"{kind}{self.made[kind]}"

    def advance(self, op: Op, rc: int) -> None:
        """Move behind an operation that returned `rc` in the reference."""
        name = op.name
        faults = self.kernel.faults
        reached = max(faults.reached, self.other.faults.reached)
        if reached and not faults.armed:
            self.last_points[points_of(op)] = reached
        result = op.result
        if result is not None:
            self.made[result[0]] += 1
            if rc < 0:
                self.refused[result[0]].append(result)
                return
        moved = _MOVES.get(name)
        if moved is not None:
            moved(self, op, rc)

    def _occupy(self, end: int) -> None:
        if end > self.top:
            self.top = end

    def _vacate(self, ranges: tuple[tuple[int, int], ...]) -> None:
        self.vacated += ranges
        del self.vacated[:-_REMEMBERED]
        ends = [at + size for at, size in ranges]
        if self.top in ends:
            self.top = self.bottom
            for _, at, size in self.memory:
                self._occupy(at + size)
            for device in self.devices:
                for at, size in device.ranges:
                    self._occupy(at + size)

    def _memory_add(self, op: Op, rc: int) -> None:
        at, size = op.args["at"], op.args["size"]
        self.memory.append(Range(str(op.result), at, size))
        self._occupy(at + size)

    def _memory_remove(self, op: Op, rc: int) -> None:
        name = op.args[MEMORY]
        for i, found in enumerate(self.memory):
            if found.name == name and rc == 0:
                del self.memory[i]
                self.refused[MEMORY].append(name)
                self._vacate(((found.at, found.size),))
                return

    def _dax_create(self, op: Op, rc: int) -> None:
        ranges = tuple(zip(op.args["at"], op.args["size"], strict=True))
        self.devices.append(Device(str(op.result), ranges, op.args["driver"]))
        for at, size in ranges:
            self._occupy(at + size)

    def _dax_destroy(self, op: Op, rc: int) -> None:
        name = op.args[DAX]
        for i, found in enumerate(self.devices):
            if found.name == name:
                del self.devices[i]
                self._vacate(found.ranges)
                return
        self.refused[DAX].remove(name)

    def _dax_rebind(self, op: Op, rc: int) -> None:
        for device in self.devices:
            if device.name == op.args[DAX]:
                device.driver = op.args["driver"] if rc == 0 else "none"

    def _hugetlb_map(self, op: Op, rc: int) -> None:
        self.mappings.append(str(op.result))

    def _hugetlb_unmap(self, op: Op, rc: int) -> None:
        name = op.args[MAPPING]
        (self.mappings if name in self.mappings else self.refused[MAPPING]).remove(name)

    def _pages_alloc(self, op: Op, rc: int) -> None:
        self.pages.append(str(op.result))

    def _pages_free(self, op: Op, rc: int) -> None:
        name = op.args[PAGES]
        (self.pages if name in self.pages else self.refused[PAGES]).remove(name)


_MOVES: Final[dict[str, Callable[[Live, Op, int], None]]] = {
    "memory add": Live._memory_add,
    "memory remove": Live._memory_remove,
    "memory unplug": Live._memory_remove,
    "dax create": Live._dax_create,
    "dax destroy": Live._dax_destroy,
    "dax rebind": Live._dax_rebind,
    "hugetlb map": Live._hugetlb_map,
    "hugetlb unmap": Live._hugetlb_unmap,
    "pages alloc": Live._pages_alloc,
    "pages contig": Live._pages_alloc,
    "pages free": Live._pages_free,
}
