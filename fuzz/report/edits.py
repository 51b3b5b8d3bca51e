"""Which single edits of a program make its difference vanish: each operation left out, each argument nudged.

What the finding does not depend on is told apart from what it does: an address that may be anything is no clue, an
alignment that may not is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from fuzz.execute import Profile, run_program
from fuzz.program.arguments import LISTS, Argument, G, M, Type, format_value
from fuzz.program.model import Op, Program
from fuzz.program.operations import MACHINE, OPERATIONS
from fuzz.program.repair import repair
from mm.machine import Machine

MOST: Final = 240
"""Edits that are tried."""
MOST_OPERATIONS: Final = 4000
"""Operations that trying them may run; a long program gets fewer edits."""

Effect = Literal["vanishes", "explained", "other", "same"]


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit and what became of the difference."""

    step: int
    """Number of the operation, 0 for the machine."""
    what: str
    """The operation's words, or the name of the argument."""
    before: str
    """Value before; empty where the operation is left out."""
    after: str
    effect: Effect
    """`explained`: a terminal ledger clause ends the program; `other`: another difference shows."""

    def text(self) -> str:
        """In words."""
        if not self.before:
            return f"without `{self.what}`"
        return f"{self.what}={self.after} instead of {self.what}={self.before}"


@dataclass(frozen=True, slots=True)
class Edits:
    """All that were tried."""

    tried: tuple[Edit, ...]
    complete: bool
    """Whether there were no more to try."""

    def of(self, *effects: Effect) -> list[Edit]:
        """Those with one of the effects."""
        return [edit for edit in self.tried if edit.effect in effects]


def try_edits(program: Program, signature: str, profile: Profile) -> Edits:
    """Run the program with each single edit."""
    tried: list[Edit] = []
    operations = 0
    for step, what, before, after, edited in _edits(program.bare()):
        if len(tried) >= MOST or operations >= MOST_OPERATIONS:
            return Edits(tuple(tried), False)
        out = run_program(edited, profile=profile, full_every=1)
        operations += out.ops_executed
        effect: Effect
        if out.finding is not None:
            effect = "same" if out.finding.signature == signature else "other"
        else:
            effect = "explained" if out.verdict == "explained" else "vanishes"
        tried.append(Edit(step, what, before, after, effect))
    return Edits(tuple(tried), True)


def _edits(program: Program) -> Iterator[tuple[int, str, str, str, Program]]:
    """Step, what is edited, its value before and after, and the program after."""
    machine, ops = program.machine, program.ops
    for i, op in enumerate(ops):
        if op.name == "boot":
            continue
        yield i + 1, op.name, "", "", Program(machine, repair(machine, ops[:i] + ops[i + 1 :]))
    for i, op in enumerate(ops):
        for argument in OPERATIONS[op.name].arguments:
            value = op.args[argument.name]
            for other in nudges(argument, value):
                edited: Op = op.changed({**op.args, argument.name: other})
                was, now = format_value(argument, value), format_value(argument, other)
                yield (
                    i + 1,
                    argument.name,
                    was,
                    now,
                    Program(machine, repair(machine, (*ops[:i], edited, *ops[i + 1 :]))),
                )
    for argument in MACHINE:
        value = getattr(machine, argument.name)
        for other in nudges(argument, value):
            changed = _machine(machine, argument.name, other)
            if changed is not None:
                was, now = format_value(argument, value), format_value(argument, other)
                yield 0, argument.name, was, now, Program(changed, repair(changed, ops))


def _machine(machine: Machine, name: str, value: Any) -> Machine | None:
    """The machine with another value; None where that is no machine. Another architecture has other addresses."""
    if name in ("arch", "page"):
        return None
    try:
        return replace(machine, **{name: value})
    except ValueError:
        return None


def nudges(argument: Argument, value: Any) -> Iterator[Any]:
    """Values next to an argument's value: all others of few, neighbours of a number."""
    kind = argument.type
    if kind is Type.HANDLE:
        return
    if kind in LISTS:
        for i, entry in enumerate(value):
            for other in _near(argument, entry, kind is Type.ADDRESSES):
                yield (*value[:i], other, *value[i + 1 :])
    elif kind is Type.NODE:
        yield from (node for node in (None, 0, 1) if node != value and (node is not None or argument.default is None))
    elif argument.options:
        yield from (option for option in argument.options if option != value)
    else:
        yield from _near(argument, value, kind is Type.ADDRESS)


def _near(argument: Argument, value: int, address: bool) -> Iterator[int]:
    proposals: tuple[int, ...]
    if address:
        proposals = (value + 2 * M, value - 2 * M, value + 128 * M, value - 128 * M, value + G)
    elif argument.unit == "bytes":
        proposals = (value + 2 * M, value - 2 * M, value + 128 * M, value * 2, value // 2)
    else:
        proposals = (value + 1, value - 1, value * 2)
    seen = {value}
    for proposal in proposals:
        if proposal not in seen and argument.clamp(proposal) == proposal:
            seen.add(proposal)
            yield proposal
