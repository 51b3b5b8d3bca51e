"""`report.html`: a finding as one file that needs nothing else, for a screen, a phone and paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from fuzz.execute import Profile
from fuzz.oracle.observe import VMSTAT
from fuzz.program.model import Program
from fuzz.render import LAYERS
from fuzz.report.case import Case, examine
from fuzz.report.derive import OWNER_WORDS, derivation
from fuzz.report.edits import Edit
from fuzz.report.strips import HEIGHT, KINDS, WIDTH, Band, bands
from fuzz.trace import SideStep, Step, Trace

MOST_COUNTERS: Final = 40
DRAWN: Final = 40
"""Operations, the last of a program, that are drawn; a page must stay small."""


@cache
def environment() -> Environment:
    """Where templates are found; everything that goes into them is escaped."""
    return Environment(
        loader=PackageLoader("fuzz.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@dataclass(frozen=True, slots=True)
class CounterRow:
    """One line of the table of counters."""

    name: str
    values: tuple[int, int]
    moved: tuple[int, int]
    differs: bool
    """First difference."""


@dataclass(frozen=True, slots=True)
class OwnerRow:
    """One line of the frame ledger."""

    owner: str
    words: str
    frames: tuple[int, int]
    moved: tuple[int, int]


@dataclass(frozen=True, slots=True)
class StepView:
    """One operation as the page shows it."""

    step: Step
    bands: list[Band]
    counters: list[CounterRow]
    owners: list[OwnerRow]
    guilty: bool


def html(case: Case) -> str:
    """The page."""
    told = case.trace
    return (
        environment()
        .get_template("finding.html")
        .render(
            case=case,
            trace=told,
            finding=told.finding,
            layer=LAYERS[told.finding.layer] if told.finding else "",
            steps=list(_views(case)),
            sentences=derivation(case),
            program=told.program,
            edits=grouped(case.edits.of("vanishes", "explained")),
            others=grouped(case.edits.of("other")),
            kinds=KINDS,
            width=WIDTH,
            height=HEIGHT,
        )
    )


def page_of(program: Program, profile: Profile, planted: str | None = None) -> str:
    """The page of a program, with whatever is planted in this process."""
    return html(examine(program, profile, planted))


def _views(case: Case) -> Iterator[StepView]:
    told = case.trace
    fields = _fields(told)
    first_drawn = len(told.steps) - DRAWN
    for i, step in enumerate(told.steps):
        before = told.steps[i - 1] if i else None
        drawn = bands(told, case.ranges, step.number) if i >= first_drawn else []
        guilty = step.number == case.guilty
        yield StepView(step, drawn, _counters(step, fields, told, guilty), _owners(step, before), guilty)


def _fields(told: Trace) -> list[tuple[str, str]]:
    """Counters that tell something, and their names: those of the memory map, and those that moved after boot."""
    after = [step for step in told.steps if step.text != "boot"] if len(told.steps) > 2 else told.steps
    moved = {change.field for step in after for side in (step.reference, step.candidate) for change in side.counters}
    moved |= {*VMSTAT, told.finding.field if told.finding else ""}
    last = told.steps[-1].reference if told.steps else None
    return [(value.field, value.name) for value in (last.values if last else ()) if value.field in moved][
        :MOST_COUNTERS
    ]


def _counters(step: Step, fields: list[tuple[str, str]], told: Trace, guilty: bool) -> list[CounterRow]:
    now = [{value.field: value.value for value in side.values} for side in (step.reference, step.candidate)]
    moves = [{c.field: c.after - c.before for c in side.counters} for side in (step.reference, step.candidate)]
    differs = told.finding.field if guilty and told.finding and told.finding.layer == "accounting" else ""
    return [
        CounterRow(name, (now[0][f], now[1][f]), (moves[0].get(f, 0), moves[1].get(f, 0)), f == differs)
        for f, name in fields
    ]


def _owners(step: Step, before: Step | None) -> list[OwnerRow]:
    def frames(side: SideStep | None) -> dict[str, int]:
        return dict(side.frames) if side else {}

    now = frames(step.reference), frames(step.candidate)
    old = frames(before.reference if before else None), frames(before.candidate if before else None)
    out = []
    for owner in sorted({*now[0], *now[1], *old[0], *old[1]}):
        have = now[0].get(owner, 0), now[1].get(owner, 0)
        moved = have[0] - old[0].get(owner, 0), have[1] - old[1].get(owner, 0)
        out.append(OwnerRow(owner, OWNER_WORDS.get(owner, ""), have, moved))
    return out


def grouped(edits: list[Edit]) -> list[tuple[int, str]]:
    """Edits in few lines: the values of one argument together. Step and text."""
    out = []
    for (step, what, before), same in groupby(edits, key=lambda edit: (edit.step, edit.what, edit.before)):
        values = [edit.after for edit in same]
        text = f"{what}={before} changed to {_or(values)}" if before else f"{what} left out"
        out.append((step, text))
    return out


def _or(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"
