"""Migration of huge pages in use when memory goes offline (separate-paths.md 3.13, 3.18)."""

from mm.errno import EBUSY
from mm.folio import Folio
from mm.hugetlb import hugetlb_map, hugetlb_unmap
from mm.hugetlb_isolate import isolate_or_migrate
from mm.hugetlb_sysfs import nr_hugepages_store, nr_overcommit_hugepages_store
from mm.page import Plain
from tests.mm.hugetlb.lab import ALWAYS, Lab

SMALL, GIANT = 9, 18
LO, HI = 0x100000, 0x108000
"""The first memory block above 4G: 64 huge pages."""
HEADS = [LO + 512 * i for i in range(64)]


def use(lab: Lab, count: int, order: int = SMALL) -> list[Folio]:
    folios: list[Folio] = []
    assert hugetlb_map(lab.begin(), order, count, None, folios) == 0
    return folios


def migrate(lab: Lab, nth: int = 0, nid: int = 0) -> int:
    """Offline's order: isolate the block, migrate, and leave it isolated."""
    k = lab.begin(nth)
    zone = k.pages.zone_of.get(LO)
    assert zone is not None
    k.pages.isolate(zone, LO, HI)
    return isolate_or_migrate(k, LO, HI)


def test_nothing_in_use(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 2, None)
    assert migrate(lab) == 0
    assert lab.points() == []
    assert lab.free_list(lab.small) == HEADS[:2]


def test_free_page_outside_is_the_target(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 66, None)
    used = use(lab, 1)
    folio = used[0]
    assert migrate(lab) == 0
    assert lab.points() == []
    # HEADS[1:] are free too but isolated; the first free page behind the block takes it.
    assert used == [folio]
    assert folio.pfn == HI
    assert folio.refcount == 1
    assert lab.small.folios[HI] is folio
    assert lab.counts(lab.small) == (66, 65, 0, 66)
    # The old page is free in the pool, at the list head, for dissolving.
    assert lab.free_list(lab.small)[0] == HEADS[0]
    assert lab.small.folios[HEADS[0]].refcount == 0


def test_temporary_target_and_the_old_page_is_freed(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 2, None)
    used = use(lab, 2)
    assert migrate(lab) == 0
    assert lab.points() == ["HP", "HP"]
    assert [folio.pfn for folio in used] == [HI, HI + 512]
    # Each target is optimized on its own; the work item takes the last queued first.
    assert lab.paths.calls == [
        ("optimize", [HI]),
        ("optimize", [HI + 512]),
        ("restore", [HEADS[1]]),
        ("restore", [HEADS[0]]),
    ]
    assert lab.counts(lab.small) == (2, 0, 0, 2)
    assert not any(folio.temporary for folio in used)
    assert lab.k.pages.isolated_free.covers(LO, HI)
    assert isinstance(lab.k.memmap.content(HEADS[0]), Plain)


def test_unmap_after_migration_frees_the_new_place(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 1, None)
    used = use(lab, 1)
    migrate(lab)
    hugetlb_unmap(lab.begin(), SMALL, used)
    assert lab.free_list(lab.small) == [HI]


def test_old_page_that_cannot_be_restored_is_surplus(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 1, None)
    use(lab, 1)
    lab.paths.fail_restores[HEADS[0]] = ALWAYS
    assert migrate(lab) == 0
    assert lab.counts(lab.small) == (2, 1, 1, 1)
    assert lab.free_list(lab.small) == [HEADS[0]]


def test_injected_failure_is_tried_again(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 1, None)
    used = use(lab, 1)
    assert migrate(lab, nth=1) == 0
    assert lab.points() == ["HP", "HP"]
    assert used[0].pfn == HI


def test_no_memory_left(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), SMALL, 1 << 20, None)
    count = lab.small.nr[0]
    used = use(lab, count)
    assert migrate(lab) == -EBUSY
    assert lab.points() == ["HP"]
    assert sum(folio.refcount for folio in used) == count


def test_gigantic_page_needs_a_free_one(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), GIANT, 1, None)
    used = use(lab, 1, GIANT)
    assert migrate(lab) == -EBUSY
    assert lab.points() == []
    nr_hugepages_store(lab.begin(), GIANT, 2, None)
    assert isolate_or_migrate(lab.begin(), LO, HI) == 0
    assert used[0].pfn == 0x140000
    assert lab.free_list(lab.giant) == [LO]


def test_another_node_is_preferred(two: Lab) -> None:
    nr_hugepages_store(two.begin(), SMALL, 1, 0)
    used = use(two, 1)
    assert migrate(two) == 0
    assert used[0].nid == 1
    assert two.small.nr == [0, 1]


def test_surplus_moves_with_the_page(two: Lab) -> None:
    nr_overcommit_hugepages_store(two.begin(), SMALL, 1)
    used = use(two, 1)
    assert two.small.surplus == [1, 0]
    assert migrate(two) == 0
    assert used[0].nid == 1
    assert two.small.surplus == [0, 1]
    assert two.small.nr == [0, 1]
