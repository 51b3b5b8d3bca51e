"""docs/findings/0001: compound pages larger than a section, in a range that does not begin where population looks.

Generic population counts compound pages from the start of the range, powerpc's from pfn 0, initialisation always from
the start of the range. So a range that begins inside of a section (powerpc: at no multiple of the compound page) ends
in one of the ways told here, by what each side's own code does. What differs beyond that is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from fuzz.oracle import arches
from fuzz.oracle.finding import Difference, Outcome
from fuzz.oracle.observe import (
    PageSegment,
    append_pages,
    expand,
    expand_pages,
    mapping,
    struct_pages,
    tails_by_frame,
    union,
    without,
)
from fuzz.oracle.pieces import REF_KEEP, Pieces, behind, shares_tails
from mm.arch import Arch
from mm.kernel import Kernel
from mm.mmzone import ZONE_DEVICE
from mm.page import POISON, RAW, Compound, Content, Tail
from mm.pgmap import PgMap
from mm.pgtable import Leaf, Pte, Shared
from mm.runs import RunMap

Ranges = list[tuple[int, int]]
Compare = Callable[[Ranges], Difference | None]


def inside(arch: Arch, pgmap: PgMap) -> Ranges:
    """The ranges of a device that begin where a compound page is in progress for population."""
    size, per = 1 << pgmap.vmemmap_shift, arch.pages_per_section
    if size <= per or not shares_tails(arch, pgmap.vmemmap_shift, pgmap.altmap is not None):
        return []
    unit = size if arch.compounds_by_pfn else per
    return [(start, end) for start, end in pgmap.ranges if start % unit]


def lent(cand: Kernel, pgmap: PgMap) -> bool:
    """Whether powerpc's tails of such a device share a page that was there before, of another device or of memory:
    what is poisoned and initialised through them overwrites struct pages there, whatever becomes of the device.

    Asked of the candidate, which leaves as it was what lies in front of the device.
    """
    arch, order = cand.arch, pgmap.vmemmap_shift
    for start, _ in inside(arch, pgmap) if arch.compounds_by_pfn else ():
        m = cand.tables.get((start >> order << order) // arch.spp + 1)
        if m is not None and m.kind != "leaf":
            return True
    return False


def explains(
    ref: Kernel,
    cand: Kernel,
    pgmap: PgMap,
    pieces: Pieces,
    past: bool,
    rcs: tuple[Outcome, Outcome],
    short: tuple[int, int],
    refused: tuple[int, ...],
    compare: Compare,
) -> bool:
    """Whether the outcomes are those that the finding tells, and the kernels look accordingly.

    `pieces`: those of the candidate; `past`: the reference is not 7.3 yet; `short`: how many allocations got less than
    they asked for, by side; `refused`: what memory that is there already is refused with; `compare` looks at vmemmap
    pages, with what the ledger knows of devices.
    """
    mine, theirs = rcs
    dies = reference_death(ref, inside(ref.arch, pgmap)), candidate_death(cand, pgmap)
    for rc, death, k, lack in zip(rcs, dies, (ref, cand), short, strict=True):
        if isinstance(rc, str) or rc == 0:
            if rc != (death or 0):
                return False
        elif not arches.has_reason(rc, k, lack, refused):
            return False
    if isinstance(mine, int) and isinstance(theirs, int) and mine < 0 and theirs < 0:
        return _left(ref, cand, pgmap, compare)
    if theirs != 0 and not isinstance(theirs, str):
        return isinstance(mine, str)
    reached = pgmap.ranges
    if theirs != 0:
        dead = next(write.at for write in _writes_of_candidate(cand, pgmap) if _fault(cand, write) is not None)
        reached = reached[: dead + 1]
    if mine != 0:
        return not isinstance(mine, str) or _alone(cand, pieces, reached)
    if past and ref.arch.compounds_by_pfn:
        return True  # history-powerpc-addr-pfn maps other pages in front of the device
    if not _mapped(ref, cand, pgmap, reached, compare):
        return False
    if not _shown(ref, pgmap, _writes_of_reference(ref, pgmap, past), RAW):
        return False
    tail = Tail(pgmap.vmemmap_shift, pgmap.nid, ZONE_DEVICE, True)
    return theirs != 0 or _shown(cand, pgmap, _writes_of_candidate(cand, pgmap), tail)


# -- who dies -------------------------------------------------------------------------------------------------------


def reference_death(ref: Kernel, odd: Ranges) -> str | None:
    """compound_section_tail_page (mm/sparse-vmemmap.c, 7.3): the section behind the one that a range begins in takes
    "the PTE of the vmemmap page before", without a look at the PMD, which is a leaf if that section booted with one."""
    arch = ref.arch
    if arch.compounds_by_pfn:
        return None
    for start, _ in odd:
        before = behind(arch, start) // arch.spp - 1
        if ref.sections.early(start) and isinstance(ref.tables.get(before), Leaf):
            return f"bug: compound_section_tail_page: the PTE of vmemmap page {before:#x} is read through a PMD leaf"
    return None


def candidate_death(cand: Kernel, pgmap: PgMap) -> str | None:
    """The first struct page that is written where the shared tail page is mapped read-only: by initialisation
    (memmap_init_zone_device, unified-framework.md 3.6), or, on powerpc with 64K pages, as a part of a section that
    shares its vmemmap page with an optimized one is poisoned (sparse_add_section)."""
    for write in _writes_of_candidate(cand, pgmap):
        pfn = _fault(cand, write)
        if pfn is not None:
            return f"bug: page fault: struct page of pfn {pfn:#x} is written through a read-only shared tail page"
    return None


class Write(NamedTuple):
    """Struct pages [lo, hi) that are written when range number `at` of a device is added."""

    at: int
    lo: int
    hi: int
    content: Content


def _writes_of_candidate(cand: Kernel, pgmap: PgMap) -> Iterator[Write]:
    """Poison in what is not a whole section; of each compound page, counted from the start of its range, one vmemmap
    page if the section of its head is optimized, which whole ones are, else all."""
    per, order, spp = cand.arch.pages_per_section, pgmap.vmemmap_shift, cand.arch.spp
    size = 1 << order
    for i, (start, end) in enumerate(pgmap.ranges):
        # A head lies in front of the whole sections or in one: its compound page is larger.
        first = -(-start // per) * per
        for lo, hi in without([(start, end)], [(first, end // per * per)]):
            yield Write(i, lo, hi, POISON)
        content = Compound(order, start % size, pgmap.nid, ZONE_DEVICE, "devdax")
        for head in range(start, end, size):
            yield Write(i, head, head + (spp if first <= head else size), content)


def _writes_of_reference(ref: Kernel, pgmap: PgMap, past: bool) -> Iterator[Write]:
    """Poison everywhere; of each compound page two vmemmap pages, or all if the section of its head is an early one
    (compound_nr_pages, mm/mm_init.c, 7.3), of which it has taken no notice in the `past`."""
    order = pgmap.vmemmap_shift
    size = 1 << order
    for i, (start, end) in enumerate(pgmap.ranges):
        yield Write(i, start, end, POISON)
        content = Compound(order, start % size, pgmap.nid, ZONE_DEVICE, "devdax")
        for head in range(start, end, size):
            n = size if ref.sections.early(head) and not past else REF_KEEP * ref.arch.spp
            yield Write(i, head, head + n, content)


def _fault(k: Kernel, write: Write) -> int | None:
    """The first struct page of a write that is mapped read-only: in a section of a larger compound page there is no row
    of them."""
    spp = k.arch.spp
    for s, _, m in k.tables.runs(write.lo // spp, -(-write.hi // spp)):
        if isinstance(m, Shared) and not m.rw:
            return max(s * spp, write.lo)
    return None


# -- what is mapped -------------------------------------------------------------------------------------------------


def _alone(cand: Kernel, pieces: Pieces, reached: Ranges) -> bool:
    """Whether the candidate maps whole sections of the ranges as it should, where the reference is gone."""
    spp, tails = cand.arch.spp, tails_by_frame(cand)
    for start, end in reached:
        for lo, hi, piece in pieces.runs.runs(start, end):
            if piece.whole:
                found = mapping(cand, tails, lo // spp, hi // spp)
                if expand(found) != expand(pieces.candidate_mapping(piece, lo // spp, hi // spp)):
                    return False
    return True


def _mapped(ref: Kernel, cand: Kernel, pgmap: PgMap, reached: Ranges, compare: Compare) -> bool:
    """Whether the vmemmap pages of the ranges that both sides `reached` are mapped as the pieces of DAX say, and no
    others differ but powerpc's in front of the device."""
    arch = ref.arch
    spp = arch.spp
    apart = [(s // spp, -(-e // spp)) for s, e in pgmap.ranges[len(reached) :]]
    if arch.tails_beside_leaves:
        apart += arches.leaf_spans(ref, cand, pgmap)[0]
    if arch.compounds_by_pfn:
        for start, end in pgmap.ranges:
            for vpn, second in _outside(arch, pgmap.vmemmap_shift, start, end):
                if (start, end) in reached and not _made(ref, cand, vpn, second):
                    return False
                apart.append((vpn, vpn + 1))
    touched = union(ref.tables.touched + cand.tables.touched)
    return compare(without(touched, union(apart))) is None


def _left(ref: Kernel, cand: Kernel, pgmap: PgMap, compare: Compare) -> bool:
    """Whether all that differs after both sides failed is what powerpc has made in front of the device or behind it,
    which stays: vmemmap_free takes the range alone."""
    apart: Ranges = []
    for start, end in pgmap.ranges:
        for vpn, second in _outside(ref.arch, pgmap.vmemmap_shift, start, end):
            if ref.tables.get(vpn) is not None or cand.tables.get(vpn) is not None:
                if not _made(ref, cand, vpn, second):
                    return False
                apart.append((vpn, vpn + 1))
    touched = union(ref.tables.touched + cand.tables.touched)
    return bool(apart) and compare(without(touched, union(apart))) is None


def _outside(arch: Arch, order: int, start: int, end: int) -> list[tuple[int, bool]]:
    """The vmemmap pages in front of a range and behind it that powerpc may make for the compound pages that it begins
    and ends in, and whether each is the second of its compound page (vmemmap_compound_tail_page, radix_pgtable.c)."""
    lo, hi = start // arch.spp, -(-end // arch.spp)
    compounds = {(pfn >> order << order) // arch.spp for pfn in (start, end - 1)}
    return [(vpn, vpn > head) for head in sorted(compounds) for vpn in (head, head + 1) if not lo <= vpn < hi]


def _made(ref: Kernel, cand: Kernel, vpn: int, second: bool) -> bool:
    """Whether a vmemmap page outside of a range is as it was, which the candidate shows, or was missing and was made by
    the reference, the second of a compound page as one that is shared."""
    m, its = ref.tables.get(vpn), cand.tables.get(vpn)
    if its is not None:
        return m is not None
    if second:
        return isinstance(m, Shared) and m.rw
    # The head stays missing where the second page was there.
    return isinstance(m, Pte) and m.rw if m is not None else cand.tables.get(vpn + 1) is not None


# -- what struct pages show -----------------------------------------------------------------------------------------


def _shown(k: Kernel, pgmap: PgMap, writes: Iterable[Write], untouched: Content) -> bool:
    """Whether the struct pages of a device that was made show what was written to them, through the shared frames too;
    `untouched`: what a shared frame shows that was not."""
    spp = k.arch.spp
    own: RunMap[Content] = RunMap()
    shared: dict[int, Content] = {}
    for _, lo, hi, content in writes:
        own.set(lo, hi, content)
        for _, _, m in k.tables.runs(lo // spp, -(-hi // spp)):
            if isinstance(m, Shared):
                shared[m.frame] = content
    fresh = union(k.tables.touched[:])
    for start, end in pgmap.ranges:
        lo, hi = start // spp, -(-end // spp)
        wanted: list[PageSegment] = []
        kept: Ranges = []
        for s, e, m in k.tables.runs(lo, hi):
            old = bool(without([(s, e)], fresh))
            s, e = max(s * spp, start), min(e * spp, end)
            if isinstance(m, Shared):
                append_pages(wanted, s, e, shared.get(m.frame, untouched))
                continue
            for a, b, content in [*own.runs(s, e), (e, e, RAW)]:
                if s < a and old:
                    kept.append((s, a))  # shows what it did before
                elif s < a:
                    append_pages(wanted, s, a, RAW)
                if a < b:
                    append_pages(wanted, a, b, content)
                s = b
        found: list[PageSegment] = []
        for s, e, seen in expand_pages(struct_pages(k, lo * spp, hi * spp)):
            for a, b in without([(max(s, start), min(e, end))], kept):
                append_pages(found, a, b, seen)
        if wanted != found:
            return False
    return True
