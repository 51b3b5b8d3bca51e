"""Sizes of the pages of powerpc's direct map (radix), by create_physical_mapping and remove_pagetable of Linux 7.3."""

import pytest

from candidate.framework import UnifiedFramework
from fuzz.program.text import parse
from fuzz.side import Side
from mm.arch import ARCHES, Arch
from mm.direct_map import DirectMap, create_physical_mapping, remove_pagetable
from mm.kernel import Kernel
from reference.paths import SeparatePaths

RADIX = ARCHES["ppc64_radix", 65536]
M = (1 << 20) // 65536


def test_largest_pages_that_fit() -> None:
    """1M..5M: 16 pages of 64K to the first multiple of 2M, one of 2M, 16 of 64K."""
    direct = DirectMap(RADIX)
    create_physical_mapping(direct, 1 * M, 5 * M)
    assert direct.entries.items() == [(M, 2 * M, 0), (2 * M, 4 * M, 5), (4 * M, 5 * M, 0)]
    assert direct.pages == {5: 1, 0: 32}
    assert direct.arch_report_meminfo() == {"DirectMap2M": 2048, "DirectMap64k": 2048}


def test_too_small_for_a_large_page() -> None:
    direct = DirectMap(RADIX)
    create_physical_mapping(direct, 1 * M, 3 * M)
    create_physical_mapping(direct, 7, 7)
    assert direct.pages == {5: 0, 0: 32}


def test_no_page_is_larger_than_a_memory_block() -> None:
    """Blocks of 256M, so no 1G page; where a block has 1G there is one (max_mapping_size = memory_block_size)."""
    direct = DirectMap(RADIX)
    create_physical_mapping(direct, 0, 2048 * M)
    assert direct.pages == {5: 1024, 0: 0}
    direct = DirectMap(_blocks_of_1g())
    create_physical_mapping(direct, 512 * M, 2048 * M)
    assert direct.pages == {14: 1, 5: 256, 0: 0}
    assert direct.arch_report_meminfo() == {"DirectMap1G": 1 << 20, "DirectMap2M": 512 << 10, "DirectMap64k": 0}


def _blocks_of_1g() -> Arch:
    copy = Arch(**{name: getattr(RADIX, name) for name in Arch.__match_args__})
    object.__setattr__(copy, "memory_block_shift", 30)
    return copy


def test_only_whole_pages_go() -> None:
    """remove_pmd_table: a 2M page of which a part is removed stays, and is counted."""
    direct = DirectMap(RADIX)
    create_physical_mapping(direct, 0, 10 * M)
    remove_pagetable(direct, 1 * M, 7 * M)
    assert direct.entries.items() == [(0, 2 * M, 5), (6 * M, 10 * M, 5)]
    assert direct.pages == {5: 3, 0: 0}
    remove_pagetable(direct, 2 * M, 6 * M)
    assert direct.pages == {5: 3, 0: 0}
    remove_pagetable(direct, 0, 10 * M)
    assert (direct.entries.items(), direct.pages) == ([], {5: 0, 0: 0})


def kernels(rest: str, page: str = "64K", arch: str = "ppc64_radix") -> list[Kernel]:
    """The kernel of each side after a program."""
    program = parse(f"vmm 1\nmachine arch={arch} page={page} ram=1G nodes=1 memmap_on_memory=on\nboot\n{rest}")
    out = []
    for made in (SeparatePaths, lambda k: UnifiedFramework(k, "posted")):
        side = Side(program.machine, made)
        for op in program.ops:
            side.run(op)
        out.append(side.kernel)
    return out


@pytest.mark.parametrize("page", ["4K", "64K"])
@pytest.mark.parametrize(
    ("rest", "memory"),
    [
        ("", 1024),
        ("m0 = memory add at=0x50000000 size=512M\n", 1024 + 512),
        ("m0 = memory add at=0x50000000 size=512M memmap_on_memory=on\nmemory remove m0\n", 1024),
        ("d0 = dax create at=0x50000000 size=64M align=2M\n", 1024 + 64),
        ("d0 = dax create at=0x50000000 size=64M align=2M\ndax destroy d0\n", 1024),
        # The memory map and the info block of a namespace are mapped as its data is.
        ("d0 = dax create at=0x50000000 size=64M align=2M altmap=on\n", 1024 + 64),
        ("d0 = dax create at=0x50000000 size=64M align=2M altmap=on\ndax rebind d0 driver=none\n", 1024),
        # kmem adds whole blocks of 256M only, each before it is populated; the second one is not had.
        ("d0 = dax create at=0x58000000 size=512M driver=kmem\n", 1024 + 256),
        ("fail alloc nth=1\nm0 = memory add at=0x50000000 size=512M\n", 1024),
        ("d0 = dax create at=0x50100000 size=64M\n", 1024),  # misaligned: mapped in part by base pages, and refused
    ],
)
def test_memory_that_is_there(rest: str, memory: int, page: str) -> None:
    for k in kernels(rest, page):
        assert k.direct_map is not None
        shown = k.direct_map.arch_report_meminfo()
        assert shown == {"DirectMap2M": memory << 10, f"DirectMap{page.lower()}": 0}


def test_other_architectures() -> None:
    assert {arch.name for arch in ARCHES.values() if arch.direct_map} == {"ppc64_radix"}
    assert [k.direct_map for k in kernels("", "64K", "ppc64_hash")] == [None, None]
