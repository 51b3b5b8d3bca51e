"""Runner, minimizer and workers, with a second model in the place of the guest."""

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from fuzz.oracle.finding import Difference
from fuzz.program.model import Op, make_op
from fuzz.side import Side
from live.conform import random_tasks
from live.crew import Task, pieces, run_crew
from live.errors import LiveError
from live.generate import PROFILES, Profile
from live.layout import layout
from live.mirror import model_snapshot
from live.names import Names
from live.placement import told
from live.runner import BOOT, Engine, Match, Runner, Stage, Step
from live.snapshot import Snapshot
from live.tally import Tally
from mm.machine import Machine
from reference.paths import SeparatePaths
from zoo import find, planted

M, G = 1 << 20, 1 << 30


class TwoModels:
    """A life of two reference models; the first one miscounts devices."""

    def __init__(self, profile: Profile) -> None:
        sound = Side(profile.machine, told(SeparatePaths))
        self.defect = ExitStack()
        self.defect.enter_context(planted(find("ACC-2026-03")))
        self.sides = Side(profile.machine, told(SeparatePaths)), sound
        for op in (*profile.reserves, BOOT):
            for side in self.sides:
                side.run(op)
        plan = layout(profile.machine, profile.reserves)
        self.names = Names(profile.machine, plan.region, plan.namespaces)
        self.explained: set[str] = set()
        self.left_out: Counter[str] = Counter()
        self.spent: dict[str, float] = {}
        self.faults = False

    @property
    def seen(self) -> Snapshot:
        return model_snapshot(self.sides[1].kernel)

    def opening(self) -> Step:
        return Step()

    def refusal(self, op: Op) -> str | None:
        if op.name.startswith("hugetlb"):
            return "no huge pages here"
        return None

    def step(self, op: Op) -> Step:
        mine, its = self.sides[0].run(op), self.sides[1].run(op)
        counts = [side.kernel.vmstat.nr_memmap for side in self.sides]
        found = None
        if counts[0] != counts[1]:
            found = Difference("accounting", "nr_memmap", "-", f"{counts[0]} and {counts[1]}")
        return Step((mine, its), found, "the second is right")

    def close(self) -> None:
        self.defect.close()


class Models:
    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def begin(self) -> Match:
        return TwoModels(self.profile)

    def close(self) -> None:
        pass


def make(profile: Profile) -> Stage:
    return Models(profile)


PROFILE = Profile(Machine(ram=2 * G, nodes=2, memmap_on_memory="on"))
PROGRAM = (
    make_op("sysctl", hugetlb_optimize_vmemmap=False),
    make_op("memory add", "m0", at=4 * G, size=256 * M, node=1),
    make_op("hugetlb resize", size=2 * M, to=4),
    make_op("memory online", m="m0", block=1),
    make_op("dax create", "d0", at=(5 * G, 6 * G), size=(130 * M, 66 * M), align=2 * M, node=1),
    make_op("dax destroy", d="d0"),
)


def program(ops: tuple[Op, ...]) -> Task:
    from fuzz.program.model import Program

    return Task(PROFILE, (Program(PROFILE.machine, (BOOT, *ops)),))


def test_a_difference_is_minimized() -> None:
    total = run_crew(make, [program(PROGRAM)], seed=0, workers=1)
    assert (total.programs, total.operations) == (1, 4)
    assert total.refused == {"no huge pages here": 1}
    (found,) = total.disagreements
    assert found.minimal
    assert found.repeats
    assert found.triage == "the second is right"
    assert found.original == 5  # the boot and the four operations that were done
    boot, create = found.program.ops
    assert (boot.name, create.name) == ("boot", "dax create")
    assert create.args["size"] == (2 * M,)  # the smallest device that is optimized: two of eight frames are kept
    assert found.program.machine.nodes == 1


def test_a_difference_that_is_not_seen_again_says_so() -> None:
    class Once(TwoModels):
        shown = False

        def step(self, op: Op) -> Step:
            if Once.shown:
                return Step()
            Once.shown = True
            return Step((0, -12), Difference("returns", "rc", "changed", "once"))

    class OnceStage(Models):
        def begin(self) -> Match:
            return Once(self.profile)

    found = run_crew(OnceStage, [program(PROGRAM)], seed=0, workers=1).disagreements[0]
    assert not found.repeats
    assert "not seen again" in found.text()


def test_programs_depend_on_seed_and_number_only() -> None:
    def ops(seed: int, item: int | Engine) -> object:
        runner = Runner(PROFILE, NoDefect(PROFILE), Tally(), seed)
        runner.item(item)
        return runner.tally.cases

    class NoDefect(Models):
        def begin(self) -> Match:
            match = TwoModels(self.profile)
            match.sides = match.sides[1], match.sides[1]
            match.step = lambda op: Step((0, match.sides[1].run(op)))  # type: ignore[method-assign]
            return match

    for item in (7, Engine(7)):
        assert ops(3, item) == ops(3, item)
        assert ops(3, item) != ops(4, item)


def test_the_same_signature_is_counted_but_shown_once() -> None:
    task = Task(PROFILE, program(PROGRAM).items * 3)
    total = run_crew(make, pieces([task], 1), seed=0, workers=1)
    assert len(total.disagreements) == 3
    assert [times for _, times in total.kinds()] == [3]
    assert sum(found.minimal for found in total.disagreements) == 1


def test_random_tasks_are_all_programs_once() -> None:
    for programs in (1, 12, 40, 1000):
        numbers = [item for task in random_tasks(programs) for item in task.items]
        assert sorted(numbers) == list(range(programs))
    assert {task.profile for task in random_tasks(1000)} == set(PROFILES)


def broken_stage(profile: Profile) -> Stage:
    raise LiveError("the kernel does not boot")


def test_a_stage_that_cannot_be_had_is_one_error() -> None:
    with pytest.raises(LiveError, match="does not boot"):
        run_crew(broken_stage, [program(PROGRAM)], seed=0, workers=2)


def test_an_interrupt_keeps_what_is_done() -> None:
    text = (
        "import sys\n"
        "from live.crew import run_crew, pieces\n"
        "from tests.live.test_crew import make, program, PROGRAM, Task, PROFILE\n"
        "task = Task(PROFILE, program(PROGRAM).items * 100000)\n"
        "total = run_crew(make, pieces([task], 1), 0, 1, lambda t: print(t.programs, flush=True))\n"
        "print('kept', total.programs > 0, dict(total.refused).keys())\n"
    )
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen([sys.executable, "-c", text], cwd=root, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    os.kill(child.pid, signal.SIGINT)
    out = child.stdout.read()
    assert child.wait() == 0
    assert "kept True" in out
    assert "interrupted before all programs were run" in out
    child.stdout.close()
