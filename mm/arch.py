"""Geometry and abilities of each architecture (arch/*/include/asm/sparsemem.h, arch/*/Kconfig, Linux 7.3).

All derived sizes are in base pages (`pfn` units) or, where the name says so, in vmemmap pages: one vmemmap page holds
the struct pages of `spp` consecutive page frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STRUCT_PAGE = 64
"""sizeof(struct page) in bytes, in every modelled configuration (include/linux/mm_types.h)."""

SUBSECTION_SHIFT = 21
"""Subsections are 2 MiB on every architecture (include/linux/mmzone.h)."""


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture with one base page size. Shifts are log2 of bytes; counts are described at each field."""

    name: str
    page_shift: int
    section_shift: int
    pmd_shift: int
    pud_shift: int
    max_folio_order: int
    """MAX_FOLIO_ORDER (include/linux/mmzone.h)."""
    hugetlb_shifts: tuple[int, ...]
    """Huge page sizes, largest first."""
    hvo: bool
    """HUGETLB_PAGE_OPTIMIZE_VMEMMAP can be built."""
    dax_dedup: bool
    """ARCH_WANT_OPTIMIZE_DAX_VMEMMAP."""
    prehvo: bool
    """ARCH_WANT_HUGETLB_VMEMMAP_PREINIT (separate paths only)."""

    page: int = field(init=False)
    spp: int = field(init=False)
    """Struct pages per vmemmap page."""
    pages_per_section: int = field(init=False)
    pages_per_subsection: int = field(init=False)
    vmemmap_per_section: int = field(init=False)
    """Vmemmap pages that describe one section."""
    ptrs_per_pte: int = field(init=False)
    """Entries of a PTE table; a PMD leaf of the vmemmap maps that many vmemmap pages."""
    pmd_order: int = field(init=False)
    """Order of a PMD-sized block; also pageblock_order."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "page", 1 << self.page_shift)
        put(self, "spp", (1 << self.page_shift) // STRUCT_PAGE)
        put(self, "pages_per_section", 1 << (self.section_shift - self.page_shift))
        put(self, "pages_per_subsection", max(1, 1 << (SUBSECTION_SHIFT - self.page_shift)))
        put(self, "vmemmap_per_section", -(-self.pages_per_section // self.spp))
        put(self, "ptrs_per_pte", 1 << (self.pmd_shift - self.page_shift))
        put(self, "pmd_order", self.pmd_shift - self.page_shift)

    def vmemmap_pages(self, order: int) -> int:
        """V(order): vmemmap pages of a folio of `order`, 0 when its struct pages do not fill one."""
        return (STRUCT_PAGE << order) >> self.page_shift


X86_64 = Arch(
    name="x86_64",
    page_shift=12,
    section_shift=27,
    pmd_shift=21,
    pud_shift=30,
    max_folio_order=22,
    hugetlb_shifts=(30, 21),
    hvo=True,
    dax_dedup=True,
    prehvo=True,
)

ARCHES: dict[tuple[str, int], Arch] = {("x86_64", 4096): X86_64}
"""Known architectures by name and base page size in bytes."""
