"""Why two sides may part for good: the terminal rules of the ledger.

Each decides from the numbers of both sides whether what differs follows from an intended difference: memory that one
side no longer needs, points that only one side reaches, frames that lie elsewhere. It is asked once a difference has
been found that nothing else explains; the program ends there, and the books of either side are looked at first.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, NamedTuple

from fuzz.oracle.effects.order import aligned_blocks
from fuzz.oracle.finding import Difference, Outcome
from fuzz.oracle.pieces import REF_KEEP, shares_tails
from fuzz.oracle.unaligned import inside
from mm.errno import EBUSY, EINVAL, ENOMEM
from mm.kernel import Kernel
from mm.mmzone import ZONE_DEVICE
from mm.page_alloc import (
    OWNER_HUGETLB,
    OWNER_HWPOISON,
    OWNER_OFFLINE,
    OWNER_PAGES_MOVABLE,
    OWNER_SELFHOSTED,
    Poisoned,
)
from mm.pgmap import PgMap
from mm.runs import RunSet

OFFLINING: Final = frozenset({"memory offline", "memory unplug", "dax offline", "dax state"})
"""Operations that move pages away and dissolve huge pages, because memory blocks are to go offline."""
MOVING: Final = OFFLINING | {"memory soft_offline", "subblock unplug", "pages contig"}
"""Operations that move pages."""
POISONING: Final = frozenset({"memory hard_offline", "memory soft_offline", "memory unpoison"})
ADDING: Final = frozenset({"memory add", "dax create", "dax rebind", "dax state"})
"""Operations that can add RAM, those of a device by its kmem driver."""

COUNTED: Final = (MOVING - {"dax state"}) | frozenset(
    {"hugetlb resize", "hugetlb map", "hugetlb demote", "hugetlb dissolve", "hugetlb unmap", "hugetlb flush"}
    | {"memory online", "memory remove", "memory hard_offline"}
)
"""Operations that reach the same points on both sides as posted."""

ROOTS: Final = frozenset({"ROOT"})
"""Points that every operation may reach in other numbers: struct mem_section has another size."""
DAX_POINTS: Final = frozenset({"TAIL", "VMF"})
"""Points that creating a DAX device reaches in other numbers: shared tails and kept pages."""
PLACE_POINTS: Final = frozenset({"TAIL", "SPLIT"})
"""Points that depend on where a huge page lies: a zone's shared tail page, the table in place of a PMD leaf."""
TABLE_POINTS: Final = frozenset({"VMB", "PTBL", "PGT"})
"""Points that differ where a part of a section is mapped by a PMD leaf on one side."""
HOOKS: Final = frozenset({"PTEHOOK", "PMDHOOK"})
"""Points that only profile `merged` has: page-table updates that can fail."""

Trace = list[tuple[str, int]]
ALL_POINTS: Final = 1 << 62


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
                needs = (0, 0) if hi - lo == per else (ref.arch.vpn(hi - lo),) * 2
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
    elsewhere: bool = False,
) -> bool:
    """Whether the injected failures hit different points because the sides' points differ as they should.

    One must have been hit. Up to the armed number both sides must have reached the same points once the kinds that may
    differ are out, as far as the one came that got less far; and the kinds that may differ must differ. Adding memory
    without a way round the failed allocation must have failed with -ENOMEM, and only then; a side that got further may
    have met what refuses it with one of `refused`. And it must have got further on one side: a failure in the same
    piece of the `device` that is added is undone to the same state.

    `elsewhere`: it takes huge pages, and other pageblocks are free on the two sides. A huge page of another place
    may need its zone's shared tail page, or a table in place of a leaf; a side then fails for a failed allocation, and
    only so.
    """
    fired = ref.faults.fired, cand.faults.fired
    if not any(fired):
        return False
    adding = device is not None or operation == "memory add"
    several = ref.faults.last > ref.faults.first
    ways_round = [_way_round(k, k is ref and k.arch.compounds_by_pfn, device) for k in (ref, cand)]
    if adding:
        for rc, failed, way_round in zip(rcs, fired, ways_round, strict=True):
            if rc not in (0, -ENOMEM) and rc not in refused:
                return False
            if not way_round and not (several and failed) and (rc == -ENOMEM) != (failed is not None):
                return False
    moved = _moved(ref, device, merged)
    if (
        elsewhere
        and not adding
        and all(rc == 0 or (rc in (-ENOMEM, -EBUSY) and failed) for rc, failed in zip(rcs, fired, strict=True))
    ):
        moved |= PLACE_POINTS
    a, b = ref.faults.points or [], cand.faults.points or []
    mine, out = _first_points(a, ref.faults.first, moved)
    theirs, out2 = _first_points(b, ref.faults.first, moved)
    if adding and any(
        rc == 0 and failed is None and not other <= own
        for rc, failed, own, other in zip(rcs, fired, (mine, theirs), (theirs, mine), strict=True)
    ):
        return False  # it did all of it, so it passed whatever the other passed until that failed
    nested = mine <= theirs or theirs <= mine
    if several:
        all_out, all_out2 = (_first_points(one, ref.faults.last, moved)[1] for one in (a, b))
        if all_out != all_out2:
            return nested
        if max(ref.faults.failed, cand.faults.failed) > 1:
            return False
        # Both gave up at the first failure, as if it were the only one.
    hit, hit2 = fired
    if not adding or mine != theirs or hit is None or hit2 is None:
        return out != out2 and nested
    if (hit in ROOTS) != (hit2 in ROOTS):
        return True  # the last of the same points is the one that failed on one side, and was passed on the other
    went_on = [rc != -ENOMEM and way_round for rc, way_round in zip(rcs, ways_round, strict=True)]
    if went_on[0] != went_on[1] and hit != hit2:
        return True  # who got no block took base pages, where the other wanted something else, and gave up
    if device is None:
        return False  # what RAM took is given back
    passed, passed2 = out - Counter([hit]), out2 - Counter([hit2])
    if ref.arch.tails_beside_leaves:
        tables, tables2 = ({kind: one[kind] for kind in TABLE_POINTS} for one in (passed, passed2))
        if hit != hit2 or tables != tables2:
            return passed != passed2  # a table that one side has made stays
    if went_on[0] and hit == "VMF":
        return True  # powerpc's ignored failure
    order = 0 if device.altmap is not None else device.vmemmap_shift
    if ref.arch.compounds_by_pfn and 1 << order > ref.arch.pages_per_section:
        # The reference has mapped the compound page's second page too, which lies behind the section that failed or in
        # front of it, and stays.
        return True
    done = pieces_done(ref, device.ranges, order, (passed["VMF"], passed2["VMF"]), drifts)
    return done[0] != done[1]


def _way_round(k: Kernel, own: bool, device: PgMap | None) -> bool:
    """Whether a side goes on without what the failure took from it; `own`: it is the reference, on powerpc.

    Without a block there are base pages, unless the block was to come from an altmap; powerpc takes no notice of a
    compound page's second page that it did not get, nor of a table for it, where that lies in front of the device; and
    a page that the altmap has not comes from RAM.
    """
    failed = k.faults.fired
    if failed == "VMB" or device is None:
        return failed == "VMB"
    if failed == "VMF":
        return k.arch.memmap_from_ram if device.altmap is not None else own and _second_page(k, device)
    return own and failed in TABLE_POINTS and bool(inside(k.arch, device))


def _second_page(k: Kernel, device: PgMap) -> bool:
    """Whether the page that a compound page of a device did not get was its second one: it takes two, the head's first.
    Where it is larger than a section, others may take a frame for it too."""
    if not shares_tails(k.arch, device.vmemmap_shift, altmap=False):
        return False
    pages = _first_points(k.faults.points or [], k.faults.first, frozenset({"VMF"}))[1]["VMF"]
    return 1 << device.vmemmap_shift > k.arch.pages_per_section or pages % 2 == 0


def points_differ(
    ref: Kernel, cand: Kernel, merged: bool, device: PgMap | None, done: tuple[str, Outcome], lack: Lack
) -> Difference | None:
    """How the allocation points differ that an operation has passed on both sides without a failure, if they do but for
    the kinds that may: then another failure would hit something else than it should.

    Without a trace (`fail alloc` makes one) only how many there were is known, which is enough for operations that
    reach none of these kinds. An operation that was `done` without the memory it asked for does not count: a side that
    tries with many huge pages at once, and then with each, tries the last one twice.
    """
    a, b = ref.faults.points, cand.faults.points
    if ref.faults.fired or cand.faults.fired:
        return None
    if a is None or b is None:
        if merged or done[0] not in COUNTED or done[1] == -EINVAL or any((*lack.pages, *lack.blocks)):
            return None
        detail = f"{ref.faults.reached} points expected, {cand.faults.reached} passed"
        return Difference("frames", "allocation points", "changed", detail)
    if a == b:
        return None
    moved = _moved(ref, device, merged)
    mine, theirs = (_first_points(trace, ALL_POINTS, moved)[0] for trace in (a, b))
    if mine == theirs:
        return None
    detail = f"points {dict(mine)} expected, {dict(theirs)} passed"
    return Difference("frames", "allocation points", "changed", detail)


def _moved(ref: Kernel, device: PgMap | None, merged: bool) -> frozenset[str]:
    """The kinds of points that the two sides may reach in other numbers, in an operation that adds `device` or none."""
    moved = ROOTS | (DAX_POINTS if device is not None else frozenset()) | (HOOKS if merged else frozenset())
    if device is not None and ref.arch.tails_beside_leaves:
        # A partial section takes a block where it took base pages; and one side may have made, and destructed, a table.
        moved |= TABLE_POINTS
    return moved


class Room(NamedTuple):
    """What was free before an operation, by zone: the same zones of each node, node by node."""

    pages: list[int]
    blocks: list[int]
    """Whole pageblocks among them."""


class Lack(NamedTuple):
    """How many allocations of an operation got less than they asked for, by side."""

    pages: tuple[int, int]
    blocks: tuple[int, int]
    """Those of whole pageblocks."""


Rooms = list[tuple[Room, Room]]
"""The room of the reference and of the candidate, for each set of zones that an operation may allocate from."""


def had_less(lack: Lack, room: tuple[Room, Room]) -> bool:
    """Whether a side that ran out of pages had less of them in some zone than the other, or one that ran out of
    pageblocks had less of those, or of the single pages that spare them; where both ran out, whether they had as much.

    Single pages come from the highest zone (build_zonelists, mm/page_alloc.c) and break its pageblocks, so that what a
    lower one has less of is not made up for by what a higher one has more of.
    """
    (pages, blocks), (their_pages, their_blocks) = room
    for short, mine, theirs in (
        (lack.pages, pages, their_pages),
        (lack.blocks, blocks, their_blocks),
        (lack.blocks, pages, their_pages),
    ):
        if all(short):
            if mine != theirs:
                return True
        elif any(short):
            poor, rich = (mine, theirs) if short[0] else (theirs, mine)
            if any(a < b for a, b in zip(poor, rich, strict=True)):
                return True
    return False


def meets(k: Kernel, operation: str, args: dict[str, Any]) -> bool:
    """Whether RAM that an operation names and adds has subsections that are there: a device that could not be added has
    left them."""
    if operation == "memory add":
        return _there(k, args["at"], args["size"])
    if operation == "dax create" and args["driver"] == "kmem":
        for at, size in zip(args["at"], args["size"], strict=True):
            if _there(k, at, size):
                return True
    return False


def _there(k: Kernel, at: int, size: int) -> bool:
    sub = k.arch.pages_per_subsection << k.arch.page_shift
    return k.sections.subsections.overlaps(at // sub, -(-(at + size) // sub))


def memory_fork(
    operation: str,
    rcs: tuple[int, int],
    lack: Lack,
    excused: tuple[bool, bool],
    rooms: Rooms,
    refused: tuple[int, ...],
    device: bool,
) -> bool:
    """Whether a side ran out of memory that the other had, which may then have met what refuses it with one of
    `refused`.

    `excused`: whether a side had another reason to fail, an injected failure or an altmap that may be too small;
    without one only a side that ran out says -ENOMEM or -EBUSY, unless both do (a pool that may not grow, a gigantic
    page that cannot move). `device`: whether the operation adds or takes away device memory; then it takes other
    amounts on the two sides, else the side that ran out must have had less. What may differ is how far it got: it
    failed with -ENOMEM, a pool took what it could, a huge page that another moved to stayed as it was, or a memmap got
    base pages for want of a block.
    """
    ran_out = [any(short) for short in zip(lack.pages, lack.blocks, strict=True)]
    if not any(ran_out):
        return False
    alike = rcs[0] == rcs[1] and operation not in ADDING
    for rc, short, other in zip(rcs, ran_out, excused, strict=True):
        if operation == "memory soft_offline" and rc == -EBUSY and -ENOMEM in rcs:
            continue  # the page has moved, and its frame comes free too late to be taken (page_handle_poison)
        if rc < 0 and rc not in refused and not (rc in (-ENOMEM, -EBUSY) and (alike or short or other)):
            return False
    if not device and not any(had_less(lack, room) for room in rooms):
        return False
    # A memmap without -ENOMEM: one had a block where the other took base pages; or kmem went without a range.
    return -ENOMEM in rcs or operation.startswith("hugetlb") or operation in MOVING | ADDING | {"memory hard_offline"}


def came_further(ref: Kernel, cand: Kernel, rcs: tuple[int, int]) -> tuple[int, ...]:
    """What refuses an operation that is to take several blocks away, on the side that got further: -EBUSY of a block
    that cannot move, to which the other side, which had no memory, did not come."""
    if sorted(rcs) != [-EBUSY, -ENOMEM]:
        return ()
    busy, other = (ref, cand) if rcs[0] == -EBUSY else (cand, ref)
    ahead = set(busy.memory_blocks.tried) - set(other.memory_blocks.tried)
    return (-EBUSY,) if any(_stays(busy, lo, hi) for lo, hi in ahead) else ()


def _stays(k: Kernel, lo: int, hi: int) -> bool:
    """Whether a range has a frame that cannot move."""
    movable = (OWNER_HUGETLB, OWNER_PAGES_MOVABLE, OWNER_SELFHOSTED, OWNER_HWPOISON, OWNER_OFFLINE)
    return any(owner not in movable for _, _, owner in k.pages.owners.runs(lo, hi))


def placement_fork(ref: Kernel, cand: Kernel, rcs: tuple[int, int]) -> bool:
    """Whether a block, or a part of one, that was to go has frames that cannot move on one side only, which said so.

    The other side has moved what was in the way, or has tried to.
    """
    if not set(rcs) <= {0, -EBUSY, -ENOMEM}:
        return False
    for lo, hi in {*ref.memory_blocks.tried, *cand.memory_blocks.tried}:
        stuck = [_stays(k, lo, hi) for k in (ref, cand)]
        if stuck[0] != stuck[1] and rcs[stuck[1]] == -EBUSY:
            return True
    return False


def crowded_fork(
    ref: Kernel, cand: Kernel, rcs: tuple[int, int], short: tuple[int, int], room: tuple[Room, Room]
) -> bool:
    """Whether a block that was to go offline held more pages of programs on the side that said -EBUSY, which found no
    room for them on the other nodes (do_migrate_range looks there first, mm/memory_hotplug.c).

    `short`: how many allocations of pages got less than they asked for, by side; `room` before the operation. What a
    side had to move is what it moved, which the other nodes have less now, and what is left in the block.
    """
    if sorted(rcs) != [-EBUSY, 0]:
        return False
    stuck = rcs.index(-EBUSY)
    busy = (ref, cand)[stuck]
    nids = {busy.memory_blocks.nid.get(lo // busy.memory_blocks.pages) for lo, _ in busy.memory_blocks.tried}
    to_move = []
    for k, before in zip((ref, cand), room, strict=True):
        others = [node for node in k.nodes if node.nid not in nids]
        now = sum(zone.free_pages(k.arch.pmd_order) for node in others for zone in node.zones[:ZONE_DEVICE])
        left = sum(
            hi - lo
            for first, end in k.memory_blocks.tried
            for lo, hi, owner in k.pages.owners.runs(first, end)
            if owner == OWNER_PAGES_MOVABLE
        )
        per = len(before.pages) // len(k.nodes)
        free = [sum(before.pages[node.nid * per : (node.nid + 1) * per]) for node in others]
        to_move.append(sum(free) - now + left)
    return short[stuck] > 0 and to_move[stuck] > to_move[1 - stuck]


def span(k: Kernel, args: dict[str, Any]) -> tuple[int, int]:
    """The frames that an operation names: first, end."""
    return args["at"] >> k.arch.page_shift, (args["at"] + args["size"]) >> k.arch.page_shift


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


NOBODY: Final[User] = None, 0


def other_holder(hit: tuple[User, User]) -> bool:
    """Whether the frame that was poisoned is a movable page of another program on the other side: what each has left
    shows when it frees it."""
    mine, theirs = hit
    return mine != theirs and mine[0] == theirs[0]


def another_user(hit: tuple[User, User]) -> bool:
    """Whether the frame that a poisoning operation names was not used for the same on the two sides. What it is decides
    what the kernel says, even whether it dies. Huge pages lie at the same place on both sides.
    """
    mine, theirs = hit
    return mine != theirs and OWNER_HUGETLB not in (mine[0], theirs[0])


def poison_fork(ref: Kernel, cand: Kernel) -> bool:
    """Whether a poisoned frame was not used for the same on the two sides.

    Which single frame a memmap page or a program's page gets is not compared. Poison makes it visible: a frame that is
    freed with the mark on it is lost.
    """
    mine, theirs = ref.pages.hwpoison, cand.pages.hwpoison
    lost = (pfn for pfn in mine.keys() & theirs.keys() if Poisoned.LEAKED in (mine[pfn], theirs[pfn]))
    return any(mine[pfn] is not theirs[pfn] for pfn in lost)


def first_choice(k: Kernel, name: str, args: dict[str, Any]) -> tuple[int, int]:
    """The pages of a huge page that an operation takes or gives back, and the node where it looks for one first."""
    contig = name == "pages contig"
    huge = "size" in args and not contig
    n = args["size"] >> k.arch.page_shift if huge else 1 << k.arch.pmd_order
    named = contig or name in POISONING
    zone = k.pages.zone_of.get(args["at"] >> k.arch.page_shift) if named else None
    return n, zone.nid if zone is not None else args.get("node") or 0


def folios_fork(ref: Kernel, cand: Kernel, n: int, preferred: int) -> bool:
    """Whether an operation took different huge pages, of `n` pages, because the first choice was not free on the other
    side.

    The first choice is the lowest address in the highest zone of the node that is preferred, CMA pageblocks last. It
    may have become free since: the operation itself frees what optimization saves. Asked of the pageblocks that only
    one side took or gave back, and of those that are huge pages on one side only: single frames can come from a whole
    pageblock too, also from one that the operation itself gave back.
    """
    mine, theirs = _blocks_touched(ref), _blocks_touched(cand)
    handled: Choices = []
    huge: Choices = []
    for a, b, k, other in ((mine, theirs, ref, cand), (theirs, mine, cand, ref)):
        handled += [(pfn, k, other) for pfn in _only(k, a, b)]
        huge += [(pfn, k, other) for pfn in _only(k, _huge(k, a), _huge(other, a))]
    return _first_was_gone(handled, n, preferred) or _first_was_gone(huge, n, preferred)


def none_left(name: str, rcs: tuple[int, int], kernels: tuple[Kernel, Kernel], args: dict[str, Any]) -> bool:
    """Whether the side that has no gigantic pages for a mapping lacks free memory in one piece for them: with as much
    free, a single frame in it is enough."""
    if name != "hugetlb map" or sorted(rcs) != [-ENOMEM, 0]:
        return False
    k = kernels[rcs.index(-ENOMEM)]
    h = k.hstates[first_choice(k, name, args)[0].bit_length() - 1]
    return h.gigantic and aligned_blocks(k, h, [node.nid for node in k.nodes]) < args["count"]


Choices = list[tuple[int, Kernel, Kernel]]
"""First pfns of rows of pageblocks, the side that has them and the other one."""


def _only(k: Kernel, blocks: RunSet, others: RunSet) -> list[int]:
    """The first pfns of rows of pageblocks that are not among the others."""
    only = blocks.copy()
    for lo, hi in others.items():
        only.remove(lo, hi)
    return [block << k.arch.pmd_order for block in only.starts]


def _huge(k: Kernel, blocks: RunSet) -> RunSet:
    """Those of the pageblocks that are of huge pages."""
    order = k.arch.pmd_order
    out = RunSet()
    for lo, hi in blocks.items():
        for s, e, owner in k.pages.owners.runs(lo << order, hi << order):
            if owner == OWNER_HUGETLB:
                out.add(s >> order, e >> order)
    return out


def _first_was_gone(blocks: Choices, n: int, preferred: int) -> bool:
    """Whether the one of the blocks that is chosen first was not free on the other side."""
    first: list[tuple[bool, int, int, bool, int, Kernel]] = []
    for pfn, k, other in blocks:
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
