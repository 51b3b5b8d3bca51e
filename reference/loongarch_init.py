"""The vmemmap on loongarch64 (arch/loongarch/mm/init.c, Linux 7.3; separate-paths.md 1.2), with three or four levels
of page tables."""

from __future__ import annotations

from mm.altmap import Altmap
from mm.kernel import Kernel
from reference.populate import vmemmap_populate_hugepages


def vmemmap_populate(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate: PMD leaves from RAM, whatever the altmap. 0 or -ENOMEM.

    A leaf describes a quarter of a section with 4K pages, 16 sections with 16K and 1024 with 64K.
    """
    return vmemmap_populate_hugepages(k, lo, hi, nid, None)


def vmemmap_free(k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
    """vmemmap_free: empty. The memmap of what is removed stays mapped, and is found by whoever comes next."""
