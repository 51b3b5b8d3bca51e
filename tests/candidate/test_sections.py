"""unified-framework.md 3.2, 3.3, 3.4, 3.8 (sections), 3.6 and 4 (what is initialised), 4.2 (alignment)."""

import pytest

from candidate.vmemmap_optimization import section_set_compound_order_range, vmemmap_shared_tail_page
from candidate.vmemmap_populate import vmemmap_populate_hugepages
from mm.altmap import Altmap
from mm.errno import EEXIST, EINVAL, ENOMEM, EOPNOTSUPP
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY, SECTION_MARKED_PRESENT, ZONE_DEVICE
from mm.page import POISON, Compound, Plain, Tail
from mm.page_alloc import OWNER_MEMMAP, KernelBug
from mm.pgtable import Leaf

PPS = 32768
DAX = 6 << 18
SECTION = DAX // PPS


def state(b):
    """All that an add and its removal must leave as it was, but for shared tail pages."""
    k = b.k
    tails = len(b.paths.zone_tails())
    return (
        k.tables.entries.items(),
        [level.items() for level in k.tables.tables],
        k.memmap.own.items(),
        k.sections.flags.items(),
        k.sections.usage.items(),
        k.sections.subsections.items(),
        b.paths.orders.items(),
        b.total,
        b.frames_free() + tails,
    )


# -- 3.2, 3.3 -------------------------------------------------------------------------------------------------------


def test_set_order_range(make):
    """3.2: nothing happens unless pfn and nr are whole sections; another order is replaced with a warning."""
    b = make()
    for pfn, nr in ((DAX + 512, PPS), (DAX, 512), (DAX, PPS + 512)):
        section_set_compound_order_range(b.paths, pfn, nr, 9)
        assert b.paths.orders.items() == []
    section_set_compound_order_range(b.paths, DAX, 2 * PPS, 9)
    section_set_compound_order_range(b.paths, DAX, PPS, 9)
    assert b.k.log == []
    section_set_compound_order_range(b.paths, DAX, PPS, 18)
    assert len(b.k.log) == 1
    assert b.paths.orders.items() == [(SECTION, SECTION + 1, 18), (SECTION + 1, SECTION + 2, 9)]
    section_set_compound_order_range(b.paths, DAX, 2 * PPS, 0)
    assert len(b.k.log) == 1
    assert b.paths.orders.items() == []


def test_shared_tail_page(make):
    """3.3: one for each (zone, order), valid from allocation, never replaced; reserved only in ZONE_DEVICE."""
    b = make()
    zones = b.k.nodes[0].zones
    a = vmemmap_shared_tail_page(b.paths, 9, zones[2])
    d = vmemmap_shared_tail_page(b.paths, 9, zones[ZONE_DEVICE])
    e = vmemmap_shared_tail_page(b.paths, 18, zones[2])
    assert len({a, d, e}) == 3
    assert vmemmap_shared_tail_page(b.paths, 9, zones[2]) == a
    assert b.k.memmap.frames == {a: Tail(9, 0, 2), d: Tail(9, 0, ZONE_DEVICE, True), e: Tail(18, 0, 2)}
    assert b.paths.zone_tails() == {((0, 2), 9): a, ((0, ZONE_DEVICE), 9): d, ((0, 2), 18): e}
    for order in (6, 23):
        assert vmemmap_shared_tail_page(b.paths, order, zones[2]) is None
    assert len(b.k.log) == 1  # WARN_ON_ONCE
    b.check()


# -- 3.4, 4: mapping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [9, 18])
def test_dax_mapping(make, profile, shift):
    """3.4: one private page for each compound page, the others map T(ZONE_DEVICE), read-only in `posted`, each with a
    reference; 4: after removal T's count is 1, not 0."""
    b = make()
    pgmap = b.pgmap(DAX, 8 * PPS, shift)
    assert b.add(DAX, 8 * PPS, pgmap) == 0
    tail = b.paths.zone_tails()[(0, ZONE_DEVICE), shift]
    v = 1 << shift - 6
    private = []
    for vpn, frame, writable in b.slots(DAX // 64, DAX // 64 + 4096):
        if (vpn - DAX // 64) % v:
            assert frame == tail
            assert writable == (profile == "merged")
        else:
            assert writable
            private.append(frame)
    assert len(set(private)) == 4096 // v
    assert b.k.pages.refs == {tail: 1 + 4096 - 4096 // v}
    b.check()
    b.remove(DAX, 8 * PPS)
    assert b.k.pages.refs == {}
    assert b.paths.zone_tails() == {((0, ZONE_DEVICE), shift): tail}
    b.check()


def test_second_device_uses_the_same_tail(make):
    """4, "DAX tail frame lifetime": kept for ever, one for each node and order."""
    b = make()
    for start in (DAX, DAX + 2 * PPS):
        assert b.add(start, PPS, b.pgmap(start, PPS, 9)) == 0
    assert len(b.paths.zone_tails()) == 1
    assert list(b.k.pages.refs.values()) == [1 + 2 * 448]


def test_altmap_is_never_optimized(make):
    """4, "altmap DAX": order 0, a PMD leaf from the altmap, counted in full; no fallback when it is exhausted."""
    b = make()
    altmap = Altmap(DAX, DAX + 2 * PPS, 0, 512)
    pgmap = b.pgmap(DAX, 2 * PPS, 9)
    pgmap.altmap = altmap
    assert b.paths.sparse_add_section(0, DAX, PPS, altmap, pgmap) == 0
    assert b.k.tables.get(DAX // 64) == Leaf(DAX - DAX // 64)
    assert b.k.vmstat.nr_memmap == 512
    assert b.paths.orders.items() == []
    assert altmap.alloc == 512
    before = state(b)
    assert b.paths.sparse_add_section(0, DAX + PPS, PPS, altmap, pgmap) == -ENOMEM
    assert state(b) == before
    b.paths.sparse_remove_section(DAX, PPS, altmap, pgmap)
    assert altmap.alloc == 0
    b.check()


def test_leaf_in_an_optimizable_section(make):
    """3.4: -EOPNOTSUPP with one warning; accepted where the section is not optimizable."""
    b = make()
    assert b.add(DAX, PPS) == 0
    assert vmemmap_populate_hugepages(b.paths, DAX, DAX + PPS, 0, None) == 0
    section_set_compound_order_range(b.paths, DAX, PPS, 9)
    for _ in range(2):
        assert vmemmap_populate_hugepages(b.paths, DAX, DAX + PPS, 0, None) == -EOPNOTSUPP
    assert len(b.k.log) == 1


def test_mapped_slot_in_an_optimizable_section(make):
    """3.4: present and pfn_tail: one warning, fails."""
    b = make()
    vpn = DAX // 64
    b.k.tables.map_extents(vpn, b.k.pages.alloc_bulk(512, 0, OWNER_MEMMAP))
    assert b.add(DAX, PPS, b.pgmap(DAX, PPS, 9)) == -ENOMEM
    assert len(b.k.log) == 1


def test_not_whole_subsections(make):
    """3.4: refused with one warning; 3.8: what was counted is taken back, the caller sees -ENOMEM."""
    b = make()
    before = b.total
    b.k.faults.begin()
    assert b.paths.sparse_add_section(0, DAX, 256, None, None) == -ENOMEM
    assert b.total == before
    assert len(b.k.log) == 1


# -- 3.8 ------------------------------------------------------------------------------------------------------------


def test_add_sets_the_section_up(make):
    b = make()
    assert b.add(DAX, PPS, b.pgmap(DAX, PPS, 9)) == 0
    assert b.k.sections.word(SECTION) == SECTION_MARKED_PRESENT | SECTION_HAS_MEM_MAP
    assert b.paths.orders.items() == [(SECTION, SECTION + 1, 9)]
    assert b.k.sections.usage.get(SECTION) == "hot"
    assert b.k.sections.valid(DAX + 5)


@pytest.mark.parametrize("shift", [None, 0, 9, 18])
@pytest.mark.parametrize(
    ("start", "nr"), [(DAX, PPS), (DAX, 8 * PPS), (DAX + 512, 1024), (DAX + PPS - 512, 512 + PPS + 512)]
)
def test_add_then_remove_is_the_identity(make, shift, start, nr):
    """Add then remove leaves all as it was; only shared tail pages stay."""
    b = make()
    before = state(b)
    assert b.add(start, nr, None if shift is None else b.pgmap(start, nr, shift)) == 0
    b.check()
    b.remove(start, nr)
    assert state(b) == before
    b.check()


def test_part_of_an_optimized_section(make):
    """3.2, 4: -EOPNOTSUPP before any side effect."""
    b = make()
    assert b.add(DAX, PPS, b.pgmap(DAX, PPS, 9)) == 0
    before = state(b)
    b.k.faults.points = []
    assert b.add(DAX, 512, b.pgmap(DAX, 512, 9)) == -EOPNOTSUPP
    assert b.k.faults.points == []
    assert state(b) == before


def test_overlap_and_empty(make):
    """3.8: -EEXIST, -EINVAL; fresh usage is freed."""
    b = make()
    assert b.add(DAX, 1024) == 0
    before = state(b)
    assert b.add(DAX + 512, 1024) == -EEXIST
    assert state(b) == before
    assert b.paths.sparse_add_section(0, DAX + PPS, 0, None, None) == -EINVAL
    assert state(b) == before
    b.check()


def test_several_parts_of_one_section(make):
    """3.8: usage and section live until the last part goes."""
    b = make()
    before = state(b)
    assert b.add(DAX, 512) == 0
    one = state(b)
    assert b.add(DAX + 1024, 512) == 0
    b.check()
    b.remove(DAX + 1024, 512)
    assert state(b) == one
    b.remove(DAX, 512)
    assert state(b) == before


def test_early_section_reuse(make):
    """3.8, 4: memory in an early section reuses its memmap: no order, no accounting, all struct pages initialised."""
    b = make(ram=(512 << 20) + (64 << 20))
    start = (576 << 20) // 4096
    assert start % PPS == PPS // 2
    before = b.total
    entries = b.k.tables.entries.items()
    pgmap = b.pgmap(start, 1024, 9)
    assert b.add(start, 1024, pgmap) == 0
    assert (b.total, b.k.tables.entries.items()) == (before, entries)
    assert b.paths.orders.items() == []
    assert b.k.memmap.content(start + 100) == POISON
    done = b.k.vmstat.struct_pages_initialized
    b.paths.memmap_init_zone_device(b.k.nodes[0].zones[ZONE_DEVICE], start, 1024, pgmap)
    assert b.k.vmstat.struct_pages_initialized - done == 1024
    assert b.k.memmap.content(start + 600) == Compound(9, 0, 0, ZONE_DEVICE, "devdax")
    b.remove(start, 1024)
    assert (b.total, b.k.tables.entries.items()) == (before, entries)
    assert b.k.sections.word(start // PPS) & SECTION_IS_EARLY
    b.check()


def test_removal_of_an_early_section(make):
    """3.8: the whole section leaves the boot counter; its usage stays and serves the next add, which is not early."""
    b = make()
    lo = (4 << 30) // 4096
    first = lo // PPS
    assert b.k.sections.word(first) & SECTION_IS_EARLY
    boot = b.k.vmstat.nr_memmap_boot
    b.paths.sparse_remove_section(lo, PPS // 2, None, None)
    assert b.k.vmstat.nr_memmap_boot == boot
    assert b.k.tables.get(lo // 64) is not None
    b.paths.sparse_remove_section(lo + PPS // 2, PPS // 2, None, None)
    assert b.k.vmstat.nr_memmap_boot == boot - 512
    assert b.k.sections.word(first) == 0
    assert b.k.sections.usage.get(first) == "boot"
    assert b.add(lo, PPS) == 0
    assert b.k.vmstat.nr_memmap == 512
    b.remove(lo, PPS)
    assert b.k.sections.usage.get(first) == "boot"
    b.check()


def test_removal_of_what_is_not_there(make):
    """3.8: a section without memmap: one warning; bits that are not set: warning, nothing freed."""
    b = make()
    before = state(b)
    for _ in range(2):
        b.remove(DAX, PPS)
    assert len(b.k.log) == 1
    assert state(b) == before
    assert b.add(DAX, 1024) == 0
    before = state(b)
    b.remove(DAX + 512, 1024)
    assert len(b.k.log) == 2
    assert state(b) == before


def test_order_is_for_dax_only(make):
    """I5: at run time only whole, fully populated DAX sections have an order."""
    b = make()
    assert b.add(DAX, PPS) == 0
    assert b.add(DAX + PPS, 1024, b.pgmap(DAX + PPS, 1024, 9)) == 0
    assert b.paths.orders.items() == []


# -- which struct pages are written ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "nr", "shift", "written"),
    [
        (DAX, PPS, 9, 64 * 64),
        (DAX, 8 * PPS, 18, 64),
        (DAX, PPS, 0, PPS),
        (DAX + 512, 1024, 9, 1024),
        (DAX + PPS - 512, 512 + 2 * PPS + 512, 9, 512 + 2 * 64 * 64 + 512),
    ],
)
def test_struct_pages_initialised(make, start, nr, shift, written):
    """4: S = 64 for each compound page of an optimized section, all of them elsewhere."""
    b = make()
    pgmap = b.pgmap(start, nr, shift)
    assert b.add(start, nr, pgmap) == 0
    done = b.k.vmstat.struct_pages_initialized
    b.paths.memmap_init_zone_device(b.k.nodes[0].zones[ZONE_DEVICE], start, nr, pgmap)
    assert b.k.vmstat.struct_pages_initialized - done == written
    content = Compound(shift, start % (1 << shift), 0, ZONE_DEVICE, "devdax") if shift else Plain(0, ZONE_DEVICE)
    tail = Tail(shift, 0, ZONE_DEVICE, True)
    for pfn in range(start, start + nr, 64):
        shared = pfn // PPS * PPS >= start and (pfn // PPS + 1) * PPS <= start + nr and shift and pfn % (1 << shift)
        assert b.k.memmap.content(pfn) == (tail if shared else content)
    assert b.k.pageblocks.runs(start >> 9, start + nr >> 9) == [(start >> 9, start + nr >> 9, "movable")]


def test_poison(make):
    """3.6: poisoned after population only if the section is not optimizable."""
    b = make()
    assert b.add(DAX, PPS) == 0
    assert b.add(DAX + PPS, PPS, b.pgmap(DAX + PPS, PPS, 9)) == 0
    assert b.k.memmap.content(DAX + PPS - 1) == POISON
    tail = b.paths.zone_tails()[(0, ZONE_DEVICE), 9]
    assert b.k.memmap.frames[tail] == Tail(9, 0, ZONE_DEVICE, True)


def test_altmap_pages_are_not_initialised(make):
    """memmap_init_zone_device starts behind the altmap's own pages; those stay poisoned."""
    b = make()
    altmap = Altmap(DAX, DAX + PPS, 0, 1024)
    pgmap = b.pgmap(DAX, PPS, 9)
    pgmap.altmap = altmap
    assert b.paths.sparse_add_section(0, DAX, PPS, altmap, pgmap) == 0
    done = b.k.vmstat.struct_pages_initialized
    b.paths.memmap_init_zone_device(b.k.nodes[0].zones[ZONE_DEVICE], DAX, PPS, pgmap)
    assert b.k.vmstat.struct_pages_initialized - done == PPS - 1024
    assert b.k.memmap.content(DAX + 1023) == POISON
    assert b.k.memmap.content(DAX + 1024) == Compound(9, 0, 0, ZONE_DEVICE, "devdax")


# -- 4.2 ------------------------------------------------------------------------------------------------------------


def test_unaligned_gigantic_range(make):
    """4.2: the population counts compounds from the start of the range, the accounting from pfn 0: with a range that
    starts one section late they disagree, and so do the counter and the number of private pages."""
    b = make()
    start = DAX + PPS
    pgmap = b.pgmap(start, 8 * PPS, 18)
    before = b.total
    assert b.add(start, 8 * PPS, pgmap) == 0
    tail = b.paths.zone_tails()[(0, ZONE_DEVICE), 18]
    private = [vpn * 64 for vpn, frame, _ in b.slots(start // 64, start // 64 + 4096) if frame != tail]
    assert private == [start]  # relative: the range's first page is the head
    assert b.total - before == 1  # absolute: the range's last section holds the head
    b.remove(start, 8 * PPS)
    assert b.total == before
    b.check()


def test_unaligned_range_in_a_part_of_a_section(make, profile):
    """4.2, at the worst: the head lies in a part of a section that is not optimized, so that the whole compound page is
    initialised, through T: a fault where T is read-only, T overwritten where it is not."""
    b = make()
    start = DAX + PPS - 512
    nr = 512 + 8 * PPS
    pgmap = b.pgmap(start, nr, 18)
    assert b.add(start, nr, pgmap) == 0
    zone = b.k.nodes[0].zones[ZONE_DEVICE]
    tail = b.paths.zone_tails()[(0, ZONE_DEVICE), 18]
    if profile == "posted":
        with pytest.raises(KernelBug, match="read-only"):
            b.paths.memmap_init_zone_device(zone, start, 1 << 18, pgmap)
    else:
        b.paths.memmap_init_zone_device(zone, start, 1 << 18, pgmap)
        assert b.k.memmap.frames[tail] == Compound(18, start % (1 << 18), 0, ZONE_DEVICE, "devdax")
