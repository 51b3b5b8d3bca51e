"""A fault that no neighbour of a value makes: something of the candidate is as it is on the reference, although the
series promises to change it."""

from __future__ import annotations

from random import Random
from typing import Any

from mm.kernel import Kernel
from mm.runs import RunMap
from mm.tlb import old_frames


def mimic(k: Kernel, other: Kernel, draw: Random) -> str | None:
    """Spoil the candidate `k`, where it or the other kernel was touched; a line that says how, None if they are alike
    there."""
    how = draw.randrange(5)
    if how == 0:
        name = draw.choice(("nr_memmap", "nr_memmap_boot", "nr_page_table_pages", "struct_pages_initialized"))
        return _copied(f"vmstat.{name}", k.vmstat, other.vmstat, name)
    kernels = k, other
    unit = 1
    runs: list[RunMap[Any]]
    if how == 1:
        runs, spans = [x.tables.entries for x in kernels], k.tables.touched + other.tables.touched
    elif how == 2:
        runs, spans = [x.memmap.own for x in kernels], k.memmap.touched + other.memmap.touched
    elif how == 3:
        runs, spans = [x.sections.flags for x in kernels], k.sections.touched + other.sections.touched
    else:
        unit = 1 << k.arch.pmd_order
        runs, spans = [x.pageblocks for x in kernels], k.memmap.touched + other.memmap.touched
    if not spans:
        return None
    lo, hi = draw.choice(spans)
    lo, hi = lo // unit, -(-hi // unit)
    mine, theirs = runs
    if mine.runs(lo, hi) == theirs.runs(lo, hi):
        return None
    mine.clear(lo, hi)
    for s, e, value in theirs.runs(lo, hi):
        mine.set(s, e, value)
        if how == 1:
            _give(k, other, old_frames(s, e, value))
    name = ("", "mapping", "struct pages", "sections", "pageblocks")[how]
    return f"{name} {lo:#x}..{hi:#x} as on the other side"


def _give(k: Kernel, other: Kernel, frames: list[tuple[int, int]]) -> None:
    """The frames of `k` are owned as those of the other kernel: what is mapped looks the same."""
    for lo, hi in frames:
        k.pages.owners.clear(lo, hi)
        for s, e, owner in other.pages.owners.runs(lo, hi):
            k.pages.owners.set(s, e, owner)


def _copied(what: str, mine: Any, theirs: Any, name: str) -> str | None:
    was, new = getattr(mine, name), getattr(theirs, name)
    setattr(mine, name, new)
    return None if was == new else f"{what}: {was} -> {new}, as on the other side"
