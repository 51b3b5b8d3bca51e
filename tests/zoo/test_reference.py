"""What each defect of the separate paths does: the numbers of separate-paths.md section 5, on the reference alone."""

from typing import Any

import pytest

from fuzz.program.text import parse
from fuzz.side import Side
from mm.boot import boot
from mm.kernel import Kernel
from mm.machine import Machine
from mm.page import Tail
from mm.page_alloc import OWNER_MEMMAP, KernelBug
from mm.pgtable import frame_at, writable
from mm.tlb import record
from reference import radix_pgtable
from reference.paths import SeparatePaths
from zoo import DEFECTS, PROFILES, find, planted

SECTION, GIB = 32768, 1 << 18
AT = 0x100000000 >> 12


def run(name: str | None, text: str | None = None) -> tuple[Kernel, list[Any]]:
    """The kernel after a defect's own program, with the defect or (None and the text) without, and what it returned."""
    defect = find(name) if name else None
    program = parse(text or (defect.program if defect else None) or "")
    with planted(*[defect] if defect else []):
        side = Side(program.machine, SeparatePaths)
        rcs = [side.run(op) for op in program.ops]
    return side.kernel, rcs


def both(name: str) -> tuple[Kernel, Kernel, list[Any], list[Any]]:
    """With and without."""
    with_it, rcs = run(name)
    without, clean = run(None, find(name).program)
    return with_it, without, rcs, clean


def owned(k: Kernel, owner: str) -> int:
    return sum(hi - lo for lo, hi, o in k.pages.owners.items() if o == owner)


def test_acct_underflow() -> None:
    """Q1: each failed add leaves NR_MEMMAP lower by ceil(n * 64 / PAGE): 128M: 512."""
    k, clean, rcs, _ = both("ACC-2026-01")
    assert rcs[-1] == -12
    assert (k.vmstat.nr_memmap, clean.vmstat.nr_memmap) == (-512, 0)


def emptied(n: int) -> Kernel:
    """A boot section emptied in two parts, the last of `n` pages."""
    k = Kernel(Machine(ram=1 << 30), SeparatePaths)
    boot(k)
    pfn = 3 * SECTION
    k.paths.sparse_remove_section(pfn, SECTION - n, None, None)
    k.paths.sparse_remove_section(pfn + SECTION - n, n, None, None)
    return k


def test_early_final_remove() -> None:
    """Q2: emptying an early section lowers BOOT by the last call's n: 2M: 8 instead of 512."""
    assert emptied(512).vmstat.nr_memmap_boot == 8 * 512 - 512
    with planted(find("early_final_remove_partial_count")):
        assert emptied(512).vmstat.nr_memmap_boot == 8 * 512 - 8
        assert emptied(SECTION // 2).vmstat.nr_memmap_boot == 8 * 512 - 256


def test_prehvo_wrprotect() -> None:
    """Q3: x86 1G: vmemmap pages 1..63 RO, 64..4095 stay RW."""
    k, clean, _, _ = both("HVO-2026-09")

    def rw(k: Kernel) -> list[int]:
        (folio,) = k.hstates[18].folios.values()
        lo = folio.pfn // 64
        return [vpn - lo for s, e, m in k.tables.runs(lo, lo + 4096) for vpn in range(s, e) if writable(m, vpn)]

    assert rw(clean) == [0]
    assert rw(k) == [0, *range(64, 4096)]


def test_prehvo_wrprotect_and_restore() -> None:
    """What the pre-HVO pages do afterwards is as ever: two of them are restored and freed."""
    text = (find("HVO-2026-09").program or "").replace("count=1", "count=2").replace("ram=4G", "ram=8G")
    text += "hugetlb resize size=1G to=0\n"
    k, _ = run("HVO-2026-09", text)
    clean, _ = run(None, text)
    assert sum(k.hstates[18].nr) == 0
    assert (k.vmstat.nr_memmap, k.vmstat.nr_memmap_boot) == (clean.vmstat.nr_memmap, clean.vmstat.nr_memmap_boot)


def test_rollback() -> None:
    """Q4: PTE 0 too gets a page of tails: head content lost, copy frame leaked, NR_MEMMAP +1 stays."""
    k, clean, rcs, _ = both("HVO-2026-08")
    assert rcs[-1] == 0

    def head(k: Kernel) -> Any:
        (folio,) = k.hstates[18].folios.values()
        assert not folio.vmemmap_optimized
        return k.memmap.content(folio.pfn)

    assert head(clean).kind == "compound"
    assert head(k) == Tail(18, 0, 2)
    # 3.7: NR_MEMMAP +1 either way; in 7.3 the frame of page 0 goes back, which is a boot frame.
    assert (k.vmstat.nr_memmap, clean.vmstat.nr_memmap) == (1, 1)
    assert k.vmstat.nr_memmap_boot == clean.vmstat.nr_memmap_boot + 1
    assert owned(k, OWNER_MEMMAP) == 1
    mapped = {frame_at(m, vpn) for s, e, m in k.tables.entries.items() for vpn in range(s, e)}
    leaked = next(lo for lo, _, owner in k.pages.owners.items() if owner == OWNER_MEMMAP)
    assert leaked not in mapped


def test_block_create_fail() -> None:
    """Q5: self-hosted frames go to the buddy allocator, which here refuses frames that are no online RAM."""
    _, _, rcs, clean = both("MHP-2026-02")
    assert clean[-1] == -12
    assert "bad page state" in rcs[-1]


@pytest.mark.parametrize(("size", "align", "fixed", "full"), [("2M", "2M", 2, 8), ("1G", "1G", 2, 4096)])
def test_dax_full_count(size: str, align: str, fixed: int, full: int) -> None:
    """Q6: N = ceil(n * 64 / PAGE) also for P4, add and remove: x86 1G: +4096 instead of +2."""
    text = (find("ACC-2026-03").program or "").replace("size=2M align=2M", f"size={size} align={align}")
    assert run(None, text)[0].vmstat.nr_memmap == fixed
    assert run("ACC-2026-03", text)[0].vmstat.nr_memmap == full
    assert run("ACC-2026-03", text + "dax destroy d0\n")[0].vmstat.nr_memmap == 0


def test_pageblock_first_only() -> None:
    """Q7: 1G: 1 of 512 pageblocks."""
    k, clean, _, _ = both("INIT-2026-05")

    def movable(k: Kernel) -> int:
        runs = k.pageblocks.runs(AT >> 9, (AT + GIB) >> 9)
        return sum(hi - lo for lo, hi, migratetype in runs if migratetype == "movable")

    assert (movable(k), movable(clean)) == (1, 512)


def test_early_section_short_init() -> None:
    """Q8: 2 * SPP struct pages are initialised also in an early section: tails from 128 on keep stale content."""
    k, clean, _, _ = both("INIT-2026-06")
    pfn = 1088 << 8
    assert k.memmap.content(pfn + 127) == clean.memmap.content(pfn + 511)
    assert {c.kind for _, _, c in clean.memmap.view(pfn, pfn + 512)} == {"compound"}
    # sparse_add_section has poisoned them.
    assert [(lo - pfn, hi - pfn, c.kind) for lo, hi, c in k.memmap.view(pfn, pfn + 512)] == [
        (0, 128, "compound"),
        (128, 512, "poison"),
    ]
    assert clean.vmstat.struct_pages_initialized - k.vmstat.struct_pages_initialized == 512 - 128


@pytest.mark.parametrize(
    ("page", "align", "v", "fixed", "wrong"),
    # 4K/2M: nothing saved (8 of 8 frames); 4K/1G: 64 of 4096 frames instead of 2; 64K: no effect.
    [("4K", "2M", 8, 2, 8), ("4K", "1G", 4096, 2, 64), ("64K", "1G", 16, 2, 2)],
)
def test_ppc_addr_pfn(page: str, align: str, v: int, fixed: int, wrong: int) -> None:
    """Q18."""
    text = (find("PPC-2026-13").program or "").replace("page=4K", f"page={page}")
    text = text.replace("size=16M align=2M", f"size={align} align={align}")

    def frames(k: Kernel) -> int:
        lo = AT * 4096 // k.arch.page // k.arch.spp
        runs = k.tables.runs(lo, lo + v)
        assert sum(e - s for s, e, _ in runs) == v
        return len({frame_at(m, vpn) for s, e, m in runs for vpn in range(s, e)})

    k, _ = run("PPC-2026-13", text)
    assert frames(k) == owned(k, OWNER_MEMMAP) == wrong
    assert frames(run(None, text)[0]) == fixed
    k, _ = run("PPC-2026-13", text + "dax destroy d0\n")
    assert owned(k, OWNER_MEMMAP) == 0
    assert k.pages.refs == {}


@pytest.mark.parametrize(("nth", "what"), [(1, "usemap"), (2, "memmap")])
def test_boot_populate_drop(nth: int, what: str) -> None:
    """Q21: populate failure dropped the rest of the run, usage failure the run; 7.3 panics."""

    def fails() -> Kernel:
        k = Kernel(Machine(ram=1 << 30), SeparatePaths)
        k.faults.nth = nth
        k.faults.begin()
        return k

    with pytest.raises(KernelBug, match=f"panic: Failed to allocate {what}"):
        boot(fails())
    with planted(find("boot_populate_drop")):
        k = fails()
        # Zones and memblock go on with memory that has no struct pages.
        with pytest.raises(KernelBug, match="page fault: struct page of pfn 0x0 is written but not mapped"):
            boot(k)
        assert len(k.sections.flags) == 0


def test_v7_0_base_is_all_of_them() -> None:
    """Section 5: everything FIXED that is modelled: Q1-Q8, Q18, Q21. Q19 and Q22 are listed with a reason."""
    assert len({d.id for d in PROFILES["v7.0-base"]}) == 10
    assert all(DEFECTS[d.id].side == "reference" for d in PROFILES["v7.0-base"])
    assert PROFILES["v7.3"] == ()


@pytest.mark.parametrize("name", [d.id for d in PROFILES["v7.0-base"] if d.program])
def test_all_at_once_do_not_get_in_each_others_way(name: str) -> None:
    """Under v7.0-base each program still shows what its own defect returns."""
    program = parse(find(name).program or "")
    with planted(*PROFILES["v7.0-base"]):
        side = Side(program.machine, SeparatePaths)
        rcs = [side.run(op) for op in program.ops]
    assert rcs[:-1] == run(name)[1][:-1]
    assert type(rcs[-1]) is type(run(name)[1][-1])


def test_boot_count_kept() -> None:
    """bugs.md: nr_memmap_boot stays too high; 1G of 4K pages has a memmap of 4096 pages."""
    k, clean, rcs, _ = both("ACC-2025-27")
    assert rcs[-1] == 0
    assert k.vmstat.nr_memmap_boot - clean.vmstat.nr_memmap_boot == 4096


def test_radix_hole() -> None:
    """bugs.md: 0 is returned, and a 2M piece of the vmemmap (512 pages) is not mapped; sound, base pages are there."""
    lo, mapped = AT // 64, []
    for defects in ([], [find("PPC-2025-32")]):
        with planted(*defects):
            k = Kernel(Machine(arch="ppc64_radix", page=4096, ram=1 << 30), SeparatePaths)
            boot(k)
            k.faults.nth = 1  # the block: its PUD and PMD tables are those of boot memory
            k.faults.begin()
            assert radix_pgtable.vmemmap_populate(k, lo, lo + 512, 0, None) == 0
        mapped.append(sum(e - s for s, e, _ in k.tables.runs(lo, lo + 512)))
    assert mapped == [512, 0]


@pytest.mark.parametrize("name", ["ARM64-2023-53", "S390-2025-24"])
def test_hvo_where_the_tlb_forbids_it(name: str) -> None:
    """mm/tlb.py: arm64 and s390 want break-before-make; s390 besides flushes nothing before it frees."""
    program = parse(find(name).program or "")
    with planted(find(name)):
        side = Side(program.machine, SeparatePaths)
        record(side.kernel)
        assert [side.run(op) for op in program.ops] == [0, 0]
    said = " ".join(side.kernel.tlb.violations)
    assert "without a break" in said
    assert ("is stale" in said) is (name == "S390-2025-24")


def test_counted_when_free() -> None:
    """A 2M page in boot memory has 8 vmemmap pages of 4K, of which one is kept, as a copy (vmemmap_remap_free): 8 from
    memblock are freed and 1 is new. Counted once they are free, the 8 leave NR_MEMMAP instead of NR_MEMMAP_BOOT; what
    was restored in between has frames of the buddy allocator, and leaves NR_MEMMAP either way."""
    k, clean, rcs, _ = both("ACC-2024-37")
    assert rcs == [0, 0]
    assert k.vmstat.nr_memmap_boot - clean.vmstat.nr_memmap_boot == 8
    assert k.vmstat.nr_memmap - clean.vmstat.nr_memmap == -8
    text = (find("ACC-2024-37").program or "") + "hugetlb resize size=2M to=0\nhugetlb resize size=2M to=1\n"
    again, clean = (run(name, text)[0] for name in ("ACC-2024-37", None))
    assert again.vmstat.nr_memmap_boot - clean.vmstat.nr_memmap_boot == 8
    assert again.vmstat.nr_memmap - clean.vmstat.nr_memmap == -8


def test_struct_pages_cross() -> None:
    """512 struct pages of 80 bytes are 10 vmemmap pages: one is kept, a copy, and 9 map a tail page of 51.2."""
    k, clean, rcs, _ = both("HVO-2022-68")
    assert rcs == [0, 0]
    folio = next(iter(k.hstates[9].folios.values()))
    lo = folio.pfn * 80 // 4096
    maps = [k.tables.get(vpn) for vpn in range(lo, lo + 10)]
    frames = [frame_at(m, vpn) for vpn, m in enumerate(maps, lo) if m is not None]
    assert len(frames) == 10
    assert len(set(frames)) == 2
    assert frames.count(frames[1]) == 9
    assert [writable(m, vpn) for vpn, m in enumerate(maps, lo) if m is not None] == [True] + [False] * 9
    assert (k.vmstat.nr_memmap, clean.vmstat.nr_memmap) == (1, 0)
    assert k.vmstat.nr_memmap_boot == clean.vmstat.nr_memmap_boot - 10
    # And back: 9 frames more.
    k, rcs = run("HVO-2022-68", (find("HVO-2022-68").program or "") + "hugetlb resize size=2M to=0\n")
    assert rcs == [0, 0, 0]
    assert k.vmstat.nr_memmap == 10
    assert len({frame_at(m, vpn) for s, e, m in k.tables.runs(lo, lo + 10) for vpn in range(s, e)}) == 10
