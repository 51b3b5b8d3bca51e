"""The vmemmap of every architecture: separate-paths.md 1.2, 3.17, section 4, and the files named there."""

from errno import ENOENT, ENOMEM

import pytest

from mm.kernel import BootRequest
from mm.page_alloc import OWNER_MEMMAP, OWNER_MEMMAP_BOOT, KernelBug
from mm.pgtable import frame_at
from tests.reference.arches import (
    ALL,
    FAR,
    G,
    M,
    add,
    device,
    frames,
    owned,
    pages,
    refs,
    remove,
    settled,
    tables,
    vpns,
)


@pytest.fixture(params=ALL, ids=lambda key: f"{key[0]}-{key[1] >> 10}K")
def k(request, boot_kernel):
    name, page = request.param
    return boot_kernel(arch=name, page=page)


# -- boot -----------------------------------------------------------------------------------------------------------

# RAM of the first boot sections, in 4G of RAM: sections, PMD leaves that describe them (1.2), 0: base pages.
BOOT = {
    ("x86_64", 4096): (32, 32),
    ("riscv64", 4096): (32, 32),
    # 256M at 0, the rest from 2G: one section and eight; a leaf describes 128M, 8G, 512G.
    ("loongarch64", 4096): (9, 36),
    ("loongarch64", 16384): (9, 1),
    ("loongarch64", 65536): (9, 1),
    ("ppc64_radix", 4096): (256, 32),
    ("ppc64_radix", 65536): (256, 2),
    ("ppc64_hash", 65536): (256, 1),
    ("arm64", 4096): (32, 32),
    ("arm64", 16384): (32, 0),
    ("arm64", 65536): (8, 0),
    ("s390x", 4096): (32, 64),
}


def test_boot(k):
    """3.3: BOOT counts ceil(PAGES_PER_SECTION * 64 / PAGE) a section, whatever the leaves are; nothing is optimized."""
    arch = k.arch
    sections, leaves = BOOT[arch.name, arch.page]
    full = -(-arch.pages_per_section * 64 // arch.page)
    assert k.vmstat.nr_memmap_boot == sections * full
    assert (k.vmstat.nr_memmap, k.vmstat.nr_page_table_pages) == (0, 0)
    assert owned(k, OWNER_MEMMAP_BOOT) == (leaves * arch.ptrs_per_pte or sections * full)
    assert {m.kind for _, _, m in k.tables.entries.items()} == {"leaf" if leaves else "pte"}
    for lo, hi, zone in k.pages.zone_of.items():
        assert {(c.kind, c.zone) for _, _, c in k.memmap.view(lo, hi)} == {("plain", zone.idx)}
    assert (tables(k) == 0) == (arch.name == "ppc64_hash")


@pytest.mark.parametrize(("name", "page"), ALL)
def test_boot_points(name, page, boot_kernel):
    """3.3: whatever point of sparse_init fails, the kernel panics or takes base pages instead of a block."""
    from mm.boot import boot
    from mm.kernel import Kernel
    from mm.machine import Machine
    from reference.paths import SeparatePaths

    def fresh(nth):
        k = Kernel(Machine(arch=name, page=page, ram=1 << 30), SeparatePaths)
        k.faults.nth = nth
        k.faults.begin()
        k.faults.points = []
        return k

    k = fresh(0)
    boot(k)
    points = [kind for kind, n in k.faults.points for _ in range(n)]
    full = k.vmstat.nr_memmap_boot
    assert set(points) <= {"USG", "PGT", "VMB", "PTBL", "VMF"}
    for nth in range(1, min(len(points), 12) + 1):
        k = fresh(nth)
        # The hash MMU has no base pages to fall back to.
        if points[nth - 1] != "VMB" or name == "ppc64_hash":
            with pytest.raises(KernelBug, match="panic: Failed to allocate"):
                boot(k)
        else:
            boot(k)
            assert k.faults.fired == "VMB"
            assert k.vmstat.nr_memmap_boot == full
            assert "pte" in {m.kind for _, _, m in k.tables.entries.items()}
            for lo, hi, zone in k.pages.zone_of.items():
                assert {(c.kind, c.zone) for _, _, c in k.memmap.view(lo, hi)} == {("plain", zone.idx)}


def test_gigantic_boot_pages(boot_kernel):
    """3.5 without pre-HVO (1.2): riscv64 optimizes when it gathers, which splits every leaf."""
    k = boot_kernel(BootRequest(18, 2, None), arch="riscv64", ram=6 << 30)
    folios = list(k.hstates[18].folios.values())
    assert len(folios) == 2
    assert all(folio.vmemmap_optimized for folio in folios)
    # Section 4: run-time 1G on boot memory: +1, -4096, +8 tables; twice.
    assert k.vmstat.nr_memmap == 2
    assert k.vmstat.nr_memmap_boot == 48 * 512 - 2 * 4096
    assert k.vmstat.nr_page_table_pages == 16
    assert k.paths.zone_tails().keys() == {(folios[0].zone.key, 18)}


@pytest.mark.parametrize(
    ("name", "page", "order"),
    [("arm64", 4096, 18), ("s390x", 4096, 19), ("ppc64_radix", 4096, 18), ("ppc64_radix", 65536, 14)],
)
def test_gigantic_boot_pages_stay(boot_kernel, name, page, order):
    """1.2: no HVO on arm64, s390 and powerpc: the folios are gathered whole, and no counter moves."""
    k = boot_kernel(BootRequest(order, 1, None), arch=name, page=page, ram=8 << 30)
    plain = boot_kernel(arch=name, page=page, ram=8 << 30)
    (folio,) = k.hstates[order].folios.values()
    assert not folio.vmemmap_optimized
    assert vars_of(k) == vars_of(plain)
    assert {(c.kind, c.order) for _, _, c in k.memmap.view(folio.pfn, folio.end_pfn)} == {("compound", order)}


def vars_of(k):
    return k.vmstat.nr_memmap, k.vmstat.nr_memmap_boot, k.vmstat.nr_page_table_pages, k.paths.zone_tails()


# -- add and remove -------------------------------------------------------------------------------------------------


def sizes(k):
    section = 1 << k.arch.section_shift
    return [2 * M, section, section + 2 * M, 3 * section]


def test_add_remove(k, snapshot):
    """I10: removal restores everything, frame by frame (on loongarch64 only the counters: vmemmap_free is empty)."""
    for size in sizes(k):
        before, memmap = snapshot(k), k.vmstat.nr_memmap
        assert add(k, FAR, size) == 0
        n = sum(-(-pages(k, step) // k.arch.spp) for step in steps(k, size))
        assert k.vmstat.nr_memmap - memmap == n
        assert k.vmstat.nr_memmap_boot == before["counts"].boot
        remove(k, FAR, size)
        assert k.vmstat.nr_memmap == memmap
        if k.arch.name != "loongarch64":
            assert settled(snapshot(k)) == settled(before)


def steps(k, size):
    section = 1 << k.arch.section_shift
    return [min(section, size - at) for at in range(0, size, section)]


@pytest.mark.parametrize("k", [key for key in ALL if key[0] != "loongarch64"], indirect=True)
def test_add_fails(k, snapshot, trace):
    """3.17 step 6, Q1: whatever point fails, an add that fails leaves no trace, and one that falls back is undone."""
    size = (1 << k.arch.section_shift) + 2 * M
    add(k, FAR, size)
    remove(k, FAR, size)
    empty = snapshot(k)
    points = trace(k, 0, lambda: add(k, FAR, size))
    remove(k, FAR, size)
    seen = set()
    for nth, kind in enumerate(points[:40], 1):
        rc = []
        reached = trace(k, nth, lambda rc=rc: rc.append(add(k, FAR, size)))
        if kind == "VMB" and k.arch.name != "ppc64_hash":
            assert rc == [0]
            assert len(reached) > len(points)
        else:
            assert rc == [-ENOMEM]
            assert reached == points[:nth]
        seen.add(kind)
        for at, step in zip(range(FAR, FAR + size, 1 << k.arch.section_shift), steps(k, size), strict=True):
            if k.sections.valid(pages(k, at)):
                k.paths.sparse_remove_section(pages(k, at), pages(k, step), None, None)
        assert settled(snapshot(k)) == settled(empty)
    assert {"USG"} < seen


@pytest.mark.parametrize("align", [0, 2 * M, G])
def test_rows_are_the_loop(k, boot_kernel, tally, align):
    """What sparse_add_section does for many sections at once is what the loop over them does."""
    other = boot_kernel(arch=k.arch.name, page=k.arch.page)
    size = 2 * G
    section = 1 << k.arch.section_shift
    # Off the PMD leaves and off the compound pages of 1G, and again.
    for start in (FAR, FAR + 8 * G + section):
        pgmap = device(k, start, size, align) if align else None
        assert k.paths.sparse_add_section(0, pages(k, start), pages(k, size), None, pgmap) == 0
        assert add(other, start, size, None, pgmap) == 0
        assert tally(k) == tally(other)
        assert shape(k, start, size) == shape(other, start, size)
        if align != 2 * M:
            # Compound pages of 2M are kept as rows, whose references are not written out.
            assert refs(k) == refs(other)
        assert k.sections.flags.items() == other.sections.flags.items()
        assert k.paths.section_roots.items() == other.paths.section_roots.items()
        assert k.faults.reached == other.faults.reached
    for start in (FAR, FAR + 8 * G + section):
        pgmap = device(k, start, size, align) if align else None
        k.paths.sparse_remove_section(pages(k, start), pages(k, size), None, pgmap)
        remove(other, start, size, None, pgmap)
        assert tally(k) == tally(other)
        assert shape(k, FAR - G, 12 * G) == shape(other, FAR - G, 12 * G)


def shape(k, start, size):
    """Mapping up to renaming."""
    first: dict[int, int] = {}
    lo, hi = vpns(k, start, size)
    return [
        (vpn, m.kind == "leaf", first.setdefault(frame_at(m, vpn), vpn))
        for s, e, m in k.tables.runs(lo, hi)
        for vpn in range(s, e)
    ]


# -- what may be optimized ------------------------------------------------------------------------------------------

# Section 4: V, HVO keep (0: none), DAX keep (0: none).
SAVINGS = [
    ("x86_64", 4, 2 * M, 8, 1, 2),
    ("x86_64", 4, G, 4096, 1, 2),
    ("riscv64", 4, 2 * M, 8, 1, 2),
    ("riscv64", 4, G, 4096, 1, 2),
    ("loongarch64", 4, 2 * M, 8, 1, 0),
    ("loongarch64", 16, 32 * M, 8, 1, 0),
    ("loongarch64", 64, 512 * M, 8, 1, 0),
    ("ppc64_radix", 4, 2 * M, 8, 0, 2),
    ("ppc64_radix", 4, G, 4096, 0, 2),
    ("ppc64_radix", 64, G, 16, 0, 2),
    ("ppc64_hash", 64, 16 * M, 0, 0, 0),
    ("arm64", 4, 2 * M, 8, 0, 0),
    ("arm64", 4, G, 4096, 0, 0),
    ("arm64", 16, 32 * M, 8, 0, 0),
    ("arm64", 64, 512 * M, 8, 0, 0),
    ("s390x", 4, 1 * M, 4, 0, 0),
    ("s390x", 4, 2 * G, 8192, 0, 0),
]


@pytest.mark.parametrize(("name", "kib", "size", "v", "keep"), [s[:5] for s in SAVINGS])
def test_hvo(on, fresh, tally, trace, snapshot, name, kib, size, v, keep):
    """Section 4: HVO keeps 1 of V; where it may not be built, every entry point is inert and there is no sysctl."""
    k = on(name, kib, ram=8 << 30)
    order = pages(k, size).bit_length() - 1
    h = k.hstates[order]
    assert k.arch.vmemmap_pages(order) == v
    folios = fresh(k, order, 1)
    before, counted = snapshot(k), tally(k)
    assert k.paths.hugetlb_vmemmap_optimizable(h) == bool(keep)
    points = trace(k, 0, lambda: k.paths.hugetlb_vmemmap_optimize_folios(h, folios))
    if not keep:
        assert points == []
        assert snapshot(k) == before
        assert not folios[0].vmemmap_optimized
        assert k.paths.hugetlb_vmemmap_restore_folio(h, folios[0]) == 0
        assert snapshot(k) == before
        assert k.paths.hugetlb_optimize_vmemmap_sysctl(False) == -ENOENT
        return
    splits = max(1, v // k.arch.ptrs_per_pte)
    # 3.7, worked: the copy is counted, V frames of boot memory go back; table, tail and copy are taken.
    assert tally(k) - counted == (1, -v, splits, v, v - splits - 2)
    assert points.count("SPLIT") == splits
    assert len(frames(k, folios[0].pfn * k.arch.page, size)) == 2
    assert k.paths.hugetlb_vmemmap_restore_folio(h, folios[0]) == 0
    # 3.9: the sum is as before, in the other counter.
    assert tally(k) - counted == (v, -v, splits, v, v - splits - 1 - v)
    assert k.paths.hugetlb_optimize_vmemmap_sysctl(False) == 0


@pytest.mark.parametrize(("name", "kib", "size", "v", "keep"), [(*s[:4], s[5]) for s in SAVINGS if s[2] >= 2 * M])
def test_dax(on, snapshot, name, kib, size, v, keep):
    """Section 4: DAX keeps 2 of V where it may and V > 2; else the memmap is that of RAM, frame by frame."""
    k, plain = on(name, kib), on(name, kib)
    length = max(size, 1 << k.arch.section_shift)
    pgmap = device(k, FAR, length, size)
    empty = snapshot(k)
    assert add(k, FAR, length, None, pgmap) == 0
    compounds = length // size
    if keep:
        assert k.vmstat.nr_memmap == keep * compounds
        assert owned(k, OWNER_MEMMAP) == keep * compounds
        assert len(frames(k, FAR, length)) == keep * compounds
        if compounds == 1:
            # I4.
            assert refs(k) == [v - 1]
    else:
        add(plain, FAR, length)
        assert k.vmstat.nr_memmap == plain.vmstat.nr_memmap
        assert snapshot(k) == snapshot(plain)
    zone = k.nodes[0].zones[4]
    written = k.vmstat.struct_pages_initialized
    k.paths.memmap_init_zone_device(zone, pages(k, FAR), pages(k, length), pgmap)
    # 3.19: two vmemmap pages of struct pages for each compound page with P4, else all.
    expected = compounds * keep * k.arch.spp if keep else pages(k, length)
    assert k.vmstat.struct_pages_initialized - written == expected
    remove(k, FAR, length, None, pgmap)
    assert k.vmstat.nr_memmap == 0
    if name != "loongarch64":
        after, empty = settled(snapshot(k)), settled(empty)
        assert {key: after[key] for key in ("counts", "entries", "refs", "owners")} == {
            key: empty[key] for key in ("counts", "entries", "refs", "owners")
        }


def test_hash_never_dedups(on):
    """1.2: the hash MMU: predicate false although the build has radix too."""
    k = on("ppc64_hash", 64)
    add(k, FAR, G, None, device(k, FAR, G, G))
    # ceil(256 * 64 / 65536) = 1 for each of 64 sections.
    assert k.vmstat.nr_memmap == 64


# Constructors and destructors of the page tables under a device of 2M in an empty PMD table's range, in page tables.
COUNTED = [
    # arch/x86/mm/init_64.c: neither.
    ("x86_64", 4, 0, 0),
    # arch/riscv/mm/init.c:free_pte_table: a destructor for the PTE table, which had no constructor.
    ("riscv64", 4, 0, -1),
    # arch/arm64/mm/mmu.c:free_hotplug_pgtable_page: a destructor for every table; PTE and PMD table.
    ("arm64", 4, 0, -2),
    # radix_pgtable.c: pte_alloc_kernel and pmd_alloc, and their counterparts.
    ("ppc64_radix", 4, 2, 0),
    # A segment: no page table.
    ("s390x", 4, 0, 0),
]


@pytest.mark.parametrize(("name", "kib", "there", "gone"), COUNTED)
def test_page_table_counter(on, name, kib, there, gone):
    """NR_PAGETABLE counts constructors less destructors, not tables."""
    k = on(name, kib)
    pgmap = device(k, FAR, 2 * M, 2 * M)
    add(k, FAR, 2 * M, None, pgmap)
    assert k.vmstat.nr_page_table_pages == there
    remove(k, FAR, 2 * M, None, pgmap)
    assert k.vmstat.nr_page_table_pages == gone
    assert tables(k) == tables(on(name, kib))


def test_riscv_split_table_is_balanced(on, fresh):
    """HVO constructs the table that it splits a leaf into; hot-remove destroys it (x86 does not: I11)."""
    k = on("riscv64")
    add(k, FAR, 128 * M)
    lo = vpns(k, FAR, 128 * M)[0]
    k.tables.split_leaf(lo // 512, k.pages.alloc_page(0, "pgtable"))
    k.vmstat.nr_page_table_pages += 1
    remove(k, FAR, 128 * M)
    assert k.vmstat.nr_page_table_pages == 0
