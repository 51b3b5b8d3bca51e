"""The tree of busy memory resources, as far as memory hotplug asks it (kernel/resource.c, Linux 7.3)."""

from __future__ import annotations

from mm.kernel import Kernel

KMEM = "kmem"
"""Reserved by the kmem driver; not busy itself, so that its memory can be added inside."""
KMEM_RAM = "kmem ram"
"""Memory that the kmem driver has added inside its reservation ("System RAM (kmem)")."""


def request_region(k: Kernel, start_pfn: int, end_pfn: int, kind: str) -> bool:
    """__request_region (kernel/resource.c): reserve [start_pfn, end_pfn); False when it is busy or beyond the end.

    KMEM_RAM goes inside a reservation of the kmem driver, and only there. Left out: other nesting, names.
    """
    if end_pfn > 1 << (k.arch.physmem_bits - k.arch.page_shift):
        return False
    runs = k.iomem.runs(start_pfn, end_pfn)
    if kind == KMEM_RAM:
        if runs != [(start_pfn, end_pfn, KMEM)]:
            return False
    elif runs:
        return False
    k.iomem.set(start_pfn, end_pfn, kind)
    return True


def release_region(k: Kernel, start_pfn: int, end_pfn: int) -> None:
    """__release_region and release_mem_region_adjustable (kernel/resource.c)."""
    if k.iomem.get(start_pfn) == KMEM_RAM:
        k.iomem.set(start_pfn, end_pfn, KMEM)
    else:
        k.iomem.clear(start_pfn, end_pfn)
