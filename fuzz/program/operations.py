"""The registry of operations: the one place that says what a program can contain.

Parser, formatter, byte codec, mutation, strategies, command-line help and the table in docs/language.md derive from
`OPERATIONS` and `MACHINE`. A new operation is one entry here; an interpreter for it is the models' matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fuzz.program.arguments import LIMIT, Argument, G, K, M, T, Type, format_value
from mm.arch import ARCHES

VERSION: Final = 1
"""The language version this package reads and writes."""

MEMORY, DAX, MAPPING, PAGES = "m", "d", "u", "p"
"""Letters of the handle kinds; boot RAM (`ram0`, `ram1`, ...) is of kind MEMORY."""

KINDS: Final = {MEMORY: "memory range", DAX: "DAX device", MAPPING: "huge page mapping", PAGES: "page allocation"}

BEFORE_BOOT, BOOT, AFTER_BOOT = "before boot", "boot", "after boot"
"""When an operation may appear; the only one of BOOT has that name."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its words, its arguments, and what it does to handles."""

    name: str
    help: str
    entry: str
    """The kernel entry that it stands for, as docs/language.md prints it."""
    arguments: tuple[Argument, ...] = ()
    makes: str | None = None
    """The kind of handle it makes."""
    ends: bool = False
    """Whether the handle it takes is gone afterwards, whatever the kernel answers."""
    returns: str = "0 or errno"
    when: str = AFTER_BOOT

    @property
    def handle(self) -> Argument | None:
        """The handle argument, always the first one."""
        return self.arguments[0] if self.arguments and self.arguments[0].type is Type.HANDLE else None

    def usage(self) -> str:
        """The operation as a line to write, optional arguments in brackets."""
        words = [f"{self.makes} = {self.name}" if self.makes else self.name]
        for argument in self.arguments:
            if argument.type is Type.HANDLE:
                words.append(argument.name)
                continue
            text = f"{argument.name}={_values(argument, '|')}"
            words.append(text if argument.required else f"[{text}]")
        return " ".join(words)

    def row(self) -> str:
        """The operation's row of the table in docs/language.md."""
        words = []
        for argument in self.arguments:
            if argument.type is Type.HANDLE:
                words.append(argument.name)
                continue
            text = f"{argument.name}={_values(argument, ',')}"
            if argument.default is None:
                text += f" (none: {argument.absent})"
            elif not argument.required:
                text += f" ({format_value(argument, argument.default)})"
            words.append(text)
        name = f"{self.makes} = {self.name}" if self.makes else self.name
        result = self.returns
        if self.makes:
            result += f"; makes {self.makes}"
        if self.ends and self.handle:
            result += f"; ends {self.handle.name}"
        if self.when == BEFORE_BOOT:
            result += "; before boot only"
        cells = f"`{name}`", " ".join(words), result, self.entry.replace("|", r"\|")
        return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _values(argument: Argument, separator: str) -> str:
    if argument.type is Type.BOOL:
        return f"on{separator}off"
    if argument.choices:
        return separator.join(format_value(argument, choice) for choice in argument.choices)
    return argument.placeholder


def _size(name: str = "size", *choices: int, default: int | None = None) -> Argument:
    if default is None:
        return Argument(name, Type.SIZE, choices=choices)
    return Argument(name, Type.SIZE, default, choices)


def _count(name: str, unit: str) -> Argument:
    return Argument(name, Type.COUNT, unit=unit, placeholder="N", menu=_COUNTS)


def _block() -> Argument:
    return Argument("block", Type.COUNT, unit="memory blocks", placeholder="I", menu=_BLOCKS)


def _subblock() -> Argument:
    return Argument("first", Type.COUNT, unit="subblocks", placeholder="J", menu=_BLOCKS)


def _any_node(absent: str) -> Argument:
    return Argument("node", Type.NODE, None, placeholder="K", absent=absent)


def _on_off(name: str, default: bool | None = False) -> Argument:
    return Argument(name, Type.BOOL) if default is None else Argument(name, Type.BOOL, default)


def _handle(kind: str) -> Argument:
    return Argument(kind, Type.HANDLE)


_COUNTS: Final = (
    *(1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 511, 512, 513, 1024),
    4096,  # a 16M block of order-0 pages; 8G of 2M pages
    *(32767, 32768, 32769),  # order-0 pages of one 128M section
    *(1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 53, LIMIT - 1),
)
_BLOCKS: Final = (0, 0, 0, 0, 1, 1, 2, 3, 15, 16, 31, 7)  # most ranges have few blocks, boot RAM has 16 below 4G
_FAULTS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 64, 512)
_TIMES: Final = (1, 1, 1, 2, 3, 8, 512)
_ADDED: Final = (*(128 * M, 256 * M, 1 * G, 128 * M, 256 * M, 512 * M, 384 * M, 2 * G, 16 * G), 64 * M, 2 * M, 1 * T, 0)
_DEVICES: Final = (  # around a subsection, a section, a 1G page
    *(128 * M, 256 * M, 1 * G, 2 * G, 512 * M, 384 * M, 64 * M, 2 * M, 4 * M, 16 * M),
    *(4 * K, 16 * G, 4 * G, 1 * T, 0),
)
PAGE_SIZES: Final = (2 * M, 1 * G, 1 * M, 16 * M, 32 * M, 512 * M, 2 * G)
"""Huge page sizes of all architectures; a machine without a size has no files for it."""
_PERCENTS: Final = (*(0,) * 9, 25, 50, 60, 100, 101)
_AREAS: Final = (1 * G, 2 * G, 1 * G, 3 * G, 4 * G, 512 * M, 16 * G, 0)
_DEMOTABLE: Final = (1 * G, 2 * G, 2 * M)
_ALIGNS: Final = (4 * K, 2 * M, 1 * G, 16 * K, 64 * K, 1 * M, 16 * M, 32 * M, 512 * M)
_CONTIGUOUS: Final = (2 * M, 4 * M, 2 * M, 8 * M, 32 * M, 128 * M, 4 * K, 64 * K, 6 * M, 1 * G, 0)
_NODE: Final = Argument("node", Type.NODE, 0, placeholder="K")
_AT: Final = Argument("at", Type.ADDRESS, placeholder="ADDR")
_ZONE: Final = Argument("zone", Type.CHOICE, "movable", ("kernel", "movable", "default"))
_STATES: Final = ("unplugged", "online", "online_kernel", "online_movable", "offline")
_ALONG: Final = "[,{0}…]"

_ENTRIES: Final = (
    Operation(
        "reserve",
        "Reserve huge pages on the kernel command line.",
        "hugepagesz= hugepages=; with nodes hugepages=0:2,1:3. One kind a size, the second is ignored (-EINVAL)",
        (_size("size", *PAGE_SIZES), _count("count", "huge pages"), _any_node("round robin")),
        returns="0 (what was obtained shows in the pool after boot)",
        when=BEFORE_BOOT,
    ),
    Operation(
        "reserve cma",
        "Set memory aside on the kernel command line for gigantic pages; movable pages may use it meanwhile.",
        "hugetlb_cma=SIZE, or N% if `percent` is not 0; with a node hugetlb_cma=K:SIZE, one size a node or one for "
        "all, the last kind counts; `only=on`: hugetlb_cma_only=on",
        (
            Argument("size", Type.SIZE, 0, placeholder="SIZE", menu=_AREAS),
            _any_node("shared out"),
            _on_off("only"),
            Argument("percent", Type.COUNT, 0, unit="percent of memory", placeholder="N", menu=_PERCENTS),
        ),
        returns="0 (areas that cannot be had are left out)",
        when=BEFORE_BOOT,
    ),
    Operation(BOOT, "Boot the machine.", "", returns="0", when=BOOT),
    Operation(
        "hugetlb resize",
        "Set the number of persistent huge pages.",
        "nr_hugepages, global or of one node",
        (_size("size", *PAGE_SIZES), _count("to", "huge pages"), _any_node("global")),
    ),
    Operation(
        "hugetlb overcommit",
        "Set how many surplus huge pages may be made on demand.",
        "nr_overcommit_hugepages",
        (_size("size", *PAGE_SIZES), _count("to", "huge pages")),
    ),
    Operation(
        "hugetlb demote",
        "Split free huge pages into the next smaller size.",
        "demote",
        (_size("size", *_DEMOTABLE), _count("count", "huge pages"), _any_node("global")),
    ),
    Operation(
        "hugetlb map",
        "Map and populate huge pages.",
        "mmap(MAP_HUGETLB|MAP_POPULATE)",
        (_size("size", *PAGE_SIZES), _count("count", "huge pages"), _any_node("any")),
        makes=MAPPING,
    ),
    Operation(
        "hugetlb unmap",
        "Unmap huge pages; surplus ones that are optimized may stay queued.",
        "munmap; `flush=off`: the free work (free_hpage_work) has not run yet",
        (_handle(MAPPING), _on_off("flush", True)),
        ends=True,
        returns="0",
    ),
    Operation(
        "hugetlb flush",
        "Let the work item free the huge pages that are queued for it.",
        "free_hpage_workfn",
        returns="0",
    ),
    Operation(
        "hugetlb dissolve",
        "Give the free huge page that covers an address back to the buddy allocator.",
        "dissolve_free_hugetlb_folio of the folio that covers ADDR",
        (_AT,),
    ),
    Operation(
        "sysctl",
        "Write vm.hugetlb_optimize_vmemmap.",
        "vm.hugetlb_optimize_vmemmap",
        (_on_off("hugetlb_optimize_vmemmap", None),),
    ),
    Operation(
        "memory add",
        "Hot-add memory.",
        "add_memory; `on` asks for MHP_MEMMAP_ON_MEMORY",
        (
            _AT,
            Argument("size", Type.SIZE, placeholder="SIZE", menu=_ADDED),
            _NODE,
            _on_off("memmap_on_memory"),
        ),
        makes=MEMORY,
    ),
    Operation(
        "memory online",
        "Online one memory block of a range.",
        "memoryN/state, N the I-th block of m",
        (
            _handle(MEMORY),
            _block(),
            _ZONE,
        ),
    ),
    Operation(
        "memory offline",
        "Offline one memory block of a range.",
        "memoryN/state",
        (_handle(MEMORY), _block()),
    ),
    Operation(
        "memory remove",
        "Hot-remove a range; the handle stays usable.",
        "remove_memory",
        (_handle(MEMORY),),
        returns="0 or errno; ends m iff 0",
    ),
    Operation(
        "memory unplug",
        "Offline all blocks of a range and remove it, or leave it as it was; the handle stays usable.",
        "offline_and_remove_memory, as virtio-mem calls it",
        (_handle(MEMORY),),
        returns="0 or errno; ends m iff 0",
    ),
    Operation(
        "subblock unplug",
        "Take subblocks of a memory block away, as virtio-mem does when it shrinks.",
        "virtio_mem_sbm_unplug_sb_online, alloc_contig_range",
        (_handle(MEMORY), _block(), _subblock(), _count("count", "subblocks")),
    ),
    Operation(
        "subblock plug",
        "Give subblocks of a memory block back.",
        "virtio_mem_sbm_plug_any_sb, virtio_mem_fake_online",
        (_handle(MEMORY), _block(), _subblock(), _count("count", "subblocks")),
    ),
    Operation(
        "memory hard_offline",
        "Report an uncorrected error of the page at an address.",
        "/sys/devices/system/memory/hard_offline_page, memory_failure",
        (_AT,),
    ),
    Operation(
        "memory soft_offline",
        "Take the page at an address out of use, moving its contents.",
        "/sys/devices/system/memory/soft_offline_page, soft_offline_page",
        (_AT,),
    ),
    Operation(
        "memory unpoison",
        "Put the poisoned page at an address back into use.",
        "unpoison-pfn of hwpoison-inject, unpoison_memory",
        (_AT,),
    ),
    Operation(
        "dax create",
        "Bind a device-DAX device to one or more physical ranges.",
        "dev_dax_probe, memremap_pages",
        (
            Argument("at", Type.ADDRESSES, placeholder="ADDR" + _ALONG.format("ADDR")),
            Argument("size", Type.SIZES, placeholder="SIZE" + _ALONG.format("SIZE"), menu=_DEVICES, along="at"),
            _size("align", *_ALIGNS, default=2 * M),
            _on_off("altmap"),
            _NODE,
            Argument("driver", Type.CHOICE, "devdax", ("devdax", "fsdev", "kmem")),
        ),
        makes=DAX,
    ),
    Operation(
        "dax destroy",
        "Unbind a DAX device and delete it.",
        "unbind, unregister_dev_dax",
        (_handle(DAX),),
        ends=True,
        returns="0",
    ),
    Operation(
        "dax rebind",
        "Unbind a DAX device and bind another driver, or none.",
        "unbind, bind",
        (_handle(DAX), Argument("driver", Type.CHOICE, choices=("devdax", "fsdev", "kmem", "none"))),
    ),
    Operation(
        "dax set",
        "Write the attribute memmap_on_memory of a DAX device.",
        "daxN.M/memmap_on_memory",
        (_handle(DAX), _on_off("memmap_on_memory", None)),
    ),
    Operation(
        "dax state",
        "Write the state of a DAX device that is system RAM.",
        "daxN.M/state, which kmem gives a device",
        (_handle(DAX), Argument("state", Type.CHOICE, choices=_STATES)),
    ),
    Operation(
        "dax online",
        "Online one memory block of a DAX device that is system RAM.",
        "memoryN/state, N the I-th whole block of the ranges of d",
        (_handle(DAX), _block(), _ZONE),
    ),
    Operation(
        "dax offline",
        "Offline one memory block of a DAX device that is system RAM.",
        "memoryN/state",
        (_handle(DAX), _block()),
    ),
    Operation(
        "pages contig",
        "Allocate the pages of a given range, moving away what is there.",
        "alloc_contig_range, as virtio-mem and CMA ask for it",
        (
            _AT,
            Argument("size", Type.SIZE, placeholder="SIZE", menu=_CONTIGUOUS),
        ),
        makes=PAGES,
    ),
    Operation(
        "pages alloc",
        "Allocate order-0 pages.",
        "N order-0 pages of that node only",
        (_count("count", "pages"), _NODE, _on_off("movable")),
        makes=PAGES,
    ),
    Operation("pages free", "Free allocated pages.", "", (_handle(PAGES),), ends=True, returns="0"),
    Operation(
        "fail alloc",
        "Make allocations of the next operation fail.",
        "the next operation's K-th allocation point (separate-paths.md 3.0) fails, and the N - 1 after it",
        (
            Argument("nth", Type.COUNT, unit="allocation points", placeholder="K", minimum=1, menu=_FAULTS),
            Argument("times", Type.COUNT, 1, unit="allocation points", placeholder="N", minimum=1, menu=_TIMES),
        ),
        returns="0",
    ),
)

OPERATIONS: Final[dict[str, Operation]] = {operation.name: operation for operation in _ENTRIES}
"""Every operation by name, in the order of docs/language.md."""

MAKERS: Final[dict[str, Operation]] = {operation.makes: operation for operation in _ENTRIES if operation.makes}
"""The operation that makes handles of each kind."""

MACHINE: Final[tuple[Argument, ...]] = (
    Argument("arch", Type.CHOICE, "x86_64", tuple(dict.fromkeys(name for name, _ in ARCHES))),
    Argument("page", Type.SIZE, 4 * K, tuple(sorted({page for _, page in ARCHES}))),
    Argument(
        "ram",
        Type.SIZE,
        4 * G,
        minimum=512 * M,
        maximum=64 * T,
        multiple=2 * M,
        # Around the hole below 4G, with a partial last section, and large hosts.
        menu=(4 * G, 4 * G, 4 * G, 1 * G, 2 * G, 2816 * M, 2814 * M, 4160 * M, 8 * G, 6 * G, 16 * G, 64 * G, 16 * T),
    ),
    Argument("nodes", Type.COUNT, 1, (1, 2), unit="nodes"),
    Argument("hugetlb_free_vmemmap", Type.BOOL, True),
    Argument("deferred_init", Type.BOOL, True),
    Argument("memmap_on_memory", Type.CHOICE, "off", ("off", "on", "force")),
    Argument("memhp_default_state", Type.CHOICE, "offline", ("offline", "online", "online_kernel", "online_movable")),
    # Within a section, across the border of two, and longer than several.
    _size("interleave", 0, 64 * M, 192 * M, 1 * G, default=0),
    _size("hole", 0, 2 * M, 66 * M, 128 * M, 576 * M, default=0),
    _size("base", 0, 128 * T, default=0),
    Argument("kfence", Type.BOOL, False),
)
"""The keys of the `machine` line, by the names and in the order of the fields of `mm.machine.Machine`."""
