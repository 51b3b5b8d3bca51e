"""What an operation must have done if it says that it did, on one side alone.

The two sides share the entry points, so an operation that returns 0 and does nothing, or fails and leaves something
behind, does so on both. A law here compares what the operation returned with the state it left: 0 means that the effect
is there, a number of huge pages moves towards the one that was asked for and stops short of it for a reason only, and
an errno needs the state that justifies it. Each costs what the operation touches.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from fuzz.oracle import tlb
from fuzz.oracle.effects import device, huge, memory, pages
from fuzz.oracle.effects.common import Args, Before, Law, Look, OpLike, SideLike
from fuzz.oracle.finding import Difference, Outcome


class Effect(NamedTuple):
    """What is asked about an operation."""

    look: Look
    """What the law wants to know of the state before."""
    law: Law


def missing(effect: Effect, op: OpLike, side: SideLike, rc: Outcome, then: Before, name: str) -> Difference | None:
    """How the state that an operation left contradicts what it returned, or what every operation leaves."""
    if isinstance(rc, str):
        return None
    text = effect.law(side, op.args, rc, then, op.result)
    if text is None:
        return tlb.left(side.kernel, name)
    drift = "ok" if rc >= 0 else str(rc)
    return Difference("returns", f"{name}: effect", drift, f"{name}: {op.name} returned {rc}, but {text}")


def nothing(side: SideLike, args: Args) -> None:
    """The state before is of no interest."""


LAWS: Final = {
    "memory online": Effect(memory.block_before, memory.online),
    "memory offline": Effect(memory.block_before, memory.offline),
    "dax online": Effect(memory.block_before, memory.online),
    "dax offline": Effect(memory.block_before, memory.offline),
    "memory add": Effect(memory.range_before, memory.added),
    "memory remove": Effect(memory.ranges_before, memory.removed),
    "memory unplug": Effect(memory.ranges_before, memory.gone),
    "subblock unplug": Effect(memory.subblock_before, memory.unplugged),
    "subblock plug": Effect(memory.subblock_before, memory.plugged),
    "hugetlb resize": Effect(huge.pool_before, huge.resized),
    "hugetlb overcommit": Effect(nothing, huge.overcommitted),
    "hugetlb demote": Effect(huge.pool_before, huge.demoted),
    "hugetlb map": Effect(huge.pool_before, huge.mapped),
    "hugetlb unmap": Effect(huge.user_before, huge.unmapped),
    "hugetlb flush": Effect(nothing, huge.flushed),
    "hugetlb dissolve": Effect(nothing, huge.dissolved),
    "memory hard_offline": Effect(huge.at_before, huge.failed),
    "memory soft_offline": Effect(huge.at_before, huge.soft_offlined),
    "memory unpoison": Effect(huge.at_before, huge.unpoisoned),
    "dax create": Effect(device.iomem_before, device.created),
    "dax destroy": Effect(device.device_before, device.destroyed),
    "dax rebind": Effect(device.device_before, device.rebound),
    "dax set": Effect(device.device_before, device.set),
    "dax state": Effect(device.device_before, device.state),
    "pages alloc": Effect(nothing, pages.allocated),
    "pages contig": Effect(nothing, pages.contiguous),
    "pages free": Effect(pages.extents_before, pages.freed),
}
"""By operation."""
