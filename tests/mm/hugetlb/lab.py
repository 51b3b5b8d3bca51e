"""A small kernel whose side of the seam is a test double."""

from mm.altmap import Altmap
from mm.boot import boot, memblocks_present, sparse_init_subsection_map
from mm.errno import ENOMEM
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.mmzone import Zone
from mm.page import Plain
from mm.pgmap import PgMap
from mm.pgtable import Leaf


class FakePaths:
    """Optimizing and restoring flip the folio's flag. Calls are recorded; restores fail as often as a test asks."""

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.vmemmap_optimize_enabled = True
        self.calls: list[tuple[str, list[int]]] = []
        """(what, head pfns) in call order."""
        self.fail_restores: dict[int, int] = {}
        """Head pfn -> how many more restores of it fail."""

    def mm_core_init_early(self) -> None:
        """All RAM has a memmap of PMD leaves that lies outside of RAM."""
        k = self.k
        memblocks_present(k)
        sparse_init_subsection_map(k)
        for _, lo, hi in k.machine.ram_ranges():
            k.tables.set(lo // k.arch.spp, -(-hi // k.arch.spp), Leaf(1 << 40))
            for start, end, zone in k.pages.zone_of.runs(lo, hi):
                k.memmap.init(start, end - start, Plain(zone.nid, zone.idx))

    def page_alloc_init_late(self) -> None:
        """Nothing is deferred, no gigantic page comes from memblock."""

    def zone_tails(self) -> dict[tuple[tuple[int, int], int], int]:
        return {}

    def sparse_add_section(self, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
        raise NotImplementedError

    def sparse_remove_section(self, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
        raise NotImplementedError

    def memmap_init_range(self, zone: Zone, pfn: int, nr: int) -> None:
        raise NotImplementedError

    def memmap_init_zone_device(self, zone: Zone, pfn: int, nr: int, pgmap: PgMap) -> None:
        raise NotImplementedError

    def hugetlb_optimize_vmemmap_sysctl(self, value: bool) -> int:
        raise NotImplementedError

    def hugetlb_vmemmap_optimizable(self, h: HState) -> bool:
        return True

    def hugetlb_vmemmap_optimize_folio(self, h: HState, folio: Folio) -> None:
        self.calls.append(("optimize", [folio.pfn]))
        self._optimize(folio)

    def hugetlb_vmemmap_optimize_folios(self, h: HState, folios: list[Folio]) -> None:
        self.calls.append(("optimize_folios", [folio.pfn for folio in folios]))
        for folio in folios:
            self._optimize(folio)

    def _optimize(self, folio: Folio) -> None:
        assert folio.hugetlb
        assert folio.refcount == 0
        folio.vmemmap_optimized = self.vmemmap_optimize_enabled

    def hugetlb_vmemmap_restore_folio(self, h: HState, folio: Folio) -> int:
        self.calls.append(("restore", [folio.pfn]))
        return self._restore(folio)

    def hugetlb_vmemmap_restore_folios(self, h: HState, folios: list[Folio], non_hvo: list[Folio]) -> int:
        self.calls.append(("restore_folios", [folio.pfn for folio in folios]))
        restored = 0
        while folios:
            if folios[0].vmemmap_optimized:
                rc = self._restore(folios[0])
                if rc:
                    return rc
                restored += 1
            non_hvo.append(folios.pop(0))
        return restored

    def _restore(self, folio: Folio) -> int:
        if not folio.vmemmap_optimized:
            return 0
        assert folio.hugetlb
        assert folio.refcount == 0
        left = self.fail_restores.get(folio.pfn, 0)
        if left:
            self.fail_restores[folio.pfn] = left - 1
            return -ENOMEM
        folio.vmemmap_optimized = False
        return 0


ALWAYS = 1 << 30
"""For `fail_restores`: never succeeds."""


class Lab:
    """A booted kernel with its double and the words that the tests speak."""

    def __init__(self, machine: Machine, *requests: BootRequest, make: type[FakePaths] = FakePaths) -> None:
        self.k = Kernel(machine, make)
        self.k.boot_requests = list(requests)
        assert isinstance(self.k.paths, FakePaths)
        self.paths = self.k.paths
        boot(self.k)
        self.small = self.k.hstates[9]
        self.giant = self.k.hstates[18]

    def begin(self, nth: int = 0) -> Kernel:
        """Start an operation, whose `nth` point fails, and trace its points."""
        self.k.faults.points = []
        self.k.faults.nth = nth
        self.k.faults.begin()
        self.paths.calls.clear()
        return self.k

    def points(self) -> list[str]:
        """Kinds of the points that the operation reached."""
        return [kind for kind, n in self.k.faults.points or [] for _ in range(n)]

    def free_list(self, h: HState, nid: int = 0) -> list[int]:
        """Head pfns of a free list from its head, as the kernel walks it."""
        return list(reversed(h.free[nid]))

    def free_pages(self) -> int:
        """NR_FREE_PAGES of the machine."""
        order = self.k.pages.block_order
        return sum(zone.free_pages(order) for node in self.k.nodes for zone in node.zones)

    def counts(self, h: HState) -> tuple[int, int, int, int]:
        """(nr, free, surplus, max) of a pool."""
        return sum(h.nr), h.free_count(), sum(h.surplus), h.max_huge_pages
