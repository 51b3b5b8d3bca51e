"""Device DAX: arguments, several ranges, altmaps, and the order in which errors are undone (separate-paths.md 3.19)."""

import pytest

from mm.dax import create_dev_dax, unregister_dev_dax
from mm.dev_dax import DevDax
from mm.errno import EBUSY, EINVAL, ENOMEM, ENXIO
from mm.memory_hotplug import add_memory
from mm.memremap import memremap_pages
from mm.mmzone import SECTION_TAINT_ZONE_DEVICE, ZONE_DEVICE
from mm.page_alloc import OWNER_ALTMAP
from mm.pgmap import PgMap

SECTION = 32768
TOP = 0x180000
K4, M2, G1 = 4096, 2 << 20, 1 << 30
PER_G = G1 // 4096
PER_M = 256


def ranges(*pairs):
    return [(TOP + start * PER_M, TOP + (start + size) * PER_M) for start, size in pairs]


@pytest.mark.parametrize(("align", "shift"), [(K4, 0), (M2, 9), (G1, 18)])
def test_create_and_destroy(make, state, align, shift):
    k = make()
    before = state(k)
    device = create_dev_dax(k, [(TOP, TOP + PER_G)], align, False, 0)
    assert isinstance(device, DevDax)
    pgmap = device.pgmap
    assert (pgmap.vmemmap_shift, pgmap.nr_range, pgmap.altmap) == (shift, 1, None)
    assert k.pgmaps == [pgmap]
    assert k.paths.calls == [
        *(("add", 0, TOP + i * SECTION, SECTION, None, 0) for i in range(8)),
        ("init device", (0, ZONE_DEVICE), TOP, PER_G),
    ]
    assert k.iomem.get(TOP) == "dax"
    zone = k.nodes[0].zones[ZONE_DEVICE]
    assert (zone.start_pfn, zone.end_pfn, zone.present_pages) == (TOP, TOP + PER_G, 0)
    k.paths.calls.clear()
    unregister_dev_dax(k, device)
    assert k.paths.calls == [("remove", TOP + i * SECTION, SECTION, None, pgmap) for i in range(8)]
    assert state(k) == before
    assert (zone.start_pfn, zone.end_pfn) == (TOP, TOP + PER_G)  # never shrinks


@pytest.mark.parametrize(
    ("pairs", "align", "altmap", "errno"),
    [
        ([(0, 128)], 8192, False, EINVAL),
        ([(0, 129)], M2, False, EINVAL),
        ([(0, 129)], K4, False, EINVAL),  # 2M is the least granularity
        ([(0, 1024), (2048, 512)], G1, False, EINVAL),
        ([(0, 0)], M2, False, ENXIO),
        ([(0, 128), (256, 128)], M2, True, EINVAL),
        ([(-2, 4)], M2, False, EBUSY),  # RAM
        ([(0, 128), (126, 128)], M2, False, EBUSY),  # itself
        ([(4096, 128)], M2, False, EBUSY),  # hotplugged RAM
        ([(8192, 128)], M2, True, EBUSY),  # another device
        ([(1, 128)], M2, False, EINVAL),  # the start is first looked at by __add_pages
        ([(1, 128)], M2, True, EINVAL),
        ([(0, 2)], M2, True, ENXIO),  # no room for anything but the memmap
        ([(0, 1024)], G1, True, ENXIO),
        ([((64 << 20) - (TOP // PER_M) - 2, 4)], M2, False, EBUSY),  # beyond the end of physical memory
    ],
)
def test_refused(make, state, pairs, align, altmap, errno):
    k = make()
    assert add_memory(k, 0, TOP + 4096 * PER_M, SECTION, False) == 0
    assert isinstance(create_dev_dax(k, ranges((8192, 256)), M2, False, 0), DevDax)
    before = state(k)
    assert create_dev_dax(k, ranges(*pairs), align, altmap, 0) == -errno
    assert state(k) == before


def test_start_that_is_no_subsection_is_a_warning(make):
    k = make()
    assert create_dev_dax(k, ranges((1, 128)), M2, False, 0) == -EINVAL
    assert [text.split(":")[0] for text in k.log] == ["WARNING", "WARNING"]
    assert k.paths.calls == []


def test_start_need_not_be_aligned_to_the_compound_size(make):
    k = make()
    assert isinstance(create_dev_dax(k, ranges((2, 1024)), G1, False, 0), DevDax)
    assert [call[2:4] for call in k.paths.calls if call[0] == "add"][::8] == [
        (TOP + 512, SECTION - 512),
        (TOP + PER_G, 512),
    ]


def test_several_ranges_go_in_order(make, state):
    k = make()
    before = state(k)
    rs = ranges((512, 128), (0, 256), (1024, 2))
    device = create_dev_dax(k, rs, M2, False, 0)
    assert isinstance(device, DevDax)
    pgmap = device.pgmap
    # The last field is nr_range while the range is being added.
    assert [(c[2], c[3], c[5]) for c in k.paths.calls if c[0] == "add"] == [
        (rs[0][0], SECTION, 0),
        (TOP, SECTION, 1),
        (TOP + SECTION, SECTION, 1),
        (rs[2][0], 512, 2),
    ]
    assert [c[2] for c in k.paths.calls if c[0] == "init device"] == [start for start, _ in rs]
    assert pgmap.nr_range == 3
    k.paths.calls.clear()
    unregister_dev_dax(k, device)
    assert [c[1] for c in k.paths.calls] == [rs[0][0], TOP, TOP + SECTION, rs[2][0]]
    assert state(k) == before


def test_a_failing_range_undoes_those_before_it_but_not_itself(make):
    k = make()
    rs = ranges((0, 128), (256, 128), (512, 384))
    k.paths.fail_section = (TOP + 768 * PER_M) // SECTION  # third of the last range
    assert create_dev_dax(k, rs, M2, False, 0) == -ENOMEM
    assert [c[1] for c in k.paths.calls if c[0] == "remove"] == [rs[0][0], rs[1][0]]
    first = rs[2][0] // SECTION
    assert [bool(k.sections.word(nr)) for nr in range(TOP // SECTION, first + 3)] == [False] * 4 + [True, True, False]
    assert k.vmstat.nr_memmap == 2 * 512
    assert k.pgmaps == []
    assert k.iomem.runs(TOP, 1 << 34) == []


def test_first_range_fails(make):
    k = make()
    k.paths.fail_section = TOP // SECTION
    assert create_dev_dax(k, ranges((0, 128), (256, 128)), M2, False, 0) == -ENOMEM
    assert [c[0] for c in k.paths.calls] == ["add"]


@pytest.mark.parametrize(
    ("size", "align", "data", "end"),
    [
        (3072, M2, 50, 3072),  # live-linux.md: 50M with the memmap of 3G in the device
        (3072, K4, 50, 3072),
        (3072, G1, 1024, 3072),  # live-linux.md: 1G for align 1G
        (1024, M2, 18, 1024),
        (128, M2, 4, 128),
        (16, M2, 2, 16),
    ],
)
def test_layout_of_a_static_device(make, state, size, align, data, end):
    k = make()
    before = state(k)
    device = create_dev_dax(k, ranges((0, size)), align, True, 0)
    assert isinstance(device, DevDax)
    pgmap = device.pgmap
    assert pgmap.ranges == ranges((0, end))
    altmap = pgmap.altmap
    assert (altmap.base_pfn, altmap.reserve, altmap.offset()) == (TOP, 2, data * PER_M)
    sections = size // 128
    assert altmap.alloc == 512 * sections
    # Its frames are the device's own, from the first PMD boundary on.
    used = [(TOP + 2, TOP + 512 * (sections + 1), OWNER_ALTMAP)] if sections else []
    assert k.pages.owners.runs(TOP, TOP + size * PER_M) == used
    assert k.paths.calls[-2:] == [
        ("init", (0, ZONE_DEVICE), TOP + 2, data * PER_M - 2),
        ("init device", (0, ZONE_DEVICE), TOP, end * PER_M),
    ]
    assert k.pageblocks.get(TOP // 512 + 1) == ("movable" if data > 2 else None)
    unregister_dev_dax(k, device)
    assert altmap.alloc == 0
    assert state(k) == before
    assert k.log == []


@pytest.mark.parametrize(
    ("at", "size", "align", "rc"),
    [
        (0x318200000, 14, M2, -ENXIO),
        (0x300000000, 194, G1, -ENXIO),
        (0x30C200000, 62, G1, -EBUSY),
        (0x310000000, 130, G1, -EBUSY),
    ],
)
def test_namespaces_that_are_too_small(make, state, at, size, align, rc):
    """Seen on Linux 7.3.4 with namespaces at these addresses."""
    k = make(ram=4 << 30)
    before = state(k)
    assert create_dev_dax(k, [(at >> 12, (at >> 12) + size * PER_M)], align, True, 0) == rc
    assert state(k) == before


def test_static_device_ends_at_a_multiple_of_its_alignment(make):
    k = make()
    device = create_dev_dax(k, ranges((2, 3072)), G1, True, 0)
    assert isinstance(device, DevDax)
    pgmap = device.pgmap
    assert pgmap.ranges == ranges((2, 3070))
    assert pgmap.altmap.offset() == 1022 * PER_M
    assert k.iomem.get(TOP + 3072 * PER_M) is None


def test_altmap_of_a_device_that_fails_keeps_what_was_taken(make):
    k = make()
    k.paths.fail_section = TOP // SECTION + 3
    assert create_dev_dax(k, ranges((0, 1024)), M2, True, 0) == -ENOMEM
    assert k.pages.owners.runs(TOP, TOP + PER_G) == [(TOP + 2, TOP + 512 + 3 * 512, OWNER_ALTMAP)]
    assert k.log == ["WARNING: add_pages", "failed to free all reserved pages"]
    assert k.iomem.runs(TOP, TOP + PER_G) == []


def test_sections_that_a_device_shares_are_tainted(make):
    k = make()
    assert isinstance(create_dev_dax(k, ranges((64, 192)), M2, False, 0), DevDax)
    assert isinstance(create_dev_dax(k, ranges((256, 66)), M2, False, 0), DevDax)
    first = TOP // SECTION
    assert [bool(k.sections.word(first + i) & SECTION_TAINT_ZONE_DEVICE) for i in range(3)] == [True, False, True]


def test_device_beside_ram_in_one_section(make, state):
    k = make(ram=(1 << 30) + (64 << 20))
    before = state(k)
    start = 0x44000
    device = create_dev_dax(k, [(start, start + 192 * PER_M)], M2, False, 0)
    assert isinstance(device, DevDax)
    assert [c[2:4] for c in k.paths.calls if c[0] == "add"] == [(start, SECTION // 2), (start + SECTION // 2, SECTION)]
    assert k.vmstat.nr_memmap == 512  # the first half reuses the boot memmap
    unregister_dev_dax(k, device)
    after = state(k)
    assert after.pop("sections")[1] == before.pop("sections")[1]
    assert after == {**before, "memmap": after["memmap"]}


def test_shift_beyond_the_largest_folio(make):
    k = make()
    pgmap = PgMap([(TOP, TOP + SECTION)], 23, None, 0, "generic")
    assert memremap_pages(k, pgmap) == -EINVAL
    assert k.log == ["requested folio size unsupported"]
