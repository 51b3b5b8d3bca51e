"""Restoring a list in bulk leaves what restoring it folio by folio leaves: random lists, states and armed failures."""

import random

import pytest

from candidate import hugetlb_vmemmap
from candidate.hugetlb_vmemmap import hugetlb_vmemmap_restore_folio
from mm.hugetlb import plain as plain_page
from mm.page import Tail
from mm.page_alloc import KERNEL_ZONES, OWNER_PAGES


def one_by_one(b, h, folios, non_hvo):
    """hugetlb_vmemmap_restore_folios in the plainest way."""
    restored = 0
    while folios:
        if folios[0].vmemmap_optimized:
            rc = hugetlb_vmemmap_restore_folio(b.paths, h, folios[0])
            if rc:
                return rc
            restored += 1
        non_hvo.append(folios.pop(0))
    return restored


def in_bulk(b, h, folios, non_hvo):
    return b.paths.hugetlb_vmemmap_restore_folios(h, folios, non_hvo)


def optimize_lists(b, rng, order, count):
    """Folios on all nodes of which some are optimized, some in part; and the list to restore."""
    k = b.k
    folios = [folio for nid in range(len(k.nodes)) for folio in b.folios(order, count // len(k.nodes) + 1, nid)]
    count = len(folios)
    batch = rng.sample(folios, rng.randrange(2, count + 1))
    if rng.random() < 0.7:
        batch.sort(key=lambda folio: folio.pfn, reverse=rng.random() < 0.5)
    for _ in range(rng.randrange(1, 3)):  # frames and contents that more than one turn has mixed
        b.optimize(batch)
        if rng.random() < 0.5:
            b.restore(rng.sample(batch, rng.randrange(1, len(batch) + 1)))
    if rng.random() < 0.3:
        b.optimize(batch)
    if rng.random() < 0.3:  # heads with several contents, or with those of a tail
        for folio in rng.sample(batch, 2):
            n = rng.choice([1, 64])
            k.memmap.write(folio.pfn, n, Tail(order, folio.nid, folio.zone.idx))
    if b.profile == "merged" and rng.random() < 0.4:  # a folio that is private in part
        optimized = [folio for folio in batch if folio.vmemmap_optimized]
        if optimized:
            k.faults.nth = b.k.arch.vmemmap_pages(order) - 1 + rng.randrange(1, 8)
            k.faults.begin()
            hugetlb_vmemmap_restore_folio(b.paths, k.hstates[order], rng.choice(optimized))
    if rng.random() < 0.5:  # free frames in pieces
        held = k.pages.alloc_bulk(rng.randrange(40, 400), 0, OWNER_PAGES)
        for pfn, n in held:
            for at in range(pfn, pfn + n, 5):
                k.pages.free(at, min(3, pfn + n - at))
    listed = rng.sample(folios, rng.randrange(1, count + 1)) if rng.random() < 0.5 else folios
    return folios, list(listed)


def state(b, folios):
    k = b.k
    return {
        "entries": k.tables.entries.items(),
        "own": k.memmap.own.items(),
        "owners": k.pages.owners.items(),
        "free": [k.pages.free_set(zone).items() for node in k.nodes for zone in node.zones],
        "vmstat": {name: getattr(k.vmstat, name) for name in k.vmstat.__slots__},
        "faults": (k.faults.reached, k.faults.fired),
        "spilled": (k.pages.spilled, k.pages.short),
        "flags": [folio.vmemmap_optimized for folio in folios],
        "log": k.log,
    }


def covered(ranges):
    return {x for lo, hi in ranges for x in range(lo, hi)}


@pytest.mark.parametrize("seed", range(120))
def test_equal_to_one_by_one(make, seed):
    rng = random.Random(seed)
    order, count = (18, 3) if seed % 12 == 11 else (9, rng.choice([3, 16, 90]))
    nodes = rng.choice([1, 2])
    nth = rng.choice([0, 0, rng.randrange(1, 30), rng.randrange(1, 3000)])
    scarce = rng.choice([None, None, 0, 5, 20, 200])
    start = rng.getrandbits(32)
    seen = []
    for restore in (in_bulk, one_by_one):
        b = make(nodes=nodes, ram=(8 if order == 18 else 4) << 30)
        folios, left = optimize_lists(b, random.Random(start), order, count)
        if scarce is not None:
            free = sum(b.k.nodes[0].zones[i].free_pages(b.k.pages.block_order) for i in KERNEL_ZONES)
            b.k.pages.alloc_bulk(max(free - scarce, 0), 0, OWNER_PAGES, thisnode=True)
        b.k.faults.nth = nth
        b.k.faults.begin()
        for touched in (b.k.tables.touched, b.k.memmap.touched, b.k.pages.touched):
            touched.clear()
        out = []
        rc = restore(b, b.k.hstates[order], left, out)
        for folio in out:  # what a tail holds is left out in bulk, because whoever restores a list writes all anew
            b.k.memmap.write(folio.pfn, folio.end_pfn - folio.pfn, plain_page(folio.nid, folio.zone.idx))
        lists = [[folio.pfn for folio in what] for what in (left, out)]
        touched = [covered(t) for t in (b.k.tables.touched, b.k.memmap.touched, b.k.pages.touched)]
        seen.append((rc, lists, state(b, folios), touched))
        b.check(folios)
    (rc, lists, bulk, touched), (plain_rc, plain_lists, plain, plain_touched) = seen
    assert (rc, lists) == (plain_rc, plain_lists)
    assert bulk == plain
    assert all(more >= less for more, less in zip(touched, plain_touched, strict=True)), "the oracle looks everywhere"


@pytest.mark.parametrize("count", [2, 16, 90])
def test_bulk_is_taken(make, monkeypatch, count):
    """Where nothing can fail no folio is restored by itself; with an armed failure all are, be it out of reach."""
    b = make()
    folios = b.folios(9, count)
    calls = []
    plain = hugetlb_vmemmap.hugetlb_vmemmap_restore_folio
    monkeypatch.setattr(
        hugetlb_vmemmap, "hugetlb_vmemmap_restore_folio", lambda *a, **kw: calls.append(a) or plain(*a, **kw)
    )
    points = count * 7 * (2 if b.profile == "merged" else 1)
    for nth, expected in ((0, 0), (points + 1, count), (points, count)):
        b.optimize(folios)
        calls.clear()
        b.k.faults.nth = nth
        rc = b.restore(folios)
        assert len(calls) == expected
        assert (rc < 0) == (nth == points)
        assert b.k.faults.reached == points
        b.check(folios)
