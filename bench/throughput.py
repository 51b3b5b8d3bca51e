"""Throughput of the differential fuzzer, as ratios from one run: machines differ, ratios do less.

- `ratio_vs_hypothesis`: differential operations per second of the uniform engine over those of a Hypothesis state
  machine on the same pair, with the same mix of operations.
- `ratio_vs_no_oracle`: time of the two models alone over time of models and comparison, on the same recorded programs.
- `cost_16TiB_over_4GiB`: time of one operation on a machine of 16 TiB over one of 4 GiB, with the same programs.

Everything runs on the compiled modules, as workers of campaigns do; they are built first if need be. With --sources,
with VMEMMAP_FUZZ_COMPILED=0 and where they cannot be built, everything runs on the sources; `compiled` says which. All
times are CPU time. The measurements are interleaved in rounds, and each number is the median over the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
from collections.abc import Callable
from random import Random
from time import process_time
from typing import Final

from rich.console import Console
from rich.table import Table

from fuzz import compiled
from fuzz.compiled.build import BuildError, build
from fuzz.engines.collector import paused
from fuzz.engines.stateful import Stateful
from fuzz.engines.uniform import Uniform
from fuzz.execute import Lockstep
from fuzz.generate.afford import affordable
from fuzz.generate.program import DEEP, FULL_EVERY, run_generated
from fuzz.program.model import Program
from fuzz.side import Side
from mm.machine import Machine

TARGETS: Final = {"ratio_vs_hypothesis": 6.0, "ratio_vs_no_oracle": 0.6, "cost_16TiB_over_4GiB": 1.25}
AT_MOST: Final = frozenset({"cost_16TiB_over_4GiB"})
"""Ratios that should be small; the others should be large."""
SMALL: Final = 4 << 30
LARGE: Final = 16 << 40


def seconds(work: Callable[[], None]) -> float:
    """CPU time of some work, with no garbage of what ran before."""
    gc.collect()
    begin = process_time()
    work()
    return process_time() - begin


def uniform_speed(seed: int, programs: int) -> tuple[int, float]:
    """Operations done by the uniform engine, and their time."""
    engine = Uniform(seed)

    def work() -> None:
        engine.advance(float("inf"), programs)

    took = seconds(work)
    return engine.statistics.operations, took


def hypothesis_speed(seed: int, programs: int) -> tuple[int, float]:
    """The same for the state machine, which looks as deeply as `uniform` here."""
    engine = Stateful(seed)
    engine.machine.deep_share = DEEP

    def work() -> None:
        while engine.statistics.programs < programs:
            engine.advance(float("inf"), programs - engine.statistics.programs)

    took = seconds(work)
    return engine.statistics.operations, took


def record(seed: int, count: int) -> list[Program]:
    """Programs of the uniform engine on which the models agree."""
    engine = Uniform(seed)
    runs = (engine.run(number) for number in range(count))
    return [program for program, outcome in runs if outcome.verdict == "ok"]


@paused()
def models_only(programs: list[Program]) -> None:
    """Both models, nobody compares. Without the collector, as in engines."""
    for program in programs:
        pair = Lockstep(program.machine, deep=False)
        sides: tuple[Side, Side] = pair.reference, pair.candidate
        for op in program.ops:
            for side in sides:
                side.run(op)
                forget_touched(side)
        pair.close()


def forget_touched(side: Side) -> None:
    """Empty the lists of what an operation touched, as the oracle does after each."""
    kernel = side.kernel
    for owner in (kernel.tables, kernel.memmap, kernel.pages, kernel.sections, kernel.memory_blocks):
        owner.touched.clear()


@paused()
def with_oracle(programs: list[Program]) -> None:
    """Both models and the comparison after each operation, as deep as that of the engines and without the collector."""
    every = round(1 / DEEP)
    for number, program in enumerate(programs):
        deep = number % every == 0
        pair = Lockstep(program.machine, full_every=FULL_EVERY, deep=deep)
        for op in program.ops:
            pair.step(op)
            if pair.over:
                break
        else:
            pair.finish(deep=deep)
        pair.close()


def same_answers(seed: int, count: int) -> list[Program]:
    """Programs that a 4 GiB and a 16 TiB machine answer alike, operation by operation: the same work on both.

    They are made on the small one, with all new memory above the end of the large one, and cut where the answers part,
    or where the large machine would be busy for long with what the small one has no memory for.
    """
    draw = Random(seed).random
    out: list[Program] = []
    for _ in range(count):
        program, outcome = run_generated(draw, "posted", machine=Machine(ram=SMALL), above=2 * LARGE)
        pair = Lockstep(Machine(ram=LARGE), full_every=FULL_EVERY)
        alike = 0
        for op, rcs in zip(program.ops, outcome.rcs, strict=True):
            if affordable(op, pair.reference) is not op or pair.step(op).rcs != rcs or pair.over:
                break
            alike += 1
        out.append(Program(program.machine, program.ops[:alike]))
    return out


def measure(rounds: int, programs: int) -> dict[str, float]:
    """All numbers."""
    speed: list[float] = []
    slow: list[float] = []
    oracle: list[float] = []
    small: list[float] = []
    large: list[float] = []
    for seed in range(rounds):
        done, took = uniform_speed(seed, programs)
        speed.append(done / took)
        done, took = hypothesis_speed(seed, programs // 4)
        slow.append(done / took)
        recorded = record(1000 + seed, programs)
        models_only(recorded[:20])
        without = seconds(lambda recorded=recorded: models_only(recorded))  # type: ignore[misc]
        full = seconds(lambda recorded=recorded: with_oracle(recorded))  # type: ignore[misc]
        oracle.append(without / full)
        alike = same_answers(2000 + seed, programs // 2)
        done = sum(len(program.ops) for program in alike)
        for ram, costs in ((SMALL, small), (LARGE, large)):
            there = [Program(Machine(ram=ram), program.ops) for program in alike]
            costs.append(seconds(lambda there=there: with_oracle(there)) / done)  # type: ignore[misc]
    median = statistics.median
    return {
        "ratio_vs_hypothesis": median(x / y for x, y in zip(speed, slow, strict=True)),
        "ratio_vs_no_oracle": median(oracle),
        "cost_16TiB_over_4GiB": median(y / x for x, y in zip(small, large, strict=True)),
        "uniform_ops_per_second": median(speed),
        "hypothesis_ops_per_second": median(slow),
        "us_per_operation_4GiB": median(small) * 1e6,
        "us_per_operation_16TiB": median(large) * 1e6,
    }


def on_compiled() -> None:
    """Run this script once more on the compiled modules, which are built if they are not there."""
    if compiled.available() is None and os.environ.get(compiled.VARIABLE) != "0":
        print("building the compiled modules, which takes some minutes", file=sys.stderr)
        try:
            build()
        except BuildError as error:
            print(f"not compiled, so the sources are measured: {error}", file=sys.stderr)
    compiled.rerun()


def main() -> None:
    """Print one table, or JSON."""
    parser = argparse.ArgumentParser(description="Throughput of the differential fuzzer, as ratios from one run.")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--rounds", type=int, default=15, help="rounds; each number is the median (default: 15)")
    parser.add_argument("--programs", type=int, default=200, help="programs of one measurement (default: 200)")
    parser.add_argument("--sources", action="store_true", help="measure the sources, not the compiled modules")
    args = parser.parse_args()
    if not args.sources:
        on_compiled()
    elif compiled.active():
        parser.error("--sources, but this process runs on the compiled modules")
    numbers = measure(args.rounds, args.programs)
    if args.json:
        rounded = {name: round(value, 3) for name, value in numbers.items()}
        print(json.dumps({"compiled": compiled.active(), **rounded}, indent=2))
        return
    what = "compiled" if compiled.active() else "sources"
    table = Table(title=f"throughput, {args.rounds} rounds of {args.programs} programs, {what}", title_justify="left")
    table.add_column("measurement")
    table.add_column("value", justify="right")
    table.add_column("target", justify="right")
    for name, value in numbers.items():
        target = ""
        if name in TARGETS:
            met = value <= TARGETS[name] if name in AT_MOST else value >= TARGETS[name]
            target = f"{'at most' if name in AT_MOST else 'at least'} {TARGETS[name]:g}{'' if met else '  MISSED'}"
        table.add_row(name, f"{value:,.2f}", target)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
