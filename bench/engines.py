"""The engines against each other, as ratios from one run: speed, races to the zoo's defects, scaling, instrumentation.

- *speed*: differential operations per second of CPU time, and as a ratio to `uniform`; interleaved rounds, medians.
- *races*: every engine looks for every defect of the zoo that a program can show, a number of trials with different
  seeds, each up to a cap of CPU time. A trial ends with a program that shows a difference and is clean without the
  defect. Of each cell: how many trials got there, the restricted mean of programs and CPU seconds (a trial that did not
  get there counts with the cap: the mean survival time restricted to it), and A12, the probability that a trial of the
  engine is faster than one of `uniform` (0.5: equal; 0.71 and more is called a large effect).
- *scaling*: operations of two processes over those of one, per second of wall time, and per second of CPU time, which
  is what sharing costs where the machine is busy with other things; beside it the same of an empty loop (`ceiling`),
  and of whole campaigns of `run`, whose main process wants some of the time too (`campaign`). `campaign_cpu` is what
  the latter would be on idle cores, from CPU times: of two workers and a main process that share two cores, over one
  worker that has a core of its own. CPU times do not count what is done before the first worker starts.
- *instrumentation*: time of the same programs as they are, with state novelty watched, and with atheris' branch
  coverage of the models on top.

`--log FILE` appends every race to a file, and does not run again what is there: a table of thirty trials can be made in
several sittings, as with `vmemmap-fuzz zoo --results`, of which the races are.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, Final, NamedTuple, TypeAlias

from rich.console import Console
from rich.table import Table

from fuzz.engines import make
from fuzz.engines.libfuzzer import ROOT, LibFuzzer, unavailable
from fuzz.engines.uniform import Uniform
from fuzz.progress import Progress
from fuzz.races.run import journal, keys, run_all
from fuzz.races.summary import a12, restricted_mean, times
from fuzz.races.trial import Trial, cpu
from zoo import DEFECTS

ENGINES: Final = ("uniform", "swarm", "guided", "libfuzzer", "stateful")
BASELINE: Final = "uniform"
Rates: TypeAlias = tuple[float, float]
COMMAND: Final = str(Path(sys.executable).with_name("vmemmap-fuzz"))
SLICE: Final = 0.1
"""Seconds between two looks at a process of libFuzzer."""


# -- races ----------------------------------------------------------------------------------------------------------


def run_races(
    engines: Sequence[str], defects: Sequence[str], trials: int, cap: float, log: Path | None, quiet: bool
) -> list[Trial]:
    """All trials that the log has not, and those that it has."""
    results = journal(log, cap, "posted")
    try:
        todo = keys(engines, defects, trials, 0)
        left = [key for key in todo if key not in results.done]
        progress = Progress(quiet=quiet)
        for number, trial in enumerate(run_all(left, cap), 1):
            results.put(trial)
            progress.show(f"{number} of {len(left)} races")
        progress.clear()
        return [results.done[key] for key in todo]
    finally:
        results.close()


def summarize(races: Iterable[Trial], cap: float) -> dict[str, dict[str, dict[str, float]]]:
    """defect -> engine -> found, trials, mean programs, mean seconds, A12 in seconds and programs against uniform."""
    cells: dict[str, dict[str, list[Trial]]] = {}
    for one in races:
        cells.setdefault(one.defect, {}).setdefault(one.engine, []).append(one)
    out: dict[str, dict[str, dict[str, float]]] = {}
    for defect, by_engine in cells.items():
        base = by_engine.get(BASELINE, [])
        for engine, runs in by_engine.items():
            out.setdefault(defect, {})[engine] = {
                "found": sum(one.detected is not None for one in runs),
                "trials": len(runs),
                "programs": statistics.fmean(one.programs for one in runs),
                "seconds": restricted_mean([one.seconds for one in runs], cap),
                "a12_seconds": a12(times(runs), times(base)) if base else 0.5,
            }
    return out


# -- speed ----------------------------------------------------------------------------------------------------------


def speed(engines: Sequence[str], rounds: int, seconds: float) -> dict[str, float]:
    """Operations per CPU second of each engine, the median over the rounds."""
    numbers: dict[str, list[float]] = {engine: [] for engine in engines}
    for seed in range(rounds):
        for name in engines:
            numbers[name].append(
                _speed_elsewhere(seed, seconds) if name == "libfuzzer" else _speed(name, seed, seconds)
            )
    return {name: statistics.median(values) for name, values in numbers.items()}


def _speed(name: str, seed: int, seconds: float) -> float:
    engine = make(name, seed, "posted")
    begin = process_time()
    while process_time() - begin < seconds:
        engine.advance(0.1)
    return engine.statistics.operations / (process_time() - begin)


def _speed_elsewhere(seed: int, seconds: float) -> float:
    engine = LibFuzzer(seed)
    engine.start()
    try:
        engine.advance(0.0)
        while not engine.statistics.programs:  # its start, with the instrumentation of the models, is no speed
            engine.advance(SLICE)
        before, operations = cpu(engine), engine.statistics.operations
        while cpu(engine) - before < seconds:
            engine.advance(SLICE)
        return (engine.statistics.operations - operations) / (cpu(engine) - before)
    finally:
        engine.stop()


# -- scaling --------------------------------------------------------------------------------------------------------


def _work(first: int, stride: int, seconds: float) -> tuple[int, float]:
    engine = Uniform(0, first=first, stride=stride)
    begin = process_time()
    engine.advance(seconds)
    return engine.statistics.operations, process_time() - begin


def _idle_loop(first: int, stride: int, seconds: float) -> tuple[int, float]:
    """Work that shares nothing and hardly touches memory: what a second core of the machine is worth."""
    begin = process_time()
    end = perf_counter() + seconds
    count = 0
    while perf_counter() < end:
        count += sum(range(1000)) > 0
    return count, process_time() - begin


def scaling(rounds: int, seconds: float) -> dict[str, float]:
    """Two workers over one; the same of an empty loop, the most that the machine gives at this time; and campaigns."""
    ratios: dict[str, list[float]] = {"wall": [], "cpu": [], "ceiling": [], "campaign": [], "campaign_cpu": []}
    with get_context("spawn").Pool(2) as pool:
        pool.starmap(_work, [(0, 2, 0.1), (1, 2, 0.1)])
        for _ in range(rounds):
            wall, cpu = _there_and_back(lambda workers: _rates(pool, _work, workers, seconds))
            ratios["wall"].append(wall)
            ratios["cpu"].append(2 * cpu)
            ratios["ceiling"].append(_there_and_back(lambda workers: _rates(pool, _idle_loop, workers, seconds / 2))[0])
    # Folders go at the end: ext4 is slow to make files for a minute after as many were deleted.
    with TemporaryDirectory() as folder:
        places = (Path(folder) / str(number) for number in count())
        idle = _campaign(next(places), 1, ["--programs", "1"])
        for _ in range(rounds):
            wall, cpu = _there_and_back(lambda workers: _campaign_rates(next(places), workers, 5 * seconds, idle.main))
            ratios["campaign"].append(wall)
            ratios["campaign_cpu"].append(cpu)
    return {name: statistics.median(values) for name, values in ratios.items()}


def _there_and_back(rates: Callable[[int], Rates]) -> Rates:
    """Rates of two workers over those of one, taken in the order 1, 2, 2, 1: what drifts meanwhile cancels out."""
    first, second, third, last = (rates(workers) for workers in (1, 2, 2, 1))
    return (second[0] + third[0]) / (first[0] + last[0]), (second[1] + third[1]) / (first[1] + last[1])


class Spent(NamedTuple):
    """What a campaign did, and the CPU seconds of its processes."""

    operations: int
    main: float
    workers: float


def _campaign(folder: Path, workers: int, until: Sequence[str]) -> Spent:
    place = ["--campaign", str(folder / "campaign"), "--reports", str(folder / "reports")]
    words = ["--engine", BASELINE, "--workers", str(workers), "--json", *until, *place]
    folder.mkdir()
    with (folder / "out").open("w+") as out, subprocess.Popen([COMMAND, "run", *words], stdout=out, stderr=out) as run:
        os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOWAIT)  # dead, and its numbers are still there
        fields = Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2].split()
        user, system, below, system_below = (int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:15])
        run.wait()
        out.seek(0)
        text = out.read()
    return Spent(json.loads(text[text.index("{") :])["operations"], user + system, below + system_below)


def _campaign_rates(folder: Path, workers: int, seconds: float, start: float) -> Rates:
    """Operations of a campaign of `run`, by the clock, the start included, which takes as long for any number of
    workers; and by the CPU time that they take of two cores."""
    spent = _campaign(folder, workers, ["--seconds", str(seconds)])
    cores = spent.workers if workers == 1 else (spent.workers + spent.main - start) / 2
    return spent.operations / seconds, spent.operations / cores


def _rates(pool: Pool, work: Callable[[int, int, float], tuple[int, float]], workers: int, seconds: float) -> Rates:
    """What some workers do together, per second of wall time and per second of CPU time."""
    begin = perf_counter()
    done = pool.starmap(work, [(i, workers, seconds) for i in range(workers)], chunksize=1)
    count = sum(n for n, _ in done)
    return count / (perf_counter() - begin), count / sum(cpu for _, cpu in done)


# -- instrumentation ------------------------------------------------------------------------------------------------


def instrumentation(rounds: int, programs: int) -> dict[str, float]:
    """How many times the time is, against that of the models as they are."""
    times: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as folder:
        for mode in ("plain", "instrumented"):
            file = Path(folder) / mode
            words = [sys.executable, "-P", "-m", "bench.child.replay", mode, str(rounds), str(programs), str(file)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run(words, check=True, capture_output=True, cwd=folder, env=environment)
            times[mode] = json.loads(file.read_text())
    plain = times["plain"]["plain"]
    return {
        "state novelty": times["plain"]["watched"] / plain,
        "branch coverage": times["instrumented"]["plain"] / plain,
        "both": times["instrumented"]["watched"] / plain,
    }


# -- the page -------------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All parts that were asked for."""
    engines = [name for name in args.engines.split(",") if name != "libfuzzer" or unavailable() is None]
    defects = args.defects.split(",") if args.defects else [d.id for d in DEFECTS.values() if d.program is not None]
    out: dict[str, Any] = {"trials": args.trials, "cap": args.cap}
    parts = args.parts.split(",")
    if "speed" in parts:
        out["speed"] = speed(engines, args.rounds, args.seconds)
    if "races" in parts:
        races = run_races(engines, defects, args.trials, args.cap, args.log, args.json)
        out["races"] = summarize(races, args.cap)
    if "scaling" in parts:
        out["scaling"] = scaling(args.rounds, args.seconds)
    if "instrumentation" in parts and unavailable() is None:
        out["instrumentation"] = instrumentation(args.rounds, 60)
    return out


def show(numbers: dict[str, Any]) -> None:
    """One table a part."""
    console = Console(highlight=False, width=110 if not sys.stdout.isatty() else None)
    if "speed" in numbers:
        table = Table("engine", "ops/s of CPU", f"over {BASELINE}", title="speed", title_justify="left")
        for name, value in numbers["speed"].items():
            table.add_row(name, f"{value:,.0f}", f"{value / numbers['speed'].get(BASELINE, value):.2f}")
        console.print(table)
    if "races" in numbers:
        title = f"races, {numbers['trials']} trials, cap {numbers['cap']:g} s of CPU"
        table = Table("defect", "engine", "found", "programs", "seconds", "A12", title=title, title_justify="left")
        for defect, cells in numbers["races"].items():
            for engine, cell in cells.items():
                found = f"{cell['found']:.0f}/{cell['trials']:.0f}"
                row = (f"{cell['programs']:,.0f}", f"{cell['seconds']:.2f}", f"{cell['a12_seconds']:.2f}")
                table.add_row(defect, engine, found, *row)
            table.add_section()
        console.print(table)
        console.print(_totals(numbers["races"]))
    for part, title in (("scaling", "scaling, 2 workers over 1"), ("instrumentation", "time over that without")):
        if part in numbers:
            table = Table(title, "ratio")
            for name, value in numbers[part].items():
                table.add_row(name, f"{value:.2f}")
            console.print(table)


def _totals(races: dict[str, dict[str, dict[str, float]]]) -> Table:
    """All defects together, which is what a default is chosen by."""
    table = Table("engine", "found", "mean seconds", "mean A12", title="all defects", title_justify="left")
    for engine in dict.fromkeys(engine for cells in races.values() for engine in cells):
        cells = [by_engine[engine] for by_engine in races.values() if engine in by_engine]
        found = f"{sum(c['found'] for c in cells):.0f}/{sum(c['trials'] for c in cells):.0f}"
        seconds, effect = (statistics.fmean(c[key] for c in cells) for key in ("seconds", "a12_seconds"))
        table.add_row(engine, found, f"{seconds:.2f}", f"{effect:.2f}")
    return table


def main() -> None:
    """Print tables, or JSON."""
    parser = argparse.ArgumentParser(description="The engines against each other, as ratios from one run.")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--parts", default="speed,races,scaling,instrumentation", help="which (default: all)")
    parser.add_argument("--engines", default=",".join(ENGINES), help="which engines (default: all)")
    parser.add_argument("--defects", default="", help="ids of the zoo (default: all that a program can show)")
    parser.add_argument("--trials", type=int, default=3, help="trials of a race (default: 3; a table wants 30)")
    parser.add_argument("--cap", type=float, default=3.0, help="CPU seconds of a trial at most (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the other parts (default: 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of one measurement (default: 2)")
    parser.add_argument("--log", type=Path, help="file of races; what is in there is not run again")
    args = parser.parse_args()
    numbers = measure(args)
    if args.json:
        print(json.dumps(numbers, indent=2))
    else:
        show(numbers)


if __name__ == "__main__":
    main()
