"""Random programs that a real kernel can run: every operation is drawn against the state of the guest in front of it.

The profiles are few on purpose: each is a machine to boot, and booting is what costs.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from fuzz.program.model import Op, make_op
from live.layout import SECTION
from live.names import Names
from live.pagetable import SECTION_PFNS
from live.snapshot import Snapshot
from mm.dax import LEAST_NAMESPACE
from mm.machine import Machine

M: Final = 1 << 20
G: Final = 1 << 30


class Profile(NamedTuple):
    """A machine and what its command line reserves."""

    machine: Machine
    reserves: tuple[Op, ...] = ()


def _reserve(size: int, count: int, node: int | None = None) -> Op:
    return make_op("reserve", size=size, count=count, node=node)


def _cma(size: int, only: bool = False) -> Op:
    return make_op("reserve cma", size=size, only=only)


PROFILES: Final = (
    Profile(Machine(ram=1 * G)),
    Profile(Machine(ram=2 * G, nodes=2, memmap_on_memory="on")),
    Profile(Machine(ram=4 * G), (_reserve(G, 2),)),
    Profile(Machine(ram=1 * G + 34 * M, memmap_on_memory="force")),
    Profile(Machine(ram=4 * G, nodes=2, memmap_on_memory="on"), (_reserve(G, 1, 0), _reserve(G, 1, 1))),
    Profile(Machine(ram=1 * G, hugetlb_free_vmemmap=False), (_reserve(2 * M, 40),)),
    Profile(Machine(ram=2 * G + 64 * M, nodes=2), (_reserve(2 * M, 33),)),
    Profile(Machine(ram=5 * G, memmap_on_memory="on"), (_reserve(G, 3), _reserve(2 * M, 16, 0))),
    Profile(Machine(ram=6 * G), (_cma(2 * G, only=True), _reserve(G, 1))),
)
"""One or two nodes, RAM below and above 4G, partly backed last sections, boot pages of both sizes, a CMA area."""

WEIGHTS: Final = {
    "hugetlb resize": 24,
    "hugetlb overcommit": 5,
    "hugetlb map": 12,
    "hugetlb unmap": 9,
    "hugetlb demote": 6,
    "hugetlb dissolve": 5,
    "sysctl": 6,
    "memory hard_offline": 4,
    "memory soft_offline": 4,
    "memory unpoison": 3,
    "memory add": 9,
    "memory online": 13,
    "memory offline": 9,
    "memory remove": 8,
    "dax create": 12,
    "dax destroy": 9,
    "dax rebind": 7,
    "dax set": 2,
    "dax state": 6,
    "dax online": 5,
    "dax offline": 3,
}

_DRIVERS: Final = ("devdax", "kmem", "kmem", "fsdev", "none")

FAULTS: Final = {"fail alloc": 24}
"""The same on a kernel where allocations can be made to fail."""
ALLOCATING: Final = ("hugetlb resize", "hugetlb unmap", "hugetlb demote", "memory add", "dax create")
"""Operations with points that the kernel can be told to fail."""


class Draw:
    """Draws the operations of one program; `next` looks at the names and the guest's last snapshot."""

    def __init__(self, random: Random, machine: Machine, faults: bool = False) -> None:
        self.random = random
        self.machine = machine
        self.weights = WEIGHTS | FAULTS if faults else WEIGHTS
        self.made = 0
        self.armed = False
        """The next operation has an allocation that fails."""

    def next(self, names: Names, seen: Snapshot) -> Op:
        """An operation; whether the guest can do it is the caller's to check."""
        weights = self.weights
        if self.armed:
            weights = {name: weight for name, weight in weights.items() if name in ALLOCATING}
        name = self.random.choices(list(weights), list(weights.values()))[0]
        self.armed = name == "fail alloc"
        return _DRAWS[name](self, names, seen)

    def handle(self, kind: str) -> str:
        """A new name."""
        self.made += 1
        return f"{kind}{self.made - 1}"

    def node(self, none: float = 0.5) -> int | None:
        """A node, or none."""
        return None if self.random.random() < none else self.random.randrange(self.machine.nodes)


def _size(d: Draw, seen: Snapshot) -> int:
    gigantic = sum(seen.pools[18].nr) > 0
    return G if gigantic and d.random.random() < 0.35 else 2 * M


def _resize(d: Draw, names: Names, seen: Snapshot) -> Op:
    size, node = _size(d, seen), d.node()
    pool = seen.pools[18 if size == G else 9]
    have = sum(pool.nr) if node is None else pool.nr[node]
    r = d.random
    if size == G:
        # Growing by gigantic pages takes seconds under emulation.
        to = have + 1 if r.random() < 0.03 else r.randrange(have + 1)
    else:
        to = r.choice(
            (0, have, have + 1, have + r.randrange(1, 24), have + r.randrange(1, 24), have // 2, max(have - 1, 0), 64)
        )
    return make_op("hugetlb resize", size=size, to=to, node=node)


def _overcommit(d: Draw, names: Names, seen: Snapshot) -> Op:
    return make_op("hugetlb overcommit", size=2 * M, to=d.random.choice((0, 1, 4, 9, 16)))


def _map(d: Draw, names: Names, seen: Snapshot) -> Op:
    size = _size(d, seen)
    free = sum(seen.pools[18 if size == G else 9].free)
    # The kernel clears what it maps, a gigabyte in seconds under emulation.
    most = 4 if size == 2 * M else 0
    over = free + d.random.randrange(1, 6)
    count = d.random.choice((1, 1, 2, 3, min(max(free, 1), most), over)) if most else d.random.choice((over, over, 1))
    return make_op("hugetlb map", d.handle("u"), size=size, count=count, node=d.node(0.7))


def _unmap(d: Draw, names: Names, seen: Snapshot) -> Op:
    if not names.maps:
        return _map(d, names, seen)
    return make_op("hugetlb unmap", u=d.random.choice(list(names.maps)))


def _demote(d: Draw, names: Names, seen: Snapshot) -> Op:
    if not sum(seen.pools[18].nr):
        return _resize(d, names, seen)
    return make_op("hugetlb demote", size=G, count=d.random.choice((1, 1, 1, 2)), node=d.node())


def _dissolve(d: Draw, names: Names, seen: Snapshot) -> Op:
    free = [f for f in seen.folios.values() if f.free]
    if not free:
        return _resize(d, names, seen)
    folio = d.random.choice(free)
    at = folio.pfn + d.random.choice((0, 1, 511, (1 << folio.order) - 1))
    return make_op("hugetlb dissolve", at=at << 12)


def _sysctl(d: Draw, names: Names, seen: Snapshot) -> Op:
    return make_op("sysctl", hugetlb_optimize_vmemmap=d.random.random() < 0.6)


def _poison_address(d: Draw, names: Names, seen: Snapshot) -> int:
    """A byte in a huge page, in a page that was poisoned, or anywhere in the region."""
    r = d.random
    if names.poisoned and r.random() < 0.15:
        return r.choice(sorted(names.poisoned)) << 12
    if seen.folios and r.random() < 0.8:
        folio = r.choice(list(seen.folios.values()))
        return folio.pfn + r.choice((0, 0, 1, 63, 64, 511)) << 12
    return names.region[0] + r.randrange(names.region[1]) & -4096


def _hard_offline(d: Draw, names: Names, seen: Snapshot) -> Op:
    return make_op("memory hard_offline", at=_poison_address(d, names, seen))


def _soft_offline(d: Draw, names: Names, seen: Snapshot) -> Op:
    return make_op("memory soft_offline", at=_poison_address(d, names, seen))


def _unpoison(d: Draw, names: Names, seen: Snapshot) -> Op:
    if names.poisoned and d.random.random() < 0.9:
        return make_op("memory unpoison", at=d.random.choice(sorted(names.poisoned)) << 12)
    return make_op("memory unpoison", at=_poison_address(d, names, seen))


def _gaps(names: Names) -> list[tuple[int, int]]:
    """Parts of the region that nothing uses, as address and size."""
    at, end = names.region[0], sum(names.region)
    used = sorted(r for range_ in (*names.memory.values(), *names.devices.values()) for r in range_.ranges)
    out = []
    for start, size in [*used, (end, 0)]:
        if start > at:
            out.append((at, start - at))
        at = max(at, start + size)
    return out


def _place(d: Draw, names: Names, size: int, align: int) -> int | None:
    """An aligned address in the region with room for `size`."""
    places = []
    for at, room in _gaps(names):
        first = -(-at // align) * align
        if first + size <= at + room:
            last = (at + room - size) // align * align
            places += [first, last, first + d.random.randrange((last - first) // align + 1) * align]
    return d.random.choice(places) if places else None


def _add(d: Draw, names: Names, seen: Snapshot) -> Op:
    size = d.random.choice((1, 1, 2, 2, 3, 4)) * SECTION
    at = _place(d, names, size, SECTION)
    if at is None:
        return _remove(d, names, seen)
    mhp = d.machine.memmap_on_memory != "off" and d.random.random() < 0.6
    return make_op("memory add", d.handle("m"), at=at, size=size, node=d.machine.nodes - 1, memmap_on_memory=mhp)


def _some_block(d: Draw, names: Names) -> tuple[str, int]:
    handle = d.random.choice(list(names.memory))
    return handle, d.random.randrange(names.memory[handle].ranges[0][1] // SECTION + (d.random.random() < 0.05))


def _online(d: Draw, names: Names, seen: Snapshot) -> Op:
    if not names.memory:
        return _add(d, names, seen)
    handle, block = _some_block(d, names)
    zone = "kernel" if d.random.random() < 0.2 else "movable"
    return make_op("memory online", m=handle, block=block, zone=zone)


def _offline(d: Draw, names: Names, seen: Snapshot) -> Op:
    if not names.memory:
        return _resize(d, names, seen)
    handle, block = _some_block(d, names)
    busy = {f.pfn // SECTION_PFNS for f in seen.folios.values() if not f.free}
    for name in names.memory if d.random.random() < 0.5 else ():
        # Rather one from which a huge page has to move.
        at, size = names.memory[name].ranges[0]
        for index in range(size // SECTION):
            if at // SECTION + index in busy:
                handle, block = name, index
    return make_op("memory offline", m=handle, block=block)


def _remove(d: Draw, names: Names, seen: Snapshot) -> Op:
    if not names.memory:
        return _resize(d, names, seen)
    return make_op("memory remove", m=d.random.choice(list(names.memory)))


def _create(d: Draw, names: Names, seen: Snapshot) -> Op:
    r = d.random
    idle = [n for n in names.namespaces if not any(v.overlaps(*n) for v in names.devices.values())]
    if idle and r.random() < 0.4:
        return _claim(d, *r.choice(idle))
    align = r.choice((4096, 2 * M, 2 * M, G, G))
    ranges: list[tuple[int, int]] = []
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        size = G if align == G else 2 * M * r.choice((1, 2, 3, 31, 32, 33, 64, 64, 65, 128, 192))
        # Starts are often not aligned to the device's alignment, which nobody checks.
        at = _place(d, names, size, r.choice((2 * M, SECTION, align if align > 4096 else 2 * M)))
        if at is not None and not any(at < a + n and a < at + size for a, n in ranges):
            ranges.append((at, size))
    if not ranges:
        return _destroy(d, names, seen)
    at_list, sizes = zip(*ranges, strict=True)
    driver = r.choices(("devdax", "kmem", "fsdev"), (65, 22, 13))[0]
    args = {"at": at_list, "size": sizes, "align": align, "node": d.machine.nodes - 1, "driver": driver}
    return make_op("dax create", d.handle("d"), **args)


def _claim(d: Draw, at: int, size: int) -> Op:
    r = d.random
    align = r.choice((4096, 2 * M, 2 * M, G) if size > G else (4096, 2 * M, 2 * M, 2 * M, G))
    altmap = r.random() < 0.7 or size < max(2 * align, LEAST_NAMESPACE)
    args = {"at": (at,), "size": (size,), "align": align, "altmap": altmap, "node": d.machine.nodes - 1}
    return make_op("dax create", d.handle("d"), **args)


def _fail(d: Draw, names: Names, seen: Snapshot) -> Op:
    r = d.random
    return make_op("fail alloc", nth=r.choice((1, 2, 3, r.randrange(1, 12), r.randrange(1, 40), r.randrange(1, 700))))


def _destroy(d: Draw, names: Names, seen: Snapshot) -> Op:
    if not names.devices:
        return _resize(d, names, seen)
    return make_op("dax destroy", d=d.random.choice(list(names.devices)))


def _system_ram(d: Draw, names: Names, seen: Snapshot) -> str | None:
    """A device of the kmem driver, or rarely another one."""
    r = d.random
    found = [name for name, device in names.devices.items() if device.driver == "kmem" or r.random() < 0.1]
    return r.choice(found) if found else None


def _rebind(d: Draw, names: Names, seen: Snapshot) -> Op:
    found = [name for name, device in names.devices.items() if not device.nvdimm]
    if not found:
        return _create(d, names, seen)
    return make_op(
        "dax rebind", d=d.random.choice(found), driver=d.random.choice(("devdax", "kmem", "kmem", "fsdev", "none"))
    )


def _set(d: Draw, names: Names, seen: Snapshot) -> Op:
    if not names.devices:
        return _create(d, names, seen)
    return make_op("dax set", d=d.random.choice(list(names.devices)), memmap_on_memory=d.random.random() < 0.7)


def _dax_state(d: Draw, names: Names, seen: Snapshot) -> Op:
    found = _system_ram(d, names, seen)
    if found is None:
        return _rebind(d, names, seen)
    states = ("unplugged", "unplugged", "online_movable", "online_movable", "online", "offline")
    return make_op("dax state", d=found, state=d.random.choice(states))


def _dax_online(d: Draw, names: Names, seen: Snapshot) -> Op:
    found = _system_ram(d, names, seen)
    if found is None:
        return _rebind(d, names, seen)
    # Seldom in a kernel zone, where blocks stay.
    zone = "kernel" if d.random.random() < 0.05 else "movable"
    return make_op("dax online", d=found, block=d.random.randrange(6), zone=zone)


def _dax_offline(d: Draw, names: Names, seen: Snapshot) -> Op:
    found = _system_ram(d, names, seen)
    if found is None:
        return _rebind(d, names, seen)
    return make_op("dax offline", d=found, block=d.random.randrange(6))


_DRAWS: Final[dict[str, Callable[[Draw, Names, Snapshot], Op]]] = {
    "hugetlb resize": _resize,
    "hugetlb overcommit": _overcommit,
    "hugetlb map": _map,
    "hugetlb unmap": _unmap,
    "hugetlb demote": _demote,
    "hugetlb dissolve": _dissolve,
    "sysctl": _sysctl,
    "memory hard_offline": _hard_offline,
    "memory soft_offline": _soft_offline,
    "memory unpoison": _unpoison,
    "memory add": _add,
    "memory online": _online,
    "memory offline": _offline,
    "memory remove": _remove,
    "dax create": _create,
    "dax destroy": _destroy,
    "dax rebind": _rebind,
    "dax set": _set,
    "dax state": _dax_state,
    "dax online": _dax_online,
    "dax offline": _dax_offline,
    "fail alloc": _fail,
}
