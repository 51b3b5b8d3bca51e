"""One operation, drawn against the live state: `generate_op`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from fuzz.generate import operands
from fuzz.generate.afford import crowded
from fuzz.generate.live import Device, Live, Range
from fuzz.generate.weights import FAILABLE, RESERVE_CMA, WEIGHTS, Draw, choose_reserves
from fuzz.program.model import Op
from fuzz.program.operations import DAX, MAPPING, MEMORY, OPERATIONS, PAGE_SIZES, PAGES
from mm.hstate import HState

Maker = Callable[[Draw, Live], Op]
Table = tuple[Maker, ...]
"""Makers, each as often as its operation's weight."""

_DRIVERS: Final = ("kmem", "kmem", "devdax", "devdax", "fsdev", "none")
_STATES: Final = ("online_kernel", "online", "online_kernel", "offline")
_DEMOTABLE: Final = OPERATIONS["hugetlb demote"].arguments[0].choices


def generate_op(draw: Draw, live: Live, table: Table) -> Op:
    """The next operation of a program, concrete and legal at this point."""
    if live.after_fail is not None:
        op, live.after_fail = live.after_fail, None
        return op
    return table[int(draw() * len(table))](draw, live)


def _size(live: Live, pool: HState) -> int:
    return pool.pages * live.kernel.arch.page


def _any_size(draw: Draw, live: Live, pool: HState) -> int:
    """The size of a pool's pages, or rarely any size, which few machines have."""
    return _size(live, pool) if draw() < 0.985 else PAGE_SIZES[int(draw() * len(PAGE_SIZES))]


def reserves(draw: Draw, live: Live) -> list[Op]:
    """The lines before the boot. Areas for gigantic pages come with huge pages more often than not, which may be had
    from them.
    """
    lines = [reserve(draw, live) for _ in range(choose_reserves(draw))]
    if any(line.name == "reserve cma" for line in lines) and draw() < 0.7:
        lines.append(reserve(draw, live))
    return lines


def reserve(draw: Draw, live: Live) -> Op:
    """A reserve line; before the boot there is no state but the machine."""
    machine = live.kernel.machine
    pool = live.pools[0]
    if draw() >= 1 - RESERVE_CMA:
        return reserve_cma(draw, live)
    size = _size(live, pool)
    # Where only one side optimizes them before their memmap is made, the two part with the boot (ledger,
    # boot-preoptimized).
    arch = live.kernel.arch
    if draw() < (0.6 if arch.prehvo or not arch.hvo else 0.1) and pool.gigantic:
        most = min(machine.ram // size, 64)
        # Rarely all: a kernel that reserves everything panics for want of a memmap.
        count = 1 + int(draw() * 2) if draw() < 0.9 else 1 + int(draw() * most)
    else:
        size = _size(live, live.pools[-1])
        count = 1 + int(draw() * 8) if draw() < 0.9 else int(draw() * operands.MANY)
    return Op("reserve", {"size": size, "count": count, "node": operands.any_node(draw, live)})


def reserve_cma(draw: Draw, live: Live) -> Op:
    """An area of one or two gigantic pages; rarely nothing, more than there is, what is no multiple, or a share."""
    unit = 1 << (live.kernel.arch.hugetlb_cma_shift or 30)
    size, percent = unit * (1 + int(draw() * 2.4)), 0
    if draw() >= 0.9:
        choice = draw() * 10
        size = (unit // 2, 0, unit * 3 // 2, live.kernel.machine.ram, 1 << 50, 0, 0, 0, 0, 0)[int(choice)]
        if choice >= 5:  # mostly less than all
            percent = 1 + int((choice - 5) / 5 * 103)
    args = {"size": size, "node": operands.any_node(draw, live), "only": draw() >= 0.6, "percent": percent}
    return Op("reserve cma", args)


def _hugetlb_resize(draw: Draw, live: Live) -> Op:
    pool = operands.huge_page(draw, live)
    nid = operands.any_node(draw, live)
    to = operands.pool_target(draw, live, pool, nid)
    return Op("hugetlb resize", {"size": _any_size(draw, live, pool), "to": to, "node": nid})


def _hugetlb_overcommit(draw: Draw, live: Live) -> Op:
    pool = operands.huge_page(draw, live)
    return Op("hugetlb overcommit", {"size": _any_size(draw, live, pool), "to": operands.overcommit(draw, live, pool)})


def _hugetlb_demote(draw: Draw, live: Live) -> Op:
    pool = live.pools[0]
    size = _size(live, pool)
    if not pool.free_count() and draw() < 0.7:
        nid = operands.any_node(draw, live)
        to = pool.persistent + 1 + int(draw() * 2)
        return Op("hugetlb resize", {"size": size, "to": to, "node": nid})
    # Few operations are demotions: each answer has its share.
    nid = operands.any_node(draw, live) if draw() < 0.93 else live.kernel.machine.nodes
    if draw() >= 0.93 or size not in _DEMOTABLE:
        size = _DEMOTABLE[int(draw() * len(_DEMOTABLE))]
    return Op("hugetlb demote", {"size": size, "count": operands.demote_count(draw, pool, nid), "node": nid})


def _hugetlb_map(draw: Draw, live: Live) -> Op:
    pool = operands.huge_page(draw, live)
    nid = operands.any_node(draw, live)
    count = operands.map_count(draw, pool, nid)
    return Op("hugetlb map", {"size": _size(live, pool), "count": count, "node": nid}, live.fresh(MAPPING))


def _handle(draw: Draw, live: Live, kind: str, names: list[str]) -> str | None:
    """One of some live handles, or rarely one that stands for nothing."""
    refused = live.refused[kind]
    if names and (not refused or draw() < 0.93):
        return names[int(draw() * len(names))]
    if refused and draw() < 0.2:
        return refused[int(draw() * len(refused))]
    return None


def _hugetlb_unmap(draw: Draw, live: Live) -> Op:
    name = _handle(draw, live, MAPPING, live.mappings)
    return _hugetlb_map(draw, live) if name is None else Op("hugetlb unmap", {MAPPING: name, "flush": draw() < 0.7})


def _hugetlb_flush(draw: Draw, live: Live) -> Op:
    if not live.kernel.hpage_freelist and live.mappings and draw() < 0.75:
        return Op("hugetlb unmap", {MAPPING: live.mappings[int(draw() * len(live.mappings))], "flush": False})
    return Op("hugetlb flush")


def _hugetlb_dissolve(draw: Draw, live: Live) -> Op:
    return Op("hugetlb dissolve", {"at": operands.hugetlb_address(draw, live)})


def _sysctl(draw: Draw, live: Live) -> Op:
    now = live.kernel.paths.vmemmap_optimize_enabled
    # On more often than off: off, nothing is optimized.
    value = not now if draw() < (0.5 if now else 0.9) else now
    return Op("sysctl", {"hugetlb_optimize_vmemmap": value})


def _memory_add(draw: Draw, live: Live) -> Op:
    size = operands.memory_size(draw, live)
    at = operands.new_range(draw, live, size)
    args = {"at": at, "size": size, "node": operands.node(draw, live), "memmap_on_memory": draw() < 0.5}
    return Op("memory add", args, live.fresh(MEMORY))


def _some_memory(draw: Draw, live: Live, boot: float) -> Range | None:
    """A memory range: hot-added, or with probability `boot` one that the machine booted with."""
    if draw() < boot:
        return live.rams[int(draw() * len(live.rams))]
    refused = live.refused[MEMORY]
    if refused and draw() < 0.05:
        return Range(refused[int(draw() * len(refused))], 0, live.section)
    return live.memory[int(draw() * len(live.memory))] if live.memory else None


def _memory_online(draw: Draw, live: Live) -> Op:
    found = _some_memory(draw, live, 0.15)
    if found is None:
        return _memory_add(draw, live)
    number = operands.block(draw, live, found.at, found.size, online=False)
    return Op("memory online", {MEMORY: found.name, "block": number, "zone": _zone(draw)})


def _zone(draw: Draw) -> str:
    x = draw()
    return "movable" if x < 0.55 else "kernel" if x < 0.85 else "default"


def _memory_offline(draw: Draw, live: Live) -> Op:
    found = _some_memory(draw, live, 0.3)
    if found is None:
        return _memory_add(draw, live)
    number = operands.block(draw, live, found.at, found.size, online=True)
    return Op("memory offline", {MEMORY: found.name, "block": number})


def _memory_remove(draw: Draw, live: Live) -> Op:
    found = _some_memory(draw, live, 0.05)
    return _memory_add(draw, live) if found is None else Op("memory remove", {MEMORY: found.name})


def _subblocks(draw: Draw, live: Live, name: str, plugged: bool) -> Op:
    found = _some_memory(draw, live, 0.04)
    if found is None:
        return _memory_add(draw, live)
    block, first, count = operands.subblocks(draw, live, found.at, found.size, plugged)
    return Op(name, {MEMORY: found.name, "block": block, "first": first, "count": count})


def _subblock_unplug(draw: Draw, live: Live) -> Op:
    return _subblocks(draw, live, "subblock unplug", True)


def _subblock_plug(draw: Draw, live: Live) -> Op:
    if not live.kernel.memory_blocks.unplugged.starts and draw() < 0.8:
        return _subblock_unplug(draw, live)
    return _subblocks(draw, live, "subblock plug", False)


def _hard_offline(draw: Draw, live: Live) -> Op:
    return Op("memory hard_offline", {"at": operands.poison_address(draw, live)})


def _soft_offline(draw: Draw, live: Live) -> Op:
    return Op("memory soft_offline", {"at": operands.poison_address(draw, live)})


def _unpoison(draw: Draw, live: Live) -> Op:
    return Op("memory unpoison", {"at": operands.poisoned_address(draw, live)})


def _memory_unplug(draw: Draw, live: Live) -> Op:
    found = _some_memory(draw, live, 0.15)
    if found is None:
        return _memory_add(draw, live)
    page = live.kernel.arch.page
    if crowded(live.kernel, found.at // page, (found.at + found.size) // page):
        return _memory_offline(draw, live)
    return Op("memory unplug", {MEMORY: found.name})


def _dax_create(draw: Draw, live: Live) -> Op:
    align = operands.align(draw, live)
    at, size = operands.device_ranges(draw, live, align)
    y = draw()
    driver = "devdax" if y < 0.72 else "kmem" if y < 0.9 else "fsdev"
    args = {
        "at": at,
        "size": size,
        "align": align,
        "altmap": draw() >= 0.8,
        "node": operands.node(draw, live),
        "driver": driver,
    }
    return Op("dax create", args, live.fresh(DAX))


def _dax_system_ram(draw: Draw, live: Live) -> Op:
    """A device that kmem can use all of: whole memory blocks in one range or two."""
    arch = live.kernel.arch
    size = operands.memory_size(draw, live)
    at = operands.new_range(draw, live, size)
    ranges = [(at, size)]
    if draw() >= 0.7:
        ranges.append((at + size + live.section * int(draw() * 4), live.section))
    starts, sizes = zip(*ranges, strict=True)
    nid = operands.node(draw, live)
    align = arch.page << arch.pmd_order
    args = {"at": starts, "size": sizes, "align": align, "altmap": False, "node": nid, "driver": "kmem"}
    return Op("dax create", args, live.fresh(DAX))


def _dax_destroy(draw: Draw, live: Live) -> Op:
    name = _handle(draw, live, DAX, [device.name for device in live.devices])
    return _dax_create(draw, live) if name is None else Op("dax destroy", {DAX: name})


def _dax_rebind(draw: Draw, live: Live) -> Op:
    name = _handle(draw, live, DAX, [device.name for device in live.devices])
    if name is None:
        return _dax_create(draw, live)
    return Op("dax rebind", {DAX: name, "driver": _DRIVERS[int(draw() * len(_DRIVERS))]})


def _system_ram(draw: Draw, live: Live) -> Device | None:
    """A device that is system RAM; rarely any other, or one that stands for nothing."""
    refused = live.refused[DAX]
    if refused and draw() < 0.04:
        return Device(refused[int(draw() * len(refused))], (), "none")
    found = [device for device in live.devices if device.driver == "kmem"]
    if draw() < 0.08:
        found = live.devices
    return found[int(draw() * len(found))] if found else None


def _dax_set(draw: Draw, live: Live) -> Op:
    bound = draw() < 0.2
    name = _handle(draw, live, DAX, [device.name for device in live.devices if (device.driver == "kmem") is bound])
    if name is None:
        return _dax_create(draw, live)
    return Op("dax set", {DAX: name, "memmap_on_memory": draw() < 0.8})


def _dax_state(draw: Draw, live: Live) -> Op:
    device = _system_ram(draw, live)
    if device is None:
        return _dax_system_ram(draw, live)
    x = draw()
    state = "unplugged" if x < 0.5 else "online_movable" if x < 0.75 else _STATES[int(draw() * len(_STATES))]
    return Op("dax state", {DAX: device.name, "state": state})


def _dax_online(draw: Draw, live: Live) -> Op:
    device = _system_ram(draw, live)
    if device is None:
        return _dax_system_ram(draw, live)
    number = operands.device_block(draw, live, device, online=False)
    return Op("dax online", {DAX: device.name, "block": number, "zone": _zone(draw)})


def _dax_offline(draw: Draw, live: Live) -> Op:
    device = _system_ram(draw, live)
    if device is None:
        return _dax_system_ram(draw, live)
    return Op("dax offline", {DAX: device.name, "block": operands.device_block(draw, live, device, online=True)})


def _pages_alloc(draw: Draw, live: Live) -> Op:
    nid = operands.node(draw, live)
    movable = draw() >= 0.5
    count = operands.frames(draw, live, nid, movable)
    return Op("pages alloc", {"count": count, "node": nid, "movable": movable}, live.fresh(PAGES))


def _pages_contig(draw: Draw, live: Live) -> Op:
    at, size = operands.contiguous(draw, live)
    return Op("pages contig", {"at": at, "size": size}, live.fresh(PAGES))


def _pages_free(draw: Draw, live: Live) -> Op:
    name = _handle(draw, live, PAGES, live.pages)
    return _pages_alloc(draw, live) if name is None else Op("pages free", {PAGES: name})


def _allocating_map(draw: Draw, live: Live) -> Op:
    """A map that has to make pages, beyond the free ones; without overcommit none can."""
    able = [
        pool for pool in live.pools if pool.nr_overcommit > sum(pool.surplus) and operands.fit(live.kernel, pool, None)
    ]
    pool = able[int(draw() * len(able))] if able else operands.huge_page(draw, live)
    extra = pool.nr_overcommit - sum(pool.surplus)
    if extra <= 0:
        return Op("hugetlb overcommit", {"size": _size(live, pool), "to": sum(pool.surplus) + 1 + int(draw() * 8)})
    count = pool.free_count() + 1 + int(draw() * min(extra, 4))
    return Op("hugetlb map", {"size": _size(live, pool), "count": count, "node": None}, live.fresh(MAPPING))


def _fail_alloc(draw: Draw, live: Live) -> Op:
    """A failure, and the operation it is for, which comes next; or what lets a map make pages, where none can."""
    name = FAILABLE[int(draw() * len(FAILABLE))]
    op = _allocating_map(draw, live) if name == "hugetlb map" else MAKERS[name](draw, live)
    if op.name == "hugetlb overcommit":
        return op
    live.after_fail = op
    return Op("fail alloc", {"nth": operands.nth(draw, live, op), "times": operands.times(draw)})


MAKERS: Final[dict[str, Maker]] = {
    "hugetlb resize": _hugetlb_resize,
    "hugetlb overcommit": _hugetlb_overcommit,
    "hugetlb demote": _hugetlb_demote,
    "hugetlb map": _hugetlb_map,
    "hugetlb unmap": _hugetlb_unmap,
    "hugetlb flush": _hugetlb_flush,
    "hugetlb dissolve": _hugetlb_dissolve,
    "sysctl": _sysctl,
    "memory add": _memory_add,
    "memory online": _memory_online,
    "memory offline": _memory_offline,
    "memory remove": _memory_remove,
    "memory unplug": _memory_unplug,
    "subblock unplug": _subblock_unplug,
    "subblock plug": _subblock_plug,
    "memory hard_offline": _hard_offline,
    "memory soft_offline": _soft_offline,
    "memory unpoison": _unpoison,
    "dax create": _dax_create,
    "dax destroy": _dax_destroy,
    "dax rebind": _dax_rebind,
    "dax set": _dax_set,
    "dax state": _dax_state,
    "dax online": _dax_online,
    "dax offline": _dax_offline,
    "pages alloc": _pages_alloc,
    "pages contig": _pages_contig,
    "pages free": _pages_free,
    "fail alloc": _fail_alloc,
}


def table(names: Collection[str] = WEIGHTS) -> Table:
    """The makers of some operations, by weight."""
    return tuple(MAKERS[name] for name, weight in WEIGHTS.items() if name in names for _ in range(weight))


ALL: Final = table()


def aimed(draw: Draw, goals: Sequence[tuple[str, Sequence[str]]]) -> Table:
    """A random subset of the operations, and that of one of the `goals` as often as a third of all; what leads there,
    if a goal names such operations, as often again."""
    others = swarm(draw)
    if not goals:
        return others
    name, leading = goals[int(draw() * len(goals))]
    share = len(others) // 2
    table = others + (MAKERS[name],) * share
    for other in leading:
        table += (MAKERS[other],) * (share // len(leading))
    return table


def swarm(draw: Draw) -> Table:
    """A random subset of the operations: what is left out leaves room for the others to build up."""
    chosen = [name for name in WEIGHTS if draw() < 0.6]
    return table(chosen) if chosen else ALL
