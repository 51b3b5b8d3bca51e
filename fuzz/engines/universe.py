"""The small worlds that `explore` exhausts: a machine, the operations that can come next in a state, and what must
have happened at least sometimes for the search to mean anything.

A *move* is an operation with concrete arguments. Which moves there are depends on the state of the reference alone, and
alike on states that differ by a symmetry, so that states which are merged have the same moves up to names of handles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from fuzz.execute import Lockstep, StepResult
from fuzz.program.model import Op, Program, make_op
from fuzz.program.operations import DAX, MAPPING, MEMORY, PAGES
from fuzz.program.text import parse

M: Final = 1 << 20
G: Final = 1 << 30
SECTION: Final = 128 * M
HOT: Final = (1 * G, 1 * G + SECTION)
"""Two neighbouring sections behind RAM, for memory. They are not symmetric (fuzz.oracle.canonical)."""
SLOTS: Final = (6 * G, 6 * G + SECTION)
"""Two sections for devices, symmetric: nothing but devices comes here, and devices ask nobody which lies lower."""
GIGANTIC: Final = 8 * G
LEFT: Final = 8
"""Frames that `pages alloc` leaves: fewer than the memmap of a section, enough for one folio's."""
POINTS: Final = (1, 2, 3)
"""Allocation points that are made to fail."""
POOL: Final = 9
"""Order of the 2M pool."""

Moves = Callable[[Lockstep, str], Iterator[Op]]
"""The moves of a family in a state; the text is free as the number of a new handle."""


class Glance(NamedTuple):
    """What the `Sometimes` properties look at, before and after a move."""

    optimized: int
    devices: int
    online: int
    blocks: int
    surplus: int
    selfhosted: int


def glance(pair: Lockstep) -> Glance:
    """Look at the candidate."""
    k: Any = pair.candidate.kernel
    zones = k.memory_blocks.zone
    return Glance(
        sum(folio.vmemmap_optimized for pool in k.hstates.values() for folio in pool.folios.values()),
        len(k.pgmaps),
        sum(e - s for s, e, zone in zones.items() if zone != zones_offline(k)),
        sum(e - s for s, e, _ in zones.items()),
        sum(sum(pool.surplus) for pool in k.hstates.values()),
        len(k.memory_blocks.altmaps),
    )


def zones_offline(k: Any) -> Any:
    """The zone of an offline memory block."""
    return k.memory_blocks.OFFLINE


class Sometimes(NamedTuple):
    """Something that a search of `depth` operations must have seen, or it has proved nothing."""

    name: str
    depth: int
    seen: Callable[[Glance, Glance, Op, StepResult, Any], bool]
    """Of a glance before and after, the move, its result, and the candidate's kernel."""


# -- moves ----------------------------------------------------------------------------------------------------------


def _names(pair: Lockstep, kind: str) -> list[str]:
    """Live handles of a kind, in the order they were made."""
    return [name for name in pair.reference.handles if name[0] == kind and not name.startswith("ram")]


def pool_moves(pair: Lockstep, number: str) -> Iterator[Op]:
    """The 2M pool: up to two persistent pages, one surplus page, two mappings."""
    pool: Any = pair.reference.kernel.hstates[POOL]
    for to in range(3):
        yield make_op("hugetlb resize", size=2 * M, to=to)
    yield make_op("hugetlb overcommit", size=2 * M, to=0 if pool.nr_overcommit else 1)
    if len(_names(pair, MAPPING)) < 2:
        yield make_op("hugetlb map", MAPPING + number, size=2 * M, count=1)
    for name in _names(pair, MAPPING):
        yield make_op("hugetlb unmap", u=name)
    for free in pool.free:
        for pfn in free:
            yield make_op("hugetlb dissolve", at=pfn << pair.reference.page_shift)
    on = pair.reference.kernel.paths.vmemmap_optimize_enabled
    yield make_op("sysctl", hugetlb_optimize_vmemmap=not on)


def memory_moves(pair: Lockstep, number: str) -> Iterator[Op]:
    """Two hot-added sections, with their memmap elsewhere or in themselves; the last block of boot memory."""
    for at in HOT:
        for own in (False, True):
            yield make_op("memory add", MEMORY + number, at=at, size=SECTION, memmap_on_memory=own)
    boot = pair.reference.kernel.machine.ram // SECTION - 1
    for name, block in [*((name, 0) for name in _names(pair, MEMORY)), ("ram0", boot)]:
        yield make_op("memory online", m=name, block=block, zone="movable")
        yield make_op("memory online", m=name, block=block, zone="kernel")
        yield make_op("memory offline", m=name, block=block)
        if name != "ram0":
            yield make_op("memory remove", m=name)


def device_moves(pair: Lockstep, number: str) -> Iterator[Op]:
    """Devices: whole sections, part of one, with 4K, 2M and 1G pages, with their memmap in themselves."""
    slots = SLOTS[:1] if all(_untouched(pair, at) for at in SLOTS) else SLOTS
    result = DAX + number
    for at in slots:
        yield make_op("dax create", result, at=(at,), size=(SECTION,))
        yield make_op("dax create", result, at=(at,), size=(SECTION,), align=4096)
        yield make_op("dax create", result, at=(at,), size=(SECTION,), altmap=True)
        yield make_op("dax create", result, at=(at + 32 * M,), size=(64 * M,))
    yield make_op("dax create", result, at=(GIGANTIC,), size=(G,), align=G)
    for name in _names(pair, DAX):
        yield make_op("dax destroy", d=name)


def clash_moves(pair: Lockstep, number: str) -> Iterator[Op]:
    """A device where memory goes."""
    yield make_op("dax create", DAX + number, at=(HOT[0],), size=(SECTION,))


def page_moves(pair: Lockstep, number: str) -> Iterator[Op]:
    """All memory of the kernel zones but a little, and one movable page, which can be in the way."""
    free = 0
    for node in pair.reference.kernel.nodes:
        for zone in node.zones[:3]:
            free += zone.free_pages(POOL)
    held = _names(pair, PAGES)
    if len(held) < 2:
        if free > LEFT:
            yield make_op("pages alloc", PAGES + number, count=free - LEFT)
        yield make_op("pages alloc", PAGES + number, count=1, movable=True)
    for name in held:
        yield make_op("pages free", p=name)


def fault_moves(pair: Lockstep, number: str) -> Iterator[Op]:
    """One of the first allocation points of the next operation fails."""
    if not pair.reference.kernel.faults.nth:
        for nth in POINTS:
            yield make_op("fail alloc", nth=nth)


def _untouched(pair: Lockstep, at: int) -> bool:
    """Whether nothing in either kernel remembers the section at an address."""
    for side in (pair.reference, pair.candidate):
        k: Any = side.kernel
        lo, hi = at >> side.page_shift, (at + SECTION) >> side.page_shift
        section, first, last = lo // k.arch.pages_per_section, k.arch.vpn(lo), k.arch.vpn_end(hi)
        if k.iomem.overlaps(lo, hi) or k.tables.entries.overlaps(first, last):
            return False
        if k.sections.flags.get(section) or k.tables.tables[0].overlaps(first // 512, -(-last // 512)):
            return False
        if any(zone.start_pfn < hi and lo < zone.end_pfn for node in k.nodes for zone in node.zones):
            return False
    return True


# -- worlds ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Universe:
    """A machine and the families of moves on it."""

    name: str
    start: Program
    """The machine and its boot."""
    families: tuple[Moves, ...]
    sometimes: tuple[Sometimes, ...]

    def moves(self, pair: Lockstep, depth: int) -> Iterator[Op]:
        """All moves of a state that `depth` operations led to."""
        for family in self.families:
            yield from family(pair, str(depth))


_OF_POOL: Final = (
    Sometimes("a huge page is optimized", 1, lambda a, b, op, r, k: b.optimized > a.optimized),
    Sometimes("an optimized huge page is restored", 2, lambda a, b, op, r, k: b.optimized < a.optimized),
    Sometimes("there is a surplus page", 2, lambda a, b, op, r, k: b.surplus > 0),
)
_OF_MEMORY: Final = (
    Sometimes("memory holds its own memmap", 1, lambda a, b, op, r, k: b.selfhosted > 0),
    Sometimes("memory comes online", 2, lambda a, b, op, r, k: b.online > a.online),
    Sometimes("memory goes offline", 3, lambda a, b, op, r, k: b.online < a.online),
    Sometimes("memory is removed", 2, lambda a, b, op, r, k: b.blocks < a.blocks),
)
_OF_DEVICES: Final = (
    Sometimes("a device is made", 1, lambda a, b, op, r, k: b.devices > a.devices),
    Sometimes("a device is removed", 2, lambda a, b, op, r, k: b.devices < a.devices),
)
_OF_FAULTS: Final = (
    Sometimes("an injected failure fires", 2, lambda a, b, op, r, k: op.name != "fail alloc" and bool(k.faults.fired)),
    Sometimes("an injected failure is survived", 2, lambda a, b, op, r, k: bool(k.faults.fired) and r.rcs[1] == 0),
)
_OF_SHORTAGE: Final = (Sometimes("memory runs out", 2, lambda a, b, op, r, k: r.rcs[1] == -12 and not k.faults.armed),)

TINY: Final = parse("vmm 1\nmachine arch=x86_64 page=4K ram=512M nodes=1 memmap_on_memory=on\nboot\n")

UNIVERSES: Final[dict[str, Universe]] = {
    universe.name: universe
    for universe in (
        Universe(
            "all",
            TINY,
            (pool_moves, memory_moves, device_moves, clash_moves, page_moves, fault_moves),
            (*_OF_POOL, *_OF_MEMORY, *_OF_DEVICES, *_OF_FAULTS, *_OF_SHORTAGE),
        ),
        Universe("pool", TINY, (pool_moves, page_moves, fault_moves), (*_OF_POOL, *_OF_FAULTS, *_OF_SHORTAGE)),
        Universe("memory", TINY, (memory_moves, fault_moves), (*_OF_MEMORY, *_OF_FAULTS[:1])),
        Universe("devices", TINY, (device_moves, fault_moves), (*_OF_DEVICES, *_OF_FAULTS[:1])),
    )
}
"""By name. The smaller ones are parts of the first, searched deeper in the same time."""
