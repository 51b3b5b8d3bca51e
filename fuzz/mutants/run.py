"""Running mutants: a process for each, forked from one that has everything loaded, and results that survive any end.

The results file is JSON lines: a header that says which checkout and which budget they belong to, then a line for each
mutant. It is appended to as mutants end, and a run that finds one with its own header goes on from there.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Generator
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic, process_time
from typing import Any, Final

from fuzz.engines.collector import paused
from fuzz.lifeline import die_with_parent
from fuzz.mutants.budget import RECORDED, Budget
from fuzz.mutants.panel import candidates
from fuzz.mutants.sites import PACKAGES, InvalidMutantError, Mutant, function_of, modules, mutants, plant
from fuzz.mutants.trials import ROOT, Kill

GRACE: Final = 3
"""Wall-clock seconds, for each CPU second of the budget and a minute more, after which a mutant is ended from outside:
one that sleeps, where CPU time never passes."""
PANEL_SECONDS: Final = 0.4
"""CPU seconds for a mutant that is tried for the panel: what is found later than that would make the panel slow."""
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
    larger sample goes on where a smaller one ended. ValueError for a name that is no module to mutate."""
    found = [mutant for module in modules(names) for mutant in mutants(module)]
    Random(seed).shuffle(found)
    return found if sample is None else found[:sample]


def header(budget: Budget) -> dict[str, Any]:
    """What results depend on."""
    digest = hashlib.sha256()
    for folder in ("mm", "reference", "candidate", "fuzz", "zoo", "corpus"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".toml", ".vmm"):
                digest.update(path.read_bytes())
    return {
        "mutants": 1,
        "sources": digest.hexdigest()[:16],
        "seconds": budget.seconds,
        "seed": budget.seed,
    }


class Journal:
    """The results file, or none."""

    def __init__(self, path: Path | None, head: dict[str, Any]) -> None:
        """ValueError if the file holds results of something else."""
        self.done: dict[str, Result] = {}
        self._file = None
        if path is None:
            return
        if path.exists() and path.stat().st_size:
            lines = path.read_text(encoding="utf-8").split("\n")
            cut = lines.pop()  # empty, unless the writer was killed within a line
            try:
                first, *rest = (json.loads(line) for line in lines)
                same = first == head
                self.done = {entry["id"]: Result.from_json(entry) for entry in rest}
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: no results of mutants: {error}") from None
            if not same:
                raise ValueError(
                    f"{path}: results of another checkout or budget: expected the first line to be {json.dumps(head)}"
                )
            if cut:
                with path.open("r+b") as file:
                    file.truncate(path.stat().st_size - len(cut.encode()))
        self._file = path.open("a", encoding="utf-8", buffering=1)
        if not self._file.tell():
            self._file.write(json.dumps(head) + "\n")

    def put(self, result: Result) -> None:
        """Note one result."""
        self.done[result.mutant.id] = result
        if self._file is not None:
            self._file.write(json.dumps(result.to_json()) + "\n")

    def close(self) -> None:
        """No more results."""
        if self._file is not None:
            self._file.close()


@dataclass(slots=True)
class _Child:
    mutant: Mutant
    pid: int
    pipe: Any
    """File object: the result as one line of JSON, or nothing where the process died."""
    begun: float


def fill_panel(budget: Budget, workers: int = 1) -> None:
    """Try mutants of the models for as long as random programs were recorded; the panel gets those that are found."""
    found = run_all(budget, candidates(budget.seed), workers, PANEL_SECONDS)
    spent = 0.0
    for result in found:
        spent += result.seconds + FORK
        if result.kill is not None and result.kill.by == "finding":
            with paused():
                budget.panel.offer(result.mutant, result.kill, budget.trials, budget.seed)
        if spent > RECORDED * budget.seconds:
            break
    found.close()
    budget.record_panel()


def run_all(budget: Budget, chosen: list[Mutant], workers: int = 1, seconds: float | None = None) -> Generator[Result]:
    """Results as they come. The processes end with the generator."""
    left = list(reversed(chosen))
    running: dict[int, _Child] = {}
    gc.collect()
    gc.freeze()  # pages that no child has to copy
    try:
        while left or running:
            while left and len(running) < workers:
                child = _start(budget, left.pop(), seconds)
                running[child.pipe.fileno()] = child
            ready = wait([child.pipe for child in running.values()], timeout=1.0)
            late = monotonic() - GRACE * budget.seconds - 60
            for child in list(running.values()):
                if child.pipe not in ready and child.begun > late:
                    continue
                if child.pipe not in ready:
                    os.kill(child.pid, signal.SIGKILL)
                del running[child.pipe.fileno()]
                yield _end(budget, child)
    finally:
        for child in running.values():
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.pipe.close()


def _start(budget: Budget, mutant: Mutant, seconds: float | None) -> _Child:
    read, write = os.pipe()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
            die_with_parent(parent)
            os.write(write, json.dumps(examine(budget, mutant, seconds).to_json()).encode())
        finally:
            os._exit(0)
    os.close(write)
    return _Child(mutant, pid, os.fdopen(read, "rb"), monotonic())


def _end(budget: Budget, child: _Child) -> Result:
    data = child.pipe.read()
    child.pipe.close()
    _, status, usage = os.wait4(child.pid, 0)
    if data:
        return Result.from_json(json.loads(data))
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    hung = number in (signal.SIGPROF, signal.SIGKILL)
    what = f"a program hung: {signal.Signals(number).name}" if number else "the process ended"
    return Result(
        child.mutant, "killed", usage.ru_utime + usage.ru_stime, Kill("timeout" if hung else "death", what, "")
    )


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
