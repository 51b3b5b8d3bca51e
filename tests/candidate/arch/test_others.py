"""loongarch64, arm64 and s390x: what their vmemmap code does (arch/*/mm, 7.3), under the framework."""

from dataclasses import replace

import pytest

from candidate.arch import arm64
from candidate.vmemmap_remap import hvo_populate_vmemmap_pmd
from mm.altmap import Altmap
from mm.arch import ARCHES
from mm.errno import EAGAIN, EINVAL, ENOMEM, EOPNOTSUPP
from mm.page_alloc import OWNER_MEMMAP, pages_alloc
from mm.pgtable import Leaf
from tests.candidate.arch.conftest import ArchBench

L16, L64 = ("loongarch64", 16384), ("loongarch64", 65536)
A4, A16, A64 = ("arm64", 4096), ("arm64", 16384), ("arm64", 65536)
S390 = ("s390x", 4096)


def memmap(b):
    return sum(hi - lo for lo, hi, owner in b.k.pages.owners.items() if owner == OWNER_MEMMAP)


# -- loongarch ------------------------------------------------------------------------------------------------------


def test_a_leaf_spans_sections(profile):
    """16K: a leaf of 2048 vmemmap pages describes 8G = 16 sections of 512M with 128 vmemmap pages each; it stays."""
    b = ArchBench(L16, profile)
    frames = memmap(b)
    for i in range(16):
        assert b.add(b.far + i * b.per, b.per) == 0
        assert memmap(b) - frames == 2048
        assert b.k.vmstat.nr_memmap == (i + 1) * 128
    assert b.add(b.far + 16 * b.per, b.per) == 0
    assert memmap(b) - frames == 4096
    b.remove(b.far, 17 * b.per)
    assert memmap(b) - frames == 4096
    assert b.k.vmstat.nr_memmap == 0
    assert b.kinds(b.far, 17 * b.per) == {"leaf"}
    assert b.add(b.far, 17 * b.per) == 0
    assert memmap(b) - frames == 4096


def test_failure_leaves_what_it_mapped(profile):
    """vmemmap_free is empty: base pages that a failed population mapped stay, too."""
    b = ArchBench(L16, profile)
    left = pages_alloc(b.k, 0, b.free() - 20, False)
    assert not isinstance(left, int)
    frames = memmap(b)
    assert b.add(b.far, b.per) == -ENOMEM
    assert b.k.vmstat.nr_memmap == 0
    assert b.kinds(b.far, b.per) == {"pte", "none"}
    assert 20 - 3 <= memmap(b) - frames <= 20 - 1  # a PTE table, and upper ones if they are missing
    assert b.k.sections.word(b.section) == 0


@pytest.mark.parametrize("key", [L16, L64])
def test_boot_without_a_block(profile, key):
    """vmemmap_populate_hugepages: no block in memblock: base pages. 64K kernels need 512M for a leaf."""
    b = ArchBench(key, profile, ram=512 << 20)
    ram = b.k.machine.ram_ranges()
    assert b.kinds(ram[0][1], ram[0][2] - ram[0][1]) == ({"leaf"} if key == L16 else {"pte"})
    present = sum(hi - lo for lo, hi, _ in b.k.sections.flags.items())
    assert b.k.vmstat.nr_memmap_boot == present * b.arch.vmemmap_per_section


# -- arm64 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [A16, A64])
def test_large_pages_mean_base_pages(profile, key):
    """vmemmap_populate: 16K and 64K kernels map base pages, from the altmap too."""
    b = ArchBench(key, profile)
    altmap = Altmap(b.far, b.far + b.per, 0, b.arch.vmemmap_per_section)
    assert b.add(b.far, b.per, 0, altmap) == 0
    assert b.kinds(b.far, b.per) == {"pte"}
    assert altmap.alloc == b.arch.vmemmap_per_section
    b.remove(b.far, b.per, altmap)
    assert altmap.alloc == 0
    short = Altmap(b.far, b.far + b.per, 0, b.arch.vmemmap_per_section - 1)
    assert b.add(b.far, b.per, 0, short) == -ENOMEM
    assert short.alloc == 0


def test_parts_on_4k_are_base_pages_from_the_altmap(profile):
    """1.2: "base pages; altmap honoured"."""
    b = ArchBench(A4, profile)
    altmap = Altmap(b.far, b.far + 1024, 0, 16)
    assert b.add(b.far, 1024, 0, altmap) == 0
    assert b.kinds(b.far, 1024) == {"pte"}
    assert altmap.alloc == 16


def test_parts_share_a_vmemmap_page(profile):
    """64K: a vmemmap page describes 64M, a subsection is 2M: the first part to go takes the page of both."""
    b = ArchBench(A64, profile)
    assert b.add(b.far, b.sub) == 0
    frames = memmap(b)
    assert b.add(b.far + b.sub, b.sub) == 0
    assert memmap(b) == frames
    b.remove(b.far, b.sub)
    assert b.kinds(b.far + b.sub, b.sub) == {"none"}
    assert memmap(b) == frames - 1


def test_boot_memory_draws_a_warning(profile):
    """free_hotplug_page_range: reserved frames are not expected."""
    b = ArchBench(A4, profile)
    lo = b.k.machine.ram_ranges()[0][1] + b.per
    b.remove(lo, b.per)
    assert b.k.log == ["free_hotplug_page_range: a reserved page is freed"]
    assert b.kinds(lo, b.per) == {"none"}


def test_removed_tables_leave_nr_pagetable(profile):
    """free_hotplug_pgtable_page runs the destructor for each table, which vmemmap_populate never counted."""
    b = ArchBench(A16, profile)
    before = sum(b.tables())
    assert b.add(b.far, b.per) == 0
    made = sum(b.tables()) - before
    assert made >= 1
    b.remove(b.far, b.per)
    assert b.k.vmstat.nr_page_table_pages == -made


def test_hook_results(profile, monkeypatch):
    """5.16: -EOPNOTSUPP without HVO, -EINVAL for what is no leaf, -EAGAIN by injection in `merged` (3.10, in front of
    the architecture's own hook), else 0; the entry stays in every case."""
    b = ArchBench(A4, profile)
    pmd = b.k.machine.ram_ranges()[0][1] // b.leaf
    entry = b.k.tables.get(pmd * 512)
    assert isinstance(entry, Leaf)
    assert arm64.try_populate_vmemmap_pmd(b.f, pmd) == -EOPNOTSUPP
    monkeypatch.setitem(ARCHES, A4, replace(ARCHES[A4], hvo=True))
    b = ArchBench(A4, profile)
    assert arm64.try_populate_vmemmap_pmd(b.f, b.far // b.leaf) == -EINVAL
    b.k.faults.nth = 1
    b.k.faults.begin()
    assert hvo_populate_vmemmap_pmd(b.f, pmd) == (-EAGAIN if profile == "merged" else 0)
    assert hvo_populate_vmemmap_pmd(b.f, pmd) == 0
    assert b.k.tables.get(pmd * 512) == entry


# -- s390 -----------------------------------------------------------------------------------------------------------


def test_leaf_of_parts(profile):
    """vmemmap_use_sub_pmd, vmemmap_unuse_sub_pmd: a leaf of 256 vmemmap pages (64M) comes with the first part and goes
    with the last."""
    b = ArchBench(S390, profile)
    frames = memmap(b)
    for i in range(3):
        assert b.add(b.far + i * 512, 512) == 0
    assert memmap(b) - frames == 256
    assert b.k.vmstat.nr_memmap == 24
    for i in (1, 0):
        b.remove(b.far + i * 512, 512)
        assert memmap(b) - frames == 256
        assert b.kinds(b.far, b.leaf) == {"leaf"}
    b.remove(b.far + 2 * 512, 512)
    assert memmap(b) == frames
    assert b.f.page_unused.items() == []


def test_a_part_over_two_leaves(profile):
    """Of a part that ends in the second leaf of a section, the first leaf is whole and the second stays for others."""
    b = ArchBench(S390, profile)
    frames = memmap(b)
    assert b.add(b.far, b.leaf + 512) == 0
    assert b.add(b.far + b.leaf + 512, 512) == 0
    assert memmap(b) - frames == 512
    b.remove(b.far, b.leaf + 512)
    assert memmap(b) - frames == 256
    assert b.kinds(b.far, b.leaf) == {"none"}
    b.remove(b.far + b.leaf + 512, 512)
    assert memmap(b) == frames
    assert b.f.page_unused.items() == []


def test_no_block_means_base_pages_even_from_an_altmap(profile):
    """modify_pmd_table goes on to a PTE table where another architecture gives up; it counts in NR_PAGETABLE."""
    b = ArchBench(S390, profile)
    altmap = Altmap(b.far, b.far + b.per, 0, 512)
    b.k.faults.nth = 5  # ROOT, USG, PGT, VMB, VMB
    b.k.faults.begin()
    assert b.add(b.far, b.per, 0, altmap) == 0
    assert b.k.faults.fired == "VMB"
    assert b.kinds(b.far, b.leaf) == {"leaf"}
    assert b.kinds(b.far + b.leaf, b.leaf) == {"pte"}
    assert b.k.vmstat.nr_page_table_pages == 1
    assert altmap.alloc == 512
    b.remove(b.far, b.per, altmap)
    assert b.k.vmstat.nr_page_table_pages == 0
    assert altmap.alloc == 0


def test_failure_unmaps_the_whole_range(profile):
    """vmemmap_populate: what was mapped before the failure goes at once."""
    b = ArchBench(S390, profile)
    frames, free = memmap(b), b.free()
    altmap = Altmap(b.far, b.far + b.per, 0, 300)
    assert b.add(b.far, b.per, 0, altmap) == -ENOMEM
    assert altmap.alloc == 0
    assert b.kinds(b.far, b.per) == {"none"}
    assert (memmap(b), b.free()) == (frames, free)
    assert b.k.vmstat.nr_page_table_pages == 0
    assert b.f.page_unused.items() == []
