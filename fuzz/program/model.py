"""Programs and operations as values.

Both are immutable. `Op.args` is a plain dict, because it is read in the inner loop of both models, and is never changed
after the Op is made; it always holds every argument of the operation, in the registry's order, defaults included.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from fuzz.program.operations import OPERATIONS, VERSION
from mm.machine import Machine


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a program."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)
    result: str | None = None
    """The handle it makes."""
    comment: str = ""
    """The comment after it, on its line."""
    above: tuple[str, ...] = ()
    """The comment lines above it."""

    def __hash__(self) -> int:
        return hash((self.name, self.result, tuple(self.args.values())))


@dataclass(frozen=True, slots=True)
class Program:
    """A machine and the operations run on it; `ops` includes the reserves and the boot."""

    machine: Machine
    ops: tuple[Op, ...]
    comments: tuple[str, ...] = ()
    """The comment lines of the header."""
    footer: tuple[str, ...] = ()
    """The comment lines after the last operation."""
    version: int = VERSION

    def bare(self) -> Program:
        """The same program without comments."""
        if not (self.comments or self.footer or any(op.comment or op.above for op in self.ops)):
            return self
        ops = tuple(Op(op.name, op.args, op.result) if op.comment or op.above else op for op in self.ops)
        return replace(self, ops=ops, comments=(), footer=())


def make_op(name: str, result: str | None = None, /, **args: Any) -> Op:
    """An operation with its defaults filled in: `make_op("hugetlb map", "u0", size=2 * M, count=3)`.

    The values are not checked; a wrong or missing argument name is a TypeError.
    """
    filled = {}
    for argument in OPERATIONS[name].arguments:
        if argument.required and argument.name not in args:
            raise TypeError(f"{name} needs {argument.name}")
        filled[argument.name] = args.pop(argument.name, argument.default)
    if args:
        raise TypeError(f"{name} has no argument {', '.join(args)}")
    return Op(name, filled, result)
