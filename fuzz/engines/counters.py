"""State novelty as coverage that libFuzzer follows: a feature is a counter, as if it were a branch of the program.

atheris numbers the branches that it instruments from the same counters, so features reserve theirs before `Setup`.
Both functions are private to atheris, and one of them fails silently: `_trace_branch` is a stub that does nothing
until `Fuzz` puts the library's own in its place, so it must be looked up on the first call of the target, not before.
`python -m fuzz.engines.counters FILE MODE` is the proof that it works with the atheris that is installed: a chain of
DEPTH hidden steps, decided by table look-ups without a branch, that libFuzzer climbs with feedback ("on") and cannot
climb without ("off"). It writes the depth that it reached into FILE. A test runs both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from time import monotonic
from typing import Final

import atheris

COUNTERS: Final = 1 << 14
"""Features beyond that many share counters."""
DEPTH: Final = 6
PATIENCE: Final = 20.0
"""Seconds that the proof may take; with feedback it needs about one."""
TRIES: Final = 400_000
"""Inputs after which the proof without feedback gives up."""


class StateCounters:
    """Counters for features. Make it before `atheris.Setup`."""

    def __init__(self, size: int = COUNTERS) -> None:
        numbers = [atheris._reserve_counter() for _ in range(size)]
        self._base = numbers[0]
        self._size = size
        if numbers != list(range(self._base, self._base + size)):
            raise RuntimeError("atheris no longer reserves counters one after the other")
        self._known: dict[Hashable, int] = {}
        self._hit: Callable[[int], None] | None = None

    def __call__(self, features: Iterable[Hashable]) -> None:
        """Count features of the input that runs; only from inside the target."""
        hit = self._hit
        if hit is None:
            hit = self._hit = atheris._trace_branch
        known, base, size = self._known, self._base, self._size
        for feature in features:
            hit(base + known.setdefault(feature, len(known)) % size)


def prove(file: Path, feedback: bool) -> None:
    """Climb the chain; ends the process."""
    counters = StateCounters()
    # Row d of the table: the byte that leads from depth d to d + 1; all others lead to the dead end, row DEPTH + 1.
    dead = DEPTH + 1
    table = [[dead] * 256 for _ in range(dead + 1)]
    for depth in range(DEPTH):
        table[depth][(83 * depth + 41) % 256] = depth + 1
    deepest = tries = 0
    end = monotonic() + PATIENCE

    def target(data: bytes) -> None:
        nonlocal deepest, tries
        at = depth = 0
        for byte in data[:DEPTH]:
            at = table[at][byte]
            depth += at != dead
        deepest = max(deepest, depth)
        tries += 1
        if feedback:
            counters([depth])
        if depth == DEPTH or (not feedback and tries == TRIES) or (tries % 1024 == 0 and monotonic() > end):
            file.write_text(str(deepest))
            os._exit(0)

    atheris.Setup([sys.argv[0], "-max_len=8", "-seed=1", "-verbosity=0"], target)
    atheris.Fuzz()


if __name__ == "__main__":
    prove(Path(sys.argv[1]), sys.argv[2] == "on")
