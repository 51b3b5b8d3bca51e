"""Running programs on a stage: a booted machine, or two, that every program finds in its first state.

What is compared with what is the stage's business: `live.conform` puts the reference model beside a kernel,
`live.diff` a second kernel.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final, NamedTuple, Protocol

from fuzz.generate.program import run_generated
from fuzz.oracle.finding import Difference, Finding, Outcome, outcome_class
from fuzz.program.model import Op, Program
from live.answers import Answer, digest
from live.beside import BOOT
from live.generate import Draw, Profile
from live.names import Names
from live.recorder import Recorder
from live.snapshot import Snapshot
from live.tally import Disagreement, Tally

LENGTH: Final = 20
"""Operations of a random program."""
TRIES: Final = 8
"""Operations refused in a row before the program goes on without one."""


class Step(NamedTuple):
    """What one operation did."""

    outcomes: tuple[Outcome, Outcome] = (0, 0)
    """The model's and the kernel's, or the two kernels'."""
    difference: Difference | None = None
    triage: str = ""
    ended: bool = False
    """A known deviation of the kernel has left its state undefined; the program ends here."""
    operation: str = ""
    """The kernel operation, where it was not the program's."""


class Match(Protocol):
    """One life of a stage."""

    explained: set[str]
    """Known deviations of the kernel that were seen."""
    spent: dict[str, float]
    """Seconds by what they were spent on."""
    left_out: Counter[str]
    """Reason -> parts of operations that were left out on both sides."""
    faults: bool
    """Whether allocations can be made to fail."""
    release: str
    """Of the kernel whose answers are kept."""
    answers: list[Answer]
    """What that kernel has said so far, beginning right after the boot; empty where there are two kernels."""

    @property
    def names(self) -> Names:
        """The program's handles."""

    @property
    def seen(self) -> Snapshot:
        """The state that programs are drawn against."""

    def opening(self) -> Step:
        """The comparison right after the boot."""

    def refusal(self, op: Op) -> str | None:
        """Why an operation cannot be done in this state, or None."""

    def step(self, op: Op) -> Step:
        """Do an operation and compare."""

    def close(self) -> None:
        """End this life."""


class Stage(Protocol):
    """A machine, ready."""

    def begin(self) -> Match:
        """A new life."""

    def close(self) -> None:
        """End it."""


MakeStage = Callable[[Profile], Stage]
Following = Callable[[Match], Iterator[Op | None]]
"""From a match to the operations that are done in it; None is one that was left out."""


class Engine(NamedTuple):
    """Number of a random program that fuzz.generate makes, against the models."""

    number: int


Item = int | Engine | Program
"""A random program by its number, drawn against the guest or by an engine; or a program to run as it is."""


class Runner:
    """Runs programs of one profile on one stage."""

    def __init__(
        self, profile: Profile, stage: Stage, tally: Tally, seed: int = 0, recorder: Recorder | None = None
    ) -> None:
        self.profile = profile
        self.stage = stage
        self.tally = tally
        self.seed = seed
        self.recorder = recorder

    def item(self, item: Item) -> Disagreement | None:
        """Run a program and count it; what was found."""
        if isinstance(item, Program):
            name = self.recorder.names.get(digest(item), "") if self.recorder else ""
            return self.run(self.given(item.ops[len(self.profile.reserves) + 1 :]), name=name)
        if isinstance(item, Engine):
            return self.run(self.engine(Random(self.seed << 32 | item.number)))
        return self.run(self.drawn(Random(self.seed << 32 | item)), name=f"{self.seed}-{item:06}")

    # -- where operations come from ---------------------------------------------------------------------------------

    def drawn(self, random: Random) -> Following:
        """Operations drawn against the state of the guest."""

        def following(match: Match) -> Iterator[Op]:
            draw = Draw(random, self.profile.machine, match.faults)
            for _ in range(LENGTH):
                for _ in range(TRIES):
                    op = draw.next(match.names, match.seen)
                    why = match.refusal(op)
                    if why is None:
                        yield op
                        break
                    self.tally.refused[why] += 1

        return following

    def engine(self, random: Random) -> Following:
        """Operations of a program that fuzz.generate made against the models, for this machine and region."""

        def following(match: Match) -> Iterator[Op | None]:
            machine, above = self.profile.machine, match.names.region[0]
            program, _ = run_generated(random.random, "posted", machine=machine, above=above)
            yield from self.given(program.ops[1 + [op.name for op in program.ops].index("boot") :])(match)

        return following

    def given(self, ops: tuple[Op, ...] | list[Op], count: bool = True) -> Following:
        """These operations; those that cannot be done are left out, and counted."""

        def following(match: Match) -> Iterator[Op | None]:
            for op in ops:
                why = match.refusal(op)
                if why is not None and count:
                    self.tally.refused[why] += 1
                yield op if why is None else None

        return following

    # -- running ----------------------------------------------------------------------------------------------------

    def run(self, following: Following, count: bool = True, name: str = "") -> Disagreement | None:
        """Run what `following` yields, up to the first difference. What the kernel says is kept under the name."""
        begin = time.perf_counter()
        match = self.stage.begin()
        begun = time.perf_counter()
        done: list[Op] = []
        left_out = 0
        machine, tally = self.profile.machine, self.tally
        found: Disagreement | None = None
        try:
            step, operation = match.opening(), "boot"
            if step.difference is None:
                for op in following(match):
                    if op is None:
                        left_out += 1
                        continue
                    step = match.step(op)
                    operation = op.name
                    done.append(op)
                    if count:
                        tally.count_op(op, machine, step.outcomes[1])
                    if step.difference is not None or step.ended:
                        break
            program = Program(machine, (*self.profile.reserves, BOOT, *done))
            if name and self.recorder is not None and match.answers:
                self.recorder.keep(name, program, match.release, match.answers)
            if step.difference is not None:
                found = Disagreement(finding(step, operation), program, len(program.ops) + left_out, step.triage)
        finally:
            if count:
                tally.count_program(machine)
                tally.explained.update(match.explained)
                tally.refused.update(match.left_out)
                tally.spend("reset", begun - begin)
                tally.spend("run", time.perf_counter() - begun)
                tally.parts.update(match.spent)
            begin = time.perf_counter()
            match.close()
            if count:
                tally.spend("reset", time.perf_counter() - begin)
        return found


def finding(step: Step, operation: str) -> Finding:
    """The finding that a step is."""
    d: Any = step.difference
    a, b = step.outcomes
    pair = outcome_class(a), outcome_class(b)
    return Finding(d.layer, d.field, operation, pair, d.page_class, d.drift, d.detail)
