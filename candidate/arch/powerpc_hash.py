"""powerpc with the hash MMU (arch/powerpc/mm/init_64.c, Linux 7.3): the vmemmap is bolted in blocks of 16 MiB, kept in
a list; there are no page tables.

One block describes 16 GiB with 64K pages; it lives as long as any subsection in it is valid. Nothing is optimized: only
radix can (4.1). Left out: the list's own memory, a page for every 2730 blocks; machines without 16M pages.
"""

from __future__ import annotations

from candidate.arch.powerpc import altmap_cross_boundary, free_vmemmap_pages, vmemmap_populated
from candidate.arch.vmemmap import ArchVmemmap
from candidate.vmemmap_boot import boot_frames
from candidate.vmemmap_optimization import Framework
from candidate.vmemmap_populate import vmemmap_alloc_leaf
from candidate.vmemmap_remove import forget
from mm.altmap import Altmap
from mm.errno import ENOMEM
from mm.kernel import Kernel
from mm.page_alloc import OWNER_MEMMAP_BOOT
from mm.pgtable import Leaf


def _blocks(k: Kernel, pfn: int, end: int) -> range:
    """First vmemmap pages of the blocks over [pfn, end)."""
    spp, n = k.arch.spp, k.arch.ptrs_per_pte
    return range(pfn // spp // n * n, -(-end // spp), n)


def vmemmap_populate(f: Framework, pfn: int, end: int, nid: int, altmap: Altmap | None) -> int:
    """__vmemmap_populate (arch/powerpc/mm/init_64.c): a block that has no room in the altmap comes from RAM."""
    k = f.k
    n = k.arch.ptrs_per_pte
    for vpn in _blocks(k, pfn, end):
        if vmemmap_populated(k, vpn, n):
            continue
        frame = None
        if altmap is not None and not altmap_cross_boundary(k, altmap, vpn, n):
            frame = vmemmap_alloc_leaf(k, nid, altmap)
        if frame is None:
            frame = vmemmap_alloc_leaf(k, nid, None)
        if frame is None:
            return -ENOMEM
        k.tables.set(vpn, vpn + n, Leaf(frame - vpn))
    return 0


def vmemmap_populate_boot(f: Framework, pfn: int, end: int, nid: int) -> None:
    """The same at boot, for a row of sections, of which the first may lie in a block that exists."""
    k = f.k
    n = k.arch.ptrs_per_pte
    blocks = _blocks(k, pfn, end)
    vpn = blocks.start
    if k.tables.get(vpn) is not None:
        blocks = blocks[1:]
        vpn += n
    for frame, m in boot_frames(k, nid, len(blocks), n, OWNER_MEMMAP_BOOT):
        k.tables.set(vpn, vpn + m, Leaf(frame - vpn))
        vpn += m


def vmemmap_free(f: Framework, pfn: int, end: int, altmap: Altmap | None) -> None:
    """__vmemmap_free (arch/powerpc/mm/init_64.c)."""
    k = f.k
    n = k.arch.ptrs_per_pte
    for vpn in _blocks(k, pfn, end):
        if vmemmap_populated(k, vpn, n):
            continue
        for s, e, m in k.tables.clear(vpn, vpn + n):
            free_vmemmap_pages(k, m, s, e, altmap)
        forget(k, vpn, vpn + n)
        k.tlb.flush_tlb_kernel_range(vpn, vpn + n)  # vmemmap_remove_mapping, after the block is free


VMEMMAP: ArchVmemmap = ArchVmemmap(
    vmemmap_free=vmemmap_free,
    vmemmap_populate=vmemmap_populate,
    vmemmap_populate_boot=vmemmap_populate_boot,
    page_tables=False,
)
