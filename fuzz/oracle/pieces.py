"""Which parts of the live vmemmap belong to device DAX, and what each tree does with such a part.

A *piece* is the part of a device's range that lies in one section. The reference optimizes every piece; the candidate
only pieces that are a whole section (unified-framework.md 4, "DAX granularity"). Everything that the ledger's DAX
clauses need follows from the pieces: mapping, contents, NR_MEMMAP and free pages.

Pieces are found in the reference's section bitmaps after device memory was added, so those that a failed binding
leaves behind (separate-paths.md, Q12) are among them. Formulas: separate-paths.md 2.7, 3.19; unified-framework.md 3.4,
3.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from fuzz.oracle.observe import (
    Form,
    PageSegment,
    Segment,
    TailName,
    append,
    append_pages,
    home,
    without,
)
from mm.arch import Arch
from mm.kernel import Kernel
from mm.mmzone import ZONE_DEVICE
from mm.page import RAW, Content, Poison, Row, Tail
from mm.page_alloc import OWNER_MEMMAP
from mm.pgtable import frame_at
from mm.runs import RunMap, RunSet

REF_KEEP: Final = 2
"""VMEMMAP_RESERVE_NR (include/linux/mm.h, 7.3)."""


def shares_tails(arch: Arch, order: int, altmap: bool) -> bool:
    """Whether either tree can share the tails of a device's compound pages of `order` (separate-paths.md P4)."""
    return arch.dax_dedup and not altmap and arch.vmemmap_pages(order) > REF_KEEP


def by_section(k: Kernel, lo: int, hi: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Pages [lo, hi) of a range [start, end) that have memmap of their own: first pfn, end, whether the range has whole
    sections there, as many as lie in a row. A part of an early section uses its boot memmap.
    """
    per = k.arch.pages_per_section
    while lo < hi:
        section = lo // per * per
        if section < start or section + per > end:
            stop = min(hi, section + per)
            if not k.sections.early(section):
                yield lo, stop, False
        else:
            stop = min(hi, end // per * per)
            yield lo, stop, True
        lo = stop


def behind(arch: Arch, start: int) -> int:
    """The first pfn of the section behind the one that `start` lies in."""
    per = arch.pages_per_section
    return (start // per + 1) * per


def lent_form(ref: Kernel, start: int, order: int) -> Form | None:
    """How the reference maps the tails of a compound page larger than a section that a range begins inside of, if its
    second page is not the range's own: it lies in front of the range on powerpc (vmemmap_compound_tail_page,
    radix_pgtable.c), and elsewhere the last page of the early section that the range begins in takes its place
    (compound_section_tail_page, mm/sparse-vmemmap.c). Where such a page is a leaf's, powerpc has private tails.
    """
    arch = ref.arch
    if arch.compounds_by_pfn:
        at, vpn = start // arch.spp, (start >> order << order) // arch.spp + 1
        if at <= vpn:
            return None
    elif start % arch.pages_per_section and ref.sections.early(start):
        at = behind(arch, start) // arch.spp
        vpn = at - 1
    else:
        return None
    m = ref.tables.get(vpn)
    if m is None or m.kind == "leaf":
        return "pte", True, OWNER_MEMMAP
    frame = frame_at(m, vpn)
    return "alias", True, ref.pages.owners.get(frame), home(ref, at, frame)


class Piece(NamedTuple):
    """What is the same for all pieces of a range that are whole sections, or all that are not."""

    order: int
    nid: int
    origin: int
    """First pfn of the range."""
    whole: bool


class Skew(NamedTuple):
    """Candidate less reference."""

    nr_memmap: int
    frames: int
    """Private memmap frames."""


class Pieces:
    """The live pieces, by pfn."""

    __slots__ = (
        "addr_pfn_drifts",
        "arch",
        "behind",
        "full_count",
        "overcount",
        "runs",
        "skew",
        "slack",
        "slots",
        "tail_rw",
    )

    def __init__(self, arch: Arch, tail_rw: bool, full_count: bool = False) -> None:
        self.arch = arch
        self.full_count = full_count
        """Whether the reference counts the memmap of a device as if it were not optimized
        (history-dax-vmemmap-accounting)."""
        self.addr_pfn_drifts = full_count and arch.compounds_by_pfn and arch.pages_per_section >= arch.spp
        """Whether the reference populates devices as powerpc did (history-powerpc-addr-pfn): one pfn further for each
        vmemmap page, and right again with each section."""
        self.overcount = 0
        """By how much it then counts too many."""
        self.tail_rw = tail_rw
        """Whether the candidate maps DAX tails writable."""
        self.runs: RunMap[Piece] = RunMap()
        self.behind: dict[int, Form] = {}
        """What the reference maps behind the start of a range that begins where a compound page larger than a section
        is in progress for population, by the origin of its pieces (docs/findings/0001)."""
        self.skew = Skew(0, 0)
        self.slack = 0, 0
        """Reference and candidate: what NR_MEMMAP counts for the pieces more than the private frames they have (Q14).
        """

        self.slots: dict[TailName, int] = {}
        """How many vmemmap pages of the candidate map each device's shared tail frame."""

    # -- life -------------------------------------------------------------------------------------------------------

    def created(self, ref: Kernel, before: RunSet, ranges: list[tuple[int, int]], order: int, nid: int) -> None:
        """Find the pieces of a creation; `before` are the subsections that existed before it."""
        sub = self.arch.pages_per_subsection
        for start, end in ranges:
            for a, b in ref.sections.subsections.runs(start // sub, -(-end // sub)):
                for lo, hi in without([(a, b)], before.runs(a, b)):
                    self._add(ref, lo * sub, hi * sub, start, end, order, nid)
        self.recount()

    def _add(self, ref: Kernel, lo: int, hi: int, start: int, end: int, order: int, nid: int) -> None:
        """New pages [lo, hi) of the range [start, end)."""
        for first, stop, whole in by_section(ref, lo, hi, start, end):
            self.runs.set(first, stop, Piece(order, nid, start, whole))
        self.behind.pop(start, None)
        if order > self.section_order:
            form = lent_form(ref, start, order)
            if form is not None:
                self.behind[start] = form

    def destroyed(self, ranges: list[tuple[int, int]]) -> None:
        """Forget the pieces of ranges that were taken away."""
        for lo, hi in ranges:
            if self.runs.overlaps(lo, hi):
                self.runs.clear(lo, hi)
                self.recount()

    def on(self, k: Kernel) -> Pieces:
        """The pieces as they are in kernel `k`, once the two sides have parted."""
        new = Pieces(self.arch, self.tail_rw, self.full_count)
        sub = self.arch.pages_per_subsection
        for lo, hi, piece in self.runs.items():
            for s, e in k.sections.subsections.runs(lo // sub, hi // sub):
                new.runs.set(s * sub, e * sub, piece)
        new.recount()
        return new

    # -- numbers ----------------------------------------------------------------------------------------------------

    def recount(self) -> None:
        """Compute `skew` and `slack` anew."""
        counted, frames = [0, 0], [0, 0]
        slots: dict[TailName, int] = {}
        full = 0
        for lo, hi, p in self.runs.items():
            kept = frames[1]
            full += self._full(lo, hi)
            if p.order < self.section_order:
                n = (hi - lo) >> p.order
                kept_pages = (hi - lo) // self.arch.spp if self.addr_pfn_drifts else REF_KEEP * n
                numbers = kept_pages, n if p.whole else (hi - lo) // self.arch.spp
                for i in 0, 1:
                    counted[i] += numbers[i]
                    frames[i] += numbers[i]
            else:
                self._count_sections(lo, hi, p, counted, frames)
            if p.whole:
                name = (p.nid, ZONE_DEVICE), p.order
                slots[name] = slots.get(name, 0) + (hi - lo) // self.arch.spp - (frames[1] - kept)
        if self.full_count:
            self.overcount = full - counted[0]
            counted[0] = full
        self.skew = Skew(counted[1] - counted[0], frames[1] - frames[0])
        self.slack = counted[0] - frames[0], counted[1] - frames[1]
        self.slots = slots

    def _full(self, lo: int, hi: int) -> int:
        """What pieces [lo, hi) count for where nothing is shared: DIV_ROUND_UP of each section's part."""
        spp, per = self.arch.spp, self.arch.pages_per_section
        return (hi - lo) // spp if per >= spp else -(-hi // per) - lo // per

    def _count_sections(self, lo: int, hi: int, p: Piece, counted: list[int], frames: list[int]) -> None:
        """Count pieces of compound pages that are larger than a section. A device that could not be added leaves those
        that are no whole section, too."""
        size = 1 << p.order
        for s, e in self._sections(lo, hi):
            # Accounting looks at absolute addresses, population at the start of the range (Q14).
            absolute, relative = s % size == 0, (s - self.base(p)) % size == 0
            counted[0] += REF_KEEP * absolute
            frames[0] += (self.arch.vmemmap_per_section if self.addr_pfn_drifts else REF_KEEP) * relative
            full = 0 if p.whole else (e - s) // self.arch.spp
            counted[1] += full or absolute
            frames[1] += full or relative

    @property
    def section_order(self) -> int:
        """PFN_SECTION_SHIFT."""
        return self.arch.section_shift - self.arch.page_shift

    @property
    def unit(self) -> int:
        """Pages of a section, or of as many as share a vmemmap page (powerpc with 64K pages)."""
        return max(self.arch.pages_per_section, self.arch.spp)

    def base(self, p: Piece) -> int:
        """Where compound pages larger than a section are counted from: the start of the range, or pfn 0."""
        return p.origin >> p.order << p.order if self.arch.compounds_by_pfn else p.origin

    def _sections(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """[lo, hi) cut at boundaries of `unit`."""
        per = self.unit
        return [(max(lo, s), min(hi, s + per)) for s in range(lo // per * per, hi, per)]

    # -- mapping ----------------------------------------------------------------------------------------------------

    def reference_mapping(self, p: Piece, lo: int, hi: int) -> list[Segment]:
        """What the reference maps at vmemmap pages [lo, hi) of pieces `p` (vmemmap_populate_compound_pages)."""
        v = self.arch.vmemmap_pages(p.order)
        if self.addr_pfn_drifts:
            return self._drifted(p, lo, hi)
        if p.order < self.section_order:
            phase = p.origin // self.arch.spp % v
            return [(lo, hi, ("row", v, REF_KEEP, phase, True, OWNER_MEMMAP, True, None))]
        out: list[Segment] = []
        for s, e in self._pages(p, lo, hi):
            offset = (s - self.base(p)) // self.arch.spp
            s, e = s // self.arch.spp, e // self.arch.spp
            # A section that does not begin a compound page maps what the page before it maps. If the range begins
            # inside a section, no later section begins one, and all share the first compound page's tail.
            first = s - offset if self.base(p) % self.arch.pages_per_section else s - offset % v
            rest: Form = ("alias", True, OWNER_MEMMAP, first + 1)
            if self.behind and first * self.arch.spp == self.base(p):
                rest = self.behind.get(p.origin, rest)
            self._head_and_rest(out, lo, hi, s, e, offset % v == 0, rest)
        return out

    def _drifted(self, p: Piece, lo: int, hi: int) -> list[Segment]:
        """The same where addr_pfn drifts: no later page finds the second page of its compound page. One that is
        smaller than a section has private pages only; of a larger one the pages of the first section are private, and
        lent to those of the other sections, one by one; the first page of a section takes that of the second."""
        if p.order < self.section_order:
            return [(lo, hi, ("pte", True, OWNER_MEMMAP))]
        per = self.arch.vmemmap_per_section
        out: list[Segment] = []
        v = self.arch.vmemmap_pages(p.order)
        for vpn in range(lo, hi):
            at = (vpn - p.origin // self.arch.spp) % v
            named = vpn - at + 1 if at >= per and vpn % per <= 1 else vpn
            append(out, vpn, vpn + 1, ("alias", True, OWNER_MEMMAP, named))
        return out

    def candidate_mapping(self, p: Piece, lo: int, hi: int) -> list[Segment]:
        """What the candidate maps there."""
        if not p.whole:
            return [(lo, hi, ("pte", True, OWNER_MEMMAP))]
        v = self.arch.vmemmap_pages(p.order)
        name = ((p.nid, ZONE_DEVICE), p.order)
        if p.order < self.section_order:
            return [(lo, hi, ("row", v, 1, 0, True, OWNER_MEMMAP, self.tail_rw, name))]
        out: list[Segment] = []
        for s, e in self._pages(p, lo, hi):
            head = (s - self.base(p)) & ((1 << p.order) - 1) == 0
            self._head_and_rest(
                out, lo, hi, s // self.arch.spp, e // self.arch.spp, head, ("tail", self.tail_rw, *name)
            )
        return out

    def _pages(self, p: Piece, lo: int, hi: int) -> list[tuple[int, int]]:
        """The pieces, unclipped and in pfns, that meet vmemmap pages [lo, hi)."""
        spp, per = self.arch.spp, self.unit
        first = lo * spp // per * per
        return [(max(s, p.origin), s + per) for s in range(first, hi * spp, per)]

    @staticmethod
    def _head_and_rest(out: list[Segment], lo: int, hi: int, s: int, e: int, head: bool, rest: Form) -> None:
        """Piece [s, e), clipped to [lo, hi): one private page if it begins a compound page, and `rest`."""
        first = s + head
        for a, b, form in ((s, first, ("pte", True, OWNER_MEMMAP)), (first, e, rest)):
            a, b = max(a, lo), min(b, hi)
            if a < b:
                append(out, a, b, form)

    # -- contents ---------------------------------------------------------------------------------------------------

    def candidate_pages(self, p: Piece, segments: list[PageSegment]) -> list[PageSegment]:
        """The candidate's contents for whole-section pieces where the reference has `segments`.

        Tails come with the shared tail page; kept pages are as in the reference, but never poisoned.
        """
        spp = self.arch.spp
        tail = Tail(p.order, p.nid, ZONE_DEVICE, True)
        size = 1 << p.order
        out: list[PageSegment] = []
        for lo, hi, content in segments:
            kept: Content = RAW if isinstance(content, Poison) else content  # type: ignore[assignment]
            if p.order < self.section_order:
                append_pages(out, lo, hi, Row(size, spp, p.origin % size, kept, tail))
                continue
            at = lo
            for s, _ in self._pages(p, lo // spp, -(-hi // spp)):
                if (s - self.base(p)) % size == 0 and s < hi and s + spp > lo:
                    if at < s:
                        append_pages(out, at, s, tail)
                    at = min(hi, s + spp)
                    append_pages(out, max(s, lo), at, kept)
            if at < hi:
                append_pages(out, at, hi, tail)
        return out
