"""The tree of busy memory resources, as far as memory hotplug asks it (kernel/resource.c, Linux 7.3)."""

from __future__ import annotations

from mm.kernel import Kernel


def request_region(k: Kernel, start_pfn: int, end_pfn: int, kind: str) -> bool:
    """__request_region (kernel/resource.c): reserve [start_pfn, end_pfn); False when it is busy or beyond the end.

    Left out: nesting, names, and resources that are not busy.
    """
    if k.iomem.runs(start_pfn, end_pfn) or end_pfn > 1 << (k.arch.physmem_bits - k.arch.page_shift):
        return False
    k.iomem.set(start_pfn, end_pfn, kind)
    return True


def release_region(k: Kernel, start_pfn: int, end_pfn: int) -> None:
    """__release_region and release_mem_region_adjustable (kernel/resource.c)."""
    k.iomem.clear(start_pfn, end_pfn)
