"""The reference model beside a snapshot of a real kernel: the first thing that differs, as a sentence.

Compared exactly, as changes since the boot: memmap counters, page tables made by splitting, MemTotal. Exactly, as they
are: pools and their free lists, memory blocks, which pages are huge and which are optimized, and for every section how
its memmap is mapped: not at all, by a leaf, or by a table; there which pages are mapped, which are writable, and which
share a frame, across sections (frames up to their numbers). Free pages: within the noise that the guest's own small
allocations make.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, TypeVar

from fuzz.oracle.finding import Difference, Outcome
from live.folios import HugeFolio
from live.mirror import model_blocks, model_ptes, poisoned
from live.pagetable import PTRS, Entry, Leaf, decode
from live.placement import GIGANTIC, ToldAllocator
from live.snapshot import Snapshot
from mm.folio import Folio
from mm.kernel import Kernel
from mm.mmzone import Zone
from mm.pgtable import Leaf as ModelLeaf
from mm.pgtable import Mapping, frame_at

FREE_NOISE: Final = 128
"""Pages by which free memory may wander from the model's, since the boot."""
FREE_STEP: Final = 40
"""The same, in one operation."""

USER_TABLES: Final = 3
"""Page tables of a process that one mapping can need of its own."""

BOOT_TAIL_REFCOUNT: Final = "boot-tail-refcount"
"""Linux 7.3: the tail frame of gigantic pages optimized at boot (pre-HVO) shows a page reference count of 1 instead of
0, because memmap_init writes it through its writable aliases and init_compound_tail leaves the count alone. Huge pages
that later begin at such a struct page (demoted, or allocated where a gigantic page was that shared the frame, which
those made later in the zone do too) are free with a count of 1, and cannot be dissolved. Nor does take_page_off_buddy
(mm/page_alloc.c) find such a page: poisoning one is -EBUSY after the huge page was dissolved. See docs/live.md."""
SPP: Final = 64

K = TypeVar("K")
Pairs = frozenset[tuple[int, int]]
"""(model's frame, kernel's frame) of pages that both map."""


@dataclass(slots=True)
class Counters:
    """What changes are counted from: after the boot, on each side."""

    live: Snapshot
    nr_memmap: int
    nr_memmap_boot: int
    nr_page_table_pages: int
    managed: int
    free: list[int]
    drift: list[int] = field(default_factory=list)
    """By how much free memory wandered from the model's so far, by node."""
    user_tables: int = 0
    """Page tables of the agent itself, from mapping huge pages."""
    leaving: int = 0
    """How many of those may still go: tables of an unmapped range are freed after an RCU grace period."""


class Comparison:
    """Compares one model with one guest, operation after operation."""

    def __init__(self, k: Kernel, live: Snapshot) -> None:
        self.k = k
        self.start = Counters(live, *_model_counters(k), [0] * len(live.free))
        self._pairs: dict[int, Pairs] = {}
        self._mine: Counter[int] = Counter()
        self._its: Counter[int] = Counter()
        self._both: Counter[tuple[int, int]] = Counter()
        self._runs: set[tuple[int, int, Mapping]] = set()
        self._mapped: dict[int, Entry] = {}
        self.boot_hvo: set[int] = set()
        """Gigantic pages that have shared a tail frame made at boot, by their first pfn."""
        self.boot_zones = {zone for _, zone in self._gigantic(live)}
        self._share(live)
        self.explained: set[str] = set()
        """Known deviations of the kernel from its own rules that were seen."""

    def difference(self, operation: str, rc: Outcome, live_rc: Outcome, live: Snapshot) -> Difference | None:
        """The first difference after an operation."""
        self._share(live)
        if rc != live_rc:
            return Difference("returns", "rc", "changed", f"the model returned {rc}, the kernel {live_rc}")
        if live.complaints:
            return Difference("returns", "log", "changed", f"the kernel says: {live.complaints[0].strip()}")
        return (
            self._pools(live)
            or self._folios(live)
            or self._blocks(live)
            or self._mapping(live)
            or self._counters(operation, live)
            or self._free(live)
        )

    def _gigantic(self, live: Snapshot) -> list[tuple[int, Zone | None]]:
        """First pfn and zone of the optimized gigantic pages."""
        zone_of = self.k.pages.zone_of
        return [(f.pfn, zone_of.get(f.pfn)) for f in live.folios.values() if f.order == 18 and f.optimized]

    def _share(self, live: Snapshot) -> None:
        """Gigantic pages made later share the tail frame that the boot made in their zone."""
        self.boot_hvo |= {pfn for pfn, zone in self._gigantic(live) if zone in self.boot_zones}

    # -- one layer each ---------------------------------------------------------------------------------------------

    def _counters(self, operation: str, live: Snapshot) -> Difference | None:
        start, base = self.start, self.start.live
        nr_memmap, boot, tables, managed, _ = _model_counters(self.k)
        rows = [
            ("nr_memmap", nr_memmap - start.nr_memmap, live.nr_memmap - base.nr_memmap),
            ("nr_memmap_boot", boot - start.nr_memmap_boot, live.nr_memmap_boot - base.nr_memmap_boot),
            ("HardwareCorrupted", poisoned(self.k), live.poisoned),
            ("MemTotal", managed - start.managed, live.managed - base.managed),
        ]
        live_tables = live.nr_page_table_pages - base.nr_page_table_pages
        model_tables = tables - start.nr_page_table_pages
        if operation in ("hugetlb map", "hugetlb unmap"):
            # The agent's own tables are in the same counter; the vmemmap's have just been compared one by one.
            start.user_tables = live_tables - model_tables
            start.leaving = USER_TABLES
        late = model_tables - (live_tables - start.user_tables)
        if 0 < late <= start.leaving:
            start.user_tables -= late
            start.leaving -= late
        rows.append(("nr_page_table_pages", model_tables, live_tables - start.user_tables))
        for name, mine, its in rows:
            if mine != its:
                drift = "+" if its > mine else "-"
                return Difference(
                    "accounting", name, drift, f"{name} since boot: {mine:+} in the model, {its:+} in the kernel"
                )
        return None

    def _free(self, live: Snapshot) -> Difference | None:
        start = self.start
        model = _model_counters(self.k)[4]
        for nid, (mine, its) in enumerate(zip(model, live.free, strict=True)):
            mine -= start.free[nid]
            its -= start.live.free[nid]
            step = its - mine - start.drift[nid] if start.drift else 0
            if abs(its - mine) > FREE_NOISE or abs(step) > FREE_STEP:
                drift = "+" if its > mine else "-"
                text = f"free pages of node {nid} since boot: {mine:+} in the model, {its:+} in the kernel"
                return Difference("accounting", f"node{nid}.free", drift, text)
        start.drift = [
            its - first - mine + was
            for its, first, mine, was in zip(live.free, start.live.free, model, start.free, strict=True)
        ]
        return None

    def _pools(self, live: Snapshot) -> Difference | None:
        for order, pool in live.pools.items():
            h = self.k.hstates[order]
            rows = [
                ("nr_hugepages", h.nr, pool.nr),
                ("free_hugepages", [len(free) for free in h.free], pool.free),
                ("surplus_hugepages", h.surplus, pool.surplus),
                ("resv_hugepages", h.resv, pool.resv),
                ("nr_overcommit_hugepages", h.nr_overcommit, pool.overcommit),
            ]
            for name, mine, its in rows:
                if mine != its:
                    size = "1G" if order == 18 else "2M"
                    text = f"{size} {name}: {mine} in the model, {its} in the kernel"
                    return Difference("accounting", f"{name}.{order}", "changed", text, size)
        return None

    def _folios(self, live: Snapshot) -> Difference | None:
        k = self.k
        for order, h in k.hstates.items():
            size = "1G" if order == 18 else "2M"
            its = {pfn: f for pfn, f in live.folios.items() if f.order == order}
            if its.keys() != h.folios.keys():
                pfn = min(its.keys() ^ h.folios.keys())
                text = f"{size} page at {hex(pfn << 12)}: only the {'kernel' if pfn in its else 'model'} has it"
                return Difference("structpages", "hugetlb", "changed", text, size)
            for pfn, folio in its.items():
                mine = h.folios[pfn]
                if mine.vmemmap_optimized != folio.optimized:
                    word = "optimized" if folio.optimized else "not optimized"
                    text = f"{size} page at {hex(pfn << 12)} is {word} in the kernel, not so in the model"
                    return Difference("structpages", "vmemmap_optimized", "changed", text, size)
                if mine.cma != folio.cma:
                    word = "has" if folio.cma else "does not have"
                    text = f"{size} page at {hex(pfn << 12)} {word} the mark cma in the kernel, not so in the model"
                    return Difference("structpages", "cma", "changed", text, size)
                if folio.free != (pfn in h.free[mine.nid]):
                    word = "free" if folio.free else "in use"
                    text = f"{size} page at {hex(pfn << 12)} is {word} in the kernel, not so in the model"
                    return Difference("structpages", "free", "changed", text, size)
                if mine.refcount != folio.refcount and self._stale_refcount(mine, folio):
                    continue
                if mine.refcount != folio.refcount:
                    where = f"{size} page at {hex(pfn << 12)}"
                    text = f"{where}: refcount {mine.refcount} in the model, {folio.refcount} in the kernel"
                    return Difference("structpages", "refcount", "changed", text, size)
            for nid, free in enumerate(h.free):
                row = list(reversed(free))
                for pfn, after in zip(row, [*row[1:], None], strict=False):
                    if its[pfn].next != after:
                        text = f"{size} free list of node {nid}: another page follows {hex(pfn << 12)}"
                        return Difference("structpages", "free_list", "changed", text, size)
        return None

    def boot_tail(self, pfn: int) -> bool:
        """Whether the struct page of `pfn` may have the reference count of BOOT_TAIL_REFCOUNT."""
        return any(lo + SPP <= pfn < lo + GIGANTIC for lo in self.boot_hvo)

    def _stale_refcount(self, mine: Folio, its: HugeFolio) -> bool:
        """The kernel's known deviation BOOT_TAIL_REFCOUNT; the model's folio is made to agree, since it decides later
        results.
        """
        if its.refcount != 1 or mine.refcount:
            return False
        if not self.boot_tail(its.pfn):
            return False
        self.explained.add(BOOT_TAIL_REFCOUNT)
        mine.refcount = 1
        return True

    def _blocks(self, live: Snapshot) -> Difference | None:
        mine = model_blocks(self.k)
        for block in sorted(mine.keys() | live.blocks.keys()):
            a, b = mine.get(block, "absent"), live.blocks.get(block, "absent")
            # "none": the block reaches into more than one zone.
            if a != b and b != "none":
                return Difference(
                    "accounting", "memory_block", "changed", f"memory{block}: {a} in the model, {b} in the kernel"
                )
        return None

    # -- mapping ----------------------------------------------------------------------------------------------------

    def _mapping(self, live: Snapshot) -> Difference | None:
        for section in sorted(self._changed(live)):
            runs = self.k.tables.entries.runs(section * PTRS, (section + 1) * PTRS)
            got = _section_pairs(section, runs, live.mapping.get(section))
            if isinstance(got, Difference):
                return got
            was = self._pairs.get(section, frozenset())
            self._count(was - got, -1)
            self._count(got - was, 1)
            self._pairs[section] = got
        mine, its = len(self._mine), len(self._its)
        if not mine == its == len(self._both):
            text = f"frames are shared differently: {mine} frames in the model, {its} in the kernel"
            return Difference("mapping", "sharing", "+" if its > mine else "-", text)
        return None

    def _changed(self, live: Snapshot) -> set[int]:
        """Sections whose memmap either side maps otherwise than when it was compared last."""
        runs, mapping = set(self.k.tables.entries.items()), live.mapping
        out = {pmd for lo, hi, _ in runs ^ self._runs for pmd in range(lo // PTRS, -(-hi // PTRS))}
        was = self._mapped
        out |= {section for section in was.keys() | mapping.keys() if was.get(section) != mapping.get(section)}
        self._runs, self._mapped = runs, mapping
        return out

    def _count(self, pairs: Pairs, by: int) -> None:
        """Sections that map a frame, by the model's name for it, the kernel's, and both."""
        for pair in pairs:
            _count(self._mine, pair[0], by)
            _count(self._its, pair[1], by)
            _count(self._both, pair, by)


def _count(counts: Counter[K], key: K, by: int) -> None:
    counts[key] += by
    if not counts[key]:
        del counts[key]


def _section_pairs(
    section: int, runs: list[tuple[int, int, Mapping]], entry: Leaf | bytes | None
) -> Pairs | Difference:
    where = f"memmap of section {section} ({hex(section << 27)})"
    leaf = bool(runs) and isinstance(runs[0][2], ModelLeaf)
    mine = "nothing" if not runs else "a leaf" if leaf else "a table"
    its = "nothing" if entry is None else "a leaf" if isinstance(entry, Leaf) else "a table"
    if mine != its:
        return Difference("mapping", "level", "changed", f"{where}: {mine} in the model, {its} in the kernel")
    if entry is None:
        return frozenset()
    if isinstance(entry, Leaf):
        return frozenset({(frame_at(runs[0][2], section * PTRS), entry.frame)})
    model, kernel = model_ptes(section, runs), decode(entry)
    pairs = set(zip(model, kernel, strict=True))
    alike = all((a < 0) == (b < 0) and not (a ^ b) & 1 for a, b in pairs)
    for at, (a, b) in enumerate(zip(model, kernel, strict=True)) if not alike else ():
        if (a < 0) != (b < 0):
            text = f"{where}, page {at}: {_pte(a)} in the model, {_pte(b)} in the kernel"
            return Difference("mapping", "present", "+" if a < 0 else "-", text)
        if a >= 0 and (a ^ b) & 1:
            text = f"{where}, page {at}: {_pte(a)} in the model, {_pte(b)} in the kernel"
            return Difference("mapping", "writable", "+" if b & 1 else "-", text)
    return frozenset((a >> 1, b >> 1) for a, b in pairs if a >= 0)


def _pte(pte: int) -> str:
    return "unmapped" if pte < 0 else "writable" if pte & 1 else "read-only"


def _model_counters(k: Kernel) -> tuple[int, int, int, int, list[int]]:
    pages = k.pages
    assert isinstance(pages, ToldAllocator)
    v = k.vmstat
    free = [pages.node_free(node.nid) for node in k.nodes]
    return v.nr_memmap, v.nr_memmap_boot, v.nr_page_table_pages, pages.all_managed(), free
