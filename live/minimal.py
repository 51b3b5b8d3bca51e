"""Making the program behind a disagreement small, on the live kernel.

The minimizer is that of the models (fuzz.minimize); only the executions are real. A simpler machine costs a boot, so
there are few of those, and a search that takes too long ends with what it has.
"""

from __future__ import annotations

import time
from typing import Final

from fuzz.execute import RunOutcome
from fuzz.minimize import OutOfBudget, minimize
from fuzz.program.model import Program
from live.generate import Profile
from live.layout import why_not
from live.runner import MakeStage, Runner, Stage
from live.tally import Disagreement, Tally
from live.translate import UnexpectedRefusal

BUDGET: Final = 400
"""Executions that a minimization may cost."""
PATIENCE: Final = 240.0
"""Seconds that it may take."""
BOOTS: Final = 10
"""Machines that it may boot."""


class Stages:
    """Booted machines by profile: those in use, and at most BOOTS more in all."""

    def __init__(self, make: MakeStage, profile: Profile, stage: Stage) -> None:
        self._make = make
        self._first = profile
        self._stages = {profile: stage}
        self._left = BOOTS

    def get(self, profile: Profile) -> Stage | None:
        """The machine of a profile; None when there have been enough."""
        if profile not in self._stages:
            if not self._left:
                return None
            self._left -= 1
            for other in [p for p in self._stages if p != self._first][:-1]:
                self._stages.pop(other).close()
            self._stages[profile] = self._make(profile)
        # The last one used stays.
        stage = self._stages.pop(profile)
        self._stages[profile] = stage
        return stage

    def close(self) -> None:
        """Switch all off but the first one, which is the caller's."""
        for profile, stage in self._stages.items():
            if profile != self._first:
                stage.close()


def smallest(found: Disagreement, profile: Profile, stage: Stage, make: MakeStage) -> Disagreement:
    """The smallest program found that shows the same; the disagreement itself, and not `repeats`, if it cannot be seen
    again.
    """
    stages = Stages(make, profile, stage)
    end = time.monotonic() + PATIENCE
    last: dict[Program, Disagreement] = {}

    def run(program: Program) -> RunOutcome:
        if time.monotonic() > end:
            raise OutOfBudget
        got = execute(program, stages)
        if got is None:
            return RunOutcome("ok", None, len(program.ops))
        last[program] = got
        return RunOutcome("finding", got.finding, got.at)

    try:
        small = minimize(found.program, profile=None, budget=BUDGET, run=run)
        seen = execute(small.program, stages)
        if seen is None or seen.finding.signature != small.finding.signature:
            found.repeats = False
            return found
    except (ValueError, OutOfBudget):
        found.repeats = False
        return found
    finally:
        stages.close()
    seen.program, seen.original, seen.minimal = small.program, len(found.program.ops), small.one_minimal
    return seen


def execute(program: Program, stages: Stages) -> Disagreement | None:
    """Run a program on a machine of its own kind; what differs."""
    if why_not(program) is not None:
        return None
    boot = [op.name for op in program.ops].index("boot")
    profile = Profile(program.machine, program.ops[:boot])
    stage = stages.get(profile)
    if stage is None:
        return None
    runner = Runner(profile, stage, Tally())
    try:
        return runner.run(runner.given(program.ops[boot + 1 :], count=False), count=False)
    except UnexpectedRefusal:
        return None
