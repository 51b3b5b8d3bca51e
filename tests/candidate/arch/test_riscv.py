"""riscv64: bootmem pre-optimization (unified-framework.md 3.5, 4); parts of sections (arch/riscv/mm/init.c, 7.3)."""

import pytest

from mm.altmap import Altmap
from mm.page import Tail
from mm.page_alloc import OWNER_MEMMAP
from mm.pgtable import Shared
from tests.candidate.arch.conftest import ArchBench, reserve

KEY = ("riscv64", 4096)
G = 1 << 18


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_gigantic_pages_are_optimized_at_boot(profile, count, deferred):
    """B11: every architecture with HVO; 4: +1 boot for each 1G page, V - 1 = 4095 slots T, read-only after gathering;
    S struct pages written; 8 PTE tables in place of 8 leaves."""
    plain = ArchBench(KEY, profile)
    b = ArchBench(KEY, profile, requests=reserve(18, count), deferred_init=deferred)
    folios = list(b.k.hstates[18].folios.values())
    assert len(folios) == count
    assert b.k.vmstat.nr_memmap_boot == plain.k.vmstat.nr_memmap_boot - count * 4095
    assert b.k.vmstat.nr_memmap == 0
    assert b.tables()[0] == count * 8
    assert b.k.vmstat.nr_page_table_pages == 0
    assert b.f.orders.items() == []
    for folio in folios:
        assert folio.vmemmap_optimized
        tail = b.f.zone_tails()[folio.zone.key, 18]
        lo = folio.pfn // 64
        assert b.k.tables.runs(lo + 1, lo + 4096) == [(lo + 1, lo + 4096, Shared(tail, False))]
        assert b.k.memmap.content(folio.pfn + 64) == Tail(18, 0, folio.zone.idx)
    # Behind its first section, ZONE_NORMAL (from 4G) is deferred; elsewhere memmap_init_range wrote 64 of them before.
    again = sum(not deferred or f.pfn == 4 * G for f in folios) * 63
    assert b.k.vmstat.struct_pages_initialized == 4 * G - count * (G - 64) + again


def test_a_part_gets_the_leaf_of_the_section(profile):
    """vmemmap_populate_hugepages: 512 frames for the first part, none for the next, counted as ceil(nr * 64 / 4096)."""
    b = ArchBench(KEY, profile)
    assert b.add(b.far, 512, 9) == 0
    assert sum(e - s for s, e, owner in b.k.pages.owners.items() if owner == OWNER_MEMMAP) == 512
    assert b.k.vmstat.nr_memmap == 8
    free = b.free()
    assert b.add(b.far + 512, 512, 9) == 0
    assert b.free() == free
    assert b.k.vmstat.nr_memmap == 16
    assert b.kinds(b.far, b.per) == {"leaf"}


def test_removing_a_part_takes_the_memmap_of_the_others(profile):
    """remove_pmd_mapping does not look who else uses a leaf. Before the series these parts of devices had base pages of
    their own (4, "DAX granularity")."""
    b = ArchBench(KEY, profile)
    free = b.free()
    assert b.add(b.far, 512, 9) == 0
    assert b.add(b.far + 512, 512, 9) == 0
    b.remove(b.far, 512)
    assert b.kinds(b.far + 512, 512) == {"none"}
    assert b.free() == free
    assert b.k.sections.valid(b.far + 512)
    assert b.k.vmstat.nr_memmap == 8
    b.remove(b.far + 512, 512)
    assert b.k.vmstat.nr_memmap == 0
    assert b.free() == free


def test_altmap_gets_all_the_credit(profile):
    """free_vmemmap_storage: with an altmap at hand every page is credited to it, whoever gave it."""
    b = ArchBench(KEY, profile)
    first = Altmap(b.far, b.far + 512, 0, 512)
    second = Altmap(b.far + 512, b.far + 1024, 0, 512)
    assert b.add(b.far, 512, 9, first) == 0
    assert b.add(b.far + 512, 512, 9, second) == 0
    assert (first.alloc, second.alloc) == (512, 0)
    b.remove(b.far + 512, 512, second)
    assert (first.alloc, second.alloc) == (512, -512)
    b.remove(b.far, 512, first)
    assert first.alloc == 512


def test_removed_pte_tables_leave_nr_pagetable(profile):
    """free_pte_table runs the destructor though vmemmap_populate made the table without the constructor; a table that
    HVO made (split: +1) comes out even. Tables below the PGD are not freed with four levels."""
    b = ArchBench(KEY, profile)
    assert b.add(b.far, b.per, 9) == 0
    before = b.tables()
    assert b.k.vmstat.nr_page_table_pages == 0
    b.remove(b.far, b.per)
    assert b.k.vmstat.nr_page_table_pages == -1
    assert b.tables() == [before[0] - 1, before[1] - 1, before[2]]
