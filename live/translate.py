"""What each operation of the language is on a real kernel, and which operations have no counterpart there.

`refusal` says why an operation cannot be done live in the present state, so that a skipped operation is always a
printed one; `perform` does it and returns what the kernel returned, in the terms of docs/language.md (0 instead of a
number of bytes written).
"""

from __future__ import annotations

import errno
from typing import Any, Final

from fuzz.program.model import Op
from fuzz.program.real import WITHOUT_INTERFACE
from live.faults import NEEDED, ONCE
from live.folios import HugeFolio
from live.guest import DEVICES, DRIVERS, NVDIMM, NVDIMM_DRIVERS, Guest
from live.names import PAGE, Names, Range
from live.observe import BLOCKS, HUGEPAGES, NODE, ORDERS
from live.pagetable import SECTION_PFNS
from live.snapshot import Snapshot
from mm.dax import LEAST_NAMESPACE

M: Final = 1 << 20
SECTION: Final = 128 * M
SPARE: Final = 96 * M // PAGE
"""Free pages that a program must leave to the guest's kernel on each node."""
HARD: Final = "/sys/devices/system/memory/hard_offline_page"
SOFT: Final = "/sys/devices/system/memory/soft_offline_page"
UNPOISON: Final = "/sys/kernel/debug/hwpoison/unpoison-pfn"

CHANGES_BLOCKS: Final = frozenset(
    {
        *("memory add", "memory online", "memory offline", "memory remove"),
        *("dax create", "dax destroy", "dax rebind", "dax state", "dax online", "dax offline"),
    }
)
NO_FSDEV: Final = "the guest's kernel has no fsdev driver"
BUS_DRIVERS: Final = {"devdax": "device_dax", "fsdev": "fsdev_dax", "kmem": "kmem", "none": ""}
"""Drivers of the language by their names on the dax bus."""

# -- what cannot be done --------------------------------------------------------------------------------------------


def refusal(op: Op, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    """Why this operation cannot be done on this guest now, or None."""
    names.poisoned = {pfn for pfn in names.poisoned if pfn // SECTION_PFNS in seen.blocks}
    if op.name in WITHOUT_INTERFACE:
        return WITHOUT_INTERFACE[op.name]
    if op.name == "fail alloc":
        if guest.faults is None:
            return NEEDED
        if op.args["times"] > 1:
            return ONCE
    check = _CHECKS.get(op.name)
    if op.name.startswith("hugetlb") and "size" in op.args and _order(op.args) not in ORDERS:
        return "the guest has no huge pages of that size"
    node = op.args.get("node")
    if node is not None and node >= names.machine.nodes:
        return "the guest has no such node"
    return check(op.args, guest, names, seen) if check else None


Args = dict[str, Any]


def _room(order: int, more: int, node: int | None, seen: Snapshot) -> str | None:
    free = seen.free if node is None else seen.free[node : node + 1]
    if more > 0 and sum(max(n - SPARE, 0) for n in free) < more << order:
        return "more huge pages than fit would leave the guest's kernel without memory"
    if order == 18 and more > 1:
        return "each gigabyte takes the emulated kernel seconds to find"
    return None


def _order(args: Args) -> int:
    size: int = args["size"]
    return (size // PAGE).bit_length() - 1


def _check_resize(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    order, node = _order(args), args["node"]
    pool = seen.pools[order]
    have = sum(pool.nr) - sum(pool.surplus) if node is None else pool.nr[node] - pool.surplus[node]
    # The global file spreads over nodes; each must have room for its share.
    more = args["to"] - have
    if node is None and len(pool.nr) > 1 and more > 0:
        share = -(-more // len(pool.nr))
        return next((why for nid in range(len(pool.nr)) if (why := _room(order, share, nid, seen))), None)
    return _room(order, more, node, seen)


def _check_map(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    order, node = _order(args), args["node"]
    if args["count"] > 1 << 20:
        return "the agent's address space has no room for so many"
    pool = seen.pools[order]
    free = sum(pool.free) - pool.resv
    allowed = max(pool.overcommit - sum(pool.surplus), 0)
    return _room(order, min(args["count"] - free, allowed), node, seen)


def _check_demote(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    count = min(args["count"], sum(seen.pools[18].free))
    if sum(seen.free) - SPARE * len(seen.free) < 4096 * min(count, 2):
        return "splitting a gigabyte needs 4095 pages for a moment"
    return None


def _check_dissolve(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    folio = _folio(args["at"] // PAGE, seen)
    if folio is not None:
        if folio.refcount:
            return "soft offline moves a page in use instead of refusing it"
        pool = seen.pools[folio.order]
        return "soft offline waits for a reserved page" if sum(pool.free) == pool.resv else None
    return "soft offline of a page that is not huge would take that page out of use"


def _check_poison(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    pfn = args["at"] // PAGE
    if pfn in names.poisoned:
        return None
    folio = _folio(pfn, seen)
    if folio is None:
        if seen.blocks.get(pfn // SECTION_PFNS, "offline") == "offline":
            return None
        return "the guest's own pages are somewhere in memory that is online"
    pool = seen.pools[folio.order]
    if pool.resv or (folio.free and folio.refcount):
        return "pages that are reserved or counted wrongly stay huge, and poisoned"
    if folio.optimized and not folio.free and any(pool.surplus):
        return "whether the worker that frees a surplus page is done by then is a race"
    if folio.order != 9 and not folio.free:
        return "a gigabyte takes the emulated kernel seconds to copy"
    return None


def _folio(pfn: int, seen: Snapshot) -> HugeFolio | None:
    """The huge page over a pfn."""
    for head in (pfn & -512, pfn & -(1 << 18)):
        folio = seen.folios.get(head)
        if folio is not None and pfn < head + (1 << folio.order):
            return folio
    return None


def _check_unpoison(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    pfn = args["at"] // PAGE
    if pfn in names.poisoned or _folio(pfn, seen) is not None:
        return None
    if seen.blocks.get(pfn // SECTION_PFNS, "offline") == "offline":
        return None
    return "the guest's own pages are somewhere in memory that is online"


def _in_region(names: Names, ranges: list[tuple[int, int]], node: int) -> str | None:
    start, length = names.region
    for at, size in ranges:
        if at < start or at + size > start + length:
            return f"only {hex(start)}..{hex(start + length)} can be given to devices and plugged"
    if node != names.machine.nodes - 1:
        return f"the region belongs to node {names.machine.nodes - 1}"
    used = [*names.memory.values(), *names.devices.values()]
    if any(r.overlaps(at, size) for r in used for at, size in ranges):
        return "the dax region does not give the same address twice"
    return None


def _check_add(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    if (args["at"] | args["size"]) % (SECTION_PFNS * PAGE) or not args["size"]:
        return "the kmem driver trims what is not whole memory blocks"
    if args["at"] // (128 * M) in seen.blocks:
        return "there is a memory block already"
    if not guest.idle:
        return "no device is left in the region"
    return _in_region(names, [(args["at"], args["size"])], args["node"])


def _check_offline(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    return _cannot_offline(names.block(args["m"], args["block"]), seen)


def _cannot_offline(block: int | None, seen: Snapshot) -> str | None:
    state = "offline" if block is None else seen.blocks.get(block, "offline")
    if state not in ("offline", "Movable"):
        return "whether a block of a kernel zone can go offline depends on where the guest's own pages are"
    if block is not None and state == "Movable":
        first = block * SECTION_PFNS
        moving = [f for f in seen.folios.values() if first <= f.pfn < first + SECTION_PFNS and not f.free]
        if len(moving) > 1:
            return "which of several huge pages in use moves where cannot be seen from outside"
    return None


def _check_remove(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    if args["m"] not in names.memory:
        return "boot memory has no device to remove" if args["m"].startswith("ram") else None
    at, size = names.memory[args["m"]].ranges[0]
    blocks = range(at // (128 * M), (at + size) // (128 * M))
    if any(seen.blocks.get(block, "offline") != "offline" for block in blocks):
        return "the kmem driver would forget a range that it cannot remove"
    return None


def _device_blocks(names: Names, handle: str) -> list[int]:
    """The whole memory blocks of a device's ranges."""
    device = names.devices.get(handle)
    ranges = () if device is None else device.ranges
    return [block for at, size in ranges for block in range(-(-at // SECTION), (at + size) // SECTION)]


def _device_block(args: Args, names: Names) -> int | None:
    blocks = _device_blocks(names, args["d"])
    return blocks[args["block"]] if args["block"] < len(blocks) else None


def _check_device(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    """For what unbinds a device."""
    device = names.devices.get(args["d"])
    if args.get("driver") == "fsdev" and not guest.fsdev:
        return NO_FSDEV
    if device is not None and device.nvdimm and "driver" in args:
        return "a namespace has the driver that it was made with"
    if device is not None and device.driver == "kmem":
        if any(seen.blocks.get(block, "offline") != "offline" for block in _device_blocks(names, args["d"])):
            return "a range that kmem cannot remove is lost until reboot"
    return None


def _check_state(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    if args["state"] == "unplugged":
        for block in _device_blocks(names, args["d"]):
            if why := _cannot_offline(block, seen):
                return why
    return None


def _check_device_offline(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    return _cannot_offline(_device_block(args, names), seen)


def _check_dax(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    if args["driver"] == "fsdev" and not guest.fsdev:
        return NO_FSDEV
    ranges = list(zip(args["at"], args["size"], strict=True))
    if len(ranges) == 1 and ranges[0] in names.namespaces:
        return _check_namespace(args, names)
    if args["altmap"]:
        return "a map in the device needs one of the machine's namespaces, as a whole"
    granule = max(args["align"], 2 * M)
    if any(size % granule or not size for _, size in ranges):
        return "the dax bus refuses such sizes before there is a device"
    if any(at % (2 * M) for at, _ in ranges):
        return "the dax bus hands out whole subsections"
    if not guest.idle:
        return "no device is left in the region"
    for i, (at, size) in enumerate(ranges):
        if any(at < a + n and a < at + size for a, n in ranges[:i]):
            return "the dax region does not give the same address twice"
    return _in_region(names, ranges, args["node"])


def _check_namespace(args: Args, names: Names) -> str | None:
    at, size = args["at"][0], args["size"][0]
    if args["driver"] != "devdax":
        return "a namespace has the driver that it was made with"
    if args["node"] != names.machine.nodes - 1:
        return f"the namespaces belong to node {names.machine.nodes - 1}"
    if any(r.overlaps(at, size) for r in names.devices.values()):
        return "a namespace is one device at a time"
    granule = max(args["align"], 2 * M)
    if not args["altmap"] and (size % granule or size < max(2 * granule, LEAST_NAMESPACE)):
        return "a namespace with its map in RAM is cut to whole pages and loses one to its info block"
    return None


def _check_unmap(args: Args, guest: Guest, names: Names, seen: Snapshot) -> str | None:
    return None if args["flush"] else WITHOUT_INTERFACE["hugetlb flush"]


_CHECKS: Final = {
    "hugetlb unmap": _check_unmap,
    "hugetlb resize": _check_resize,
    "hugetlb map": _check_map,
    "hugetlb demote": _check_demote,
    "hugetlb dissolve": _check_dissolve,
    "memory add": _check_add,
    "memory offline": _check_offline,
    "memory remove": _check_remove,
    "memory hard_offline": _check_poison,
    "memory soft_offline": _check_poison,
    "memory unpoison": _check_unpoison,
    "dax create": _check_dax,
    "dax destroy": _check_device,
    "dax rebind": _check_device,
    "dax state": _check_state,
    "dax offline": _check_device_offline,
}


# -- what is done ---------------------------------------------------------------------------------------------------


def perform(op: Op, guest: Guest, names: Names) -> int:
    """Do an operation that was not refused; 0 or a negative errno."""
    rc = _ACTIONS[op.name](op.args, op.result, guest, names)
    return min(rc, 0)


def _pool(args: Args, file: str) -> str:
    size, node = ORDERS[_order(args)], args.get("node")
    return (HUGEPAGES.format(size) if node is None else NODE.format(node, size)) + file


def _resize(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    return guest.agent.write(_pool(args, "nr_hugepages"), str(args["to"]))


def _overcommit(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    return guest.agent.write(_pool(args, "nr_overcommit_hugepages"), str(args["to"]))


def _demote(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    return guest.agent.write(_pool(args, "demote"), str(args["count"]))


def _map(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    slot = names.next_slot
    names.next_slot += 1
    rc = guest.agent.map(slot, args["size"].bit_length() - 1, args["count"], args["node"])
    if rc:
        settle(guest)  # surplus pages that were made for it go back
    elif result:
        names.maps[result] = slot
    return rc


def _unmap(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    slot = names.maps.pop(args["u"], None)
    if slot is None:
        return -errno.ENODEV
    rc = guest.agent.unmap(slot)
    settle(guest)
    return rc


def settle(guest: Guest) -> None:
    """Optimized pages that are freed in atomic context are given back by a kernel worker. Writing nr_hugepages waits
    for it; the number is the present one, so nothing else happens.
    """
    for size in ORDERS.values():
        folder = HUGEPAGES.format(size)
        nr, surplus = guest.agent.read((folder + "nr_hugepages", folder + "surplus_hugepages"))
        if isinstance(nr, bytes) and isinstance(surplus, bytes):
            guest.agent.write(folder + "nr_hugepages", str(int(nr) - int(surplus)))


def _dissolve(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    # Soft offline dissolves, and then takes the one page out of use; only the first is asked for. Its result speaks of
    # both, so whether the huge page is gone decides.
    pfn = args["at"] // PAGE
    if guest.agent.write(SOFT, hex(args["at"])) >= 0:
        guest.agent.write(UNPOISON, str(pfn))
    left = guest.look().folios
    return -errno.EBUSY if any(f.pfn <= pfn < f.pfn + (1 << f.order) for f in left.values()) else 0


def _poison(file: str, args: Args, guest: Guest, names: Names) -> int:
    rc = guest.agent.write(file, hex(args["at"]))
    if rc >= 0:
        names.poisoned.add(args["at"] // PAGE)
    settle(guest)
    return rc


def _hard_offline(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    return _poison(HARD, args, guest, names)


def _soft_offline(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    return _poison(SOFT, args, guest, names)


def _unpoison(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    rc = guest.agent.write(UNPOISON, str(args["at"] // PAGE))
    if rc >= 0:
        names.poisoned.discard(args["at"] // PAGE)
    return rc


def _sysctl(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    value = "1" if args["hugetlb_optimize_vmemmap"] else "0"
    return guest.agent.write("/proc/sys/vm/hugetlb_optimize_vmemmap", value)


def _bind(
    guest: Guest, driver: str, align: int, ranges: tuple[tuple[int, int], ...], more: list[tuple[str, str]]
) -> tuple[int, str]:
    """Give an idle device its ranges and a driver: what binding returned, and the device (idle again if it failed)."""
    name = guest.idle[0]
    device = f"{DEVICES}/{name}"
    steps = [(f"{device}/align", str(align))]
    steps += [(f"{device}/mapping", f"{at:x}-{at + size - 1:x}") for at, size in ranges]
    rcs = guest.agent.steps([*steps, *more])
    if rcs[-1] < 0:
        guest.agent.write(f"{device}/size", "0")
        raise UnexpectedRefusal(f"step {[*steps, *more][len(rcs) - 1]} of preparing {name}: error {-rcs[-1]}")
    rc = guest.agent.write(f"{DRIVERS}/{driver}/bind", name)
    if rc < 0:
        guest.agent.write(f"{device}/size", "0")
    else:
        guest.idle.pop(0)
    return rc, name


class UnexpectedRefusal(Exception):
    """A preparatory step that must work did not."""


def _release(guest: Guest, driver: str, device: str) -> None:
    steps = [(f"{DRIVERS}/{driver}/unbind", device)] if driver else []
    rcs = guest.agent.steps([*steps, (f"{DEVICES}/{device}/size", "0")])
    if rcs[-1] < 0:
        raise UnexpectedRefusal(f"{device} cannot be released: error {-rcs[-1]}")
    guest.idle.insert(0, device)


def _add(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    ranges = ((args["at"], args["size"]),)
    device = f"{DEVICES}/{guest.idle[0]}"
    # Without the module parameter the kernel ignores a request for it, and the attribute refuses it.
    want = args["memmap_on_memory"] and names.machine.memmap_on_memory != "off"
    rc, name = _bind(guest, "kmem", 2 * M, ranges, [(f"{device}/memmap_on_memory", str(int(want)))])
    if rc >= 0 and result:
        names.memory[result] = Range(name, ranges)
    return rc


def _state(args: Args, guest: Guest, names: Names, word: str) -> int:
    return _write_state(names.block(args["m"], args["block"]), guest, word)


def _write_state(block: int | None, guest: Guest, word: str) -> int:
    if block is None:
        return -errno.ENODEV
    rc = guest.agent.write(f"{BLOCKS}/memory{block}/state", word)
    return -errno.ENODEV if rc == -errno.ENOENT else rc


def _online(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    return _state(args, guest, names, "online" if args["zone"] == "default" else f"online_{args['zone']}")


def _offline(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    rc = _state(args, guest, names, "offline")
    settle(guest)
    return rc


def _remove(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    memory = names.memory.pop(args["m"], None)
    if memory is None:
        return -errno.ENODEV
    _release(guest, "kmem", memory.device)
    return 0


def _create(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    ranges = tuple(zip(args["at"], args["size"], strict=True))
    if ranges[0] in guest.namespaces:
        return _claim(args, result, guest, names)
    driver = BUS_DRIVERS[args["driver"]]
    rc, name = _bind(guest, driver, args["align"], ranges, [(f"{DEVICES}/{guest.idle[0]}/memmap_on_memory", "0")])
    if rc >= 0 and result:
        names.devices[result] = Range(name, ranges, driver=driver)
    return rc


def _destroy(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    device = names.devices.pop(args["d"], None)
    if device is None:
        return -errno.ENODEV
    if device.nvdimm:
        _disclaim(guest, device.nvdimm)
    else:
        _release(guest, device.driver, device.device)
    return 0


def _rebind(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    device = names.devices.get(args["d"])
    if device is None:
        return -errno.ENODEV
    if device.driver:
        guest.agent.write(f"{DRIVERS}/{device.driver}/unbind", device.device)
    device.driver = BUS_DRIVERS[args["driver"]]
    rc = guest.agent.write(f"{DRIVERS}/{device.driver}/bind", device.device) if device.driver else 0
    if rc < 0:
        device.driver = ""
    return rc


def _set(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    device = names.devices.get(args["d"])
    if device is None:
        return -errno.ENODEV
    return guest.agent.write(f"{DEVICES}/{device.device}/memmap_on_memory", str(int(args["memmap_on_memory"])))


def _dax_state(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    device = names.devices.get(args["d"])
    if device is None:
        return -errno.ENODEV
    rc = guest.agent.write(f"{DEVICES}/{device.device}/state", args["state"])
    settle(guest)
    return rc


def _dax_online(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    word = "online" if args["zone"] == "default" else f"online_{args['zone']}"
    return _write_state(_device_block(args, names), guest, word)


def _dax_offline(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    rc = _write_state(_device_block(args, names), guest, "offline")
    settle(guest)
    return rc


def _claim(args: Args, result: str | None, guest: Guest, names: Names) -> int:
    """What `ndctl create-namespace -m devdax` does: claim a namespace, write its info block, make a device of it."""
    ranges = ((args["at"][0], args["size"][0]),)
    number = guest.namespaces[ranges[0]]
    (seed,) = guest.agent.read((f"{NVDIMM}/region{number}/dax_seed",))
    assert isinstance(seed, bytes)
    nvdimm = seed.decode().strip()
    # An info block of another identity is not looked at: a new one is written.
    guest.made += 1
    uuid = f"00000000-0000-4000-8000-{guest.made:012x}"
    rows = (("uuid", uuid), ("mode", "pmem" if args["altmap"] else "ram"), ("align", str(args["align"])))
    steps = [(f"{NVDIMM}/{nvdimm}/{name}", value) for name, value in rows]
    rcs = guest.agent.steps([*steps, (f"{NVDIMM}/{nvdimm}/namespace", f"namespace{number}.0")])
    if rcs[-1] < 0:
        return rcs[-1]
    rc = guest.agent.write(f"{NVDIMM_DRIVERS}/dax_pmem/bind", nvdimm)
    device = f"dax{number}.0"
    if rc >= 0 and device not in guest.agent.names(f"{DRIVERS}/device_dax"):
        # Its driver was tried and failed, which the writer of the first file does not hear of; this one does.
        rc = guest.agent.write(f"{DRIVERS}/device_dax/bind", device)
    if rc < 0:
        _disclaim(guest, nvdimm)
    elif result:
        names.devices[result] = Range(device, ranges, nvdimm)
    return rc


def _disclaim(guest: Guest, nvdimm: str) -> None:
    guest.agent.write(f"{NVDIMM_DRIVERS}/dax_pmem/unbind", nvdimm)
    rc = guest.agent.write(f"{NVDIMM}/{nvdimm}/namespace", "\n")
    if rc < 0:
        raise UnexpectedRefusal(f"{nvdimm} does not let its namespace go: error {-rc}")


_ACTIONS: Final = {
    "hugetlb resize": _resize,
    "hugetlb overcommit": _overcommit,
    "hugetlb demote": _demote,
    "hugetlb map": _map,
    "hugetlb unmap": _unmap,
    "hugetlb dissolve": _dissolve,
    "memory hard_offline": _hard_offline,
    "memory soft_offline": _soft_offline,
    "memory unpoison": _unpoison,
    "sysctl": _sysctl,
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
}
