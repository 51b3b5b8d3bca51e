"""Memory block devices (drivers/base/memory.c, Linux 7.3): which blocks exist, and which are online in which zone.

The operations on them (add, remove, online, offline) are in `mm.memory_hotplug` and `mm.memory_online`. Left out: block
groups.
"""

from __future__ import annotations

from typing import Final

from mm.altmap import Altmap
from mm.arch import Arch
from mm.runs import RunMap, RunSet


class MemoryBlocks:
    """All memory block devices by block number; a block is one section or, on powerpc, a row of them."""

    __slots__ = ("altmaps", "elsewhere", "nid", "nr_hwpoison", "pages", "refs", "touched", "tried", "unplugged", "zone")

    OFFLINE: Final = (-1, -1)

    def __init__(self, arch: Arch) -> None:
        self.pages = 1 << (arch.memory_block_shift - arch.page_shift)
        """Base pages of one block."""
        self.zone: RunMap[tuple[int, int]] = RunMap()
        """Block -> key of the zone it is online in, or OFFLINE; a gap is no block device."""
        self.nid: RunMap[int] = RunMap()
        self.altmaps: dict[int, Altmap] = {}
        """Blocks whose memmap lies in themselves."""
        self.nr_hwpoison: dict[int, int] = {}
        """Block -> poisoned pages counted in it (memblk_nr_poison)."""
        self.refs: dict[int, int] = {}
        """Block -> references of its device beyond the one that it has while it exists (memory_block_get)."""
        self.elsewhere = 0
        """Poisoned pages counted that lie in no block: a device's. They are never given back."""
        self.unplugged = RunSet()
        """Frames of unplugged subblocks of virtio-mem, in blocks that exist."""
        self.touched: list[tuple[int, int]] = []
        """Ranges of block numbers that changed since the oracle last looked."""
        self.tried: list[tuple[int, int]] = []
        """Frames that were to go, of blocks or parts of blocks, since the oracle last looked."""

    @property
    def num_poisoned_pages(self) -> int:
        """HardwareCorrupted (mm/memory-failure.c), in pages."""
        return sum(self.nr_hwpoison.values()) + self.elsewhere

    def memory_block_get(self, block: int) -> bool:
        """memory_block_get (drivers/base/memory.c, 7.3): one more reference of a block; False if it does not exist."""
        if self.zone.get(block) is None:
            return False
        self.refs[block] = self.refs.get(block, 0) + 1
        return True

    def memory_block_put(self, block: int) -> None:
        """memory_block_put (include/linux/memory.h, 7.3): gives it back."""
        self.refs[block] -= 1
        if not self.refs[block]:
            del self.refs[block]

    def put(self, lo: int, hi: int, nid: int, zone: tuple[int, int]) -> None:
        """Blocks [lo, hi) exist, with this state."""
        self.zone.set(lo, hi, zone)
        self.nid.set(lo, hi, nid)
        self.touched.append((lo, hi))

    def drop(self, lo: int, hi: int) -> None:
        """Blocks [lo, hi) are gone."""
        self.zone.clear(lo, hi)
        self.nid.clear(lo, hi)
        for block in [b for b in self.nr_hwpoison if lo <= b < hi]:
            del self.nr_hwpoison[block]  # remove_memory_block_devices
        self.unplugged.remove(lo * self.pages, hi * self.pages)
        self.touched.append((lo, hi))
