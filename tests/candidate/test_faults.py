"""Every allocation point of every operation fails in turn; the invariants of section 7 hold after each, and the
operation succeeds when it is repeated."""

import pytest

from mm.errno import EAGAIN, ENOMEM

PPS = 32768
DAX = 6 << 18


def trace(b, action):
    b.k.faults.points = []
    b.k.faults.begin()
    action()
    n = b.k.faults.reached
    b.k.faults.points = None
    return n


def some(n):
    """Which of n points to fail: all of a few, the borders and a spread of many."""
    return list(range(1, n + 1)) if n <= 300 else sorted({*range(1, 12), *range(12, n, 401), *range(n - 8, n + 1)})


@pytest.mark.parametrize(
    ("start", "nr", "shift"),
    [(DAX, PPS, None), (DAX, 2 * PPS, 9), (DAX, 8 * PPS, 18), (DAX + 512, 1024, 9), (DAX + PPS - 512, 512 + PPS, 9)],
)
@pytest.mark.parametrize("far", [0, 1 << 32])
def test_add(make, start, nr, shift, far):
    """3.8: -ENOMEM, the section at hand is unwound, the ones before it stay."""
    start += far  # far away, roots and upper tables are missing
    b = make()
    pgmap = None if shift is None else b.pgmap(start, nr, shift)
    n = trace(b, lambda: b.add(start, nr, pgmap))
    for nth in some(n):
        b = make()
        before = b.total
        b.k.faults.nth = nth
        rc = b.add(start, nr, pgmap)
        # A block that cannot be had is replaced by base pages.
        assert (rc == -ENOMEM) != (b.k.faults.fired == "VMB")
        b.check()
        done = sum(hi - lo for lo, hi in b.k.sections.subsections.runs(start // 512, (start + nr) // 512)) * 512
        b.remove(start, done)
        assert b.total == before
        assert b.add(start, nr, pgmap) == 0
        b.check()


@pytest.mark.parametrize(("order", "count"), [(9, 1), (9, 3), (18, 1), (18, 2)])
@pytest.mark.parametrize("single", [True, False])
def test_optimize(make, order, count, single):
    """3.9: failures are hidden; the sum falls by V - 1 for each folio that is optimized."""

    def run(b, folios):
        h = b.k.hstates[order]
        b.k.faults.begin()
        if single:
            for folio in folios:
                b.paths.hugetlb_vmemmap_optimize_folio(h, folio)
        else:
            b.paths.hugetlb_vmemmap_optimize_folios(h, folios)

    b = make()
    folios = b.folios(order, count)
    n = trace(b, lambda: run(b, folios))
    for nth in some(n):
        b = make()
        folios = b.folios(order, count)
        before = b.total
        b.k.faults.nth = nth
        run(b, folios)
        assert b.k.faults.fired
        optimized = sum(f.vmemmap_optimized for f in folios)
        assert b.total == before - optimized * ((1 << order - 6) - 1)
        b.check(folios)
        run(b, folios)
        assert all(f.vmemmap_optimized for f in folios)
        b.check(folios)


@pytest.mark.parametrize(("order", "count"), [(9, 3), (18, 1)])
def test_restore(make, order, count):
    """3.9: the first error stops the list; a repetition goes on from there."""
    b = make()
    folios = b.folios(order, count)
    b.optimize(folios)
    n = trace(b, lambda: b.restore(folios))
    b = make()
    before = b.total
    folios = b.folios(order, count)
    for nth in some(n):
        b.optimize(folios)
        b.k.faults.nth = nth
        rc = b.restore(folios)
        assert rc == (-ENOMEM if b.k.faults.fired == "RES" else -EAGAIN)
        b.check(folios)
        assert b.restore(folios) >= 1
        assert b.total == before
        b.check(folios)


def test_short_of_memory(make):
    """Without injection: the allocator has no more; folios that cannot be restored stay as they are."""
    b = make(ram=512 << 20)
    folios = b.folios(9, 40)
    b.optimize(folios)
    total = b.total
    while b.k.pages.alloc_bulk(1 << 20, 0, "pages"):
        pass
    assert b.restore(folios) == -ENOMEM
    assert b.total == total
    b.check(folios)
    b.k.pages.free(next(lo for lo, _, owner in b.k.pages.owners.items() if owner == "pages"), 10)
    assert b.restore(folios) == -ENOMEM
    assert sum(not f.vmemmap_optimized for f in folios) == 1
    b.check(folios)
    b.optimize(folios)
    assert all(f.vmemmap_optimized for f in folios)
    b.check(folios)


def test_no_memory_for_heads(make):
    """3.9: a folio without head copy stays as it is; the retry needs something to free."""
    b = make(ram=512 << 20)
    folios = b.folios(9, 40)
    b.optimize(folios[:1])
    while b.k.pages.alloc_bulk(1 << 20, 0, "pages"):
        pass
    before = b.total
    b.optimize(folios)
    assert [f.vmemmap_optimized for f in folios] == [True] + [False] * 39
    assert b.total == before
    b.k.pages.free(next(lo for lo, _, owner in b.k.pages.owners.items() if owner == "pages"), 3)
    b.optimize(folios)
    assert all(f.vmemmap_optimized for f in folios)
    assert b.total == before - 39 * 7
    b.check(folios)
