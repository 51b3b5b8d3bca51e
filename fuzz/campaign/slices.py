"""A slice of fuzzing: an engine works for a while; what came of it goes out as plain JSON values.

The worker process cuts one engine's work into slices; on a cluster a slice is a task with an engine of its own. Both
give results of one form, so what takes them in does not know where the work was done:

    statistics  `Statistics.to_json`, everything this engine has done so far
    coverage    `Coverage.drain`
    engine      its name
    found       discoveries, `discovery_to_json`, each with a `number` that orders those of one task
    last        whether the engine has been stopped, and nothing follows
    broken      the engine could not start or broke down: why
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from fuzz.engines import make
from fuzz.engines.handover import discovery_to_json
from fuzz.engines.libfuzzer import LibFuzzer
from fuzz.engines.protocol import Discovery, Engine
from fuzz.engines.uniform import Uniform
from fuzz.execute import Profile
from fuzz.program.text import parse
from zoo import Defect, Version, find

DEFECT: Final = "VMEMMAP_FUZZ_DEFECT"
REFERENCE: Final = "VMEMMAP_FUZZ_REFERENCE"
"""Where libFuzzer's process finds what to plant."""

Result = dict[str, Any]


def defects(names: str | None) -> list[Defect]:
    """The defects of the zoo that a campaign is run with, from their names with commas; raises ValueError."""
    return [find(name.strip()) for name in (names or "").split(",") if name.strip()]


@dataclass(frozen=True, slots=True)
class Task:
    """What one engine is to do."""

    engine: str
    seed: int
    profile: Profile = "posted"
    defect: str | None = None
    """Names of defects of the zoo, with commas; planted in the process that does it."""
    reference: Version = "v7.3"
    programs: int | None = None
    """End after that many."""
    first: int = 0
    stride: int = 1
    """Programs `first`, `first + stride`, ... of the seed, for an engine that numbers them."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Task:
        """The inverse of `to_json`."""
        return cls(**data)

    def make(self) -> Engine:
        """The engine."""
        engine = make(self.engine, self.seed, self.profile)
        if isinstance(engine, Uniform):
            engine.number, engine.stride = self.first, self.stride
        if isinstance(engine, LibFuzzer):
            # What is planted in this process is not in its child.
            engine.module = "fuzz.campaign.libfuzzer_child"
            engine.environment = {DEFECT: self.defect or "", REFERENCE: self.reference}
        return engine


class Work:
    """An engine and what of its results has been handed out."""

    def __init__(self, task: Task, corpus: Iterable[str] = ()) -> None:
        self.task = task
        self.engine = task.make()
        self.done = False
        """Whether nothing is left to do but `stop`."""
        self._found = 0
        self.engine.start()
        self.learn(corpus)

    def learn(self, programs: Iterable[str]) -> None:
        """Give the engine programs of the shared corpus."""
        self.engine.feed([parse(text) for text in programs])

    def step(self, seconds: float) -> Result:
        """Work for about that long."""
        task, engine = self.task, self.engine
        found: list[tuple[int, Discovery]] = []
        if task.programs is not None and isinstance(engine, Uniform):
            found = self._counted(engine, seconds, task.programs)
        else:
            left = None if task.programs is None else task.programs - engine.statistics.programs
            if left is None or left > 0:
                found = self._in_order(engine.advance(seconds, left))
        enough = task.programs is not None and engine.statistics.programs >= task.programs
        self.done = enough or not engine.running
        return self._result(found)

    def _counted(self, engine: Uniform, seconds: float, programs: int) -> list[tuple[int, Discovery]]:
        """One program after the other, so that each discovery has its program's number."""
        found = []
        statistics = engine.statistics
        end = statistics.seconds + seconds
        while statistics.seconds < end and statistics.programs < programs:
            number = engine.number
            found += [(number, discovery) for discovery in engine.advance(0.0, 1)]
        return found

    def stop(self) -> Result:
        """End the engine; the rest."""
        return self._result(self._in_order(self.engine.stop())) | {"last": True}

    def _in_order(self, discoveries: list[Discovery]) -> list[tuple[int, Discovery]]:
        """Numbers for the discoveries of an engine whose programs have none."""
        first, self._found = self._found, self._found + len(discoveries)
        return list(enumerate(discoveries, first))

    def _result(self, found: list[tuple[int, Discovery]]) -> Result:
        statistics = self.engine.statistics
        return {
            "engine": self.task.engine,
            "statistics": statistics.to_json(),
            "coverage": statistics.coverage.drain(),
            "found": [{"number": number, **discovery_to_json(discovery)} for number, discovery in found],
            "last": False,
        }
