"""Demotion (separate-paths.md 3.15)."""

from mm.errno import EBUSY, ENOENT, ENOMEM
from mm.folio import Folio
from mm.hugetlb import hugetlb_map
from mm.hugetlb_sysfs import demote_store, nr_hugepages_store
from mm.mmzone import ZONE_NORMAL
from mm.page import Compound
from tests.mm.hugetlb.lab import ALWAYS, Lab

SMALL, GIANT = 9, 18
A, B, LOW = 0x100000, 0x140000, 0x40000
"""The gigantic pages of a 4G machine in allocation order."""
RATIO = 512


def pieces(pfn: int) -> list[int]:
    return list(range(pfn, pfn + (1 << GIANT), 512))


def test_demote_one(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), GIANT, 2, None)
    before = lab.free_pages()
    assert demote_store(lab.begin(), GIANT, 1, None) == 0
    assert lab.counts(lab.giant) == (1, 1, 0, 1)
    assert lab.counts(lab.small) == (RATIO, RATIO, 0, RATIO)
    # The list head is taken, the pieces are put in front of each other and so end up ascending.
    assert lab.paths.calls == [("restore_folios", [A]), ("optimize_folios", pieces(A)[::-1])]
    assert lab.free_list(lab.small) == pieces(A)
    assert lab.free_list(lab.giant) == [B]
    assert lab.k.memmap.view(A, A + (1 << GIANT)) == [
        (A, A + (1 << GIANT), Compound(SMALL, 0, 0, ZONE_NORMAL, "hugetlb"))
    ]
    assert lab.free_pages() == before
    assert lab.points() == []


def test_demoted_pieces_can_be_freed(lab: Lab) -> None:
    before = lab.free_pages()
    nr_hugepages_store(lab.begin(), GIANT, 1, None)
    demote_store(lab.begin(), GIANT, 1, None)
    nr_hugepages_store(lab.begin(), SMALL, 0, None)
    assert lab.free_pages() == before


def test_several_at_once_are_one_batch(lab: Lab) -> None:
    """Taken A, B; restored B, A; the kernel's list of restored ones is last in, first out (list_move), so A, B."""
    nr_hugepages_store(lab.begin(), GIANT, 3, None)
    demote_store(lab.begin(), GIANT, 2, None)
    assert lab.paths.calls == [("restore_folios", [B, A]), ("optimize_folios", pieces(B)[::-1] + pieces(A)[::-1])]
    assert lab.free_list(lab.small) == pieces(A) + pieces(B)


def test_more_than_there_are(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), GIANT, 1, None)
    assert demote_store(lab.begin(), GIANT, 5, None) == 0
    assert lab.counts(lab.giant) == (0, 0, 0, 0)
    assert lab.counts(lab.small) == (RATIO, RATIO, 0, RATIO)


def test_nothing_to_demote(lab: Lab) -> None:
    assert demote_store(lab.begin(), GIANT, 1, None) == 0
    assert demote_store(lab.begin(), SMALL, 1, None) == -ENOENT
    assert lab.paths.calls == []


def test_pages_in_use_stay(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), GIANT, 2, None)
    used: list[Folio] = []
    hugetlb_map(lab.begin(), GIANT, 1, None, used)
    demote_store(lab.begin(), GIANT, 2, None)
    assert list(lab.giant.folios) == [used[0].pfn]


def test_failed_restore(lab: Lab) -> None:
    """I7: the folio is back in its pool and not surplus, the result is the error, restored ones are demoted."""
    nr_hugepages_store(lab.begin(), GIANT, 3, None)
    lab.paths.fail_restores[B] = ALWAYS
    # Taken: A, B, LOW; the list is LOW, B, A; only LOW is restored.
    assert demote_store(lab.begin(), GIANT, 3, None) == -ENOMEM
    assert lab.counts(lab.giant) == (2, 2, 0, 2)
    assert lab.counts(lab.small) == (RATIO, RATIO, 0, RATIO)
    assert lab.free_list(lab.giant) == [A, B]
    assert lab.free_list(lab.small) == pieces(LOW)
    assert all(folio.vmemmap_optimized for folio in lab.giant.folios.values())


def test_never_optimized_behind_the_failed_one_is_demoted(lab: Lab) -> None:
    lab.paths.vmemmap_optimize_enabled = False
    nr_hugepages_store(lab.begin(), GIANT, 1, None)
    lab.paths.vmemmap_optimize_enabled = True
    nr_hugepages_store(lab.begin(), GIANT, 2, None)
    # A, which never was optimized, is taken first, and so stands last in the list.
    lab.giant.free[0] = {pfn: lab.giant.folios[pfn] for pfn in (B, A)}
    lab.paths.fail_restores[B] = ALWAYS
    assert demote_store(lab.begin(), GIANT, 2, None) == -ENOMEM
    assert lab.free_list(lab.small) == pieces(A)
    assert list(lab.giant.folios) == [B]


def test_only_poisoned_pages(lab: Lab) -> None:
    nr_hugepages_store(lab.begin(), GIANT, 2, None)
    lab.giant.folios[A].hwpoison = True
    assert demote_store(lab.begin(), GIANT, 1, None) == 0
    assert list(lab.giant.folios) == [A]
    assert demote_store(lab.begin(), GIANT, 1, None) == -EBUSY
    assert lab.counts(lab.giant) == (1, 1, 0, 1)


def test_one_node_only(two: Lab) -> None:
    nr_hugepages_store(two.begin(), GIANT, 2, None)
    assert two.giant.nr == [1, 1]
    assert demote_store(two.begin(), GIANT, 2, 1) == 0
    assert two.giant.nr == [1, 0]
    assert two.small.nr == [0, RATIO]


def test_turns_over_the_nodes(two: Lab) -> None:
    nr_hugepages_store(two.begin(), GIANT, 2, None)
    assert demote_store(two.begin(), GIANT, 2, None) == 0
    assert two.small.nr == [RATIO, RATIO]
