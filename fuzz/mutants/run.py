"""Running mutants: a process for each, forked from one that has everything loaded, and what became of them."""

from __future__ import annotations

import gc
import math
import signal
from collections.abc import Generator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from time import process_time
from typing import Any, Final

from fuzz.engines.collector import paused
from fuzz.forks import each
from fuzz.mutants.budget import HANG, RECORDED, Budget
from fuzz.mutants.panel import MODELS, candidates
from fuzz.mutants.planted import Faults, batches
from fuzz.mutants.sites import PACKAGES, InvalidMutantError, Mutant, function_of, modules, mutants, plant
from fuzz.mutants.trials import Kill
from fuzz.results import Journal, sources

GRACE: Final = 60
"""Wall-clock seconds, for each CPU second of the budget and ten more, after which a mutant is ended from outside: one
that sleeps, where CPU time never passes. On a busy machine the others get a small share of a core, and must not seem
to hang."""
PANEL_SECONDS: Final = 0.4
"""CPU seconds for a mutant that is tried for the panel: what is found later than that would make the panel slow."""
PLANTING: Final = 6.0
"""CPU seconds of planted faults for each second of the budget."""
PLANTED: Final = 100
"""Planted faults that are tried in one process."""
BATCHES: Final = 10_000
"""So many times at most; time is up long before."""
FORK: Final = 0.02
"""CPU seconds that a process for a mutant costs."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant."""

    mutant: Mutant
    status: str
    """killed, survived, invalid (cannot be planted)."""
    seconds: float
    """CPU time until it was noticed, or that it survived."""
    kill: Kill | None = None
    reached: bool | None = None
    """Of a survivor: whether anything that was recorded runs its line."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "id": self.mutant.id,
            **asdict(self.mutant),
            "status": self.status,
            "seconds": round(self.seconds, 2),
            "by": self.kill and self.kill.by,
            "what": self.kill and self.kill.what,
            "where": self.kill and self.kill.where,
            "reached": self.reached,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        """What `to_json` made."""
        mutant = Mutant(**{name: data[name] for name in Mutant.__dataclass_fields__})
        kill = Kill(data["by"], data["what"], data["where"]) if data["by"] else None
        return cls(mutant, data["status"], data["seconds"], kill, data["reached"])


def choose(names: tuple[str, ...], sample: int | None, seed: int) -> list[Mutant]:
    """The mutants of these packages and modules in an order that the seed decides, or the first so many of them: a
    larger sample goes on where a smaller one ended. What a model writes down for the oracle belongs to the oracle.
    ValueError for a name that is no module to mutate."""
    oracle = "fuzz.oracle" in names
    found = [mutant for module in modules(names) for mutant in mutants(module)]
    found = [mutant for mutant in found if not mutant.records or oracle or mutant.module in names]
    if oracle:
        models = [module for module in modules(MODELS) if module not in modules(names)]
        found += [mutant for module in models for mutant in mutants(module) if mutant.records]
    Random(seed).shuffle(found)
    return found if sample is None else found[:sample]


def header(budget: Budget) -> dict[str, Any]:
    """What results depend on."""
    return {
        "mutants": 1,
        "sources": sources(),
        "seconds": budget.seconds,
        "seed": budget.seed,
    }


def journal(path: Path | None, budget: Budget) -> Journal[Result]:
    """The results file of a budget, or none; ValueError if the file holds results of something else."""
    return Journal(path, header(budget), Result.from_json, Result.to_json, lambda result: result.mutant.id)


def fill_panel(budget: Budget, workers: int = 1) -> None:
    """Try mutants of the models for as long as random programs were recorded; the panel gets those that are found."""
    tried = run_all(budget, candidates(budget.seed), workers, PANEL_SECONDS)
    spent = 0.0
    for result in tried:
        spent += result.seconds + FORK
        if result.kill is not None and result.kill.by == "finding":
            with paused():
                budget.panel.offer(result.mutant, result.kill, budget.trials, budget.seed)
        if spent > RECORDED * budget.seconds:
            break
    tried.close()
    plant_faults(budget, workers)
    budget.record_panel()


def plant_faults(budget: Budget, workers: int) -> None:
    """Try planted faults; the panel gets those that the oracle sees."""
    faults = Faults(budget.sources, budget.seed)

    def work(numbers: range) -> list[tuple[int, list[str] | None]]:
        gc.disable()
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, HANG)  # a spoiled kernel may run in circles
        return [(number, faults.seen(number)) for number in numbers]

    spent = 0.0
    running = each(islice(batches(PLANTED), BATCHES), work, workers, GRACE * HANG)
    for ended in running:
        spent += ended.seconds
        for number, seen in ended.answer or []:
            if seen is not None:
                budget.panel.plant(faults[number], *seen)
        if spent > PLANTING * budget.seconds:
            break
    running.close()


def run_all(budget: Budget, chosen: list[Mutant], workers: int = 1, seconds: float | None = None) -> Generator[Result]:
    """Results as they come. The processes end with the generator."""

    def work(mutant: Mutant) -> dict[str, Any]:
        return examine(budget, mutant, seconds).to_json()

    gc.collect()
    running = each(chosen, work, workers, GRACE * (budget.seconds + 10))
    try:
        for ended in running:
            if ended.answer is not None:
                yield Result.from_json(ended.answer)
                continue
            hung = ended.signal in (signal.SIGPROF, signal.SIGKILL)
            what = f"a program hung: {signal.Signals(ended.signal).name}" if ended.signal else "the process ended"
            yield Result(ended.task, "killed", ended.seconds, Kill("timeout" if hung else "death", what, ""))
    finally:
        running.close()


def examine(budget: Budget, mutant: Mutant, seconds: float | None = None) -> Result:
    """Plant the mutant in this process, for good, and run the budget, or `seconds` of it."""
    begin = process_time()
    gc.disable()
    original = function_of(mutant.module, mutant.function).__code__
    try:
        plant(mutant)
    except InvalidMutantError as error:
        return Result(mutant, "invalid", 0.0, Kill("invalid", str(error), ""))
    kill = budget.run(mutant, original, seconds)
    spent = process_time() - begin
    if kill is not None:
        return Result(mutant, "killed", spent, kill)
    return Result(mutant, "survived", spent, None, bool(budget.covering.of_line(mutant)))


def interval(killed: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 % unless told otherwise."""
    if not total:
        return 0.0, 1.0
    p = killed / total
    centre, width = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return (centre - width) / (1 + z * z / total), (centre + width) / (1 + z * z / total)


def score(results: list[Result]) -> list[dict[str, Any]]:
    """A row for each package that has results, and one for all."""
    rows = []
    for package in (*PACKAGES, "all"):
        mine = [r for r in results if package in ("all", r.mutant.package) and r.status != "invalid"]
        if not mine:
            continue
        killed = [r for r in mine if r.status == "killed"]
        low, high = interval(len(killed), len(mine))
        rows.append(
            {
                "package": package,
                "mutants": len(mine),
                "killed": len(killed),
                "survived": len(mine) - len(killed),
                "unreached": sum(r.reached is False for r in mine),
                "score": round(len(killed) / len(mine), 3),
                "interval": [round(low, 3), round(high, 3)],
                "median_seconds": round(median(r.seconds for r in killed), 2) if killed else None,
            }
        )
    return rows
