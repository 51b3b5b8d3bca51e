"""Any program of pool operations, with failing restores and allocations, keeps the rules (I7, I14, conservation)."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mm.folio import Folio
from mm.hugetlb import dissolve_free_hugetlb_folio, hugetlb_map, hugetlb_unmap
from mm.hugetlb_alloc import alloc_pool_huge_folio, alloc_pool_huge_folios
from mm.hugetlb_sysfs import demote_store, nr_hugepages_store, nr_overcommit_hugepages_store
from mm.machine import Machine
from mm.page_alloc import OWNER_HUGETLB
from tests.mm.hugetlb.lab import Lab

ORDERS = st.sampled_from([9, 18])
NODES = st.sampled_from([None, 0, 1])
STEP = st.one_of(
    st.tuples(st.just("resize"), ORDERS, st.integers(0, 6), NODES),
    st.tuples(st.just("overcommit"), ORDERS, st.integers(0, 3), st.none()),
    st.tuples(st.just("demote"), st.just(18), st.integers(0, 2), NODES),
    st.tuples(st.just("map"), ORDERS, st.integers(1, 3), NODES),
    st.tuples(st.just("unmap"), ORDERS, st.integers(0, 3), st.none()),
    st.tuples(st.just("dissolve"), ORDERS, st.integers(0, 6), st.none()),
    st.tuples(st.just("break"), ORDERS, st.integers(0, 6), st.none()),
)
Program = list[tuple[tuple[str, int, int, int | None], int]]
"""Steps, each with the number of the point that fails in it."""


def check(lab: Lab, mapped: dict[int, list[list[Folio]]]) -> None:
    owned = sum(hi - lo for lo, hi, owner in lab.k.pages.owners.items() if owner == OWNER_HUGETLB)
    assert owned == sum(sum(h.nr) * h.pages for h in lab.k.hstates.values())
    for order, h in lab.k.hstates.items():
        in_use = {id(folio) for group in mapped[order] for folio in group}
        assert h.resv == 0
        assert sum(h.nr) == len(h.folios)
        for nid in (0, 1):
            assert h.nr[nid] == sum(folio.nid == nid for folio in h.folios.values())
            assert 0 <= h.surplus[nid] <= h.nr[nid]
        assert sum(map(len, h.free)) == h.free_count() == sum(h.nr) - len(in_use)
        for nid, free in enumerate(h.free):
            for pfn, folio in free.items():
                assert h.folios[pfn] is folio
                assert folio.nid == nid
                assert id(folio) not in in_use
        for pfn, folio in h.folios.items():
            assert folio.pfn == pfn
            assert folio.hugetlb
            assert folio.refcount == (id(folio) in in_use)


def run(lab: Lab, program: Program, start: int) -> None:
    k = lab.k
    mapped: dict[int, list[list[Folio]]] = {9: [], 18: []}
    for (what, order, n, nid), nth in program:
        h = k.hstates[order]
        before = lab.counts(h)
        lab.begin(nth)
        if what == "resize":
            assert nr_hugepages_store(k, order, n, nid) == (-12 if nth == 1 else 0)
            if nth != 1:
                assert h.persistent == h.max_huge_pages
        elif what == "overcommit":
            nr_overcommit_hugepages_store(k, order, n)
        elif what == "demote":
            demote_store(k, order, n, nid)
        elif what == "map":
            group: list[Folio] = []
            if hugetlb_map(k, order, n, nid, group) == 0:
                mapped[order].append(group)
        elif what == "unmap" and n < len(mapped[order]):
            hugetlb_unmap(k, order, mapped[order].pop(n))
        elif what == "dissolve" and n < len(h.folios):
            pfn = sorted(h.folios)[n]
            if dissolve_free_hugetlb_folio(k, pfn):
                assert lab.counts(h) == before
        elif what == "break" and n < len(h.folios):
            lab.paths.fail_restores[sorted(h.folios)[n]] = 2
        check(lab, mapped)
        assert lab.free_pages() + sum(sum(h.nr) * h.pages for h in k.hstates.values()) == start


@settings(max_examples=60)
@given(st.lists(st.tuples(STEP, st.sampled_from([0, 0, 0, 1, 2, 3])), max_size=25))
def test_programs(program: Program) -> None:
    lab = Lab(Machine(ram=8 << 30, nodes=2))
    run(lab, program, lab.free_pages())


@settings(max_examples=30)
@given(st.integers(0, 1), st.integers(0, 12), st.integers(0, 14), st.sampled_from([range(2), range(1), range(1, 2)]))
def test_a_row_is_the_same_as_one_by_one(first: int, n: int, nth: int, nodes: range) -> None:
    """Also when a point fails, and when node 1 has room for three pages only."""
    labs = [Lab(Machine(ram=3 << 30, nodes=2)) for _ in range(2)]
    for lab in labs:
        lab.begin(nth)
        lab.k.pages.alloc_blocks(9, 765, 1, "pages", True)
        lab.small.next_nid_to_alloc = first
    row = alloc_pool_huge_folios(labs[0].k, labs[0].small, nodes, n)
    single: list[Folio] = []
    while len(single) < n:
        folio = alloc_pool_huge_folio(labs[1].k, labs[1].small, nodes)
        if folio is None:
            break
        single.append(folio)
    assert [folio.pfn for folio in row] == [folio.pfn for folio in single]
    assert labs[0].small.next_nid_to_alloc == labs[1].small.next_nid_to_alloc
    assert labs[0].points() == labs[1].points()
    assert labs[0].k.pages.owners.items() == labs[1].k.pages.owners.items()
    assert labs[0].k.memmap.own.items() == labs[1].k.memmap.own.items()
