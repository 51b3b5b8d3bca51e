"""A program as a shell script for a real machine: sysfs, the dax bus and ndctl; what cannot be done says why.

The paths are those of Documentation/ABI (sysfs-kernel-mm-hugepages, sysfs-devices-memory, sysfs-bus-dax) of Linux 7.3.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any, Final

from fuzz.program.arguments import format_size
from fuzz.program.model import Op, Program
from fuzz.program.real import WITHOUT_INTERFACE
from fuzz.program.text import format_op

HUGEPAGES: Final = "/sys/kernel/mm/hugepages/hugepages-{kb}kB"
NODE: Final = "/sys/devices/system/node/node{node}/hugepages/hugepages-{kb}kB"
MEMORY: Final = "/sys/devices/system/memory"
DAX: Final = "/sys/bus/dax/devices"
DRIVERS: Final = {"devdax": "device_dax", "kmem": "kmem", "fsdev": "fsdev_dax", "none": ""}
"""Drivers of the language by their names on the dax bus (drivers/dax/Makefile, KBUILD_MODNAME)."""
ONLINE: Final = {"movable": "online_movable", "kernel": "online_kernel", "default": "online"}

HEAD: Final = f"""#!/bin/sh
# As root, on a machine with the memory, nodes and devices that the program names. Addresses are the program's: change
# them to those of your machine. Lines that begin with "# not done" say what a shell cannot do.
block_size=$((0x$(cat {MEMORY}/block_size_bytes)))
# Number of the memory block that is the $1-th (from 0) whole one of the ranges ADDRESS SIZE ...
nth_block() {{
    n=$1; shift
    while [ $# -gt 1 ]; do
        first=$((($1 + block_size - 1) / block_size)) last=$((($1 + $2) / block_size))
        if [ $((first + n)) -lt $last ]; then echo $((first + n)); return; fi
        if [ $last -gt $first ]; then n=$((n - last + first)); fi
        shift 2
    done
    return 1
}}
set -x
"""


class _Script:
    """Lines, and what handles stand for."""

    def __init__(self, program: Program) -> None:
        ram = program.machine.ram_ranges()
        page = program.machine.page
        self.page = page
        self.ranges: dict[str, list[tuple[int, int]]] = {
            f"ram{i}": [(lo * page, (hi - lo) * page)] for i, (_, lo, hi) in enumerate(ram)
        }
        """Address and size in bytes, by handle."""
        self.namespaces: set[str] = set()
        """Devices that are made of a namespace."""

    def lines(self, op: Op) -> Iterator[str]:
        """Commands for one operation."""
        if op.name in WITHOUT_INTERFACE:
            yield f"# not done: {WITHOUT_INTERFACE[op.name]}"
            return
        if op.name == "hugetlb unmap" and not op.args["flush"]:
            yield f"# flush=off is not done: {WITHOUT_INTERFACE['hugetlb flush']}"
        yield from _COMMANDS[op.name](self, op.args, op.result or "handle")


def to_shell(program: Program) -> str:
    """The script."""
    script = _Script(program)
    lines = [HEAD.rstrip()]
    for op in program.ops:
        lines.append(f"# {format_op(op)}")
        lines += script.lines(op)
    return "\n".join(lines) + "\n"


Args = dict[str, Any]


def _write(value: object, path: str) -> str:
    return f"echo {value} > {shlex.quote(path)}"


def _pool(file: str, value: str) -> Callable[[_Script, Args, str], list[str]]:
    def command(script: _Script, args: Args, result: str) -> list[str]:
        node, kb = args.get("node"), args["size"] >> 10
        folder = HUGEPAGES.format(kb=kb) if node is None else NODE.format(node=node, kb=kb)
        return [_write(args[value], f"{folder}/{file}")]

    return command


def _reserve(script: _Script, args: Args, result: str) -> list[str]:
    node = "" if args["node"] is None else f"{args['node']}:"
    return [f"# kernel command line: hugepagesz={format_size(args['size'])} hugepages={node}{args['count']}"]


def _cma(script: _Script, args: Args, result: str) -> list[str]:
    node = "" if args["node"] is None else f"{args['node']}:"
    only = " hugetlb_cma_only=on" if args["only"] else ""
    size = f"{args['percent']}%" if args["percent"] else format_size(args["size"])
    return [f"# kernel command line: hugetlb_cma={node}{size}{only}"]


def _map(script: _Script, args: Args, result: str) -> list[str]:
    size = format_size(args["size"])
    bind = "" if args["node"] is None else f"numactl --membind={args['node']} "
    return [
        f"mkdir -p /mnt/{result} && mount -t hugetlbfs -o pagesize={size} none /mnt/{result}",
        f"{bind}fallocate -l $(({args['size']} * {args['count']})) /mnt/{result}/pages",
    ]


def _unmap(script: _Script, args: Args, result: str) -> list[str]:
    return [f"rm -f /mnt/{args['u']}/pages; umount /mnt/{args['u']}"]


def _dissolve(script: _Script, args: Args, result: str) -> list[str]:
    return [
        "# Soft offline dissolves the huge page, and takes the one page out of use; that is undone.",
        *_page("soft_offline_page")(script, args, result),
        *_unpoison(script, args, result),
    ]


def _unpoison(script: _Script, args: Args, result: str) -> list[str]:
    return ["modprobe hwpoison-inject", _write(args["at"] // script.page, "/sys/kernel/debug/hwpoison/unpoison-pfn")]


def _page(file: str) -> Callable[[_Script, Args, str], list[str]]:
    return lambda script, args, result: [_write(f"{args['at']:#x}", f"{MEMORY}/{file}")]


def _add(script: _Script, args: Args, result: str) -> list[str]:
    at, size = args["at"], args["size"]
    script.ranges[result] = [(at, size)]
    lines = [
        "# Needs CONFIG_ARCH_MEMORY_PROBE; the node is the one that the firmware names for the address.",
        "# Memory of a CXL or PMEM device: daxctl reconfigure-device --mode=system-ram --no-online DEVICE",
    ]
    if args["memmap_on_memory"]:
        lines.append("# memmap_on_memory=on is not done: probe adds without it; a dax device has an attribute for it")
    loop = f"for at in $(seq {at} $block_size {at + size - 1 if size else at}); do"
    return [*lines, f'{loop} printf "%#x" $at > {MEMORY}/probe; done']


def _remove(script: _Script, args: Args, result: str) -> list[str]:
    return ["# not done: only the driver that added memory removes it (for kmem: daxN.M/driver/unbind)"]


def _block(words: str, handle: str, at_zone: bool) -> Callable[[_Script, Args, str], list[str]]:
    def command(script: _Script, args: Args, result: str) -> list[str]:
        known = script.ranges.get(args[handle])
        if known is None:
            return [f"# not done: {args[handle]} was not made"]
        ranges = " ".join(f"{at:#x} {size:#x}" for at, size in known)
        state = ONLINE[args["zone"]] if at_zone else words
        return [f"echo {state} > {MEMORY}/memory$(nth_block {args['block']} {ranges})/state"]

    return command


def _create(script: _Script, args: Args, result: str) -> list[str]:
    ranges = list(zip(args["at"], args["size"], strict=True))
    script.ranges[result] = ranges
    driver = DRIVERS[args["driver"]]
    if args["altmap"]:
        if len(ranges) > 1 or args["driver"] != "devdax":
            return ["# not done: a map in the device itself needs a namespace, which is one range under device_dax"]
        script.namespaces.add(result)
        size, align = format_size(ranges[0][1]), format_size(args["align"])
        return [
            f"# The namespace comes to lie where its region has room, not necessarily at {ranges[0][0]:#x}.",
            f"{result}=$(ndctl create-namespace --mode=devdax --size={size} --align={align} --map=dev |",
            """    sed -n 's/.*"dev":"\\(namespace[^"]*\\)".*/\\1/p')""",
        ]
    return [
        f"# Before: {result}=daxN.M, an idle device (size 0) of the region that holds the address; `daxctl list -Ri`.",
        f"echo {args['align']} > {DAX}/${result}/align",
        *(f"echo {at:x}-{at + size - 1:x} > {DAX}/${result}/mapping" for at, size in ranges),
        *([f"echo ${result} > /sys/bus/dax/drivers/{driver}/bind"] if driver else []),
    ]


def _destroy(script: _Script, args: Args, result: str) -> list[str]:
    name = args["d"]
    if name in script.namespaces:
        return [f"ndctl destroy-namespace --force ${name}"]
    return [f"echo ${name} > {DAX}/${name}/driver/unbind", f"echo 0 > {DAX}/${name}/size"]


def _rebind(script: _Script, args: Args, result: str) -> list[str]:
    name, driver = args["d"], DRIVERS[args["driver"]]
    if name in script.namespaces:
        return ["# not done: a namespace has the driver that it was made with"]
    bind = [f"echo ${name} > /sys/bus/dax/drivers/{driver}/bind"] if driver else []
    return [f"echo ${name} > {DAX}/${name}/driver/unbind", *bind]


def _attribute(file: str, value: Callable[[Args], object]) -> Callable[[_Script, Args, str], list[str]]:
    return lambda script, args, result: [f"echo {value(args)} > {DAX}/${args['d']}/{file}"]


def _fail(script: _Script, args: Args, result: str) -> list[str]:
    return ["# not done: fail_page_alloc counts the allocations of a task; which of them is the model's is not known"]


_COMMANDS: Final[dict[str, Callable[[_Script, Args, str], list[str]]]] = {
    "reserve": _reserve,
    "reserve cma": _cma,
    "boot": lambda script, args, result: ["uname -r"],
    "hugetlb resize": _pool("nr_hugepages", "to"),
    "hugetlb overcommit": _pool("nr_overcommit_hugepages", "to"),
    "hugetlb demote": _pool("demote", "count"),
    "hugetlb map": _map,
    "hugetlb unmap": _unmap,
    "hugetlb dissolve": _dissolve,
    "sysctl": lambda script, args, result: [
        f"sysctl vm.hugetlb_optimize_vmemmap={int(args['hugetlb_optimize_vmemmap'])}"
    ],
    "memory add": _add,
    "memory online": _block("", "m", True),
    "memory offline": _block("offline", "m", False),
    "memory remove": _remove,
    "memory hard_offline": _page("hard_offline_page"),
    "memory soft_offline": _page("soft_offline_page"),
    "memory unpoison": _unpoison,
    "dax create": _create,
    "dax destroy": _destroy,
    "dax rebind": _rebind,
    "dax set": _attribute("memmap_on_memory", lambda args: int(args["memmap_on_memory"])),
    "dax state": _attribute("state", lambda args: args["state"]),
    "dax online": _block("", "d", True),
    "dax offline": _block("offline", "d", False),
    "fail alloc": _fail,
}
"""Every operation that is not in WITHOUT_INTERFACE."""
