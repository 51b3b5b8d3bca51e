"""arm64 (arch/arm64/mm/mmu.c, Linux 7.3): PMD leaves for whole sections on 4K kernels, base pages everywhere else,
from the altmap if there is one.

No optimization is selected here. The hook that HVO would need is modelled as it is being prepared (5.16); nothing
reaches it unless a machine is made up that has HVO.
"""

from __future__ import annotations

from candidate.arch.vmemmap import ArchVmemmap
from candidate.vmemmap_boot import boot_basepages
from candidate.vmemmap_optimization import Framework
from candidate.vmemmap_populate import (
    page_span,
    vmemmap_populate_basepages,
    vmemmap_populate_hugepages,
)
from candidate.vmemmap_remove import forget, free_empty_tables, free_mapped, whole_leaves
from mm.altmap import Altmap
from mm.errno import EINVAL, EOPNOTSUPP
from mm.page_alloc import BOOT_OWNERS
from mm.pgtable import Leaf, Pte


def vmemmap_populate(f: Framework, pfn: int, end: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate (arch/arm64/mm/mmu.c)."""
    arch = f.k.arch
    if arch.page_shift == 12 and end - pfn >= arch.pages_per_section:
        return vmemmap_populate_hugepages(f, pfn, end, nid, altmap)
    return vmemmap_populate_basepages(f.k, *page_span(f.k, pfn, end), nid, altmap)


def vmemmap_free(f: Framework, pfn: int, end: int, altmap: Altmap | None) -> None:
    """vmemmap_free, unmap_hotplug_range, free_empty_tables (arch/arm64/mm/mmu.c): all is credited to the altmap if one
    is given; leaves go whole, and so do vmemmap pages that another subsection uses too (large pages).

    Frames of boot memory draw a warning: offlining of boot memory is refused. NR_PAGETABLE loses each table that is
    freed, though vmemmap_populate did not count it.
    """
    k = f.k
    lo, hi = whole_leaves(k, *page_span(k, pfn, end))
    gone = k.tables.clear(lo, hi)
    k.tlb.flush_tlb_kernel_range(lo, hi)
    for s, e, m in gone:
        if altmap:
            altmap.release(e - s)
            continue
        if isinstance(m, Leaf | Pte) and k.pages.owners.get(s + m.delta) in BOOT_OWNERS:
            k.warn("free_hotplug_page_range: a reserved page is freed")
        free_mapped(k, m, s, e)
    forget(k, lo, hi)
    k.vmstat.nr_page_table_pages -= free_empty_tables(k, lo, hi)[0]


def try_populate_vmemmap_pmd(f: Framework, pmd: int) -> int:
    """try_populate_vmemmap_pmd (arch/arm64/include/asm/pgalloc.h, as prepared): -EOPNOTSUPP without HVO, -EINVAL for
    what is no leaf; both leave the table unchanged.

    UNCONFIRMED: the versions differ. Left out: -EAGAIN for an entry that changes in each of 16 attempts, which nobody
    does here but the injection in front of this (`PMDHOOK`); BBML2_NOABORT, where it cannot fail; the access flag.
    """
    k = f.k
    if not k.arch.hvo:
        return -EOPNOTSUPP
    if not isinstance(k.tables.get(pmd * k.arch.ptrs_per_pte), Leaf):
        k.warn("the vmemmap's PMD is no leaf")
        return -EINVAL
    return 0


VMEMMAP_4K: ArchVmemmap = ArchVmemmap(
    vmemmap_free=vmemmap_free,
    vmemmap_populate=vmemmap_populate,
    try_populate_vmemmap_pmd=try_populate_vmemmap_pmd,
)
VMEMMAP_LARGE: ArchVmemmap = ArchVmemmap(
    vmemmap_free=vmemmap_free,
    vmemmap_populate=vmemmap_populate,
    vmemmap_populate_boot=boot_basepages,
    try_populate_vmemmap_pmd=try_populate_vmemmap_pmd,
    leaves=False,
)
