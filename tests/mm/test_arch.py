"""Geometry of the architectures, each number from the header named beside it (Linux 7.3), and separate-paths.md 1."""

import pytest

from mm.arch import ARCHES, Arch

K, M, G, T = 1 << 10, 1 << 20, 1 << 30, 1 << 40

# Section: SECTION_SIZE_BITS of arch/*/include/asm/sparsemem.h: x86-64 27, riscv 27, loongarch 29, powerpc 24,
#   arm64 27 (29 with 64K pages), s390 27.
# PMD and PUD: x86 include/asm/pgtable_64_types.h; riscv include/asm/pgtable-64.h; loongarch include/asm/pgtable.h
#   (PAGE_SHIFT - 3 bits a level); powerpc include/asm/book3s/64/radix-{4k,64k}.h (RADIX_PTE_INDEX_SIZE 9 or 5, then 9);
#   arm64 include/asm/pgtable-hwdef.h (PAGE_SHIFT - 3 bits a level); s390 include/asm/pgtable.h (_SEGMENT_SHIFT 20,
#   _REGION3_SHIFT 31). Hash: the block that the vmemmap is bolted in, and the next level as with 64K radix is not used.
# Last: RAM that one PMD leaf of the vmemmap describes (separate-paths.md 1.2): PMD / 64 * PAGE.
GEOMETRY = {
    ("x86_64", 4 * K): (128 * M, 2 * M, 1 * G, 128 * M),
    ("riscv64", 4 * K): (128 * M, 2 * M, 1 * G, 128 * M),
    ("loongarch64", 4 * K): (512 * M, 2 * M, 1 * G, 128 * M),
    ("loongarch64", 16 * K): (512 * M, 32 * M, 64 * G, 8 * G),
    ("loongarch64", 64 * K): (512 * M, 512 * M, 4 * T, 512 * G),
    ("ppc64_radix", 4 * K): (16 * M, 2 * M, 1 * G, 128 * M),
    ("ppc64_radix", 64 * K): (16 * M, 2 * M, 1 * G, 2 * G),
    ("ppc64_hash", 64 * K): (16 * M, 16 * M, 16 * G, 16 * G),
    ("arm64", 4 * K): (128 * M, 2 * M, 1 * G, 128 * M),
    ("arm64", 16 * K): (128 * M, 32 * M, 64 * G, 8 * G),
    ("arm64", 64 * K): (512 * M, 512 * M, 4 * T, 512 * G),
    ("s390x", 4 * K): (128 * M, 1 * M, 2 * G, 64 * M),
}


def arch(key: tuple[str, int]) -> Arch:
    return ARCHES[key]


def test_all_are_here() -> None:
    assert set(GEOMETRY) == set(ARCHES)


@pytest.mark.parametrize("key", GEOMETRY)
def test_geometry(key: tuple[str, int]) -> None:
    a = arch(key)
    section, pmd, pud, described = GEOMETRY[key]
    assert (1 << a.section_shift, 1 << a.pmd_shift, 1 << a.pud_shift) == (section, pmd, pud)
    # separate-paths.md 1.1: SPP 64, 256, 1024; a table entry is 8 bytes.
    assert a.spp == {4 * K: 64, 16 * K: 256, 64 * K: 1024}[a.page]
    assert a.ptrs_per_pte == pmd // a.page
    assert a.ptrs_per_pte * a.spp * a.page == described
    assert a.pages_per_section * a.page == section
    # PAGES_PER_SUBSECTION: 2M everywhere.
    assert a.pages_per_subsection * a.page == 2 * M
    assert a.vmemmap_per_section == -(-section // a.page * 64 // a.page)
    # MAX_FOLIO_ORDER (include/linux/mmzone.h): 16G: 22, 20, 18.
    assert a.max_folio_order == {4 * K: 22, 16 * K: 20, 64 * K: 18}[a.page]


# Kconfig selects: ARCH_WANT_OPTIMIZE_HUGETLB_VMEMMAP, ARCH_WANT_OPTIMIZE_DAX_VMEMMAP (powerpc: if PPC_RADIX_MMU, and
# radix_enabled() at run time), ARCH_WANT_HUGETLB_VMEMMAP_PREINIT, ARCH_MHP_MEMMAP_ON_MEMORY_ENABLE (powerpc: the hook
# says no without radix), HAVE_ARCH_TRANSPARENT_HUGEPAGE_PUD.
ABILITIES = {
    "x86_64": (True, True, True, True, True),
    "riscv64": (True, True, False, True, True),
    "loongarch64": (True, False, False, False, False),
    "ppc64_radix": (False, True, False, True, True),
    "ppc64_hash": (False, False, False, False, False),
    "arm64": (False, False, False, True, False),
    "s390x": (False, False, False, True, False),
}


@pytest.mark.parametrize("key", GEOMETRY)
def test_abilities(key: tuple[str, int]) -> None:
    a = arch(key)
    assert (a.hvo, a.dax_dedup, a.prehvo, a.memmap_on_memory, a.pud_thp) == ABILITIES[a.name]


# ARCH_FORCE_MAX_ORDER: Kconfig of loongarch 10/11/13, arm64 10/11/13, powerpc 12 (4K) and 8 (64K); else 10.
# Sizes: arch_hugetlb_valid_size: x86 2M, 1G; riscv 2M, 1G; loongarch the PMD size (the generic rule); powerpc radix 2M,
# 1G, hash 16M; arm64 without contiguous sizes; s390 1M, 2G.
POOLS = {
    ("x86_64", 4 * K): (10, [1 * G, 2 * M], [1 * G]),
    ("riscv64", 4 * K): (10, [1 * G, 2 * M], [1 * G]),
    ("loongarch64", 4 * K): (10, [2 * M], []),
    ("loongarch64", 16 * K): (11, [32 * M], []),
    ("loongarch64", 64 * K): (13, [512 * M], []),
    ("ppc64_radix", 4 * K): (12, [1 * G, 2 * M], [1 * G]),
    ("ppc64_radix", 64 * K): (8, [1 * G, 2 * M], [1 * G]),
    ("ppc64_hash", 64 * K): (8, [16 * M], []),
    ("arm64", 4 * K): (10, [1 * G, 2 * M], [1 * G]),
    ("arm64", 16 * K): (11, [32 * M], []),
    ("arm64", 64 * K): (13, [512 * M], []),
    ("s390x", 4 * K): (10, [2 * G, 1 * M], [2 * G]),
}


@pytest.mark.parametrize("key", POOLS)
def test_huge_pages(key: tuple[str, int]) -> None:
    a = arch(key)
    max_order, sizes, gigantic = POOLS[key]
    assert a.max_page_order == max_order
    assert [1 << shift for shift in a.hugetlb_shifts] == sizes
    # hstate_is_gigantic: order above MAX_PAGE_ORDER.
    assert [1 << shift for shift in a.hugetlb_shifts if shift - a.page_shift > a.max_page_order] == gigantic
