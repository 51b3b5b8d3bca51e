"""Mapping, surplus and overcommit (separate-paths.md 3.13)."""

import pickle

from mm.errno import EINVAL, ENOMEM
from mm.folio import Folio
from mm.hugetlb import hugetlb_map, hugetlb_unmap
from mm.hugetlb_sysfs import nr_hugepages_store, nr_overcommit_hugepages_store
from tests.mm.hugetlb.lab import ALWAYS, Lab

SMALL, GIANT = 9, 18
HEADS = [0x100000 + 512 * i for i in range(16)]


def mapped(lab: Lab, count: int, nid: int | None = None, order: int = SMALL, rc: int = 0, nth: int = 0) -> list[Folio]:
    """Map; the folios in address order."""
    folios: list[Folio] = []
    assert hugetlb_map(lab.begin(nth), order, count, nid, folios) == rc
    assert len(folios) == (0 if rc else count)
    return folios


def test_map_takes_the_list_head(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 4, None)
    folios = mapped(lab, 2)
    assert [folio.pfn for folio in folios] == HEADS[:2]
    assert [folio.refcount for folio in folios] == [1, 1]
    assert lab.counts(lab.small) == (4, 2, 0, 4)
    assert lab.small.resv == 0
    assert lab.points() == []


def test_unmap_puts_back_in_address_order_still_optimized(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 3, None)
    folios = mapped(lab, 2)
    assert hugetlb_unmap(lab.begin(), SMALL, folios) == 0
    assert lab.free_list(lab.small) == [HEADS[1], HEADS[0], HEADS[2]]
    assert all(folio.vmemmap_optimized and folio.refcount == 0 for folio in folios)
    assert lab.paths.calls == []


def test_a_mapping_is_known_by_itself(lab: Lab) -> None:
    """Not by where it lies in memory: a kernel that was copied unmaps the same, and equal programs give equal state."""
    nr_hugepages_store(lab.begin(), SMALL, 3, None)
    first, second = mapped(lab, 1), mapped(lab, 2)
    k, first, second = pickle.loads(pickle.dumps((lab.k, first, second)))
    small = k.hstates[SMALL]
    assert hugetlb_unmap(k, SMALL, second) == 0
    assert len(small.mapped) == 1
    assert small.mapped[0] is first


def test_nothing_to_map(lab: Lab) -> None:
    mapped(lab, 0, rc=-EINVAL)


def test_without_overcommit_all_or_nothing(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 2, None)
    mapped(lab, 3, rc=-ENOMEM)
    assert lab.counts(lab.small) == (2, 2, 0, 2)
    assert lab.small.resv == 0
    assert lab.points() == []


def test_shortfall_is_surplus_optimized_one_by_one(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 1, None)
    nr_overcommit_hugepages_store(lab.begin(), SMALL, 2)
    folios = mapped(lab, 3)
    assert lab.points() == ["HP", "HP"]
    assert lab.paths.calls == [("optimize", [HEADS[1]]), ("optimize", [HEADS[2]])]
    # The new ones are put before what was free, the first on top.
    assert [folio.pfn for folio in folios] == [HEADS[1], HEADS[2], HEADS[0]]
    assert lab.counts(lab.small) == (3, 0, 2, 1)


def test_overcommit_is_the_limit(lab: Lab) -> None:
    nr_overcommit_hugepages_store(lab.begin(), SMALL, 2)
    before = lab.free_pages()
    mapped(lab, 3, rc=-ENOMEM)
    assert lab.points() == ["HP", "HP"]
    assert lab.counts(lab.small) == (0, 0, 0, 0)
    assert lab.free_pages() == before


def test_failed_allocation_frees_the_others_last_queued_first(lab: Lab) -> None:
    nr_overcommit_hugepages_store(lab.begin(), SMALL, 3)
    mapped(lab, 3, nth=3, rc=-ENOMEM)
    # gather_surplus_pages frees from its list head, the second; the work item takes the last queued.
    assert [call for call in lab.paths.calls if call[0] == "restore"] == [
        ("restore", [HEADS[0]]),
        ("restore", [HEADS[1]]),
    ]
    assert lab.counts(lab.small) == (0, 0, 0, 0)


def test_surplus_leaves_the_pool_when_unmapped(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 1, None)
    nr_overcommit_hugepages_store(lab.begin(), SMALL, 2)
    folios = mapped(lab, 3)
    hugetlb_unmap(lab.begin(), SMALL, folios)
    # The first two freed take the surplus of the node with them, whichever folios they are; the third is kept.
    assert lab.counts(lab.small) == (1, 1, 0, 1)
    assert lab.free_list(lab.small) == [HEADS[0]]
    assert lab.paths.calls == [("restore", [HEADS[2]]), ("restore", [HEADS[1]])]


def test_surplus_that_cannot_be_restored_stays_as_free_surplus(lab: Lab) -> None:
    nr_overcommit_hugepages_store(lab.begin(), SMALL, 1)
    folios = mapped(lab, 1)
    lab.paths.fail_restores[HEADS[0]] = ALWAYS
    hugetlb_unmap(lab.begin(), SMALL, folios)
    assert lab.counts(lab.small) == (1, 1, 1, 0)


def test_surplus_that_is_not_optimized_is_freed_at_once(lab: Lab) -> None:
    lab.paths.vmemmap_optimize_enabled = False
    nr_overcommit_hugepages_store(lab.begin(), SMALL, 1)
    before = lab.free_pages()
    folios = mapped(lab, 1)
    hugetlb_unmap(lab.begin(), SMALL, folios)
    assert lab.counts(lab.small) == (0, 0, 0, 0)
    assert lab.paths.calls == []
    assert lab.free_pages() == before


def test_gigantic_surplus(lab: Lab) -> None:
    nr_overcommit_hugepages_store(lab.begin(), GIANT, 1)
    mapped(lab, 1, order=GIANT)
    assert lab.counts(lab.giant) == (1, 0, 1, 0)


def test_local_node_comes_first(two: Lab) -> None:
    nr_hugepages_store(two.begin(), SMALL, 4, None)
    assert [folio.nid for folio in mapped(two, 3)] == [0, 0, 1]


def test_bound_to_a_node(two: Lab) -> None:
    nr_hugepages_store(two.begin(), SMALL, 4, None)
    assert [folio.nid for folio in mapped(two, 2, nid=1)] == [1, 1]


def test_bound_node_lacks_pages_that_the_pool_has(two: Lab) -> None:
    """Enough free pages in the pool: overcommit is not asked, and the check of the node refuses."""
    nr_hugepages_store(two.begin(), SMALL, 4, None)
    nr_overcommit_hugepages_store(two.begin(), SMALL, 4)
    mapped(two, 3, nid=1, rc=-ENOMEM)
    assert two.points() == []
    assert two.counts(two.small) == (4, 4, 0, 4)
    assert two.small.resv == 0


def test_refused_by_the_node_after_growing(two: Lab) -> None:
    """The pool lacks one page, the node three: the one is allocated on the node and given back."""
    nr_hugepages_store(two.begin(), SMALL, 4, None)
    nr_overcommit_hugepages_store(two.begin(), SMALL, 4)
    mapped(two, 5, nid=1, rc=-ENOMEM)
    assert two.points() == ["HP"]
    assert two.counts(two.small) == (4, 4, 0, 4)
    assert two.small.nr == [2, 2]


def test_surplus_of_a_bound_task_is_on_its_node(two: Lab) -> None:
    nr_overcommit_hugepages_store(two.begin(), SMALL, 2)
    assert [folio.nid for folio in mapped(two, 2, nid=1)] == [1, 1]
    assert two.small.surplus == [0, 2]


def test_poisoned_pages_are_skipped(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 2, None)
    lab.small.folios[HEADS[0]].hwpoison = True
    mapped(lab, 2, rc=-ENOMEM)
    assert lab.counts(lab.small) == (2, 2, 0, 2)
    assert lab.small.resv == 0
    assert [folio.pfn for folio in mapped(lab, 1)] == [HEADS[1]]
