"""Making a list of operations legal again after it was cut, reordered or joined.

Mutation and the minimizer both edit lists of operations freely and call `repair`; nothing else decides what happens to
a dangling handle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from fuzz.program.model import Op
from fuzz.program.operations import AFTER_BOOT, BOOT, KINDS, MEMORY, OPERATIONS
from fuzz.program.scope import ram_count
from mm.machine import Machine

_SHAPE: Final[Mapping[str, tuple[str, str | None, str | None, bool]]] = {
    op.name: (op.when, op.handle.name if op.handle else None, op.makes, op.ends) for op in OPERATIONS.values()
}
_PLAIN: Final = frozenset(
    op.name for op in OPERATIONS.values() if op.when == AFTER_BOOT and not op.handle and not op.makes
)
"""Operations that stay as they are wherever they stand behind the boot: about half of all, so they go first."""


def repair(machine: Machine, ops: Iterable[Op]) -> tuple[Op, ...]:
    """The operations as a legal body of a program on this machine, in their order.

    - There is exactly one boot: the first one, or one put before the first operation that needs it. Later reserves are
      dropped.
    - Handles get their canonical names. A use means the latest handle made under that name, as in nested scopes, so
      joining two programs with the same names does what a reader expects.
    - An operation on a handle that is not made, is gone, or is of another kind is dropped. Boot RAM that the machine
      does not have becomes RAM that it has.

    A legal program with canonical names comes back unchanged; applying it twice is applying it once.
    """
    rams = ram_count(machine)
    live: dict[str, tuple[str, str]] = {f"ram{index}": (MEMORY, f"ram{index}") for index in range(rams)}
    made = dict.fromkeys(KINDS, 0)
    booted = False
    out: list[Op] = []
    for op in ops:
        name = op.name
        if booted and name in _PLAIN:
            out.append(op)
            continue
        when, takes, makes, ends = _SHAPE[name]
        if when != AFTER_BOOT:
            if booted:
                continue
            booted = when == BOOT
        elif not booted:
            booted = True
            out.append(Op(BOOT))
        args = op.args
        if takes is not None:
            handle = args[takes]
            kind, known = live.get(handle) or _other_ram(handle, rams)
            if kind != takes:
                continue
            if ends:
                del live[handle]
            if known != handle:
                args = {**args, takes: known}
        result = op.result
        if makes is not None:
            result = f"{makes}{made[makes]}"
            made[makes] += 1
            if op.result is not None:
                live[op.result] = (makes, result)
        if args is op.args and result == op.result:
            out.append(op)
        else:
            out.append(Op(name, args, result, op.comment, op.above))
    if not booted:
        out.append(Op(BOOT))
    return tuple(out)


def _other_ram(name: str, rams: int) -> tuple[str, str]:
    """What to use for a handle that is not live: another RAM range for boot RAM, else no kind."""
    number = name.removeprefix("ram")
    if number != name and number.isdecimal():
        return MEMORY, f"ram{int(number) % rams}"
    return "", name
