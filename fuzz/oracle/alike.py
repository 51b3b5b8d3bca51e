"""Whether a range looks alike in both kernels, by the shortest way to know it.

Most of what an operation touches is alike run by run. What is not plain to see here is written out in the forms of
`fuzz.oracle.observe`, which then decide: False means "look closer", never "differs".
"""

from __future__ import annotations

from fuzz.oracle.observe import Tails, form_of, in_row
from mm.kernel import Kernel


def mapping_alike(a: Kernel, b: Kernel, tails: tuple[Tails, Tails], lo: int, hi: int) -> bool:
    """Whether vmemmap pages [lo, hi) are mapped alike, frames renamed, as `mapping` and `expand` would say."""
    x, y = a.tables.entries.runs(lo, hi), b.tables.entries.runs(lo, hi)
    i = j = 0
    at = lo  # up to here they are alike
    while i < len(x) and j < len(y):
        s, e, m = x[i]
        s2, e2, w = y[j]
        if s != s2 and max(s, s2) > at:
            return False
        s, at = max(s, at), min(e, e2)
        form, form2 = form_of(a, tails[0], s, at, m), form_of(b, tails[1], s, at, w)
        if form is None or form2 is None or (form != form2 and not in_row(s, at, form, form2)):
            return False
        i += e == at
        j += e2 == at
    return i == len(x) and j == len(y)
