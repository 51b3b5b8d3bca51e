"""Many trials: a process for each, and a file of results from which a run goes on."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fuzz.execute import Profile
from fuzz.forks import each
from fuzz.races.trial import Key, Trial, race
from fuzz.results import Journal, sources

PATIENCE = 20
"""Wall-clock seconds after which a trial is ended from outside, for each CPU second of the cap and half a minute."""


def keys(engines: Iterable[str], defects: Iterable[str], trials: int, seed: int) -> list[Key]:
    """All trials: every defect and engine with one seed, then with the next, so that a busy hour hits all of them."""
    engines, defects = list(engines), list(defects)
    return [Key(e, d, seed + i) for i in range(trials) for d in defects for e in engines]


def header(cap: float, profile: Profile) -> dict[str, Any]:
    """What results depend on."""
    return {"races": 1, "sources": sources(), "seconds": cap, "profile": profile}


def journal(path: Path | None, cap: float, profile: Profile) -> Journal[Trial]:
    """The results file, or none; ValueError if the file holds results of something else."""
    return Journal(path, header(cap, profile), Trial.from_json, Trial.to_json, lambda trial: trial.key)


def run_all(
    todo: Iterable[Key], cap: float, profile: Profile = "posted", *, workers: int = 1, small: bool = False
) -> Iterator[Trial]:
    """Trials as they end; the processes end with the generator. RuntimeError if one gave no result."""

    def work(key: Key) -> dict[str, Any]:
        try:
            return race(key, cap, profile, small=small).to_json()
        except Exception:
            return {"error": traceback.format_exc()}

    for ended in each(todo, work, workers, PATIENCE * (cap + 30)):
        if ended.answer is None:
            raise RuntimeError(f"the trial {tuple(ended.task)} was ended by signal {ended.signal}")
        if "error" in ended.answer:
            raise RuntimeError(f"the trial {tuple(ended.task)} failed:\n{ended.answer['error']}")
        yield Trial.from_json(ended.answer)
