"""Where the time of one operation goes: CPU time by part of the uniform engine and by kind of operation.

The parts are timed from outside, by wrapping the functions where one begins; what the watches themselves take is
measured first and taken off. `other` is what lies between them: the loops of engine and lock step, taking a program
apart, statistics.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections import Counter
from collections.abc import Callable
from time import process_time_ns
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from fuzz.engines.uniform import Uniform
from fuzz.execute import Lockstep
from fuzz.generate import program as generation
from fuzz.generate.live import Live
from fuzz.oracle.compare import Oracle
from fuzz.side import Side

PARTS: Final = ("generation", "reference", "candidate", "oracle", "construction", "end")
Spent = Counter[tuple[str, str]]
"""(kind of operation, part) -> nanoseconds."""


class Watch:
    """Adds up the time inside wrapped functions, by part and by the operation in progress."""

    def __init__(self) -> None:
        self.spent: Spent = Counter()
        self.calls: Spent = Counter()
        self.kinds: Counter[str] = Counter()
        self.kind = ""
        self.restore: list[tuple[Any, str, Any]] = []

    def wrap(self, owner: Any, name: str, part: Callable[..., str], kind: Callable[..., str] | None = None) -> None:
        """Time every call of `owner.name`; `part` and `kind` say from its arguments (and result) what it belongs to."""
        function = getattr(owner, name)
        self.restore.append((owner, name, function))

        def timed(*args: Any, **keys: Any) -> Any:
            begin = process_time_ns()
            result = function(*args, **keys)
            took = process_time_ns() - begin
            if kind is not None:
                self.kind = kind(args, result)
            key = self.kind, part(args)
            self.spent[key] += took
            self.calls[key] += 1
            return result

        setattr(owner, name, timed)

    def __enter__(self) -> Watch:
        reference = {id(self): None}  # kernels of the reference side, while they live

        def made(args: Any) -> str:
            reference.clear()
            reference[id(args[0].reference)] = None
            self.kind = "boot"
            return "construction"

        self.wrap(Lockstep, "__init__", made)
        self.wrap(Live, "__init__", lambda args: "construction")
        self.wrap(Live, "advance", lambda args: "generation")
        self.wrap(generation, "generate_op", lambda args: "generation", lambda args, op: op.name)
        self.wrap(Oracle, "before", lambda args: "oracle", lambda args, _: self._count(args[1].name))
        self.wrap(Side, "run", lambda args: "reference" if id(args[0]) in reference else "candidate")
        self.wrap(Oracle, "after", lambda args: "oracle")
        self.wrap(Oracle, "full", lambda args: "end")
        return self

    def _count(self, name: str) -> str:
        self.kinds[name] += 1
        return name

    def __exit__(self, *_: object) -> None:
        for owner, name, function in self.restore:
            setattr(owner, name, function)


def cost_of_watching() -> float:
    """Nanoseconds that a wrapped call is charged for the watch itself."""
    watch = Watch()

    class Nothing:
        def nothing(self) -> None:
            pass

    watch.wrap(Nothing, "nothing", lambda args: "")
    nothing = Nothing()
    for _ in range(20000):
        nothing.nothing()
    return watch.spent["", ""] / 20000


def measure(seed: int, programs: int, rounds: int) -> dict[str, Any]:
    """Microseconds of an operation, by part, and by kind and part; each the least of some rounds, which alternate."""
    Uniform(seed + 1).advance(float("inf"), 30)
    charge = cost_of_watching()
    whole = float("inf")
    spent: dict[tuple[str, str], float] = {}
    for _ in range(rounds):
        engine = Uniform(seed)
        gc.collect()
        begin = process_time_ns()
        engine.advance(float("inf"), programs)
        whole = min(whole, process_time_ns() - begin)
        gc.collect()
        with Watch() as watch:
            Uniform(seed).advance(float("inf"), programs)
        for key, ns in watch.spent.items():
            spent[key] = min(spent.get(key, float("inf")), max(0.0, ns - charge * watch.calls[key]))
    ops = sum(watch.kinds.values())
    parts = {part: sum(ns for (_, p), ns in spent.items() if p == part) / ops / 1e3 for part in PARTS}
    kinds = {
        kind: {"share": count / ops, **{part: spent.get((kind, part), 0.0) / count / 1e3 for part in PARTS[:4]}}
        for kind, count in watch.kinds.most_common()
    }
    mean = whole / ops / 1e3
    return {"operation": mean, **parts, "other": mean - sum(parts.values()), "kinds": kinds}


def main() -> None:
    """Print one table, or JSON."""
    parser = argparse.ArgumentParser(description="Where the time of one operation goes, in microseconds.")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--programs", type=int, default=400, help="programs to run (default: 400)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; each number is the least (default: 3)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the programs (default: 1)")
    args = parser.parse_args()
    numbers = measure(args.seed, args.programs, args.rounds)
    if args.json:
        print(json.dumps(numbers, indent=2))
        return
    table = Table(title=f"microseconds of CPU, {args.programs} programs of seed {args.seed}", title_justify="left")
    table.add_column("operation")
    for name in ("share", *PARTS[:4], "contribution"):
        table.add_column(name, justify="right")
    for kind, row in numbers["kinds"].items():
        cells = [f"{row[part]:.1f}" for part in PARTS[:4]]
        table.add_row(kind, f"{row['share']:.1%}", *cells, f"{row['share'] * sum(row[p] for p in PARTS[:4]):.1f}")
    table.add_section()
    table.add_row("mean operation", "", *[f"{numbers[part]:.1f}" for part in PARTS[:4]], f"{numbers['operation']:.1f}")
    for name in ("construction", "end", "other"):
        table.add_row(f"  of it: {name}", "", "", "", "", "", f"{numbers[name]:.1f}")
    Console(highlight=False, width=110).print(table)


if __name__ == "__main__":
    main()
