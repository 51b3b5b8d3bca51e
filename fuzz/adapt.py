"""Numbers that follow what they stand for, when a program gets shorter.

`fail alloc nth=5` means the page table of a split, and `hugetlb dissolve at=0x3000000` means the one huge page there
is. Without an operation before them the split may be point 4 and the page elsewhere: the shorter program shows the same
only with other numbers, and those are known, since a kernel can be asked: of what kind the point was that failed, which
points of that kind the operation has now, and where the huge pages are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from candidate.framework import UnifiedFramework
from fuzz.program.model import Op
from fuzz.side import MakePaths, Side
from mm.errno import ENOMEM
from mm.kernel import Kernel
from mm.machine import Machine
from mm.page_alloc import OWNER_RESERVED
from reference.paths import SeparatePaths

Ops = tuple[Op, ...]

FAULT: Final = "fail alloc"
AT_A_HUGE_PAGE: Final = frozenset(
    {"hugetlb dissolve", "memory hard_offline", "memory soft_offline", "memory unpoison", "pages contig"}
)
"""Operations whose address is mostly that of a huge page."""
AT_ANY_FRAME: Final = frozenset({"memory hard_offline", "memory soft_offline", "memory unpoison"})
"""Those of them whose address can be that of any frame."""
SIDES: Final[tuple[MakePaths, MakePaths]] = SeparatePaths, UnifiedFramework
NUMBERS: Final = 4
"""Points of one kind that are tried: the first ones, and the last."""
PLACES: Final = 2
"""Huge pages of one pool that are tried: the first and the last."""


def fired(machine: Machine, ops: Ops) -> str | None:
    """Kind of the allocation point that the program's last `fail alloc` failed."""
    at = _last_fault(ops)
    if at is None:
        return None
    side = run(machine, ops[: at + 2])
    return side.kernel.faults.fired


def adapted(machine: Machine, ops: Ops, kind: str | None) -> Iterator[Ops]:
    """The program with other numbers: its last operation for a huge page at those that there are or at a frame of the
    kernel, its last failure, which was of `kind`, at points of that kind.
    """
    for moved in _moved(machine, ops):
        at = _last_fault(moved)
        if at is not None and kind is not None:
            for nth in _points(machine, moved, at, kind):
                fault = moved[at]
                yield (*moved[:at], fault.changed({**fault.args, "nth": nth}), *moved[at + 1 :])
        if moved is not ops:
            yield moved


def last_points(machine: Machine, ops: Ops) -> list[int]:
    """Number of the last allocation point that the last operation reaches on each side: one that only one side has is
    among them."""
    sides = run(machine, ops), run(machine, ops, UnifiedFramework)
    return sorted({side.kernel.faults.reached for side in sides})


def lacked(machine: Machine, ops: Ops) -> set[int]:
    """Where memory ran out on either side: an allocation of pages got less than it asked for, or the answer is -ENOMEM
    without an injected failure."""
    out: set[int] = set()
    for paths in SIDES:
        side = Side(machine, paths)
        for i, op in enumerate(ops):
            short = side.kernel.pages.short
            rc = side.run(op)
            if side.kernel.pages.short > short or (rc == -ENOMEM and ops[i - 1].name != FAULT):
                out.add(i)
    return out


def _last_fault(ops: Ops) -> int | None:
    """Where the last `fail alloc` stands that an operation follows."""
    return next((i for i in range(len(ops) - 2, -1, -1) if ops[i].name == FAULT), None)


def run(machine: Machine, ops: Ops, paths: MakePaths = SeparatePaths) -> Side:
    """One side after a program, or when it died."""
    side = Side(machine, paths)
    for op in ops:
        if isinstance(side.run(op), str):
            break
    return side


def _points(machine: Machine, ops: Ops, at: int, kind: str) -> list[int]:
    """Numbers of the points of `kind` that the operation behind the failure at `at` reaches without it."""
    side = run(machine, ops[:at])
    faults = side.kernel.faults
    faults.points = []
    side.run(ops[at + 1])
    numbers, reached = [], 0
    for name, n in faults.points or ():
        if name == kind and n:
            numbers += [reached + 1, reached + n]
        reached += n
    found = list(dict.fromkeys(numbers))
    return [*found[:NUMBERS], *found[NUMBERS:][-1:]]


def _moved(machine: Machine, ops: Ops) -> Iterator[Ops]:
    """The program as it is, and with its last operation that is for a huge page at others if it is at none, or at a
    frame of the kernel's image: of what is in use, that is there without any operation."""
    yield ops
    at = next((i for i in range(len(ops) - 1, -1, -1) if ops[i].name in AT_A_HUGE_PAGE), None)
    if at is None:
        return
    op = ops[at]
    kernel = run(machine, ops[:at]).kernel
    pfn = op.args["at"] >> kernel.arch.page_shift
    if any(pfn & -pool.pages in pool.folios for pool in kernel.hstates.values()):
        return
    places = huge_pages(kernel)
    if op.name in AT_ANY_FRAME:
        places += [lo for lo, _, owner in kernel.pages.owners.items() if owner == OWNER_RESERVED][:1]
    for place in places:
        yield (*ops[:at], op.changed({**op.args, "at": place << kernel.arch.page_shift}), *ops[at + 1 :])


def huge_pages(kernel: Kernel) -> list[int]:
    """First frames of huge pages of the pools."""
    out: list[int] = []
    for pool in kernel.hstates.values():
        there = sorted(pool.folios)
        out += dict.fromkeys(there[:: max(1, len(there) - 1)][:PLACES])
    return out
