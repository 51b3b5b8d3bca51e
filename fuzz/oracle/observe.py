"""Observation: what one kernel looks like, with frame numbers renamed away.

The mapping is a list of segments (first vpn, end vpn, form). Forms are tuples:

  ("leaf", owner)                       PMD leaf; owner is the class of the frames behind it
  ("pte", rw, owner)                    base pages with frames of their own
  ("tail", rw, zone key, order)         every page maps the shared tail frame of that (zone, order)
  ("alias", rw, owner, home)            every page maps the frame that vpn `home` maps, a shared frame of no zone
  ("row", period, keep, phase, rw, owner, tail_rw, name)
                                        compound pages of `period` pages that keep `keep`; the others map the zone tail
                                        `name`, or the period's last kept frame when name is None

Whether frames are shared, and which, is taken from frame numbers alone. `expand` writes rows out, so that two ways to
say the same become equal.

Struct pages are segments (first pfn, end pfn, content) of what is seen through the mapping, rows included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from mm.kernel import Kernel
from mm.mmzone import Zone
from mm.page import Content, Row
from mm.pgtable import Mapping, Strided, frame_at

V = TypeVar("V")
Part = tuple[int, int, V]
Runs = list[tuple[int, int]]
Form = tuple[Any, ...]
Segment = tuple[int, int, Form]
PageSegment = tuple[int, int, Content | Row]
TailName = tuple[tuple[int, int], int]
Tails = dict[int, TailName]
"""Shared tail frame -> (zone key, order)."""


def tails_by_frame(k: Kernel) -> Tails:
    """Names of the shared tail frames."""
    return {frame: name for name, frame in k.paths.zone_tails().items()}


# -- accounting -----------------------------------------------------------------------------------------------------

VMSTAT: Final = ("nr_memmap", "nr_memmap_boot", "nr_page_table_pages", "struct_pages_initialized")
ZONE: Final = ("free", "managed")
FREE: Final = len(VMSTAT)
"""Index of the first zone's free pages among all counters; zones follow each other every len(ZONE) numbers."""


def vmstat(a: Kernel, b: Kernel) -> tuple[list[int], list[int]]:
    """The counters of `a`, in the order of VMSTAT, and what `b` has more of each."""
    v, w = a.vmstat, b.vmstat
    mine = [v.nr_memmap, v.nr_memmap_boot, v.nr_page_table_pages, v.struct_pages_initialized]
    return mine, [
        w.nr_memmap - mine[0],
        w.nr_memmap_boot - mine[1],
        w.nr_page_table_pages - mine[2],
        w.struct_pages_initialized - mine[3],
    ]


def counter_names(zones: list[Zone]) -> list[str]:
    """Names of all counters, of vmstat and of each zone."""
    names = list(VMSTAT)
    for z in zones:
        names += [f"zone{z.nid}.{z.idx}.{field}" for field in ZONE]
    return names


# -- mapping --------------------------------------------------------------------------------------------------------


def append(out: list[Segment], lo: int, hi: int, form: Form) -> None:
    """Add a segment, joining it with an equal neighbour."""
    if out:
        last = out[-1]
        if last[1] == lo and last[2] == form:
            out[-1] = (last[0], hi, form)
            return
    out.append((lo, hi, form))


def mapping(k: Kernel, tails: Tails, lo: int, hi: int) -> list[Segment]:
    """The segments of vmemmap pages [lo, hi)."""
    out: list[Segment] = []
    for s, e, m in k.tables.entries.runs(lo, hi):
        form = form_of(k, tails, s, e, m)
        if form is not None:
            append(out, s, e, form)
        elif m.kind == "pte" or m.kind == "leaf":
            for a, b, owner in _owned(k, s + m.delta, e + m.delta):
                append(out, a - m.delta, b - m.delta, ("leaf", owner) if m.kind == "leaf" else ("pte", m.rw, owner))
    return out


def form_of(k: Kernel, tails: Tails, lo: int, hi: int, m: Mapping) -> Form | None:
    """The form of vmemmap pages [lo, hi), which are of one run; None if their frames have several owners."""
    if m.kind == "strided":
        return row(k, tails, lo, hi, m)
    owners = k.pages.owners
    if m.kind == "shared":
        name = tails.get(m.frame)
        if name is not None:
            return "tail", m.rw, *name
        return "alias", m.rw, owners.get(m.frame), home(k, lo, m.frame)
    run = owners.run(lo + m.delta)
    if run is None or run[1] < hi + m.delta:
        return None
    return ("pte", m.rw, run[2]) if m.kind == "pte" else ("leaf", run[2])


def _owned(k: Kernel, lo: int, hi: int) -> list[tuple[int, int, str]]:
    """Owners of frames [lo, hi) without gaps; "nobody" where there is none."""
    out = []
    for s, e, owner in k.pages.owners.runs(lo, hi):
        if lo < s:
            out.append((lo, s, "nobody"))
        out.append((s, e, owner))
        lo = e
    if lo < hi:
        out.append((lo, hi, "nobody"))
    return out


def home(k: Kernel, vpn: int, frame: int) -> int:
    """The vpn that names a frame shared by the run around `vpn`: the page before the run if it maps the frame too, else
    its first. On powerpc, where what was mapped before stays, runs of the same compound page can lie apart: the second
    page of one larger than a section names it, if it maps the frame (vmemmap_compound_tail_page, radix_pgtable.c).
    """
    run = k.tables.entries.run(vpn)
    first = vpn if run is None else run[0]
    if k.arch.compounds_by_pfn:
        second = first - first % k.arch.vmemmap_pages(k.arch.pud_shift - k.arch.page_shift) + 1
        m = k.tables.entries.get(second) if second < first else None
        if m is not None and frame_at(m, second) == frame:
            return second
    before = k.tables.entries.get(first - 1)
    if before is not None and frame_at(before, first - 1) == frame:
        return first - 1
    return first


def row(k: Kernel, tails: Tails, lo: int, hi: int, m: Strided) -> Form:
    first = (lo - m.phase) // m.period
    last = -(-(hi - m.phase) // m.period)
    frames = m.base + first * m.keep, m.base + last * m.keep
    run = k.pages.owners.run(frames[0])
    if run is not None and run[1] >= frames[1]:
        owner = run[2]
    else:
        owner = "+".join(sorted({o for _, _, o in _owned(k, *frames)}))
    # A tail frame that is in no zone's array is named after itself, in a zone that there is not.
    name = None if m.tail is None else tails.get(m.tail, ((-1, -1), m.tail))
    return "row", m.period, m.keep, m.phase, m.rw, owner, m.tail_rw, name


def expand(segments: list[Segment]) -> list[Segment]:
    """The same segments with every row written out."""
    out: list[Segment] = []
    for lo, hi, form in segments:
        if form[0] != "row":
            append(out, lo, hi, form)
            continue
        _, period, keep, phase, rw, owner, tail_rw, name = form
        head = lo - (lo - phase) % period
        while head < hi:
            kept = head + keep if name is not None else head + keep - 1
            a, b = max(head, lo), min(kept, hi)
            if a < b:
                append(out, a, b, ("pte", rw, owner))
            a, b = max(kept, lo), min(head + period, hi)
            if a < b:
                append(out, a, b, ("alias", tail_rw, owner, kept) if name is None else ("tail", tail_rw, *name))
            head += period
    return out


def in_row(lo: int, hi: int, row: Form, form: Form) -> bool:
    """Whether [lo, hi) of a row is one of its kept parts, or one of the others, and `form` says just that."""
    if row[0] != "row":
        return form[0] == "row" and in_row(lo, hi, form, row)
    _, period, keep, phase, rw, owner, tail_rw, name = row
    at = (lo - phase) % period
    if form[0] == "pte":
        return at + hi - lo <= keep and bool(form[1] == rw and form[2] == owner and name is not None)
    return at >= keep and at + hi - lo <= period and name is not None and form == ("tail", tail_rw, *name)


def content_in_row(lo: int, hi: int, row: Content | Row, content: Content | Row) -> bool:
    """The same for struct pages."""
    if row.kind != "row":
        return content.kind == "row" and content_in_row(lo, hi, content, row)
    at = (lo - row.phase) % row.period
    if at >= row.keep:
        return content == row.tail and at + hi - lo <= row.period
    return content == row.kept and at + hi - lo <= row.keep


def unlike(
    a: Sequence[tuple[int, int, V]], b: Sequence[tuple[int, int, V]], same: Callable[[int, int, V, V], bool]
) -> tuple[list[Part[V]], list[Part[V]]]:
    """The parts of two lists of segments where they are not the same, so that only those need to be written out.

    `same` says of two values that differ whether they mean the same at the range [lo, hi) that it is asked for.
    """
    x: list[Part[V]] = []
    y: list[Part[V]] = []
    i = j = 0
    at = -1
    while i < len(a) and j < len(b):
        la, ha, va = a[i]
        lb, hb, vb = b[j]
        la, lb = max(la, at), max(lb, at)
        if la < lb:
            at = min(ha, lb)
            x.append((la, at, va))
        elif lb < la:
            at = min(hb, la)
            y.append((lb, at, vb))
        else:
            at = min(ha, hb)
            if va != vb and not same(la, at, va, vb):
                x.append((la, at, va))
                y.append((la, at, vb))
        i += ha <= at
        j += hb <= at
    for lo, hi, value in a[i:]:
        x.append((max(lo, at), hi, value))
    for lo, hi, value in b[j:]:
        y.append((max(lo, at), hi, value))
    return x, y


# -- struct pages ---------------------------------------------------------------------------------------------------


def append_pages(out: list[PageSegment], lo: int, hi: int, content: Content | Row) -> None:
    """Add a segment, joining it with an equal neighbour; a row whose pages all look alike is no row."""
    if isinstance(content, Row) and content.kept == content.tail:
        content = content.tail
    if out:
        last = out[-1]
        if last[1] == lo and last[2] == content:
            out[-1] = (last[0], hi, content)
            return
    out.append((lo, hi, content))


def struct_pages(k: Kernel, lo: int, hi: int) -> list[PageSegment]:
    """The contents of struct pages [lo, hi), which are whole vmemmap pages."""
    out: list[PageSegment] = []
    for s, e, content in k.memmap.view(lo, hi):
        append_pages(out, s, e, content)
    return out


def expand_pages(segments: list[PageSegment]) -> list[PageSegment]:
    """The same segments with every row written out."""
    out: list[PageSegment] = []
    for lo, hi, content in segments:
        if not isinstance(content, Row):
            append_pages(out, lo, hi, content)
            continue
        head = lo - (lo - content.phase) % content.period
        while head < hi:
            kept = head + content.keep
            a, b = max(head, lo), min(kept, hi)
            if a < b:
                append_pages(out, a, b, content.kept)
            a, b = max(kept, lo), min(head + content.period, hi)
            if a < b:
                append_pages(out, a, b, content.tail)
            head += content.period
    return out


# -- ranges ---------------------------------------------------------------------------------------------------------


def union(ranges: Runs) -> Runs:
    """The ranges, sorted and joined where they overlap or touch."""
    if len(ranges) < 2:
        return ranges
    ranges.sort()
    out: Runs = []
    first, end = ranges[0]
    for lo, hi in ranges:
        if lo <= end:
            if hi > end:
                end = hi
        else:
            out.append((first, end))
            first, end = lo, hi
    out.append((first, end))
    return out


def without(runs: Runs, holes: Runs) -> Runs:
    """Sorted runs less sorted holes."""
    out: Runs = []
    for lo, hi in runs:
        for s, e in holes:
            if lo < min(s, hi):
                out.append((lo, min(s, hi)))
            lo = max(lo, e)
        if lo < hi:
            out.append((lo, hi))
    return out
