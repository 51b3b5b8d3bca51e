"""Time of the same programs with and without instrumentation: `python -m bench.child.replay MODE ROUNDS PROGRAMS FILE`.

MODE "instrumented" has atheris instrument the models when they are imported, which is why this is a process of its own,
and measures inside a target of libFuzzer: outside of one, the functions that count branches are stubs and cost little.
Writes {"plain": CPU seconds, "watched": CPU seconds with state novelty}, each the least of the rounds.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from time import process_time


def measure(rounds: int, programs: int) -> dict[str, float]:
    """The times of this process."""
    from fuzz.engines.novelty import Watch
    from fuzz.engines.uniform import Uniform
    from fuzz.execute import run_program

    engine = Uniform(77)
    recorded = [engine.run(number)[0] for number in range(programs)]
    best = {"plain": float("inf"), "watched": float("inf")}
    for _ in range(rounds):
        for name in best:
            begin = process_time()
            for program in recorded:
                run_program(program, full_every=0, observer=Watch() if name == "watched" else None)
            best[name] = min(best[name], process_time() - begin)
    return best


def main() -> None:
    """Import the models in one way or the other, and measure."""
    mode, rounds, programs, file = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    if mode == "plain":
        file.write_text(json.dumps(measure(rounds, programs)))
        return
    import atheris

    with atheris.instrument_imports(include=["mm", "reference", "candidate"]):
        import fuzz.execute  # noqa: F401

    def target(data: bytes) -> None:
        file.write_text(json.dumps(measure(rounds, programs)))
        os._exit(0)

    atheris.Setup([sys.argv[0], "-verbosity=0", "-rss_limit_mb=0"], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
