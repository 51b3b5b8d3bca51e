"""What defects of `mm` do to the side that has them, by what bugs.md and the changelogs say of each."""

from typing import Any

import pytest

from candidate.framework import UnifiedFramework
from fuzz.execute import Lockstep
from fuzz.oracle import laws
from fuzz.program.text import parse
from fuzz.side import Side
from mm.errno import EBUSY, ENOMEM
from mm.kernel import Kernel
from mm.pgtable import PUD_TABLE
from reference.paths import SeparatePaths
from zoo import find, planted


def run(name: str, plant: bool, text: str | None = None) -> tuple[Kernel, list[Any]]:
    """The kernel after the defect's own program, or another one, and what the operations returned."""
    defect = find(name)
    program = parse(text or defect.program or "")
    made = SeparatePaths if defect.side == "reference" else lambda k: UnifiedFramework(k, "posted")
    with planted(*[defect] if plant else []):
        side = Side(program.machine, made)
        rcs = [side.run(op) for op in program.ops]
    return side.kernel, rcs


def test_type_survives() -> None:
    """The pool has no page any more, and its free list has one (nr_huge_pages 0, free_huge_pages 1)."""
    for plant, free in (False, 0), (True, 1):
        k, rcs = run("HPG-2024-40", plant)
        assert rcs[-1] == 0
        assert (sum(k.hstates[9].nr), k.hstates[9].free_count()) == (0, free)


def test_freed_not_waited_for() -> None:
    """-EBUSY though the page has moved away; the work item frees its old place a moment later."""
    for plant, rc in (False, 0), (True, -EBUSY):
        k, rcs = run("MHP-2025-33", plant)
        assert (rcs[-1], k.hpage_freelist) == (rc, [])
        assert k.pages.is_free(0x3000, 0x3200) is plant


def test_poisoned_demoted() -> None:
    """Sound: -EBUSY, and the 1G page stays. Else it becomes 512 pages of 2M, the first of them marked."""
    k, rcs = run("HPG-2022-63", False)
    assert (rcs[-1], sum(k.hstates[18].nr), sum(k.hstates[9].nr)) == (-EBUSY, 1, 0)
    k, rcs = run("HPG-2022-63", True)
    assert (rcs[-1], sum(k.hstates[18].nr), sum(k.hstates[9].nr)) == (0, 0, 512)
    assert [hex(f.pfn << 12) for f in k.hstates[9].folios.values() if f.hwpoison] == ["0x100000000"]


def test_demoted_one_by_one() -> None:
    """1G pages keep one vmemmap page of 4096. As a batch the 4097th allocation is one of the second page's restore,
    which fails: one page is demoted. One by one, it is one of the first page's optimization, which may fail.
    """
    text = (
        "vmm 1\nmachine arch=x86_64 page=4K ram=6G nodes=1\nboot\nhugetlb resize size=1G to=2\n"
        "fail alloc nth=4097\nhugetlb demote size=1G count=2\n"
    )
    k, rcs = run("HVO-2024-39", False, text)
    assert (rcs[-1], sum(k.hstates[18].nr), sum(k.hstates[9].nr)) == (-ENOMEM, 1, 512)
    k, rcs = run("HVO-2024-39", True, text)
    assert (rcs[-1], sum(k.hstates[18].nr), sum(k.hstates[9].nr)) == (0, 0, 1024)


def test_demoted_in_another_order() -> None:
    """list_add in demote_pool_huge_page (mm/hugetlb.c) turns the pages of a batch around; one by one, the pieces of
    each page are on the free list before the next page is cut. So the two lists begin with pieces of different pages.
    """
    firsts = []
    for plant in (False, True):
        k, rcs = run("HVO-2024-39", plant)
        assert rcs == [0, 0, 0]
        assert (sum(k.hstates[18].nr), sum(k.hstates[9].nr)) == (0, 1024)
        firsts.append({pfn >> 18 for pfn in list(k.hstates[9].free[0])[:512]})
    assert firsts[0] != firsts[1]
    assert sorted(firsts, key=sorted) == [{1}, {4}]


def test_type_after_optimization() -> None:
    """VM_WARN_ON_ONCE_FOLIO(!folio_test_hugetlb(folio)) in __hugetlb_vmemmap_optimize_folio (mm/hugetlb_vmemmap.c,
    7.3), on either side, page by page (an injected failure) as in bulk; all else is as it should be.
    """
    text = "vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\nfail alloc nth=50\nhugetlb resize size=2M to=2\n"
    for name in ("HPG-2023-48@candidate", "HPG-2023-48@reference"):
        for program in (None, text):
            for plant in (False, True):
                k, rcs = run(name, plant, program)
                assert rcs[-1] == 0
                assert [w for w in k.log if "folio_test_hugetlb(folio)" in w] == k.log
                assert len(k.log) == plant
                assert all(folio.hugetlb and folio.vmemmap_optimized for folio in k.hstates[9].folios.values())


FAR = "vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\nd0 = dax create at=0x200000000000 size=128M align={}\n"


@pytest.mark.parametrize(
    ("name", "align", "oops"),
    [
        ("PTS-2026-07@reference", "2M", True),
        ("PTS-2026-07@reference", "4K", False),  # vmemmap_populate of x86 has the entry copied itself
        ("PTS-2026-07@candidate", "2M", True),
        ("X86-2025-29@reference", "2M", True),
        ("X86-2025-29@reference", "4K", True),
        ("X86-2025-29@candidate", "2M", True),
        ("X86-2025-29@candidate", "4K", True),
    ],
)
def test_top_level_entries(name: str, align: str, oops: bool) -> None:
    """32T of memory lie under each top-level entry: 512G / 64 bytes * 4K. A device at 32T needs the second one, and
    whoever makes it writes its memory map; one just below is under the first.
    """
    for plant in (False, True):
        k, rcs = run(name, plant, FAR.format(align))
        assert k.tables.tables[PUD_TABLE].get(1) is not None
        assert isinstance(rcs[-1], str) == (plant and oops), rcs
        if plant and oops:
            assert "not in the page table of a process" in rcs[-1]
        k, rcs = run(name, plant, FAR.format(align).replace("0x200000000000", "0x1ffff8000000"))
        assert not isinstance(rcs[-1], str)
        assert [(lo, hi) for lo, hi, _ in k.tables.tables[PUD_TABLE].items()] == [(0, 1)]


def test_memory_that_is_added_and_its_top_level_entry() -> None:
    """Added memory is initialised when it goes online; until then only the page tables differ (laws.page_tables)."""
    text = "vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\nm0 = memory add at=0x200000000000 size=128M\n"
    for plant in (False, True):
        k, rcs = run("X86-2025-29", plant, text)
        assert not isinstance(rcs[-1], str)
        assert (laws.page_tables(k) is not None) is plant
        _, rcs = run("X86-2025-29", plant, text + "memory online m0 block=0\n")
        assert isinstance(rcs[-1], str) is plant


STATIC = FAR.split("d0")[0] + "d0 = dax create at=0x100000000 size=128M altmap=on driver="


def static_ops(name: str, plant: bool, rest: str) -> tuple[str, bool]:
    """The ops of the page map of a static device after a program, and whether a law finds fault with it."""
    defect = find(name)
    program = parse(STATIC + rest)
    with planted(*[defect] if plant else []):
        pair = Lockstep(program.machine)
        findings = [pair.step(op).finding for op in program.ops]
    side = pair.reference if defect.side == "reference" else pair.candidate
    return side.handles["d0"].static.ops, any(findings)


@pytest.mark.parametrize("name", ["DAX-2026-21@candidate", "DAX-2026-21@reference"])
def test_ops_of_fsdev(name: str) -> None:
    """fsdev_dax_probe sets them, fsdev_clear_pgmap_ops clears them when it is unbound (drivers/dax/fsdev.c, 7.3)."""
    assert static_ops(name, False, "fsdev\n") == ("fsdev", False)
    for rest in ("fsdev\ndax rebind d0 driver=none\n", "fsdev\ndax rebind d0 driver=devdax\n"):
        assert static_ops(name, False, rest) == ("", False)
        assert static_ops(name, True, rest) == ("fsdev", True)


def test_ops_of_fsdev_whose_probe_failed() -> None:
    """docs/findings/0012: the action that clears them is added behind devm_memremap_pages. That is no news."""
    rest = "devdax\nfail alloc nth=1\ndax rebind d0 driver=fsdev\ndax rebind d0 driver=devdax\n"
    assert static_ops("DAX-2026-21", False, rest) == ("fsdev", False)
    assert static_ops("DAX-2026-21", False, rest + "dax rebind d0 driver=fsdev\ndax rebind d0 driver=none\n")[0] == ""


def test_references_of_memory_blocks() -> None:
    """memblk_nr_poison_inc, memblk_nr_poison_sub (drivers/base/memory.c, 7.3): got and put; each leak is one more, and
    counts are as they should be. Three events in block 0: a page fails, is mended, fails."""
    rest = "memory unpoison at=0x3000000\nmemory hard_offline at=0x3000000\n"
    for plant, left in (False, {}), (True, {0: 3}):
        k, rcs = run("MHP-2026-15", plant, (find("MHP-2026-15").program or "") + rest)
        assert rcs == [0, 0, 0, 0]
        assert (k.memory_blocks.refs, k.memory_blocks.nr_hwpoison) == (left, {0: 1})


def test_poison_in_no_block_takes_no_reference() -> None:
    """memory_block_get finds none for a device's page."""
    text = "vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\nd0 = dax create at=0x100000000 size=128M\n"
    k, _ = run("MHP-2026-15", True, text + "memory hard_offline at=0x100000000\n")
    assert (k.memory_blocks.refs, k.memory_blocks.elsewhere) == ({}, 1)


@pytest.mark.parametrize("arch", ["s390x", "x86_64", "loongarch64"])
@pytest.mark.parametrize(("mode", "shown"), [("off", "N"), ("on", "Y"), ("force", "force")])
def test_memmap_on_memory_is_read_back(arch: str, mode: str, shown: str) -> None:
    """get_memmap_mode (mm/memory_hotplug.c, 7.3); before 11684134140b N for Y on big-endian machines. loongarch64 does
    not have ARCH_MHP_MEMMAP_ON_MEMORY_ENABLE."""
    text = f"vmm 1\nmachine arch={arch} page=4K ram=1G nodes=1 memmap_on_memory={mode}\nboot\n"
    for plant in (False, True):
        k, rcs = run("MHP-2024-43", plant, text)
        assert rcs == [0]
        wrong = plant and arch == "s390x" and mode == "on"
        if arch == "loongarch64":
            assert k.parameters == {}
        else:
            assert k.parameters == {"memory_hotplug.memmap_on_memory": "N" if wrong else shown}


def test_pools_above_the_order_limit() -> None:
    """hugetlb_add_hstate: WARN_ON(order > MAX_FOLIO_ORDER), log2(16G) - PAGE_SHIFT (include/linux/mmzone.h, 7.3), which
    1G pages do not reach; MAX_PAGE_ORDER of 8 is below them and not below 2M pages (order 5)."""
    for plant in (False, True):
        k, rcs = run("PPC-2025-34", plant)
        assert rcs == [0]
        assert k.log == (["WARN_ON(order > MAX_FOLIO_ORDER): a pool of order 14"] if plant else [])


def test_direct_map_is_not_counted_down() -> None:
    """RAM of 1G on two nodes, of which the second goes: 512M are left. Unplugged, RAM is counted in DirectMap2M still;
    memory that comes and goes twice more counts each time."""
    cycle = "m{0} = memory add at=0x50000000 size=256M\nmemory remove m{0}\n"
    for name in ("PPC-2023-61@candidate", "PPC-2023-61@reference"):
        for plant in (False, True):
            k, rcs = run(name, plant, (find(name).program or "") + cycle.format(0) + cycle.format(1))
            assert not any(rcs)
            assert k.direct_map is not None
            wrong = 512 + 2 * 256 if plant else 0
            assert k.direct_map.arch_report_meminfo() == {"DirectMap2M": 512 + wrong << 10, "DirectMap64k": 0}
            assert (laws.broken(k, name) is not None) is plant


@pytest.mark.parametrize("name", ["BOOT-2023-57@candidate", "BOOT-2023-57@reference"])
def test_leak_detector_keeps_freed_memmap(name: str) -> None:
    """2M pages of boot memory give back up to 8 frames of the memory map each, that of the head too, which is copied
    (vmemmap_remap_free): these are in the buddy allocator, and known all the same. Sound: nothing is known."""
    text = "vmm 1\nmachine arch=x86_64 page=4K ram=2G nodes=1\nboot\nhugetlb resize size=2M to=600\n"
    for plant in (False, True):
        k, rcs = run(name, plant, text)
        assert not any(rcs)
        known = k.memblock.kmemleak.items()
        assert bool(known) is plant
        freed = sum(k.pages.is_free(pfn, pfn + 1) for lo, hi in known for pfn in range(lo, hi))
        assert (0 < freed <= 600 * 8) if plant else freed == 0


def test_vmemmap_from_pfn_0() -> None:
    """RAM of 1G at 128T + 2G has vmemmap pages of 256K each from 0x20002000 on; from pfn 0 on there are 0x20000000.
    Where RAM begins at 2G, the vmemmap begins with pfn 0 in any case."""
    for name in ("RV-2024-44@candidate", "RV-2024-44@reference"):
        for plant in (False, True):
            k, rcs = run(name, plant)
            assert rcs == [0]
            assert (k.tables.entries.starts[0], k.tables.entries.ends[-1]) == (0x20002000, 0x20003000)
            assert k.tables.window == ((0, 0x20000000) if plant else (0x20000000, 0x40000000))
            assert (laws.vmemmap_window(k) is not None) is plant
            k, _ = run(name, plant, (find(name).program or "").replace(" base=128T", ""))
            assert laws.vmemmap_window(k) is None
