"""virtio-mem in subblock mode (drivers/virtio/virtio_mem.c, Linux 7.3): parts of memory blocks come and go.

Subblocks are pageblocks here (at least 2M, the usual block size of the device). Frames of an unplugged subblock of an
online block are *fake offline*: the driver holds them, nobody manages them. The device says yes to every request; big
block mode, where the device's blocks are whole memory blocks, is adding and `offline_and_remove_memory_ranges`.

Left out: which subblocks the driver picks (the program says), the block that is removed once nothing in it is plugged,
the limit on offline memory.
"""

from __future__ import annotations

from mm.contig import alloc_contig_range
from mm.errno import EBUSY, EINVAL, ENODEV, ENOMEM
from mm.kernel import Kernel
from mm.memory import MemoryBlocks
from mm.mmzone import ZONE_MOVABLE
from mm.page_alloc import OWNER_OFFLINE

RETRIES = 5
"""Attempts at alloc_contig_range in ZONE_MOVABLE (virtio_mem_fake_offline)."""


def subblock_pages(k: Kernel) -> int:
    """vm->sbm.sb_size (virtio_mem_init_hotplug), in pages."""
    return 1 << k.arch.pmd_order


def _range(k: Kernel, block: int, first: int, count: int) -> tuple[int, int] | int:
    """The frames of subblocks [first, first + count) of a block, or an errno: what the driver never asks for."""
    blocks = k.memory_blocks
    size = subblock_pages(k)
    if blocks.zone.get(block) is None:
        return -ENODEV
    if count < 1 or (first + count) * size > blocks.pages or size >= blocks.pages or block in blocks.altmaps:
        return -EINVAL
    start = block * blocks.pages + first * size
    if k.sections.early(start):
        return -EINVAL
    return start, start + count * size


def virtio_mem_sbm_unplug(k: Kernel, block: int, first: int, count: int) -> int:
    """virtio_mem_sbm_unplug_sb_online, virtio_mem_fake_offline, or for an offline block virtio_mem_sbm_unplug_sb, 7.3.

    0, -EBUSY or -ENOMEM; -EINVAL for subblocks that are not plugged or would be the last of their block.
    """
    where = _range(k, block, first, count)
    if isinstance(where, int):
        return where
    start, end = where
    blocks, pages = k.memory_blocks, k.pages
    lo = block * blocks.pages
    gone = blocks.unplugged.count(lo, lo + blocks.pages)
    if blocks.unplugged.overlaps(start, end) or gone + end - start >= blocks.pages:
        return -EINVAL
    if blocks.zone.get(block) != MemoryBlocks.OFFLINE:
        zone = pages.zone_of.get(start)
        if zone is None:
            return -EINVAL  # a hole in boot memory, which no driver owns
        blocks.tried.append((start, end))
        for _ in range(RETRIES if zone.idx == ZONE_MOVABLE else 1):
            rc = alloc_contig_range(k, start, end, OWNER_OFFLINE)
            if rc != -EBUSY:
                break
        if rc:
            return -ENOMEM if rc == -ENOMEM else -EBUSY
        zone.managed_pages -= end - start
    blocks.unplugged.add(start, end)
    return 0


def virtio_mem_sbm_plug(k: Kernel, block: int, first: int, count: int) -> int:
    """virtio_mem_sbm_plug_any_sb, virtio_mem_fake_online, 7.3 of given subblocks; 0, or -EINVAL if one is plugged."""
    where = _range(k, block, first, count)
    if isinstance(where, int):
        return where
    start, end = where
    blocks, pages = k.memory_blocks, k.pages
    if not blocks.unplugged.covers(start, end):
        return -EINVAL
    blocks.unplugged.remove(start, end)
    if blocks.zone.get(block) != MemoryBlocks.OFFLINE:
        zone = pages.zone_of.get(start)
        assert zone is not None
        pages.free(start, end - start)
        zone.managed_pages += end - start
    return 0
