"""What both MMUs of 64-bit powerpc share (arch/powerpc/mm/init_64.c, Linux 7.3).

Sections are small there, so that PMD leaves, blocks and, with 64K pages, single vmemmap pages describe several of
them. Whether one is still in use is asked of the sections: it is, as long as any subsection in it is valid.
"""

from __future__ import annotations

from candidate.vmemmap_remove import free_mapped
from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.mmzone import SECTION_HAS_MEM_MAP
from mm.pgtable import Leaf, Mapping, Pte


def vmemmap_populated(k: Kernel, vpn: int, n: int) -> bool:
    """vmemmap_populated: pfn_valid for any subsection that `n` vmemmap pages describe. They describe whole sections,
    and a section with a memory map has a valid one.
    """
    spp, per = k.arch.spp, k.arch.pages_per_section
    words = k.sections.flags.runs(vpn * spp // per, (vpn + n) * spp // per)
    return any(word & SECTION_HAS_MEM_MAP for _, _, word in words)


def altmap_cross_boundary(k: Kernel, altmap: Altmap, vpn: int, n: int) -> bool:
    """altmap_cross_boundary: whether `n` vmemmap pages describe anything outside of the device."""
    spp = k.arch.spp
    return vpn * spp < altmap.base_pfn or (vpn + n) * spp > altmap.end_pfn


def free_vmemmap_pages(k: Kernel, m: Mapping, lo: int, hi: int, altmap: Altmap | None) -> None:
    """free_vmemmap_pages (arch/powerpc/mm/book3s64/radix_pgtable.c): what lies in the altmap is credited to it, and all
    else freed. Frames of RAM never follow or precede those of the altmap in one run: what lies behind these is data of
    the device, and the altmap is asked first.
    """
    if (
        altmap is not None
        and isinstance(m, Leaf | Pte)
        and altmap.base_pfn <= lo + m.delta < altmap.base_pfn + altmap.offset()
    ):
        altmap.release(hi - lo)
    else:
        free_mapped(k, m, lo, hi)
