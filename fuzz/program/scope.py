"""What is known at one point of a program: which handles are live, and which addresses have been named.

Codec and mutation walk a program with a Scope beside them. A generator that can say "the third live device" or "one
section behind the memory just added" reaches deep states far sooner than one that draws absolute numbers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from fuzz.program.arguments import G, M
from fuzz.program.model import Op
from fuzz.program.operations import BOOT, KINDS, MEMORY, OPERATIONS
from mm.machine import Machine

SECTION: Final = 128 * M
"""Bytes of a section, and of a memory block, of x86-64; of other architectures a multiple or a part."""

_ENDING: Final = {op.name: op.handle.name for op in OPERATIONS.values() if op.ends and op.handle}
_MAKING: Final = {op.name: op.makes for op in OPERATIONS.values() if op.makes}
_NAMING: Final = frozenset(op.name for op in OPERATIONS.values() if {"at", "size"} <= {a.name for a in op.arguments})
_EVENTFUL: Final = frozenset({BOOT, *_ENDING, *_MAKING, *_NAMING})
_REMEMBERED: Final = 16
"""How many named addresses stay in `places`; older ones make room."""


class Scope:
    """The handles and addresses before some operation; `advance` moves behind it."""

    __slots__ = ("_made", "booted", "live", "machine", "places")

    def __init__(self, machine: Machine) -> None:
        rams, places = _boot_memory(machine)
        self.machine = machine
        self.booted = False
        self.live: dict[str, list[str]] = {kind: [] for kind in KINDS}
        """Handles that can be used, by kind, oldest first."""
        self.live[MEMORY].extend(rams)
        self.places = list(places)
        """Addresses at which something starts or ends."""
        self._made = dict.fromkeys(KINDS, 0)

    def advance(self, op: Op) -> None:
        """Move behind an operation that is legal here."""
        name = op.name
        if name not in _EVENTFUL:
            return
        if name in _ENDING:
            kind = _ENDING[name]
            self.live[kind].remove(op.args[kind])
        elif name in _MAKING and op.result is not None:
            kind = _MAKING[name]
            self.live[kind].append(op.result)
            self._made[kind] += 1
        elif name == BOOT:
            self.booted = True
        if name in _NAMING:
            self._remember(op)

    def fresh(self, kind: str) -> str:
        """The canonical name of the next handle of a kind; free only if the program's names are canonical."""
        return f"{kind}{self._made[kind]}"

    def _remember(self, op: Op) -> None:
        at, size = op.args["at"], op.args["size"]
        starts, sizes = (at, size) if isinstance(at, tuple) else ((at,), (size,))
        for start, length in zip(starts, sizes, strict=True):
            self.places += (start, start + length)
        base = len(_boot_memory(self.machine)[1])
        if len(self.places) > base + _REMEMBERED:
            del self.places[base : len(self.places) - _REMEMBERED]


@lru_cache(maxsize=256)
def _boot_memory(machine: Machine) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The handles of boot RAM, and the places a machine has from the start."""
    ranges = machine.ram_ranges()
    end = ranges[-1][2] * machine.page
    block = 1 << machine.geometry().memory_block_shift
    aligned = -(-end // block) * block
    gigabyte = -(-end // G) * G
    edges = [edge * machine.page for _, start, stop in ranges for edge in (start, stop)]
    places = dict.fromkeys([aligned, gigabyte, gigabyte + G, end, 4 * G, 64 * G, 16 << 40, *edges])
    return tuple(f"ram{index}" for index in range(len(ranges))), tuple(places)


def ram_count(machine: Machine) -> int:
    """How many boot RAM handles a machine has."""
    return len(_boot_memory(machine)[0])
