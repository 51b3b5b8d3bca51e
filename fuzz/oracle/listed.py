"""Whether a side lists all that an operation touches.

The oracle compares what the lists `touched` name and nothing else, and takes a pool that is not marked as it was. Both
sides share the containers that keep the lists, so what neither lists, neither comparison sees: here an operation's
state before it is set against the state after it. That costs as much as there are runs, so it is done now and then.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple

from fuzz.oracle.finding import Difference, Layer
from fuzz.oracle.observe import union, without
from mm.hstate import HState
from mm.kernel import Kernel
from mm.runs import RunMap

EVERY: Final = 32
"""Operations of a program of which one is looked at."""

Spans = list[tuple[int, int]]


class Runs(NamedTuple):
    """The runs of a container as they were."""

    starts: list[int]
    ends: list[int]
    vals: list[Any]


class Books(NamedTuple):
    """A kernel before an operation."""

    owners: Runs
    entries: Runs
    own: Runs
    others: list[Runs]
    pools: list[tuple[Any, ...]]


def turn(step: int) -> bool:
    """Whether the operation of this number is looked at. The first ones make the machine, and most programs are some
    dozen operations long."""
    return step % EVERY == EVERY // 4


def look(k: Kernel) -> Books:
    """Copy what the lists speak of."""
    pools = [_pool(h) for h in k.hstates.values()]
    others = [_copy(runs) for runs in (*_sections(k), *_blocks(k))]
    return Books(_copy(k.pages.owners), _copy(k.tables.entries), _copy(k.memmap.own), others, pools)


def missing(k: Kernel, side: str, before: Books) -> Difference | None:
    """What has changed since and is in no list; asked before the lists are emptied."""
    pfn = k.arch.pfn
    mapped = k.tables.touched
    left = _left(before.owners, k.pages.owners, k.pages.touched)
    if left is not None:
        return _broken(side, "frames", "owner", left)
    left = _left(before.entries, k.tables.entries, mapped)
    if left is not None:
        return _broken(side, "mapping", "entry", left)
    left = _left(before.own, k.memmap.own, [*k.memmap.touched, *((pfn(lo), pfn(hi)) for lo, hi in mapped)])
    if left is not None:
        return _broken(side, "structpages", "content", left)
    sections = len(_sections(k))
    for name, first, kept, touched in (
        ("section", 0, _sections(k), k.sections.touched),
        ("memory block", sections, _blocks(k), k.memory_blocks.touched),
    ):
        if not touched and any(_copy(runs) != was for runs, was in zip(kept, before.others[first:], strict=False)):
            return _broken(side, "structpages", name, "has changed, and no list says so")
    for h, then in zip(k.hstates.values(), before.pools, strict=True):
        if not h.touched and _pool(h) != then:
            return _broken(side, "accounting", f"pool of order {h.order}", "has changed, and is not marked")
    return None


def _left(was: Runs, now: RunMap[Any], touched: Spans) -> str | None:
    """What has changed and is not among `touched`."""
    if now.starts == was.starts and now.ends == was.ends and now.vals == was.vals:
        return None
    left = without(_changed(was, now), union(list(touched)))
    return f"of {left[0][0]:#x}..{left[0][1]:#x} has changed, and no list says so" if left else None


def _broken(side: str, layer: Layer, name: str, what: str) -> Difference:
    return Difference(layer, f"{side}: not listed", name, f"{side}: {name} {what}")


def _sections(k: Kernel) -> list[Any]:
    return [k.sections.flags, k.sections.usage, k.sections.nid, k.sections.subsections]


def _blocks(k: Kernel) -> list[Any]:
    return [k.memory_blocks.zone, k.memory_blocks.nid]


def _copy(runs: Any) -> Runs:
    return Runs(runs.starts[:], runs.ends[:], runs.vals[:] if isinstance(runs, RunMap) else [])


def _pool(h: HState) -> tuple[Any, ...]:
    turns = h.next_nid_to_alloc, h.next_nid_to_free
    free = [list(pfns) for pfns in h.free]
    return h.nr[:], h.surplus[:], h.resv, h.max_huge_pages, h.nr_overcommit, turns, free


def _changed(was: Runs, now: RunMap[Any]) -> Spans:
    """The places whose value is another, sorted."""
    old = list(zip(was.starts, was.ends, was.vals, strict=True))
    new = now.items()
    first = 0
    while first < len(old) and first < len(new) and old[first] == new[first]:
        first += 1
    last = 0
    while last < min(len(old), len(new)) - first and old[-1 - last] == new[-1 - last]:
        last += 1
    old, new = old[first : len(old) - last], new[first : len(new) - last]
    out: Spans = []
    i = j = 0
    bounds = sorted({bound for lo, hi, _ in (*old, *new) for bound in (lo, hi)})
    for lo, hi in pairwise(bounds):
        while i < len(old) and old[i][1] <= lo:
            i += 1
        while j < len(new) and new[j][1] <= lo:
            j += 1
        mine = old[i][2] if i < len(old) and old[i][0] <= lo else None
        theirs = new[j][2] if j < len(new) and new[j][0] <= lo else None
        if mine != theirs:
            out.append((lo, hi))
    return out
