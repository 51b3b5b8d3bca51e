"""Parts of memory blocks that come and go (drivers/virtio/virtio_mem.c), and alloc_contig_range under them
(mm/page_alloc.c, mm/hugetlb.c: replacement; separate-paths.md 3.13)."""

import pytest

from mm.boot import boot
from mm.errno import EBUSY, EINVAL, ENODEV, ENOMEM
from mm.hugetlb import hugetlb_map
from mm.hugetlb_sysfs import nr_hugepages_store
from mm.kernel import Kernel
from mm.machine import Machine
from mm.memory_hotplug import add_memory, memory_block_offline, memory_block_online, remove_memory
from mm.mmzone import ZONE_MOVABLE, ZONE_NORMAL
from mm.page_alloc import OWNER_OFFLINE, pages_alloc
from mm.virtio_mem import subblock_pages, virtio_mem_sbm_plug, virtio_mem_sbm_unplug
from reference.paths import SeparatePaths

SECTION = 32768
TOP = 0x180000
BLOCK = TOP // SECTION
SB = 512
"""Pages of a subblock: 2M."""


@pytest.fixture
def plugged(make):
    """One block of hot-added memory on a machine of 4G."""
    k = make()
    assert subblock_pages(k) == SB
    assert add_memory(k, 0, TOP, SECTION, False) == 0
    return k


def numbers(k, idx):
    zone = k.nodes[0].zones[idx]
    return zone.free_pages(9), zone.managed_pages, zone.present_pages


@pytest.mark.parametrize(("online_type", "idx"), [("online_movable", ZONE_MOVABLE), ("online_kernel", ZONE_NORMAL)])
def test_unplugged_subblocks_are_nobodys(plugged, state, online_type, idx):
    k = plugged
    before = numbers(k, idx)
    assert memory_block_online(k, BLOCK, online_type) == 0
    online = state(k)
    assert virtio_mem_sbm_unplug(k, BLOCK, 3, 2) == 0
    lo, hi = TOP + 3 * SB, TOP + 5 * SB
    assert k.pages.owners.runs(TOP, TOP + SECTION) == [(lo, hi, OWNER_OFFLINE)]
    # Present counts whole blocks; nobody manages what is unplugged (adjust_managed_page_count).
    gained = [now - was for now, was in zip(numbers(k, idx), before, strict=True)]
    assert gained == [SECTION - 2 * SB, SECTION - 2 * SB, SECTION]
    assert virtio_mem_sbm_plug(k, BLOCK, 3, 1) == 0
    assert virtio_mem_sbm_plug(k, BLOCK, 4, 1) == 0
    assert state(k) == online


def test_a_block_goes_offline_and_comes_back_without_its_unplugged_subblocks(plugged):
    k = plugged
    assert virtio_mem_sbm_unplug(k, BLOCK, 0, 60) == 0
    assert numbers(k, ZONE_MOVABLE) == (0, 0, 0)
    assert memory_block_online(k, BLOCK, "online_movable") == 0
    assert numbers(k, ZONE_MOVABLE) == (4 * SB, 4 * SB, SECTION)
    assert virtio_mem_sbm_unplug(k, BLOCK, 63, 1) == 0
    assert memory_block_offline(k, BLOCK) == 0
    assert numbers(k, ZONE_MOVABLE) == (0, 0, 0)
    assert k.pages.owners.runs(TOP, TOP + SECTION) == []
    assert virtio_mem_sbm_plug(k, BLOCK, 10, 2) == 0
    assert memory_block_online(k, BLOCK, "online_kernel") == 0
    gone = [((lo - TOP) // SB, (hi - TOP) // SB) for lo, hi in k.memory_blocks.unplugged.items()]
    assert gone == [(0, 10), (12, 60), (63, 64)]
    assert k.pages.free_count(TOP, TOP + SECTION) == 5 * SB


def test_a_removed_block_forgets_what_was_unplugged(plugged):
    k = plugged
    assert virtio_mem_sbm_unplug(k, BLOCK, 0, 8) == 0
    assert remove_memory(k, TOP, SECTION) == 0
    assert k.memory_blocks.unplugged.items() == []


@pytest.mark.parametrize(
    ("block", "first", "count", "errno"),
    [
        (BLOCK + 1, 0, 1, ENODEV),
        (BLOCK, 0, 0, EINVAL),
        (BLOCK, 63, 2, EINVAL),
        (BLOCK, 64, 1, EINVAL),
        (BLOCK, 8, 1, EINVAL),  # unplugged already
        (BLOCK, 0, 56, EINVAL),  # overlaps what is
        (0, 0, 1, EINVAL),  # boot memory is no device's
    ],
)
def test_what_the_driver_never_asks_for(plugged, state, block, first, count, errno):
    k = plugged
    assert virtio_mem_sbm_unplug(k, BLOCK, 8, 56) == 0
    before = state(k)
    assert virtio_mem_sbm_unplug(k, block, first, count) == -errno
    assert virtio_mem_sbm_unplug(k, BLOCK, 0, 8) == -EINVAL  # the last ones go with their block
    assert virtio_mem_sbm_plug(k, BLOCK, 0, 1) == -EINVAL  # plugged
    assert state(k) == before


def test_pages_that_do_not_move(plugged, state):
    k = plugged
    assert memory_block_online(k, BLOCK, "online_kernel") == 0
    free = sum(z.free_pages(9) for z in k.nodes[0].zones)
    assert not isinstance(pages_alloc(k, 0, free, movable=False), int)
    before = state(k)
    assert virtio_mem_sbm_unplug(k, BLOCK, 5, 1) == -EBUSY
    assert state(k) == before


@pytest.mark.parametrize(("room", "rc"), [(SB, 0), (SB - 1, -ENOMEM)])
def test_pages_move_where_there_is_room(plugged, room, rc):
    k = plugged
    assert memory_block_online(k, BLOCK, "online_movable") == 0
    free = sum(z.free_pages(9) for z in k.nodes[0].zones)
    extents = pages_alloc(k, 0, free - room, movable=True)
    assert not isinstance(extents, int)
    taken = sum(n for lo, hi, _ in k.pages.owners.runs(TOP, TOP + SB) for n in [hi - lo])
    assert taken == SB  # the movable zone is used first
    assert virtio_mem_sbm_unplug(k, BLOCK, 0, 1) == rc
    assert sum(n for _, n in extents) == free - room
    if rc:
        assert k.pages.free_count(TOP, TOP + SB) == SB - 1  # those that found room stay where they are


# -- huge pages in the way, in the reference ------------------------------------------------------------------------


@pytest.fixture
def real():
    """2 nodes; the second has one movable block, with 4 optimized free huge pages at its start."""
    k = Kernel(Machine(nodes=2, ram=4 << 30), SeparatePaths)
    assert boot(k) == 0
    k.faults.begin()
    assert add_memory(k, 1, TOP, SECTION, False) == 0
    assert memory_block_online(k, BLOCK, "online_movable") == 0
    assert nr_hugepages_store(k, 9, 4, 1) == 0
    assert sorted(k.hstates[9].folios) == [TOP + i * SB for i in range(4)]
    return k


def test_free_huge_pages_are_replaced(real):
    """Restore +7, optimize -7 (3.7, 3.9): a folio of the same node, in the same pool."""
    k = real
    before = k.vmstat.nr_memmap, k.vmstat.nr_memmap_boot
    assert virtio_mem_sbm_unplug(k, BLOCK, 1, 2) == 0
    h = k.hstates[9]
    assert sorted(h.folios) == [TOP, TOP + 3 * SB, TOP + 4 * SB, TOP + 5 * SB]
    assert all(folio.vmemmap_optimized for folio in h.folios.values())
    assert (h.nr, h.surplus, h.free_count()) == ([0, 4], [0, 0], 4)
    assert (k.vmstat.nr_memmap, k.vmstat.nr_memmap_boot) == before


def test_used_huge_pages_move_to_free_ones(real):
    k = real
    mapped = []
    assert hugetlb_map(k, 9, 1, 1, mapped) == 0
    at = (mapped[0].pfn - TOP) // SB
    assert virtio_mem_sbm_unplug(k, BLOCK, at, 1) == 0
    # It took a free page of the pool; its old place, free in the pool then, was replaced by a new page.
    h = k.hstates[9]
    assert mapped[0].pfn in h.folios
    assert mapped[0].pfn != TOP + at * SB
    assert (h.nr, h.surplus, h.free_count()) == ([0, 4], [0, 0], 3)
    assert TOP + at * SB not in h.folios


def test_a_replaced_page_that_cannot_be_restored_is_in_the_way(real):
    """3.13: the old one becomes surplus, the caller still sees 0; the range is not free then."""
    k = real
    # HP, HEAD of the new page (its memmap is split already), then RES of the old one.
    k.faults.points = []
    k.faults.nth = 3
    k.faults.begin()
    rc = virtio_mem_sbm_unplug(k, BLOCK, 0, 1)
    h = k.hstates[9]
    assert k.faults.fired == "RES"
    # ZONE_MOVABLE is tried again, and the second attempt replaces the surplus page.
    assert rc == 0
    assert (h.nr, h.surplus) == ([0, 5], [0, 1])
    assert TOP not in h.folios


def test_no_memory_for_a_replacement(real):
    k = real
    k.faults.nth = 1
    k.faults.begin()
    assert virtio_mem_sbm_unplug(k, BLOCK, 0, 1) == -ENOMEM
    assert k.faults.fired == "HP"
    assert sorted(k.hstates[9].folios) == [TOP + i * SB for i in range(4)]


def test_gigantic_pages_are_not_replaced():
    """isolate_or_dissolve_huge_folio: -ENOMEM "as this has the effect of bailing out right away"."""
    k = Kernel(Machine(), SeparatePaths)
    assert boot(k) == 0
    k.faults.begin()
    gigabyte = 8 * SECTION
    assert add_memory(k, 0, TOP, gigabyte, False) == 0
    for i in range(8):
        assert memory_block_online(k, BLOCK + i, "online_kernel") == 0
    assert nr_hugepages_store(k, 18, 9, 0) == 0
    pool = dict(k.hstates[18].folios)
    assert TOP in pool
    assert virtio_mem_sbm_unplug(k, BLOCK + 2, 5, 1) == -ENOMEM
    assert k.hstates[18].folios == pool
