"""Sections come and go: separate-paths.md 3.17, 3.19, P4, P5, N, section 4 and 5, live-linux.md 3."""

from errno import EEXIST, ENOMEM

import pytest

from mm.altmap import Altmap
from mm.arch import X86_64
from mm.dax import create_dev_dax, unregister_dev_dax
from mm.dev_dax import DevDax
from mm.folio import Folio
from mm.page import POISON, Compound, Plain
from mm.page_alloc import KernelBug
from mm.pgmap import PgMap
from mm.pgtable import Leaf, frame_at
from reference.sparse_vmemmap import section_nr_vmemmap_pages

SECTION = 32768
SUBSECTION = 512
GIB = 1 << 18
FAR = 0x1000000000 >> 12
"""64G, where nothing is: a multiple of 1G, and the first page of a PMD table and of a section root."""
ZONE_DEVICE = 4


def pieces(start, n):
    """Section by section, as __add_pages cuts a range."""
    end = start + n
    while start < end:
        stop = min(end, start - start % SECTION + SECTION)
        yield start, stop - start
        start = stop


def device(start, n, shift, altmap=None):
    return PgMap([(start, start + n)], shift, altmap, 0, "generic")


def add(k, start, n, altmap=None, pgmap=None):
    rc = 0
    for pfn, nr in pieces(start, n):
        rc = rc or k.paths.sparse_add_section(0, pfn, nr, altmap, pgmap)
    return rc


def remove(k, start, n, altmap=None, pgmap=None):
    for pfn, nr in pieces(start, n):
        k.paths.sparse_remove_section(pfn, nr, altmap, pgmap)


# name, start, pages, vmemmap_shift, whether a device, NR_MEMMAP, frames behind the memmap, PTE tables
SHAPES = [
    ("ram 128M", FAR, SECTION, 0, False, 512, 512, 0),
    ("ram 512M", FAR, 4 * SECTION, 0, False, 2048, 2048, 0),  # live-linux.md: DIMM 512M, +2048, PMD +4
    ("dax 4K 1G", FAR, GIB, 0, True, 4096, 4096, 0),  # 512 a section
    ("dax 4K 2M", FAR, SUBSECTION, 0, True, 8, 8, 1),
    ("dax 2M 2M", FAR, SUBSECTION, 9, True, 2, 2, 1),  # section 4: one 2M compound +2
    ("dax 2M 128M", FAR, SECTION, 9, True, 128, 128, 1),  # section 4: 128 a section
    ("dax 2M 1G", FAR, GIB, 9, True, 1024, 1024, 8),
    ("dax 2M 3G", FAR, 3 * GIB, 9, True, 3072, 3072, 24),  # live-linux.md: +3072, 24 tables
    ("dax 1G 1G", FAR, GIB, 18, True, 2, 2, 8),  # section 4: aligned 1G +2
    ("dax 1G 3G", FAR, 3 * GIB, 18, True, 6, 6, 24),  # live-linux.md: +6, 24 tables
    ("dax 2M 66M at 32M", FAR + 16 * SUBSECTION, 33 * SUBSECTION, 9, True, 66, 66, 1),  # live-linux.md: 2 per 2M
    # N looks at the absolute alignment (Q14): a 1G range that starts 128M late finds its multiple of 1G in section 7.
    ("dax 1G 1G at 128M", FAR + SECTION, GIB, 18, True, 2, 2, 8),
]


@pytest.mark.parametrize(
    ("start", "n", "shift", "is_device", "nr", "frames", "tables"), [s[1:] for s in SHAPES], ids=[s[0] for s in SHAPES]
)
def test_add_remove(boot_kernel, tally, snapshot, checked, start, n, shift, is_device, nr, frames, tables):
    """Counts of each shape, and I10: removal restores everything."""
    k = boot_kernel()
    # The first range so far out needs a PMD table; PTE tables are what differs.
    before, counted = snapshot(k), tally(k)
    pgmap = device(start, n, shift) if is_device else None
    assert add(k, start, n, pgmap=pgmap) == 0
    change = tally(k) - counted
    assert change == (nr, 0, 0, 0, -frames - tables - 1)
    checked(k, [])
    assert k.memmap.content(start) == POISON
    assert k.memmap.content(start + n - 1) == POISON
    remove(k, start, n, pgmap=pgmap)
    assert snapshot(k) == before


def test_1g_layout(boot_kernel):
    """3.19: x86 1G: one head frame, one tail frame with 4095 references; all PTEs RW (Q13)."""
    k = boot_kernel()
    pgmap = device(FAR, GIB, 18)
    add(k, FAR, GIB, pgmap=pgmap)
    lo = FAR // 64
    tail = frame_at(k.tables.get(lo + 1), lo + 1)
    assert frame_at(k.tables.get(lo), lo) != tail
    assert {frame_at(m, vpn) for s, e, m in k.tables.runs(lo + 1, lo + 4096) for vpn in range(s, e)} == {tail}
    assert k.pages.refs == {tail: 4095}
    # The tail frame dies with its last PTE, in any order of the sections.
    order = [3, 0, 7, 1, 6, 2, 5]
    for i in order:
        k.paths.sparse_remove_section(FAR + i * SECTION, SECTION, None, pgmap)
        assert k.pages.owners.get(tail) is not None
    k.paths.sparse_remove_section(FAR + 4 * SECTION, SECTION, None, pgmap)
    assert k.pages.owners.get(tail) is None
    assert k.pages.refs == {}


def test_2m_layout_with_scattered_frames(boot_kernel, checked, snapshot):
    """3.19: per 2M compound page two frames and six shares, however the allocator scatters the frames."""
    k = boot_kernel()
    got = k.pages.alloc_bulk(5 * 512, 0, "pages")
    first = max(got, key=lambda extent: extent[1])[0]
    for frame in (first + 1, first + 3, first + 4, first + 5, first + 7, first + 8):
        k.pages.free(frame, 1)
    before = snapshot(k)
    pgmap = device(FAR, SECTION, 9)
    assert add(k, FAR, SECTION, pgmap=pgmap) == 0
    checked(k, [])
    for lo in range(FAR // 64, FAR // 64 + 512, 8):
        frames = [frame_at(k.tables.get(vpn), vpn) for vpn in range(lo, lo + 8)]
        assert len(set(frames)) == 2
        assert frames[1:] == [frames[1]] * 7
    k.paths.memmap_init_zone_device(k.nodes[0].zones[ZONE_DEVICE], FAR, SECTION, pgmap)
    assert {c for _, _, c in k.memmap.view(FAR, FAR + SECTION)} == {Compound(9, 0, 0, ZONE_DEVICE, "devdax")}
    remove(k, FAR, SECTION, pgmap=pgmap)
    assert snapshot(k) == before


@pytest.mark.parametrize(
    ("shift", "n"), [(0, SECTION), (0, SUBSECTION), (9, SECTION), (9, SUBSECTION), (18, 2 * SECTION)]
)
def test_sweep_add(boot_kernel, trace, snapshot, shift, n):
    """3.17: whatever point fails, the failing section leaves no trace (Q1); sections before it stay (Q12)."""
    k = boot_kernel()
    pgmap = device(FAR, n, shift)
    add(k, FAR, n, pgmap=pgmap)
    remove(k, FAR, n, pgmap=pgmap)
    empty = snapshot(k)
    points = trace(k, 0, lambda: add(k, FAR, n, pgmap=pgmap))
    remove(k, FAR, n, pgmap=pgmap)
    for nth in range(1, len(points) + 1):
        rc = []
        reached = trace(k, nth, lambda rc=rc: rc.append(add(k, FAR, n, pgmap=pgmap)))
        if points[nth - 1] == "VMB":
            # A PMD block falls back to a table and 512 frames.
            assert rc == [0]
            assert reached == [*points[:nth], "PTBL", *["VMF"] * 512]
        else:
            assert rc == [-ENOMEM]
            assert reached == points[:nth]
        for pfn, nr in pieces(FAR, n):
            if k.sections.valid(pfn):
                k.paths.sparse_remove_section(pfn, nr, None, pgmap)
        assert snapshot(k) == empty


def test_points_of_each_kind(boot_kernel, trace):
    """3.17, 3.19: the order of the points."""
    k = boot_kernel()
    assert trace(k, 0, lambda: add(k, FAR, SECTION)) == ["ROOT", "USG", "PGT", "VMB"]
    assert trace(k, 0, lambda: add(k, FAR + SECTION, SUBSECTION)) == ["USG", "PTBL"] + ["VMF"] * 8
    assert trace(k, 0, lambda: add(k, FAR + SECTION + SUBSECTION, SUBSECTION)) == ["VMF"] * 8
    start = FAR + GIB
    big = device(start, GIB, 18)
    assert trace(k, 0, lambda: add(k, start, GIB, pgmap=big)) == ["USG", "PTBL", "VMF", "VMF"] + ["USG", "PTBL"] * 7
    start += GIB
    small = device(start, SECTION, 9)
    assert trace(k, 0, lambda: add(k, start, SECTION, pgmap=small)) == ["USG", "PTBL"] + ["VMF"] * 128


def test_fallback_fails(boot_kernel, snapshot):
    """3.17: no PMD block and not enough single frames: -ENOMEM, everything given back."""
    k = boot_kernel()
    got = k.pages.alloc_bulk(1 << 30, 0, "pages")
    k.pages.free(max(got, key=lambda extent: extent[1])[0], 300)
    before = snapshot(k)
    assert add(k, FAR, SECTION) == -ENOMEM
    assert snapshot(k) == before


def test_fallback_counts(boot_kernel, tally, checked):
    k = boot_kernel()
    got = k.pages.alloc_bulk(1 << 30, 0, "pages")
    k.pages.free(max(got, key=lambda extent: extent[1])[0] + 1, 900)
    before = tally(k)
    assert add(k, FAR, SECTION) == 0
    assert tally(k) - before == (512, 0, 0, 0, -512 - 1 - 1)
    checked(k, [])


def test_overlap(boot_kernel, snapshot):
    """3.17 step 3: subsections that are there already: -EEXIST, fresh usage freed."""
    k = boot_kernel()
    add(k, FAR + SUBSECTION, SUBSECTION)
    before = snapshot(k)
    assert add(k, FAR, SECTION) == -EEXIST
    assert add(k, FAR + SUBSECTION, SUBSECTION) == -EEXIST
    assert snapshot(k) == before


def test_remove_what_is_not_there(boot_kernel, snapshot):
    """3.17: not valid, or bits not all set: a warning, nothing else."""
    k = boot_kernel()
    before = snapshot(k)
    k.paths.sparse_remove_section(FAR, SECTION, None, None)
    assert snapshot(k) == before
    add(k, FAR, SUBSECTION)
    before = snapshot(k)
    k.paths.sparse_remove_section(FAR, 2 * SUBSECTION, None, None)
    assert snapshot(k) == before
    assert len(k.log) == 2


def test_two_devices_share_a_section(boot_kernel, tally, snapshot):
    """live-linux.md 3: two regions of 64M and 192M: 64 / 192; a table is freed only when both are gone."""
    k = boot_kernel()
    empty, before = snapshot(k), tally(k)
    m64, m192 = 64 << 8, 192 << 8
    one, two = device(FAR, m64, 9), device(FAR + m64, m192, 9)
    add(k, FAR, m64, pgmap=one)
    assert (tally(k) - before).memmap == 64
    add(k, FAR + m64, m192, pgmap=two)
    assert (tally(k) - before).memmap == 64 + 192
    remove(k, FAR, m64, pgmap=one)
    # 192 frames, two PTE tables, one PMD table.
    assert tally(k) - before == (192, 0, 0, 0, -192 - 2 - 1)
    remove(k, FAR + m64, m192, pgmap=two)
    assert snapshot(k) == empty


# -- altmap ---------------------------------------------------------------------------------------------------------


def test_altmap(boot_kernel, tally, snapshot):
    """Section 4: with an altmap 512 per section although no RAM is used (Q6, the part that is present)."""
    k = boot_kernel()
    empty, before = snapshot(k), tally(k)
    altmap = Altmap(FAR, FAR + GIB, 2, 8 * 512 + 510)
    pgmap = device(FAR, GIB, 18, altmap)
    assert add(k, FAR, GIB, altmap, pgmap) == 0
    assert altmap.alloc == 4096
    # Leaves of the device's own frames; one PMD table from RAM.
    assert tally(k) - before == (4096, 0, 0, 0, -1)
    assert all(isinstance(m, Leaf) for _, _, m in k.tables.runs(FAR // 64, FAR // 64 + 4096))
    remove(k, FAR, GIB, altmap, pgmap)
    assert altmap.alloc == 0
    assert snapshot(k) == empty


def test_altmap_exhausted(boot_kernel, tally, snapshot):
    """3.17: an exhausted altmap is -ENOMEM without fallback; sections before it stay."""
    k = boot_kernel()
    altmap = Altmap(FAR, FAR + GIB, 0, 1024)
    assert [k.paths.sparse_add_section(0, FAR + i * SECTION, SECTION, altmap, None) for i in range(3)] == [
        0,
        0,
        -ENOMEM,
    ]
    assert altmap.alloc == 1024
    assert k.vmstat.nr_memmap == 1024


def test_altmap_is_ignored_for_parts(boot_kernel, tally):
    """3.17: less than a section comes from RAM even if there is an altmap, and is not credited to it."""
    k = boot_kernel()
    altmap = Altmap(FAR, FAR + SECTION, 0, 1024)
    before = tally(k)
    assert add(k, FAR, SUBSECTION, altmap) == 0
    assert altmap.alloc == 0
    assert (tally(k) - before)[:2] == (8, 0)
    remove(k, FAR, SUBSECTION, altmap)
    assert altmap.alloc == 0
    assert tally(k) == before


# -- early sections -------------------------------------------------------------------------------------------------


def test_part_of_an_early_section(boot_kernel, tally, trace):
    """I9, 3.17 step 4: adding into a partly backed boot section populates and counts nothing; Q8: init is full."""
    k = boot_kernel(ram=(512 << 20) + (64 << 20))
    start = (576 << 20) >> 12
    pgmap = device(start, 16 * SUBSECTION, 9)
    before = tally(k)
    assert trace(k, 0, lambda: add(k, start, 16 * SUBSECTION, pgmap=pgmap)) == []
    assert tally(k) == before
    assert k.memmap.content(start) == POISON
    written = k.vmstat.struct_pages_initialized
    k.paths.memmap_init_zone_device(k.nodes[0].zones[ZONE_DEVICE], start, 16 * SUBSECTION, pgmap)
    assert k.vmstat.struct_pages_initialized - written == 16 * SUBSECTION
    assert k.memmap.view(start, start + 16 * SUBSECTION) == [
        (start, start + 16 * SUBSECTION, Compound(9, 0, 0, ZONE_DEVICE, "devdax"))
    ]
    remove(k, start, 16 * SUBSECTION, pgmap=pgmap)
    assert tally(k) == before


def test_device_from_the_middle_of_a_boot_section(boot_kernel, tally):
    """live-linux.md 3: pmem that starts mid-section after RAM, 2M: +896 for the seven sections behind it."""
    k = boot_kernel(ram=(512 << 20) + (64 << 20))
    start = (576 << 20) >> 12
    before = tally(k)
    device = create_dev_dax(k, [(start, start + 15 * SECTION // 2)], 2 << 20, False, 0)
    assert isinstance(device, DevDax)
    assert (tally(k) - before)[:2] == (896, 0)
    unregister_dev_dax(k, device)
    assert (tally(k) - before)[:2] == (0, 0)


def test_1g_device_from_the_middle_of_a_boot_section(boot_kernel):
    """P5 is relative to the range: the next section takes its tail page from the boot memmap, which is a PMD leaf."""
    k = boot_kernel(ram=(512 << 20) + (64 << 20))
    start = (576 << 20) >> 12
    with pytest.raises(KernelBug, match="PMD leaf"):
        add(k, start, GIB, pgmap=device(start, GIB, 18))


def test_emptied_early_section(boot_kernel, tally):
    """Q2, 2.7: emptying an early section lowers BOOT by a whole section; re-added it is an ordinary one."""
    k = boot_kernel()
    section = 47
    pfn = section * SECTION
    zone = k.pages.zone_of.get(pfn)
    k.pages.owners.get(pfn)
    before = tally(k)
    # Its memmap frames and its own frames are elsewhere; take away the struct pages in two parts.
    k.paths.sparse_remove_section(pfn, SECTION - SUBSECTION, None, None)
    assert tally(k) == before
    assert k.sections.word(section)
    k.paths.sparse_remove_section(pfn + SECTION - SUBSECTION, SUBSECTION, None, None)
    assert tally(k) - before == (0, -512, 0, 512, 512)
    assert k.sections.word(section) == 0
    assert k.sections.usage.get(section) == "boot"
    assert add(k, pfn, SECTION) == 0
    assert not k.sections.early(pfn)
    assert tally(k) - before == (512, -512, 0, 512, 0)
    assert zone is not None


def test_early_section_after_hvo(boot_kernel, fresh, tally):
    """I3: after HVO the classes are mixed; removal moves only the counter of the section, frames go by class."""
    k = boot_kernel()
    h = k.hstates[9]
    folios = fresh(k, 9, 64)
    section = folios[-1].pfn // SECTION
    k.paths.hugetlb_vmemmap_optimize_folios(h, folios)
    k.paths.hugetlb_vmemmap_restore_folios(h, folios, [])
    before = tally(k)
    k.paths.sparse_remove_section(section * SECTION, SECTION, None, None)
    # 512 run-time frames and the split table; NR_PAGETABLE stays (free_pagetable runs no destructor).
    assert tally(k) - before == (0, -512, 0, 0, 512 + 1)


# -- struct pages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "initialised"), [(0, GIB), (9, 512 * 128), (18, 128)])
def test_struct_page_init(boot_kernel, shift, initialised):
    """3.19: 2 * SPP struct pages of each compound page, all of them without P4."""
    k = boot_kernel()
    pgmap = device(FAR, GIB, shift)
    add(k, FAR, GIB, pgmap=pgmap)
    before = k.vmstat.struct_pages_initialized
    zone = k.nodes[0].zones[ZONE_DEVICE]
    k.paths.memmap_init_zone_device(zone, FAR, GIB, pgmap)
    assert k.vmstat.struct_pages_initialized - before == initialised
    content = Compound(shift, 0, 0, ZONE_DEVICE, "devdax") if shift else Plain(0, ZONE_DEVICE)
    assert {c for _, _, c in k.memmap.view(FAR, FAR + GIB)} == {content}
    # Q7: every pageblock.
    assert k.pageblocks.runs(FAR >> 9, (FAR + GIB) >> 9) == [(FAR >> 9, (FAR + GIB) >> 9, "movable")]


def test_unaligned_compounds(boot_kernel):
    """3.19, I15: content of a 1G device whose range is not aligned to 1G."""
    k = boot_kernel()
    start = FAR + 3 * SECTION
    pgmap = device(start, GIB, 18)
    add(k, start, GIB, pgmap=pgmap)
    k.paths.memmap_init_zone_device(k.nodes[0].zones[ZONE_DEVICE], start, GIB, pgmap)
    assert {c for _, _, c in k.memmap.view(start, start + GIB)} == {Compound(18, 3 * SECTION, 0, ZONE_DEVICE, "devdax")}


N = [
    # pfn, pages, shift, altmap, N: 2.7 and section 4
    (0, SECTION, 0, False, 512),
    (0, SUBSECTION, 0, False, 8),
    (0, SECTION, 9, False, 128),
    (0, SUBSECTION, 9, False, 2),
    (0, SECTION, 18, False, 2),
    (SECTION, SECTION, 18, False, 0),
    (7 * SECTION, SECTION, 18, False, 0),
    (GIB, SECTION, 18, False, 2),
    (0, SECTION, 18, True, 512),
    (0, SECTION, 9, True, 512),
]


@pytest.mark.parametrize(("pfn", "nr", "shift", "with_altmap", "expected"), N)
def test_section_nr_vmemmap_pages(boot_kernel, pfn, nr, shift, with_altmap, expected):
    k = boot_kernel()
    altmap = Altmap(FAR, FAR + GIB, 0, 4096) if with_altmap else None
    assert section_nr_vmemmap_pages(k, FAR + pfn, nr, altmap, device(FAR, GIB, shift, altmap)) == expected


def test_pagetable_counter_survives_removal(boot_kernel, tally, checked):
    """I11: hot-removing a section that HVO split frees the table; the counter keeps it (arch/x86/mm/init_64.c)."""
    k = boot_kernel()
    add(k, FAR, SECTION)
    zone = k.nodes[0].zones[2]
    k.paths.memmap_init_range(zone, FAR, SECTION)
    folio = Folio(FAR, 9, zone)
    k.memmap.init(FAR, 512, Compound(9, 0, 0, zone.idx, "hugetlb"))
    k.paths.hugetlb_vmemmap_optimize_folio(k.hstates[9], folio)
    k.paths.hugetlb_vmemmap_restore_folio(k.hstates[9], folio)
    before = tally(k)
    remove(k, FAR, SECTION)
    # 512 frames, the PTE table and the PMD table.
    assert tally(k) - before == (-512, 0, 0, 0, 512 + 2)
    assert k.vmstat.nr_page_table_pages == 1
    checked(k, [])


def test_geometry():
    """The numbers above rest on these."""
    assert (X86_64.pages_per_section, X86_64.pages_per_subsection, X86_64.spp) == (SECTION, SUBSECTION, 64)
