"""Open findings: defects of the kernels that fuzzing has found and that docs/findings tells about.

They stand in the ledger beside the intended differences, with the page that explains them, so that a run does not
report them over and over. A rule here recognises one defect by its cause, not by its symptom alone.
"""

from __future__ import annotations

from itertools import groupby

from fuzz.oracle.finding import Outcome
from mm.kernel import Kernel
from mm.page_alloc import OWNER_ALTMAP
from mm.pgmap import PgMap
from mm.runs import RunSet


def prehvo_of_interleaved_node(ref: Kernel, outcomes: tuple[Outcome, Outcome]) -> bool:
    """docs/findings/0003: pre-HVO of a node whose sections are not in one row; the reference runs out of usage maps."""
    mine, theirs = outcomes
    nodes = [nid for nid, _ in groupby(nid for _, _, nid in ref.sections.nid.items())]
    return theirs == 0 and isinstance(mine, str) and "no usage map is left" in mine and len(nodes) > len(set(nodes))


def compound_under_leaf(ref: Kernel, ranges: list[tuple[int, int]], mine: Outcome) -> bool:
    """docs/findings/0006: a device that shares tails, in a section where riscv64 has a PMD leaf for another part."""
    arch = ref.arch
    if not arch.vmemmap_leaf_for_part or not isinstance(mine, str) or "is looked up in a PMD leaf" not in mine:
        return False
    leaves = [m for lo, hi in ranges for _, _, m in ref.tables.runs(lo // arch.spp, hi // arch.spp) if m.kind == "leaf"]
    return bool(leaves)


def missed_vmemmap_page(ref: Kernel, ranges: list[tuple[int, int]], outcomes: tuple[Outcome, Outcome]) -> bool:
    """docs/findings/0004: a device that begins inside a vmemmap page, on arm64 or loongarch64 with pages of 16K or 64K;
    both trees leave the last vmemmap page of a piece unmapped, and touch a struct page in it."""
    arch = ref.arch
    mine, theirs = outcomes
    if arch.vmemmap_rounds_down or not isinstance(mine, str):
        return False
    died = "is written but not mapped" in mine and mine == theirs
    return died and any(start % arch.spp for start, _ in ranges)


def shared_vmemmap_page(ref: Kernel, remaps: list[tuple[PgMap, RunSet | None]], mine: Outcome) -> bool:
    """docs/findings/0008: a device goes whose first or last vmemmap page also describes memory of another, on arm64
    with pages of 16K or 64K; both trees unmap that page, and release its frame as if it were the device's own.

    With an altmap the frame is credited and lost; without, an altmap's frame of the other device is given to the buddy
    allocator, which dies of it. On s390 and riscv64 it is a PMD leaf that two devices share: the altmap of the one that
    goes last is credited with all of it, and has given less than it got back; without an altmap, the leaf's frames go
    to the buddy allocator, though they lie in the other device.
    """
    arch = ref.arch
    if not arch.vmemmap_frees_shared:
        return False
    died = isinstance(mine, str)
    if died and "is freed but is not online RAM" not in str(mine):
        return False
    leaves = arch.vmemmap_leaf_for_part
    if leaves and any(pgmap.altmap is not None and pgmap.altmap.alloc < 0 for pgmap, _ in remaps):
        return True
    # What was taken away is mapped anew, or was to be; what an altmap got back too much it has given then.
    rebound = any(before is not None for _, before in remaps[1:])
    if leaves and not died and not rebound:
        return False
    pages = arch.ptrs_per_pte if leaves else 1
    unit, sub = pages * arch.spp, arch.pages_per_subsection
    for pgmap, _ in remaps:
        if died is (pgmap.altmap is not None):
            continue
        for edge in (pfn for ends in pgmap.ranges for pfn in ends if pfn % unit):
            first = edge - edge % unit
            if ref.tables.get(first // arch.spp) is not None and not rebound:
                continue
            # s390 waits until nothing needs the leaf, arm64 takes the page from those who do, riscv64 the leaf.
            if leaves or ref.sections.subsections.overlaps(first // sub, (first + unit) // sub):
                return True
    return False


def altmap_left(ref: Kernel, remaps: list[tuple[PgMap, RunSet | None]]) -> RunSet:
    """docs/findings/0010: frames in a device's own memory that hold memmap, after adding the device has failed in the
    middle."""
    out = RunSet()
    for pgmap, before in remaps:
        if before is not None and pgmap.altmap is not None:
            for start, end in pgmap.ranges:
                for lo, hi, owner in ref.pages.owners.runs(start, end):
                    if owner == OWNER_ALTMAP:
                        out.add(lo, hi)
    return out


def left_used(ref: Kernel, cand: Kernel, left: RunSet, added: PgMap | None, rc: Outcome) -> bool:
    """docs/findings/0010: whether memory that is `left` as memmap of a device that could not be added has come online
    on both sides, or holds the memmap of a device that was `added` too."""
    if not left.starts:
        return False
    altmap = None if added is None or rc else added.altmap
    if altmap is not None and left.overlaps(*altmap.taken()):
        return True
    zones = ref.pages.zone_of, cand.pages.zone_of
    return any(all(zone.overlaps(lo, hi) for zone in zones) for lo, hi in left.items())


def surplus_above_nr(ref: Kernel, cand: Kernel) -> set[int]:
    """docs/findings/0002: orders of pools that an operation which takes free pages off a pool without looking at
    surplus (demotion, shrinking) has left with more surplus pages than pages on a node, on both sides."""
    out: set[int] = set()
    for order, h in ref.hstates.items():
        other = cand.hstates[order]
        above = any(surplus > nr for surplus, nr in zip(h.surplus, h.nr, strict=True))
        if above and (h.surplus, h.nr) == (other.surplus, other.nr):
            out.add(order)
    return out
