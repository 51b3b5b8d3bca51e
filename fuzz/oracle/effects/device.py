"""DAX devices and their drivers."""

from __future__ import annotations

from typing import Any

from fuzz.oracle.effects.common import Args, Before, SideLike, data_of, self_hosted, states_of, subsections_of
from mm.errno import ENOENT, EOPNOTSUPP
from mm.kernel import Kernel
from mm.kmem import kmem_ranges
from mm.memory import MemoryBlocks


def _device(k: Kernel, device: Any, driver: str, policy: str) -> str | None:
    """What a bound driver has made of a device."""
    if device.driver != driver:
        return f"the driver is {device.driver}"
    if driver == "none":
        return None
    if driver == "kmem":
        data = device.kmem
        if data is None or data.state != policy or not any(data.res):
            return "kmem has no memory"
        for (lo, hi), reserved in zip(kmem_ranges(k, device), data.res, strict=True):
            have = sum([e - s for s, e, _ in states_of(k, lo, hi)]) * k.memory_blocks.pages
            if reserved and have != hi - lo:
                return f"{lo:#x}..{hi:#x} is not in memory blocks"
        return None
    if device.pgmap is None or device.pgmap not in k.pgmaps:
        return "there is no page map"
    order = device.align.bit_length() - 1 if driver == "devdax" else 0
    if device.pgmap.vmemmap_shift != order:
        return f"the compound pages are of order {device.pgmap.vmemmap_shift}"
    if (device.pgmap.type == "fsdax") is not (driver == "fsdev"):
        return f"the page map is of type {device.pgmap.type}"
    if driver == "fsdev" and device.pgmap.ops != "fsdev":
        return "the page map has no ops"
    for start, end in device.ranges:
        if not k.sections.subsections.covers(*subsections_of(k, start, end)):
            return f"{start:#x}..{end:#x} lacks struct pages"
        first, last = k.arch.vpn(start), k.arch.vpn_end(end)
        if sum([e - s for s, e, _ in k.tables.entries.runs(first, last)]) != last - first:
            return f"the struct pages of {start:#x}..{end:#x} are not mapped"
    return None


def _stale(device: Any, driver: str, had: str, asked: str, rc: int) -> str | None:
    """A page map that outlives its drivers has the ops and the owner of fsdev only while that is bound
    (fsdev_clear_pgmap_ops, drivers/dax/fsdev.c), or since a probe of it failed (docs/findings/0012). Before the
    operation `driver` was bound and the ops were `had`; it binds `asked`."""
    static = device.static
    if static is None or not static.ops or device.driver == "fsdev":
        return None
    failed = (asked == "fsdev" and rc < 0) or (driver != "fsdev" and had)
    return None if failed else "the page map has the ops and the owner of fsdev, which is not bound"


def iomem_before(side: SideLike, args: Args) -> list[tuple[int, int, str]]:
    return side.kernel.iomem.items()


def created(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """devm_create_dev_dax, dax_bus_probe (drivers/dax/bus.c): a device with its driver bound, or nothing at all."""
    k = side.kernel
    if rc:
        return None if k.iomem.items() == then else "the resources of the range are not as before"
    if result is None:
        return None
    device = side.handles.get(result)
    if device is None:
        return "there is no device"
    page = k.arch.page
    if device.nid != args["node"] or device.align * page != args["align"]:
        return "node or alignment are not those that were asked for"
    asked = [(at // page, (at + size) // page) for at, size in zip(args["at"], args["size"], strict=True) if size]
    wanted = [data_of(k, *asked[0], args["align"])] if args["altmap"] else asked
    if device.ranges != wanted:
        return f"the ranges are {device.ranges}, not {wanted}"
    return _device(k, device, args["driver"], k.machine.memhp_default_state)


def device_before(side: SideLike, args: Args) -> Any:
    device = side.handles.get(args["d"])
    if device is None:
        return None, None
    data = device.kmem
    mine = [] if data is None else [r for r, has in zip(kmem_ranges(side.kernel, device), data.res, strict=True) if has]
    ops = "" if device.static is None else device.static.ops
    return device, (device.driver, device.memmap_on_memory, data and data.state, mine, ops)


def destroyed(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """unregister_dev_dax (drivers/dax/bus.c): nothing of the device is left but memory that is still online."""
    device, was = then
    k = side.kernel
    if device is None:
        return None
    if rc or device.driver != "none" or device.pgmap is not None or device.kmem is not None:
        return "the device is bound"
    for lo, hi in device.ranges:
        if was[0] in ("devdax", "fsdev") and k.iomem.overlaps(lo, hi):
            return f"{lo:#x}..{hi:#x} is reserved"
    per = k.memory_blocks.pages
    for lo, hi in was[3]:
        states = states_of(k, lo, hi)
        offline = states and all(state == MemoryBlocks.OFFLINE for _, _, state in states)
        if offline and self_hosted(k, lo // per, hi // per) is not None:
            return f"{lo:#x}..{hi:#x} is still memory"
    return None


def rebound(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """dax_bus_remove, dax_bus_probe (drivers/dax/bus.c)."""
    device, was = then
    if device is None:
        return None
    k = side.kernel
    return _stale(device, was[0], was[4], args["driver"], rc) or _device(
        k, device, "none" if rc else args["driver"], k.machine.memhp_default_state
    )


def set(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """memmap_on_memory_store (drivers/dax/bus.c)."""
    device, was = then
    if device is None:
        return None
    wanted = args["memmap_on_memory"]
    if rc == 0:
        return "the attribute has not changed" if device.memmap_on_memory != wanted else None
    if device.memmap_on_memory != was[1]:
        return "the attribute has changed"
    if rc == -EOPNOTSUPP:
        return None if wanted else "it was to be cleared"
    return None if was[0] == "kmem" else "kmem is not bound"


def state(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """state_store (drivers/dax/kmem.c)."""
    device, was = then
    if device is None:
        return None
    if was[0] != "kmem":
        return None
    if rc == -ENOENT:
        return "the driver is kmem"
    now = device.kmem.state
    if rc:
        return None if now == was[2] else f"the state went from {was[2]} to {now}"
    if now != args["state"]:
        return f"the state is {now}"
    if now == "unplugged":
        k = side.kernel
        left = any(device.kmem.res) or any(states_of(k, lo, hi) for lo, hi in was[3])
        return "the device is still memory" if left and was[2] != "unplugged" else None
    return None if any(device.kmem.res) else "there is no memory"
