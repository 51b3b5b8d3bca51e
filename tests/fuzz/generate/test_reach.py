"""What the generator can ask for: every operation, every class of operand, every answer that the reference gives.

Only the reference runs here: what it can be asked is a matter of its state, not of the other side's.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

import pytest

from fuzz.generate.live import Live, points_of
from fuzz.generate.operations import ALL, generate_op, reserves
from fuzz.generate.weights import choose_length, choose_machine
from fuzz.program.model import Op, Program
from fuzz.program.operations import OPERATIONS
from fuzz.program.text import format as format_program
from fuzz.program.text import parse
from fuzz.side import Side
from fuzz.surface import answer, known
from mm.errno import (
    E2BIG,
    EBUSY,
    EEXIST,
    EHWPOISON,
    EINVAL,
    EIO,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOTRECOVERABLE,
    ENXIO,
    EOPNOTSUPP,
)
from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb import folio_at
from mm.memory import MemoryBlocks
from reference.paths import SeparatePaths

PROGRAMS = 900
M, G = 1 << 20, 1 << 30
SECTION = 128 * M

Seen = tuple[Live, Op]
Class = Callable[[Live, dict[str, Any]], bool]


def walk(seed: int) -> Iterator[tuple[Live, Op, Callable[[], int | str]]]:
    """Each operation of a generated program, before it runs; the function runs it."""
    draw = Random(seed).random
    side = Side(choose_machine(draw), SeparatePaths)
    live = Live(side.kernel, side.kernel)
    for op in [*reserves(draw, live), Op("boot")]:
        yield live, op, lambda op=op: side.run(op)  # type: ignore[misc]
    for _ in range(choose_length(draw)):
        op = generate_op(draw, live, ALL)
        rcs: list[int | str] = []

        def run(op: Op = op, rcs: list[int | str] = rcs) -> int | str:
            rcs.append(side.run(op))
            return rcs[0]

        yield live, op, run
        rc = rcs[0]
        if isinstance(rc, str):
            return
        live.advance(op, rc)


def pool(live: Live, args: dict[str, Any]) -> HState:
    return live.kernel.hstates.get(args["size"].bit_length() - 13, HState(0, 0, live.kernel.machine.nodes, False))


def now(live: Live, args: dict[str, Any]) -> int:
    """Persistent huge pages as the operation's node= counts them."""
    h, nid = pool(live, args), args["node"]
    return h.persistent if nid is None or nid >= len(h.nr) else int(h.nr[nid] - h.surplus[nid])


def fits(live: Live, args: dict[str, Any]) -> int:
    """How many more huge pages the wholly free pageblocks could make."""
    nodes = [node for node in live.kernel.nodes if args["node"] in (None, node.nid)]
    size: int = args["size"]
    return sum(zone.blocks.total for node in nodes for zone in node.zones) * 2 * M // size


def free_frames(live: Live, args: dict[str, Any]) -> int:
    if args["node"] >= len(live.kernel.nodes):
        return -1
    zones = live.kernel.nodes[args["node"]].zones[: 4 if args["movable"] else 3]
    return sum(zone.blocks.total * 512 + zone.frags.total for zone in zones)


def in_use(live: Live) -> list[tuple[int, int]]:
    """Ranges of hot-added memory and devices, as (first byte, end)."""
    ranges = [(at, size) for _, at, size in live.memory]
    ranges += [entry for device in live.devices for entry in device.ranges]
    return [(at, at + size) for at, size in ranges]


def online(live: Live, args: dict[str, Any]) -> bool | None:
    """Whether the block that the operation names is online; None if there is no such block."""
    for ram in [*live.rams, *live.memory]:
        if ram.name == args["m"]:
            zone = live.kernel.memory_blocks.zone.get(ram.at // SECTION + args["block"])
            inside = args["block"] * SECTION < ram.at % SECTION + ram.size
            return None if zone is None or not inside else zone != MemoryBlocks.OFFLINE
    return None


def folio(live: Live, at: int, test: Callable[[Folio], bool]) -> bool:
    """Whether the pool folio over an address passes the test."""
    found = folio_at(live.kernel, at >> 12)
    return found is not None and test(found)


def free_folio(live: Live, at: int, optimized: bool) -> bool:
    return any(
        folio.pfn <= at >> 12 < folio.pfn + h.pages and folio.vmemmap_optimized is optimized
        for h in live.kernel.hstates.values()
        for free in h.free
        for folio in free.values()
    )


def points(live: Live) -> int:
    """Allocation points of the operation that was armed, as far as the generator knows."""
    assert live.after_fail is not None
    return live.last_points.get(points_of(live.after_fail), 0)


def subblock(live: Live, args: dict[str, Any]) -> str | None:
    """Whether the first subblock that the operation names is plugged; None if there is no such block."""
    for ram in live.memory:
        if ram.name == args["m"] and args["block"] * SECTION < ram.size and args["first"] < 64:
            pfn = (ram.at + args["block"] * SECTION + args["first"] * 2 * M) >> 12
            return "unplugged" if pfn in live.kernel.memory_blocks.unplugged else "plugged"
    return None


def driver(live: Live, args: dict[str, Any]) -> str | None:
    """The driver of the device that the operation names."""
    return next((device.driver for device in live.devices if device.name == args["d"]), None)


def blocks(live: Live, args: dict[str, Any]) -> list[bool | None]:
    """Whether each whole block of the named device is online; None where there is no block device."""
    ranges = [entry for device in live.devices if device.name == args["d"] for entry in device.ranges]
    zones = [
        live.kernel.memory_blocks.zone.get(block)
        for at, size in ranges
        for block in range(-(-at // SECTION), (at + size) // SECTION)
    ]
    return [None if zone is None else zone != MemoryBlocks.OFFLINE for zone in zones]


def device_block(live: Live, args: dict[str, Any]) -> bool | None:
    states = blocks(live, args)
    return states[args["block"]] if args["block"] < len(states) else None


CLASSES: dict[str, tuple[str, Class]] = {
    "one huge page more": ("hugetlb resize", lambda live, a: a["to"] == now(live, a) + 1),
    "one huge page less": ("hugetlb resize", lambda live, a: 0 <= a["to"] == now(live, a) - 1),
    "as many as there are": ("hugetlb resize", lambda live, a: 0 < a["to"] == now(live, a)),
    "no huge pages": ("hugetlb resize", lambda live, a: a["to"] == 0 < now(live, a)),
    "as many 2M pages as fit": (
        "hugetlb resize",
        lambda live, a: a["size"] == 2 * M and 0 < fits(live, a) == a["to"] - now(live, a),
    ),
    "one 2M page more than fits": (
        "hugetlb resize",
        lambda live, a: a["size"] == 2 * M and 0 < fits(live, a) + 1 == a["to"] - now(live, a),
    ),
    "one 1G page more than fits": (
        "hugetlb resize",
        lambda live, a: a["size"] == G and 0 < fits(live, a) + 1 == a["to"] - now(live, a),
    ),
    "a section's worth of 2M pages": (
        "hugetlb resize",
        lambda live, a: a["size"] == 2 * M and a["to"] - now(live, a) == 64,
    ),
    "pool of one node": ("hugetlb resize", lambda live, a: live.kernel.machine.nodes == 2 and a["node"] == 1),
    "overcommit": ("hugetlb overcommit", lambda live, a: a["to"] > 0),
    "overcommit off": ("hugetlb overcommit", lambda live, a: a["to"] == 0 < pool(live, a).nr_overcommit),
    "demote one": ("hugetlb demote", lambda live, a: a["count"] == 1 <= pool(live, a).free_count()),
    "demote one more than is free": ("hugetlb demote", lambda live, a: a["count"] == pool(live, a).free_count() + 1),
    "map all free": (
        "hugetlb map",
        lambda live, a: a["node"] is None and 0 < pool(live, a).free_count() == a["count"],
    ),
    "map one more than is free": (
        "hugetlb map",
        lambda live, a: a["node"] is None and a["count"] == pool(live, a).free_count() + 1,
    ),
    "map with overcommit": (
        "hugetlb map",
        lambda live, a: pool(live, a).nr_overcommit > 0 and a["count"] > pool(live, a).free_count(),
    ),
    "unmap": ("hugetlb unmap", lambda live, a: a["u"] in live.mappings),
    "unmap what was refused": ("hugetlb unmap", lambda live, a: a["u"] in live.refused["u"]),
    "dissolve an optimized free folio": ("hugetlb dissolve", lambda live, a: free_folio(live, a["at"], True)),
    "dissolve a free folio that is not optimized": (
        "hugetlb dissolve",
        lambda live, a: free_folio(live, a["at"], False),
    ),
    "dissolve in no folio": ("hugetlb dissolve", lambda live, a: live.kernel.pages.owners.get(a["at"] >> 12) is None),
    "switch off": ("sysctl", lambda live, a: not a["hugetlb_optimize_vmemmap"]),
    "switch on": ("sysctl", lambda live, a: a["hugetlb_optimize_vmemmap"]),
    "unmap without the work": ("hugetlb unmap", lambda live, a: a["u"] in live.mappings and not a["flush"]),
    "flush with folios queued": ("hugetlb flush", lambda live, a: len(live.kernel.hpage_freelist) > 0),
    "poison a free optimized folio": ("memory hard_offline", lambda live, a: free_folio(live, a["at"], True)),
    "poison a folio in use": ("memory hard_offline", lambda live, a: folio(live, a["at"], lambda f: f.refcount > 0)),
    "poison a gigantic folio": ("memory hard_offline", lambda live, a: folio(live, a["at"], lambda f: f.order == 18)),
    "poison a folio once more": ("memory hard_offline", lambda live, a: folio(live, a["at"], lambda f: f.hwpoison)),
    "poison a queued folio": (
        "memory hard_offline",
        lambda live, a: any(f.pfn <= a["at"] >> 12 < f.end_pfn for f in live.kernel.hpage_freelist),
    ),
    "poison a program's page": (
        "memory hard_offline",
        lambda live, a: live.kernel.pages.owners.get(a["at"] >> 12) in ("pages", "pages_movable"),
    ),
    "soft offline a folio in use": (
        "memory soft_offline",
        lambda live, a: folio(live, a["at"], lambda f: f.refcount > 0),
    ),
    "unpoison a frame": ("memory unpoison", lambda live, a: a["at"] >> 12 in live.kernel.pages.hwpoison),
    "unpoison the head of a folio": (
        "memory unpoison",
        lambda live, a: folio(live, a["at"], lambda f: f.hwpoison and f.pfn == a["at"] >> 12),
    ),
    "add the next section": ("memory add", lambda live, a: a["at"] == -(-live.top // SECTION) * SECTION),
    "add behind a device": (
        "memory add",
        lambda live, a: any(a["at"] == at + size for device in live.devices for at, size in device.ranges),
    ),
    "add where something was": ("memory add", lambda live, a: a["at"] in [at for at, _ in live.vacated]),
    "add over an existing range": (
        "memory add",
        lambda live, a: any(a["at"] < end and at < a["at"] + a["size"] for at, end in in_use(live)),
    ),
    "add over RAM": ("memory add", lambda live, a: a["size"] and a["at"] < live.rams[0].size),
    "add in the hole below 4G": (
        "memory add",
        lambda live, a: live.kernel.machine.ram >= 2816 * M and 2 * G <= a["at"] < 4 * G,
    ),
    "add an odd size": ("memory add", lambda live, a: a["size"] % SECTION != 0),
    "add with self-hosted memmap": ("memory add", lambda live, a: a["memmap_on_memory"]),
    "add to another node": ("memory add", lambda live, a: live.kernel.machine.nodes == 2 and a["node"] == 1),
    "online an offline block": ("memory online", lambda live, a: online(live, a) is False),
    "online an online block": ("memory online", lambda live, a: online(live, a) is True),
    "online no block": ("memory online", lambda live, a: online(live, a) is None),
    "online in a kernel zone": ("memory online", lambda live, a: a["zone"] == "kernel" and online(live, a) is False),
    "offline an online block": ("memory offline", lambda live, a: online(live, a) is True),
    "offline a boot block": ("memory offline", lambda live, a: a["m"].startswith("ram") and online(live, a) is True),
    "offline an offline block": ("memory offline", lambda live, a: online(live, a) is False),
    "remove a range": ("memory remove", lambda live, a: a["m"] in [name for name, _, _ in live.memory]),
    "remove boot memory": ("memory remove", lambda live, a: a["m"].startswith("ram")),
    "remove twice": ("memory remove", lambda live, a: a["m"] in live.refused["m"]),
    "device in the rest of the last section": (
        "dax create",
        lambda live, a: (
            live.ram_end % SECTION != 0 and a["at"][0] == live.ram_end and a["size"][0] == -live.ram_end % SECTION
        ),
    ),
    "device in a part of the last section": (
        "dax create",
        lambda live, a: live.ram_end < a["at"][0] < a["at"][0] + a["size"][0] < -(-live.ram_end // SECTION) * SECTION,
    ),
    "device of several ranges": ("dax create", lambda live, a: len(a["at"]) > 1),
    "device of 1G pages, aligned": (
        "dax create",
        lambda live, a: a["align"] == G and a["at"][0] % G == 0 < a["size"][0] and a["size"][0] % G == 0,
    ),
    "device of 1G pages, not aligned": ("dax create", lambda live, a: a["align"] == G and a["at"][0] % G != 0),
    "device of base pages": ("dax create", lambda live, a: a["align"] == 4096),
    "device with altmap": ("dax create", lambda live, a: a["altmap"]),
    "device that starts inside a section": ("dax create", lambda live, a: a["at"][0] % SECTION != 0),
    "device over a device": (
        "dax create",
        lambda live, a: any(
            a["at"][0] < at + size and at < a["at"][0] + a["size"][0] for dev in live.devices for at, size in dev.ranges
        ),
    ),
    "device where memory was": ("dax create", lambda live, a: a["at"][0] in [at for at, _ in live.vacated]),
    "device of no size": ("dax create", lambda live, a: 0 in a["size"]),
    "destroy": ("dax destroy", lambda live, a: a["d"] in [device.name for device in live.devices]),
    "destroy what was refused": ("dax destroy", lambda live, a: a["d"] in live.refused["d"]),
    "unplug one subblock": ("subblock unplug", lambda live, a: a["count"] == 1 and subblock(live, a) == "plugged"),
    "unplug several subblocks": ("subblock unplug", lambda live, a: a["count"] > 1 and subblock(live, a) == "plugged"),
    "unplug a subblock twice": ("subblock unplug", lambda live, a: subblock(live, a) == "unplugged"),
    "plug a subblock": ("subblock plug", lambda live, a: subblock(live, a) == "unplugged"),
    "plug a subblock that is plugged": ("subblock plug", lambda live, a: subblock(live, a) == "plugged"),
    "unplug a range": ("memory unplug", lambda live, a: a["m"] in [name for name, _, _ in live.memory]),
    "unplug boot memory": ("memory unplug", lambda live, a: a["m"].startswith("ram")),
    "online where the zones say": (
        "memory online",
        lambda live, a: a["zone"] == "default" and online(live, a) is False,
    ),
    "device as system RAM": ("dax create", lambda live, a: a["driver"] == "kmem"),
    "device with altmap as system RAM": ("dax create", lambda live, a: a["driver"] == "kmem" and a["altmap"]),
    "fsdev": ("dax create", lambda live, a: a["driver"] == "fsdev"),
    "bind again": ("dax rebind", lambda live, a: a["driver"] == driver(live, a) != "kmem"),
    "from device_dax to kmem": ("dax rebind", lambda live, a: (driver(live, a), a["driver"]) == ("devdax", "kmem")),
    "from kmem to device_dax": ("dax rebind", lambda live, a: (driver(live, a), a["driver"]) == ("kmem", "devdax")),
    "from fsdev to device_dax": ("dax rebind", lambda live, a: (driver(live, a), a["driver"]) == ("fsdev", "devdax")),
    "kmem away while a block is online": (
        "dax rebind",
        lambda live, a: driver(live, a) == "kmem" and any(state is True for state in blocks(live, a)),
    ),
    "bind after a failure": ("dax rebind", lambda live, a: driver(live, a) == "none"),
    "self-hosted memmap wanted": ("dax set", lambda live, a: a["memmap_on_memory"]),
    "attribute while kmem is bound": ("dax set", lambda live, a: driver(live, a) == "kmem"),
    "unplug what is online": (
        "dax state",
        lambda live, a: a["state"] == "unplugged" and any(state is True for state in blocks(live, a)),
    ),
    "plug again": ("dax state", lambda live, a: a["state"].startswith("online") and set(blocks(live, a)) == {None}),
    "state of a device without it": ("dax state", lambda live, a: driver(live, a) != "kmem"),
    "online a device's block": ("dax online", lambda live, a: device_block(live, a) is False),
    "online a device's block where the zones say": ("dax online", lambda live, a: a["zone"] == "default"),
    "online a device's block twice": ("dax online", lambda live, a: device_block(live, a) is True),
    "offline a device's block": ("dax offline", lambda live, a: device_block(live, a) is True),
    "offline a device's block twice": ("dax offline", lambda live, a: device_block(live, a) is False),
    "no such block of a device": ("dax offline", lambda live, a: device_block(live, a) is None),
    "all free pages": ("pages alloc", lambda live, a: a["count"] == free_frames(live, a)),
    "all free pages but one": ("pages alloc", lambda live, a: 0 < a["count"] == free_frames(live, a) - 1),
    "one page more than is free": ("pages alloc", lambda live, a: 0 < a["count"] == free_frames(live, a) + 1),
    "movable pages": ("pages alloc", lambda live, a: a["movable"]),
    "take the place of a free folio": ("pages contig", lambda live, a: free_folio(live, a["at"], True)),
    "take the place of a folio in use": (
        "pages contig",
        lambda live, a: folio(live, a["at"], lambda f: f.refcount > 0),
    ),
    "free pages": ("pages free", lambda live, a: a["p"] in live.pages),
    "free what was refused": ("pages free", lambda live, a: a["p"] in live.refused["p"]),
    "fail two points": ("fail alloc", lambda live, a: a["times"] == 2),
    "fail a row of points": ("fail alloc", lambda live, a: a["times"] > 3),
    "fail the first point": ("fail alloc", lambda live, a: a["nth"] == 1),
    "fail a point in the middle": (
        "fail alloc",
        lambda live, a: 1 < a["nth"] < points(live),
    ),
    "fail the last point": ("fail alloc", lambda live, a: 1 < a["nth"] == points(live)),
    "fail behind the last point": (
        "fail alloc",
        lambda live, a: a["nth"] - 1 == points(live),
    ),
    "a node that the machine has not": ("pages alloc", lambda live, a: a["node"] >= live.kernel.machine.nodes),
}

ANSWERS = {
    "reserve": {0, -EINVAL},
    "reserve cma": {0},
    "boot": {0},
    "hugetlb resize": {0, -EINVAL, -ENOENT, -ENOMEM},
    "hugetlb overcommit": {0, -ENOENT},
    "hugetlb demote": {0, -EINVAL, -ENOMEM},
    "hugetlb map": {0, -EINVAL, -ENOMEM},
    "hugetlb unmap": {0, -ENODEV},
    "hugetlb flush": {0},
    "hugetlb dissolve": {0, -EBUSY, -ENOMEM},
    "sysctl": {0},
    "memory add": {0, -EINVAL, -EEXIST, -ENOMEM, -E2BIG},
    "memory online": {0, -EINVAL, -ENODEV, -EHWPOISON},
    "memory offline": {0, -EINVAL, -EBUSY, -ENODEV},
    "memory remove": {0, -EBUSY, -ENODEV},
    "subblock unplug": {0, -EINVAL, -EBUSY, -ENOMEM, -ENODEV},
    "subblock plug": {0, -EINVAL, -ENODEV},
    "memory unplug": {0, -EINVAL, -EBUSY, -ENODEV},
    "memory hard_offline": {0, -EBUSY, -EHWPOISON, -ENXIO},
    "memory soft_offline": {0, -EBUSY, -EIO, -ENOMEM, -ENOTRECOVERABLE, -ENXIO},
    "memory unpoison": {0, -EBUSY, -EIO},
    "dax create": {0, -EINVAL, -ENOMEM, -EBUSY, -EEXIST, -ENXIO},
    "dax destroy": {0, -ENODEV},
    "dax rebind": {0, -EINVAL, -EBUSY, -ENOMEM, -ENODEV},
    "dax set": {0, -EOPNOTSUPP, -EBUSY, -ENODEV},
    "dax state": {0, -EINVAL, -EBUSY, -ENOENT, -ENODEV},
    "dax online": {0, -EINVAL, -ENODEV},
    "dax offline": {0, -EINVAL, -EBUSY, -ENODEV},
    "pages contig": {0, -EINVAL, -EBUSY, -ENOMEM},
    "pages alloc": {0, -EINVAL, -ENOMEM},
    "pages free": {0, -ENODEV},
    "fail alloc": {0},
}
"""What the kernel can answer, by docs/language.md and the specification."""


@cache
def survey() -> tuple[Counter[str], Counter[tuple[str, int]], Counter[str]]:
    """How often each class, answer and operation came up in the first programs."""
    classes: Counter[str] = Counter()
    answers: Counter[tuple[str, int]] = Counter()
    operations: Counter[str] = Counter()
    of_name: dict[str, list[tuple[str, Class]]] = {}
    for label, (name, test) in CLASSES.items():
        of_name.setdefault(name, []).append((label, test))
    for seed in range(PROGRAMS):
        for live, op, run in walk(seed):
            operations[op.name] += 1
            classes.update(label for label, test in of_name.get(op.name, ()) if test(live, op.args))
            rc = run()
            if isinstance(rc, int):
                answers[op.name, min(rc, 0)] += 1
    return classes, answers, operations


@pytest.mark.parametrize("label", CLASSES)
def test_class_of_operands_is_reached(label: str) -> None:
    assert survey()[0][label] > 0


def test_the_answers_are_those_that_the_surface_calls_reachable() -> None:
    table = {(cell.operation, cell.outcome) for cell in known() if cell.arch == "x86_64/4K"}
    assert {(name, answer(rc)) for name, rcs in ANSWERS.items() for rc in rcs} <= table


@pytest.mark.parametrize("name", [name for name, answers in ANSWERS.items() if answers])
def test_operation_is_reached(name: str) -> None:
    assert survey()[2][name] > 0


@pytest.mark.parametrize(("name", "rc"), [(name, rc) for name, rcs in ANSWERS.items() for rc in sorted(rcs)])
def test_answer_is_reached(name: str, rc: int) -> None:
    assert survey()[1][name, rc] > 0


def test_every_operation_has_answers() -> None:
    assert set(ANSWERS) == set(OPERATIONS)


def test_most_operations_succeed() -> None:
    answers = survey()[1]
    done = sum(times for (_, rc), times in answers.items() if rc == 0)
    assert done > 0.55 * sum(answers.values())


def test_programs_are_legal_and_canonical() -> None:
    for seed in range(40):
        machine = None
        ops = []
        for live, op, run in walk(seed):
            machine = live.kernel.machine
            ops.append(op)
            run()
        assert machine is not None
        program = Program(machine, tuple(ops))
        assert parse(format_program(program)) == program
