"""The reference side of the seam: `mm.vmemmap.VmemmapPaths` as Linux 7.3 implements it."""

from __future__ import annotations

from errno import ENOENT

from mm.altmap import Altmap
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.mmzone import Zone
from mm.pgmap import PgMap
from mm.runs import RunSet
from reference import hugetlb_boot, hugetlb_vmemmap, mm_init, section_rows
from reference.populate import Tails
from reference.sparse_vmemmap import SIZEOF_MEM_SECTION


class SeparatePaths:
    """The separate HugeTLB and device-DAX paths, with the state that only they have."""

    name = "reference"
    version = "v7.3"

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.vmemmap_optimize_enabled = k.machine.hugetlb_free_vmemmap
        self.tails: Tails = {}
        """vmemmap_tails of all zones."""
        self.section_roots = RunSet()
        """Root arrays that exist (mem_section[])."""
        self.huge_boot_pages: list[list[hugetlb_boot.HugeBootmemPage]] = [[] for _ in k.nodes]
        """Per node, list head first."""
        self.first_deferred_pfn: list[int | None] = [None] * len(k.nodes)

    def zone_tails(self) -> Tails:
        """Shared tail frames that exist."""
        return self.tails

    def section_root_arrays(self) -> tuple[int, list[int]]:
        """See reference.sparse_vmemmap."""
        roots = [root for lo, hi in self.section_roots.items() for root in range(lo, hi)]
        return self.k.arch.page // SIZEOF_MEM_SECTION, roots

    def mm_core_init_early(self) -> None:
        """mm_core_init_early (mm/mm_init.c), from hugetlb_bootmem_alloc on."""
        hugetlb_boot.hugetlb_bootmem_alloc(self)
        hugetlb_boot.sparse_init(self)
        self.first_deferred_pfn = mm_init.memmap_init(self.k)

    def page_alloc_init_late(self) -> None:
        """page_alloc_init_late (mm/mm_init.c), as far as struct pages go."""
        mm_init.deferred_init_memmap(self.k, self.first_deferred_pfn)
        hugetlb_boot.hugetlb_bootmem_struct_page_init(self)

    def sparse_add_section(self, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
        """See reference.sparse_vmemmap and, for a range of several sections, reference.section_rows."""
        return section_rows.sparse_add_sections(self.k, self.section_roots, nid, pfn, nr, altmap, pgmap)

    def sparse_remove_section(self, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
        """See reference.sparse_vmemmap and, for a range of several sections, reference.section_rows."""
        section_rows.sparse_remove_sections(self.k, pfn, nr, altmap, pgmap)

    def memmap_init_range(self, zone: Zone, pfn: int, nr: int) -> None:
        """See reference.mm_init."""
        mm_init.memmap_init_range(self.k, zone, pfn, nr)

    def memmap_init_zone_device(self, zone: Zone, pfn: int, nr: int, pgmap: PgMap) -> None:
        """See reference.mm_init."""
        mm_init.memmap_init_zone_device(self.k, zone, pfn, nr, pgmap)

    def hugetlb_vmemmap_optimizable(self, h: HState) -> bool:
        """See reference.hugetlb_vmemmap."""
        return hugetlb_vmemmap.hugetlb_vmemmap_optimizable(self.k, h)

    def hugetlb_vmemmap_optimize_folio(self, h: HState, folio: Folio) -> None:
        """See reference.hugetlb_vmemmap."""
        hugetlb_vmemmap.hugetlb_vmemmap_optimize_folio(self, h, folio)

    def hugetlb_vmemmap_optimize_folios(self, h: HState, folios: list[Folio]) -> None:
        """See reference.hugetlb_vmemmap."""
        hugetlb_vmemmap.hugetlb_vmemmap_optimize_folios(self, h, folios, boot=False)

    def hugetlb_vmemmap_restore_folio(self, h: HState, folio: Folio) -> int:
        """See reference.hugetlb_vmemmap."""
        return hugetlb_vmemmap.hugetlb_vmemmap_restore_folio(self.k, h, folio)

    def hugetlb_vmemmap_restore_folios(self, h: HState, folios: list[Folio], non_hvo: list[Folio]) -> int:
        """See reference.hugetlb_vmemmap."""
        return hugetlb_vmemmap.hugetlb_vmemmap_restore_folios(self.k, h, folios, non_hvo)

    def hugetlb_optimize_vmemmap_sysctl(self, value: bool) -> int:
        """The sysctl, registered by hugetlb_vmemmap_init iff some size can be optimized; it stores a value and
        nothing else.
        """
        if not any(self.hugetlb_vmemmap_optimizable(h) for h in self.k.hstates.values()):
            return -ENOENT
        self.vmemmap_optimize_enabled = value
        return 0
