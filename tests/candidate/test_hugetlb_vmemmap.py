"""unified-framework.md 3.9 (optimize and restore at run time) and 3.10 (hooks that fail, profile merged)."""

import pytest

from mm.altmap import Altmap
from mm.errno import EAGAIN, ENOMEM
from mm.fault import FaultInjector
from mm.folio import Folio
from mm.mmzone import ZONE_NORMAL
from mm.page import Compound, Plain, Tail
from mm.page_alloc import OWNER_MEMMAP_BOOT, OWNER_SELFHOSTED
from mm.pgtable import Leaf
from tests.candidate.conftest import Hooks

PPS = 32768
DAX = 6 << 18


def points(b, action):
    """Kinds of the points that `action` reaches, in order."""
    b.k.faults.points = []
    b.k.faults.begin()
    action()
    out = [kind for kind, n in b.k.faults.points for _ in range(n)]
    b.k.faults.points = None
    return out


def test_mapping_of_an_optimized_folio(make):
    """3.9: slot 0 maps H read-write, all others T read-only; contents: the head page is copied, T shows tails."""
    b = make()
    (folio,) = b.folios(9, 1)
    b.optimize([folio])
    tail = b.paths.zone_tails()[folio.zone.key, 9]
    slots = list(b.slots(folio.pfn // 64, folio.end_pfn // 64))
    assert slots[0][1] != tail
    assert slots[0][2]
    assert [s[1:] for s in slots[1:]] == [(tail, False)] * 7
    assert b.k.memmap.content(folio.pfn + 63) == Compound(9, 0, 0, folio.zone.idx, "hugetlb")
    assert b.k.memmap.content(folio.pfn + 64) == Tail(9, 0, folio.zone.idx, False)
    assert folio.vmemmap_optimized
    b.check([folio])


def test_points_of_one_folio(make, profile):
    """3.9, order of the points: T, then H, then the split of the leaf, then one hook for each slot (merged)."""
    b = make()
    h = b.k.hstates[9]
    folio, second = b.folios(9, 2)
    hooks = ["PTEHOOK"] * 8 if profile == "merged" else []
    pmd = ["PMDHOOK"] if profile == "merged" else []
    one = b.paths.hugetlb_vmemmap_optimize_folio
    assert points(b, lambda: one(h, folio)) == ["TAIL", "HEAD", "SPLIT", *pmd, *hooks]
    assert points(b, lambda: one(h, second)) == ["HEAD", *hooks]  # same leaf, same T
    restore = hooks[:7]
    assert points(b, lambda: b.paths.hugetlb_vmemmap_restore_folio(h, folio)) == ["RES"] * 7 + restore


def test_points_of_a_list(make, profile):
    """3.9: all leaves of all folios are split first, in list order."""
    b = make()
    folios = b.folios(18, 2)
    split = ["SPLIT", "PMDHOOK"] if profile == "merged" else ["SPLIT"]
    hooks = ["PTEHOOK"] * 4096 if profile == "merged" else []
    got = points(b, lambda: b.paths.hugetlb_vmemmap_optimize_folios(b.k.hstates[18], folios))
    assert folios[0].zone is not folios[1].zone
    assert got == split * 16 + ["TAIL", "HEAD", *hooks] * 2


@pytest.mark.parametrize("order", [9, 18])
def test_skipped_silently(make, order):
    """3.9: already optimized, or the knob is off: nothing is reached, nothing changes."""
    b = make()
    h = b.k.hstates[order]
    folios = b.folios(order, 1)
    b.optimize(folios)
    runs = b.k.tables.entries.items()
    assert points(b, lambda: b.paths.hugetlb_vmemmap_optimize_folios(h, folios)) == []
    assert b.k.tables.entries.items() == runs
    assert b.restore(folios) == 1
    assert b.paths.hugetlb_optimize_vmemmap_sysctl(False) == 0
    assert points(b, lambda: b.paths.hugetlb_vmemmap_optimize_folios(h, folios)) == []
    assert points(b, lambda: b.paths.hugetlb_vmemmap_optimize_folio(h, folios[0])) == []
    assert not folios[0].vmemmap_optimized
    assert b.restore(folios) == 0


def test_self_hosted(make):
    """3.9: the first slot lies in its own block: -ENOTSUPP, nothing changes, the leaf stays whole."""
    b = make()
    altmap = Altmap(DAX, DAX + PPS, 0, 512, OWNER_SELFHOSTED)
    assert b.paths.sparse_add_section(0, DAX, PPS, altmap, None) == 0
    b.k.pages.claim(DAX, DAX + 512, OWNER_SELFHOSTED)
    zone = b.k.nodes[0].zones[ZONE_NORMAL]
    folio = Folio(DAX + 1024, 9, zone, hugetlb=True)
    (other,) = b.folios(9, 1)
    before = b.total
    assert points(b, lambda: b.paths.hugetlb_vmemmap_optimize_folio(b.k.hstates[9], folio)) == ["TAIL", "HEAD"]
    assert b.total == before
    b.optimize([folio, other])
    assert not folio.vmemmap_optimized
    assert other.vmemmap_optimized
    assert b.total == before - 7
    assert isinstance(b.k.tables.get(folio.pfn // 64), Leaf)


@pytest.mark.parametrize("pmd", range(2, 9))
def test_rollback_after_a_failed_split(make, pmd):
    """3.9, failed with walked = k >= 1, rollback ok: the only leftover is the original frame of slot 0, so that the
    sum stays; slot 0 stays on H; slots 1..k-1 hold T's template, slots k.. what they held."""
    b = make()
    (folio,) = b.folios(18, 1)
    h = b.k.hstates[18]
    lo = folio.pfn // 64
    first = next(b.slots(lo, lo + 1))[1]
    boot, run = b.k.vmstat.nr_memmap_boot, b.k.vmstat.nr_memmap
    head = Compound(18, 0, 0, folio.zone.idx, "hugetlb")
    per = 514 if b.profile == "merged" else 1  # points in front of the next split
    b.k.faults.nth = 2 + (pmd - 1) * per + 1
    b.k.faults.begin()
    b.paths.hugetlb_vmemmap_optimize_folio(h, folio)
    assert b.k.faults.fired == "SPLIT"
    assert not folio.vmemmap_optimized
    assert (b.k.vmstat.nr_memmap_boot, b.k.vmstat.nr_memmap) == (boot - 1, run + 1)
    assert next(b.slots(lo, lo + 1))[1] != first
    assert b.k.pages.owners.get(first) is None
    assert b.k.vmstat.nr_page_table_pages == pmd - 1
    walked = 512 * (pmd - 1)
    assert b.k.memmap.content(folio.pfn) == head
    assert b.k.memmap.content(folio.pfn + 64) == Tail(18, 0, folio.zone.idx)
    assert b.k.memmap.content(folio.pfn + walked * 64 - 1) == Tail(18, 0, folio.zone.idx)
    assert b.k.memmap.content(folio.pfn + walked * 64) == head
    b.check([folio])
    b.optimize([folio])
    assert folio.vmemmap_optimized
    b.check([folio])


def test_rollback_is_last_in_first_out(merged):
    """3.9: slot j (1 <= j < k) gets the frame that backed slot k - j; it shows in who owns the frames."""
    b = merged
    (folio,) = b.folios(18, 1)
    lo = folio.pfn // 64
    b.optimize([folio])
    assert b.restore([folio]) == 1  # now all frames are run-time ones
    m = b.k.tables.get(lo + 1)
    assert m is not None
    b.k.pages.owners.set(lo + 1 + m.delta, lo + 4 + m.delta, OWNER_MEMMAP_BOOT)  # slots 1, 2, 3
    b.k.vmstat.nr_memmap -= 3
    b.k.vmstat.nr_memmap_boot += 3
    b.k.faults = Hooks({4096})
    b.paths.hugetlb_vmemmap_optimize_folio(b.k.hstates[18], folio)
    owners = [b.k.pages.owners.get(f) for _, f, _ in b.slots(lo, lo + 4096)]
    walked = 4095
    assert [j for j, owner in enumerate(owners) if owner == OWNER_MEMMAP_BOOT] == [walked - 3, walked - 2, walked - 1]
    b.check([folio])


def test_list_retries_when_it_can_free(make):
    """3.9: -ENOMEM with pages to free: free them and retry that folio once; with none, go on."""
    b = make()
    b.optimize(b.folios(9, 1))
    for nth, done in ((1, [False, True, True]), (2, [True, True, True])):
        folios = b.folios(9, 3)
        h = b.k.hstates[9]
        kinds = points(b, lambda h=h, folios=folios: b.paths.hugetlb_vmemmap_optimize_folios(h, folios))
        heads = [i + 1 for i, kind in enumerate(kinds) if kind == "HEAD"]
        assert b.restore(folios) == 3
        b.k.faults.nth = heads[nth - 1]
        b.optimize(folios)
        assert b.k.faults.fired == "HEAD"
        assert [f.vmemmap_optimized for f in folios] == done
        b.check(folios)


def test_presplit_ends_at_the_first_enomem(make):
    """3.9: the pre-split pass stops, the folios are split one by one when their turn comes."""
    b = make()
    folios = b.folios(18, 2)
    b.k.faults.nth = 1
    b.optimize(folios)
    assert b.k.faults.fired == "SPLIT"
    assert all(f.vmemmap_optimized for f in folios)
    assert b.k.vmstat.nr_page_table_pages == 16
    b.check(folios)


def test_restore_is_all_or_nothing(make):
    """3.9: any page that cannot be had: -ENOMEM, flag kept, nothing changes; the folios behind it stay in the list."""
    b = make()
    folios = b.folios(9, 3)
    b.optimize(folios)
    before, runs = b.total, b.k.tables.entries.items()
    per = 14 if b.profile == "merged" else 7
    for nth in (1, 7):
        b.k.faults.nth = nth
        assert b.restore(folios[:1]) == -ENOMEM
        assert (b.total, b.k.tables.entries.items()) == (before, runs)
    left, out = list(folios), []
    b.k.faults.nth = per + 3
    b.k.faults.begin()
    assert b.paths.hugetlb_vmemmap_restore_folios(b.k.hstates[9], left, out) == -ENOMEM
    assert (left, out) == (folios[1:], folios[:1])
    assert [f.vmemmap_optimized for f in folios] == [False, True, True]
    b.check(folios)


def test_restored_contents(make):
    """3.9: a restored slot holds a copy of T, read-write."""
    b = make()
    (folio,) = b.folios(9, 1)
    b.optimize([folio])
    assert b.restore([folio]) == 1
    assert b.k.memmap.content(folio.pfn) == Compound(9, 0, 0, folio.zone.idx, "hugetlb")
    assert b.k.memmap.content(folio.pfn + 511) == Tail(9, 0, folio.zone.idx)
    b.check([folio])


def test_sum_is_invariant_but_not_the_counters(make):
    """3.9, invariant: optimizing a boot-memmap folio and restoring it moves V pages from boot to run time."""
    b = make()
    (folio,) = b.folios(9, 1)
    boot = b.k.vmstat.nr_memmap_boot
    for turn in range(3):
        b.optimize([folio])
        assert (b.k.vmstat.nr_memmap_boot, b.k.vmstat.nr_memmap) == (boot - 8, 1)
        assert b.restore([folio]) == 1
        assert (b.k.vmstat.nr_memmap_boot, b.k.vmstat.nr_memmap) == (boot - 8, 8), turn


# -- merged: hooks that fail ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(8))
def test_failed_update_is_rolled_back(merged, k):
    """3.9: -EAGAIN at slot k: k = 0 leaves all as it was, else the rollback leaves the sum as it was."""
    b = merged
    (folio,) = b.folios(9, 1)
    before, free = b.total, b.frames_free()
    b.k.faults = Hooks({k + 1})
    b.paths.hugetlb_vmemmap_optimize_folio(b.k.hstates[9], folio)
    assert not folio.vmemmap_optimized
    assert b.total == before
    assert b.frames_free() == free - 2  # T and the PTE table
    head, tail = Compound(9, 0, 0, folio.zone.idx, "hugetlb"), Tail(9, 0, folio.zone.idx)
    assert [b.k.memmap.content(folio.pfn + 64 * j) for j in range(8)] == [tail if 0 < j < k else head for j in range(8)]
    b.check([folio])


@pytest.mark.parametrize(("k", "r"), [(k, r) for k in range(2, 8) for r in range(k - 1)])
def test_incomplete(merged, k, r):
    """3.9: rollback fails after r slots: the flag stays, net = 1 - (k - r); slots k.. keep their original pages, slots
    1..k-1 mix; a later restore brings the sum back."""
    b = merged
    (folio,) = b.folios(9, 1)
    lo = folio.pfn // 64
    original = [f for _, f, _ in b.slots(lo, lo + 8)]
    before = b.total
    b.k.faults = Hooks({k + 1, k + 1 + r + 1})
    b.paths.hugetlb_vmemmap_optimize_folio(b.k.hstates[9], folio)
    assert folio.vmemmap_optimized
    assert b.total - before == 1 - (k - r)
    tail = b.paths.zone_tails()[folio.zone.key, 9]
    slots = [(f, w) for _, f, w in b.slots(lo, lo + 8)]
    assert slots[k:] == [(f, True) for f in original[k:]]
    assert [f == tail for f, _ in slots] == [r < j < k for j in range(8)]
    b.check([folio])
    b.k.faults = FaultInjector()
    assert b.restore([folio]) == 1
    assert b.total == before
    b.check([folio])


def test_restore_fails_and_goes_on(merged):
    """3.9: a failed update stops the restore: flag kept, unused pages freed; a retry touches only slots that map T."""
    b = merged
    (folio,) = b.folios(9, 1)
    before = b.total
    b.optimize([folio])
    b.k.faults = Hooks({4})
    assert b.paths.hugetlb_vmemmap_restore_folio(b.k.hstates[9], folio) == -EAGAIN
    assert folio.vmemmap_optimized
    assert b.total - before == -7 + 3
    b.check([folio])
    b.k.faults = FaultInjector()
    assert (
        points(b, lambda: b.paths.hugetlb_vmemmap_restore_folio(b.k.hstates[9], folio)) == ["RES"] * 7 + ["PTEHOOK"] * 4
    )
    assert b.total == before
    b.check([folio])


def test_failed_pmd_hook_keeps_the_leaf(merged):
    """3.10: the PTE table is freed, the leaf is intact."""
    b = merged
    (folio,) = b.folios(9, 1)
    free = b.frames_free()
    b.k.faults.nth = 4
    b.k.faults.begin()
    b.paths.hugetlb_vmemmap_optimize_folio(b.k.hstates[9], folio)
    assert b.k.faults.fired == "PMDHOOK"
    assert isinstance(b.k.tables.get(folio.pfn // 64), Leaf)
    assert b.frames_free() == free - 1  # T
    b.check([folio])


def test_lists_equal_single_steps(make):
    """The bulk path takes the same frames in the same order as folio by folio, for lists in any order."""
    a, b = make(), make()
    for bench, tracing in ((a, None), (b, [])):
        folios = bench.folios(9, 5)
        folios += reversed(bench.folios(9, 70))
        bench.k.faults.points = tracing
        bench.optimize(folios)
        bench.restore(folios[3:40])
        for folio in folios[3:40]:  # as whoever restores a list does; in bulk nothing is copied from T before
            bench.k.memmap.write(folio.pfn, 512, Plain(folio.nid, folio.zone.idx))
        bench.optimize(folios[20:30])
        bench.check(folios)
    for what in ("tables.entries", "pages.owners", "memmap.own"):
        one, other = what.split(".")
        left, right = (getattr(getattr(x.k, one), other).items() for x in (a, b))
        assert left == right, what
    assert a.k.faults.reached == b.k.faults.reached
