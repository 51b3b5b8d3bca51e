"""The default engine: random programs, each operand resolved against the live state of the reference.

No feedback between programs: program number i of a seed depends on the seed and i only, so a run is repeated by its
seed, and workers share a seed by taking every n-th number.
"""

from __future__ import annotations

from random import Random
from time import perf_counter

from fuzz.engines.collector import paused
from fuzz.engines.protocol import Discovery, Memoryless, Statistics
from fuzz.execute import Profile, RunOutcome
from fuzz.generate.operations import ALL, swarm
from fuzz.generate.program import run_generated
from fuzz.program.model import Program


class Uniform(Memoryless):
    """Programs 0, 1, 2, ... of a seed, or every `stride`-th of them."""

    name = "uniform"

    def __init__(
        self, seed: int, profile: Profile = "posted", *, swarm: bool = False, first: int = 0, stride: int = 1
    ) -> None:
        self.statistics = Statistics()
        self.profile = profile
        self.seed = seed
        self.swarm = swarm
        """Give each program a random subset of the operations."""
        self.number = first
        """Of the next program."""
        self.stride = stride
        self._random = Random()

    def advance(self, seconds: float, programs: int | None = None) -> list[Discovery]:
        """Run programs until the time or their number is used up; at least one."""
        with paused():
            return self._advance(seconds, programs)

    def _advance(self, seconds: float, programs: int | None) -> list[Discovery]:
        found: list[Discovery] = []
        statistics = self.statistics
        begin = now = perf_counter()
        end = begin + seconds
        left = -1 if programs is None else programs
        while left and (now < end or now == begin):
            program, outcome = self.run(self.number)
            self.number += self.stride
            left -= 1
            statistics.record(program, outcome)
            if outcome.finding is not None:
                found.append(Discovery(program, outcome.finding, self.name))
            now = perf_counter()
        statistics.seconds += now - begin
        return found

    def run(self, number: int) -> tuple[Program, RunOutcome]:
        """Run one program of the seed."""
        # Seeding with one int mixes all its bits; a tuple would be hashed, and text costs a digest.
        self._random.seed(self.seed << 40 | number)
        draw = self._random.random
        return run_generated(draw, self.profile, swarm(draw) if self.swarm else ALL)
