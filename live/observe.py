"""One look at a guest: counters by its own files, mapping and huge pages by reading its memory.

Free pages are counted with the per-cpu lists, and the counters are folded first (vm.stat_refresh), so that what is left
of noise is the kernel's own small allocations.
"""

from __future__ import annotations

import re
from typing import Final

from live.agent import Agent
from live.folios import huge_folios
from live.pagetable import GuestMemory, StructPages, sections
from live.snapshot import Pool, Snapshot

ORDERS: Final = {9: "2048kB", 18: "1048576kB"}
HUGEPAGES: Final = "/sys/kernel/mm/hugepages/hugepages-{}/"
NODE: Final = "/sys/devices/system/node/node{}/hugepages/hugepages-{}/"
BLOCKS: Final = "/sys/devices/system/memory"

_VMSTAT = re.compile(rb"^(nr_memmap_pages|nr_memmap_boot_pages|nr_page_table_pages) (\d+)$", re.M)
_POISONED = re.compile(rb"^HardwareCorrupted: +(\d+) kB", re.M)
_ZONE = re.compile(rb"^Node (\d+), zone|^  pages free +(\d+)|^        managed +(\d+)|^ +count: +(\d+)", re.M)
_COMPLAINT = re.compile(
    r"BUG[: ]|WARNING: |Bad page|Oops|general protection|Kernel panic|kernel BUG|refcount|unable to handle"
    r"|list_(add|del) corruption|page dumped because|negative"
)


class Observer:
    """Looks at one guest again and again."""

    def __init__(self, agent: Agent, memory: GuestMemory, cr3: int, nodes: int) -> None:
        self.agent = agent
        self.memory = memory
        self.cr3 = cr3
        self.nodes = nodes
        self._paths = ["/proc/vmstat", "/proc/zoneinfo", "/proc/meminfo"]
        for size in ORDERS.values():
            for nid in range(nodes):
                folder = NODE.format(nid, size)
                self._paths += [folder + name for name in ("nr_hugepages", "free_hugepages", "surplus_hugepages")]
            folder = HUGEPAGES.format(size)
            self._paths += [folder + name for name in ("resv_hugepages", "nr_overcommit_hugepages")]

    def look(self, blocks: dict[int, str] | None, console: str = "") -> Snapshot:
        """A snapshot. `blocks` are those of the last one when no operation can have changed them, None to read them."""
        self.agent.write("/proc/sys/vm/stat_refresh", "1")
        files = self.agent.read(self._paths)
        out = Snapshot(complaints=complaints(console))
        vmstat, zoneinfo, meminfo = files[:3]
        assert isinstance(vmstat, bytes)
        assert isinstance(zoneinfo, bytes)
        poisoned = _POISONED.search(meminfo) if isinstance(meminfo, bytes) else None
        out.poisoned = int(poisoned[1]) // 4 if poisoned else 0
        for name, value in _VMSTAT.findall(vmstat):
            # The file prints a negative counter as a large unsigned one.
            number = int(value)
            number -= 1 << 64 if number >> 63 else 0
            setattr(out, "nr_page_table_pages" if name == b"nr_page_table_pages" else name[:-6].decode(), number)
        self._zones(out, zoneinfo)
        numbers = iter([int(data) if isinstance(data, bytes) else 0 for data in files[3:]])
        for order in ORDERS:
            rows = [[next(numbers) for _ in range(3)] for _ in range(self.nodes)]
            nr, free, surplus = ([row[i] for row in rows] for i in range(3))
            out.pools[order] = Pool(nr, free, surplus, next(numbers), next(numbers))
        out.blocks = self.read_blocks() if blocks is None else blocks
        out.mapping = sections(self.memory, self.cr3)
        online = [block for block, state in out.blocks.items() if state != "offline"]
        out.folios = huge_folios(StructPages(self.memory, out.mapping), online)
        return out

    def read_blocks(self) -> dict[int, str]:
        """The state of every memory block."""
        names = [name for name in self.agent.names(BLOCKS) if re.fullmatch(r"memory\d+", name)]
        files = self.agent.read(f"{BLOCKS}/{name}/{file}" for name in names for file in ("state", "valid_zones"))
        out = {}
        for name, state, zones in zip(names, files[::2], files[1::2], strict=True):
            if isinstance(state, bytes) and isinstance(zones, bytes):
                online = state.strip() == b"online"
                out[int(name[6:])] = zones.decode().strip() if online else "offline"
        return dict(sorted(out.items()))

    def _zones(self, out: Snapshot, zoneinfo: bytes) -> None:
        out.free = [0] * self.nodes
        nid = 0
        for node, free, managed, count in _ZONE.findall(zoneinfo):
            if node:
                nid = int(node)
            elif managed:
                out.managed += int(managed)
            else:
                out.free[nid] += int(free or count)


def complaints(console: str) -> list[str]:
    """The lines of a kernel log that are findings by themselves."""
    return [line for line in console.splitlines() if _COMPLAINT.search(line)]
