"""Keeping one operation's work bounded, above all for programs that were not made by `generate_op`.

A mutated number can ask a 16T machine for eight million huge pages, each of which is a folio in both models. Such a
program teaches nothing that one with hundreds of pages does not, and holds an engine up for minutes.
"""

from __future__ import annotations

from typing import Final

from fuzz.generate.operands import fit
from fuzz.program.model import Op
from fuzz.side import Side
from mm.hstate import HState
from mm.kernel import Kernel
from mm.runs import RunSet

G: Final = 1 << 30
MANY: Final = 64
"""2M pages that one operation takes at most, a section of memmap: under instrumentation a folio costs much."""
MANY_GIGANTIC: Final = 2
MOST_MEMORY: Final = 64 * G
"""Of `memory add`, whose blocks are devices, made one by one."""
MOST_DAX: Final = 1024 * G
MANY_BLOCKS: Final = 512
"""Memory blocks, those of 64G on x86-64, that one operation empties at most."""


def affordable(op: Op, side: Side) -> Op:
    """The operation, or the same with smaller numbers where this side's kernel would be busy for long."""
    if op.name == "memory unplug":
        memory = side.handles.get(op.args["m"])
        if memory is not None and crowded(side.kernel, memory.start_pfn, memory.start_pfn + memory.nr):
            return Op("memory offline", {"m": op.args["m"], "block": 0})
    limit = _LIMITS.get(op.name)
    return op if limit is None else limit(op, side.kernel)


def crowded(kernel: Kernel, lo: int, hi: int) -> bool:
    """Whether more than `MANY_BLOCKS` of the memory blocks of frames [lo, hi) have frames in use. Empty ones go offline
    in rows, but each of these is emptied by itself, and what was in it may go to one that is emptied later.
    """
    per = kernel.memory_blocks.pages
    if (hi - lo) // per <= MANY_BLOCKS:
        return False
    blocks = RunSet()
    for s, e, _ in kernel.pages.owners.runs(lo, hi):
        blocks.add(s // per, -(-e // per))
    return blocks.total > MANY_BLOCKS


def _with(op: Op, **args: object) -> Op:
    return Op(op.name, {**op.args, **args}, op.result)


def _pool(op: Op, kernel: Kernel) -> HState | None:
    """The pool that the operation's size= names, None if the machine has no such pages."""
    return kernel.hstates.get(op.args["size"].bit_length() - 1 - kernel.arch.page_shift)


def _reserve(op: Op, kernel: Kernel) -> Op:
    pool = _pool(op, kernel)
    most = 16 if pool is not None and pool.gigantic else MANY
    return _with(op, count=most) if op.args["count"] > most else op


def _resize(op: Op, kernel: Kernel) -> Op:
    pool = _pool(op, kernel)
    if pool is None:
        return op
    most = pool.persistent + (MANY_GIGANTIC if pool.gigantic else MANY)
    if op.args["to"] <= most or _few_fit(kernel, pool):
        return op
    return _with(op, to=most)


def _map(op: Op, kernel: Kernel) -> Op:
    pool = _pool(op, kernel)
    if pool is None:
        return op
    most = pool.free_count() + (MANY_GIGANTIC if pool.gigantic else MANY)
    if op.args["count"] <= most or _few_fit(kernel, pool):
        return op
    return _with(op, count=most)


def _few_fit(kernel: Kernel, pool: HState) -> bool:
    return fit(kernel, pool, None) <= (MANY_GIGANTIC if pool.gigantic else MANY)


def _memory_add(op: Op, kernel: Kernel) -> Op:
    return _with(op, size=op.args["size"] % MOST_MEMORY) if op.args["size"] > MOST_MEMORY else op


def _dax_create(op: Op, kernel: Kernel) -> Op:
    if max(op.args["size"]) <= MOST_DAX:
        return op
    return _with(op, size=tuple(size % MOST_DAX if size > MOST_DAX else size for size in op.args["size"]))


_LIMITS: Final = {
    "reserve": _reserve,
    "hugetlb resize": _resize,
    "hugetlb map": _map,
    "memory add": _memory_add,
    "dax create": _dax_create,
}
