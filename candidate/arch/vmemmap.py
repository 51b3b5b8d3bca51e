"""What an architecture brings to the vmemmap, with the generic functions as defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from candidate.vmemmap_boot import boot_hugepages
from candidate.vmemmap_populate import (
    head_slots,
    try_populate_vmemmap_pmd,
    vmemmap_populate_compound_pages,
    vmemmap_populate_hugepages,
)
from mm.altmap import Altmap
from mm.pgmap import PgMap

if TYPE_CHECKING:
    from candidate.vmemmap_optimization import Framework


@dataclass(frozen=True, slots=True)
class ArchVmemmap:
    """The functions of one architecture. Ranges are pfns of whole subsections; errors are negative errno values."""

    vmemmap_free: Callable[[Framework, int, int, Altmap | None], None]
    """(f, pfn, end, altmap): unmap, and free what was private."""
    vmemmap_populate: Callable[[Framework, int, int, int, Altmap | None], int] = vmemmap_populate_hugepages
    """(f, pfn, end, nid, altmap), at run time, for sections that are not optimized."""
    vmemmap_populate_boot: Callable[[Framework, int, int, int], None] = boot_hugepages
    """(f, pfn, end, nid): the same at boot, for a row of sections; panics when memory runs out."""
    vmemmap_populate_compound_pages: Callable[[Framework, int, int, int, PgMap], int] = vmemmap_populate_compound_pages
    """(f, pfn, end, nid, pgmap): an optimized section of a device."""
    head_slots: Callable[[Framework, int, int, PgMap], range | None] = head_slots
    """(f, pfn, end, pgmap): the vmemmap pages of fresh sections that the former gives a page of their own."""
    try_populate_vmemmap_pmd: Callable[[Framework, int], int] = try_populate_vmemmap_pmd
    """(f, pmd): may the PMD leaf be replaced by a table? An error leaves it as it is."""
    leaves: bool = True
    """Whether whole fresh sections get PMD leaves; else base pages."""
    page_tables: bool = True
    """Whether the vmemmap is mapped by page tables at all."""
    altmaps: bool = True
    """Whether memmap can come from an altmap."""
    memmap_nid: int | None = None
    """The node of all memmap frames at run time, where it is not that of the section."""
    table_nid: int | None = None
    """The same for page tables."""
    counts_tables: bool = False
    """Page tables made at run time count in NR_PAGETABLE while they live."""
