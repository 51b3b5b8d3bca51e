"""Drivers of one DAX device in turn, and kmem with its state (drivers/dax/{bus,fsdev,kmem}.c; separate-paths.md 3.18,
3.19; numbers of live-linux.md 3)."""

import pytest

from mm.dax import (
    create_dev_dax,
    dax_bus_probe,
    dax_bus_remove,
    devm_create_dev_dax,
    memmap_on_memory_store,
    unregister_dev_dax,
)
from mm.dev_dax import DevDax
from mm.errno import EBUSY, EEXIST, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP
from mm.kmem import kmem_block, kmem_ranges, state_store
from mm.memory import MemoryBlocks
from mm.memory_hotplug import (
    add_memory,
    memory_block_offline,
    memory_block_online,
    offline_and_remove_memory_ranges,
)
from mm.mmzone import ZONE_MOVABLE, ZONE_NORMAL
from mm.page_alloc import pages_alloc, pages_free

SECTION = 32768
TOP = 0x180000
BLOCK = TOP // SECTION
PER_M = 256
G = 1024 * PER_M
K4, M2, G1 = 4096, 2 << 20, 1 << 30
OFFLINE = MemoryBlocks.OFFLINE


def device(k, pairs, align=M2, altmap=False, driver="kmem"):
    """A device of (start, size) in MiB from TOP on."""
    ranges = [(TOP + start * PER_M, TOP + (start + size) * PER_M) for start, size in pairs]
    made = create_dev_dax(k, ranges, align, altmap, 0, driver)
    assert isinstance(made, DevDax), made
    return made


def fail(k, nth):
    k.faults.nth = nth
    k.faults.begin()


def zones(k, d):
    per = SECTION
    return [k.memory_blocks.zone.get(b) for s, e in kmem_ranges(k, d) for b in range(s // per, e // per)]


# -- rebinding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("altmap", [False, True])
def test_every_driver_in_turn_leaves_nothing(make, state, altmap):
    k = make()
    before = state(k)
    ranges = [(TOP, TOP + G)]
    d = devm_create_dev_dax(k, ranges, M2, altmap, 0)
    shifts = []
    for driver in ("devdax", "fsdev", "kmem", "devdax", "kmem", "fsdev", "none", "devdax"):
        dax_bus_remove(k, d)
        assert d.driver == "none"
        assert dax_bus_probe(k, d, driver) == 0
        assert d.driver == driver
        if d.pgmap is not None:
            shifts.append((driver, d.pgmap.vmemmap_shift, d.pgmap.type, d.pgmap is d.static))
    # fsdev.c: "shift 0 (forced also on a static pgmap)"
    assert shifts == [
        ("devdax", 9, "generic", altmap),
        ("fsdev", 0, "fsdax", altmap),
        ("devdax", 9, "generic", altmap),
        ("fsdev", 0, "fsdax", altmap),
        ("devdax", 9, "generic", altmap),
    ]
    unregister_dev_dax(k, d)
    assert state(k) == before
    assert k.log == []


def test_a_binding_that_fails_leaves_the_device_without_driver(make):
    k = make()
    d = device(k, [(0, 256)], driver="devdax")
    dax_bus_remove(k, d)
    k.paths.fail_section = BLOCK
    assert dax_bus_probe(k, d, "devdax") == -ENOMEM
    assert dax_bus_probe(k, d, "kmem") == -ENOMEM
    assert (d.driver, d.pgmap, d.kmem) == ("none", None, None)
    assert k.iomem.runs(TOP, 1 << 34) == []
    k.paths.fail_section = None
    assert dax_bus_probe(k, d, "kmem") == 0


def test_a_static_device_keeps_its_metadata_area(make):
    k = make()
    d = device(k, [(0, 3072)], altmap=True, driver="devdax")
    dax_bus_remove(k, d)
    data = TOP + 50 * PER_M  # live-linux.md: 50M with the memmap of 3G in the device
    assert k.iomem.runs(TOP, TOP + 3 * G) == [(TOP, data, "dax")]
    assert d.ranges == [(data, TOP + 3 * G)]
    unregister_dev_dax(k, d)
    assert k.iomem.runs(TOP, TOP + 3 * G) == []


# -- what kmem adds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "blocks"),
    [
        ([(0, 1024)], [0, 1, 2, 3, 4, 5, 6, 7]),
        ([(2, 1024)], [1, 2, 3, 4, 5, 6, 7]),
        ([(64, 128), (256, 130)], [2]),
        ([(0, 126), (256, 128)], [2]),
        ([(1024, 128), (0, 256)], [8, 0, 1]),
    ],
)
def test_whole_blocks_become_memory(make, state, pairs, blocks):
    k = make()
    before = state(k)
    d = device(k, pairs)
    assert [kmem_block(k, d, i) for i in range(len(blocks) + 1)] == [*(BLOCK + b for b in blocks), -1]
    assert zones(k, d) == [OFFLINE] * len(blocks)
    assert k.vmstat.nr_memmap == 512 * len(blocks)
    assert d.kmem.state == "offline"
    unregister_dev_dax(k, d)
    assert state(k) == before


def test_1g_pmem_loses_its_first_block(make):
    """live-linux.md 3: devdax -> kmem (1 GiB pmem): mm +3584, PMD +7, the first block is trimmed."""
    k = make()
    d = device(k, [(0, 1024)], altmap=True)
    assert k.vmstat.nr_memmap == 3584
    assert kmem_block(k, d, 0) == BLOCK + 1


@pytest.mark.parametrize("pairs", [[(2, 126)], [(64, 128)], [(2, 252)]])
def test_no_whole_block(make, state, pairs):
    k = make()
    before = state(k)
    ranges = [(TOP + start * PER_M, TOP + (start + size) * PER_M) for start, size in pairs]
    assert create_dev_dax(k, ranges, M2, False, 0, "kmem") == -EINVAL
    assert state(k) == before


def test_a_range_that_fails_is_passed_over_unless_it_is_the_first(make):
    k = make()
    k.paths.fail_section = BLOCK + 8
    d = device(k, [(0, 256), (1024, 128), (2048, 128)])
    assert d.kmem.res == [True, False, True]
    assert zones(k, d) == [OFFLINE, OFFLINE, None, OFFLINE]
    k.paths.fail_section = BLOCK + 24
    made = create_dev_dax(k, [(TOP + 3 * G, TOP + 4 * G), (TOP + 5 * G, TOP + 6 * G)], M2, False, 0, "kmem")
    assert made == -ENOMEM
    assert k.iomem.runs(TOP + 3 * G, TOP + 9 * G) == []


def test_a_busy_range_is_passed_over_unless_it_is_the_first(make):
    k = make()
    assert add_memory(k, 0, TOP + G, SECTION, False) == 0
    d = device(k, [(0, 128), (1024, 256), (2048, 128)])
    assert d.kmem.res == [True, False, True]
    assert create_dev_dax(k, [(TOP + G, TOP + G + SECTION)], M2, False, 0, "kmem") == -EBUSY


@pytest.mark.parametrize("asked", [False, True])
def test_memmap_on_memory_is_the_devices_wish(make, asked):
    """live-linux.md 3: kmem with device memmap_on_memory=1: frames in the device, no page of RAM."""
    k = make(memmap_on_memory="on")
    d = device(k, [(0, 1024)], driver="devdax")
    assert memmap_on_memory_store(k, d, asked) == 0
    dax_bus_remove(k, d)
    free = sum(zone.free_pages(9) for zone in k.nodes[0].zones)
    assert dax_bus_probe(k, d, "kmem") == 0
    assert k.vmstat.nr_memmap == 4096
    assert free - sum(zone.free_pages(9) for zone in k.nodes[0].zones) == (0 if asked else 4096)
    assert memmap_on_memory_store(k, d, not asked) == -EBUSY
    assert memmap_on_memory_store(k, d, asked) == 0
    unregister_dev_dax(k, d)


def test_memmap_on_memory_that_the_kernel_does_not_have(make):
    k = make()
    d = device(k, [(0, 1024)])
    assert memmap_on_memory_store(k, d, True) == -EOPNOTSUPP
    assert memmap_on_memory_store(k, d, False) == 0


# -- state ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "zone"),
    [("offline", None), ("online", ZONE_NORMAL), ("online_kernel", ZONE_NORMAL), ("online_movable", ZONE_MOVABLE)],
)
def test_blocks_go_online_by_the_default(make, policy, zone):
    k = make(memhp_default_state=policy)
    d = device(k, [(0, 256), (512, 128)])
    assert d.kmem.state == policy
    assert zones(k, d) == [OFFLINE if zone is None else (0, zone)] * 3


def test_state_written(make, state):
    k = make()
    before = state(k)
    d = device(k, [(0, 256), (512, 128)])
    assert state_store(k, d, "offline") == -EINVAL
    assert state_store(k, d, "online_kernel") == -EBUSY  # "onlining only from unplugged"
    assert zones(k, d) == [OFFLINE] * 3
    assert state_store(k, d, "unplugged") == 0
    assert state(k) == before
    assert state_store(k, d, "unplugged") == 0
    assert state_store(k, d, "online_movable") == 0
    assert zones(k, d) == [(0, ZONE_MOVABLE)] * 3
    assert state_store(k, d, "online_movable") == 0
    assert state_store(k, d, "online") == -EBUSY
    assert state_store(k, d, "unplugged") == 0
    assert state_store(k, d, "online") == 0
    assert zones(k, d) == [(0, ZONE_NORMAL)] * 3
    unregister_dev_dax(k, d)
    assert state_store(k, d, "unplugged") == -ENOENT
    assert k.iomem.runs(TOP, TOP + G) != []  # still online


def test_unplugging_is_all_or_nothing(make):
    k = make()
    d = device(k, [(0, 256), (512, 128)])
    for block, online_type in ((0, "online_movable"), (4, "online_kernel")):
        assert memory_block_online(k, BLOCK + block, online_type) == 0
    pages = pages_alloc(k, 0, sum(z.free_pages(9) for z in k.nodes[0].zones[:3]), False)
    assert state_store(k, d, "unplugged") == -EBUSY
    assert zones(k, d) == [(0, ZONE_MOVABLE), OFFLINE, (0, ZONE_NORMAL)]
    assert d.kmem.state == "offline"
    pages_free(k, pages)
    assert state_store(k, d, "unplugged") == 0
    assert zones(k, d) == [None] * 3


def test_plugging_again_can_fail(make):
    k = make()
    d = device(k, [(0, 256)])
    assert state_store(k, d, "unplugged") == 0
    fail(k, 1)
    assert state_store(k, d, "online_movable") == -ENOMEM
    assert d.kmem.state == "unplugged"
    assert k.iomem.runs(TOP, TOP + G) == []
    assert add_memory(k, 0, TOP, SECTION, False) == 0
    assert state_store(k, d, "online_movable") == -EBUSY


def test_unbound_while_a_block_is_online(make):
    """live-linux.md 3: "driver is gone, range leaked until reboot: bind then gives -16 even after offlining"."""
    k = make()
    d = device(k, [(0, 256), (512, 128)])
    assert memory_block_online(k, BLOCK + 1, "online_movable") == 0
    dax_bus_remove(k, d)
    assert d.driver == "none"
    assert zones(k, d) == [OFFLINE, (0, ZONE_MOVABLE), None]
    assert dax_bus_probe(k, d, "devdax") == -EBUSY
    assert dax_bus_probe(k, d, "kmem") == -EBUSY
    assert memory_block_offline(k, BLOCK + 1) == 0
    assert dax_bus_probe(k, d, "devdax") == -EBUSY
    assert dax_bus_probe(k, d, "kmem") == -EBUSY
    unregister_dev_dax(k, d)
    assert add_memory(k, 0, TOP, SECTION, False) == -EEXIST
    assert add_memory(k, 0, TOP + 512 * PER_M, SECTION, False) == 0  # the other range was given back


# -- offline_and_remove_memory_ranges -------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [[], [(TOP, 0)], [(TOP, 512)], [(TOP + 512, SECTION)], [(TOP, SECTION), (TOP, 1)]])
def test_ranges_that_are_no_rows_of_blocks(make, ranges):
    k = make()
    assert add_memory(k, 0, TOP, SECTION, False) == 0
    assert offline_and_remove_memory_ranges(k, ranges) == -EINVAL


@pytest.mark.parametrize("fails", [False, True])
def test_ranges_go_together(make, state, fails):
    k = make()
    before = state(k)
    for start in (TOP, TOP + G):
        assert add_memory(k, 0, start, 2 * SECTION, False) == 0
    for block in (0, 1, 8, 9):
        assert memory_block_online(k, BLOCK + block, "online_kernel" if block == 1 else "online_movable") == 0
    if fails:
        # The second range lets its first block go, and has no second one that is whole.
        k.pages.owners.set(TOP + G + SECTION, TOP + G + SECTION + 1, "pages")
        k.nodes[0].zones[ZONE_MOVABLE].blocks.remove((TOP + G + SECTION) >> 9, ((TOP + G + SECTION) >> 9) + 1)
    was = k.memory_blocks.zone.items()
    rc = offline_and_remove_memory_ranges(k, [(TOP, 2 * SECTION), (TOP + G, 2 * SECTION)])
    if fails:
        assert rc == -EBUSY
        assert k.memory_blocks.zone.items() == was
    else:
        assert rc == 0
        assert state(k) == before
