"""Boot: separate-paths.md 3.1-3.6, section 4, live-linux.md 3."""

import pytest

from mm.boot import boot, free_area_init
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY, SECTION_IS_ONLINE, SECTION_IS_VMEMMAP_PREINIT
from mm.mmzone import SECTION_MARKED_PRESENT as PRESENT
from mm.page import Compound, Plain, Row, Tail
from mm.page_alloc import OWNER_MEMMAP_BOOT, OWNER_PGTABLE_BOOT, OWNER_TAIL_BOOT, KernelBug
from mm.pgtable import Leaf, Strided
from reference.paths import SeparatePaths

G1, GIB, SECTION = 18, 1 << 18, 32768
EARLY = PRESENT | SECTION_IS_ONLINE | SECTION_HAS_MEM_MAP | SECTION_IS_EARLY


def owned(k, owner):
    return sum(hi - lo for lo, hi, o in k.pages.owners.items() if o == owner)


def gigantic(k):
    return list(k.hstates[G1].folios.values())


@pytest.mark.parametrize("deferred", [True, False])
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("ram", [512 << 20, 4 << 30, 6 << 30, (6 << 30) + (64 << 20), 64 << 30])
def test_ordinary_boot(boot_kernel, tally, checked, ram, nodes, deferred):
    """3.3: R sections, each one PMD leaf RW, BOOT 512R; every struct page of RAM is initialised."""
    k = boot_kernel(ram=ram, nodes=nodes, deferred_init=deferred)
    sections = -(-ram // (128 << 20))
    assert tally(k)[:3] == (0, 512 * sections, 0)
    assert owned(k, OWNER_MEMMAP_BOOT) == 512 * sections
    assert {m.kind for _, _, m in k.tables.entries.items()} == {"leaf"}
    assert sum(hi - lo for lo, hi, _ in k.sections.flags.items()) == sections
    assert {word for _, _, word in k.sections.flags.items()} == {EARLY}
    for lo, hi, zone in k.pages.zone_of.items():
        assert {c for _, _, c in k.memmap.view(lo, hi)} == {Plain(zone.nid, zone.idx)}
    checked(k, [])


def test_hole_in_the_last_section(boot_kernel):
    """3.3: a partly backed section has a full memmap; init_unavailable_range gives the hole the zone beside it."""
    k = boot_kernel(ram=(4 << 30) + (64 << 20))
    end = (6 << 30) + (64 << 20) >> 12
    assert k.memmap.content(end) == Plain(0, 2)
    assert k.memmap.content(end + 16383) == Plain(0, 2)
    assert k.memmap.content(end + 16384) is None


def test_one_pre_hvo_page(boot_kernel, tally, checked):
    """Section 4: one pre-HVO 1G page: BOOT -4096+1; frames 1 private, 1 zone tail, 8 tables; 4095 PTEs RO after 3.5."""
    plain = boot_kernel(ram=6 << 30, hugetlb_free_vmemmap=False)
    k = boot_kernel(BootRequest(G1, 1, None), ram=6 << 30)
    assert tally(k)[:3] == (0, 20481, 0)
    assert tally(plain).boot == 24576
    assert owned(k, OWNER_TAIL_BOOT) == 1
    assert owned(k, OWNER_PGTABLE_BOOT) - owned(plain, OWNER_PGTABLE_BOOT) == 8
    assert tally(k).free - tally(plain).free == -GIB + 4096 - 1 - 1 - 8
    [folio] = gigantic(k)
    assert folio.vmemmap_optimized
    [(_, _, m)] = k.tables.runs(folio.pfn // 64, folio.pfn // 64 + 4096)
    assert isinstance(m, Strided)
    assert (m.period, m.keep, m.rw, m.tail, m.tail_rw) == (4096, 1, True, k.paths.zone_tails()[(0, 2), G1], False)
    assert k.memmap.view(folio.pfn, folio.pfn + GIB) == [
        (folio.pfn, folio.pfn + GIB, Row(GIB, 64, 0, Compound(G1, 0, 0, 2, "hugetlb"), Tail(G1, 0, 2)))
    ]
    assert k.sections.word(folio.pfn // SECTION) == EARLY | SECTION_IS_VMEMMAP_PREINIT
    assert k.pageblocks.runs(folio.pfn >> 9, folio.pfn + GIB >> 9) == [
        (folio.pfn >> 9, folio.pfn + GIB >> 9, "movable")
    ]
    # MemTotal counts the page although memblock had it.
    assert tally(k).managed == tally(k).free + GIB
    checked(k, [folio])


def test_two_pre_hvo_pages(boot_kernel, tally, checked):
    """live-linux.md 3: 6G, two 1G pages at boot: 16386 against 24576; 8190 RO, 2 heads, 1 tail."""
    k = boot_kernel(BootRequest(G1, 2, None), ram=6 << 30)
    assert tally(k)[:3] == (0, 16386, 0)
    assert owned(k, OWNER_TAIL_BOOT) == 1
    assert len(gigantic(k)) == 2
    checked(k, gigantic(k))


def test_free_boot_page(boot_kernel, tally, checked):
    """live-linux.md 3: freeing a boot 1G page: +4095, and 258049 = 262144 - 4095 pages come free."""
    k = boot_kernel(BootRequest(G1, 1, None), ram=6 << 30)
    [folio] = gigantic(k)
    before = tally(k)
    assert k.paths.hugetlb_vmemmap_restore_folio(k.hstates[G1], folio) == 0
    assert tally(k) - before == (4095, 0, 0, 0, -4095)
    checked(k, [folio])


def test_switch_off(boot_kernel, tally, checked):
    """P6: with the switch off a boot page has an ordinary memmap, and its tails are initialised at gather (3.5)."""
    k = boot_kernel(BootRequest(G1, 1, None), ram=6 << 30, hugetlb_free_vmemmap=False)
    [folio] = gigantic(k)
    assert not folio.vmemmap_optimized
    assert tally(k)[:3] == (0, 24576, 0)
    assert {m.kind for _, _, m in k.tables.entries.items()} == {"leaf"}
    assert k.memmap.view(folio.pfn, folio.end_pfn) == [(folio.pfn, folio.end_pfn, Compound(G1, 0, 0, 2, "hugetlb"))]
    checked(k, [folio])


@pytest.mark.parametrize("deferred", [True, False])
def test_low_zone(boot_kernel, deferred, checked):
    """3.4: memmap_init writes through the RW aliases where it does not defer; 3.5 puts the tail content right."""
    # 2560M lie below 4G in one zone, so the reserved page shares it with everything else.
    k = boot_kernel(BootRequest(G1, 1, None), ram=2560 << 20, deferred_init=deferred)
    [folio] = gigantic(k)
    assert k.memmap.content(folio.pfn + 64) == Tail(G1, 0, folio.zone.idx)
    checked(k, [folio])


def test_round_robin(boot_kernel):
    """3.2: without a node, round robin over nodes; with one, that node only."""
    k = boot_kernel(BootRequest(G1, 4, None), ram=16 << 30, nodes=2)
    assert k.hstates[G1].nr == [2, 2]
    k = boot_kernel(BootRequest(G1, 3, 1), ram=16 << 30, nodes=2)
    assert k.hstates[G1].nr == [0, 3]
    assert set(k.paths.zone_tails()) == {((1, 2), G1)}


def test_more_than_there_is(boot_kernel):
    """3.2 step 7: max_huge_pages is what was obtained."""
    # Of 6G at [0, 2G) and [4G, 8G), the first gigabyte holds the kernel.
    k = boot_kernel(BootRequest(G1, 100, None), ram=6 << 30, hugetlb_free_vmemmap=True)
    assert k.hstates[G1].max_huge_pages == 5
    assert k.hstates[G1].nr == [5]


def test_point_order(boot_kernel, trace):
    """3.2, 3.3: HP, USG, per pre-HVO page TAIL, tables, frame and seven more tables, then section by section."""
    k = Kernel(Machine(ram=6 << 30), SeparatePaths)
    k.boot_requests.append(BootRequest(G1, 1, None))
    points = trace(k, 0, lambda: boot(k))
    expected = ["HP", "USG", "TAIL", "PGT", "PGT", "PTBL", "VMF"] + ["PTBL"] * 7 + ["VMB"] * 40
    assert points == expected


@pytest.mark.parametrize("nth", range(2, 15))
def test_sweep_boot_panics(trace, nth):
    """3.3: every failure from USG to the last table of the pre-HVO page is a panic."""
    k = Kernel(Machine(ram=6 << 30), SeparatePaths)
    k.boot_requests.append(BootRequest(G1, 1, None))
    with pytest.raises(KernelBug, match=r"^panic"):
        trace(k, nth, lambda: boot(k))


@pytest.mark.parametrize("nth", [1, *range(15, 55)])
def test_sweep_boot(trace, checked, tally, nth):
    """3.2, 3.3: HP means one page less, VMB base pages instead of the block."""
    k = Kernel(Machine(ram=6 << 30), SeparatePaths)
    k.boot_requests.append(BootRequest(G1, 1, None))
    trace(k, nth, lambda: boot(k))
    checked(k, gigantic(k))
    assert len(gigantic(k)) == (nth > 1)
    assert tally(k).boot == (24576 if nth == 1 else 20481)
    # The section whose block failed has 512 frames under a table of its own.
    assert sum(e - s for s, e, m in k.tables.entries.items() if m.kind == "pte") == (0 if nth == 1 else 512)


def test_a_failing_block_in_a_huge_machine(trace, checked):
    """The other hundred thousand sections are leaves all the same."""
    k = Kernel(Machine(ram=16 << 40), SeparatePaths)
    trace(k, 70000, lambda: boot(k))
    tables = sum(e - s for s, e, _ in k.tables.tables[0].items())
    assert tables == 1
    assert sum(e - s for s, e, m in k.tables.entries.items() if not isinstance(m, Leaf)) == 512
    assert k.vmstat.nr_memmap_boot == 512 * 131072
    checked(k, [])


def test_huge_machine_is_a_handful_of_runs(boot_kernel):
    k = boot_kernel(ram=16 << 40)
    assert len(k.tables.entries) <= 4
    assert len(k.memmap.own) <= 4
    assert len(k.pages.owners) < 20


@pytest.mark.parametrize("deferred", [True, False])
def test_struct_pages_written(deferred):
    """3.4: each struct page of RAM is written once, deferred or not."""
    k = Kernel(Machine(ram=6 << 30, deferred_init=deferred), SeparatePaths)
    boot(k)
    assert k.vmstat.struct_pages_initialized == 6 * GIB


def test_deferred_start():
    """3.4: the highest zone is written up to the first section boundary after a section's worth of pages."""
    k = Kernel(Machine(ram=6 << 30), SeparatePaths)
    free_area_init(k)
    k.paths.mm_core_init_early()
    start = (4 << 30) >> 12
    assert k.memmap.content(start + SECTION - 1) == Plain(0, 2)
    assert k.memmap.content(start + SECTION).kind == "raw"
    assert k.memmap.content(start - GIB * 2 - 1) == Plain(0, 1)
