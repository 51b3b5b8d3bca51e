"""The vmemmap as pictures: one strip a range and side, a few SVG paths a strip however many pages it shows.

Few pages are drawn one by one. Of many, compound pages become one picture of a period and its number, and a run is as
wide as the share of the strip that it takes, but never too narrow to be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fuzz.program.arguments import format_size
from fuzz.trace import Block, SideStep, Trace, differences

CELLS: Final = 128
"""Pages of a range that are drawn one by one at most."""
WIDTH: Final = 640
"""Units of the picture's width."""
HEIGHT: Final = 22
PERIODS: Final = 4
"""Compound pages of a row that are drawn in a strip of runs."""
SLIVER: Final = 6.0
"""The narrowest run."""

KINDS: Final = {
    "leaf": "PMD leaf, RW",
    "own-rw": "frame of its own, RW",
    "own-ro": "frame of its own, RO",
    "shared-ro": "shared tail page, RO",
    "shared-rw": "shared tail page, RW",
    "altmap": "in the device or block itself (altmap)",
    "none": "not mapped",
    "freed": "frame given up in this step",
}
"""Classes of the drawing, with their meaning."""


@dataclass(frozen=True, slots=True)
class Strip:
    """One range on one side."""

    paths: tuple[tuple[str, str], ...]
    """Class and path data."""
    title: str
    """What is drawn, in words, for those who do not see it."""


@dataclass(frozen=True, slots=True)
class Band:
    """One range after one operation."""

    first: int
    end: int
    label: str
    sides: tuple[tuple[str, Strip], ...]
    differs: str
    """Path of where the sides differ, empty if nowhere."""


Part = tuple[int, int, str]
"""Pages [first, end) of one class."""


def bands(told: Trace, ranges: tuple[tuple[int, int], ...], number: int) -> list[Band]:
    """The ranges after operation `number`."""
    step = told.steps[number - 1]
    before = told.steps[number - 2] if number > 1 else None
    unlike = differences(step.reference.blocks, step.candidate.blocks)
    out = []
    for first, end in ranges:
        scale = _Scale(first, end, [step.reference, step.candidate])
        sides = tuple(
            (name, _strip(scale, getattr(step, name), getattr(before, name) if before else None))
            for name in ("reference", "candidate")
        )
        apart = "".join(
            _rect(scale, max(lo, first), min(hi, end), 0, 4) for lo, hi, _, _ in unlike if lo < end and hi > first
        )
        pages, at = end - first, told.pfn(first) * told.page
        size = format_size(told.pfn(end) * told.page - at)
        label = f"vmemmap {first:#x}..{end:#x}: {pages:,} page{'s' * (pages > 1)}, of {size} at {at:#x}"
        out.append(Band(first, end, label, sides, apart))
    return out


class _Scale:
    """From vmemmap pages to the picture; both sides of a range share one."""

    def __init__(self, first: int, end: int, sides: list[SideStep]) -> None:
        self.first, self.end = first, end
        self.single = end - first <= CELLS
        edges = {first, end}
        for side in sides:
            edges |= {edge for block in side.blocks for edge in block[:2] if first < edge < end}
        self.edges = sorted(edges)
        widths = [
            max(SLIVER, (hi - lo) / (end - first) * WIDTH) for lo, hi in zip(self.edges, self.edges[1:], strict=False)
        ]
        factor = WIDTH / sum(widths)
        self.x = [0.0]
        for width in widths:
            self.x.append(self.x[-1] + width * factor)

    def at(self, page: int) -> float:
        """Horizontal place of a page's left edge."""
        if self.single:
            return (page - self.first) / (self.end - self.first) * WIDTH
        for i, (lo, hi) in enumerate(zip(self.edges, self.edges[1:], strict=False)):
            if page <= hi:
                return self.x[i] + (page - lo) / (hi - lo) * (self.x[i + 1] - self.x[i])
        return float(WIDTH)


def _strip(scale: _Scale, side: SideStep, before: SideStep | None) -> Strip:
    paths: dict[str, list[str]] = {}
    words = []
    at = scale.first
    for block in side.blocks:
        lo, hi = max(block.first, scale.first), min(block.end, scale.end)
        if lo >= hi:
            continue
        if at < lo:
            _draw(paths, scale, at, lo, "none")
        words.append(f"{hi - lo} pages: {block.text}")
        if block.kind == "row":
            _row(paths, scale, block, lo, hi)
        else:
            _draw(paths, scale, lo, hi, _class(block, shared=block.kind == "shared"))
        at = hi
    if at < scale.end:
        _draw(paths, scale, at, scale.end, "none")
    if before is not None:
        for lo, hi in _freed(before, side, scale):
            paths.setdefault("freed", []).append(_rect(scale, lo, hi, HEIGHT - 4, 4))
    return Strip(tuple((name, "".join(parts)) for name, parts in paths.items()), "; ".join(words) or "not mapped")


def _class(block: Block, *, shared: bool) -> str:
    if shared:
        rw = block.rw if block.kind == "shared" else block.tail_rw
        return "shared-rw" if rw else "shared-ro"
    if block.owner in ("altmap", "selfhosted"):
        return "altmap"
    if block.kind == "leaf":
        return "leaf"
    return "own-rw" if block.rw else "own-ro"


def _row(paths: dict[str, list[str]], scale: _Scale, block: Block, lo: int, hi: int) -> None:
    """Compound pages: each, or where they are too many a few wide ones in place of all."""
    own, shared = _class(block, shared=False), _class(block, shared=True)
    if scale.single:
        for page in range(lo, hi):
            is_own = (page - block.phase) % block.period < block.keep
            _draw(paths, scale, page, page + 1, own if is_own else shared)
        return
    left, right = scale.at(lo), scale.at(hi)
    wide = (right - left) / min(PERIODS, max(1, (hi - lo) // block.period))
    x = left
    while x < right - 0.01:
        kept = max(3.0, wide * block.keep / block.period)
        paths.setdefault(own, []).append(_box(x, x + kept))
        paths.setdefault(shared, []).append(_box(x + kept, min(x + wide, right)))
        x += wide


def _freed(before: SideStep, after: SideStep, scale: _Scale) -> Iterator[tuple[int, int]]:
    """Pages that had frames of their own and have none now; where rows become other rows, the part that changed."""
    for lo, hi, _, _ in differences(before.blocks, after.blocks):
        lo, hi = max(lo, scale.first), min(hi, scale.end)
        if lo < hi and _own(before, lo, hi) > _own(after, lo, hi):
            if scale.single:
                yield from ((p, p + 1) for p in range(lo, hi) if _own(before, p, p + 1) > _own(after, p, p + 1))
            else:
                yield lo, hi


def _own(side: SideStep, lo: int, hi: int) -> int:
    return sum(
        block.own_pages(max(block.first, lo), min(block.end, hi))
        for block in side.blocks
        if block.first < hi and block.end > lo
    )


def _draw(paths: dict[str, list[str]], scale: _Scale, lo: int, hi: int, name: str) -> None:
    parts = paths.setdefault(name, [])
    if scale.single:
        parts += [_rect(scale, page, page + 1, 0, HEIGHT) for page in range(lo, hi)]
    else:
        parts.append(_rect(scale, lo, hi, 0, HEIGHT))


def _rect(scale: _Scale, lo: int, hi: int, y: int, height: int) -> str:
    return _box(scale.at(lo), scale.at(hi), y, height)


def _box(left: float, right: float, y: int = 0, height: int = HEIGHT) -> str:
    gap = 0.8 if right - left > 2 else 0.0
    return f"M{left:.4g} {y}h{max(0.5, right - left - gap):.4g}v{height}h-{max(0.5, right - left - gap):.4g}z"
