"""Segments: writing rows out, finding where two lists part, joining ranges."""

from __future__ import annotations

import random
from itertools import pairwise

from fuzz.oracle.difference import first_apart
from fuzz.oracle.observe import Segment, append, content_in_row, expand, expand_pages, in_row, union, unlike
from mm.page import Compound, Row, Tail

ROW = ("row", 8, 1, 0, True, "memmap", False, ((0, 2), 9))
KEPT = ("pte", True, "memmap")
TAIL = ("tail", False, (0, 2), 9)


def test_a_row_is_its_compound_pages() -> None:
    assert expand([(16, 32, ROW)]) == [(16, 17, KEPT), (17, 24, TAIL), (24, 25, KEPT), (25, 32, TAIL)]


def test_a_row_can_be_cut_anywhere() -> None:
    whole = expand([(0, 64, ROW)])
    for cut in range(1, 64):
        out: list[Segment] = []
        for lo, hi, form in expand([(0, cut, ROW)]) + expand([(cut, 64, ROW)]):
            append(out, lo, hi, form)
        assert out == whole


def test_a_row_that_shares_its_last_kept_page_is_named_by_that_page() -> None:
    row = ("row", 8, 2, 0, True, "memmap", True, None)
    assert expand([(8, 16, row)]) == [(8, 9, KEPT), (9, 16, ("alias", True, "memmap", 9))]


def test_struct_pages_of_a_row() -> None:
    head, tail = Compound(9, 0, 0, 4, "devdax"), Tail(9, 0, 4, True)
    row = Row(512, 64, 0, head, tail)
    assert expand_pages([(512, 1536, row)]) == [
        (512, 576, head),
        (576, 1024, tail),
        (1024, 1088, head),
        (1088, 1536, tail),
    ]
    assert expand_pages([(0, 1024, Row(512, 64, 0, tail, tail))]) == [(0, 1024, tail)]


def test_a_part_of_a_row_is_what_writing_it_out_says() -> None:
    shared_last = ("row", 8, 2, 0, True, "memmap", True, None)
    others = [KEPT, TAIL, ("pte", False, "memmap"), ("tail", True, (0, 2), 9), ("alias", True, "memmap", 9), ROW]
    said = set()
    for row in (ROW, shared_last):
        for lo in range(16, 32):
            for hi in range(lo + 1, 33):
                for form in others:
                    same = in_row(lo, hi, row, form)
                    if same:
                        assert expand([(lo, hi, row)]) == [(lo, hi, form)]
                    assert same == in_row(lo, hi, form, row) or form[0] == "row"
                    said.add((same, row[0] == "row" and row[-1] is None, form[0]))
    assert {(True, False, "pte"), (True, False, "tail"), (False, True, "alias")} <= said


def test_a_part_of_a_row_of_struct_pages_is_what_writing_it_out_says() -> None:
    head, tail = Compound(9, 0, 0, 4, "devdax"), Tail(9, 0, 4, True)
    row = Row(512, 64, 0, head, tail)
    for lo in range(512, 1536, 64):
        for hi in range(lo + 64, 1537, 64):
            for content in (head, tail, Tail(9, 0, 4)):
                same = content_in_row(lo, hi, row, content)
                assert same == content_in_row(lo, hi, content, row)
                assert same == (expand_pages([(lo, hi, row)]) == [(lo, hi, content)])


def points(segments: list[tuple[int, int, str]]) -> dict[int, str]:
    return {x: value for lo, hi, value in segments for x in range(lo, hi)}


def random_runs(rng: random.Random) -> list[tuple[int, int, str]]:
    out = []
    at = 0
    while at < 40:
        at += rng.choice((0, 0, 1, 3))
        n = rng.randrange(1, 6)
        out.append((at, at + n, rng.choice("ab")))
        at += n
    return out


def test_unlike_is_where_two_lists_differ() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        a, b = random_runs(rng), random_runs(rng)
        x, y = unlike(a, b, lambda *_: False)
        p, q = points(a), points(b)
        assert points(x) == {at: v for at, v in p.items() if q.get(at) != v}
        assert points(y) == {at: v for at, v in q.items() if p.get(at) != v}
        apart = sorted(at for at in p.keys() | q.keys() if p.get(at) != q.get(at))
        found = first_apart(a, b)
        assert found == ((apart[0], p.get(apart[0]), q.get(apart[0])) if apart else None)


def test_union_of_ranges() -> None:
    rng = random.Random(2)
    for _ in range(500):
        ranges = [(lo, lo + rng.randrange(1, 9)) for lo in (rng.randrange(60) for _ in range(rng.randrange(1, 8)))]
        joined = union(list(ranges))
        assert {x for lo, hi in joined for x in range(lo, hi)} == {x for lo, hi in ranges for x in range(lo, hi)}
        assert all(a[1] < b[0] for a, b in pairwise(joined))
