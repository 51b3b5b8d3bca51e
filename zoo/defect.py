"""What a defect is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Side = Literal["reference", "candidate"]


@dataclass(frozen=True, slots=True)
class Defect:
    """One real bug, and the one spot where it lives in a model."""

    id: str
    """Name in the zoo; where the bug has none, that of its switch."""
    switch: str
    """Name of the switch in the specification of the side (separate-paths.md section 5)."""
    title: str
    side: Side
    source: str
    """The upstream patch that mends it, or that brought it."""
    mechanism: str
    layer: str
    """The first layer of observation that shows it: returns, mapping, structpages, accounting, frames."""
    spot: str
    """`module:function` or `module:Class.method`."""
    replacement: Callable[..., Any]
    """Called in place of the function, with the function itself before the arguments."""
    program: str | None
    """The shortest known program, as text; None where no operation of the language leads there."""
    failing: str | None = None
    """The shortest known program whose last operation fails on both sides, where it succeeds in `program` and the bug
    does something else when it fails."""


@dataclass(frozen=True, slots=True)
class NotModelled:
    """A bug that cannot be planted, and why."""

    id: str
    title: str
    reason: str
