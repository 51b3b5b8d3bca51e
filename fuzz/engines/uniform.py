"""The default engine: random programs, each operand resolved against the live state of the reference.

No feedback between programs: program number i of a seed depends on the seed and i only, so a run is repeated by its
seed, and workers share a seed by taking every n-th number.
"""

from __future__ import annotations

from random import Random

from fuzz.engines.inprocess import InProcess
from fuzz.engines.statistics import Statistics
from fuzz.execute import Profile, RunOutcome
from fuzz.generate.operations import ALL, swarm
from fuzz.generate.program import run_generated
from fuzz.program.model import Program


class Uniform(InProcess):
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

    def next(self) -> tuple[Program, RunOutcome]:
        """Run the next program of the seed that is this engine's."""
        number = self.number
        self.number += self.stride
        return self.run(number)

    def run(self, number: int) -> tuple[Program, RunOutcome]:
        """Run one program of the seed."""
        # Seeding with one int mixes all its bits; a tuple would be hashed, and text costs a digest.
        self._random.seed(self.seed << 40 | number)
        draw = self._random.random
        return run_generated(draw, self.profile, swarm(draw) if self.swarm else ALL)
