"""Programs and operations as values.

Neither is changed after it was made. An operation is no frozen dataclass, because making one of those takes four times
as long (compiled, twenty times), and each operation that is run is made. `Op.args` is a plain dict, because it is read
in the inner loop of both models; it always holds every argument of the operation, in the registry's order, defaults
included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, final

from fuzz.program.operations import OPERATIONS, VERSION
from mm.machine import Machine


@final
class Op:
    """One operation of a program.

    `result` is the handle it makes; `comment` stands after it, on its line, and `above` are the comment lines above it.
    """

    __slots__ = ("above", "args", "comment", "name", "result")

    def __init__(
        self,
        name: str,
        args: dict[str, Any] | None = None,
        result: str | None = None,
        comment: str = "",
        above: tuple[str, ...] = (),
    ) -> None:
        self.name: Final = name
        self.args: Final[dict[str, Any]] = {} if args is None else args
        self.result: Final = result
        self.comment: Final = comment
        self.above: Final = above

    def _key(self) -> tuple[Any, ...]:
        return self.name, self.args, self.result, self.comment, self.above

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Op) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.name, self.result, tuple(self.args.values())))

    def __repr__(self) -> str:
        return f"Op{self._key()}"

    def changed(self, args: dict[str, Any], *, result: str | None = None, above: tuple[str, ...] | None = None) -> Op:
        """This operation with other arguments, and another handle or other lines above it if they are given."""
        return Op(
            self.name,
            args,
            self.result if result is None else result,
            self.comment,
            self.above if above is None else above,
        )


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
