"""Rows of sections against the loop that the kernel runs: equal up to the numbers of frames, whatever goes wrong."""

from itertools import pairwise
from random import Random

import pytest

from candidate import section_rows, sparse_vmemmap
from mm.altmap import Altmap
from mm.hugetlb_sysfs import nr_hugepages_store
from mm.mmzone import ZONE_DEVICE
from mm.page_alloc import pages_alloc
from mm.pgmap import PgMap
from mm.pgtable import frame_at, writable
from mm.runs import RunMap

PPS = 32768
SUB = 512
DAX = 6 << 18
SAMPLE = (0, 1, 8, 63)
"""Which vmemmap pages of each 64 are looked at: private and shared ones of any compound page, and both ends."""
PMD_END = 64 << 18
"""A pfn at 64 GiB, where a PMD table of the vmemmap ends."""


def sections(start, nr):
    return pairwise([start, *range((start // PPS + 1) * PPS, start + nr, PPS), start + nr])


def loop_add(b, start, nr, altmap, pgmap):
    for lo, hi in sections(start, nr):
        rc = sparse_vmemmap.add_section(b.paths, 0, lo, hi - lo, altmap, pgmap)
        if rc:
            return rc
    return 0


def row_add(b, start, nr, altmap, pgmap):
    return section_rows.sparse_add_section(b.paths, 0, start, nr, altmap, pgmap)


def loop_remove(b, start, nr, altmap):
    for lo, hi in sections(start, nr):
        sparse_vmemmap.remove_section(b.paths, lo, hi - lo, altmap)


def row_remove(b, start, nr, altmap):
    section_rows.sparse_remove_section(b.paths, start, nr, altmap)


def shape(k, lo, hi):
    """Mapping up to renaming: form, protection, owner, and the first page that maps the same frame."""
    first: dict[int, int] = {}
    out = []
    for s, e, m in k.tables.runs(lo, hi):
        for vpn in [v for v in range(s, e) if v % 64 in SAMPLE]:
            frame = frame_at(m, vpn)
            owner = k.pages.owners.get(frame)
            out.append((vpn, m.kind == "leaf", writable(m, vpn), owner, first.setdefault(frame, vpn)))
    return out


def joined(rows):
    out: RunMap = RunMap()
    for lo, hi, content in rows:
        out.set(lo, hi, content)
    return out.items()


def state(b, lo, hi):
    """All that both ways must leave equal."""
    k, f = b.k, b.paths
    owned: dict[str, int] = {}
    for s, e, owner in k.pages.owners.items():
        owned[owner] = owned.get(owner, 0) + e - s
    return {
        "counters": {name: getattr(k.vmstat, name) for name in k.vmstat.__slots__},
        "owned": owned,
        "free": [k.pages.free_set(zone).items() for zone in k.nodes[0].zones],
        "mapping": shape(k, lo // 64, hi // 64),
        "tables": [present(level) for level in k.tables.tables],
        "contents": joined(k.memmap.view(lo, hi)),
        "sections": [getattr(k.sections, name).items() for name in ("flags", "nid", "usage", "subsections")],
        "orders": f.orders.items(),
        "roots": f.roots,
        "tails": f.tails,
        "refs": {key: k.pages.refs.get(frame, 1) for key, frame in f.zone_tails().items()},
        "log": k.log,
        "reached": (k.faults.reached, k.faults.fired),
        "short": (k.pages.short > 0, k.pages.spilled > 0),
    }


def present(level):
    out: RunMap = RunMap()
    for s, e, _ in level.items():
        out.set(s, e, True)
    return [(s, e) for s, e, _ in out.items()]


def same(a, b, lo, hi):
    left, right = state(a, lo, hi), state(b, lo, hi)
    for what, value in left.items():
        assert value == right[what], what


def case(rng):
    """A random range and what is asked for it."""
    start = rng.choice((DAX, DAX + 4 * PPS, PMD_END - 2 * PPS, PMD_END - 8 * PPS)) + rng.choice(
        (0, 0, 0, SUB, PPS - SUB)
    )
    shift = rng.choice((None, None, 0, 9, 9, 12, 18, 18))
    nr = rng.choice((SUB, PPS - SUB, PPS, 2 * PPS, 3 * PPS + SUB, 8 * PPS, 16 * PPS, 20 * PPS))
    altmap = rng.random() < 0.2 and shift is not None
    return start, nr, shift, altmap


@pytest.mark.parametrize("seed", range(120))
def test_row_is_the_loop(make, seed):
    """Random ranges, states and injected failures; then removals of the range or of parts of it."""
    pair = make(), make()
    for b in pair:
        rng = Random(seed)
        b.k.log.clear()
        if rng.random() < 0.3:  # something of it is there already
            at, nr, shift, _ = case(rng)
            loop_add(b, at - at % PPS + PPS, PPS, None, b.pgmap(at - at % PPS + PPS, PPS, shift) if shift else None)
        if rng.random() < 0.3:
            nr_hugepages_store(b.k, 9, rng.randrange(64), None)
        if rng.random() < 0.3:  # little memory is left
            free = b.frames_free()
            keep = rng.choice((0, 1, 8, 300, 700, 2048, 5000))
            assert not isinstance(pages_alloc(b.k, 0, free - keep, False), int)
        start, nr, shift, with_altmap = case(rng)
        altmap = Altmap(start, start + nr, 2, nr // rng.choice((64, 64, 100, 60))) if with_altmap else None
        pgmap = PgMap([(start, start + nr)], shift, altmap, 0, "generic") if shift is not None else None
        b.k.faults.nth = rng.choice((0, 0, 1, 2, 3, 10, rng.randrange(1, 3000)))
        b.k.faults.begin()
        b.rc = (loop_add if b is pair[0] else row_add)(b, start, nr, altmap, pgmap)
        b.altmap = altmap and (altmap.alloc, altmap.align)
    lo, hi = DAX - PPS, PMD_END + 32 * PPS
    assert pair[0].rc == pair[1].rc
    assert pair[0].altmap == pair[1].altmap
    same(*pair, lo, hi)
    for b in pair:
        b.k.faults.begin()
        remove = loop_remove if b is pair[0] else row_remove
        if b.rc == 0:
            if seed % 3 == 0 and nr > 2 * PPS and not start % PPS and pgmap is None:
                remove(b, start, PPS, altmap)  # the removal of the range finds it gone
            remove(b, start, nr, altmap)
    same(*pair, lo, hi)


@pytest.mark.parametrize("shift", [None, 9, 18])
def test_a_row_is_done_at_once(make, monkeypatch, shift):
    """No section of a fresh GiB goes through the loop, on either way."""
    b = make()
    monkeypatch.setattr(section_rows, "add_section", None)
    monkeypatch.setattr(section_rows, "remove_section", None)
    free = b.frames_free()
    pgmap = b.pgmap(DAX, 8 * PPS, shift) if shift else None
    assert row_add(b, DAX, 8 * PPS, None, pgmap) == 0
    b.check()
    # 2M: 8 tables and 64 private pages a section; 1G: 8 tables and one page; T stays. Upper tables exist.
    assert free - b.frames_free() == {None: 8 * 512, 9: 8 + 512 + 1, 18: 8 + 1 + 1}[shift]
    assert len(b.k.tables.runs(DAX // 64, DAX // 64 + 4096)) <= 2
    row_remove(b, DAX, 8 * PPS, None)
    assert b.frames_free() == free - (shift is not None)
    assert (ZONE_DEVICE in {key[1] for key in b.paths.tails}) == (shift is not None)
