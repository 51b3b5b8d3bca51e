"""An older reference: its bugs are carried forward exactly, and a reference that is off by another amount is found.

Numbers: separate-paths.md section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from candidate.framework import UnifiedFramework
from fuzz.execute import Lockstep, RunOutcome, run_ops
from fuzz.oracle.history import History
from fuzz.program import parse
from mm.altmap import Altmap
from mm.folio import Folio
from mm.kernel import MIGRATE_UNMOVABLE, Kernel
from mm.mmzone import Zone
from mm.page import POISON, Tail
from mm.page_alloc import OWNER_MEMMAP, Extents
from mm.pgmap import PgMap
from mm.pgtable import Strided
from reference.paths import SeparatePaths
from zoo import Defect, reference_version

CORPUS = Path(__file__).resolve().parents[3] / "corpus" / "history"


def text(name: str, more: str = "") -> str:
    """A program of corpus/history, and operations to go on with."""
    return (CORPUS / f"{name}.vmm").read_text(encoding="utf-8") + more


def run(program: str, *defects: Defect) -> tuple[Lockstep, RunOutcome]:
    """Against v7.0-base, everything compared after every operation."""
    parsed = parse(program)
    with reference_version("v7.0-base", *defects):
        pair = Lockstep(parsed.machine, full_every=1)
        return pair, run_ops(pair, parsed.ops)


def history(pair: Lockstep) -> History:
    assert pair.oracle.history is not None
    return pair.oracle.history


def counted(pair: Lockstep) -> tuple[int, int]:
    return pair.reference.kernel.vmstat.nr_memmap, pair.candidate.kernel.vmstat.nr_memmap


def test_the_reference_says_which_it_is() -> None:
    assert SeparatePaths.version == "v7.3"
    assert Lockstep(parse(text("prehvo-protection")).machine).oracle.history is None
    with reference_version("v7.0-base"):
        assert SeparatePaths.version == "v7.0-base"
        assert Lockstep(parse(text("prehvo-protection")).machine).oracle.history is not None
    with pytest.raises(RuntimeError), reference_version("v7.0-base"):
        raise RuntimeError
    assert SeparatePaths.version == "v7.3"


# -- carried forward ------------------------------------------------------------------------------------------------


def test_underflow_stays() -> None:
    """-512 for a section, -8 for a part of 2M, through whatever comes after. Points of the second: USG and VMB of a
    whole section, which is kept (Q12), USG and PTBL of the part.
    """
    pair, out = run(
        text(
            "vmemmap-accounting-underflow",
            "d0 = dax create at=0x100000000 size=128M\n"
            "fail alloc nth=4\nd1 = dax create at=0x180000000 size=130M align=4K\n"
            "m2 = memory add at=0x200000000 size=128M\nmemory remove m2\ndax destroy d0\n",
        )
    )
    assert (out.verdict, out.rcs[2], out.rcs[5]) == ("ok", (-12, -12), (-12, -12))
    assert counted(pair) == (512 - 512 - 8, 512)


def test_underflow_of_a_part() -> None:
    """A piece of 2M: 512 * 64 / 4096 = 8."""
    machine = "vmm 1\nmachine arch=x86_64 page=4K ram=512M nodes=1\nboot\n"
    pair, out = run(machine + "fail alloc nth=3\nd0 = dax create at=0x100000000 size=2M align=4K\n")
    assert (out.verdict, out.rcs[-1], counted(pair)) == ("ok", (-12, -12), (-8, 0))


def test_devices_count_in_full() -> None:
    """128M: 512 against 64; 2M: 8 against 8; 1G: 4096 against 1."""
    pair, out = run(
        text("dax-vmemmap-accounting", "d1 = dax create at=0x110000000 size=2M\n")
        + "d2 = dax create at=0x140000000 size=1G align=1G\n"
    )
    assert (out.verdict, counted(pair)) == ("ok", (512 + 8 + 4096, 64 + 8 + 1))
    pair, out = run(text("pgmap-in-deactivation"))
    assert (out.verdict, counted(pair)) == ("ok", (0, 0))


def test_pageblocks_stay_until_they_are_written() -> None:
    """2 GiB: 2 * 511 are left out, also when the device is gone; one of 2M pages makes its own movable."""
    pair, out = run(text("zone-device-pageblocks", "dax destroy d0\n"))
    assert out.verdict == "ok"
    assert sum(hi - lo for lo, hi in history(pair).blocks.items()) == 2 * 511
    pair, out = run(
        text("zone-device-pageblocks", "dax destroy d0\nd1 = dax create at=0x100000000 size=128M\nsysctl ")
        + "hugetlb_optimize_vmemmap=off\n"
    )
    assert out.verdict == "ok"
    # The first of the 64 is a head's.
    assert sum(hi - lo for lo, hi in history(pair).blocks.items()) == 2 * 511 - 63


def test_pageblocks_behind_an_altmap() -> None:
    """The data begin behind it: the pageblock at the start of the namespace is none of a head's."""
    machine = "vmm 1\nmachine arch=x86_64 page=4K ram=512M nodes=1\nboot\n"
    pair, out = run(machine + "d0 = dax create at=0x20000000 size=1536M align=1G altmap=on\n")
    assert (out.verdict, history(pair).blocks.items()) == ("ok", [(0x201, 0x400)])


def test_struct_pages_stay_poisoned_until_they_are_written() -> None:
    """512 - 128 in one compound page; a device of base pages initialises them."""
    pair, out = run(text("zone-device-struct-pages"))
    assert out.verdict == "ok"
    assert [(lo, hi) for lo, hi, _ in history(pair).tails.items()] == [(0x44080, 0x44200)]
    vmstat = [side.kernel.vmstat.struct_pages_initialized for side in (pair.reference, pair.candidate)]
    assert vmstat[1] - vmstat[0] == 512 - 128
    more = "dax destroy d0\nd1 = dax create at=0x44000000 size=2M align=4K\nsysctl hugetlb_optimize_vmemmap=off\n"
    pair, out = run(text("zone-device-struct-pages", more))
    assert (out.verdict, len(history(pair).tails)) == ("ok", 0)


def test_writable_tails_until_the_page_is_restored() -> None:
    """4096 - 64 vmemmap pages; optimized anew it is protected as in 7.3."""
    pair, out = run(text("prehvo-protection"))
    assert out.verdict == "ok"
    assert sum(hi - lo for lo, hi, _ in history(pair).writable.items()) == 4096 - 64
    pair, out = run(text("prehvo-protection", "hugetlb resize size=1G to=0\nhugetlb resize size=1G to=1\n"))
    assert (out.verdict, len(history(pair).writable)) == ("ok", 0)


ALTMAP = "history-altmap-in-error-path"
REBOUND = (
    "vmm 1\nmachine arch=x86_64 page=4K ram=512M nodes=1 memmap_on_memory=on\nboot\n"
    "d0 = dax create at=0x20000000 size=128M align=4K\ndax set d0 memmap_on_memory=on\nfail alloc nth=4\n"
    "dax rebind d0 driver=kmem\n"
)
"""ALT, USG, VMB are there, BLK fails; the device's memmap of 512 pages went before."""


def test_a_block_without_device_after_a_device_was_unbound() -> None:
    pair, out = run(REBOUND)
    assert (out.verdict, out.clauses & {ALTMAP}) == ("explained", {ALTMAP})
    assert pair.candidate.kernel.vmstat.nr_memmap == 0


def test_a_block_without_device_where_the_other_side_failed_before() -> None:
    """The reference has a root of sections to allocate, so its twentieth point is the block device and the candidate's
    the last of 16 sections, which leaves 15 of 64 pages (Q12)."""
    machine = "vmm 1\nmachine arch=ppc64_radix page=4K ram=512M nodes=1 memmap_on_memory=on\nboot\n"
    pair, out = run(machine + "fail alloc nth=20\nm0 = memory add at=0xc0000000 size=256M memmap_on_memory=on\n")
    assert (out.verdict, out.clauses & {ALTMAP}) == ("explained", {ALTMAP})
    assert pair.candidate.kernel.vmstat.nr_memmap == 15 * (16 << 20 >> 12) * 64 // 4096


def test_a_block_without_device_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    remove = UnifiedFramework.sparse_remove_section

    def keep(f: UnifiedFramework, *args: Any) -> None:
        if f.k.faults.fired is None:
            remove(f, *args)

    monkeypatch.setattr(UnifiedFramework, "sparse_remove_section", keep)
    _, out = run(REBOUND)
    assert out.finding is not None
    assert out.finding.detail == "candidate: block at 0x20000 has sections left"


def test_powerpc_goes_on() -> None:
    pair, out = run(
        text("powerpc-addr-pfn", "dax destroy d0\ndax destroy d1\nd2 = dax create at=0x180000000 size=16M\n")
    )
    # 64 private pages of the section against one for each of 8 compound pages.
    assert (out.verdict, counted(pair)) == ("ok", (64, 8))


# -- off by another amount ------------------------------------------------------------------------------------------

Original = Callable[..., Any]


def one_less(original: Original, k: Kernel, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: Any) -> int:
    rc: int = original(k, nid, pfn, nr, altmap, pgmap)
    k.vmstat.nr_memmap -= rc != 0
    return rc


def one_more(original: Original, k: Kernel, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
    count: int = original(k, pfn, nr, altmap, pgmap)
    return count + (pgmap is not None)


def no_head_either(original: Original, k: Kernel, zone: Zone, pfn: int, nr: int, pgmap: PgMap) -> None:
    original(k, zone, pfn, nr, pgmap)
    k.pageblocks.clear(pfn >> 9, (pfn >> 9) + 1)


def half_of_them(original: Original, k: Kernel, early: bool, pgmap: PgMap) -> int:
    return 64


def another_content(original: Original, k: Kernel, zone: Zone, pfn: int, nr: int, pgmap: PgMap) -> None:
    """Struct pages that are initialised, as what they are not."""
    original(k, zone, pfn, nr, pgmap)
    k.memmap.own.set(pfn + 200, pfn + 201, Tail(9, 0, 4))


def one_page_short(original: Original, k: Kernel, lo: int, pages: int) -> None:
    original(k, lo, pages)
    m = k.tables.get(lo)
    assert isinstance(m, Strided)
    k.tables.set(lo + 63, lo + 64, m._replace(tail_rw=True))


def two_frames_lost(original: Original, k: Kernel, *args: Any) -> Extents:
    k.pages.alloc_page(0, OWNER_MEMMAP)
    rest: Extents = original(k, *args)
    return rest


def second_page_too(original: Original, k: Kernel, folio: Folio, *args: Any) -> Extents:
    """More is overwritten than the rollback can have reached."""
    rest: Extents = original(k, folio, *args)
    k.memmap.own.set(folio.pfn + 64 * 600, folio.pfn + 64 * 601, POISON)
    return rest


def dies_elsewhere(original: object, k: Kernel, nid: int, pfn: int, nr: int) -> int:
    k.faults.fails("ALT")
    k.faults.grant("USG", 3)
    k.pages.claim(0x140000, 0x140200, OWNER_MEMMAP)
    k.pages.free(0x140000, 512)
    return 0


def one_page_read_only(original: Original, k: Kernel, start: int, lo: int, hi: int, nid: int, pgmap: PgMap) -> int:
    rc: int = original(k, start, lo, hi, nid, pgmap)
    if pgmap.vmemmap_shift == 9:
        m = k.tables.get(lo + 1)
        assert m is not None
        k.tables.set(lo + 1, lo + 2, m._replace(rw=False))  # type: ignore[call-arg]
    return rc


def immovable(original: Original, k: Kernel, zone: Zone, pfn: int, nr: int, pgmap: PgMap) -> None:
    original(k, zone, pfn, nr, pgmap)
    k.set_pageblocks(pfn, pfn + 512, MIGRATE_UNMOVABLE)


SPOILED: list[tuple[str, str, Callable[..., Any], str]] = [
    ("vmemmap-accounting-underflow", "reference.sparse_vmemmap:populate_section_memmap", one_less, "nr_memmap"),
    ("dax-vmemmap-accounting", "reference.sparse_vmemmap:section_nr_vmemmap_pages", one_more, "nr_memmap"),
    ("zone-device-pageblocks", "reference.mm_init:memmap_init_zone_device", no_head_either, "pageblock"),
    ("zone-device-pageblocks", "reference.mm_init:memmap_init_zone_device", immovable, "pageblock"),
    ("zone-device-struct-pages", "reference.mm_init:compound_nr_pages", half_of_them, "content"),
    ("zone-device-struct-pages", "reference.mm_init:memmap_init_zone_device", another_content, "content"),
    ("prehvo-protection", "reference.hugetlb_vmemmap:vmemmap_wrprotect_hvo", one_page_short, "protection"),
    ("rollback-of-head", "reference.hugetlb_vmemmap:rollback", two_frames_lost, "free pages"),
    ("rollback-of-head", "reference.hugetlb_vmemmap:rollback", second_page_too, "content"),
    ("altmap-in-error-path", "mm.memory_hotplug:_add_self_hosted_block", dies_elsewhere, "bug"),
    ("powerpc-addr-pfn", "reference.radix_pgtable:vmemmap_populate_compound_pages", one_page_read_only, "sharing"),
]


@pytest.mark.parametrize(("name", "spot", "spoil", "field"), SPOILED, ids=lambda x: getattr(x, "__name__", None))
def test_another_amount_is_found(name: str, spot: str, spoil: Callable[..., Any], field: str) -> None:
    wrong = Defect("", "", "", "reference", "", "", "", spot, spoil, None)
    assert run(text(name))[1].finding is None
    out = run(text(name), wrong)[1]
    assert out.finding is not None
    assert out.finding.field == field, out.finding.detail
