"""The rules of the ledger: from what the reference shows to exactly what the candidate must show.

A rule never mutes a field. Those of the first half compute the expectation; those of the second half decide whether two
sides may part for good, from the numbers of both. `fuzz/oracle/ledger.toml` names the clauses; each rule reports which
ones it used.
"""

from __future__ import annotations

from collections import Counter

from fuzz.oracle.observe import PageSegment, Segment, append, append_pages, expand, expand_pages, in_row, unlike
from fuzz.oracle.pieces import REF_KEEP, Pieces, shares_tails
from mm.errno import EBUSY, ENOMEM
from mm.kernel import Kernel
from mm.machine import Machine
from mm.mmzone import SECTION_IS_VMEMMAP_PREINIT, ZONE_DEVICE
from mm.page import Poison
from mm.page_alloc import (
    OWNER_HUGETLB,
    OWNER_HWPOISON,
    OWNER_OFFLINE,
    OWNER_PAGES_MOVABLE,
    OWNER_SELFHOSTED,
    Poisoned,
)
from mm.pgmap import PgMap
from mm.runs import RunMap, RunSet

Clauses = set[str]

OFFLINING = frozenset({"memory offline", "memory unplug", "dax offline", "dax state"})
"""Operations that move pages away and dissolve huge pages, because memory blocks are to go offline."""
MOVING = OFFLINING | {"memory soft_offline", "subblock unplug", "pages contig"}
"""Operations that move pages."""
ADDING = frozenset({"memory add", "dax create", "dax rebind", "dax state"})
"""Operations that can add RAM, those of a device by its kmem driver."""

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
        s, e = first // spp, last // spp
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
    counted = zone_end = less = 0
    deferred: set[int] = set()
    for nid, start, end in machine.ram_ranges():
        for zone in ref.nodes[nid].zones:
            s, e = max(start, zone.start_pfn), min(end, zone.end_pfn)
            if s >= e:
                continue
            if machine.deferred_init and zone.end_pfn == top[nid]:
                if zone_end != zone.end_pfn and nid not in deferred:
                    zone_end, counted = zone.end_pfn, 0
                late = s if nid in deferred else -(-(s + max(0, per - counted)) // per) * per
                counted += e - s
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


# -- forks ----------------------------------------------------------------------------------------------------------

ROOTS = frozenset({"ROOT"})
"""Points that every operation may reach in other numbers: struct mem_section has another size."""
DAX_POINTS = frozenset({"TAIL", "VMF"})
"""Points that creating a DAX device reaches in other numbers: shared tails and kept pages."""
TABLE_POINTS = frozenset({"VMB", "PTBL", "PGT"})
"""Points that differ where a part of a section is mapped by a PMD leaf on one side."""
HOOKS = frozenset({"PTEHOOK", "PMDHOOK"})
"""Points that only profile `merged` has: page-table updates that can fail."""

Trace = list[tuple[str, int]]


def _first_points(trace: Trace, n: int, moved: frozenset[str]) -> tuple[Counter[str], Counter[str]]:
    """The first `n` points of a trace by kind: those of other kinds, and those of the `moved` kinds.

    Sums, because a side that adds sections by the row reports the points of a row by kind.
    """
    kept: Counter[str] = Counter()
    out: Counter[str] = Counter()
    for kind, count in trace:
        count = min(count, n)
        n -= count
        if count:
            (out if kind in moved else kept)[kind] += count
    return kept, out


def pieces_done(
    ref: Kernel, ranges: list[tuple[int, int]], order: int, frames: tuple[int, int], drifts: bool = False
) -> tuple[int, int]:
    """How many pieces of a device each side has a whole memmap for, when it has taken so many single frames for it.
    `drifts`: Pieces.addr_pfn_drifts."""
    spp, per, size = ref.arch.spp, ref.arch.pages_per_section, 1 << order
    left = list(frames)
    done = [0, 0]
    for start, end in ranges:
        for section in range(start // per * per, end, per):
            lo, hi = max(section, start), min(section + per, end)
            heads = (hi - lo) >> order if size < per else int((lo - start) % size == 0)
            if hi - lo < per and ref.sections.early(lo):
                needs = 0, 0
            elif not shares_tails(ref.arch, order, altmap=False):
                needs = (0, 0) if hi - lo == per else ((hi - lo) // spp,) * 2
            else:
                full = (hi - lo) // spp
                mine = full * (heads > 0) if drifts else REF_KEEP * heads
                needs = mine, heads if hi - lo == per else full
            for side in 0, 1:
                left[side] -= needs[side]
                done[side] += left[side] >= 0
    return done[0], done[1]


def fault_fork(
    operation: str,
    rcs: tuple[int, int],
    ref: Kernel,
    cand: Kernel,
    merged: bool,
    refused: tuple[int, ...],
    device: PgMap | None,
    drifts: bool = False,
) -> bool:
    """Whether the injected failures hit different points because the sides' points differ as they should.

    Up to the armed number both sides must have reached the same points once the kinds that may differ are out, as far
    as the one came that got less far; and the kinds that may differ must differ. Adding memory without a way round the
    failed allocation must have failed with -ENOMEM, and only then; a side that got further may have met what refuses it
    with one of `refused`. And it must have got further on one side: a failure in the same piece of the `device` that is
    added is undone to the same state.
    """
    adding = device is not None or operation == "memory add"
    several = ref.faults.last > ref.faults.first
    if adding:
        for rc, k in zip(rcs, (ref, cand), strict=True):
            if rc not in (0, -ENOMEM) and rc not in refused:
                return False
            # Without a block there are base pages, unless the block was to come from an altmap; powerpc takes no notice
            # of a compound page's second page that it did not get, and a page that the altmap has not comes from RAM.
            altmap = device is not None and device.altmap is not None
            ways_round = (k is ref and k.arch.compounds_by_pfn) or (altmap and k.arch.memmap_from_ram)
            if k.faults.fired == "VMB" or (k.faults.fired == "VMF" and ways_round):
                continue
            if several and k.faults.fired:
                continue
            if (rc == -ENOMEM) != (k.faults.fired is not None):
                return False
    nth = ref.faults.first
    a, b = ref.faults.points, cand.faults.points
    if not nth or a is None or b is None:
        return False
    moved = ROOTS | (DAX_POINTS if device is not None else frozenset()) | (HOOKS if merged else frozenset())
    if device is not None and ref.arch.tails_beside_leaves:
        # A partial section takes a block where it took base pages; and one side may have made, and destructed, a table.
        moved |= TABLE_POINTS
    mine, out = _first_points(a, nth, moved)
    theirs, out2 = _first_points(b, nth, moved)
    if several:
        all_out, all_out2 = (_first_points(one, ref.faults.last, moved)[1] for one in (a, b))
        if all_out != all_out2:
            return mine <= theirs or theirs <= mine
        if max(ref.faults.failed, cand.faults.failed) > 1:
            return False
        # Both gave up at the first failure, as if it were the only one.
    if adding and mine == theirs and ref.faults.fired and cand.faults.fired:
        frames = out["VMF"] - (ref.faults.fired == "VMF"), out2["VMF"] - (cand.faults.fired == "VMF")
        ranges = [] if device is None else device.ranges
        order = 0 if device is None or device.altmap is not None else device.vmemmap_shift
        done = pieces_done(ref, ranges, order, frames, drifts)
        if device is not None and ref.arch.tails_beside_leaves and ref.faults.fired != cand.faults.fired:
            return out != out2
        if rcs[0] != -ENOMEM and ref.faults.fired == "VMF":  # powerpc's ignored failure, as above
            return True
        if ref.arch.compounds_by_pfn and 1 << order > ref.arch.pages_per_section:
            # The reference has mapped the compound page's second page too, which lies behind the section that failed or
            # in front of it, and stays.
            return True
        return done[0] != done[1]
    if out == out2:
        return False
    return mine <= theirs or theirs <= mine


def memory_fork(
    operation: str,
    rcs: tuple[int, int],
    short: tuple[int, int],
    free: tuple[list[int], list[int]],
    refused: tuple[int, ...],
    device: bool,
) -> bool:
    """Whether a side ran out of memory that the other had, which may then have met what refuses it with one of
    `refused`.

    `short`: how many allocations of the operation got less than they asked for, by side; `free`: free pages of each
    node before it; `device`: whether it adds or takes away device memory. What may differ then is how far it got: it
    failed with -ENOMEM, a pool took what it could, a huge page that another moved to stayed as it was, or a memmap got
    base pages for want of a block. Where single frames are wanted and only one side ran short, it must have had less
    memory on some node, or else the operation is one that takes other amounts on the two sides.
    """
    if not any(short) or any(rc < 0 and rc not in (-ENOMEM, -EBUSY) and rc not in refused for rc in rcs):
        return False
    if operation.startswith("hugetlb") or operation in ("memory hard_offline", "memory soft_offline", "pages contig"):
        return True
    if (operation == "memory add" or operation.startswith("dax")) and -ENOMEM not in rcs:
        return True  # one had a block where the other took base pages; or kmem went without a range
    if not all(short) and not device:
        poor = 0 if short[0] else 1
        if all(a >= b for a, b in zip(free[poor], free[1 - poor], strict=True)):
            return False
    return -ENOMEM in rcs or operation in OFFLINING or operation == "subblock unplug"


def room_fork(ref: Kernel, cand: Kernel, rcs: tuple[int, int], short: tuple[int, int]) -> bool:
    """Whether a huge page in the way of an unplugging found no block to move to on one side only, which said -ENOMEM
    (alloc_and_dissolve_hugetlb_folio, mm/hugetlb.c, 7.3).

    That side has no free pageblock in any zone of its RAM, however many free pages; it changed nothing, so it had none
    before.
    """
    if sorted(rcs) != [-ENOMEM, 0]:
        return False
    stuck = rcs.index(-ENOMEM)
    zones = [zone for node in (ref, cand)[stuck].nodes for zone in node.zones[:ZONE_DEVICE]]
    return short[stuck] > 0 and not any(zone.blocks.total for zone in zones)


def block_fork(
    ref: Kernel, cand: Kernel, rcs: tuple[int, int], short: tuple[int, int], refused: tuple[int, ...]
) -> bool:
    """Whether adding memory found a block for the memmap on one side only, and the injected failure hit a point of the
    base pages that the other side took instead, or another point for having passed those, or none.

    Base pages begin with their table. The side that took them must have run short, and up to there both sides must
    have reached the same points; a side that got further may have met what refuses it with one of `refused`.
    """
    a, b = ref.faults.points, cand.faults.points
    if not a or not b or any(rc not in (0, -ENOMEM) and rc not in refused for rc in rcs):
        return False
    base = [next((i for i, (kind, _) in enumerate(points) if kind in ("PTBL", "VMF")), None) for points in (a, b)]
    if (base[0] is None) == (base[1] is None):
        return False
    poor = 0 if base[1] is None else 1
    before = (a, b)[poor][: base[poor]]
    n = sum(count for _, count in before)
    mine, theirs = (_first_points(points, n, ROOTS)[0] for points in (before, (a, b)[1 - poor]))
    return short[poor] > 0 and (mine <= theirs or theirs <= mine)


def placement_fork(ref: Kernel, cand: Kernel, rcs: tuple[int, int]) -> bool:
    """Whether a block, or a part of one, that was to go has frames that cannot move on one side only, which said so.

    The other side has moved what was in the way, or has tried to.
    """
    if not set(rcs) <= {0, -EBUSY, -ENOMEM}:
        return False
    for lo, hi in {*ref.memory_blocks.tried, *cand.memory_blocks.tried}:
        stuck = [
            any(
                owner not in (OWNER_HUGETLB, OWNER_PAGES_MOVABLE, OWNER_SELFHOSTED, OWNER_HWPOISON, OWNER_OFFLINE)
                for _, _, owner in k.pages.owners.runs(lo, hi)
            )
            for k in (ref, cand)
        ]
        if stuck[0] != stuck[1] and rcs[stuck[1]] == -EBUSY:
            return True
    return False


def crowded_fork(
    ref: Kernel, cand: Kernel, rcs: tuple[int, int], short: tuple[int, int], free: tuple[list[int], list[int]]
) -> bool:
    """Whether a block that was to go offline held more pages of programs on the side that said -EBUSY, which found no
    room for them on the other nodes (do_migrate_range looks there first, mm/memory_hotplug.c).

    `short` and `free` as for `memory_fork`. What a side had to move is what it moved, which the other nodes have less
    now, and what is left in the block.
    """
    if sorted(rcs) != [-EBUSY, 0]:
        return False
    stuck = rcs.index(-EBUSY)
    busy = (ref, cand)[stuck]
    nids = {busy.sections.nid.get(lo // busy.arch.pages_per_section) for lo, _ in busy.memory_blocks.tried}
    to_move = []
    for k, before in zip((ref, cand), free, strict=True):
        others = [node for node in k.nodes if node.nid not in nids]
        now = sum(zone.free_pages(k.arch.pmd_order) for node in others for zone in node.zones[:ZONE_DEVICE])
        left = sum(
            hi - lo
            for first, end in k.memory_blocks.tried
            for lo, hi, owner in k.pages.owners.runs(first, end)
            if owner == OWNER_PAGES_MOVABLE
        )
        to_move.append(sum(before[node.nid] for node in others) - now + left)
    return short[stuck] > 0 and to_move[stuck] > to_move[1 - stuck]


def contig_fork(ref: Kernel, cand: Kernel, rcs: tuple[int, int], lo: int, hi: int) -> bool:
    """Whether a range that was to be allocated holds a frame that cannot move on one side only, which said -EBUSY."""
    if rcs.count(-EBUSY) != 1:
        return False
    k = ref if rcs[0] == -EBUSY else cand
    return any(owner not in (OWNER_HUGETLB, OWNER_PAGES_MOVABLE) for _, _, owner in k.pages.owners.runs(lo, hi))


User = tuple[str | None, int]


def user_of(k: Kernel, pfn: int) -> User:
    """The owner of a frame, and how many frames its holder has if it is a program's movable page."""
    return k.pages.owners.get(pfn), sum(n for _, n in k.pages.holders.get(pfn) or ())


def other_holder(hit: tuple[User | None, User | None]) -> bool:
    """Whether the frame that was poisoned is a movable page of another program on the other side: what each has left
    shows when it frees it."""
    mine, theirs = hit
    return mine is not None and theirs is not None and mine != theirs and mine[0] == theirs[0]


def another_user(hit: tuple[User | None, User | None]) -> bool:
    """Whether the frame that a poisoning operation names was not used for the same on the two sides. What it is decides
    what the kernel says, even whether it dies. Huge pages lie at the same place on both sides.
    """
    return hit[0] != hit[1] and OWNER_HUGETLB not in [user[0] for user in hit if user]


def poison_fork(ref: Kernel, cand: Kernel) -> bool:
    """Whether a poisoned frame was not used for the same on the two sides.

    Which single frame a memmap page or a program's page gets is not compared. Poison makes it visible: a frame that is
    freed with the mark on it is lost.
    """
    mine, theirs = ref.pages.hwpoison, cand.pages.hwpoison
    lost = (pfn for pfn in mine.keys() & theirs.keys() if Poisoned.LEAKED in (mine[pfn], theirs[pfn]))
    return any(mine[pfn] is not theirs[pfn] for pfn in lost)


def folios_fork(ref: Kernel, cand: Kernel, n: int, preferred: int) -> bool:
    """Whether an operation took different huge pages, of `n` pages, because the first choice was not free on the other
    side.

    The first choice is the lowest address in the highest zone of the node that is preferred, CMA pageblocks last. It
    may have become free since: the operation itself frees what optimization saves.
    """
    mine, theirs = _blocks_touched(ref), _blocks_touched(cand)
    first: list[tuple[bool, int, int, bool, int, Kernel]] = []
    for a, b, k, other in ((mine, theirs, ref, cand), (theirs, mine, cand, ref)):
        only = a.copy()
        for lo, hi in b.items():
            only.remove(lo, hi)
        for block in only.starts:
            pfn = block << k.arch.pmd_order
            zone = k.pages.zone_of.get(pfn)
            if zone is not None:
                first.append((zone.nid != preferred, zone.nid, -zone.idx, pfn in k.pages.cma, pfn, other))
    if not first:
        return False
    *_, pfn, other = min(first, key=lambda choice: choice[:5])
    pfn &= -n
    return not other.pages.is_free(pfn, pfn + n) or any(lo < pfn + n and pfn < hi for lo, hi in other.pages.touched)


def _blocks_touched(k: Kernel) -> RunSet:
    """Pageblocks that the operation took or gave back as wholes."""
    order = k.arch.pmd_order
    out = RunSet()
    for lo, hi in k.pages.touched:
        if (lo | hi) & ((1 << order) - 1) == 0:
            out.add(lo >> order, hi >> order)
    return out
