"""add_memory and remove_memory: return codes, order, and what is undone when a step fails (separate-paths.md 3.18)."""

import pytest

from mm.errno import E2BIG, EBUSY, EEXIST, EINVAL, ENOMEM
from mm.memmap_on_memory import mhp_altmap, mhp_supports_memmap_on_memory
from mm.memory import MemoryBlocks
from mm.memory_hotplug import (
    add_memory,
    arch_add_memory,
    memory_block_offline,
    memory_block_online,
    memory_blocks_have_altmaps,
    remove_memory,
)
from mm.page_alloc import OWNER_SELFHOSTED
from mm.resource import request_region

SECTION = 32768
TOP = 0x180000
"""First pfn after 4G of RAM."""
BLOCK = TOP // SECTION
OFFLINE = MemoryBlocks.OFFLINE


def free(k):
    return sum(zone.free_pages(k.arch.pmd_order) for node in k.nodes for zone in node.zones)


def fail(k, nth):
    k.faults.nth = nth
    k.faults.begin()


def test_add_goes_up_the_sections_and_makes_one_offline_block_each(make):
    k = make()
    before = free(k)
    assert add_memory(k, 0, TOP, 3 * SECTION, False) == 0
    assert k.paths.calls == [("add", 0, TOP + i * SECTION, SECTION, None, None) for i in range(3)]
    assert k.memory_blocks.zone.runs(BLOCK, BLOCK + 9) == [(BLOCK, BLOCK + 3, OFFLINE)]
    assert (BLOCK, BLOCK + 3) in k.memory_blocks.touched
    assert k.faults.reached == 3 + 3  # USG a section, BLK a block
    assert free(k) == before - 3 * 512
    assert k.vmstat.nr_memmap == 3 * 512
    assert k.iomem.get(TOP) == "hotplug"


@pytest.mark.parametrize(
    ("start", "nr", "errno"),
    [
        (TOP - SECTION, SECTION, EEXIST),  # boot RAM
        (TOP - 512, SECTION, EEXIST),  # the resource is asked for before the alignment is looked at
        (TOP + 512, SECTION, EINVAL),
        (TOP, SECTION - 512, EINVAL),
        (TOP + 8 * SECTION, 2 * SECTION, EEXIST),  # added before
        (TOP + 16 * SECTION, 2 * SECTION, EEXIST),  # a device
        (TOP, 0, E2BIG),
        ((1 << 34) - SECTION, 2 * SECTION, E2BIG),  # 64T is the end of physical memory
    ],
)
def test_refused(make, state, start, nr, errno):
    k = make()
    assert add_memory(k, 0, TOP + 8 * SECTION, SECTION, False) == 0
    assert request_region(k, TOP + 17 * SECTION, TOP + 18 * SECTION, "dax")
    before = state(k)
    assert add_memory(k, 0, start, nr, False) == -errno
    assert state(k) == before


def test_last_section_of_physical_memory(make):
    k = make()
    assert add_memory(k, 0, (1 << 34) - SECTION, SECTION, False) == 0


def test_sections_before_a_failing_one_are_kept(make):
    k = make()
    k.paths.fail_section = BLOCK + 2
    assert add_memory(k, 0, TOP, 4 * SECTION, False) == -ENOMEM
    assert [call[0] for call in k.paths.calls] == ["add"] * 3
    assert k.vmstat.nr_memmap == 2 * 512  # Q12
    assert k.sections.word(BLOCK + 1)
    assert k.memory_blocks.zone.get(BLOCK) is None
    assert k.iomem.get(TOP) is None
    assert k.log == ["WARNING: add_pages"]
    # They are in the way of the next attempt.
    assert add_memory(k, 0, TOP, 4 * SECTION, False) == -EEXIST
    assert add_memory(k, 0, TOP + 3 * SECTION, SECTION, False) == 0


@pytest.mark.parametrize("nth", [3, 4])
def test_block_device_fails(make, state, nth):
    k = make()
    before = state(k)
    fail(k, nth)
    assert add_memory(k, 0, TOP, 2 * SECTION, False) == -ENOMEM
    assert k.faults.fired == "BLK"
    assert k.paths.calls[2:] == [("remove", TOP, SECTION, None, None), ("remove", TOP + SECTION, SECTION, None, None)]
    assert state(k) == before


@pytest.mark.parametrize(
    ("mode", "block_pages", "supported"),
    [
        ("off", SECTION, False),
        ("on", SECTION, True),
        ("force", SECTION, True),
        ("on", SECTION // 2, False),  # 256 memmap pages are no pageblock
        ("force", SECTION // 2, False),  # 512 are, but 1M of struct pages is no PMD
        ("force", 512, False),  # the whole block would be memmap
        ("on", 32, False),  # half a page of struct pages
        ("on", 4 * SECTION, True),
    ],
)
def test_p7(make, mode, block_pages, supported):
    k = make(memmap_on_memory=mode)
    k.memory_blocks.pages = block_pages
    assert mhp_supports_memmap_on_memory(k) is supported


@pytest.mark.parametrize(
    ("mode", "asked", "self_hosted"),
    [("off", True, False), ("on", False, False), ("on", True, True), ("force", True, True)],
)
def test_self_hosting_takes_mode_and_request(make, mode, asked, self_hosted):
    k = make(memmap_on_memory=mode)
    assert add_memory(k, 0, TOP, 2 * SECTION, asked) == 0
    assert list(k.memory_blocks.altmaps) == ([BLOCK, BLOCK + 1] if self_hosted else [])


def test_self_hosted_memmap_is_in_its_block(make, state):
    k = make(memmap_on_memory="on")
    before, frames = state(k), free(k)
    assert add_memory(k, 0, TOP, 2 * SECTION, True) == 0
    assert free(k) == frames
    assert k.vmstat.nr_memmap == 2 * 512
    assert k.pages.owners.runs(TOP, TOP + 2 * SECTION) == [
        (TOP, TOP + 512, OWNER_SELFHOSTED),
        (TOP + SECTION, TOP + SECTION + 512, OWNER_SELFHOSTED),
    ]
    assert [a.alloc for a in k.memory_blocks.altmaps.values()] == [512, 512]
    assert remove_memory(k, TOP, 2 * SECTION) == 0
    assert state(k) == before
    assert k.log == []


@pytest.mark.parametrize(
    ("nth", "kind"), [(3 * block + i + 1, kind) for block in range(3) for i, kind in enumerate(("ALT", "USG", "BLK"))]
)
def test_self_hosted_undo_at_every_point(make, state, nth, kind):
    k = make(memmap_on_memory="on")
    before = state(k)
    fail(k, nth)
    assert add_memory(k, 0, TOP, 3 * SECTION, True) == -ENOMEM
    assert k.faults.fired == kind
    assert state(k) == before
    assert [text for text in k.log if "altmap" in text] == []
    added = [call[2] for call in k.paths.calls if call[0] == "add"]
    removed = [call[1] for call in k.paths.calls if call[0] == "remove"]
    if kind == "BLK":  # its own section first, then those of the blocks before
        assert removed == [added[-1], *added[:-1]]
    else:
        assert removed == added[: (nth - 1) // 3]


@pytest.mark.parametrize(("base", "pages"), [(TOP + SECTION, 2 * SECTION), (TOP, 256)])
def test_altmap_must_fit_its_range(make, base, pages):
    k = make(memmap_on_memory="on")
    altmap = mhp_altmap(k, base)
    altmap.alloc = 1
    assert arch_add_memory(k, 0, TOP, pages, altmap, None) == -EINVAL
    assert k.paths.calls == []
    assert "memory add fail, invalid altmap" in k.log


def test_add_then_remove_is_the_identity(make, state):
    k = make()
    before = state(k)
    assert add_memory(k, 0, TOP, 5 * SECTION, False) == 0
    assert remove_memory(k, TOP, 5 * SECTION) == 0
    assert state(k) == before
    assert k.paths.calls[5:] == [("remove", TOP + i * SECTION, SECTION, None, None) for i in range(5)]


def test_parts_can_be_removed(make, state):
    k = make()
    assert add_memory(k, 0, TOP, SECTION, False) == 0
    before = state(k)
    assert add_memory(k, 0, TOP + SECTION, 2 * SECTION, False) == 0
    assert remove_memory(k, TOP + 2 * SECTION, SECTION) == 0
    assert remove_memory(k, TOP + SECTION, SECTION) == 0
    assert state(k) == before


def test_online_blocks_are_not_removed(make, state):
    k = make()
    assert add_memory(k, 0, TOP, 2 * SECTION, False) == 0
    assert memory_block_online(k, BLOCK + 1, "online_movable") == 0
    before = state(k)
    assert remove_memory(k, TOP, 2 * SECTION) == -EBUSY
    assert state(k) == before
    assert memory_block_offline(k, BLOCK + 1) == 0
    assert remove_memory(k, TOP, 2 * SECTION) == 0


def test_remove_of_no_row_of_blocks(make):
    k = make()
    assert remove_memory(k, TOP, 0) == -EINVAL
    assert remove_memory(k, TOP + 512, SECTION) == -EINVAL


def test_blocks_with_and_without_altmap_do_not_mix(make, state):
    k = make(memmap_on_memory="on")
    assert add_memory(k, 0, TOP, SECTION, True) == 0
    assert add_memory(k, 0, TOP + SECTION, SECTION, False) == 0
    before = state(k)
    assert remove_memory(k, TOP, 2 * SECTION) == -EINVAL
    assert k.log == ["WARNING: memory_blocks_have_altmaps"]
    assert state(k) == before
    assert [memory_blocks_have_altmaps(k, BLOCK + i, BLOCK + i + 1) for i in range(2)] == [1, 0]
