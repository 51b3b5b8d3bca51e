"""One kernel, and what the operations of the language do to it: each is one kernel entry point (docs/architecture.md).

A kernel that hits BUG, a panic or a fault does not end the fuzzer: the operation's outcome is then a string instead of
a number. So it is with any other exception out of a model, which is a mistake of ours.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from fuzz.oracle.effects.common import SideLike
from fuzz.oracle.finding import Outcome
from fuzz.program.model import Op
from mm.arch import Arch
from mm.boot import boot
from mm.contig import pages_contig
from mm.dax import create_dev_dax, dax_bus_probe, dax_bus_remove, memmap_on_memory_store, unregister_dev_dax
from mm.dev_dax import DevDax
from mm.errno import EINVAL, ENODEV
from mm.folio import Folio
from mm.hugetlb import dissolve_free_hugetlb_folio, free_hpage_workfn, hugetlb_map, hugetlb_unmap
from mm.hugetlb_cma import cmdline_parse_hugetlb_cma
from mm.hugetlb_cmdline import hugepages_setup
from mm.hugetlb_sysfs import demote_store, nr_hugepages_store, nr_overcommit_hugepages_store
from mm.kernel import Kernel
from mm.kmem import kmem_block, state_store
from mm.machine import Machine, OnlineType
from mm.memory_failure import memory_failure, soft_offline_page, unpoison_memory
from mm.memory_hotplug import (
    add_memory,
    memory_block_offline,
    memory_block_online,
    offline_and_remove_memory_ranges,
    remove_memory,
)
from mm.page_alloc import Extents, KernelBug, pages_alloc, pages_free
from mm.virtio_mem import virtio_mem_sbm_plug, virtio_mem_sbm_unplug
from mm.vmemmap import VmemmapPaths

Args = dict[str, Any]
MakePaths = Callable[[Kernel], VmemmapPaths]

ONLINE_TYPES: Final[dict[str, OnlineType]] = {
    "kernel": "online_kernel",
    "movable": "online_movable",
    "default": "online",
}
"""What `zone=` of the language writes into memoryN/state."""


class MemoryRange(NamedTuple):
    """What a handle of kind `m` stands for."""

    start_pfn: int
    nr: int

    def block(self, arch: Arch, index: int) -> int:
        """Number of the index-th memory block that the range touches, -1 if it has no such block."""
        per = 1 << (arch.memory_block_shift - arch.page_shift)
        first, last = self.start_pfn // per, -(-(self.start_pfn + self.nr) // per)
        return first + index if index < last - first else -1


class Side(SideLike):
    """One kernel and what the program's handles mean in it."""

    __slots__ = ()

    def __init__(self, machine: Machine, make_paths: MakePaths) -> None:
        ranges = enumerate(machine.ram_ranges())
        handles = {f"ram{i}": MemoryRange(start, end - start) for i, (_, start, end) in ranges}
        super().__init__(Kernel(machine, make_paths), handles)

    def pfns(self, at: int, size: int) -> tuple[int, int] | None:
        """(first pfn, pages) of a range in bytes, None when it is not whole pages."""
        if (at | size) & ((1 << self.page_shift) - 1):
            return None
        return at >> self.page_shift, size >> self.page_shift

    def run(self, op: Op) -> Outcome:
        """Do the operation: what the kernel returns, or how it died."""
        kernel = self.kernel
        if kernel.log:
            kernel.log.clear()
        args = op.args
        nid = args.get("node")
        if nid is not None and nid >= len(kernel.nodes):
            return -EINVAL
        if op.name != "fail alloc":
            kernel.faults.begin()
        try:
            return ENTRIES[op.name](self, args, op.result)
        except KernelBug as bug:
            return f"bug: {bug}"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            folder, _, name = where.filename.replace("\\", "/").rpartition("/")
            return f"crash: {type(error).__name__}: {error} ({folder.rpartition('/')[2]}/{name}:{where.lineno})"


# -- one function an operation --------------------------------------------------------------------------------------


def _reserve(side: Side, args: Args, result: str | None) -> int:
    return hugepages_setup(side.kernel, side.order(args["size"]), args["count"], args["node"])


def _reserve_cma(side: Side, args: Args, result: str | None) -> int:
    return cmdline_parse_hugetlb_cma(side.kernel, args["size"], args["node"], args["only"], args["percent"])


def _boot(side: Side, args: Args, result: str | None) -> int:
    return boot(side.kernel)


def _resize(side: Side, args: Args, result: str | None) -> int:
    return nr_hugepages_store(side.kernel, side.order(args["size"]), args["to"], args["node"])


def _overcommit(side: Side, args: Args, result: str | None) -> int:
    return nr_overcommit_hugepages_store(side.kernel, side.order(args["size"]), args["to"])


def _demote(side: Side, args: Args, result: str | None) -> int:
    return demote_store(side.kernel, side.order(args["size"]), args["count"], args["node"])


def _map(side: Side, args: Args, result: str | None) -> int:
    order = side.order(args["size"])
    mapped: list[Folio] = []
    rc = hugetlb_map(side.kernel, order, args["count"], args["node"], mapped)
    if rc == 0 and result:
        side.handles[result] = order, mapped
    return rc


def _unmap(side: Side, args: Args, result: str | None) -> int:
    mapping = side.handles.pop(args["u"], None)
    if mapping is None:
        return -ENODEV
    order, mapped = mapping
    return hugetlb_unmap(side.kernel, order, mapped, args["flush"])


def _flush(side: Side, args: Args, result: str | None) -> int:
    free_hpage_workfn(side.kernel)
    return 0


def _dissolve(side: Side, args: Args, result: str | None) -> int:
    return dissolve_free_hugetlb_folio(side.kernel, args["at"] >> side.page_shift)


def _sysctl(side: Side, args: Args, result: str | None) -> int:
    return side.kernel.paths.hugetlb_optimize_vmemmap_sysctl(args["hugetlb_optimize_vmemmap"])


def _memory_add(side: Side, args: Args, result: str | None) -> int:
    pfns = side.pfns(args["at"], args["size"])
    if pfns is None:
        return -EINVAL
    rc = add_memory(side.kernel, args["node"], *pfns, args["memmap_on_memory"])
    if rc == 0 and result:
        side.handles[result] = MemoryRange(*pfns)
    return rc


def _block(side: Side, args: Args) -> int:
    """The block device that m and block= name, -1 if there is none."""
    memory: MemoryRange | None = side.handles.get(args["m"])
    if memory is None:
        return -1
    block = memory.block(side.kernel.arch, args["block"])
    return block if block >= 0 and side.kernel.memory_blocks.zone.get(block) is not None else -1


def _memory_online(side: Side, args: Args, result: str | None) -> int:
    block = _block(side, args)
    return -ENODEV if block < 0 else memory_block_online(side.kernel, block, ONLINE_TYPES[args["zone"]])


def _memory_offline(side: Side, args: Args, result: str | None) -> int:
    block = _block(side, args)
    return -ENODEV if block < 0 else memory_block_offline(side.kernel, block)


def _memory_remove(side: Side, args: Args, result: str | None) -> int:
    memory = side.handles.get(args["m"])
    if memory is None:
        return -ENODEV
    rc = remove_memory(side.kernel, *memory)
    if rc == 0:
        del side.handles[args["m"]]
    return rc


def _subblock_unplug(side: Side, args: Args, result: str | None) -> int:
    block = _block(side, args)
    return -ENODEV if block < 0 else virtio_mem_sbm_unplug(side.kernel, block, args["first"], args["count"])


def _subblock_plug(side: Side, args: Args, result: str | None) -> int:
    block = _block(side, args)
    return -ENODEV if block < 0 else virtio_mem_sbm_plug(side.kernel, block, args["first"], args["count"])


def _hard_offline(side: Side, args: Args, result: str | None) -> int:
    return memory_failure(side.kernel, args["at"] >> side.page_shift)


def _soft_offline(side: Side, args: Args, result: str | None) -> int:
    return soft_offline_page(side.kernel, args["at"] >> side.page_shift)


def _unpoison(side: Side, args: Args, result: str | None) -> int:
    return unpoison_memory(side.kernel, args["at"] >> side.page_shift)


def _memory_unplug(side: Side, args: Args, result: str | None) -> int:
    memory = side.handles.get(args["m"])
    if memory is None:
        return -ENODEV
    rc = offline_and_remove_memory_ranges(side.kernel, [memory])
    if rc == 0:
        del side.handles[args["m"]]
    return rc


def _dax_create(side: Side, args: Args, result: str | None) -> int:
    ranges = []
    for at, size in zip(args["at"], args["size"], strict=True):
        pfns = side.pfns(at, size)
        if pfns is None:
            return -EINVAL
        ranges.append((pfns[0], pfns[0] + pfns[1]))
    made = create_dev_dax(side.kernel, ranges, args["align"], args["altmap"], args["node"], args["driver"])
    if isinstance(made, int):
        return made
    if result:
        side.handles[result] = made
    return 0


def _dax_destroy(side: Side, args: Args, result: str | None) -> int:
    device = side.handles.pop(args["d"], None)
    if device is None:
        return -ENODEV
    unregister_dev_dax(side.kernel, device)
    return 0


def _dax_rebind(side: Side, args: Args, result: str | None) -> int:
    device = side.handles.get(args["d"])
    if device is None:
        return -ENODEV
    dax_bus_remove(side.kernel, device)
    return dax_bus_probe(side.kernel, device, args["driver"])


def _dax_set(side: Side, args: Args, result: str | None) -> int:
    device = side.handles.get(args["d"])
    return -ENODEV if device is None else memmap_on_memory_store(side.kernel, device, args["memmap_on_memory"])


def _dax_state(side: Side, args: Args, result: str | None) -> int:
    device = side.handles.get(args["d"])
    return -ENODEV if device is None else state_store(side.kernel, device, args["state"])


def _device_block(side: Side, args: Args) -> int:
    """The block device that d and block= name, -1 if there is none."""
    device: DevDax | None = side.handles.get(args["d"])
    block = -1 if device is None else kmem_block(side.kernel, device, args["block"])
    return block if side.kernel.memory_blocks.zone.get(block) is not None else -1


def _dax_online(side: Side, args: Args, result: str | None) -> int:
    block = _device_block(side, args)
    return -ENODEV if block < 0 else memory_block_online(side.kernel, block, ONLINE_TYPES[args["zone"]])


def _dax_offline(side: Side, args: Args, result: str | None) -> int:
    block = _device_block(side, args)
    return -ENODEV if block < 0 else memory_block_offline(side.kernel, block)


def _pages_alloc(side: Side, args: Args, result: str | None) -> int:
    got = pages_alloc(side.kernel, args["node"], args["count"], args["movable"])
    if isinstance(got, int):
        return got
    if result:
        side.handles[result] = got
    return 0


def _pages_contig(side: Side, args: Args, result: str | None) -> int:
    pfns = side.pfns(args["at"], args["size"])
    if pfns is None:
        return -EINVAL
    got = pages_contig(side.kernel, pfns[0], pfns[0] + pfns[1])
    if isinstance(got, int):
        return got
    if result:
        side.handles[result] = got
    return 0


def _pages_free(side: Side, args: Args, result: str | None) -> int:
    extents: Extents | None = side.handles.pop(args["p"], None)
    if extents is None:
        return -ENODEV
    pages_free(side.kernel, extents)
    return 0


def _fail_alloc(side: Side, args: Args, result: str | None) -> int:
    side.kernel.faults.nth, side.kernel.faults.times = args["nth"], args["times"]
    return 0


ENTRIES: Final[dict[str, Callable[[Side, Args, str | None], int]]] = {
    "reserve": _reserve,
    "reserve cma": _reserve_cma,
    "boot": _boot,
    "hugetlb resize": _resize,
    "hugetlb overcommit": _overcommit,
    "hugetlb demote": _demote,
    "hugetlb map": _map,
    "hugetlb unmap": _unmap,
    "hugetlb flush": _flush,
    "hugetlb dissolve": _dissolve,
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
    "pages contig": _pages_contig,
    "pages alloc": _pages_alloc,
    "pages free": _pages_free,
    "fail alloc": _fail_alloc,
}
"""What each operation of the language does to a side."""
