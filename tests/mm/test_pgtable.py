"""Page table entries of the vmemmap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm.arch import ARCHES, RISCV64, X86_64
from mm.page_alloc import KernelBug
from mm.pgtable import (
    PMD_TABLE,
    PTE_TABLE,
    PUD_TABLE,
    Leaf,
    Pte,
    Shared,
    VmemmapTables,
    frame_at,
    private_frames,
    shared_uses,
    strided,
    writable,
)

PTRS = 512


def test_split_keeps_every_frame() -> None:
    tables = VmemmapTables(X86_64)
    tables.set(2 * PTRS, 5 * PTRS, Leaf(1000))
    tables.split_leaf(3, 77)
    assert [(lo, hi, m) for lo, hi, m in tables.runs(0, 10 * PTRS)] == [
        (2 * PTRS, 3 * PTRS, Leaf(1000)),
        (3 * PTRS, 4 * PTRS, Pte(1000, True)),
        (4 * PTRS, 5 * PTRS, Leaf(1000)),
    ]
    assert tables.tables[PTE_TABLE].get(3) == 77 - 3
    with pytest.raises(KernelBug, match="no leaf"):
        tables.split_leaf(3, 78)
    with pytest.raises(KernelBug, match="no leaf"):
        tables.split_leaf(9, 78)


ENTRY = (512 << 30) >> 12
"""Vmemmap pages under one top-level entry with four levels: 512G of vmemmap."""


def test_processes_have_the_top_level_entries_of_init_mm() -> None:
    """clone_pgd_range in pgd_ctor when a process is forked, sync_global_pgds_l4 afterwards (arch/x86/mm, 7.3)."""
    tables = VmemmapTables(X86_64)
    tables.p4d_populate_kernel(0, 7)
    tables.access(5 * ENTRY, 6 * ENTRY)  # nobody but init_mm is there yet
    tables.pgd_ctor()
    tables.access(0, ENTRY)
    for lo, hi in ((ENTRY, ENTRY + 1), (ENTRY - 1, ENTRY + 1), (3 * ENTRY - 1, 3 * ENTRY)):
        with pytest.raises(KernelBug, match="page fault"):
            tables.access(lo, hi)
    tables.p4d_populate_kernel(1, 8)
    tables.access(ENTRY - 1, 2 * ENTRY)
    tables.tables[PUD_TABLE].set(3, 5, 6)
    tables.sync_global_pgds(3 * ENTRY, 3 * ENTRY + 1)
    tables.access(3 * ENTRY, 4 * ENTRY)
    with pytest.raises(KernelBug, match="page fault"):
        tables.access(4 * ENTRY, 5 * ENTRY)
    assert [tables.tables[PUD_TABLE].get(index) for index in (0, 1, 3)] == [7, 7, 6]
    assert tables.roots is not None
    assert tables.roots.items() == [(0, 2), (3, 4)]


def test_page_tables_that_share_top_level_entries() -> None:
    """ARCH_PAGE_TABLE_SYNC_MASK is 0 everywhere but on x86 (include/linux/pgtable.h)."""
    assert [arch.name for arch in ARCHES.values() if arch.page_table_sync] == ["x86_64"]
    tables = VmemmapTables(RISCV64)
    tables.pgd_ctor()
    tables.access(ENTRY, 2 * ENTRY)
    tables.p4d_populate_kernel(1, 8)
    assert tables.roots is None


def test_map_extents_in_order() -> None:
    tables = VmemmapTables(X86_64)
    assert tables.map_extents(10, [(100, 2), (50, 3)]) == 15
    assert [frame_at(m, vpn) for lo, hi, m in tables.runs(0, 20) for vpn in range(lo, hi)] == [100, 101, 50, 51, 52]
    assert tables.holes(8, 18) == [(8, 10), (15, 18)]


@given(st.integers(0, 200), st.integers(3, 9), st.integers(1, 3), st.one_of(st.none(), st.just(5000)))
def test_strided_is_what_a_loop_would_map(start: int, period: int, keep: int, tail: int | None) -> None:
    """4 compound pages of `period` vmemmap pages: kept frames in a row, the others show the tail or the last kept."""
    keep = min(keep, period)
    m = strided(start, period, keep, 900, True, tail, False)
    want = []
    for compound in range(4):
        kept = [900 + compound * keep + i for i in range(keep)]
        want += kept + [kept[-1] if tail is None else tail] * (period - keep)
    rows = range(start, start + 4 * period)
    assert [frame_at(m, vpn) for vpn in rows] == want
    assert [writable(m, vpn) for vpn in rows] == ([True] * keep + [False] * (period - keep)) * 4
    assert private_frames(m, rows.start, rows.stop) == [(900, 4 * keep)]
    assert shared_uses(m, rows.start, rows.stop) == (None if tail is None else (tail, 4 * (period - keep)))
    # The same row that begins one compound page later is the same value, so the runs merge.
    assert strided(start + period, period, keep, 900 + keep, True, tail, False) == m


def test_shared_has_no_private_frames() -> None:
    assert private_frames(Shared(7, False), 0, 9) == []
    assert shared_uses(Shared(7, False), 0, 9) == (7, 9)
    assert shared_uses(Pte(7, True), 0, 9) is None


def test_cut_compound_is_a_bug() -> None:
    m = strided(0, 8, 2, 100, True, None, True)
    with pytest.raises(KernelBug, match="cut a compound page"):
        private_frames(m, 0, 12)


def test_tables_are_freed_when_empty() -> None:
    tables = VmemmapTables(X86_64)
    assert tables.missing_tables(PTE_TABLE, PTRS - 1, 3 * PTRS) == [(0, 3)]
    tables.add_tables(PUD_TABLE, 0, [(10, 1)])
    tables.add_tables(PMD_TABLE, 0, [(20, 1)])
    tables.add_tables(PTE_TABLE, 0, [(30, 1), (40, 2)])
    tables.map_extents(0, [(100, 3 * PTRS)])
    assert tables.missing_tables(PTE_TABLE, 0, 3 * PTRS) == []
    tables.clear(10, 2 * PTRS)  # table 0 keeps ten entries
    assert tables.pop_empty_tables(10, 2 * PTRS) == [(40, 1)]
    tables.clear(0, 3 * PTRS)
    assert sorted(tables.pop_empty_tables(0, 3 * PTRS)) == [(10, 1), (20, 1), (30, 1), (41, 1)]
