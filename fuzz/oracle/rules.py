"""The rules of the ledger: from what the reference shows to exactly what the candidate must show.

A rule never mutes a field. Those of the first half compute the expectation; those of the second half decide whether two
sides may part for good, from the numbers of both. `fuzz/oracle/ledger.toml` names the clauses; each rule reports which
ones it used.
"""

from __future__ import annotations

from fuzz.oracle.observe import PageSegment, Segment, append, append_pages, expand, expand_pages, in_row, unlike
from fuzz.oracle.pieces import Pieces
from mm.kernel import Kernel
from mm.machine import Machine
from mm.mmzone import SECTION_IS_VMEMMAP_PREINIT, ZONE_DEVICE
from mm.page import Poison
from mm.runs import RunMap, RunSet

Clauses = set[str]

# -- mapping and contents -------------------------------------------------------------------------------------------


def _clip(segments: list[Segment], lo: int, hi: int) -> list[Segment]:
    if lo >= hi:
        return []
    return [(max(s, lo), min(e, hi), form) for s, e, form in segments if s < hi and e > lo]


def dax_mapping(pieces: Pieces, segments: list[Segment], lo: int, hi: int, used: Clauses) -> list[Segment]:
    """The candidate's mapping of vmemmap pages [lo, hi) where the reference has `segments`.

    A piece of DAX is rewritten if the reference maps it as its own rules say; what does not look so is left as it is.
    """
    spp = pieces.arch.spp
    out: list[Segment] = []
    done = lo
    for first, last, piece in pieces.runs.runs(lo * spp, hi * spp):
        s, e = max(first // spp, done), -(-last // spp)
        for part in _clip(segments, done, s):
            append(out, *part)
        own = _clip(segments, s, e)
        wanted = pieces.reference_mapping(piece, s, e)
        if own == wanted or _same(own, wanted):
            own = pieces.candidate_mapping(piece, s, e)
            used.add("dax-one-private-page" if piece.whole else "dax-whole-sections")
            if piece.whole and not pieces.tail_rw:
                used.add("dax-tail-read-only")
        for part in own:
            append(out, *part)
        done = e
    for part in _clip(segments, done, hi):
        append(out, *part)
    return out


def _same(a: list[Segment], b: list[Segment]) -> bool:
    x, y = unlike(a, b, in_row)
    return expand(x) == expand(y)


def dax_pages(pieces: Pieces, segments: list[PageSegment], lo: int, hi: int, used: Clauses) -> list[PageSegment]:
    """The candidate's struct pages [lo, hi) where the reference has `segments`."""
    out: list[PageSegment] = []
    done = lo
    for s, e, piece in pieces.runs.runs(lo, hi):
        if not piece.whole:
            continue
        for part in _clip_pages(segments, done, s):
            append_pages(out, *part)
        own = _clip_pages(segments, s, e)
        used.add("dax-tail-content")
        if any(isinstance(content, Poison) for _, _, content in own):
            used.add("dax-no-poison")
        for part in pieces.candidate_pages(piece, expand_pages(own)):
            append_pages(out, *part)
        done = e
    for part in _clip_pages(segments, done, hi):
        append_pages(out, *part)
    return out


def _clip_pages(segments: list[PageSegment], lo: int, hi: int) -> list[PageSegment]:
    if lo >= hi:
        return []
    return [(max(s, lo), min(e, hi), content) for s, e, content in segments if s < hi and e > lo]


def section_words(flags: RunMap[int]) -> list[tuple[int, int, int]]:
    """The candidate's section words where the reference has `flags`."""
    out: list[tuple[int, int, int]] = []
    for lo, hi, word in flags.items():
        word &= ~SECTION_IS_VMEMMAP_PREINIT
        if out and out[-1][1] == lo and out[-1][2] == word:
            out[-1] = (out[-1][0], hi, word)
        else:
            out.append((lo, hi, word))
    return out


# -- numbers --------------------------------------------------------------------------------------------------------


def device_tails(pieces: Pieces) -> set[tuple[tuple[int, int], int]]:
    """Names of the tail frames that the live pieces must have caused."""
    return {((p.nid, ZONE_DEVICE), p.order) for p in pieces.runs.vals if p.whole}


def dax_initialized(ref: Kernel, ranges: list[tuple[int, int]], order: int, short: bool = False) -> list[int]:
    """Struct pages that the candidate initialises more (less, if negative) once 0, 1, ... of a device's `ranges` are
    initialised.

    The section of its head decides how much of a compound page is initialised, on both sides: all of it in an early
    section; else two vmemmap pages on the reference, and one on the candidate if the device covers the section.
    `short`: the reference writes two in an early section too (history-zone-device-struct-pages).
    """
    spp, size, per = ref.arch.spp, 1 << order, ref.arch.pages_per_section
    more = [0]
    for start, end in ranges:
        n = 0
        for lo in range(start // per * per, end, per):
            s, e = max(lo, start), min(lo + per, end)
            heads = -(-(e - start) // size) - -(-(s - start) // size)
            if e - s == per:
                n -= heads * spp
            elif short or not ref.sections.early(s):
                n += heads * (size - 2 * spp)
        more.append(more[-1] + n)
    return more


def boot_initialized(machine: Machine, ref: Kernel) -> int:
    """Struct pages that the candidate initialises more (less, if negative) at boot.

    The reference's memmap_init writes the tails of pre-HVO pages as it writes all others, as far as it is not deferred:
    the highest zone of a node is written up to the first section boundary behind one section's worth of pages
    (defer_init).
    """
    spp, per = ref.arch.spp, ref.arch.pages_per_section
    preinit = [(lo * per, hi * per) for lo, hi, word in ref.sections.flags.items() if word & SECTION_IS_VMEMMAP_PREINIT]
    if not preinit:
        return 0
    size = max(ref.hstates)
    top = {nid: max(end for n, _, end in machine.ram_ranges() if n == nid) for nid in range(machine.nodes)}
    less = 0
    deferred: set[int] = set()
    for nid, start, end in machine.ram_ranges():
        for zone in ref.nodes[nid].zones:
            s, e = max(start, zone.start_pfn), min(end, zone.end_pfn)
            if s >= e:
                continue
            if machine.deferred_init and zone.end_pfn == top[nid]:
                # No gigantic page lies in sections that a range of less than one section in front of them moves.
                late = s if nid in deferred else -(-(s + per) // per) * per
                if late < e:
                    deferred.add(nid)
                    e = late
            for lo, hi in preinit:
                for folio in range(max(lo, s) >> size << size, min(hi, e), 1 << size):
                    less += max(0, min(folio + (1 << size), e) - max(folio + spp, s))
    return -less


def boot_order(ref: Kernel) -> bool:
    """Whether boot allocated in another order: with pre-HVO pages, theirs came before the memmap of other sections.

    Then the memmap may lie in other zones; its frames are as many.
    """
    return any(word & SECTION_IS_VMEMMAP_PREINIT for word in ref.sections.flags.vals)


def zone_spill(ref: Kernel, cand: Kernel) -> bool:
    """Whether frames can lie in other zones on one side: some allocation went on to the next zone of its list."""
    return bool(ref.pages.spilled or cand.pages.spilled)


def partial_add_unsupported(pieces: Pieces, subsections: RunSet, ranges: list[tuple[int, int]]) -> bool:
    """Whether a creation that the reference refuses with -EEXIST is refused with -EOPNOTSUPP by the candidate.

    It is if the first piece that meets memory which exists is a part of a section that DAX has optimized. `subsections`
    and `pieces` are those before the operation.
    """
    per, sub = pieces.arch.pages_per_section, pieces.arch.pages_per_subsection
    for start, end in ranges:
        for lo, _ in subsections.runs(start // sub, -(-end // sub)):
            section = lo * sub // per * per
            partial = section < start or section + per > end
            return partial and any(p.whole for _, _, p in pieces.runs.runs(section, section + per))
    return False
