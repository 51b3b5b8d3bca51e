"""unified-framework.md 4.1: powerpc, radix and hash; arch/powerpc/mm (7.3, -mm)."""

import pytest

from candidate.vmemmap_optimization import section_nr_vmemmap_pages
from mm.altmap import Altmap
from mm.errno import ENOMEM
from mm.memory_hotplug import add_memory, memory_block_offline, memory_block_online, remove_memory
from mm.mmzone import ZONE_DEVICE
from mm.page import RAW, Compound, Tail
from mm.page_alloc import OWNER_MEMMAP, OWNER_SELFHOSTED, pages_alloc
from tests.candidate.arch.conftest import ArchBench

R4, R64, HASH = ("ppc64_radix", 4096), ("ppc64_radix", 65536), ("ppc64_hash", 65536)


def memmap(b):
    return sum(hi - lo for lo, hi, owner in b.k.pages.owners.items() if owner == OWNER_MEMMAP)


@pytest.fixture
def small(profile):
    """4K pages: sections of 4096 pages with 64 vmemmap pages, 8 sections under a leaf."""
    return ArchBench(R4, profile)


@pytest.fixture
def large(profile):
    """64K pages: sections of 256 pages, 4 in a vmemmap page, 128 under a leaf of 32 vmemmap pages."""
    return ArchBench(R64, profile)


# -- radix, optimized sections --------------------------------------------------------------------------------------


def test_2m_compounds(small):
    """R * 4096 / 512 = 8 a section (the separate paths: 16); offset 0 private, 7 slots T."""
    b = small
    before = b.total
    assert b.add(b.far, b.per, 9) == 0
    assert b.total - before == 8
    tail = b.f.zone_tails()[b.device.key, 9]
    assert [i for i, frame in enumerate(b.frames(b.far, b.per)) if frame != tail] == list(range(0, 64, 8))
    assert b.k.pages.refs == {tail: 1 + 56}
    b.remove(b.far, b.per)
    assert b.total == before
    assert b.k.pages.refs == {}


def test_1g_compound(small):
    """order 18 >= section shift 12: n = 1 for the first of 64 sections, 0 for the others."""
    b = small
    before = b.total
    for i in range(64):
        assert b.add(b.far + i * b.per, b.per, 18) == 0
        assert b.total - before == 1
    tail = b.f.zone_tails()[b.device.key, 18]
    assert b.frames(b.far, 1 << 18).count(tail) == 4095
    assert b.k.pages.refs == {tail: 4096}


@pytest.mark.parametrize("in_row", [False, True])
def test_head_is_decided_by_the_absolute_pfn(small, in_row):
    """4.1, 5.2: "offset == 0" of the slot's pfn, not of the device's range; accounting (3.7) agrees with it here."""
    b = small
    start = b.far + b.per
    before = b.total
    step = 64 * b.per if in_row else b.per
    for pfn in range(start, start + 64 * b.per, step):
        assert b.add(pfn, step, 18) == 0
    tail = b.f.zone_tails()[b.device.key, 18]
    frames = b.frames(start, 64 * b.per)
    assert [i for i, frame in enumerate(frames) if frame != tail] == [63 * 64]
    assert b.total - before == 1


def test_leaf_is_skipped_without_a_word(small):
    """4.1: an ordinary neighbour's leaf covers the optimized section: no error, no warning, nothing shared, and still
    accounted and initialised as if it were: S struct pages a compound page, the others stay raw."""
    b = small
    assert b.add(b.far, b.per) == 0
    before, frames = b.total, memmap(b)
    device = b.far + b.per
    assert b.add(device, b.per, 9) == 0
    assert b.kinds(device, b.per) == {"leaf"}
    assert b.k.log == []
    assert b.total - before == 8
    assert memmap(b) == frames
    assert b.k.pages.refs == {}
    done = b.k.vmstat.struct_pages_initialized
    b.f.memmap_init_zone_device(b.device, device, b.per, b.pgmap(device, b.per, 9))
    assert b.k.vmstat.struct_pages_initialized - done == 8 * 64
    assert b.k.memmap.content(device) == Compound(9, 0, 0, ZONE_DEVICE, "devdax")
    assert b.k.memmap.content(device + 64) == RAW


def test_ordinary_neighbour_aligns_down_over_absent_sections(small):
    """4.1: without altmap the start is aligned down to the PMD. Behind an optimized section, whose PTE table is there,
    it fills the holes in front of itself with base pages; nobody removes those but their own section."""
    b = small
    assert b.add(b.far + 2 * b.per, b.per, 9) == 0
    frames = memmap(b)
    before = b.total
    assert b.add(b.far + 4 * b.per, b.per) == 0
    assert b.total - before == 64
    assert memmap(b) - frames == 64 + 3 * 64
    assert b.kinds(b.far, 2 * b.per) == {"pte"}
    assert b.kinds(b.far + 5 * b.per, 3 * b.per) == {"none"}
    b.remove(b.far + 4 * b.per, b.per)
    assert memmap(b) - frames == 3 * 64
    # 4.1, "existing PTE: silently kept": the slots that should map T keep private pages.
    assert b.add(b.far, b.per, 9) == 0
    assert b.k.log == []
    assert b.kinds(b.far, b.per) == {"pte"}
    assert memmap(b) - frames == 3 * 64


def test_a_leaf_goes_with_its_last_section(small):
    """remove_pmd_table: a leaf that a removal cuts is freed once no subsection in it is valid."""
    b = small
    free, frames = b.free(), memmap(b)
    for i in range(3):
        assert b.add(b.far + i * b.per, b.per) == 0
    assert memmap(b) - frames == 512
    assert b.total - b.k.vmstat.nr_memmap_boot == 3 * 64
    for i in (1, 0):
        b.remove(b.far + i * b.per, b.per)
        assert b.kinds(b.far, 8 * b.per) == {"leaf"}
    b.remove(b.far + 2 * b.per, b.per)
    assert b.kinds(b.far, 8 * b.per) == {"none"}
    assert (b.free(), memmap(b)) == (free, frames)
    assert b.k.vmstat.nr_page_table_pages == 0


def test_tables_count_in_nr_pagetable(small):
    """pmd_alloc, pte_alloc_kernel run the constructor, their freeing the destructor."""
    b = small
    assert b.add(b.far, b.per, 9) == 0
    assert b.k.vmstat.nr_page_table_pages == 2
    assert b.add(b.far + b.per, b.per, 9) == 0
    assert b.k.vmstat.nr_page_table_pages == 2
    b.remove(b.far, 2 * b.per)
    assert b.k.vmstat.nr_page_table_pages == 0


def test_block_failure_falls_back_to_base_pages(small):
    """radix__vmemmap_populate: VMB, then PTBL and a VMF for each page from the PMD boundary on."""
    b = small
    assert b.add(b.far + 8 * b.per, b.per) == 0  # upper tables
    b.k.faults.points = []
    b.k.faults.nth = 2
    b.k.faults.begin()
    assert b.add(b.far + b.per, b.per) == 0
    assert b.k.faults.fired == "VMB"
    assert b.k.faults.points == [("USG", 1), ("VMB", 1), ("PTBL", 1), ("VMF", 128)]
    assert b.kinds(b.far, 2 * b.per) == {"pte"}


def test_failure_leaves_what_lies_in_front(small):
    """Population does not unwind, and removal covers the section's own range only: base pages that the fallback put in
    front of it, and their table, stay until those sections come and go."""
    b = small
    frames, before = memmap(b), b.total
    free = b.free()
    left = pages_alloc(b.k, 0, free - 1 - 1 - 1 - 70, False)  # two upper tables at most, a PTE table, 70 pages
    assert not isinstance(left, int)
    assert b.add(b.far + b.per, b.per) == -ENOMEM
    assert b.total == before
    assert b.kinds(b.far, b.per) == {"pte"}
    assert b.kinds(b.far + b.per, 7 * b.per) == {"none"}
    assert memmap(b) - frames == 64


def test_head_failure(small):
    """A head that gets no page: -ENOMEM; the slots in front of it are unmapped again, T's references with them."""
    b = small
    assert b.add(b.far, b.per, 9) == 0
    refs, before, frames = dict(b.k.pages.refs), b.total, memmap(b)
    b.k.faults.nth = 5  # USG, VMF * 8 under the table that exists
    b.k.faults.begin()
    assert b.add(b.far + b.per, b.per, 9) == -ENOMEM
    assert b.k.faults.fired == "VMF"
    assert (b.k.pages.refs, b.total, memmap(b)) == (refs, before, frames)
    assert b.kinds(b.far + b.per, b.per) == {"none"}


def test_altmap_that_crosses_the_device(small):
    """4.1: a leaf that would describe more than the device is base pages from the altmap, and what does not fit comes
    from RAM; on removal each goes back where it came from."""
    b = small
    frames = memmap(b)
    altmap = Altmap(b.far, b.far + 2 * b.per, 0, 100)
    assert b.add(b.far, 2 * b.per, 9, altmap) == 0
    assert altmap.alloc == 100
    assert memmap(b) - frames == 28
    assert b.kinds(b.far, 2 * b.per) == {"pte"}
    assert b.k.vmstat.nr_memmap == 128
    b.remove(b.far, 2 * b.per, altmap)
    assert altmap.alloc == 0
    assert memmap(b) == frames


# -- radix, 64K pages -----------------------------------------------------------------------------------------------


def test_a_section_is_less_than_a_vmemmap_page(large):
    """4.1: ceil(256 * 64 / 65536) = 1 for each ordinary section, so 128 for the 32 pages of a leaf."""
    b = large
    assert b.arch.vmemmap_per_section == 1
    frames = memmap(b)
    assert b.add(b.far, 128 * b.per) == 0
    assert b.k.vmstat.nr_memmap == 128
    assert memmap(b) - frames == 32


def test_2m_is_never_optimizable(large):
    """4.1: S = 1024, MIN_ORDER = 11; 2M are order 5."""
    b = large
    assert b.f.min_order == 11
    assert b.add(b.far, b.per, 5) == 0
    assert b.f.orders.items() == []
    assert b.kinds(b.far, b.per) == {"leaf"}


def test_1g_compound_of_64k_pages(large):
    """4.1: order 14, V = 16: one page kept; n = 1 for the first section, 0 for the others; a reference for each of 15
    slots although 64 sections were added; a page goes with the last of its four sections."""
    b = large
    for i in range(64):
        assert b.add(b.far + i * b.per, b.per, 14) == 0
        assert section_nr_vmemmap_pages(b.f, b.far + i * b.per, b.per) == (i == 0)
    tail = b.f.zone_tails()[b.device.key, 14]
    assert b.frames(b.far, 64 * b.per)[1:] == [tail] * 15
    assert b.frames(b.far, b.per) != [tail]
    assert b.k.pages.refs == {tail: 16}
    assert b.k.memmap.content(b.far + 1024) == Tail(14, 0, ZONE_DEVICE, True)
    for i in range(4, 7):
        b.remove(b.far + i * b.per, b.per)
    assert b.k.pages.refs == {tail: 16}
    b.remove(b.far + 7 * b.per, b.per)
    assert b.k.pages.refs == {tail: 15}


# -- hash -----------------------------------------------------------------------------------------------------------


def test_hash_blocks(profile):
    """init_64.c: one block of 16M describes 16G; it comes with the first section and goes with the last; 1 counted for
    each section (256 * 64 / 65536 = 0.25, rounded up); no page tables."""
    b = ArchBench(HASH, profile)
    free = b.free()
    for i in range(3):
        assert b.add(b.far + i * b.per, b.per, 14) == 0
    assert free - b.free() == 256
    assert b.k.vmstat.nr_memmap == 3
    assert len(b.k.tables.runs(b.far // 1024, b.far // 1024 + 256)) == 1
    for i in (0, 2):
        b.remove(b.far + i * b.per, b.per)
        assert free - b.free() == 256
    b.remove(b.far + b.per, b.per)
    assert b.free() == free
    assert b.tables() == [0, 0, 0]
    assert b.f.orders.items() == []


def test_hash_altmap(profile):
    """__vmemmap_populate: a block that describes more than the device, or does not fit in the altmap, is RAM."""
    b = ArchBench(HASH, profile)
    free = b.free()
    whole = Altmap(b.far, b.far + b.leaf, 0, 256)
    assert b.add(b.far, b.per, 14, whole) == 0
    assert (whole.alloc, free - b.free()) == (256, 0)
    b.remove(b.far, b.per, whole)
    assert whole.alloc == 0
    for altmap in (Altmap(b.far, b.far + b.leaf - b.per, 0, 256), Altmap(b.far, b.far + b.leaf, 0, 255)):
        assert b.add(b.far, b.per, 14, altmap) == 0
        assert (altmap.alloc, free - b.free()) == (0, 256)
        b.remove(b.far, b.per, altmap)
        assert b.free() == free


def test_self_hosting_by_force(profile):
    """64K: the memmap of a block of 256M is 4 frames, force mode sets a pageblock of 32 aside; all of it goes online
    and comes back (P7 of separate-paths.md; arch_supports_memmap_on_memory)."""
    b = ArchBench(R64, profile, memmap_on_memory="force")
    k = b.k
    owned, mapped, free = k.pages.owners.items(), k.tables.entries.items(), b.free()
    assert add_memory(k, 0, b.far, 4096, True) == 0
    assert k.vmstat.nr_memmap == 16
    assert free - b.free() <= 3  # tables
    assert b.frames(b.far, 4096) == list(range(b.far, b.far + 4))
    block = b.far // k.memory_blocks.pages
    assert memory_block_online(k, block, "kernel") == 0
    assert k.pages.owners.runs(b.far, b.far + 4096) == [(b.far, b.far + 32, OWNER_SELFHOSTED)]
    assert k.pages.free_count(b.far, b.far + 4096) == 4096 - 32
    assert memory_block_offline(k, block) == 0
    assert remove_memory(k, b.far, 4096) == 0
    assert (k.pages.owners.items(), k.tables.entries.items(), b.free()) == (owned, mapped, free)
    assert k.log == []
