"""What an operation must have done if it says that it did, on one side alone.

The two sides share the entry points, so an operation that returns 0 and does nothing, or fails and leaves something
behind, does so on both. A law here compares what the operation returned with the state it left: 0 means that the effect
is there, a number of huge pages moves towards the one that was asked for and stops short of it for a reason only, and
an errno needs the state that justifies it. Each costs what the operation touches.
"""

from __future__ import annotations

from typing import Final, final

from fuzz.oracle import tlb
from fuzz.oracle.effects import answers, boot, device, huge, memory, pages
from fuzz.oracle.effects.common import Args, Before, Law, Look, SideLike
from fuzz.oracle.finding import Difference, Outcome
from mm.kernel import Kernel

Seen = tuple[Before, answers.Answers, int, tuple[int, int, int]]
"""The state before an operation, as far as its law and its rule want it; the huge pages that wait for the work item;
the first allocation point that is to fail, how many are, and if any, how many arrays of struct mem_section there
are."""


@final
class Effect:
    """What is asked about an operation. No named tuple, whose fields take longer to get where this is compiled."""

    __slots__ = ("law", "look", "rule")

    def __init__(self, look: Look, law: Law, rule: answers.Rule) -> None:
        self.look: Final = look
        """What the law wants to know of the state before."""
        self.law: Final = law
        self.rule: Final = rule
        """Which answers the state before allows."""

    def before(self, side: SideLike, args: Args) -> Seen:
        """Look at a side before the operation."""
        k = side.kernel
        armed = k.faults.nth, k.faults.times, _arrays(k) if k.faults.nth else 0
        return self.look(side, args), answers.allowed(self.rule, side, args), len(k.hpage_freelist), armed

    def missing(
        self, side: SideLike, name: str, operation: str, args: Args, rc: Outcome, result: str | None, seen: Seen
    ) -> Difference | None:
        """How the state that an operation left contradicts what it returned, or the state that it found, or what every
        operation leaves; `name` is that of the side, `result` the operation's handle."""
        if isinstance(rc, str):
            return None
        then, allowed, waiting, (nth, times, arrays) = seen
        text = self.law(side, args, rc, then, result)
        if text is None and (rc > 0 or (allowed is not None and rc not in allowed)):
            text = f"the state before allows {sorted(allowed or ())}"
        if text is None and len(side.kernel.hpage_freelist) > waiting and args.get("flush", True):
            # Whoever frees a huge page in atomic context schedules the work, and it runs (free_huge_folio,
            # mm/hugetlb.c).
            text = "more huge pages wait for the work item"
        if text is None and nth and not side.kernel.faults.nth:
            # should_fail (lib/fault-inject.c): every point from the one asked for on, as many as were asked for.
            faults = side.kernel.faults
            wanted = min(max(faults.reached - nth + 1, 0), times)
            if faults.failed != wanted or (faults.fired is not None) is not (wanted > 0):
                text = f"{faults.failed} points failed of {faults.reached}, {times} were to from number {nth} on"
            elif arrays:
                text = _roots(side.kernel, arrays)
        if text is None:
            return tlb.left(side.kernel, name)
        drift = "ok" if rc >= 0 else str(rc)
        return Difference("returns", f"{name}: effect", drift, f"{name}: {operation} returned {rc}, but {text}")


def _arrays(k: Kernel) -> int:
    return len(k.paths.section_root_arrays()[1])


def _roots(k: Kernel, before: int) -> str | None:
    """sparse_index_init (mm/sparse.c) allocates for an array that is not there yet, and for no other."""
    faults, made = k.faults, _arrays(k) - before
    passed = sum([count for kind, count in faults.points or () if kind == "ROOT"])
    failed = faults.failed if faults.fired == "ROOT" or faults.failed > 1 else 0
    return None if 0 <= passed - made <= failed else f"{passed} arrays were asked for, {made} are new"


def nothing(side: SideLike, args: Args) -> None:
    """The state before is of no interest."""


LAWS: Final[dict[str, Effect]] = {
    "reserve": Effect(boot.requests, boot.asked, answers.anything),
    "reserve cma": Effect(boot.sizes, boot.cma_asked, answers.anything),
    "boot": Effect(boot.command_line, boot.booted, answers.anything),
    "memory online": Effect(memory.online_before, memory.online, answers.onlined),
    "memory offline": Effect(memory.offline_before, memory.offline, answers.offlined),
    "dax online": Effect(memory.online_before, memory.online, answers.onlined),
    "dax offline": Effect(memory.offline_before, memory.offline, answers.offlined),
    "memory add": Effect(memory.range_before, memory.added, answers.added),
    "memory remove": Effect(memory.ranges_before, memory.gone, answers.removed),
    "memory unplug": Effect(memory.unplug_before, memory.unplugged_whole, answers.unplugged),
    "subblock unplug": Effect(memory.subblock_before, memory.unplugged, answers.subblock_unplug),
    "subblock plug": Effect(memory.subblock_before, memory.plugged, answers.subblock_plug),
    "hugetlb resize": Effect(huge.pool_before, huge.resized, answers.resize),
    "sysctl": Effect(nothing, huge.switched, answers.anything),
    "hugetlb overcommit": Effect(nothing, huge.overcommitted, answers.anything),
    "hugetlb demote": Effect(huge.demote_before, huge.demoted, answers.demote),
    "hugetlb map": Effect(huge.pool_before, huge.mapped, answers.mapped),
    "hugetlb unmap": Effect(huge.user_before, huge.unmapped, answers.unmapped),
    "hugetlb flush": Effect(nothing, huge.flushed, answers.flush),
    "hugetlb dissolve": Effect(huge.dissolve_before, huge.dissolved, answers.dissolve),
    "memory hard_offline": Effect(huge.at_before, huge.failed, answers.hard_offline),
    "memory soft_offline": Effect(huge.at_before, huge.soft_offlined, answers.soft_offline),
    "memory unpoison": Effect(huge.at_before, huge.unpoisoned, answers.unpoison),
    "dax create": Effect(device.iomem_before, device.created, answers.created),
    "dax destroy": Effect(device.device_before, device.destroyed, answers.destroyed),
    "dax rebind": Effect(device.device_before, device.rebound, answers.rebound),
    "dax set": Effect(device.device_before, device.set, answers.attribute),
    "dax state": Effect(device.device_before, device.state, answers.kmem_state),
    "pages alloc": Effect(nothing, pages.allocated, answers.allocated),
    "pages contig": Effect(pages.contig_before, pages.contiguous, answers.contiguous),
    "pages free": Effect(pages.extents_before, pages.freed, answers.freed),
}
"""By operation."""
