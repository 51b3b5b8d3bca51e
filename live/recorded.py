"""Checking a model against what a real kernel said, without the kernel: what `live conform` does, from files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fuzz.oracle.finding import Difference, Finding, Outcome, outcome_class
from fuzz.program.model import Program
from fuzz.program.text import parse_file
from live.answers import SUFFIX, Answers, AnswersError, read_answers
from live.beside import LINE, Beside, MakePaths
from reference.paths import SeparatePaths

FOLDER: Final = Path(__file__).resolve().parent.parent / "corpus" / "live"
"""Programs with answers that every checkout has."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A program and what the kernel said."""

    path: Path
    program: Program
    answers: Answers


@dataclass(slots=True)
class Replay:
    """What a replay showed."""

    finding: Finding | None = None
    operations: int = 0
    """That were done and compared."""
    explained: set[str] = field(default_factory=set)
    """Known deviations of the kernel that were seen."""
    outcomes: list[Outcome] = field(default_factory=list)
    """The model's, those of the boot first."""


def load(path: Path) -> Recorded:
    """A program and its answers. ProgramError; AnswersError for answers that are missing, damaged or not its own."""
    program = parse_file(path).bare()
    answers = path.with_suffix(SUFFIX)
    if not answers.exists():
        raise AnswersError(f"{path}: there is no {answers.name} beside it; make it with live run --record")
    return Recorded(path, program, read_answers(answers, program, LINE))


def programs(paths: Iterable[Path]) -> list[Path]:
    """The programs that paths stand for; of a folder, those with answers. AnswersError for a folder without any."""
    out: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(answers.with_suffix(".vmm") for answers in path.rglob(f"*{SUFFIX}"))
            if not found:
                raise AnswersError(f"{path}: there are no recorded answers in this folder")
            out += found
        else:
            out.append(path.with_suffix(".vmm") if path.suffix == SUFFIX else path)
    return out


def replay(recorded: Recorded, make_paths: MakePaths = SeparatePaths, until: int | None = None) -> Replay:
    """Run the program, or so many of its operations after the boot, on a model that is told where the kernel put its
    pages, up to the first difference.
    """
    program, (boot, *steps) = recorded.program, recorded.answers.steps
    beside = Beside(program.machine, program.ops[: boot.at], boot.seen, make_paths)
    out = Replay(explained=beside.comparison.explained, outcomes=[beside.booted])
    if (found := beside.opening()) is not None:
        out.finding = _finding(found, "boot", beside.booted, 0)
        return out
    for step in steps[:until]:
        op = program.ops[step.at]
        mine = beside.run(op, step.seen)
        out.outcomes.append(mine)
        out.operations += 1
        if step.deviation and step.deviation == beside.deviation(op, mine, step.returned):
            out.explained.add(step.deviation)
            break
        found = beside.compare(op, mine, step.returned)
        if found is not None:
            out.finding = _finding(found, op.name, mine, step.returned)
            break
    return out


def _finding(found: Difference, operation: str, mine: Outcome, its: int) -> Finding:
    pair = outcome_class(mine), outcome_class(its)
    return Finding(found.layer, found.field, operation, pair, found.page_class, found.drift, found.detail)
