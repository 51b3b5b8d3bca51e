"""Dissolving (separate-paths.md 3.14)."""

from mm.errno import EBUSY, ENOMEM
from mm.folio import Folio
from mm.hugetlb import dissolve_free_hugetlb_folio, dissolve_free_hugetlb_folios, folio_at, hugetlb_map
from mm.hugetlb_sysfs import nr_hugepages_store, nr_overcommit_hugepages_store
from tests.mm.hugetlb.lab import ALWAYS, Lab

SMALL, GIANT = 9, 18
FIRST = 0x100000
HEADS = [FIRST + 512 * i for i in range(8)]


def test_folio_at_covers_the_folio(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), GIANT, 1, None)
    nr_hugepages_store(lab.begin(), SMALL, 1, None)
    giant, small = lab.giant.folios[FIRST], next(iter(lab.small.folios.values()))
    assert small.pfn == FIRST + (1 << GIANT)
    for pfn, want in [
        (FIRST - 1, None),
        (FIRST, giant),
        (small.pfn - 1, giant),
        (small.pfn, small),
        (small.pfn + 511, small),
        (small.pfn + 512, None),
    ]:
        assert folio_at(lab.k, pfn) is want


def test_dissolve_lowers_the_pool(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 3, None)
    before = lab.free_pages()
    assert dissolve_free_hugetlb_folio(lab.begin(), HEADS[1] + 300) == 0
    assert lab.counts(lab.small) == (2, 2, 0, 2)
    assert lab.free_list(lab.small) == [HEADS[0], HEADS[2]]
    assert lab.paths.calls == [("restore", [HEADS[1]])]
    assert lab.free_pages() == before + 512


def test_not_a_huge_page(lab: Lab) -> None:
    assert dissolve_free_hugetlb_folio(lab.begin(), FIRST) == 0


def test_in_use_and_reserved(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 2, None)
    used: list[Folio] = []
    hugetlb_map(lab.begin(), SMALL, 1, None, used)
    assert dissolve_free_hugetlb_folio(lab.begin(), used[0].pfn) == -EBUSY
    lab.small.resv = 1
    assert dissolve_free_hugetlb_folio(lab.begin(), HEADS[1]) == -EBUSY
    assert lab.counts(lab.small) == (2, 1, 0, 2)


def test_failed_restore_changes_no_counter(lab: Lab) -> None:
    """I7: counters as before, -ENOMEM; the folio moves to the list head."""
    nr_hugepages_store(lab.begin(), SMALL, 3, None)
    lab.paths.fail_restores[HEADS[2]] = ALWAYS
    assert dissolve_free_hugetlb_folio(lab.begin(), HEADS[2]) == -ENOMEM
    assert lab.counts(lab.small) == (3, 3, 0, 3)
    assert lab.free_list(lab.small) == [HEADS[2], HEADS[0], HEADS[1]]


def test_surplus_goes_first(lab: Lab) -> None:
    """A node with surplus loses that, and max stays; also when it comes back."""
    nr_hugepages_store(lab.begin(), SMALL, 1, None)
    nr_overcommit_hugepages_store(lab.begin(), SMALL, 1)
    used: list[Folio] = []
    hugetlb_map(lab.begin(), SMALL, 2, None, used)
    lab.small.nr_overcommit = 0
    # The map took the surplus page HEADS[1], then HEADS[0]; free the second by hand, so that a free page meets surplus.
    free = used.pop()
    free.refcount = 0
    lab.small.free[0][free.pfn] = free
    lab.paths.fail_restores[free.pfn] = 1
    assert dissolve_free_hugetlb_folio(lab.begin(), free.pfn) == -ENOMEM
    assert lab.counts(lab.small) == (2, 1, 1, 1)
    assert dissolve_free_hugetlb_folio(lab.begin(), free.pfn) == 0
    assert lab.counts(lab.small) == (1, 0, 0, 1)


def test_without_optimization_nothing_is_restored(lab: Lab) -> None:
    lab.paths.vmemmap_optimize_enabled = False
    nr_hugepages_store(lab.begin(), SMALL, 1, None)
    assert dissolve_free_hugetlb_folio(lab.begin(), FIRST) == 0
    assert lab.paths.calls == []
    assert lab.counts(lab.small) == (0, 0, 0, 0)


def test_range(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 6, None)
    assert dissolve_free_hugetlb_folios(lab.begin(), HEADS[1], HEADS[4]) == 0
    assert sorted(lab.small.folios) == [HEADS[0], HEADS[4], HEADS[5]]
    assert lab.small.max_huge_pages == 3


def test_range_stops_at_the_first_error(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 4, None)
    lab.paths.fail_restores[HEADS[2]] = ALWAYS
    assert dissolve_free_hugetlb_folios(lab.begin(), HEADS[0], HEADS[4]) == -ENOMEM
    assert sorted(lab.small.folios) == HEADS[2:4]


def test_gigantic_page_partly_inside_goes_wholly(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), GIANT, 1, None)
    before = lab.free_pages()
    assert dissolve_free_hugetlb_folios(lab.begin(), FIRST + 0x8000, FIRST + 0x10000) == 0
    assert lab.counts(lab.giant) == (0, 0, 0, 0)
    assert lab.free_pages() == before + (1 << GIANT)


def test_leaked_page_is_no_huge_page_any_more(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 2, None)
    lab.small.folios[HEADS[0]].raw_hwp_unreliable = True
    assert dissolve_free_hugetlb_folio(lab.begin(), HEADS[0]) == 0
    assert dissolve_free_hugetlb_folios(lab.begin(), HEADS[0], HEADS[2]) == 0
    assert lab.counts(lab.small) == (0, 0, 0, 0)
