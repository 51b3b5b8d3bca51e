"""Geometry and abilities of each architecture (arch/*/include/asm/sparsemem.h, arch/*/Kconfig, Linux 7.3).

All derived sizes are in base pages (`pfn` units) or, where the name says so, in vmemmap pages: one vmemmap page holds
the struct pages of `spp` consecutive page frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mm.mmzone import ZONE_DMA, ZONE_DMA32

STRUCT_PAGE = 64
"""sizeof(struct page) in bytes, where a kernel does not say otherwise (include/linux/mm_types.h)."""

SUBSECTION_SHIFT = 21
"""Subsections are 2 MiB on every architecture (include/linux/mmzone.h)."""


M, G = 1 << 20, 1 << 30


class RamLayout(NamedTuple):
    """Where boot RAM lies in QEMU's default machine, in bytes: less than `whole` lies at `start`; of more, `low` bytes
    lie at `start` and the rest from `rest` up."""

    start: int
    whole: int
    low: int = 0
    rest: int = 0


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture with one base page size. Shifts are log2 of bytes; counts are described at each field."""

    name: str
    page_shift: int
    section_shift: int
    pmd_shift: int
    pud_shift: int
    pgd_shift: int
    """Range of one PUD table; equal to `pud_shift` where the PUD is folded."""
    max_folio_order: int
    """MAX_FOLIO_ORDER (include/linux/mmzone.h): log2(16G) - PAGE_SHIFT."""
    max_page_order: int
    """MAX_PAGE_ORDER (ARCH_FORCE_MAX_ORDER): huge pages above it are gigantic."""
    hugetlb_shifts: tuple[int, ...]
    """Huge page sizes, largest first."""
    memory_block_shift: int
    """memory_block_size_bytes."""
    physmem_bits: int
    """MAX_PHYSMEM_BITS; nothing lies above."""
    zones: tuple[tuple[int, int], ...]
    """(zone, end in bytes) of the zones below ZONE_NORMAL, ascending (arch_zone_limits_init)."""
    ram: RamLayout
    image: tuple[tuple[int, int], ...]
    """Bytes, counted from the start of RAM, that belong to firmware and the kernel image for good (a choice of the
    model)."""
    hvo: bool = False
    """HUGETLB_PAGE_OPTIMIZE_VMEMMAP can be built."""
    dax_dedup: bool = False
    """ARCH_WANT_OPTIMIZE_DAX_VMEMMAP, and at run time powerpc's radix_enabled()."""
    prehvo: bool = False
    """ARCH_WANT_HUGETLB_VMEMMAP_PREINIT (separate paths only)."""
    pud_thp: bool = False
    """HAVE_ARCH_TRANSPARENT_HUGEPAGE_PUD: device DAX can be aligned to the PUD size."""
    hugetlb_cma_shift: int = 0
    """arch_hugetlb_cma_order, as log2 of bytes; 0: hugetlb_cma= is not supported."""
    break_before_make: bool = False
    """A valid entry must be made invalid and flushed before it maps another frame."""
    flush_tlb_all_is_empty: bool = False
    """flush_tlb_all does nothing, and flush_tlb_kernel_range flushes all that is the kernel's
    (arch/s390/include/asm/tlbflush.h)."""
    memmap_on_memory: bool = False
    """ARCH_MHP_MEMMAP_ON_MEMORY_ENABLE."""
    boot_memory_stays: bool = False
    """A notifier refuses to let boot memory go offline."""
    vmemmap_leaf_for_part: bool = False
    """vmemmap_populate maps a PMD leaf, a whole one, for a part of what it describes too (arch/riscv/mm/init.c and
    radix__vmemmap_populate always, modify_pmd_table of arch/s390/mm/vmem.c)."""
    vmemmap_rounds_down: bool = False
    """vmemmap_populate begins with a whole vmemmap page, or PMD, where the range begins inside of one (powerpc:
    radix__vmemmap_populate, and vmemmap_populate of mm/init_64.c). Elsewhere it goes from the first struct page in
    steps of a page."""
    compounds_by_pfn: bool = False
    """vmemmap_populate_compound_pages is the architecture's own (radix_pgtable.c): it goes by the absolute pfn, may map
    the first two pages of a compound page outside the range, and takes no notice of a second page that it did not
    get."""
    memmap_from_ram: bool = False
    """A base page that the altmap does not have comes from RAM (radix__vmemmap_pte_populate)."""
    vmemmap_flush_late: bool = False
    """vmemmap_free flushes when all frames are free: remove_pagetable (arch/x86/mm/init_64.c, radix_pgtable.c),
    remove_pgd_mapping (arch/riscv/mm/init.c), modify_pagetable (arch/s390/mm/vmem.c). arm64 flushes an entry before its
    frame goes, loongarch64 frees nothing."""
    vmemmap_frees_shared: bool = False
    """vmemmap_free releases a vmemmap page or PMD leaf that describes memory of two devices as if its frames were those
    of the device that goes: free_hotplug_page_range (arm64), free_vmemmap_storage (riscv), vmem_free_pages (s390).
    powerpc asks whether a frame lies in the altmap; x86-64 has no such pages."""

    page_table_sync: bool = False
    """ARCH_PAGE_TABLE_SYNC_MASK is not empty: every page table has top-level entries of its own for the vmemmap, which
    must follow those of init_mm (arch/x86/include/asm/pgtable_64_types.h). The other way is to share them."""

    vmemmap_shift: int = 0
    """Bytes of memory that the vmemmap has room for, as log2: VMEMMAP_SIZE / sizeof(struct page) pages from
    vmemmap_start_pfn on. 0: for all that `physmem_bits` allow, from pfn 0 on."""
    vmemmap_align: int = 0
    """VMEMMAP_ADDR_ALIGN (arch/riscv/mm/init.c), as log2: of the memory that the vmemmap begins with."""
    direct_map: bool = False
    """The sizes of the pages of the direct map are modelled (`mm.direct_map`)."""
    struct_page: int = STRUCT_PAGE
    """sizeof(struct page) in bytes. The struct pages of a section fill whole PMD leaves if that is no power of two."""

    page: int = field(init=False)
    spp: int = field(init=False)
    """Struct pages per vmemmap page; 0: they cross the borders of vmemmap pages, and `vpn` and `pfn` convert."""
    pages_per_section: int = field(init=False)
    pages_per_subsection: int = field(init=False)
    vmemmap_per_section: int = field(init=False)
    """Vmemmap pages that describe one section: 1 where several sections share one (powerpc with 64K pages)."""
    ptrs_per_pte: int = field(init=False)
    """Entries of a PTE table; a PMD leaf of the vmemmap maps that many vmemmap pages."""
    pmd_order: int = field(init=False)
    """Order of a PMD-sized block; also pageblock_order."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "page", 1 << self.page_shift)
        put(self, "spp", 0 if self.page % self.struct_page else self.page // self.struct_page)
        put(self, "pages_per_section", 1 << (self.section_shift - self.page_shift))
        put(self, "pages_per_subsection", max(1, 1 << (SUBSECTION_SHIFT - self.page_shift)))
        put(self, "vmemmap_per_section", self.vpn_end(self.pages_per_section))
        put(self, "ptrs_per_pte", 1 << (self.pmd_shift - self.page_shift))
        put(self, "pmd_order", self.pmd_shift - self.page_shift)

    @property
    def tails_beside_leaves(self) -> bool:
        """Whether devices share tails, and ordinary memmap of a part of a section is a whole PMD leaf."""
        return self.dax_dedup and self.vmemmap_leaf_for_part

    def vmemmap_pages(self, order: int) -> int:
        """V(order): vmemmap pages of a folio of `order`, 0 when its struct pages do not fill one."""
        return (self.struct_page << order) >> self.page_shift

    def vpn(self, pfn: int) -> int:
        """The vmemmap page in which the struct page of `pfn` begins."""
        return pfn * self.struct_page >> self.page_shift

    def vpn_end(self, pfn: int) -> int:
        """The first vmemmap page behind the struct pages of all below `pfn`."""
        return -(-pfn * self.struct_page >> self.page_shift)

    def pfn(self, vpn: int) -> int:
        """The first page whose struct page does not begin before vmemmap page `vpn`."""
        return -(-(vpn << self.page_shift) // self.struct_page)


_LOW_IMAGE = ((0, 32 * M),)

X86_64 = Arch(
    name="x86_64",
    page_shift=12,
    section_shift=27,
    pmd_shift=21,
    pud_shift=30,
    pgd_shift=39,
    max_folio_order=22,
    max_page_order=10,
    hugetlb_shifts=(30, 21),
    memory_block_shift=27,
    physmem_bits=46,
    zones=((ZONE_DMA, 16 * M), (ZONE_DMA32, 4 * G)),
    ram=RamLayout(0, 2816 * M, 2 * G, 4 * G),
    image=((0, 2 * M), (16 * M, 48 * M)),
    hvo=True,
    dax_dedup=True,
    prehvo=True,
    pud_thp=True,
    memmap_on_memory=True,
    hugetlb_cma_shift=30,
    vmemmap_flush_late=True,
    page_table_sync=True,
)
"""Four-level page tables; memory blocks as on machines below 64G of RAM."""

RISCV64 = Arch(
    name="riscv64",
    page_shift=12,
    section_shift=27,
    pmd_shift=21,
    pud_shift=30,
    pgd_shift=39,
    max_folio_order=22,
    max_page_order=10,
    hugetlb_shifts=(30, 21),
    memory_block_shift=27,
    physmem_bits=56,
    zones=((ZONE_DMA32, 4 * G),),
    ram=RamLayout(2 * G, 1 << 63),
    image=_LOW_IMAGE,
    hvo=True,
    dax_dedup=True,
    pud_thp=True,
    memmap_on_memory=True,
    hugetlb_cma_shift=30,
    vmemmap_leaf_for_part=True,
    vmemmap_flush_late=True,
    vmemmap_frees_shared=True,
    vmemmap_shift=48 - 1,
    vmemmap_align=34,
)
"""Sv48, a CPU without Svnapot; QEMU's `virt`. The vmemmap is for half of the virtual addresses (VMEMMAP_SHIFT), and
aligned to what the largest folio has (MAX_FOLIO_NR_PAGES)."""


def _loongarch64(page_shift: int, max_page_order: int) -> Arch:
    """Three levels of tables with 16K and 64K pages, four with 4K; huge pages of the PMD size only, none gigantic."""
    bits = page_shift - 3
    pmd_shift = page_shift + bits
    return Arch(
        name="loongarch64",
        page_shift=page_shift,
        section_shift=29,
        pmd_shift=pmd_shift,
        pud_shift=pmd_shift + bits,
        pgd_shift=pmd_shift + bits * (2 if page_shift == 12 else 1),
        max_folio_order=34 - page_shift,
        max_page_order=max_page_order,
        hugetlb_shifts=(pmd_shift,),
        memory_block_shift=29,
        physmem_bits=48,
        zones=((ZONE_DMA32, 4 * G),),
        ram=RamLayout(0, 256 * M, 256 * M, 2 * G),
        image=_LOW_IMAGE,
        hvo=True,
    )


def _ppc64_radix(page_shift: int) -> Arch:
    """POWER9 and later with the radix MMU; memory blocks of 256M, as a logical partition has them."""
    return Arch(
        name="ppc64_radix",
        page_shift=page_shift,
        section_shift=24,
        pmd_shift=21,
        pud_shift=30,
        pgd_shift=39,
        max_folio_order=34 - page_shift,
        max_page_order=12 if page_shift == 12 else 8,
        hugetlb_shifts=(30, 21),
        memory_block_shift=28,
        physmem_bits=46 if page_shift == 12 else 51,
        zones=(),
        ram=RamLayout(0, 1 << 63),
        image=_LOW_IMAGE,
        dax_dedup=True,
        pud_thp=True,
        memmap_on_memory=True,
        hugetlb_cma_shift=30,
        vmemmap_leaf_for_part=True,
        vmemmap_rounds_down=True,
        compounds_by_pfn=True,
        memmap_from_ram=True,
        vmemmap_flush_late=True,
        direct_map=True,
    )


PPC64_HASH = Arch(
    name="ppc64_hash",
    page_shift=16,
    section_shift=24,
    pmd_shift=24,
    pud_shift=34,
    pgd_shift=43,
    max_folio_order=18,
    max_page_order=8,
    hugetlb_shifts=(24,),
    memory_block_shift=28,
    physmem_bits=51,
    zones=(),
    ram=RamLayout(0, 1 << 63),
    image=_LOW_IMAGE,
    vmemmap_rounds_down=True,
    vmemmap_flush_late=True,
)
"""The hash MMU with 64K pages: the vmemmap is bolted in blocks of 16M, the size of `pmd_shift` here, without page
tables. Left out: 16G pages, which firmware hands out."""


def _arm64(page_shift: int) -> Arch:
    """48 bits of virtual addresses (64K: 52); neither optimization may be built in 7.3. QEMU's `virt`.

    Left out: huge pages of the contiguous sizes.
    """
    bits = page_shift - 3
    pmd_shift = page_shift + bits
    return Arch(
        name="arm64",
        page_shift=page_shift,
        section_shift=29 if page_shift == 16 else 27,
        pmd_shift=pmd_shift,
        pud_shift=pmd_shift + bits,
        pgd_shift=pmd_shift + bits * (1 if page_shift == 16 else 2),
        max_folio_order=34 - page_shift,
        max_page_order={12: 10, 14: 11, 16: 13}[page_shift],
        hugetlb_shifts=(30, 21) if page_shift == 12 else (pmd_shift,),
        memory_block_shift=29 if page_shift == 16 else 27,
        physmem_bits=52 if page_shift == 16 else 48,
        zones=((ZONE_DMA, 4 * G),),
        ram=RamLayout(1 * G, 1 << 63),
        image=_LOW_IMAGE,
        memmap_on_memory=True,
        boot_memory_stays=True,
        # CONT_PMD_SIZE where the PUD maps no pages
        hugetlb_cma_shift={12: 30, 14: 30, 16: 34}[page_shift],
        break_before_make=True,
        vmemmap_frees_shared=True,
    )


S390X = Arch(
    name="s390x",
    page_shift=12,
    section_shift=27,
    pmd_shift=20,
    pud_shift=31,
    pgd_shift=42,
    max_folio_order=22,
    max_page_order=10,
    hugetlb_shifts=(31, 20),
    memory_block_shift=27,
    physmem_bits=46,
    zones=((ZONE_DMA, 2 * G),),
    ram=RamLayout(0, 1 << 63),
    image=_LOW_IMAGE,
    memmap_on_memory=True,
    hugetlb_cma_shift=31,
    break_before_make=True,
    flush_tlb_all_is_empty=True,
    vmemmap_leaf_for_part=True,
    vmemmap_flush_late=True,
    vmemmap_frees_shared=True,
)
"""Segments of 1M and regions of 2G; two page tables share one page on real machines, one each here."""

_ALL = (
    X86_64,
    RISCV64,
    _loongarch64(12, 10),
    _loongarch64(14, 11),
    _loongarch64(16, 13),
    _ppc64_radix(12),
    _ppc64_radix(16),
    PPC64_HASH,
    _arm64(12),
    _arm64(14),
    _arm64(16),
    S390X,
)

ARCHES: dict[tuple[str, int], Arch] = {(arch.name, arch.page): arch for arch in _ALL}
"""Known architectures by name and base page size in bytes."""

WITH_KFENCE: dict[tuple[str, int], Arch] = {
    ("loongarch64", 1 << 12): replace(ARCHES["loongarch64", 1 << 12], struct_page=80),
}
"""Those that have larger struct pages with CONFIG_KFENCE: WANT_PAGE_VIRTUAL (arch/loongarch/include/asm/page.h) adds
page->virtual to the 64 bytes, and HAVE_ALIGNED_STRUCT_PAGE makes that a multiple of 16 (include/linux/mm_types.h).

Left out: kernels with 16K and 64K pages, where subsections are less than a vmemmap page, and the pool of KFENCE
(kfence.sample_interval=0).
"""
