"""The page allocator against a set of free frames: conservation, merging, placement, contiguous blocks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm.mmzone import ZONE_DMA32, ZONE_MOVABLE, ZONE_NORMAL, Node
from mm.page_alloc import KERNEL_ZONES, OWNER_MEMMAP_BOOT, OWNER_PAGES, KernelBug, PageAllocator, joined

BLOCK = 3
"""Pageblock order of the small allocator: 8 frames."""
SPANS = {ZONE_DMA32: (0, 40), ZONE_NORMAL: (40, 96), ZONE_MOVABLE: (96, 128)}


def small() -> tuple[PageAllocator, Node]:
    """One node; 16 pageblocks in three zones."""
    node = Node(0)
    pages = PageAllocator([node], BLOCK)
    for idx, (lo, hi) in SPANS.items():
        pages.online(node.zones[idx], lo, hi, free=True)
    return pages, node


def free_frames(pages: PageAllocator, node: Node) -> set[int]:
    return {pfn for zone in node.zones for lo, hi in pages.free_set(zone).items() for pfn in range(lo, hi)}


def zone_frames(idx: int) -> range:
    return range(*SPANS[idx])


def lowest_block(free: set[int], order: int, zones: tuple[int, ...]) -> int | None:
    """Where the specification of placement puts a block: first zone, lowest address, naturally aligned."""
    size = 1 << order
    for idx in zones:
        frames = zone_frames(idx)
        for pfn in range(-(-frames.start // size) * size, frames.stop - size + 1, size):
            if free.issuperset(range(pfn, pfn + size)):
                return pfn
    return None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("frames"), st.integers(1, 30)),
        st.tuples(st.just("block"), st.integers(3, 5)),
        st.tuples(st.just("kernel block"), st.just(0)),
        st.tuples(st.just("free"), st.integers(0, 10)),
    ),
    max_size=40,
)


@given(STEPS)
def test_against_a_set(steps: list[tuple[str, int]]) -> None:
    pages, node = small()
    free = set(range(128))
    held: list[tuple[int, int]] = []
    for what, n in steps:
        if what == "frames":
            room = {pfn for idx in KERNEL_ZONES if idx in SPANS for pfn in free.intersection(zone_frames(idx))}
            got = pages.alloc_bulk(n, 0, OWNER_PAGES)
            frames = [pfn for lo, count in got for pfn in range(lo, lo + count)]
            assert len(frames) == len(set(frames)) == min(n, len(room))
            assert room.issuperset(frames)
            free -= set(frames)
            held += got
        elif what == "block":
            want = lowest_block(free, n, (ZONE_MOVABLE, ZONE_NORMAL, ZONE_DMA32))
            assert pages.alloc_block(n, 0, OWNER_PAGES, thisnode=True) == want
            if want is not None:
                free -= set(range(want, want + (1 << n)))
                held.append((want, 1 << n))
        elif what == "kernel block":
            pfn = pages.alloc_kernel_block(0, OWNER_PAGES)
            exists = lowest_block(free, BLOCK, (ZONE_NORMAL, ZONE_DMA32)) is not None
            assert (pfn is not None) == exists
            if pfn is not None:
                assert free.issuperset(range(pfn, pfn + 8))
                free -= set(range(pfn, pfn + 8))
                held.append((pfn, 8))
        elif n < len(held):
            lo, count = held.pop(n)
            pages.free(lo, count)
            free |= set(range(lo, lo + count))
        assert free_frames(pages, node) == free
        assert {pfn for lo, hi, _ in pages.owners.items() for pfn in range(lo, hi)} == set(range(128)) - free
        for zone in node.zones:
            # Eager merging: no wholly free pageblock is among the fragments.
            for lo, hi in zone.frags.items():
                assert -(-lo // 8) >= hi // 8
    assert pages.is_free(0, 128) == (len(free) == 128)
    assert pages.free_count(0, 128) == len(free)


@given(STEPS, st.integers(3, 5), st.integers(0, 12))
def test_a_row_of_blocks_is_the_same_as_one_by_one(steps: list[tuple[str, int]], order: int, n: int) -> None:
    (row, _), (single, _) = small(), small()
    for pages in row, single:
        for what, count in steps:
            if what == "frames":
                pages.alloc_bulk(count, 0, OWNER_PAGES)
            elif what == "block":
                pages.alloc_block(count, 0, OWNER_PAGES, thisnode=True)
    got = row.alloc_blocks(order, n, 0, OWNER_PAGES, thisnode=True)
    one_by_one = [single.alloc_block(order, 0, OWNER_PAGES, thisnode=True) for _ in range(n)]
    assert [pfn for lo, count in got for pfn in range(lo, lo + count, 1 << order)] == [
        pfn for pfn in one_by_one if pfn is not None
    ]
    assert row.owners.items() == single.owners.items()


def test_single_frames_break_the_highest_block() -> None:
    pages, _ = small()
    assert pages.alloc_bulk(2, 0, OWNER_PAGES) == [(88, 2)]
    assert pages.alloc_bulk(2, 0, OWNER_PAGES) == [(90, 2)]
    assert pages.alloc_page(0, OWNER_PAGES) == 92


def test_other_nodes_come_after_the_own() -> None:
    nodes = [Node(0), Node(1)]
    pages = PageAllocator(nodes, BLOCK)
    pages.online(nodes[0].zones[ZONE_NORMAL], 0, 8, free=True)
    pages.online(nodes[1].zones[ZONE_NORMAL], 8, 16, free=True)
    assert pages.alloc_bulk(10, 1, OWNER_PAGES) == [(8, 8), (0, 2)]
    assert pages.alloc_block(BLOCK, 1, OWNER_PAGES, thisnode=True) is None


def test_boot_memory_becomes_managed_when_freed() -> None:
    pages, node = small()
    zone = node.zones[ZONE_NORMAL]
    managed = zone.managed_pages
    for owner, grows in ((OWNER_PAGES, 0), (OWNER_MEMMAP_BOOT, 8)):
        pfn = pages.alloc_block(BLOCK, 0, owner, thisnode=True, zones=KERNEL_ZONES)
        assert pfn is not None
        pages.free(pfn, 8)
        assert zone.managed_pages == managed + grows


def test_double_free_and_foreign_frames() -> None:
    pages, _ = small()
    pages.alloc_bulk(4, 0, OWNER_PAGES)
    pages.free(88, 2)
    with pytest.raises(KernelBug, match="not all allocated"):
        pages.free(88, 2)
    with pytest.raises(KernelBug, match="not all allocated"):
        pages.free(90, 8)
    pages.claim(200, 202, OWNER_PAGES)
    with pytest.raises(KernelBug, match="not online RAM"):
        pages.free(200, 2)


def test_references() -> None:
    pages, _ = small()
    pages.get_refs(5, 4094)  # the tail page of a 1G device page: 4095 entries
    assert not pages.put_refs(5, 4000)
    assert pages.put_refs(5, 95)
    assert pages.refs == {}
    with pytest.raises(KernelBug, match="below zero"):
        pages.put_refs(5, 2)


def test_offline_takes_the_frames_away() -> None:
    pages, node = small()
    zone = node.zones[ZONE_NORMAL]
    pages.offline(zone, 48, 56)
    assert zone.managed_pages == 48
    assert free_frames(pages, node) == set(range(128)) - set(range(48, 56))
    assert pages.alloc_block(4, 0, OWNER_PAGES, thisnode=True, zones=(ZONE_NORMAL,)) == 64


@given(st.permutations(range(12)), st.lists(st.integers(0, 11)))
def test_extents_are_joined(order: list[int], cuts: list[int]) -> None:
    """Any cut of frames 0 to 11 and 20 to 31, in any order, joins to two extents."""
    edges = sorted({0, 12, *cuts})
    pieces = [(lo, hi - lo) for lo, hi in pairwise(edges)]
    pieces += [(lo + 20, n) for lo, n in pieces]
    pieces.sort(key=lambda piece: order[piece[0] % 20])
    assert joined(pieces) == [(0, 12), (20, 12)]


def test_freeing_extents_of_different_owners() -> None:
    pages, node = small()
    managed = node.zones[ZONE_NORMAL].managed_pages
    pages.alloc_bulk(4, 0, OWNER_PAGES)
    pages.alloc_bulk(4, 0, OWNER_MEMMAP_BOOT)
    pages.free_extents([(92, 4), (90, 2), (88, 2)])
    assert free_frames(pages, node) == set(range(128))
    assert node.zones[ZONE_NORMAL].managed_pages == managed + 4
    pages.alloc_bulk(4, 0, OWNER_PAGES)
    with pytest.raises(KernelBug, match="not all allocated"):
        pages.free_extents([(88, 2), (90, 2), (88, 1)])
    with pytest.raises(KernelBug, match="not all allocated"):
        pages.free_extents([(40, 2), (42, 2)])
