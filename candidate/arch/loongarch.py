"""loongarch64 (arch/loongarch/mm/init.c, Linux 7.3): PMD leaves, also for parts of a section, and never from an altmap.

With 16K and 64K pages a leaf covers the memmap of many sections. Nothing is ever unmapped: memory that comes back
finds its old memmap. Left out: kernels with two levels of tables, which use base pages.
"""

from __future__ import annotations

from candidate.arch.vmemmap import ArchVmemmap
from candidate.vmemmap_optimization import Framework
from candidate.vmemmap_populate import vmemmap_populate_hugepages
from mm.altmap import Altmap


def vmemmap_populate(f: Framework, pfn: int, end: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate (arch/loongarch/mm/init.c)."""
    return vmemmap_populate_hugepages(f, pfn, end, nid, None)


def vmemmap_free(f: Framework, pfn: int, end: int, altmap: Altmap | None) -> None:
    """vmemmap_free (arch/loongarch/mm/init.c) is empty."""


VMEMMAP: ArchVmemmap = ArchVmemmap(vmemmap_free=vmemmap_free, vmemmap_populate=vmemmap_populate, altmaps=False)
