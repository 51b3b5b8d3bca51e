"""The pair as a Hypothesis state machine: the readable specification for tests, and the yardstick of the benchmark.

The rules draw from the same registry and the same resolver as the uniform engine. A rule gets its randomness as bytes
of the example, so that Hypothesis shrinks operands; all zeros is the plainest operand. It runs a hundred times fewer
operations a second than `uniform`, but needs no shrinker of ours.

In a test of your own:

    from hypothesis import settings
    from fuzz.engines.stateful import PairMachine

    TestPair = PairMachine.TestCase
    TestPair.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)

A failure prints the shrunk program line by line, as `.vmm`; Hypothesis' database, `.hypothesis` in the folder of the
run, brings it back first the next time. `class Merged(PairMachine): profile = "merged"` is the other profile.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, ClassVar, Final

from hypothesis import HealthCheck, Phase, note, reject, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from fuzz.engines.protocol import Discovery, Memoryless
from fuzz.engines.statistics import Statistics
from fuzz.execute import Lockstep, Profile, RunOutcome, StepResult
from fuzz.generate.live import Live
from fuzz.generate.operations import MAKERS, reserves
from fuzz.generate.program import FULL_EVERY
from fuzz.generate.weights import WEIGHTS, Draw, choose_machine
from fuzz.oracle.finding import Finding
from fuzz.program.model import Op, Program
from fuzz.program.text import format_machine, format_op

DRAWS: Final = 28
"""Draws that one operation gets from the example; the longest, a failure for a device of three ranges, takes 26."""
BOOT_DRAWS: Final = 44
"""Draws of a machine and up to four lines before its boot, which take up to eight each."""
STEPS: Final = 70
"""Operations of one example, about as many as `choose_length` gives."""

_RAW: Final = st.binary(min_size=2 * DRAWS, max_size=2 * DRAWS)
_BOOT_RAW: Final = st.binary(min_size=2 * BOOT_DRAWS, max_size=2 * BOOT_DRAWS)
_BY_WEIGHT: Final = tuple(name for name, weight in WEIGHTS.items() for _ in range(weight))


def draws(raw: bytes) -> Draw:
    """The floats that some bytes stand for, two bytes each; zeros behind the end."""
    values = iter([int.from_bytes(raw[i : i + 2], "big") / 65536 for i in range(0, len(raw), 2)])
    return lambda: next(values, 0.0)


class Line:
    """A line of the program, formatted only if Hypothesis shows it: the last example's, not those of thousands."""

    def __init__(self, form: Callable[[Any], str], value: object) -> None:
        self.form = form
        self.value = value

    def __repr__(self) -> str:
        return self.form(self.value)


class PairMachine(RuleBasedStateMachine):
    """Both models, one operation a step; the end of an example is the full comparison."""

    profile: ClassVar[Profile] = "posted"
    deep_share: ClassVar[float] = 1.0
    """The chance that an example is looked at deeply."""

    def __init__(self) -> None:
        super().__init__()
        self.pair: Lockstep | None = None
        self.ops: list[Op] = []
        self.rcs: list[tuple[int | str, int | str]] = []

    @initialize(raw=_BOOT_RAW)
    def boot(self, raw: bytes) -> None:
        """Choose a machine and reserves, and boot."""
        draw = draws(raw)
        deep = self.deep_share >= 1 or draw() < self.deep_share
        self.pair = pair = Lockstep(choose_machine(draw), self.profile, full_every=FULL_EVERY, deep=deep)
        self.live = Live(pair.reference.kernel, pair.candidate.kernel)
        note(Line(format_machine, pair.reference.kernel.machine))
        for line in reserves(draw, self.live):
            self._step(line)
        self._step(Op("boot"))

    @rule(operation=st.sampled_from(_BY_WEIGHT), raw=_RAW)
    def run(self, operation: str, raw: bytes) -> None:
        """Run one operation."""
        if self.pair is not None and not self.pair.over:
            op, self.live.after_fail = self.live.after_fail, None
            self._step(op or MAKERS[operation](draws(raw), self.live))

    def teardown(self) -> None:
        """Compare everything."""
        if self.pair is not None and not self.pair.over:
            self.differs(self.pair.finish(deep=self.pair.deep))

    def _step(self, op: Op) -> None:
        assert self.pair is not None
        if self.pair.over:
            return
        note(Line(format_op, op))
        self.ops.append(op)
        result: StepResult = self.pair.step(op)
        rc = result.rcs[0]
        self.rcs.append(result.rcs)
        if isinstance(rc, int) and not self.pair.over:
            self.live.advance(op, rc)
        self.differs(result.finding)

    def differs(self, finding: Finding | None) -> None:
        """What to do about a difference: a test fails."""
        assert finding is None, f"{finding.signature}: {finding.detail}"


class Stateful(Memoryless):
    """The state machine as an engine: examples without shrinking, so that a finding goes to our own minimizer."""

    name = "stateful"

    def __init__(self, seed: int, profile: Profile = "posted") -> None:
        self.statistics = Statistics()
        self.seed = seed
        self.slices = 0
        self.found: list[Discovery] = []
        self.deadline = 0.0
        engine = self

        class Machine(PairMachine):
            @initialize(raw=_BOOT_RAW)
            def boot(self, raw: bytes) -> None:
                """Boot, unless this is the plainest example: Hypothesis begins with it, so each slice would run it
                again, and a slice of one example nothing else.
                """
                if not any(raw):
                    reject()
                PairMachine.boot(self, raw)

            def differs(self, finding: Finding | None) -> None:
                if finding is not None and self.pair is not None:
                    program = Program(self.pair.reference.kernel.machine, tuple(self.ops))
                    engine.found.append(Discovery(program, finding, engine.name))

            def teardown(self) -> None:
                super().teardown()
                if self.pair is not None:
                    program = Program(self.pair.reference.kernel.machine, tuple(self.ops))
                    out = RunOutcome("ok", None, len(self.rcs), self.pair.oracle.clauses, self.rcs)
                    engine.statistics.record(program, out)
                    self.pair.close()

        Machine.profile = profile
        self.machine: Any = Machine

    def advance(self, seconds: float, programs: int | None = None) -> list[Discovery]:
        """Run about as many examples as fit; Hypothesis cannot be stopped by a clock."""
        begin = perf_counter()
        done = self.statistics
        speed = done.programs / done.seconds if done.seconds else 20.0
        examples = max(1, int(min(speed * seconds, 1000.0)))
        if programs is not None:
            examples = min(examples, programs)
        self.slices += 1
        factory = with_seed(self.seed << 20 | self.slices)(self.machine)
        run_state_machine_as_test(
            factory,
            settings=settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                database=None,
                deadline=None,
                derandomize=False,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
        found, self.found = self.found, []
        done.seconds += perf_counter() - begin
        done.findings += len(found)
        return found
