"""From a program's machine to an emulated one.

The model's RAM is the guest's RAM, at the same addresses. Behind it lies the *region*: more RAM, which the kernel
command line turns into soft-reserved memory, so that the dax_hmem driver offers it for devices and for hot-plugging at
addresses of one's choice. Behind the region lie a few *namespaces*: RAM that the command line declares persistent
(`memmap=SIZE!START`), for devices that keep their memory map in themselves (altmap=on). On a machine with RAM below 4G
only, firmware keeps its tables at the end of RAM; the last 128M are therefore hidden from the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from fuzz.program.arguments import format_size
from fuzz.program.model import Op, Program
from fuzz.program.operations import BEFORE_BOOT, OPERATIONS
from mm.arch import X86_64
from mm.boot import free_area_init
from mm.hugetlb_cma import cmdline_parse_hugetlb_cma, hugetlb_cma_reserve
from mm.kernel import Kernel
from mm.machine import Machine
from reference.paths import SeparatePaths

LOW_RAM_LIMIT, LOW_RAM, HIGH_RAM_START = X86_64.ram[1:]

M = 1 << 20
SECTION = 128 * M
TAIL = SECTION
RAM_ALIGNMENT = 64 * M
GIGANTIC = 1 << 30
REGION = 3 << 30
"""Bytes of the region, where nothing limits it."""
NAMESPACES_LOW = (194 * M, 190 * M)
"""Sizes of the namespaces of a machine whose RAM ends below 4G; the two share a section."""
NAMESPACES_HIGH = (3 << 30, 194 * M, 62 * M, 130 * M, 14 * M)
"""The same of a larger machine. The first one begins at a multiple of 1G, so that devices with 1G pages fit."""
LEAST_REGION = 1 << 30
"""A low machine has namespaces if they leave this much to the region."""
MOST = 24 << 30
"""The largest machine that is emulated."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the emulator gets for a machine."""

    nodes: tuple[int, ...]
    """Bytes of RAM of each node, region included."""
    region: tuple[int, int]
    """Address and size."""
    append: str
    namespaces: tuple[tuple[int, int], ...] = ()
    """Address and size of each."""


def unsupported(machine: Machine) -> str | None:
    """Why a machine cannot be emulated here, or None."""
    if machine.arch != "x86_64":
        return f"no emulator for {machine.arch}"
    if machine.interleave or machine.hole:
        return "memory with holes or interleaved nodes needs firmware tables of its own"
    if machine.ram > MOST:
        return f"machines of more than {MOST >> 30}G are not emulated"
    if machine.ram < 1 << 30:
        return "the kernel and its tools need 1G"
    if machine.ram < LOW_RAM_LIMIT and _region_below(region_start(machine.ram)) < 2 * M:
        return "there is no room for a region below 2816M"
    if machine.memhp_default_state != "offline":
        return "blocks are onlined one by one"
    if not machine.deferred_init:
        return "deferred struct page initialisation is a configuration of the kernel, not a parameter"
    return None


def _region_below(start: int) -> int:
    return (LOW_RAM_LIMIT - 2 * M - TAIL - start) // SECTION * SECTION


def region_start(ram_end: int) -> int:
    """Where the region can begin: the kernel keeps what follows RAM, up to a multiple of 64M, busy as "RAM buffer"
    (arch/x86/kernel/e820.c).
    """
    return -(-ram_end // RAM_ALIGNMENT) * RAM_ALIGNMENT


def layout(machine: Machine, reserves: tuple[Op, ...] = ()) -> Layout:
    """The emulated machine for `machine` booted with `reserves`."""
    append = [f"hugetlb_free_vmemmap={'on' if machine.hugetlb_free_vmemmap else 'off'}"]
    if machine.memmap_on_memory != "off":
        append.append(f"memory_hotplug.memmap_on_memory={machine.memmap_on_memory.replace('on', 'Y')}")
    if machine.ram < LOW_RAM_LIMIT:
        end = machine.ram
        start = region_start(end)
        size = _region_below(start)
        total = start + size + TAIL
        append.append(f"memmap={TAIL // M}M${hex(start + size)}")
        sizes = NAMESPACES_LOW if size - sum(NAMESPACES_LOW) >= LEAST_REGION else ()
        size -= sum(sizes)
        namespaces = _in_a_row(start + size, sizes)
    else:
        end = HIGH_RAM_START + machine.ram - LOW_RAM
        start, size = region_start(end), REGION
        namespaces = _in_a_row(-(-(start + size) // GIGANTIC) * GIGANTIC, NAMESPACES_HIGH)
        total = machine.ram + sum(namespaces[-1]) - end
    if start > end:
        append.append(f"memmap={(start - end) // M}M${hex(end)}")
    append.append(f"memmap={hex(size)}%{hex(start)}-1+0xefffffff")
    append += [f"memmap={hex(length)}!{hex(at)}" for at, length in namespaces]
    append += reserved(reserves)
    share = machine.ram // machine.nodes // (2 * M) * (2 * M)
    nodes = (share,) * (machine.nodes - 1)
    return Layout((*nodes, total - sum(nodes)), (start, size), " ".join(append), namespaces)


def _in_a_row(at: int, sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((at + sum(sizes[:i]), size) for i, size in enumerate(sizes))


def boot_ops(program: Program) -> tuple[Op, ...]:
    """What a program says before its boot."""
    return tuple(op for op in program.ops if OPERATIONS[op.name].when == BEFORE_BOOT)


def reserves_unsupported(reserves: tuple[Op, ...]) -> str | None:
    """Why the command line cannot say these reserves, or None: one request for a size, or one for each node."""
    pages = [op for op in reserves if op.name == "reserve"]
    for size in {op.args["size"] for op in pages}:
        nodes = [op.args["node"] for op in pages if op.args["size"] == size]
        if len(nodes) > 1 and None in nodes:
            return "hugepages= takes either one number or one for each node"
        if len(nodes) != len(set(nodes)):
            return "hugepages= takes one number for a node"
    return None


def areas_unsupported(machine: Machine, reserves: tuple[Op, ...]) -> str | None:
    """Why the guest would not have the model's CMA areas, or None: what is below 4G or at the end of RAM is in use when
    they are set aside (firmware, initramfs, page tables), and firmware leaves it less memory to take a share of.
    """
    if any(op.name == "reserve cma" and op.args["percent"] for op in reserves):
        return "a CMA area that is a share of memory"
    k = Kernel(machine, SeparatePaths)
    for op in reserves:
        if op.name == "reserve cma":
            cmdline_parse_hugetlb_cma(k, op.args["size"], op.args["node"], op.args["only"])
    if not k.hugetlb_cma.size and not any(k.hugetlb_cma.size_in_node):
        return None
    free_area_init(k)
    hugetlb_cma_reserve(k)
    last = machine.ram_ranges()[-1][2] - GIGANTIC // k.arch.page
    ranges = [cmr for cma in k.cma.areas for cmr in cma.ranges]
    if all(cmr.base_pfn * k.arch.page >= HIGH_RAM_START and cmr.end_pfn <= last for cmr in ranges):
        return None
    return "a CMA area below 4G or in the last gigabyte"


def why_not(program: Program) -> str | None:
    """Why a program's machine cannot be emulated, or None."""
    reserves = boot_ops(program)
    return (
        unsupported(program.machine) or reserves_unsupported(reserves) or areas_unsupported(program.machine, reserves)
    )


def reserved(reserves: tuple[Op, ...]) -> list[str]:
    """The reserves as kernel parameters."""
    out = []
    for op in reserves:
        if op.name == "reserve cma":
            node = "" if op.args["node"] is None else f"{op.args['node']}:"
            out.append(f"hugetlb_cma={node}{format_size(op.args['size'])}")
            if op.args["only"]:
                out.append("hugetlb_cma_only=on")
    for size, name in ((1 << 30, "1G"), (2 * M, "2M")):
        wanted = [op.args for op in reserves if op.name == "reserve" and op.args["size"] == size]
        if not wanted:
            continue
        if wanted[0]["node"] is None:
            counts = str(wanted[0]["count"])
        else:
            counts = ",".join(f"{args['node']}:{args['count']}" for args in wanted)
        out.append(f"hugepagesz={name} hugepages={counts}")
    return out
