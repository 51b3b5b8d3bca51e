"""Optimizing and restoring folios: separate-paths.md 3.7-3.10, 3.16, section 4 and 6, live-linux.md 3."""

from errno import ENOMEM

import pytest

from mm.folio import Folio
from mm.hugetlb_sysfs import demote_store, nr_hugepages_store
from mm.kernel import BootRequest
from mm.memory_hotplug import add_memory, memory_block_online
from mm.page import Compound, Tail
from mm.page_alloc import OWNER_MEMMAP, OWNER_MEMMAP_BOOT, OWNER_SELFHOSTED
from mm.pgtable import frame_at

M2, G1 = 9, 18
"""Orders of 2M and 1G."""


def test_worked_example_single(boot_kernel, fresh, tally, trace, checked):
    """3.7, worked example: boot 2M page in an untouched section, empty zone slot."""
    k = boot_kernel()
    [folio] = fresh(k, M2, 1)
    before = tally(k)
    points = trace(k, 0, lambda: k.paths.hugetlb_vmemmap_optimize_folio(k.hstates[M2], folio))
    assert points == ["TAIL", "HEAD", "SPLIT"]
    assert tally(k) - before == (1, -8, 1, 8, 8 - 3)
    assert folio.vmemmap_optimized
    checked(k, [folio])


def test_worked_example_bulk(boot_kernel, tally, trace, checked):
    """3.8, worked example: growing by 2 pages of 2M that share an untouched boot section, empty slot."""
    k = boot_kernel()
    before = tally(k)
    points = trace(k, 0, lambda: nr_hugepages_store(k, M2, 2, None))
    assert points == ["NMASK", "HP", "HP", "SPLIT", "TAIL", "HEAD", "HEAD"]  # NMASK: 3.12, before the example begins
    assert (tally(k) - before)[:4] == (2, -16, 1, 16)
    checked(k, list(k.hstates[M2].folios.values()))


def test_restore_identity(boot_kernel, fresh, tally, trace, checked):
    """3.9: an optimize/restore pair of a boot folio moves V pages from BOOT to NR_MEMMAP and conserves the sum."""
    k = boot_kernel()
    [folio] = fresh(k, M2, 1)
    h = k.hstates[M2]
    before = tally(k)
    k.paths.hugetlb_vmemmap_optimize_folio(h, folio)
    assert trace(k, 0, lambda: k.paths.hugetlb_vmemmap_restore_folio(h, folio)) == ["RES"] * 7
    assert tally(k) - before == (8, -8, 1, 8, -2)  # the tail frame and the PTE table stay
    assert not folio.vmemmap_optimized
    assert k.memmap.content(folio.pfn + 63) == k.memmap.content(folio.pfn)
    assert k.memmap.content(folio.pfn + 64) == Tail(M2, 0, folio.zone.idx)
    checked(k, [folio])
    # From now on a pair is the identity in every count.
    steady = tally(k)
    k.paths.hugetlb_vmemmap_optimize_folio(h, folio)
    assert tally(k) - steady == (-7, 0, 0, 0, 7)
    checked(k, [folio])
    assert k.paths.hugetlb_vmemmap_restore_folio(h, folio) == 0
    assert tally(k) == steady


def test_measured_2m_rows(boot_kernel, tally, checked):
    """Section 4, measured on 7.3.4: 6G guest, switch on, deltas NR_MEMMAP / BOOT / NR_PAGETABLE / MemTotal."""
    k = boot_kernel(ram=6 << 30)
    rows = []
    for target in (1, 2, 0, 2):
        before = tally(k)
        assert nr_hugepages_store(k, M2, target, None) == 0
        rows.append((tally(k) - before)[:4])
        checked(k, list(k.hstates[M2].folios.values()))
    assert rows == [(1, -8, 1, 8), (1, -8, 0, 8), (14, 0, 0, 0), (-14, 0, 0, 0)]


def test_measured_1g_rows(boot_kernel, tally, checked):
    """Section 4, measured: 1G pool 0->1, demote it, 512 2M pages -> 0."""
    k = boot_kernel(ram=6 << 30)
    before = tally(k)
    assert nr_hugepages_store(k, G1, 1, None) == 0
    assert (tally(k) - before)[:4] == (1, -4096, 8, 4096)
    before = tally(k)
    assert demote_store(k, G1, 1, None) == 0
    assert (tally(k) - before)[:4] == (511, 0, 0, 0)
    checked(k, list(k.hstates[M2].folios.values()))
    before = tally(k)
    assert nr_hugepages_store(k, M2, 0, None) == 0
    assert (tally(k) - before)[:4] == (3584, 0, 0, 0)
    checked(k, [])


def test_measured_boot_1g(boot_kernel, tally, checked):
    """Section 4, measured: one pre-HVO 1G page gives BOOT 20481; its demote +512/-1/0/+1."""
    k = boot_kernel(BootRequest(G1, 1, None), ram=6 << 30)
    assert tally(k)[:3] == (0, 24576 - 4096 + 1, 0)
    before = tally(k)
    assert demote_store(k, G1, 1, None) == 0
    assert (tally(k) - before)[:4] == (512, -1, 0, 1)
    checked(k, list(k.hstates[M2].folios.values()))


def test_whole_section(boot_kernel, fresh, tally, checked):
    """Section 4: one whole untouched boot section, 0->64, 64->0, 0->64."""
    k = boot_kernel()
    h = k.hstates[M2]
    folios = fresh(k, M2, 64)
    assert folios[-1].pfn % k.arch.pages_per_section == 0
    before = tally(k)
    k.paths.hugetlb_vmemmap_optimize_folios(h, folios)
    assert (tally(k) - before)[:4] == (64, -512, 1, 512)
    # 7n - s - z pages gained.
    assert (tally(k) - before).free == 7 * 64 - 1 - 1
    checked(k, folios)
    before = tally(k)
    restored: list = []
    assert k.paths.hugetlb_vmemmap_restore_folios(h, folios, restored) == 64
    assert (tally(k) - before)[:4] == (448, 0, 0, 0)
    checked(k, restored)
    before = tally(k)
    k.paths.hugetlb_vmemmap_optimize_folios(h, restored)
    assert (tally(k) - before)[:4] == (-448, 0, 0, 0)
    checked(k, restored)


def test_first_1g_at_run_time(boot_kernel, fresh, tally, trace, checked):
    """Section 4: the first 1G folio gains 4095 - 8 - 1 pages; live-linux.md 3: -262144+4095-8 tables."""
    k = boot_kernel()
    [folio] = fresh(k, G1, 1)
    before = tally(k)
    points = trace(k, 0, lambda: k.paths.hugetlb_vmemmap_optimize_folios(k.hstates[G1], [folio]))
    assert points == ["SPLIT"] * 8 + ["TAIL", "HEAD"]
    assert tally(k) - before == (1, -4096, 8, 4096, 4095 - 8 - 1)
    checked(k, [folio])
    assert trace(k, 0, lambda: k.paths.hugetlb_vmemmap_restore_folio(k.hstates[G1], folio)) == ["RES"] * 4095


@pytest.mark.parametrize("count", [1, 10])
def test_steady_state(boot_kernel, tally, count):
    """live-linux.md 3: "10 pages up / down, steady state" -70/+70, nothing else in the counters."""
    k = boot_kernel()
    nr_hugepages_store(k, M2, count, None)
    nr_hugepages_store(k, M2, 0, None)
    empty = tally(k)
    nr_hugepages_store(k, M2, count, None)
    assert tally(k) - empty == (-7 * count, 0, 0, 0, -512 * count + 7 * count)
    nr_hugepages_store(k, M2, 0, None)
    assert tally(k) == empty


def test_more_in_the_same_zone(boot_kernel, tally):
    """live-linux.md 3: 1->11 in boot memmap with the tail frame there: +10 / -80."""
    k = boot_kernel()
    nr_hugepages_store(k, M2, 1, None)
    before = tally(k)
    nr_hugepages_store(k, M2, 11, None)
    assert (tally(k) - before)[:2] == (10, -80)


def test_switch(boot_kernel, fresh, snapshot, trace):
    """3.16, I8: the switch changes nothing by itself; off stops later optimizations only; restore does not ask it."""
    k = boot_kernel()
    h = k.hstates[M2]
    first, second = fresh(k, M2, 1), fresh(k, M2, 1)
    k.paths.hugetlb_vmemmap_optimize_folios(h, first)
    before = snapshot(k)
    assert k.paths.hugetlb_optimize_vmemmap_sysctl(False) == 0
    assert snapshot(k) == before
    assert trace(k, 0, lambda: k.paths.hugetlb_vmemmap_optimize_folios(h, second)) == []
    assert snapshot(k) == before
    assert k.paths.hugetlb_vmemmap_restore_folio(h, first[0]) == 0
    assert not first[0].vmemmap_optimized
    k.paths.hugetlb_optimize_vmemmap_sysctl(True)
    k.paths.hugetlb_vmemmap_optimize_folios(h, second)
    assert second[0].vmemmap_optimized


@pytest.mark.parametrize(("nth", "gone"), [(1, "TAIL"), (2, "HEAD"), (3, "SPLIT")])
def test_sweep_single(boot_kernel, fresh, tally, trace, checked, nth, gone):
    """3.7: each point failed in turn; before the first remapped PTE a failure changes nothing but the zone's tail."""
    k = boot_kernel()
    [folio] = fresh(k, M2, 1)
    before = tally(k)
    points = trace(k, nth, lambda: k.paths.hugetlb_vmemmap_optimize_folio(k.hstates[M2], folio))
    assert points == ["TAIL", "HEAD", "SPLIT"][:nth]
    assert points[-1] == gone
    assert not folio.vmemmap_optimized
    assert tally(k) - before == (0, 0, 0, 0, -1 if nth > 1 else 0)
    checked(k, [folio])


BULK = {
    # 3.8: two folios, empty slot, one leaf. A lost split is made up in pass 2; a failed TAIL or HEAD of the first
    # folio is not retried, because nothing has been freed yet; that of the second is.
    1: (["SPLIT", "TAIL", "HEAD", "SPLIT", "HEAD"], [True, True]),
    2: (["SPLIT", "TAIL", "TAIL", "HEAD"], [False, True]),
    3: (["SPLIT", "TAIL", "HEAD", "HEAD"], [False, True]),
    4: (["SPLIT", "TAIL", "HEAD", "HEAD", "HEAD"], [True, True]),
}


@pytest.mark.parametrize("nth", sorted(BULK))
def test_sweep_bulk(boot_kernel, fresh, trace, checked, nth):
    k = boot_kernel()
    folios = fresh(k, M2, 2)
    points = trace(k, nth, lambda: k.paths.hugetlb_vmemmap_optimize_folios(k.hstates[M2], folios))
    assert (points, [folio.vmemmap_optimized for folio in folios]) == BULK[nth]
    checked(k, folios)


@pytest.mark.parametrize("nth", range(1, 18))
def test_sweep_bulk_steady(boot_kernel, fresh, trace, tally, checked, nth):
    """With tail and tables there, the points are HEAD only; all but a failing first one are retried."""
    k = boot_kernel()
    h = k.hstates[M2]
    folios = fresh(k, M2, 16)
    k.paths.hugetlb_vmemmap_optimize_folios(h, folios)
    listed: list = []
    k.paths.hugetlb_vmemmap_restore_folios(h, folios, listed)
    before = tally(k)
    points = trace(k, nth, lambda: k.paths.hugetlb_vmemmap_optimize_folios(h, listed))
    lost = 1 if nth == 1 else 0
    assert points == ["HEAD"] * (16 + (1 < nth <= 16))
    assert [folio.vmemmap_optimized for folio in listed] == [False] * lost + [True] * (16 - lost)
    assert tally(k) - before == (-7 * (16 - lost), 0, 0, 0, 7 * (16 - lost))
    checked(k, listed)


def test_row_and_loop_agree(boot_kernel, fresh, tally, checked):
    """The row path and the loop (taken when a point far ahead of the last one is armed) leave the same counts."""
    results = []
    for nth in (0, 40):
        k = boot_kernel()
        h = k.hstates[M2]
        folios = fresh(k, M2, 64)
        k.paths.hugetlb_vmemmap_optimize_folios(h, folios)
        k.faults.nth = nth
        k.faults.begin()
        listed: list = []
        k.paths.hugetlb_vmemmap_restore_folios(h, folios, listed)
        k.faults.begin()
        k.paths.hugetlb_vmemmap_restore_folios(h, folios, listed)
        k.paths.hugetlb_vmemmap_optimize_folios(h, listed)
        checked(k, listed)
        results.append((tally(k), k.memmap.view(0, 1 << 19)))
    assert results[0] == results[1]


@pytest.mark.parametrize("nth", range(1, 9))
def test_1g_rollback(boot_kernel, fresh, tally, trace, checked, nth):
    """3.7: a 1G folio whose split number `nth` fails: 512 * (nth - 1) PTEs were remapped and are put back permuted."""
    k = boot_kernel()
    [folio] = fresh(k, G1, 1)
    lo = folio.pfn // 64
    old = [frame_at(k.tables.get(vpn), vpn) for vpn in range(lo, lo + 4096)]
    before = tally(k)
    points = trace(k, 2 + nth, lambda: k.paths.hugetlb_vmemmap_optimize_folio(k.hstates[G1], folio))
    assert points == ["TAIL", "HEAD"] + ["SPLIT"] * nth
    assert not folio.vmemmap_optimized
    w = 512 * (nth - 1)
    new = [frame_at(k.tables.get(vpn), vpn) for vpn in range(lo, lo + 4096)]
    if w:
        # The copy stays as head, PTE i has the frame of PTE w - i, that of PTE 0 was freed; NR_MEMMAP +1, its class -1.
        assert new[0] not in old
        assert new[1:w] == old[w - 1 : 0 : -1]
        assert k.pages.owners.get(old[0]) is None
        assert k.pages.owners.get(new[0]) == OWNER_MEMMAP
        assert (tally(k) - before)[:4] == (1, -1, nth - 1, 1)
        assert k.memmap.content(folio.pfn + 64 * w - 1) == Tail(G1, 0, folio.zone.idx)
    else:
        assert (tally(k) - before)[:4] == (0, 0, 0, 0)
    assert new[max(w, 1) :] == old[max(w, 1) :]
    checked(k, [folio])
    # Whatever was left behind, a second attempt succeeds.
    k.paths.hugetlb_vmemmap_optimize_folio(k.hstates[G1], folio)
    assert folio.vmemmap_optimized
    assert k.vmstat.nr_page_table_pages == 8
    checked(k, [folio])


@pytest.mark.parametrize("nth", range(1, 11))
def test_1g_bulk_sweep(boot_kernel, fresh, trace, checked, nth):
    """3.8: a failing SPLIT is retried in pass 2 (the list holds the copy); TAIL and HEAD of the first are lost."""
    k = boot_kernel()
    [folio] = fresh(k, G1, 1)
    trace(k, nth, lambda: k.paths.hugetlb_vmemmap_optimize_folios(k.hstates[G1], [folio]))
    assert folio.vmemmap_optimized == (nth <= 8)
    assert k.vmstat.nr_page_table_pages == 8
    checked(k, [folio])


SHORT = {
    # 3.8 with that many free frames. Without a table the copy of the failed attempt pays for it in the retry.
    1: (["SPLIT", "TAIL", "TAIL"], 0),
    2: (["SPLIT", "TAIL", "HEAD", "HEAD"], 0),
    3: (["SPLIT", "TAIL", "HEAD", "HEAD", "HEAD"], 2),
    4: (["SPLIT", "TAIL", "HEAD", "HEAD"], 2),
}


@pytest.mark.parametrize("free", sorted(SHORT))
def test_bulk_short_of_memory(boot_kernel, fresh, trace, checked, free):
    """3.8, Q20: the retry lives on the frames that the folios before it released."""
    k = boot_kernel()
    folios = fresh(k, M2, 2)
    got = k.pages.alloc_bulk(1 << 30, 0, "pages")
    k.pages.free(got[0][0], free)
    points = trace(k, 0, lambda: k.paths.hugetlb_vmemmap_optimize_folios(k.hstates[M2], folios))
    assert (points, sum(folio.vmemmap_optimized for folio in folios)) == SHORT[free]
    checked(k, folios)


def test_no_memory_at_all(boot_kernel, fresh, tally, trace, checked):
    k = boot_kernel()
    folios = fresh(k, M2, 2)
    k.pages.alloc_bulk(1 << 30, 0, "pages")
    before = tally(k)
    points = trace(k, 0, lambda: k.paths.hugetlb_vmemmap_optimize_folios(k.hstates[M2], folios))
    assert points == ["SPLIT", "TAIL", "TAIL"]
    assert tally(k) == before
    assert not any(folio.vmemmap_optimized for folio in folios)
    checked(k, folios)


@pytest.mark.parametrize("nth", range(1, 8))
def test_sweep_restore(boot_kernel, fresh, trace, snapshot, checked, nth):
    """3.9: the j-th failure frees j-1 frames and has no other effect."""
    k = boot_kernel()
    h = k.hstates[M2]
    [folio] = fresh(k, M2, 1)
    k.paths.hugetlb_vmemmap_optimize_folio(h, folio)
    before = snapshot(k)
    rc: list[int] = []
    assert trace(k, nth, lambda: rc.append(k.paths.hugetlb_vmemmap_restore_folio(h, folio))) == ["RES"] * nth
    assert rc == [-ENOMEM]
    assert snapshot(k) == before
    assert folio.vmemmap_optimized
    checked(k, [folio])


@pytest.mark.parametrize(("free", "reached"), [(0, 1), (3, 4), (6, 7)])
def test_restore_counts_points_up_to_exhaustion(boot_kernel, fresh, trace, checked, free, reached):
    """3.0: with memory for `free` frames the loop reaches one point more, wherever a later failure is armed."""
    k = boot_kernel()
    h = k.hstates[M2]
    [folio] = fresh(k, M2, 1)
    k.paths.hugetlb_vmemmap_optimize_folio(h, folio)
    got = k.pages.alloc_bulk(1 << 30, 0, "pages")
    if free:
        k.pages.free(got[0][0], free)
    rc: list[int] = []
    assert len(trace(k, 7, lambda: rc.append(k.paths.hugetlb_vmemmap_restore_folio(h, folio)))) == reached
    assert rc == [-ENOMEM]
    checked(k, [folio])


@pytest.mark.parametrize("nth", [1, 7, 8, 15, 21])
def test_sweep_restore_bulk(boot_kernel, fresh, trace, checked, nth):
    """3.10: stops at the first error; what was restored moves over, the failing folio and those behind it stay."""
    k = boot_kernel()
    h = k.hstates[M2]
    folios = fresh(k, M2, 3)
    k.paths.hugetlb_vmemmap_optimize_folios(h, folios)
    listed, out = list(folios), []
    rc: list[int] = []
    assert trace(k, nth, lambda: rc.append(k.paths.hugetlb_vmemmap_restore_folios(h, listed, out))) == ["RES"] * nth
    done = (nth - 1) // 7
    assert rc == [-ENOMEM]
    assert (out, listed) == (folios[:done], folios[done:])
    assert [folio.vmemmap_optimized for folio in folios] == [False] * done + [True] * (3 - done)
    checked(k, folios)
    assert k.paths.hugetlb_vmemmap_restore_folios(h, listed, out) == 3 - done
    assert out == folios
    assert listed == []
    checked(k, folios)


def test_restore_skips_what_is_not_optimized(boot_kernel, fresh):
    """3.10: folios that were never optimized move over and are not counted."""
    k = boot_kernel()
    h = k.hstates[M2]
    folios = fresh(k, M2, 3)
    k.paths.hugetlb_vmemmap_optimize_folio(h, folios[1])
    listed, out = list(folios), []
    assert k.paths.hugetlb_vmemmap_restore_folios(h, listed, out) == 1
    assert out == folios


def test_self_hosted(boot_kernel, tally, trace, checked):
    """P3, Q16: an attempt on a self-hosted block costs a head copy and changes nothing (live-linux.md 3: 0 change)."""
    k = boot_kernel(memmap_on_memory="on")
    start = 0x280000000 >> 12
    assert add_memory(k, 0, start, 32768, True) == 0
    assert memory_block_online(k, start // 32768, "online_movable") == 0
    assert k.pages.owners.get(start) == OWNER_SELFHOSTED
    pfn = start + 512
    zone = k.pages.zone_of.get(pfn)
    k.pages.alloc_block(M2, 0, "hugetlb", True, (3,))
    folio = Folio(pfn, M2, zone)
    k.memmap.init(pfn, 512, Compound(M2, 0, 0, zone.idx, "hugetlb"))
    before = tally(k)
    h = k.hstates[M2]
    assert trace(k, 0, lambda: k.paths.hugetlb_vmemmap_optimize_folio(h, folio)) == ["TAIL", "HEAD"]
    assert trace(k, 0, lambda: k.paths.hugetlb_vmemmap_optimize_folios(h, [folio])) == ["HEAD"]
    assert tally(k) - before == (0, 0, 0, 0, -1)
    assert not folio.vmemmap_optimized
    checked(k, [folio], extra_private=512)


def test_boot_frames_stay_gone(boot_kernel, tally, fresh):
    """2.7, Q17: boot frames never come back, splits are for good."""
    k = boot_kernel()
    h = k.hstates[M2]
    owned = sum(hi - lo for lo, hi, owner in k.pages.owners.items() if owner == OWNER_MEMMAP_BOOT)
    [folio] = fresh(k, M2, 1)
    for _ in range(3):
        k.paths.hugetlb_vmemmap_optimize_folio(h, folio)
        k.paths.hugetlb_vmemmap_restore_folio(h, folio)
    left = sum(hi - lo for lo, hi, owner in k.pages.owners.items() if owner == OWNER_MEMMAP_BOOT)
    assert owned - left == 8
    assert tally(k).pagetable == 1
