"""Device memory as system RAM: the kmem driver of device DAX (drivers/dax/kmem.c, Linux 7.3).

Left out: memory tiers, memory groups (they only matter to the auto-movable policy), allocation of the driver's data.
"""

from __future__ import annotations

from mm.dev_dax import DevDax, KmemData, KmemState, Range
from mm.errno import EBUSY, EINVAL, ENOENT
from mm.kernel import Kernel
from mm.machine import OnlineType
from mm.memory_hotplug import add_memory_driver_managed, offline_and_remove_memory_ranges, remove_memory
from mm.resource import KMEM, release_region, request_region


def memory_block_aligned_range(k: Kernel, start: int, end: int) -> Range:
    """memory_block_aligned_range (include/linux/memory.h), dax_kmem_range (drivers/dax/kmem.c): whole memory blocks;
    empty where the range holds none.
    """
    per = k.memory_blocks.pages
    return -(-start // per) * per, end // per * per


def kmem_ranges(k: Kernel, device: DevDax) -> list[Range]:
    """The whole memory blocks of each range of a device, empty ones included."""
    aligned = [memory_block_aligned_range(k, start, end) for start, end in device.ranges]
    return [(start, max(start, end)) for start, end in aligned]


def kmem_block(k: Kernel, device: DevDax, index: int) -> int:
    """Number of the index-th whole memory block of a device's ranges, -1 if it has no such block."""
    per = k.memory_blocks.pages
    for start, end in kmem_ranges(k, device):
        n = (end - start) // per
        if index < n:
            return start // per + index
        index -= n
    return -1


def dax_kmem_init_resources(k: Kernel, device: DevDax, data: KmemData) -> int:
    """dax_kmem_init_resources (drivers/dax/kmem.c, 7.3): how many ranges were reserved, or -EBUSY if the first that
    can be used is busy.
    """
    mapped = 0
    for i, (start, end) in enumerate(kmem_ranges(k, device)):
        if start == end or data.res[i]:
            continue
        if request_region(k, start, end, KMEM):
            data.res[i] = True
            mapped += 1
        elif not mapped:
            return -EBUSY
    return mapped


def dax_kmem_do_hotplug(k: Kernel, device: DevDax, data: KmemData, online_type: OnlineType) -> int:
    """dax_kmem_do_hotplug (drivers/dax/kmem.c, 7.3): how many ranges were added; an errno if the first one failed."""
    added = 0
    for i, (start, end) in enumerate(kmem_ranges(k, device)):
        if not data.res[i]:
            continue
        rc = add_memory_driver_managed(k, device.nid, start, end - start, device.memmap_on_memory, online_type)
        if not rc:
            added += 1
            continue
        _remove_resource(k, device, data, i)
        if not added:
            return rc
    return added


def dax_kmem_do_hotremove(k: Kernel, device: DevDax, data: KmemData) -> int:
    """dax_kmem_do_hotremove (drivers/dax/kmem.c, 7.3): all ranges go, or none and an errno."""
    ranges = [r for i, r in enumerate(kmem_ranges(k, device)) if data.res[i]]
    if not ranges:
        return 0
    rc = offline_and_remove_memory_ranges(k, [(start, end - start) for start, end in ranges])
    if not rc:
        _remove_resources(k, device, data)
    return rc


def _remove_resource(k: Kernel, device: DevDax, data: KmemData, i: int) -> None:
    release_region(k, *kmem_ranges(k, device)[i])
    data.res[i] = False


def _remove_resources(k: Kernel, device: DevDax, data: KmemData) -> None:
    """dax_kmem_cleanup_resources (drivers/dax/kmem.c, 7.3). Left out: the warning about memory that is still plugged,
    since nobody calls it then."""
    for i, reserved in enumerate(data.res):
        if reserved:
            _remove_resource(k, device, data, i)


def dev_dax_kmem_probe(k: Kernel, device: DevDax) -> int:
    """dev_dax_kmem_probe (drivers/dax/kmem.c, 7.3); 0 or an errno. Left out: memory tiers."""
    if all(start == end for start, end in kmem_ranges(k, device)):
        return -EINVAL
    data = KmemData(len(device.ranges))
    rc = dax_kmem_init_resources(k, device, data)
    if rc < 0:
        return rc
    online_type = k.machine.memhp_default_state
    rc = dax_kmem_do_hotplug(k, device, data, online_type)
    if rc < 0:
        _remove_resources(k, device, data)
        return rc
    data.state = online_type
    device.kmem = data
    return 0


def dev_dax_kmem_remove(k: Kernel, device: DevDax) -> None:
    """dev_dax_kmem_remove, dax_kmem_remove_ranges (drivers/dax/kmem.c, 7.3): never offlines; a range that cannot be
    removed stays, with its reservation, until reboot.
    """
    data, device.kmem = device.kmem, None
    if data is None:
        return
    for i, (start, end) in enumerate(kmem_ranges(k, device)):
        if data.res[i] and not remove_memory(k, start, end - start):
            _remove_resource(k, device, data, i)


def state_store(k: Kernel, device: DevDax, state: KmemState) -> int:
    """state_store (drivers/dax/kmem.c, 7.3) of the attribute that a device has while kmem is bound; 0 or an errno."""
    data = device.kmem
    if data is None:
        return -ENOENT
    if state == "offline":
        return -EINVAL
    if data.state == state:
        return 0
    if state == "unplugged":
        rc = dax_kmem_do_hotremove(k, device, data)
        if not rc:
            data.state = state
        return rc
    if data.state != "unplugged":
        return -EBUSY
    rc = dax_kmem_init_resources(k, device, data)
    if rc < 0:
        return rc
    rc = dax_kmem_do_hotplug(k, device, data, state)
    if rc < 0:
        _remove_resources(k, device, data)
        return rc
    data.state = state
    return 0
