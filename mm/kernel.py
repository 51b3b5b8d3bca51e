"""One modelled kernel: the shared parts of `mm` tied together, with one side's implementation of the seam behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mm.cma import CmaAreas
from mm.direct_map import DirectMap
from mm.fault import FaultInjector
from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb_cma import HugetlbCma
from mm.machine import Machine
from mm.memblock import Memblock
from mm.memory import MemoryBlocks
from mm.mmzone import Node, Sections
from mm.page import MemMap
from mm.page_alloc import PageAllocator
from mm.pgmap import PgMap
from mm.pgtable import VmemmapTables
from mm.runs import RunMap, RunSet
from mm.tlb import Tlb
from mm.vmstat import Vmstat

if TYPE_CHECKING:
    from mm.vmemmap import VmemmapPaths


@dataclass(frozen=True, slots=True)
class BootRequest:
    """`hugepagesz= hugepages=` for one size; `nid` None asks for round robin over all nodes."""

    order: int
    count: int
    nid: int | None


MIGRATE_UNMOVABLE, MIGRATE_MOVABLE = "unmovable", "movable"


class Kernel:
    """State of one kernel from power-on. `boot()` must be the first operation after the reserve requests."""

    __deletable__ = ("paths",)
    """For mypyc: `Lockstep.close` takes this attribute away."""

    def __init__(self, machine: Machine, make_paths: Callable[[Kernel], VmemmapPaths]) -> None:
        self.machine = machine
        self.arch = arch = machine.geometry()
        self.faults = FaultInjector()
        self.vmstat = Vmstat()
        self.nodes = [Node(nid) for nid in range(machine.nodes)]
        self.sections = Sections(arch)
        self.memblock = Memblock(machine.nodes)
        self.pages = PageAllocator(self.nodes, arch.pmd_order)
        self.tables = VmemmapTables(arch)
        self.tlb = Tlb()
        """Records nothing unless `mm.tlb.record` is called before the boot."""
        self.memmap = MemMap(self.tables, self.vmstat)
        self.iomem: RunMap[str] = RunMap()
        """Busy memory resources (/proc/iomem): pfn -> "ram", "hotplug" or "dax"."""
        self.pageblocks: RunMap[str] = RunMap()
        """Pageblock number -> MIGRATE_*."""
        self.memory_blocks = MemoryBlocks(arch)
        self.direct_map = DirectMap(arch) if arch.direct_map else None
        """None where it is not modelled."""
        self.pgmaps: list[PgMap] = []
        """Live device page maps, in the order they were made (the kernel's pgmap_array)."""
        self.remaps: list[tuple[PgMap, RunSet | None]] = []
        """What `mm.memremap` did since the oracle last looked: page maps it began to add, with the subsections that
        existed before, and page maps it took away, with None."""
        self.hstates: dict[int, HState] = {}
        """Pools by order, largest first."""
        for shift in arch.hugetlb_shifts:
            order = shift - arch.page_shift
            smaller = [s - arch.page_shift for s in arch.hugetlb_shifts if s < shift]
            self.hstates[order] = HState(order, max(smaller, default=0), machine.nodes, order > arch.max_page_order)
        self.boot_requests: list[BootRequest] = []
        """Huge pages asked for on the command line, in order."""
        self.cma = CmaAreas()
        self.hugetlb_cma = HugetlbCma(machine.nodes)
        self.hpage_freelist: list[Folio] = []
        """Optimized huge pages that left their pools in atomic context, for the work item to free (mm/hugetlb.c)."""
        self.parameters: dict[str, str] = {}
        """Module parameters that can be read in /sys and not written (0444), as the end of the boot shows them."""
        self.slab_available = False
        """False while only memblock can allocate."""
        self.log: list[str] = []
        """Complaints of the operation in progress: WARN and "Bad page" texts."""
        self.warned_once: set[str] = set()
        self.paths = make_paths(self)

    def warn(self, text: str) -> None:
        """WARN_ON: the text goes to the log."""
        self.log.append(text)

    def warn_once(self, text: str) -> None:
        """WARN_ON_ONCE."""
        if text not in self.warned_once:
            self.warned_once.add(text)
            self.log.append(text)

    def set_pageblocks(self, lo_pfn: int, hi_pfn: int, migratetype: str) -> None:
        """set_pageblock_migratetype for every pageblock whose first pfn lies in [lo_pfn, hi_pfn)."""
        order = self.arch.pmd_order
        self.pageblocks.set(-(-lo_pfn >> order), -(-hi_pfn >> order), migratetype)


def gigantic_folios(k: Kernel) -> Iterator[Folio]:
    """The pages of the pools of gigantic pages; after the boot, those that the command line asked for."""
    for h in k.hstates.values():
        if h.gigantic:
            yield from h.folios.values()
