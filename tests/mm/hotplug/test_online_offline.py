"""Blocks go online and offline: codes, accounting, spans, and what is moved out of the way (separate-paths.md 3.18)."""

import pytest

from mm.errno import EBUSY, EINVAL, ENODEV
from mm.hugetlb import hugetlb_map, hugetlb_unmap
from mm.hugetlb_sysfs import nr_hugepages_store
from mm.memory_hotplug import add_memory, memory_block_offline, memory_block_online, remove_memory
from mm.memory_online import memory_blocks_online
from mm.mmzone import SECTION_IS_ONLINE, ZONE_DMA32, ZONE_MOVABLE, ZONE_NORMAL
from mm.page import Plain, SelfHosted
from mm.page_alloc import OWNER_PAGES, OWNER_PAGES_MOVABLE, pages_alloc, pages_free

SECTION = 32768
TOP = 0x180000
BLOCK = TOP // SECTION


def free(k):
    return sum(zone.free_pages(k.arch.pmd_order) for node in k.nodes for zone in node.zones)


@pytest.fixture
def plugged(make):
    """4G of boot RAM and four offline blocks above it."""
    k = make()
    assert add_memory(k, 0, TOP, 4 * SECTION, False) == 0
    return k


@pytest.mark.parametrize(("kind", "idx"), [("online_movable", ZONE_MOVABLE), ("online_kernel", ZONE_NORMAL)])
def test_online_and_offline_account_a_block(plugged, state, kind, idx):
    k = plugged
    before = state(k)
    before.pop("memmap")  # stays as it was written, as in a kernel without DEBUG_VM
    zone = k.nodes[0].zones[idx]
    present, managed, frames = zone.present_pages, zone.managed_pages, free(k)
    k.paths.calls.clear()
    assert memory_block_online(k, BLOCK, kind) == 0
    assert k.paths.calls == [("init", (0, idx), TOP, SECTION)]
    assert (zone.present_pages - present, zone.managed_pages - managed, free(k) - frames) == (SECTION,) * 3
    assert zone.end_pfn == TOP + SECTION
    assert k.memory_blocks.zone.get(BLOCK) == (0, idx)
    assert k.sections.word(BLOCK) & SECTION_IS_ONLINE
    assert k.memmap.content(TOP) == Plain(0, idx)
    assert k.pageblocks.runs(TOP // 512, (TOP + SECTION) // 512) == [(TOP // 512, (TOP + SECTION) // 512, "movable")]
    k.memory_blocks.touched.clear()
    assert memory_block_offline(k, BLOCK) == 0
    assert k.memory_blocks.touched == [(BLOCK, BLOCK + 1)]
    after = state(k)
    after.pop("memmap")
    assert after == before


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_row_ends_where_a_zone_does(plugged, beyond):
    """default_kernel_zone_for_pfn: the first kernel zone that intersects the block, else Normal."""
    k = plugged
    k.nodes[0].zones[ZONE_DMA32].end_pfn = TOP + 2 * SECTION + beyond
    memory_blocks_online(k, BLOCK, BLOCK + 4, "online_kernel")
    dma32, normal = (0, ZONE_DMA32), (0, ZONE_NORMAL)
    border = BLOCK + 2 + beyond
    assert k.memory_blocks.zone.runs(BLOCK, BLOCK + 4) == [(BLOCK, border, dma32), (border, BLOCK + 4, normal)]


def test_codes_of_a_second_write(plugged):
    assert memory_block_offline(plugged, BLOCK) == -EINVAL
    assert memory_block_online(plugged, BLOCK, "online_movable") == 0
    assert memory_block_online(plugged, BLOCK, "online_movable") == -EINVAL
    assert memory_block_online(plugged, BLOCK, "online_kernel") == -EINVAL
    assert memory_block_offline(plugged, BLOCK) == 0
    assert memory_block_offline(plugged, BLOCK) == -EINVAL


def test_no_such_block(plugged):
    assert memory_block_online(plugged, BLOCK + 4, "online_movable") == -ENODEV
    assert memory_block_offline(plugged, BLOCK + 4) == -ENODEV


def test_kernel_zone_is_the_first_that_intersects(make):
    k = make(ram=1 << 30)
    assert add_memory(k, 0, 9 * SECTION, 2 * SECTION, False) == 0
    # Outside of DMA32, which ends with RAM: Normal, though below 4G.
    assert memory_block_online(k, 9, "online_kernel") == 0
    assert k.memory_blocks.zone.get(9) == (0, ZONE_NORMAL)
    assert memory_block_offline(k, 5) == 0  # a boot block in the middle of DMA32
    assert memory_block_online(k, 5, "online_kernel") == 0
    assert k.memory_blocks.zone.get(5) == (0, ZONE_DMA32)


def test_self_hosted_block(make, state):
    k = make(memmap_on_memory="on")
    assert add_memory(k, 0, TOP, SECTION, True) == 0
    before = state(k)
    before.pop("memmap")
    frames = free(k)
    k.paths.calls.clear()
    assert memory_block_online(k, BLOCK, "online_movable") == 0
    zone = k.nodes[0].zones[ZONE_MOVABLE]
    # live-linux.md: 32256 pages of a self-hosted block come free.
    assert (zone.present_pages, zone.managed_pages, free(k) - frames) == (SECTION, 32256, 32256)
    assert (zone.start_pfn, zone.end_pfn) == (TOP, TOP + SECTION)
    assert k.paths.calls == [("init", (0, ZONE_MOVABLE), TOP + 512, SECTION - 512)]
    assert k.memmap.content(TOP + 511) == SelfHosted(0, ZONE_MOVABLE)
    assert k.memmap.content(TOP + 512) == Plain(0, ZONE_MOVABLE)
    assert [k.pageblocks.get(TOP // 512 + i) for i in range(2)] == ["unmovable", "movable"]
    assert memory_block_offline(k, BLOCK) == 0
    after = state(k)
    after.pop("memmap")
    assert after == before
    assert remove_memory(k, TOP, SECTION) == 0


def test_span_follows_the_outer_blocks(plugged):
    k = plugged
    zone = k.nodes[0].zones[ZONE_MOVABLE]

    def span():
        return zone.start_pfn // SECTION - BLOCK, zone.end_pfn // SECTION - BLOCK

    for i in (1, 0, 3, 2):
        assert memory_block_online(k, BLOCK + i, "online_movable") == 0
    assert span() == (0, 4)
    assert memory_block_offline(k, BLOCK + 1) == 0
    assert span() == (0, 4)
    assert memory_block_offline(k, BLOCK) == 0
    assert span() == (2, 4)
    assert memory_block_offline(k, BLOCK + 3) == 0
    assert span() == (2, 3)
    assert memory_block_offline(k, BLOCK + 2) == 0
    assert (zone.start_pfn, zone.end_pfn) == (0, 0)


def test_span_skips_blocks_of_other_zones(plugged):
    k = plugged
    for i, kind in enumerate(("online_movable", "online_kernel", "online_movable", "online_kernel")):
        assert memory_block_online(k, BLOCK + i, kind) == 0
    movable, normal = k.nodes[0].zones[ZONE_MOVABLE], k.nodes[0].zones[ZONE_NORMAL]
    assert memory_block_offline(k, BLOCK + 3) == 0
    assert normal.end_pfn == TOP + 2 * SECTION
    assert memory_block_offline(k, BLOCK) == 0
    assert movable.start_pfn == TOP + 2 * SECTION


def test_boot_blocks_that_cannot_go(make):
    k = make(ram=(1 << 30) + (2 << 20))
    assert memory_block_offline(k, 0) == -EINVAL  # two zones
    assert memory_block_offline(k, 8) == -EINVAL  # 2M of 128M are there
    assert memory_block_offline(k, 7) == -EBUSY  # boot memmap
    assert memory_block_offline(k, 3) == 0


@pytest.mark.parametrize("pages", [1, 600])
def test_unmovable_pages_hold_their_block(make, state, pages):
    k = make(ram=1 << 30)
    zone = k.nodes[0].zones[ZONE_DMA32]
    extents = pages_alloc(k, 0, pages, movable=False)
    assert isinstance(extents, list)
    block = extents[-1][0] // SECTION
    assert k.pages.owners.get(extents[-1][0]) == OWNER_PAGES
    before = state(k)
    assert memory_block_offline(k, block) == -EBUSY
    assert state(k) == before
    assert k.pages.zone_of.get(block * SECTION) is zone


def test_movable_pages_are_moved_and_can_still_be_freed(plugged, state):
    k = plugged
    assert memory_block_online(k, BLOCK, "online_movable") == 0
    empty = state(k)
    first = pages_alloc(k, 0, 1000, movable=True)
    second = pages_alloc(k, 0, 70, movable=True)
    assert k.pages.zone_of.get(second[0][0]).idx == ZONE_MOVABLE
    assert memory_block_offline(k, BLOCK) == 0
    moved = sorted(first + second)
    assert sum(n for _, n in moved) == 1070
    assert all(pfn + n <= TOP for pfn, n in moved)
    assert all(k.pages.owners.get(pfn) == OWNER_PAGES_MOVABLE for pfn, _ in moved)
    for pfn, n in first:
        assert k.pages.holders.get(pfn) is first, n
    # Onto another block and away again, in pieces.
    assert memory_block_online(k, BLOCK, "online_movable") == 0
    pages_free(k, first)
    pages_free(k, second)
    assert k.pages.holders.items() == []
    after = state(k)
    assert after.pop("owners") == empty.pop("owners")
    assert after == empty


def test_a_range_that_lies_half_in_the_block_moves_half(plugged):
    k = plugged
    for i in range(2):
        assert memory_block_online(k, BLOCK + i, "online_movable") == 0
    held = pages_alloc(k, 0, SECTION + 1024, movable=True)  # from the high end: block 1 and a part of block 0
    assert memory_block_offline(k, BLOCK + 1) == 0
    assert sum(n for _, n in held) == SECTION + 1024
    assert all(pfn + n <= TOP + SECTION for pfn, n in held)
    # What lay in block 0 stayed there.
    assert k.pages.owners.get(TOP + SECTION - 1) == OWNER_PAGES_MOVABLE
    pages_free(k, held)
    assert memory_block_offline(k, BLOCK) == 0


def test_no_room_for_what_must_move(make, state):
    k = make(ram=512 << 20)
    assert add_memory(k, 0, 8 * SECTION, SECTION, False) == 0
    assert memory_block_online(k, 8, "online_movable") == 0
    held = pages_alloc(k, 0, 100, movable=True)
    filler = pages_alloc(k, 0, free(k) - k.nodes[0].zones[ZONE_MOVABLE].free_pages(9) - 30, movable=False)
    assert isinstance(filler, list)
    frames = free(k)
    assert memory_block_offline(k, 8) == -EBUSY
    assert free(k) == frames
    assert k.pages.isolated is None
    assert sum(n for _, n in held) == 100
    inside = sum(n for pfn, n in held if pfn >= 8 * SECTION)
    assert inside == 70  # 30 found a place
    pages_free(k, filler)
    assert memory_block_offline(k, 8) == 0
    pages_free(k, held)


def test_pages_move_to_the_other_node(make):
    k = make(ram=1 << 30, nodes=2)
    assert add_memory(k, 0, 16 * SECTION, SECTION, False) == 0
    assert memory_block_online(k, 16, "online_movable") == 0
    held = pages_alloc(k, 0, 10, movable=True)
    assert memory_block_offline(k, 16) == 0
    assert [k.pages.zone_of.get(pfn).nid for pfn, _ in held] == [1]


def test_huge_pages_of_a_block(plugged):
    k = plugged
    assert memory_block_online(k, BLOCK, "online_movable") == 0
    assert nr_hugepages_store(k, 9, 4, None) == 0
    mapped = []
    assert hugetlb_map(k, 9, 2, None, mapped) == 0
    assert all(folio.pfn >= TOP for folio in mapped)
    assert memory_block_offline(k, BLOCK) == 0
    # Two were in use and found new places, two were free and are dissolved.
    assert all(folio.end_pfn <= TOP for folio in mapped)
    assert sum(k.hstates[9].nr) == 2
    hugetlb_unmap(k, 9, mapped)
    assert nr_hugepages_store(k, 9, 0, None) == 0


def test_gigantic_page_that_lies_partly_in_the_block(make, state):
    k = make()
    before = state(k)
    assert nr_hugepages_store(k, 18, 1, None) == 0
    (pfn,) = k.hstates[18].folios
    assert memory_block_offline(k, pfn // SECTION + 1) == 0
    assert sum(k.hstates[18].nr) == 0
    assert k.pages.is_free(pfn, pfn + SECTION)
    assert memory_block_online(k, pfn // SECTION + 1, "online_kernel") == 0
    assert state(k) == before


def test_mapped_gigantic_page_stays(make, state):
    k = make()
    assert nr_hugepages_store(k, 18, 1, None) == 0
    mapped = []
    assert hugetlb_map(k, 18, 1, None, mapped) == 0
    before = state(k)
    assert memory_block_offline(k, mapped[0].pfn // SECTION) == -EBUSY
    assert state(k) == before


def test_isolated_frames_cannot_be_allocated(plugged):
    k = plugged
    assert memory_block_online(k, BLOCK, "online_movable") == 0
    zone = k.nodes[0].zones[ZONE_MOVABLE]
    pages = k.pages
    held = pages_alloc(k, 0, 700, movable=True)
    pages.isolate(zone, TOP, TOP + SECTION)
    assert zone.free_pages(9) == 0
    pages_free(k, held)
    assert pages.isolated_free.items() == [(TOP, TOP + SECTION)]
    assert pages.alloc_bulk(1, 0, OWNER_PAGES_MOVABLE, thisnode=True, zones=(ZONE_MOVABLE,)) == []
    pages.unisolate(zone)
    assert zone.free_pages(9) == SECTION
    assert pages.isolated_free.total == 0
