"""`UnifiedFramework`: the framework behind the seam `mm.vmemmap.VmemmapPaths`."""

from __future__ import annotations

from errno import ENOENT

from candidate import hugetlb_boot, hugetlb_vmemmap, mm_init, section_rows
from candidate.arch import arch_vmemmap
from candidate.vmemmap_optimization import Framework
from mm.altmap import Altmap
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.mmzone import Zone
from mm.pgmap import PgMap

PROFILES = ("posted", "merged")


class UnifiedFramework(Framework):
    """The unified framework in one kernel, in profile "posted" or "merged"."""

    name = "candidate"

    def __init__(self, k: Kernel, profile: str = "posted") -> None:
        if profile not in PROFILES:
            raise ValueError(f"unknown profile {profile!r}; write one of {', '.join(PROFILES)}")
        super().__init__(k, profile == "merged", arch_vmemmap(k.arch))
        self.version = profile

    def zone_tails(self) -> dict[tuple[tuple[int, int], int], int]:
        """Shared tail frames that exist: (zone key, order) -> frame."""
        low = self.min_order
        return {
            (key, low + i): frame
            for key, array in self.tails.items()
            for i, frame in enumerate(array)
            if frame is not None
        }

    def section_root_arrays(self) -> tuple[int, list[int]]:
        """SECTIONS_PER_ROOT, and the root arrays that are allocated."""
        return self.sections_per_root, sorted(self.roots)

    # boot ----------------------------------------------------------------------------------------------------------

    def mm_core_init_early(self) -> None:
        """Sections, gigantic pages, boot memory map, early struct pages: in this order, so that orders are set before
        they are read.
        """
        hugetlb_boot.sparse_sections_init(self)
        hugetlb_boot.hugetlb_bootmem_alloc(self)
        hugetlb_boot.sparse_init(self)
        mm_init.memmap_init(self)

    def page_alloc_init_late(self) -> None:
        """page_alloc_init_late (mm/mm_init.c, -mm): deferred struct pages, then the gigantic folios."""
        mm_init.deferred_init_memmap(self.k)
        hugetlb_boot.hugetlb_bootmem_struct_page_init(self)

    # sections ------------------------------------------------------------------------------------------------------

    def sparse_add_section(self, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
        return section_rows.sparse_add_section(self, nid, pfn, nr, altmap, pgmap)

    def sparse_remove_section(self, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
        section_rows.sparse_remove_section(self, pfn, nr, altmap)

    def memmap_init_range(self, zone: Zone, pfn: int, nr: int) -> None:
        mm_init.memmap_init_range(self, zone, pfn, nr)

    def memmap_init_zone_device(self, zone: Zone, pfn: int, nr: int, pgmap: PgMap) -> None:
        mm_init.memmap_init_zone_device(self, zone, pfn, nr, pgmap)

    # HugeTLB -------------------------------------------------------------------------------------------------------

    def hugetlb_vmemmap_optimizable(self, h: HState) -> bool:
        return hugetlb_vmemmap.hugetlb_vmemmap_optimizable(self, h)

    def hugetlb_vmemmap_optimize_folio(self, h: HState, folio: Folio) -> None:
        hugetlb_vmemmap.hugetlb_vmemmap_optimize_folio(self, h, folio)

    def hugetlb_vmemmap_optimize_folios(self, h: HState, folios: list[Folio]) -> None:
        hugetlb_vmemmap.hugetlb_vmemmap_optimize_folios(self, h, folios)

    def hugetlb_vmemmap_restore_folio(self, h: HState, folio: Folio) -> int:
        return hugetlb_vmemmap.hugetlb_vmemmap_restore_folio(self, h, folio)

    def hugetlb_vmemmap_restore_folios(self, h: HState, folios: list[Folio], non_hvo: list[Folio]) -> int:
        return hugetlb_vmemmap.hugetlb_vmemmap_restore_folios(self, h, folios, non_hvo)

    def hugetlb_optimize_vmemmap_sysctl(self, value: bool) -> int:
        """vm.hugetlb_optimize_vmemmap; it exists if any pool can be optimized (hugetlb_vmemmap_init)."""
        if not any(map(self.hugetlb_vmemmap_optimizable, self.k.hstates.values())):
            return -ENOENT
        self.vmemmap_optimize_enabled = value
        return 0
