"""What both MMUs of 64-bit powerpc share (arch/powerpc/mm/init_64.c, Linux 7.3).

Sections are small there, so that PMD leaves, blocks and, with 64K pages, single vmemmap pages describe several of
them. Whether one is still in use is asked of the sections: it is, as long as any subsection in it is valid.
"""

from __future__ import annotations

from candidate.vmemmap_remove import free_mapped
from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY
from mm.pgtable import Leaf, Mapping, Pte


def vmemmap_populated(k: Kernel, vpn: int, n: int) -> bool:
    """vmemmap_populated: pfn_valid for any subsection that `n` vmemmap pages describe."""
    spp, per, sub = k.arch.spp, k.arch.pages_per_section, k.arch.pages_per_subsection
    pfn, end = vpn * spp, (vpn + n) * spp
    sections = k.sections
    for first, last, word in sections.flags.runs(pfn // per, -(-end // per)):
        if word & SECTION_HAS_MEM_MAP:
            lo, hi = max(first * per, pfn), min(last * per, end)
            if word & SECTION_IS_EARLY or sections.subsections.overlaps(lo // sub, -(-hi // sub)):
                return True
    return False


def altmap_cross_boundary(k: Kernel, altmap: Altmap, vpn: int, n: int) -> bool:
    """altmap_cross_boundary: whether `n` vmemmap pages describe anything outside of the device."""
    spp = k.arch.spp
    return vpn * spp < altmap.base_pfn or (vpn + n) * spp > altmap.end_pfn


def free_vmemmap_pages(k: Kernel, m: Mapping, lo: int, hi: int, altmap: Altmap | None) -> None:
    """free_vmemmap_pages (arch/powerpc/mm/book3s64/radix_pgtable.c): what lies in the altmap is credited to it, and all
    else freed.
    """
    if altmap is not None and isinstance(m, Leaf | Pte):
        start = altmap.base_pfn - m.delta
        first, last = max(lo, start), min(hi, start + altmap.offset())
        if first < last:
            altmap.release(last - first)
            if lo < first:
                free_mapped(k, m, lo, first)
            if last < hi:
                free_mapped(k, m, last, hi)
            return
    free_mapped(k, m, lo, hi)
