"""The vmemmap of every architecture: separate-paths.md 1.2, 3.17, 3.20, section 4, and the files named there."""

from errno import ENOENT, ENOMEM, EPERM

import pytest

from mm.altmap import Altmap
from mm.arch import ARCHES
from mm.kernel import BootRequest
from mm.memory_hotplug import add_memory, memory_block_offline, memory_block_online
from mm.page_alloc import OWNER_MEMMAP, OWNER_MEMMAP_BOOT, KernelBug
from mm.pgmap import PgMap
from mm.pgtable import Leaf, Pte, Shared, frame_at

M, G = 1 << 20, 1 << 30
ALL = sorted(ARCHES)
FAR = 1 << 42
"""4T, where nothing is: a multiple of what any leaf describes."""


@pytest.fixture(params=ALL, ids=lambda key: f"{key[0]}-{key[1] >> 10}K")
def k(request, boot_kernel):
    name, page = request.param
    return boot_kernel(arch=name, page=page)


@pytest.fixture
def on(boot_kernel):
    """A booted kernel by architecture and page size in KiB."""
    return lambda name, kib=4, **machine: boot_kernel(arch=name, page=kib << 10, **machine)


def pages(k, size):
    return size // k.arch.page


def device(k, start, size, align, altmap=None):
    shift = pages(k, align).bit_length() - 1
    return PgMap([(pages(k, start), pages(k, start + size))], shift, altmap, 0, "generic")


def add(k, start, size, altmap=None, pgmap=None):
    """Section by section, as __add_pages cuts a range."""
    at, end, per = pages(k, start), pages(k, start + size), k.arch.pages_per_section
    while at < end:
        stop = min(end, at - at % per + per)
        rc = k.paths.sparse_add_section(0, at, stop - at, altmap, pgmap)
        if rc:
            return rc
        at = stop
    return 0


def remove(k, start, size, altmap=None, pgmap=None):
    at, end, per = pages(k, start), pages(k, start + size), k.arch.pages_per_section
    while at < end:
        stop = min(end, at - at % per + per)
        k.paths.sparse_remove_section(at, stop - at, altmap, pgmap)
        at = stop


def owned(k, *owners):
    return sum(hi - lo for lo, hi, o in k.pages.owners.items() if o in owners)


def tables(k):
    return sum(hi - lo for level in k.tables.tables for lo, hi, _ in level.items())


def vpns(k, start, size):
    spp = k.arch.spp
    return pages(k, start) // spp, -(-pages(k, start + size) // spp)


def kinds(k, start, size):
    return {m.kind for _, _, m in k.tables.runs(*vpns(k, start, size))}


def frames(k, start, size):
    """Different frames behind the memmap of a range."""
    lo, hi = vpns(k, start, size)
    return {frame_at(m, vpn) for s, e, m in k.tables.runs(lo, hi) for vpn in range(s, e)}


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


def settled(state):
    """A snapshot without NR_PAGETABLE, which drifts on some architectures (test_page_table_counter)."""
    return {**state, "counts": state["counts"]._replace(pagetable=0)}


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


def refs(k):
    return sorted(k.pages.refs.values())


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


# -- riscv64 --------------------------------------------------------------------------------------------------------


def test_riscv_part_of_a_section_is_a_leaf(on, trace):
    """1.2: frames of a partial section: PMD leaf; the next part of it finds the leaf there."""
    k = on("riscv64")
    add(k, FAR + 128 * M, 2 * M)
    assert trace(k, 0, lambda: add(k, FAR, 2 * M)) == ["USG", "VMB"]
    assert owned(k, OWNER_MEMMAP) == 2 * 512
    assert kinds(k, FAR, 128 * M) == {"leaf"}
    assert trace(k, 0, lambda: add(k, FAR + 2 * M, 2 * M)) == []
    assert k.vmstat.nr_memmap == 3 * 8


def test_riscv_removing_a_part_takes_the_leaf(on):
    """arch/riscv/mm/init.c:remove_pmd_mapping clears a leaf without asking how much of it the range covers."""
    k = on("riscv64")
    one, two = device(k, FAR, 64 * M, 4096), device(k, FAR + 64 * M, 64 * M, 4096)
    add(k, FAR, 64 * M, None, one)
    add(k, FAR + 64 * M, 64 * M, None, two)
    remove(k, FAR, 64 * M, None, one)
    assert kinds(k, FAR, 128 * M) == set()
    assert owned(k, OWNER_MEMMAP) == 0
    # The second device's struct pages are gone under it; removing it finds nothing.
    with pytest.raises(KernelBug, match="not mapped"):
        k.paths.memmap_init_zone_device(k.nodes[0].zones[4], pages(k, FAR + 64 * M), 16384, two)
    remove(k, FAR + 64 * M, 64 * M, None, two)
    assert k.vmstat.nr_memmap == 0


def test_riscv_altmap(on, snapshot):
    """2.3: riscv credits the altmap at both levels; 3.17: an exhausted one is -ENOMEM, and a part needs a block."""
    k = on("riscv64")
    before = snapshot(k)
    altmap = Altmap(pages(k, FAR), pages(k, FAR + 128 * M), 0, 512)
    assert add(k, FAR, 128 * M, altmap) == 0
    assert (altmap.alloc, k.vmstat.nr_memmap, owned(k, OWNER_MEMMAP)) == (512, 512, 0)
    remove(k, FAR, 128 * M, altmap)
    assert altmap.alloc == 0
    assert snapshot(k) == before
    short = Altmap(pages(k, FAR), pages(k, FAR + 64 * M), 0, 300)
    assert add(k, FAR, 64 * M, short) == -ENOMEM
    assert snapshot(k) == before
    # HVO in a leaf that the altmap gave is vetoed elsewhere; by force, its PTEs are credited too.
    altmap = Altmap(pages(k, FAR), pages(k, FAR + 128 * M), 0, 512)
    add(k, FAR, 128 * M, altmap)
    lo = vpns(k, FAR, 128 * M)[0]
    k.tables.split_leaf(lo // 512, k.pages.alloc_page(0, "pgtable"))
    remove(k, FAR, 128 * M, altmap)
    assert altmap.alloc == 0


# -- loongarch64 ----------------------------------------------------------------------------------------------------


def test_loongarch_failed_add(on, trace):
    """3.17 step 6 with an empty vmemmap_free: the counter is back (Q1), what was mapped before the failure stays."""
    k = on("loongarch64", 4)
    rc = []
    points = trace(k, 5, lambda: rc.append(add(k, FAR, 512 * M)))
    # The second of four blocks fails, and base pages stand in for it.
    assert points[:5] == ["ROOT", "USG", "PGT", "VMB", "VMB"]
    assert rc == [0]
    remove(k, FAR, 512 * M)
    far = FAR + (1 << 45)
    points = trace(k, 3, lambda: rc.append(add(k, far, 512 * M)))
    assert (points, rc[-1]) == (["ROOT", "USG", "PGT"], -ENOMEM)
    assert k.vmstat.nr_memmap == 0
    assert not k.sections.valid(pages(k, far))


@pytest.mark.parametrize(("kib", "leaf"), [(4, 128 * M), (16, 8 * G), (64, 512 * G)])
def test_loongarch_keeps_the_memmap(on, trace, kib, leaf):
    """1.2: one PMD leaf describes 128M, 8G or 512G; vmemmap_free is empty; the altmap is ignored."""
    k = on("loongarch64", kib)
    section = 512 * M
    altmap = Altmap(pages(k, FAR), pages(k, FAR + section), 0, 1 << 20)
    points = trace(k, 0, lambda: add(k, FAR, section, altmap))
    blocks = max(1, section // leaf)
    assert points.count("VMB") == blocks
    assert owned(k, OWNER_MEMMAP) == blocks * k.arch.ptrs_per_pte
    assert altmap.alloc == 0
    n = section // k.arch.page * 64 // k.arch.page
    assert k.vmstat.nr_memmap == n
    remove(k, FAR, section, altmap)
    assert k.vmstat.nr_memmap == 0
    assert kinds(k, FAR, section) == {"leaf"}
    # What comes next in the leaf's range finds it there.
    assert trace(k, 0, lambda: add(k, FAR, section)) == ["USG"]
    behind = trace(k, 0, lambda: add(k, FAR + section, section))
    assert behind == (["USG"] + ["VMB"] * 4 if kib == 4 else ["USG"])
    assert k.vmstat.nr_memmap == 2 * n


# -- powerpc, radix -------------------------------------------------------------------------------------------------


def test_radix_tables_come_from_the_running_cpu(on, tally):
    """vmemmap_pte_alloc: pte_alloc_kernel takes no node; frames of the memmap do."""
    k = on("ppc64_radix", 4, nodes=2)
    order = k.arch.pmd_order
    before = [sum(zone.free_pages(order) for zone in node.zones) for node in k.nodes]
    pgmap = device(k, FAR, 2 * M, 2 * M)
    assert k.paths.sparse_add_section(1, pages(k, FAR), pages(k, 2 * M), None, pgmap) == 0
    after = [sum(zone.free_pages(order) for zone in node.zones) for node in k.nodes]
    # A PTE and a PMD table; two frames.
    assert [a - b for a, b in zip(after, before, strict=True)] == [-2, -2]


@pytest.mark.parametrize(("kib", "leaf"), [(4, 128 * M), (64, 2 * G)])
def test_radix_rounds_down(on, trace, snapshot, kib, leaf):
    """3.20: without an altmap the start is rounded down to the PMD: one leaf for all sections around."""
    k = on("ppc64_radix", kib)
    empty = snapshot(k)
    section = 16 * M
    assert [p for p in trace(k, 0, lambda: add(k, FAR + leaf - section, section)) if p == "VMB"] == ["VMB"]
    assert kinds(k, FAR, leaf) == {"leaf"}
    assert trace(k, 0, lambda: add(k, FAR, section)) == ["USG"]
    assert owned(k, OWNER_MEMMAP) == k.arch.ptrs_per_pte
    # 64K: each of the two counts the page that it is a quarter of.
    assert k.vmstat.nr_memmap == 2 * -(-section // k.arch.page * 64 // k.arch.page)
    remove(k, FAR, section)
    assert kinds(k, FAR, leaf) == {"leaf"}
    remove(k, FAR + leaf - section, section)
    after = snapshot(k)
    assert {key: after[key] for key in ("counts", "entries", "owners")} == {
        key: empty[key] for key in ("counts", "entries", "owners")
    }


def test_radix_base_pages_round_down_too(on):
    """radix__vmemmap_populate: base pages instead of a leaf begin at the start of the PMD; freeing is exact."""
    k = on("ppc64_radix")
    add(k, FAR, 16 * M)
    remove(k, FAR, 16 * M)
    k.faults.nth = 3  # USG, PGT, VMB
    k.faults.begin()
    assert add(k, FAR + 112 * M, 16 * M) == 0
    assert k.faults.fired == "VMB"
    assert owned(k, OWNER_MEMMAP) == 8 * 64
    assert k.vmstat.nr_memmap == 64
    remove(k, FAR + 112 * M, 16 * M)
    assert owned(k, OWNER_MEMMAP) == 7 * 64
    assert k.vmstat.nr_memmap == 0
    # A section that comes into the rest needs nothing, and takes it away when it goes.
    assert add(k, FAR, 16 * M) == 0
    assert owned(k, OWNER_MEMMAP) == 7 * 64
    remove(k, FAR, 16 * M)
    assert owned(k, OWNER_MEMMAP) == 6 * 64


def test_radix_64k_page_is_shared_by_four_sections(on):
    """3.20: four 16M sections share one vmemmap page, which is counted four times and freed with the last."""
    k = on("ppc64_radix", 64)
    pgmap = device(k, FAR, G, G)
    assert add(k, FAR, G, None, pgmap) == 0
    # P4: N looks at compound pages, not at sections: 2 and nothing else.
    assert k.vmstat.nr_memmap == 2
    lo = vpns(k, FAR, G)[0]
    assert frame_at(k.tables.get(lo), lo) != frame_at(k.tables.get(lo + 1), lo + 1)
    for i in (1, 2, 3):
        remove(k, FAR + i * 16 * M, 16 * M, None, pgmap)
        assert k.tables.get(lo) is not None
    remove(k, FAR, 16 * M, None, pgmap)
    assert k.tables.get(lo) is None
    assert k.tables.get(lo + 1) is not None
    assert k.vmstat.nr_memmap == 0
    remove(k, FAR + 64 * M, G - 64 * M, None, pgmap)
    assert owned(k, OWNER_MEMMAP) == 0


def test_radix_offset_is_absolute(on):
    """3.20, Q14: a 1G device that begins 256M late: the first two pages of its first compound page lie before it."""
    k = on("ppc64_radix")
    start = FAR + 256 * M
    pgmap = device(k, start, G, G)
    assert add(k, start, G, None, pgmap) == 0
    head = vpns(k, FAR, G)[0]
    tail = frame_at(k.tables.get(head + 1), head + 1)
    assert k.tables.runs(head, head + 1024) != []
    assert [s for s, e, _ in k.tables.runs(head, head + 1024) for s in range(s, e)] == [head, head + 1]
    assert {frame_at(m, head + 1024) for _, _, m in k.tables.runs(head + 1024, head + 1025)} == {tail}
    # Two compound pages by the absolute offset, of which one lies in the range by N.
    assert owned(k, OWNER_MEMMAP) == 4
    assert k.vmstat.nr_memmap == 2
    assert refs(k) == [1 + 1024 - 2, 1 + 3072]
    # Freeing takes the range: the two pages before it are left.
    remove(k, start, G, None, pgmap)
    assert k.vmstat.nr_memmap == 0
    assert owned(k, OWNER_MEMMAP) == 2


def test_radix_leaf_in_the_way(on):
    """3.20: RAM beside the device in its compound page: the leaf is skipped, and other pages there are private."""
    k = on("ppc64_radix")
    add(k, FAR, 16 * M)
    before = owned(k, OWNER_MEMMAP)
    start = FAR + 16 * M
    pgmap = device(k, start, G, G)
    add(k, start, G, None, pgmap)
    lo = vpns(k, FAR, G)[0]
    assert isinstance(k.tables.get(lo + 64), Leaf)
    assert isinstance(k.tables.get(lo + 512), Pte)
    # 4096 - 512 private pages, then the head and the tail of the next compound page.
    assert owned(k, OWNER_MEMMAP) - before == 4096 - 512 + 2


def test_radix_tail_page_of_another_device(on):
    """3.20: the second page of the compound page may be there for a device of 2M pages, and is shared all the same."""
    k = on("ppc64_radix")
    small = device(k, FAR, 64 * M, 2 * M)
    add(k, FAR, 64 * M, None, small)
    start = FAR + 64 * M
    big = device(k, start, G, G)
    add(k, start, G, None, big)
    lo = vpns(k, FAR, G)[0]
    assert frame_at(k.tables.get(lo + 1), lo + 1) == frame_at(k.tables.get(lo + 256), lo + 256)
    assert isinstance(k.tables.get(lo + 256), Shared)
    # The tail page of the first 2M compound page: 7 PTEs there, 4096 - 256 of the big device.
    assert 7 + 4096 - 256 in refs(k)
    remove(k, FAR, 64 * M, None, small)
    remove(k, start, G, None, big)
    assert owned(k, OWNER_MEMMAP) == 0
    assert refs(k) == []


def test_radix_second_page_is_tried_again(on, trace):
    """3.20: no frame for the tail page is no failure: whoever comes to the third page makes it."""
    k = on("ppc64_radix")
    pgmap = device(k, FAR, 2 * M, 2 * M)
    points = trace(k, 0, lambda: add(k, FAR, 2 * M, None, pgmap))
    assert points[-2:] == ["VMF", "VMF"]
    remove(k, FAR, 2 * M, None, pgmap)
    # The root array stays.
    assert points[0] == "ROOT"
    again = trace(k, len(points) - 1, lambda: add(k, FAR, 2 * M, None, pgmap))
    assert again == [*points[1:], "VMF"]
    assert len(frames(k, FAR, 2 * M)) == 2
    assert refs(k) == [7]
    assert k.vmstat.nr_memmap == 2


def test_radix_altmap(on):
    """3.20, 2.3: with an altmap, leaves where PMD and device allow, base pages elsewhere, RAM when it is exhausted."""
    k = on("ppc64_radix")
    start, size = FAR + 16 * M, 256 * M
    altmap = Altmap(pages(k, start), pages(k, start + size), 0, 1024)
    assert add(k, start, size, altmap) == 0
    lo, hi = vpns(k, start, size)
    assert {m.kind for _, _, m in k.tables.runs(lo, hi)} == {"pte", "leaf"}
    # Seven sections before the next PMD: 7 * 64 base pages. Then a leaf, aligned by 64 frames; the altmap is used up.
    # The last section: a leaf would reach beyond the device, and its base pages come from RAM.
    assert (altmap.alloc, altmap.align) == (448 + 512, 64)
    assert owned(k, OWNER_MEMMAP) == 64
    assert k.vmstat.nr_memmap == 1024
    remove(k, start, size, altmap)
    assert altmap.alloc == 0
    assert owned(k, OWNER_MEMMAP) == 0


# -- powerpc, hash --------------------------------------------------------------------------------------------------


def test_hash_blocks(on, trace, snapshot):
    """arch/powerpc/mm/init_64.c: a 16M block of the vmemmap describes 16G; it goes with the last valid subsection."""
    k = on("ppc64_hash", 64)
    empty = snapshot(k)
    assert trace(k, 0, lambda: add(k, FAR + G, 16 * M)) == ["ROOT", "USG", "VMB"]
    assert trace(k, 0, lambda: add(k, FAR + 15 * G, 16 * M)) == ["USG"]
    assert trace(k, 0, lambda: add(k, FAR + 16 * G, 16 * M)) == ["USG", "VMB"]
    assert owned(k, OWNER_MEMMAP) == 2 * 256
    assert tables(k) == 0
    remove(k, FAR + G, 16 * M)
    assert owned(k, OWNER_MEMMAP) == 2 * 256
    remove(k, FAR + 15 * G, 16 * M)
    assert owned(k, OWNER_MEMMAP) == 256
    remove(k, FAR + 16 * G, 16 * M)
    assert snapshot(k) == empty


def test_hash_altmap(on):
    """__vmemmap_populate: from the altmap if the block lies in the device, else, or when that fails, from RAM."""
    k = on("ppc64_hash", 64)
    pfn, end = pages(k, FAR), pages(k, FAR + 16 * G)
    inside = Altmap(pfn, end, 0, 256)
    assert add(k, FAR, 16 * M, inside) == 0
    assert (inside.alloc, owned(k, OWNER_MEMMAP)) == (256, 0)
    remove(k, FAR, 16 * M, inside)
    assert inside.alloc == 0
    outside = Altmap(pfn, pages(k, FAR + G), 0, 256)
    assert add(k, FAR, 16 * M, outside) == 0
    assert (outside.alloc, owned(k, OWNER_MEMMAP)) == (0, 256)
    remove(k, FAR, 16 * M, outside)
    short = Altmap(pfn, end, 0, 255)
    assert add(k, FAR, 16 * M, short) == 0
    assert (short.alloc, owned(k, OWNER_MEMMAP)) == (0, 256)


# -- arm64, s390 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kib", [4, 16, 64])
def test_arm64_altmap(on, snapshot, kib):
    """1.2, 3.17: base pages of a partial section honour the altmap, and so do the leaves of a whole one (4K only)."""
    k = on("arm64", kib)
    empty = snapshot(k)
    section = 1 << k.arch.section_shift
    full = k.arch.vmemmap_per_section
    part = -(-pages(k, 2 * M) * 64 // k.arch.page)
    altmap = Altmap(pages(k, FAR), pages(k, FAR + 2 * section), 0, 2 * full)
    assert add(k, FAR, section + 2 * M, altmap) == 0
    assert altmap.alloc == full + part
    assert owned(k, OWNER_MEMMAP) == 0
    assert kinds(k, FAR, section) == ({"leaf"} if kib == 4 else {"pte"})
    assert kinds(k, FAR + section, 2 * M) == {"pte"}
    remove(k, FAR, section + 2 * M, altmap)
    assert altmap.alloc == 0
    after, empty = settled(snapshot(k)), settled(empty)
    assert (after["counts"], after["entries"], after["owners"]) == (empty["counts"], empty["entries"], empty["owners"])
    short = Altmap(pages(k, FAR), pages(k, FAR + 2 * M), 0, part - 1)
    assert add(k, FAR, 2 * M, short) == -ENOMEM
    assert snapshot(k)["entries"] == empty["entries"]


@pytest.mark.parametrize(("kib", "start", "size", "mapped"), [(16, 2 * M, 4 * M, 1), (64, 32 * M, 64 * M, 1)])
def test_arm64_misses_the_last_page(on, kib, start, size, mapped):
    """mm/sparse-vmemmap.c:vmemmap_populate_range steps a page from where the range begins: a range that begins in
    the middle of a vmemmap page and ends in the next one has no struct pages there.
    """
    k = on("arm64", kib)
    lo, hi = vpns(k, FAR + start, size)
    assert hi - lo == 2
    with pytest.raises(KernelBug, match="written but not mapped"):
        add(k, FAR + start, size)
    assert sum(e - s for s, e, _ in k.tables.runs(lo, hi)) == mapped


def test_arm64_16k_page_of_two_devices(on):
    """2M of 16K pages have half a vmemmap page: counted by each, and taken away by the first that goes."""
    k = on("arm64", 16)
    one, two = device(k, FAR, 2 * M, 16384), device(k, FAR + 2 * M, 2 * M, 16384)
    add(k, FAR, 2 * M, None, one)
    add(k, FAR + 2 * M, 2 * M, None, two)
    assert (k.vmstat.nr_memmap, owned(k, OWNER_MEMMAP)) == (2, 1)
    remove(k, FAR, 2 * M, None, one)
    assert (k.vmstat.nr_memmap, owned(k, OWNER_MEMMAP)) == (1, 0)
    remove(k, FAR + 2 * M, 2 * M, None, two)
    assert (k.vmstat.nr_memmap, owned(k, OWNER_MEMMAP)) == (0, 0)


def test_s390_segments(on, trace, snapshot):
    """1.2: a segment of 1M describes 64M: two for a section, one for a part of it, gone when all of it is unused."""
    k = on("s390x")
    empty = snapshot(k)
    assert [p for p in trace(k, 0, lambda: add(k, FAR, 128 * M)) if p == "VMB"] == ["VMB"] * 2
    assert owned(k, OWNER_MEMMAP) == 512
    remove(k, FAR, 128 * M)
    assert trace(k, 0, lambda: add(k, FAR + 2 * M, 2 * M))[-1] == "VMB"
    assert trace(k, 0, lambda: add(k, FAR + 62 * M, 4 * M))[-1] == "VMB"
    assert owned(k, OWNER_MEMMAP) == 512
    assert k.vmstat.nr_memmap == 8 + 16
    remove(k, FAR + 2 * M, 2 * M)
    assert owned(k, OWNER_MEMMAP) == 512
    remove(k, FAR + 62 * M, 4 * M)
    assert owned(k, OWNER_MEMMAP) == 0
    after = snapshot(k)
    assert (after["counts"], after["entries"]) == (empty["counts"], empty["entries"])


def test_s390_base_pages(on):
    """arch/s390/mm/vmem.c:modify_pmd_table: no block: a table of 256 entries, from the altmap too if there is one."""
    k = on("s390x")
    add(k, FAR + 128 * M, 128 * M)
    k.faults.nth = 2
    k.faults.begin()
    assert add(k, FAR, 128 * M) == 0
    assert k.faults.fired == "VMB"
    assert sum(e - s for s, e, _ in k.tables.tables[0].items()) == 1
    # vmem_pte_alloc runs the constructor.
    assert k.vmstat.nr_page_table_pages == 1
    assert kinds(k, FAR, 64 * M) == {"pte"}
    assert kinds(k, FAR + 64 * M, 64 * M) == {"leaf"}
    remove(k, FAR, 128 * M)
    assert k.vmstat.nr_page_table_pages == 0
    altmap = Altmap(pages(k, FAR), pages(k, FAR + 128 * M), 100, 512)
    k.faults.begin()
    assert add(k, FAR, 128 * M, altmap) == -ENOMEM
    assert altmap.alloc == 0
    altmap = Altmap(pages(k, FAR), pages(k, FAR + 64 * M), 0, 255)
    assert add(k, FAR, 16 * M, altmap) == 0
    assert (altmap.alloc, kinds(k, FAR, 16 * M)) == (64, {"pte"})
    remove(k, FAR, 16 * M, altmap)
    assert altmap.alloc == 0


@pytest.mark.parametrize("kib", [4, 16, 64])
def test_arm64_boot_memory_stays(on, snapshot, kib):
    """arch/arm64/mm/mmu.c:prevent_memory_remove_notifier says NOTIFY_BAD for early sections, which is -EPERM."""
    k = on("arm64", kib)
    block = pages(k, 4 * G) // k.memory_blocks.pages
    before = snapshot(k)
    assert memory_block_offline(k, block) == -EPERM
    assert snapshot(k) == before
    added = pages(k, 8 * G)
    assert add_memory(k, 0, added, k.memory_blocks.pages, False) == 0
    assert memory_block_online(k, added // k.memory_blocks.pages, "movable") == 0
    assert memory_block_offline(k, added // k.memory_blocks.pages) == 0
