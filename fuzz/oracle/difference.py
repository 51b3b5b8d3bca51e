"""Saying what is different: the first place where two lists of segments part, as a `Difference`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fuzz.oracle.finding import Difference, Layer
from fuzz.oracle.observe import PageSegment, Segment
from fuzz.oracle.pieces import Pieces
from mm.kernel import Kernel
from mm.runs import RunMap

_FIELDS = {"leaf": ("owner",), "pte": ("protection", "owner"), "tail": ("protection", "shared frame", "shared frame")}
_FIELDS["alias"] = ("protection", "owner", "shared frame")
_END = (1 << 63, 1 << 63, None)
"""Behind all runs."""


def page_class(k: Kernel, pieces: Pieces, pfn: int) -> str:
    """Size of the compound page that `pfn` belongs to: "2M", "1G", or "" for none."""
    piece = pieces.runs.get(pfn)
    order = piece.order if piece is not None else 0
    for h in k.hstates.values():
        if not order and pfn & -h.pages in h.folios:
            order = h.order
    if not order:
        return ""
    mib = 1 << (order + k.arch.page_shift - 20)
    return f"{mib}M" if mib < 1024 else f"{mib >> 10}G"


def first_apart(a: Sequence[tuple[int, int, Any]], b: Sequence[tuple[int, int, Any]]) -> tuple[int, Any, Any] | None:
    """The first position where two lists of runs differ, and their values there; None is a gap."""
    return next(apart(a, b), None)


def apart(a: Sequence[tuple[int, int, Any]], b: Sequence[tuple[int, int, Any]]) -> Iterator[tuple[int, Any, Any]]:
    """Where two lists of runs differ, and their values there: the first position of each stretch."""
    i = j = 0
    at = 0
    while i < len(a) or j < len(b):
        la, ha, va = a[i] if i < len(a) else _END
        lb, hb, vb = b[j] if j < len(b) else _END
        at = max(at, min(la, lb))
        x, y = va if la <= at else None, vb if lb <= at else None
        if x != y:
            yield at, x, y
        at = min(ha if x is not None else la, hb if y is not None else lb)
        i += ha <= at
        j += hb <= at


def mapping_differences(k: Kernel, pieces: Pieces, a: list[Segment], b: list[Segment]) -> Iterator[Difference]:
    """Expected mapping against the candidate's, in address order."""
    for vpn, x, y in apart(a, b):
        difference = _mapping_difference(k, pieces, vpn, x, y)
        if difference is not None:
            yield difference


def _mapping_difference(k: Kernel, pieces: Pieces, vpn: int, x: Any, y: Any) -> Difference | None:
    pages = page_class(k, pieces, k.arch.pfn(vpn))
    text = f"vmemmap page {vpn:#x}: {show(x)} expected, {show(y)} found"
    if x is None or y is None:
        return Difference("mapping", "present", "extra" if x is None else "missing", text, pages)
    if x[0] != y[0]:
        return Difference("mapping", "level" if "leaf" in (x[0], y[0]) else "sharing", f"{x[0]}>{y[0]}", text, pages)
    for name, p, q in zip(_FIELDS[x[0]], x[1:], y[1:], strict=True):
        if p != q:
            if name == "protection":
                return Difference("mapping", name, "ro>rw" if q else "rw>ro", text, pages)
            drift = f"{p}>{q}" if name == "owner" else "changed"
            return Difference("mapping", name, drift, text, pages)
    return None


def show(form: tuple[Any, ...] | None) -> str:
    """A mapping form in words."""
    if form is None:
        return "nothing"
    if form[0] == "leaf":
        return f"a PMD leaf on {form[1]} frames"
    access = "RW" if form[1] else "RO"
    if form[0] == "pte":
        return f"{access} PTEs on {form[2]} frames of their own"
    if form[0] == "tail":
        (nid, zone), order = form[2:]
        return f"{access} PTEs to the shared tail page of node {nid}, zone {zone}, order {order}"
    return f"{access} PTEs to the {form[2]} frame of vmemmap page {form[3]:#x}"


def pages_difference(k: Kernel, pieces: Pieces, a: list[PageSegment], b: list[PageSegment]) -> Difference | None:
    """Expected struct pages against the candidate's."""
    found = first_apart(a, b)
    if found is None:
        return None
    pfn, x, y = found
    kinds = ["unmapped" if c is None else c.kind for c in (x, y)]
    text = f"struct page of pfn {pfn:#x}: {x} expected, {y} found"
    drift = f"{kinds[0]}>{kinds[1]}" if kinds[0] != kinds[1] else "fields"
    return Difference("structpages", "content", drift, text, page_class(k, pieces, pfn))


def maps_difference(layer: Layer, field: str, a: RunMap[Any], b: RunMap[Any]) -> Difference | None:
    """Two maps that should be equal."""
    if a.vals == b.vals and a.starts == b.starts and a.ends == b.ends:
        return None
    return runs_difference(layer, field, a.items(), b.items())


def runs_difference(
    layer: Layer, field: str, a: list[tuple[int, int, Any]], b: list[tuple[int, int, Any]]
) -> Difference | None:
    """Two lists of runs that should be equal."""
    found = first_apart(a, b)
    if found is None:
        return None
    at, x, y = found
    drift = "extra" if x is None else "missing" if y is None else "changed"
    return Difference(layer, field, drift, f"{field} {at:#x}: {x} expected, {y} found")
