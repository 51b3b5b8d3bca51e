"""What trials say: counts, restricted means, effect sizes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from fuzz.program.text import parse
from fuzz.races.trial import Trial
from zoo import Defect, find

MORE: Final = 1
"""Operations that a minimized program may have more than the shortest known one."""


def restricted_mean(values: Sequence[float], cap: float) -> float:
    """Mean survival time restricted to `cap`. All censoring is at the cap, so the area under the Kaplan-Meier curve is
    the mean of the times, each cut there.
    """
    return statistics.fmean(min(value, cap) for value in values)


def a12(faster: Sequence[float], slower: Sequence[float]) -> float:
    """Vargha and Delaney's A12 for times: the probability that one of `faster` is less than one of `slower`.

    Ties count half.
    """
    wins = sum((x < y) + 0.5 * (x == y) for x in faster for y in slower)
    return wins / (len(faster) * len(slower))


def times(trials: Iterable[Trial]) -> list[float]:
    """CPU seconds; one that did not get there is later than every one that did."""
    return [trial.seconds if trial.detected else float("inf") for trial in trials]


@dataclass(frozen=True, slots=True)
class Row:
    """The trials of one engine with one defect."""

    defect: str
    engine: str
    trials: int
    reached: int
    triggered: int
    detected: int
    programs: float
    """Median to detection, or of what was run."""
    seconds: float
    """Restricted mean of CPU seconds to detection."""
    slowest: float
    """Of the trials, in CPU seconds."""
    shortest: int
    """Operations of the shortest known program."""
    operations: int | None
    """Of the longest minimized program; None if none was minimized."""
    median_operations: float | None
    longer: int | None
    """Minimized programs that are more than `MORE` operations longer than the shortest known one that shows the same
    (`shortest`); None if none was minimized."""

    @property
    def small(self) -> bool:
        """Whether all that was minimized is short."""
        return not self.longer

    @property
    def met(self) -> bool:
        """The target: found in each trial, and small."""
        return self.detected == self.trials and self.small

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "met": self.met}


def rows(trials: Iterable[Trial]) -> list[Row]:
    """A row for each defect and engine, in the order of the trials."""
    cells: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        cells.setdefault((trial.defect, trial.engine), []).append(trial)
    return [_row(defect, engine, cells[defect, engine]) for defect, engine in cells]


def shortest(defect: Defect, signature: str | None) -> int:
    """Operations of the shortest known program that shows the bug as the signature does: where the operation fails on
    both sides, that may be another than where it succeeds."""
    program = defect.program
    if defect.failing is not None and signature is not None:
        *_, outcomes, _, _ = signature.split("|")
        if all(outcome.startswith("-") for outcome in outcomes.split("/")):
            program = defect.failing
    return len(parse(program or "").ops)


def _row(defect: str, engine: str, mine: list[Trial]) -> Row:
    sizes = [trial.operations for trial in mine if trial.operations is not None]
    known = find(defect)
    longer = sum((t.operations or 0) > shortest(known, t.signature) + MORE for t in mine)
    return Row(
        defect,
        engine,
        len(mine),
        sum(trial.reached is not None for trial in mine),
        sum(trial.triggered is not None for trial in mine),
        sum(trial.detected is not None for trial in mine),
        statistics.median(trial.programs for trial in mine),
        restricted_mean([trial.seconds for trial in mine], mine[0].cap),
        max(trial.seconds for trial in mine),
        len(parse(known.program or "").ops),
        max(sizes, default=None),
        statistics.median(sizes) if sizes else None,
        longer if sizes else None,
    )
