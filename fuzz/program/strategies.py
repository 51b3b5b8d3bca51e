"""Hypothesis strategies for programs.

Arguments are drawn over their whole range, not only what generators find plausible, and `repair` makes the list legal.
"""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from fuzz.program.arguments import LIMIT, Argument, Type
from fuzz.program.model import Op, Program
from fuzz.program.operations import KINDS, MACHINE, MEMORY, OPERATIONS, Operation
from fuzz.program.repair import repair
from mm.machine import Machine

_HANDLES: Final = {kind: tuple(f"{kind}{index}" for index in range(3)) for kind in KINDS}
_RAM: Final = ("ram0", "ram1")
_ENTRIES: Final = 3
"""The longest list of ranges."""


def values(argument: Argument) -> st.SearchStrategy[Any]:
    """Values of an argument; of a list argument, values of an entry."""
    if argument.type is Type.HANDLE:
        return st.sampled_from(_HANDLES[argument.name] + (_RAM if argument.name == MEMORY else ()))
    if argument.options:
        return st.sampled_from(argument.options)
    numbers = st.integers(argument.minimum, min(argument.maximum, LIMIT - 1)).map(argument.clamp)
    menu = st.sampled_from(argument.menu) if argument.menu else st.nothing()
    small = st.integers(argument.minimum, argument.minimum + 20).map(argument.clamp)
    if argument.type is Type.NODE and argument.default is None:
        return st.none() | small | numbers
    return menu | small | numbers


@st.composite
def _ops(draw: st.DrawFn, operation: Operation) -> Op:
    length = draw(st.integers(1, _ENTRIES))
    args = {
        argument.name: draw(st.tuples(*[values(argument)] * length))
        if argument.type in (Type.ADDRESSES, Type.SIZES)
        else draw(values(argument))
        for argument in operation.arguments
    }
    return Op(operation.name, args, draw(st.sampled_from(_HANDLES[operation.makes])) if operation.makes else None)


def ops() -> st.SearchStrategy[Op]:
    """Single operations, on handles that may or may not be made."""
    return st.one_of([_ops(operation) for operation in OPERATIONS.values()])


def machines() -> st.SearchStrategy[Machine]:
    """Machines."""
    return st.builds(Machine.coerced, **{key.name: values(key) for key in MACHINE})


@st.composite
def programs(draw: st.DrawFn, max_ops: int = 20) -> Program:
    """Legal programs with canonical handle names and no comments."""
    machine = draw(machines())
    return Program(machine, repair(machine, draw(st.lists(ops(), max_size=max_ops))))


def comments() -> st.SearchStrategy[str]:
    """Comments as the parser reads them: one line, without space around it."""
    line = st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), max_size=20)
    return line.map(str.strip)
