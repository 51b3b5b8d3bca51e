"""Arguments of operations: their types, and how one value is read and written.

A value in a program is a plain Python object: addresses and sizes are ints in bytes, lists are tuples of ints, booleans
are bool, an absent node is None, choices are str, handles are their names. Sizes and addresses may be written in
several ways; `format_value` knows the canonical one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

K: Final = 1 << 10
M: Final = 1 << 20
G: Final = 1 << 30
T: Final = 1 << 40

LIMIT: Final = 1 << 63
"""Numbers of a program are below this: a signed 64-bit column, and what the kernel can still negate into an errno."""

UNITS: Final = {"": 1, "K": K, "M": M, "G": G, "T": T}
_UNITS_DOWN: Final = (("T", T), ("G", G), ("M", M), ("K", K))
_NUMBER: Final = re.compile(r"(0x[0-9a-fA-F]+|[0-9]+)([A-Za-z]*)")


class Required:
    """The type of `REQUIRED`, the default of an argument that has none."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = Required()


class Type(Enum):
    """What an argument's value is."""

    ADDRESS = "address"
    ADDRESSES = "address list"
    SIZE = "size"
    SIZES = "size list"
    COUNT = "count"
    NODE = "node"
    BOOL = "bool"
    CHOICE = "choice"
    HANDLE = "handle"


LISTS: Final = frozenset({Type.ADDRESSES, Type.SIZES})
_HEX: Final = frozenset({Type.ADDRESS, Type.ADDRESSES})
_BYTES: Final = frozenset({Type.ADDRESS, Type.ADDRESSES, Type.SIZE, Type.SIZES})


class BadValue(ValueError):
    """A value that the argument cannot have: what is wrong, and what was expected."""

    def __init__(self, message: str, expected: str) -> None:
        super().__init__(message)
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of an operation, or one key of the machine.

    A handle is positional and its name is the letter of its kind; every other argument is written `name=value`.
    """

    name: str
    type: Type
    default: Any = REQUIRED
    choices: tuple[Any, ...] = ()
    """The only values allowed, if not empty."""
    unit: str = "bytes"
    """What a number of this argument counts."""
    placeholder: str = ""
    """What documentation writes for the value."""
    absent: str = ""
    """What an absent node means."""
    minimum: int = 0
    maximum: int = LIMIT - 1
    multiple: int = 1
    menu: tuple[int, ...] = ()
    """Values near which behaviour is expected to change; generators prefer them."""
    along: str = ""
    """The list argument that must have as many entries as this one."""

    @property
    def required(self) -> bool:
        """Whether a line must give this argument."""
        return self.default is REQUIRED

    @property
    def options(self) -> tuple[Any, ...]:
        """All values, if they are few, with the default first, so that generators' smallest value is the default."""
        choices = (False, True) if self.type is Type.BOOL else self.choices
        if self.default not in choices:
            return choices
        return (self.default, *(choice for choice in choices if choice != self.default))

    def clamp(self, value: int) -> int:
        """The nearest number (from below, inside the bounds) that the argument allows."""
        value = min(max(value, self.minimum), self.maximum)
        return max(value - value % self.multiple, self.minimum)

    def values(self) -> str:
        """The allowed values in words, for documentation and errors."""
        match self.type:
            case Type.BOOL:
                return "on, off"
            case _ if self.choices:
                return ", ".join(format_value(self, choice) for choice in self.choices)
            case Type.SIZE if self.multiple > 1:
                low, high = format_size(self.minimum), format_size(self.maximum)
                return f"{low} to {high}, multiple of {format_size(self.multiple)}"
            case Type.ADDRESS:
                return "an address such as 0x140000000 or 5G"
            case Type.ADDRESSES:
                return "addresses such as 0x140000000,0x180000000"
            case Type.SIZE:
                return "a size such as 4K, 2M, 1G or 16T"
            case Type.SIZES:
                return "sizes such as 128M,1G"
            case Type.HANDLE:
                return f"a handle of kind {self.name}, such as {self.name}0"
            case _:
                return f"a number from {self.minimum} up" + ("" if self.default is not None else ", or none")


def format_size(value: int) -> str:
    """A number of bytes with the largest unit that divides it."""
    if value:
        for suffix, unit in _UNITS_DOWN:
            if value % unit == 0:
                return f"{value // unit}{suffix}"
    return str(value)


def format_value(argument: Argument, value: Any) -> str:
    """The canonical text of a value."""
    match argument.type:
        case Type.SIZE:
            return format_size(value)
        case Type.ADDRESS:
            return f"{value:#x}"
        case Type.ADDRESSES:
            return ",".join(f"{entry:#x}" for entry in value)
        case Type.SIZES:
            return ",".join(map(format_size, value))
        case Type.BOOL:
            return "on" if value else "off"
        case Type.NODE if value is None:
            return "none"
        case _:
            return str(value)


def parse_value(argument: Argument, text: str) -> Any:
    """The value that `text` gives to the argument; raises BadValue."""
    kind = argument.type
    if kind is Type.BOOL:
        if text == "on":
            return True
        if text == "off":
            return False
        raise BadValue(f"{argument.name}={clip(text)} is neither on nor off", "on or off")
    if kind is Type.CHOICE:
        if text in argument.choices:
            return text
        raise BadValue(f"{argument.name} cannot be {clip(text)}", f"one of {argument.values()}")
    if kind in LISTS:
        return tuple(_parse_number(argument, entry) for entry in text.split(","))
    if kind is Type.NODE and text == "none" and argument.default is None:
        return None
    return _parse_number(argument, text)


def clip(text: str, width: int = 40) -> str:
    """A token quoted for a message, shortened if long."""
    return repr(text if len(text) <= width else text[: width - 1] + "…")


def _parse_number(argument: Argument, text: str) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None:
        what = "is missing its value" if not text else f"cannot be {clip(text)}"
        raise BadValue(f"{argument.name} {what}", argument.values())
    digits, suffix = match.groups()
    unit = UNITS.get(suffix)
    if suffix and argument.type not in _BYTES:
        counts = "the number of a node" if argument.type is Type.NODE else f"a number of {argument.unit}"
        raise BadValue(f"{argument.name} is {counts} and takes no unit, not {clip(suffix)}", argument.values())
    if unit is None:
        raise BadValue(f"unknown unit {clip(suffix)} in {argument.name}={clip(text)[1:-1]}", _right_unit(suffix))
    # The length comes first: int() of a very long decimal is slow, and beyond 4300 digits the interpreter refuses it.
    value = LIMIT if len(digits.lstrip("0x")) > 20 else int(digits, 16 if digits[1:2] == "x" else 10) * unit
    if value >= LIMIT:
        raise BadValue(f"{argument.name}={clip(text)[1:-1]} is too big", "a number below 2**63")
    if argument.choices:
        if value not in argument.choices:
            raise BadValue(f"{argument.name} cannot be {clip(text)[1:-1]}", f"one of {argument.values()}")
    elif value < argument.minimum or value > argument.maximum or value % argument.multiple:
        raise BadValue(f"{argument.name} cannot be {clip(text)[1:-1]}", argument.values())
    return value


def _right_unit(suffix: str) -> str:
    guess = suffix[0].upper()
    return f"{guess} (units are K, M, G and T, in capitals)" if guess in UNITS else "K, M, G or T"
