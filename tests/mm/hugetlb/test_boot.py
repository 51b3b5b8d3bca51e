"""Boot pages of ordinary order (separate-paths.md 3.6)."""

from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb import add_boot_folio
from mm.kernel import BootRequest
from mm.machine import Machine
from mm.mmzone import ZONE_NORMAL
from tests.mm.hugetlb.lab import FakePaths, Lab

SMALL, GIANT = 9, 18
FIRST = 0x100000


def test_in_turns() -> None:
    two = Lab(Machine(ram=8 << 30, nodes=2), BootRequest(SMALL, 5, None))
    assert two.small.nr == [3, 2]
    assert two.small.max_huge_pages == 5
    assert (two.small.next_nid_to_alloc, two.small.next_nid_to_free) == (0, 0)


def test_by_node() -> None:
    two = Lab(Machine(ram=8 << 30, nodes=2), BootRequest(SMALL, 2, 1), BootRequest(SMALL, 1, 0))
    assert two.small.nr == [1, 2]
    assert two.small.max_huge_pages == 3


def test_more_than_memory_holds() -> None:
    lab = Lab(Machine(ram=4 << 30), BootRequest(SMALL, 4096, None))
    assert lab.counts(lab.small) == (2031, 2031, 0, 2031)
    # 2G less the first 2M and the 32M of the kernel image, and 2G: nothing is left.
    assert lab.free_pages() == 0


class Generous(FakePaths):
    """Optimizing a batch gives memory back: one huge page, once."""

    spare: tuple[int, int] | None = None

    def page_alloc_init_late(self) -> None:
        zone = self.k.nodes[0].zones[ZONE_NORMAL]
        self.spare = (zone.end_pfn - 512, zone.end_pfn)
        self.k.pages.alloc_blocks(SMALL, 4096, 0, "pages", True)
        self.k.pages.free(FIRST, 1024)

    def hugetlb_vmemmap_optimize_folios(self, h: HState, folios: list[Folio]) -> None:
        super().hugetlb_vmemmap_optimize_folios(h, folios)
        if self.spare:
            lo, hi = self.spare
            self.spare = None
            self.k.pages.free(lo, hi - lo)


def test_optimizing_makes_room_for_more() -> None:
    """Two fit; optimizing them frees a third, which is a batch of its own; then nothing more is got."""
    for nid in (None, 0):
        lab = Lab(Machine(ram=4 << 30), BootRequest(SMALL, 5, nid), make=Generous)
        assert lab.counts(lab.small) == (3, 3, 0, 3)
        assert [len(pfns) for what, pfns in lab.paths.calls if what == "optimize_folios"] == [2, 1]


def test_gigantic_folio_of_the_side(lab: Lab) -> None:
    zone = lab.k.nodes[0].zones[ZONE_NORMAL]
    folio = Folio(FIRST, GIANT, zone, True)
    add_boot_folio(lab.k, lab.giant, folio)
    assert lab.giant.folios == {FIRST: folio}
    assert lab.free_list(lab.giant) == [FIRST]
    assert lab.giant.nr == [1]


def test_demote_orders(lab: Lab) -> None:
    assert (lab.giant.demote_order, lab.small.demote_order) == (SMALL, 0)
