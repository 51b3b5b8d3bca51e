"""Struct pages through the mapping: private pages, aliases, read-only tails, faults."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm.arch import X86_64
from mm.page import RAW, Compound, MemMap, Plain, Row, Tail
from mm.page_alloc import KernelBug
from mm.pgtable import Leaf, Mapping, Pte, Shared, VmemmapTables, strided
from mm.vmstat import Vmstat

SPP = 64
A, B = Plain(0, 2), Plain(0, 1)


def fresh(*runs: tuple[int, int, Mapping]) -> MemMap:
    """A memmap with these vmemmap pages mapped."""
    tables = VmemmapTables(X86_64)
    for lo, hi, m in runs:
        tables.set(lo, hi, m)
    return MemMap(tables, Vmstat())


def test_unwritten_memory_is_raw_and_unmapped_is_none() -> None:
    memmap = fresh((0, 8, Leaf(100)))
    assert memmap.content(5) is RAW
    assert memmap.content(8 * SPP) is None
    assert memmap.view(0, 16 * SPP) == [(0, 8 * SPP, RAW)]


@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(1, 300), st.sampled_from([A, B])), max_size=12))
def test_private_pages_against_a_dict(writes: list[tuple[int, int, Plain]]) -> None:
    """Three runs of private mappings, in which a write may begin and end anywhere."""
    memmap = fresh((0, 4, Leaf(100)), (4, 9, Pte(7, True)), (9, 16, Pte(90, True)))
    model: dict[int, Plain] = {}
    for pfn, n, content in writes:
        n = min(n, 1024 - pfn)
        memmap.write(pfn, n, content)
        model |= dict.fromkeys(range(pfn, pfn + n), content)
    for pfn in range(0, 1024, 7):
        assert memmap.content(pfn) == model.get(pfn, RAW)
    seen = {pfn: c for lo, hi, c in memmap.view(0, 1024) for pfn in range(lo, hi)}
    assert seen == {pfn: model.get(pfn, RAW) for pfn in range(1024)}


def test_only_initialisation_is_counted() -> None:
    memmap = fresh((0, 8, Leaf(100)))
    memmap.write(0, 100, A)
    assert memmap.vmstat.struct_pages_initialized == 0
    memmap.init(0, 100, A)
    assert memmap.vmstat.struct_pages_initialized == 100


def test_write_to_unmapped_memory_faults() -> None:
    memmap = fresh((0, 2, Leaf(100)), (3, 5, Leaf(100)))
    with pytest.raises(KernelBug, match="not mapped"):
        memmap.write(0, 4 * SPP, A)
    with pytest.raises(KernelBug, match="not mapped"):
        memmap.write(8 * SPP, 1, A)


def test_read_only_tail_faults_and_head_does_not() -> None:
    """An optimized 2M page: its own head page, seven times the shared tail, read-only."""
    memmap = fresh((0, 1, Pte(50, True)), (1, 8, Shared(99, False)))
    memmap.frames[99] = Tail(9, 0, 2)
    memmap.write(0, SPP, A)
    assert memmap.content(0) == A
    assert memmap.content(SPP) == memmap.content(511) == Tail(9, 0, 2)
    with pytest.raises(KernelBug, match="read-only"):
        memmap.write(0, 512, A)


def test_writable_alias_changes_every_alias() -> None:
    memmap = fresh((0, 2, Shared(99, True)), (4, 6, Shared(99, True)))
    memmap.write(0, SPP, B)
    assert memmap.content(5 * SPP) == B


def test_row_of_compound_pages_with_one_tail() -> None:
    """Device of 2M pages: period 8, two kept; all others show the last kept page of their own compound page."""
    memmap = fresh((0, 32, strided(0, 8, 2, 100, True, None, True)))
    compound = Compound(9, 0, 0, 4, "devdax")
    memmap.init_heads(0, 32 * SPP, 512, 2 * SPP, compound)
    assert memmap.vmstat.struct_pages_initialized == 4 * 2 * SPP
    assert memmap.content(0) == memmap.content(511) == compound
    # A write through the last alias is seen at the kept tail page of that compound page only.
    memmap.write(7 * SPP, SPP, A)
    assert memmap.content(SPP) == A
    assert memmap.content(0) == compound
    assert memmap.content(8 * SPP + SPP) == compound


def test_row_with_a_shared_tail() -> None:
    memmap = fresh((0, 16, strided(0, 8, 1, 100, True, 99, False)))
    memmap.frames[99] = Tail(9, 0, 4)
    compound = Compound(9, 0, 0, 4, "devdax")
    memmap.init_heads(0, 16 * SPP, 512, SPP, compound)
    assert memmap.view(0, 16 * SPP) == [(0, 16 * SPP, Row(512, 64, 0, compound, Tail(9, 0, 4)))]
    assert memmap.content(8 * SPP) == compound
    assert memmap.content(9 * SPP) == Tail(9, 0, 4)
    with pytest.raises(KernelBug, match="read-only"):
        memmap.write(0, 512, A)


def test_forget() -> None:
    memmap = fresh((0, 8, Leaf(100)))
    memmap.write(0, 512, A)
    memmap.forget(SPP, SPP)
    assert memmap.view(0, 512) == [(0, SPP, A), (SPP, 2 * SPP, RAW), (2 * SPP, 512, A)]
