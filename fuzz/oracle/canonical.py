"""One name for all states of a pair that behave alike: the canonical form that `explore` merges states by.

Sound means: two pairs with equal forms answer every continuation alike, with the same findings. The form is made so
that this holds by construction, in two steps.

**Everything counts unless it is named here.** The form walks both kernels, the oracle and the live handles through all
their attributes, so an attribute that somebody adds to a model tomorrow is part of it. `IGNORED` lists those that are
left out, each with the reason why no later operation can depend on it. Handles count by what they stand for, not by
their names: a program that made the same things in another order has other names for them.

**Pages of one pageblock are symmetric.** Single frames are taken lowest address first, so *which pageblock* a frame
comes from decides what becomes of later huge pages; which frame of the pageblock decides nothing: pageblocks are
allocated, freed, isolated and merged whole, and nothing looks at the place of a frame in its pageblock. So a
permutation of the frames of one pageblock, applied wherever their numbers occur (owners, free areas, entries and
tables of the vmemmap, shared tails, extents of handles), maps runs to runs. The form replaces a frame by its
pageblock, joined with what distinguishes it from the others: its owner, its reference count, what maps it. It does so
only in pageblocks that are broken and of one zone, and whose own struct pages all look alike, for these would tell
their frames apart; elsewhere frames keep their numbers. One thing in the models does follow neighbourhood of frames:
the restore of a folio hands out several extents in reverse. That permutes the private vmemmap pages of that one
folio, which are freed together.

**Sections and nodes are not symmetric**, though it is tempting. Of two sections with RAM the lower one is used first,
and a zone's span reaches over the lower one when only the upper one is there, which decides in which zone memory comes
online. Node 0 holds ZONE_DMA and is first in every list. A form that swapped them would merge states that differ;
`tests/fuzz/oracle/test_canonical.py` has the programs that show it. Device memory takes part in neither, and there
`fuzz.engines.explore` uses the symmetry where it is exact: in which of two equal slots the first device goes.
"""

from __future__ import annotations

import marshal
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import cache
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Final

from fuzz.oracle.accounting import INITIALIZED, Accounting
from fuzz.oracle.compare import Oracle
from fuzz.oracle.history import History
from mm.arch import Arch
from mm.cma import CmaAreas
from mm.fault import FaultInjector
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.machine import Machine
from mm.memblock import Memblock
from mm.memory import MemoryBlocks
from mm.mmzone import Node, Sections, Zone
from mm.page import MemMap
from mm.page_alloc import PageAllocator
from mm.pgtable import Strided, VmemmapTables
from mm.runs import RunMap, RunSet
from mm.vmstat import Vmstat

IGNORED: Final[dict[type, dict[str, str]]] = {
    Kernel: {
        "log": "cleared before each operation",
        "boot_requests": "used at boot only",
        "paths": "in the form of the kernel, but for its tails",
        "nodes": "in the form of the zones",
    },
    Memblock: {"free_by_node": "used at boot only", "noinit": "used at boot only"},
    Zone: {"blocks": "in the form of the zones", "frags": "in the form of the zones"},
    VmemmapTables: {
        "entries": "in the form of the frames",
        "tables": "in the form of the frames",
        "spans": "constant",
        "touched": "emptied after each operation",
        "undone": "emptied after each operation",
    },
    FaultInjector: dict.fromkeys(
        ("armed", "failed", "fired", "first", "last", "points", "reached"), "set anew when an operation begins"
    ),
    Vmstat: {"struct_pages_initialized": "a running total; the difference between the sides is in the pair's form"},
    PageAllocator: {
        "owners": "in the form of the frames",
        "refs": "in the form of the frames",
        "holders": "the extents of the handles, looked up by frame",
        "nodes": "in the form of the kernel",
        "short": "a running total, of which only the change in an operation is asked",
        "short_of_blocks": "likewise",
        "spilled": "a running total; whether it is 0 is in the form of the frames",
        "touched": "emptied after each operation",
        "_zonelists": "a cache of what never changes",
    },
    MemMap: {
        "frames": "in the form of the frames",
        "tables": "in the form of the kernel",
        "vmstat": "in the form of the kernel",
        "touched": "emptied",
    },
    CmaAreas: {"alloc_contig_range": "constant"},
    Sections: {"touched": "emptied", "unpopulated": "emptied"},
    MemoryBlocks: {"touched": "emptied", "tried": "emptied before each operation"},
    HState: {
        "touched": "emptied",
        "folios": "has a form of its own, by pfn",
        "mapped": "has a form of its own, without the numbers of its lists",
    },
    Oracle: {
        "ref": "in the form of the pair",
        "cand": "in the form of the pair",
        "clauses": "a record of what was used",
        "_lists": "what operations touched, emptied",
        "_name": "set before each operation",
        "_args": "set before each operation",
        "_subsections": "set before the operation that uses it",
        "_short": "set before each operation",
        "_tails": "looked up from the kernels",
        "_pairs": "looked up from the kernels",
        "_tails_of": "looked up from the kernels",
    },
    History: {
        "ref": "in the form of the pair",
        "cand": "in the form of the pair",
        "accounting": "in the form of the oracle",
        "used": "a record of what was used",
        "headless": "empty, or the program is over",
        "_fresh_blocks": "set anew by each operation",
    },
    Accounting: {
        "ref": "in the form of the pair",
        "cand": "in the form of the pair",
        "offset": "in the form of the pair",
        "_zones": "lists of the kernels' zones",
        "_pairs": "the kernels' zones and their counters now",
        "free": "constant",
    },
}
"""Attributes that are not walked, and why."""

Form = Any
"""Nested tuples of numbers and texts."""


def canonical(oracle: Oracle, handles: Iterable[tuple[Any, Any]], *, pages: bool = True) -> bytes:
    """The name of a pair's state between two operations; `handles` are the live ones, as each side knows them.

    Without `pages`, frames keep their numbers everywhere: a finer form, which tests hold against the other.
    """
    ref, cand = oracle.ref, oracle.cand
    accounting = oracle.accounting
    drift = cand.vmstat.struct_pages_initialized - ref.vmstat.struct_pages_initialized
    offset = list(accounting.offset)
    offset[INITIALIZED] -= drift
    sides = [Side(k, pages) for k in (ref, cand)]
    known = sorted(repr(tuple(side.handle(thing) for side, thing in zip(sides, pair, strict=True))) for pair in handles)
    form = (tuple(side.form() for side in sides), tuple(known), tuple(offset), walk(oracle))
    # Format 2 has no back references, which would show whether equal parts are one object.
    return blake2b(marshal.dumps(form, 2), digest_size=16).digest()


# -- everything -----------------------------------------------------------------------------------------------------


def walk(thing: Any) -> Form:
    """The form of anything, by its attributes."""
    kind = type(thing)
    if kind in _ATOMS:
        return thing
    make = _FORMS.get(kind)
    if make is not None:
        return make(thing)
    if isinstance(thing, Enum):
        return thing.name
    if isinstance(thing, tuple | list):
        return tuple([walk(part) for part in thing])
    if kind is dict:
        return tuple([(walk(key), walk(value)) for key, value in thing.items()])
    if kind is set or kind is frozenset:
        return tuple(sorted([walk(part) for part in thing], key=repr))
    return tuple([(name, walk(getattr(thing, name))) for name in _attributes(thing)])


_ATOMS: Final = frozenset({int, str, bool, type(None)})


def _attributes(thing: Any) -> list[str]:
    """Names of the attributes that count."""
    kind: type = type(thing)
    own = getattr(thing, "__dict__", None)
    return _counting(kind, None if own is None else tuple(own))


@cache
def _counting(kind: type, own: tuple[str, ...] | None) -> list[str]:
    """Names of the attributes that count of a thing of this kind, whose dictionary has these, if it has one."""
    if own is None and kind.__module__.startswith("mm.") and not hasattr(kind, "__slots__"):
        raise TypeError(f"{kind.__name__} does not show its attributes: it is compiled")
    slots = {name for base in kind.__mro__ for name in getattr(base, "__slots__", ())}
    return sorted(slots.union(own or ()) - IGNORED.get(kind, {}).keys())


def _run_map(runs: RunMap[Any]) -> Form:
    vals = runs.vals
    plain = not vals or type(vals[0]) in _ATOMS
    return tuple(runs.starts), tuple(runs.ends), tuple(vals if plain else [walk(val) for val in vals])


_FLAGS: Final = (
    *("refcount", "vmemmap_optimized", "temporary", "cma", "hwpoison", "raw_hwp", "raw_hwp_unreliable", "hugetlb"),
)
_flags: Final = attrgetter("pfn", "order", "nid", *_FLAGS)


def _folio(folio: Folio) -> Form:
    """A folio in full; its attributes beyond the known ones too."""
    more = sorted(vars(folio).keys() - {*_FLAGS, "pfn", "order", "nid", "zone"})
    return (*_flags(folio), folio.zone.key, tuple((name, walk(getattr(folio, name))) for name in more))


def _pool(pool: HState) -> Form:
    folios = tuple(_folio(pool.folios[pfn]) for pfn in sorted(pool.folios))
    mapped = tuple(sorted(tuple(folio.pfn for folio in mapping) for mapping in pool.mapped))
    return folios, mapped, tuple((name, walk(getattr(pool, name))) for name in _attributes(pool))


_FORMS: Final[dict[type, Any]] = {
    RunMap: _run_map,
    RunSet: lambda runs: (tuple(runs.starts), tuple(runs.ends)),
    Zone: lambda zone: zone.key,  # in full: `Side._zones`
    Folio: _folio,
    HState: _pool,
    Kernel: lambda k: "kernel",  # a way back to the whole
    Arch: lambda arch: "arch",  # constant
    Machine: lambda machine: "machine",  # constant
    Node: lambda node: node.nid,  # in full: `Side._zones`
}


# -- frames ---------------------------------------------------------------------------------------------------------


class Side:
    """The form of one kernel, with the frames of broken pageblocks known by their pageblock."""

    def __init__(self, k: Kernel, pages: bool) -> None:
        self.k = k
        self.shift = k.pages.block_order
        self.alike = sorted(self._alike()) if pages else []
        """Pageblocks whose frames are symmetric."""
        self.names = self._names()

    def form(self) -> Form:
        """All of it."""
        k = self.k
        own = [(name, walk(getattr(k, name))) for name in _attributes(k)]
        own += [(name, walk(getattr(k.paths, name))) for name in _attributes(k.paths) if name != "tails"]
        frames = self._entries(), self._tables(), self._owners(), self._special(), k.pages.spilled > 0
        return tuple(own), self._zones(), frames

    def handle(self, thing: Any) -> Form:
        """What a handle stands for."""
        if isinstance(thing, list):
            return self.extents(thing)
        for number, device in enumerate(self.k.pgmaps):
            if device is thing:
                return "device", number
        return walk(thing)

    def extents(self, extents: list[tuple[int, int]]) -> Form:
        """Frames of a handle: how many of each pageblock, or which."""
        counts: Counter[int] = Counter()
        exact = []
        for pfn, n in extents:
            for lo, hi, block in self._cut(pfn, pfn + n):
                if block < 0:
                    exact.append((lo, hi))
                else:
                    counts[block] += hi - lo
        owner = self.k.pages.owners.get(extents[0][0]) if extents else None
        return "extents", owner, tuple(sorted(exact)), tuple(sorted(counts.items()))

    def _alike(self) -> frozenset[int]:
        """Broken pageblocks of one zone whose struct pages all look alike and are private."""
        k, shift = self.k, self.shift
        size = 1 << shift
        blocks: set[int] = set()
        owners = k.pages.owners
        for lo, hi in zip(owners.starts, owners.ends, strict=True):
            if lo & size - 1:
                blocks.add(lo >> shift)
            if hi & size - 1:
                blocks.add(hi >> shift)
        leaves = {
            frame >> shift
            for lo, hi, m in k.tables.entries.items()
            if m.kind == "leaf"
            for frame in range(lo + m.delta, hi + m.delta, size)
        }
        blocks -= leaves | {frame >> shift for frame in k.pages.hwpoison}
        return frozenset(block for block in blocks if self._uniform(block << shift, (block + 1) << shift))

    def _uniform(self, lo: int, hi: int) -> bool:
        k = self.k
        homes = k.pages.zone_of.run(lo)
        if homes is None or homes[1] < hi:
            return False
        contents = k.memmap.own.runs(lo, hi)
        if contents and contents[0][:2] != (lo, hi):
            return False
        arch = k.arch
        at, end = arch.vpn(lo), arch.vpn(hi)
        for s, e, m in k.tables.entries.runs(at, end):
            if s != at or m.kind == "shared" or m.kind == "strided":
                return False
            at = e
        return at == end and arch.pfn(end) == hi

    def _cut(self, lo: int, hi: int) -> list[tuple[int, int, int]]:
        """A range of frames as (lo, hi, pageblock), in symmetric pageblocks, and (lo, hi, -1) between them."""
        out: list[tuple[int, int, int]] = []
        shift, alike = self.shift, self.alike
        i = bisect_left(alike, lo >> shift)
        while lo < hi:
            start = alike[i] << shift if i < len(alike) else hi
            if start > lo:
                end = min(hi, start)
                out.append((lo, end, -1))
            else:
                end = min(hi, (alike[i] + 1) << shift)
                out.append((lo, end, alike[i]))
                i += 1
            lo = end
        return out

    def _where(self, lo: int, hi: int) -> Iterator[tuple[int, int, Form]]:
        """A range of frames as (lo, hi, pageblock and owner), or None for frames that keep their numbers."""
        for s, e, block in self._cut(lo, hi):
            if block < 0:
                yield s, e, None
                continue
            at = s
            for a, b, owner in self.k.pages.owners.runs(s, e):
                if at < a:
                    yield at, a, (block, "nobody")
                yield a, b, (block, owner)
                at = b
            if at < e:
                yield at, e, (block, "nobody")

    def _names(self) -> dict[int, Form]:
        """Names of the frames that are shared or have a reference count: a tail's, or the first vpn that maps it."""
        k = self.k
        names: dict[int, Form] = {frame: ("tail", name) for name, frame in k.paths.zone_tails().items()}
        wanted = set(k.pages.refs) | set(k.memmap.frames)
        for lo, _, m in k.tables.entries.items():
            shared = m.frame if m.kind == "shared" else m.tail if m.kind == "strided" else None
            if shared is not None:
                names.setdefault(shared, ("first", lo))
        for lo, hi, m in k.tables.entries.items():
            if m.kind == "pte" or m.kind == "leaf":
                for frame in wanted:
                    if lo + m.delta <= frame < hi + m.delta:
                        names.setdefault(frame, ("first", frame - m.delta))
        for frame in wanted:
            names.setdefault(frame, ("frame", frame))
        return names

    def _label(self, frame: int) -> Form:
        ((_, _, where),) = self._where(frame, frame + 1)
        return frame if where is None else where

    def _entries(self) -> Form:
        """The mapping: rows (lo, hi, form) in which equal neighbours are one."""
        out: list[list[Any]] = []
        for lo, hi, m in self.k.tables.entries.items():
            if m.kind == "pte" or m.kind == "leaf":
                rw = m.kind == "leaf" or m.rw
                for s, e, where in self._where(lo + m.delta, hi + m.delta):
                    self._put(out, s - m.delta, e - m.delta, (m.kind, rw, m.delta if where is None else where))
                for frame, name in self.names.items():
                    if lo + m.delta <= frame < hi + m.delta:
                        self._put(out, frame - m.delta, frame - m.delta, name)
            elif m.kind == "shared":
                self._put(out, lo, hi, ("shared", m.rw, self.names[m.frame]))
            else:
                self._row(out, lo, hi, m)
        return tuple(map(tuple, out))

    @staticmethod
    def _put(out: list[list[Any]], lo: int, hi: int, form: Form) -> None:
        if out and out[-1][1] == lo and out[-1][2] == form:
            out[-1][1] = hi
        else:
            out.append([lo, hi, form])

    def _row(self, out: list[list[Any]], lo: int, hi: int, m: Strided) -> None:
        """A row of compound pages: its periods by the pageblock that their kept frames come from."""
        tail = None if m.tail is None else self.names[m.tail]
        shape = ("row", m.period, m.keep, m.phase, m.rw, tail, m.tail_rw)
        at = lo
        while at < hi:
            start = at - (at - m.phase) % m.period
            stop = min(hi, start + m.period)
            first = m.base + (start - m.phase) // m.period * m.keep
            kept = [self._label(frame) for frame in range(first, first + m.keep)]
            # A whole run of periods whose frames keep their numbers is one row, by its base.
            exact = all(label.__class__ is int for label in kept)
            self._put(out, at, stop, (*shape, m.base if exact else tuple(kept)))
            at = stop

    def _tables(self) -> Form:
        levels = []
        for tables in self.k.tables.tables:
            out: list[list[Any]] = []
            for lo, hi, delta in tables.items():
                for s, e, where in self._where(lo + delta, hi + delta):
                    self._put(out, s - delta, e - delta, delta if where is None else where)
            levels.append(tuple(map(tuple, out)))
        return tuple(levels)

    def _owners(self) -> Form:
        counts: Counter[tuple[int, str]] = Counter()
        exact = []
        for lo, hi, owner in self.k.pages.owners.items():
            for s, e, block in self._cut(lo, hi):
                if block < 0:
                    exact.append((s, e, owner))
                else:
                    counts[block, owner] += e - s
        return tuple(exact), tuple(sorted(counts.items()))

    def _special(self) -> Form:
        """Shared frames: where they are, whose, how often referenced, what they hold."""
        pages, frames = self.k.pages, self.k.memmap.frames
        rows = [
            (name, self._label(frame), pages.owners.get(frame), pages.refs.get(frame), walk(frames.get(frame)))
            for frame, name in self.names.items()
        ]
        return tuple(sorted(rows, key=repr))

    def _zones(self) -> Form:
        """All zones. Free frames of a symmetric pageblock are as many as its owners leave."""
        zones = []
        for zone in (zone for node in self.k.nodes for zone in node.zones):
            own = tuple((name, walk(getattr(zone, name))) for name in _attributes(zone))
            free = [part for lo, hi in zone.frags.items() for part in self._cut(lo, hi)]
            exact = tuple((lo, hi) for lo, hi, block in free if block < 0)
            zones.append((own, walk(zone.blocks), exact))
        return tuple(zones)
