"""The seam: kernel functions that differ between the separate paths and the unified framework, under the kernel's
names.

`reference.paths.SeparatePaths` and `candidate.framework.UnifiedFramework` implement `VmemmapPaths`; everything else in
`mm` calls through `Kernel.paths`. A side is constructed with the kernel it belongs to and keeps its private state
(zone tail frames, section orders, boot records) in itself. Errors are negative errno values; a BUG or panic raises
`mm.page_alloc.KernelBug`.
"""

from __future__ import annotations

from typing import Protocol

from mm.altmap import Altmap
from mm.folio import Folio
from mm.hstate import HState
from mm.mmzone import Zone
from mm.pgmap import PgMap


class VmemmapPaths(Protocol):
    """What a side must do. Ranges are (pfn, number of pages)."""

    version: str
    """What this side models: a version of Linux, or a form of the framework. Only observers ask."""
    vmemmap_optimize_enabled: bool
    """The run-time switch (mm/hugetlb_vmemmap.c)."""

    def zone_tails(self) -> dict[tuple[tuple[int, int], int], int]:
        """Shared tail frames that exist: (zone key, order) -> frame. Only observers ask."""

    def section_root_arrays(self) -> tuple[int, list[int]]:
        """SECTIONS_PER_ROOT, and the numbers of the arrays of struct mem_section that exist, ascending. Only observers
        ask."""

    # boot ----------------------------------------------------------------------------------------------------------

    def mm_core_init_early(self) -> None:
        """Reserve boot gigantic pages (`Kernel.hugetlb.boot_requests`), build the boot memory map, write the struct
        pages that memmap_init writes. Zones are sized and memblock holds all RAM. After it every present section has a
        memmap."""

    def page_alloc_init_late(self) -> None:
        """After memblock has given its free memory to the buddy allocator: deferred struct-page init, then the boot
        gigantic folios are initialised, optimized or write-protected, and added to the pool
        (`Hugetlb.add_boot_folio`)."""

    # sections ------------------------------------------------------------------------------------------------------

    def sparse_add_section(self, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
        """Give [pfn, pfn + nr) a memmap. 0 or -ENOMEM, -EINVAL, -EEXIST, ...

        The range may span several sections, which are added ascending; the first error stops, and the sections added
        before it are kept."""

    def sparse_remove_section(self, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
        """Undo `sparse_add_section` for [pfn, pfn + nr), which may span several sections."""

    def memmap_init_range(self, zone: Zone, pfn: int, nr: int) -> None:
        """Initialise the struct pages of hot-added RAM that goes online in `zone`, or of the altmap's frames in a
        device, and make their pageblocks MOVABLE (mm/mm_init.c, MEMINIT_HOTPLUG)."""

    def memmap_init_zone_device(self, zone: Zone, pfn: int, nr: int, pgmap: PgMap) -> None:
        """Initialise the struct pages of [pfn, pfn + nr) of a device range, and its pageblock types (mm/mm_init.c)."""

    # HugeTLB -------------------------------------------------------------------------------------------------------

    def hugetlb_vmemmap_optimizable(self, h: HState) -> bool:
        """Whether folios of `h` can be optimized at all (P1)."""

    def hugetlb_vmemmap_optimize_folio(self, h: HState, folio: Folio) -> None:
        """Optimize one folio; failures are hidden."""

    def hugetlb_vmemmap_optimize_folios(self, h: HState, folios: list[Folio]) -> None:
        """Optimize in list order, in bulk; failures are hidden."""

    def hugetlb_vmemmap_restore_folio(self, h: HState, folio: Folio) -> int:
        """0 or -ENOMEM (in profile `merged` also -EAGAIN)."""

    def hugetlb_vmemmap_restore_folios(self, h: HState, folios: list[Folio], non_hvo: list[Folio]) -> int:
        """Restore in list order. Folios that are (now) not optimized move from `folios` to the end of `non_hvo`.
        Returns how many were restored, or the first error (the failing folio and those behind it stay in `folios`)."""

    def hugetlb_optimize_vmemmap_sysctl(self, value: bool) -> int:
        """Write vm.hugetlb_optimize_vmemmap; 0, or -ENOENT where the sysctl does not exist."""
