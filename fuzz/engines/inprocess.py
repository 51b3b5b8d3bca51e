"""The loop of the engines that run their programs in this very process, one after the other."""

from __future__ import annotations

from time import perf_counter

from fuzz.engines.collector import paused
from fuzz.engines.protocol import Discovery, Memoryless
from fuzz.engines.statistics import Statistics
from fuzz.execute import RunOutcome
from fuzz.program.model import Program


class InProcess(Memoryless):
    """An engine that makes and runs its next program when asked to."""

    name: str
    statistics: Statistics

    def next(self) -> tuple[Program, RunOutcome]:
        """Make one program and run it."""
        raise NotImplementedError

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
            program, outcome = self.next()
            left -= 1
            statistics.record(program, outcome)
            if outcome.finding is not None:
                found.append(Discovery(program, outcome.finding, self.name))
            now = perf_counter()
        statistics.seconds += now - begin
        return found
