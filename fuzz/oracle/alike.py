"""Whether a range looks alike in both kernels, by the shortest way to know it.

Most of what an operation touches is alike run by run. What is not plain to see here is written out in the forms of
`fuzz.oracle.observe`, which then decide: False means "look closer", never "differs".
"""

from __future__ import annotations

from fuzz.oracle.observe import Tails, row
from mm.kernel import Kernel
from mm.pgtable import Mapping, Strided
from mm.runs import RunMap
from mm.search import bisect_right


def mapping_alike(a: Kernel, b: Kernel, tails: tuple[Tails, Tails], lo: int, hi: int) -> bool:
    """Whether vmemmap pages [lo, hi) are mapped alike, frames renamed, as `mapping` and `expand` would say."""
    x, y = a.tables.entries, b.tables.entries
    i, j = bisect_right(x.ends, lo), bisect_right(y.ends, lo)
    last, last2 = len(x.starts), len(y.starts)
    mine, theirs = a.pages.owners, b.pages.owners
    at = lo  # up to here they are alike
    while i < last and x.starts[i] < hi:
        if j == last2:
            return False
        s, s2, e, e2 = x.starts[i], y.starts[j], x.ends[i], y.ends[j]
        if s != s2 and (s > at or s2 > at):
            return False
        m, w = x.vals[i], y.vals[j]
        s = s if s > at else at
        end = e if e < e2 else e2
        end = end if end < hi else hi
        if m.kind == "pte" and w.kind == "pte":
            if m.rw != w.rw or not _owned_alike(mine, s + m.delta, theirs, s + w.delta, end - s):
                return False
        elif m.kind == "leaf" and w.kind == "leaf":
            if not _owned_alike(mine, s + m.delta, theirs, s + w.delta, end - s):
                return False
        elif m.kind == "strided":
            if w.kind != "strided":
                if not _row_of(a, tails[0], m, b, tails[1], w, s, end):
                    return False
            elif row(a, tails[0], s, end, m) != row(b, tails[1], s, end, w):
                return False
        elif w.kind != "strided" or not _row_of(b, tails[1], w, a, tails[0], m, s, end):
            return False
        at = end
        if e == end:
            i += 1
        if e2 == end:
            j += 1
        if end == hi:
            return True
    return j == last2 or y.starts[j] >= hi


def _owned_alike(mine: RunMap[str], frame: int, theirs: RunMap[str], other: int, n: int) -> bool:
    """Whether `n` frames have one owner, the same on both sides."""
    starts = mine.starts
    i = bisect_right(starts, frame) - 1
    if i < 0 or mine.ends[i] < frame + n:
        return False
    starts = theirs.starts
    j = bisect_right(starts, other) - 1
    return j >= 0 and theirs.ends[j] >= other + n and mine.vals[i] == theirs.vals[j]


def _row_of(a: Kernel, mine: Tails, whole: Strided, b: Kernel, theirs: Tails, m: Mapping, lo: int, hi: int) -> bool:
    """Whether [lo, hi) is a kept part of a row with a tail frame of a zone, or one of its tails, and `m` of the other
    kernel maps it so."""
    at = (lo - whole.phase) % whole.period
    if whole.tail is None:
        return False
    if m.kind == "pte":
        if at + hi - lo > whole.keep or m.rw != whole.rw:
            return False
        return _owned_alike(a.pages.owners, whole.kept_frame(lo), b.pages.owners, lo + m.delta, hi - lo)
    if m.kind == "shared":
        name = mine.get(whole.tail)
        if name is None or name != theirs.get(m.frame) or m.rw != whole.tail_rw:
            return False
        return at >= whole.keep and at + hi - lo <= whole.period
    return False
