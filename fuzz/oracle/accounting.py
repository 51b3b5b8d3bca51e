"""The accounting layer: counters, pools, memory blocks.

The candidate's counters must be the reference's plus an offset that follows from the live DAX pieces and from boot;
every field has its own offset, and a field without a rule has offset 0. For free pages the sum over all zones is exact.
Which zone saves them is known too, unless a zone ran out of free pageblocks, when the side that needs more takes some
from the next zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fuzz.oracle import rules
from fuzz.oracle.difference import maps_difference
from fuzz.oracle.finding import Difference
from fuzz.oracle.observe import FREE, VMSTAT, ZONE, counter_names, vmstat
from fuzz.oracle.parting import Room
from fuzz.oracle.pieces import Pieces
from fuzz.oracle.zones import ZonePair
from mm.altmap import Altmap
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.mmzone import Zone

MEMMAP: Final = VMSTAT.index("nr_memmap")
MANAGED: Final = ZONE.index("managed") - ZONE.index("free")
"""From a zone's free pages to its managed pages."""
LAYOUT: Final = ("present_pages", "cma_pages", "start_pfn", "end_pfn")
"""What changes in a zone only with the memory there is."""
INITIALIZED: Final = VMSTAT.index("struct_pages_initialized")


class Accounting:
    """Compares the accounting of two kernels; keeps the offsets between them."""

    __slots__ = (
        "_pairs",
        "_pools",
        "_zones",
        "astray",
        "cand",
        "drift",
        "free",
        "fresh",
        "initialized",
        "leaked",
        "moved",
        "offset",
        "ref",
        "saved",
        "unsettled",
    )

    def __init__(self, ref: Kernel, cand: Kernel) -> None:
        self.ref, self.cand = ref, cand
        self._zones, theirs = ([z for node in k.nodes for z in node.zones] for k in (ref, cand))
        self._pools = list(zip(ref.hstates.values(), cand.hstates.values(), strict=True))
        order = ref.pages.block_order
        self._pairs = [
            ZonePair(z, w, FREE + n * len(ZONE), order)
            for n, (z, w) in enumerate(zip(self._zones, theirs, strict=True))
        ]
        counters = FREE + len(self._zones) * len(ZONE)
        self.free = range(FREE, counters, len(ZONE))
        """Indices of free pages in `offset`."""
        self.offset = [0] * counters
        self.drift = 0
        """What the reference's nr_memmap has lost to failures (history-vmemmap-accounting-underflow)."""
        self.leaked = 0
        """How many frames it has lost (history-rollback-of-head)."""
        self.saved = 0
        """Free pages that the candidate must have more."""
        self.fresh = False
        """The expectation is new: `offset` has not been found to add up to `saved` yet."""
        self.initialized: Sequence[int] = ()
        """Not empty: how many struct pages more the operation may have initialised on the candidate."""
        self.moved = False
        """The operation may have moved pages to other zones, which are not as many on both sides."""
        self.astray = False
        """Pages of programs were moved to other zones, not as many on both sides: what frees or takes such pages later
        sees it."""
        self.unsettled = False
        """Boot memmap lies in other zones on the two sides: free and managed pages agree in sum, not zone by zone."""

    def _look(self) -> tuple[list[int], list[int]]:
        """The reference's counters, in the order of `counter_names`, and what the candidate has more of each."""
        a, more = vmstat(self.ref, self.cand)
        for p in self._pairs:
            a += p.free(), p.ref.managed_pages
            more += p.more(), p.more_managed()
        return a, more

    def free_alike(self) -> bool:
        """Whether the same pageblocks are free on both sides, and as many pages of each zone."""
        for p in self._pairs:
            x, y = p.ref.blocks, p.cand.blocks
            if x.starts != y.starts or x.ends != y.ends or p.more():
                return False
        return True

    def room_before(self, zones: int, cma: bool) -> tuple[Room, Room]:
        """What was free before the operation, by side, in each of the first `zones` zones of each node; with `cma` also
        what only movable allocations get."""
        per = len(self._zones) // len(self.ref.nodes)
        sides = Room([], []), Room([], [])
        for n in range(0, len(self._zones), per):
            for candidate, room in enumerate(sides):
                for p in self._pairs[n : n + zones]:
                    pages, blocks = p.room(candidate == 1, cma)
                    room.pages.append(pages)
                    room.blocks.append(blocks)
        return sides

    def expect(self, pieces: Pieces, device_tails: int, initialized: Sequence[int]) -> None:
        """Set what the counters must differ by after the operation."""
        self.offset[MEMMAP] = pieces.skew.nr_memmap + self.drift
        self.saved = -pieces.skew.frames - device_tails
        self.initialized = initialized
        self.fresh = True

    def lose(self, n: int) -> None:
        """The reference's nr_memmap has lost `n` for good."""
        self.drift += n
        self.offset[MEMMAP] += n

    def leak(self, zone: Zone | None, boot: bool) -> None:
        """The reference has lost a frame where the candidate has freed one, of boot memmap or not; in `zone` of the
        reference, if that is known."""
        self.saved += 1
        self.leaked += 1
        self.offset[MEMMAP + boot] -= 1
        if zone is not None:
            i = FREE + self._zones.index(zone) * len(ZONE)
            self.offset[i] += 1
            self.offset[i + MANAGED] += boot
        self.fresh = True

    def unsettle(self) -> bool:
        """Boot may have taken its memmap from other zones: whether it did."""
        self.unsettled = any(p.more_managed() for p in self._pairs)
        return self.unsettled

    def layout(self) -> Difference | None:
        """Compare which zones have which memory, of which pages the direct map is, and what kmemleak knows."""
        a, b = self.ref.memblock.kmemleak, self.cand.memblock.kmemleak
        if a.starts != b.starts or a.ends != b.ends:
            detail = f"objects of the leak detector: {a.items()} expected, {b.items()} found"
            return Difference("accounting", "kmemleak", "changed", detail)
        x, y = self.ref.direct_map, self.cand.direct_map
        if x is not None and y is not None and x.pages != y.pages:
            mine, theirs = x.arch_report_meminfo(), y.arch_report_meminfo()
            name = next(name for name in mine if mine[name] != theirs[name])
            return self._difference(name, mine[name], theirs[name])
        for p in self._pairs:
            z, w = p.ref, p.cand
            if (
                z.present_pages != w.present_pages
                or z.cma_pages != w.cma_pages
                or z.start_pfn != w.start_pfn
                or z.end_pfn != w.end_pfn
            ):
                for field in LAYOUT:
                    wanted, found = getattr(z, field), getattr(w, field)
                    if wanted != found:
                        return self._difference(f"zone{z.nid}.{z.idx}.{field}", wanted, found)
        return None

    def counters(self, used: rules.Clauses, quiet: bool = False, everything: bool = False) -> Difference | None:
        """Compare all counters; if the operation was `quiet`, only those of vmstat unless they differ. Zones that have
        what they had are not looked at unless `everything` is, or the expectation is new."""
        offset = self.offset
        v, w = self.ref.vmstat, self.cand.vmstat
        alike = (
            w.nr_memmap - v.nr_memmap == offset[0]
            and w.nr_memmap_boot - v.nr_memmap_boot == offset[1]
            and w.nr_page_table_pages - v.nr_page_table_pages == offset[2]
            and w.struct_pages_initialized - v.struct_pages_initialized == offset[3]
        )
        if alike and quiet:
            return None
        changed = [p for p in self._pairs if p.changed()]
        if self.initialized:
            found = w.struct_pages_initialized - v.struct_pages_initialized - offset[INITIALIZED]
            offset[INITIALIZED] += found if found in self.initialized else self.initialized[-1]
            self.initialized = ()
            alike = False
        if alike:
            total = 0
            for p in self._pairs if self.fresh or everything else changed:
                more = p.more()
                total += more
                if more != offset[p.at] or p.more_managed() != offset[p.at + MANAGED]:
                    alike = False
            alike = alike and (total == self.saved or not self.fresh)
        if not alike:
            a, actual = self._look()
            if actual != offset or (self.fresh and sum(actual[FREE :: len(ZONE)]) != self.saved):
                diff = self._explain(actual, a, used)
                if diff is not None:
                    return diff
        if offset[MEMMAP] != self.drift:
            used.add("dax-nr-memmap")
        if self.saved != self.leaked:
            used.add("dax-free-pages")
        self.fresh = False
        for p in changed:
            p.look()
        return None

    def _explain(self, actual: list[int], a: list[int], used: rules.Clauses) -> Difference | None:
        offset = self.offset
        if self.unsettled and sum(actual[i + MANAGED] for i in self.free) == 0:
            for i in self.free:
                offset[i + MANAGED] = actual[i + MANAGED]
        for i, (found, wanted) in enumerate(zip(actual, offset, strict=True)):
            if found != wanted and i not in self.free:
                return self._difference(counter_names(self._zones)[i], a[i] + wanted, a[i] + found)
        total = sum(actual[i] for i in self.free)
        if total != self.saved:
            have = sum(a[i] for i in self.free)
            return self._difference("free pages", have + self.saved, have + total)
        moved = [i for i in self.free if actual[i] != offset[i]]
        if not moved:
            return None
        zones = [self._zones[(i - FREE) // len(ZONE)] for i in moved]
        movable = any(zone.idx > 2 for zone in zones)
        if len(moved) > 1 or movable:
            spilled = self.moved or self.unsettled or rules.zone_spill(self.ref, self.cand)
            if not spilled or (movable and not (self.moved or self.astray)):
                i = moved[0]
                return self._difference(counter_names(self._zones)[i], a[i] + offset[i], a[i] + actual[i])
            used.add("dax-free-pages-zone")
            self.astray |= movable or self.moved
        for i in moved:
            offset[i] = actual[i]
        return None

    @staticmethod
    def _difference(name: str, wanted: int, found: int) -> Difference:
        detail = f"{name}: {wanted} expected, {found} found ({found - wanted:+})"
        return Difference("accounting", name, "+" if found > wanted else "-", detail)

    def pools(self, everything: bool = False) -> Difference | None:
        """Compare the pools that changed."""
        for x, y in self._pools:
            if not (x.touched or y.touched or everything):
                continue
            if _numbers(x) != _numbers(y):
                return self._pool_numbers(x, y)
            for nid in range(len(x.free)):
                f, g = x.free[nid], y.free[nid]
                if (f or g) and list(f) != list(g):
                    detail = f"free huge pages of node {nid}: {_show(list(f))} expected, {_show(list(g))} found"
                    return Difference("accounting", f"hugetlb.{x.order}.free", "changed", detail)
            if everything:
                diff = _folios(x, y)
                if diff is not None:
                    return diff
        if self.ref.hpage_freelist or self.cand.hpage_freelist:
            waiting, theirs = ([f.pfn for f in k.hpage_freelist] for k in (self.ref, self.cand))
            if waiting != theirs:
                detail = f"huge pages that wait for the work item: {_show(waiting)} expected, {_show(theirs)} found"
                return Difference("accounting", "hugetlb.hpage_freelist", "changed", detail)
        return None

    def poison(self) -> Difference | None:
        """Compare which single frames are poisoned, and how many each memory block counts."""
        x, y = self.ref, self.cand
        mine, theirs = x.pages.hwpoison, y.pages.hwpoison
        if mine != theirs:
            pfn = min(p for p in mine.keys() | theirs.keys() if mine.get(p) is not theirs.get(p))
            states = [m[pfn].value if pfn in m else "sound" for m in (mine, theirs)]
            detail = f"frame {pfn:#x}: poisoned, {states[0]}, expected; {states[1]} found"
            return Difference("accounting", "hwpoison", "changed", detail)
        a, b = x.memory_blocks.nr_hwpoison, y.memory_blocks.nr_hwpoison
        if a != b:
            return Difference("accounting", "nr_hwpoison", "changed", f"nr_hwpoison by block: {a} expected, {b} found")
        return None

    def _pool_numbers(self, x: HState, y: HState) -> Difference | None:
        names = ("resv", "overcommit", "max", "next_nid_to_alloc", "next_nid_to_free", "nr", "surplus")
        for name, p, q in zip(names, _numbers(x), _numbers(y), strict=True):
            if p != q:
                a, b = (sum(v) if isinstance(v, list) else v for v in (p, q))
                if a == b:
                    detail = f"hugetlb.{x.order}.{name}: {p} expected, {q} found, by node"
                    return Difference("accounting", f"hugetlb.{x.order}.{name}", "node", detail)
                return self._difference(f"hugetlb.{x.order}.{name}", a, b)
        return None

    def blocks(self, everything: bool = False) -> Difference | None:
        """Compare memory blocks, their altmaps, and those of devices."""
        x, y = self.ref.memory_blocks, self.cand.memory_blocks
        if x.touched or y.touched or everything:
            diff = maps_difference("accounting", "memory block", x.zone, y.zone)
            diff = diff or maps_difference("accounting", "memory block's node", x.nid, y.nid)
            if diff is not None:
                return diff
        if x.altmaps or y.altmaps or not self._no_altmaps():
            mine, theirs = ([_altmap(p.altmap) for p in k.pgmaps] for k in (self.ref, self.cand))
            mine += [_altmap(altmap) for altmap in x.altmaps.values()]
            theirs += [_altmap(altmap) for altmap in y.altmaps.values()]
            if mine != theirs:
                return Difference("accounting", "altmap", "changed", f"altmaps: {mine} expected, {theirs} found")
        return None

    def _no_altmaps(self) -> bool:
        """Whether both sides have the same number of devices, none of them with an altmap."""
        for pgmap in (*self.ref.pgmaps, *self.cand.pgmaps):
            if pgmap.altmap is not None:
                return False
        return len(self.ref.pgmaps) == len(self.cand.pgmaps)

    def forget(self) -> None:
        """The pools have been looked at."""
        for x, y in self._pools:
            x.touched = y.touched = False


def _numbers(h: HState) -> tuple[int | list[int], ...]:
    return h.resv, h.nr_overcommit, h.max_huge_pages, h.next_nid_to_alloc, h.next_nid_to_free, h.nr, h.surplus


def _folios(x: HState, y: HState) -> Difference | None:
    """Compare the folios of two pools one by one."""
    name = f"hugetlb.{x.order}"
    if x.folios.keys() != y.folios.keys():
        only = sorted(x.folios.keys() ^ y.folios.keys())
        return Difference("accounting", f"{name}.folios", "changed", f"huge pages of one side only: {_show(only)}")
    for pfn, folio in x.folios.items():
        other = y.folios[pfn]
        field = _unlike(folio, other)
        if field is not None:
            p, q = getattr(folio, field), getattr(other, field)
            detail = f"folio {pfn:#x}: {field} {p} expected, {q} found"
            return Difference("accounting", f"{name}.{field}", f"{p}>{q}", detail)
    return None


def _unlike(f: Folio, g: Folio) -> str | None:
    """The first field of two folios that differs. Not by the fields' names, which costs more where this is compiled: it
    is asked of every folio at the end of each program."""
    return (
        "vmemmap_optimized"
        if f.vmemmap_optimized is not g.vmemmap_optimized
        else "hugetlb"
        if f.hugetlb is not g.hugetlb
        else "refcount"
        if f.refcount != g.refcount
        else "temporary"
        if f.temporary is not g.temporary
        else "nid"
        if f.nid != g.nid
        else "cma"
        if f.cma is not g.cma
        else "hwpoison"
        if f.hwpoison is not g.hwpoison
        else "raw_hwp"
        if f.raw_hwp != g.raw_hwp
        else "raw_hwp_unreliable"
        if f.raw_hwp_unreliable is not g.raw_hwp_unreliable
        else None
    )


def _altmap(altmap: Altmap | None) -> tuple[int, ...] | None:
    if altmap is None:
        return None
    return altmap.base_pfn, altmap.capacity, altmap.alloc, altmap.align


def _show(pfns: list[int]) -> str:
    shown = ", ".join(f"{pfn:#x}" for pfn in pfns[:8])
    return f"[{shown}{', ...' if len(pfns) > 8 else ''}] ({len(pfns)})"
