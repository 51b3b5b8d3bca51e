"""The pair as a Hypothesis state machine."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from fuzz.engines.stateful import BOOT_DRAWS, DRAWS, PairMachine, Stateful, draws
from fuzz.execute import Lockstep
from fuzz.generate.live import Live
from fuzz.generate.operations import MAKERS, generate_op, reserves
from fuzz.generate.weights import WEIGHTS, choose_machine
from fuzz.program.model import Op
from fuzz.program.text import parse
from fuzz.races.trial import Key, race
from mm.machine import Machine

ROOT = Path(__file__).resolve().parents[3]


def test_draws_come_from_the_bytes_and_end_in_zeros() -> None:
    draw = draws(bytes((0x80, 0, 0xFF, 0xFF)))
    assert [draw(), draw(), draw()] == [0.5, 65535 / 65536, 0.0]


def test_zeros_are_the_plainest_machine() -> None:
    assert choose_machine(lambda: 0.0) == Machine()


def test_zeros_make_an_operation_of_each_kind() -> None:
    pair = Lockstep(Machine())
    live = Live(pair.reference.kernel, pair.candidate.kernel)
    pair.step(Op("boot"))
    for name in WEIGHTS:
        used = 0

        def zero() -> float:
            nonlocal used
            used += 1
            return 0.0

        MAKERS[name](zero, live)
        assert used <= DRAWS


def test_there_are_draws_enough() -> None:
    """What comes behind the last draw is always the plainest choice, so an operation that wants more is never varied.

    The most that 200 random programs take, which is the length of the longest chain of choices.
    """
    random = Random(1)
    used = 0

    def draw() -> float:
        nonlocal used
        used += 1
        return random.random()

    table = tuple(MAKERS.values())
    boots = longest = 0
    for _ in range(200):
        used = 0
        pair = Lockstep(choose_machine(draw))
        live = Live(pair.reference.kernel, pair.candidate.kernel)
        for line in reserves(draw, live):
            pair.step(line)
        boots = max(boots, used)
        pair.step(Op("boot"))
        for _ in range(20):
            if pair.over:
                break
            used = 0
            op = generate_op(draw, live, table)
            longest = max(longest, used)
            rc = pair.step(op).rcs[0]
            if not pair.over and isinstance(rc, int):
                live.advance(op, rc)
        pair.close()
    assert 24 < boots <= BOOT_DRAWS
    assert 18 < longest - 1 <= DRAWS  # one draw chose the operation


def test_the_pair_agrees() -> None:
    run_state_machine_as_test(
        PairMachine,
        settings=settings(max_examples=15, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )


USER = """
import pytest
from hypothesis import settings
from fuzz.engines.stateful import PairMachine
from zoo import find, planted


@pytest.fixture(autouse=True)
def defect():
    with planted(find("ACC-2026-03")):
        yield


TestPair = PairMachine.TestCase
TestPair.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
"""


def test_from_a_user_s_pytest_with_the_database(tmp_path: Path) -> None:
    """As the module's text says: the failure reads as a program, and is kept for the next run."""
    (tmp_path / "test_pair.py").write_text(USER)
    # Reproducible profiles, as in CI, have no database.
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | {"PYTHONPATH": str(ROOT)}

    def run() -> str:
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_pair.py"]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 1, done.stdout
        return done.stdout

    first = run()
    # Shrunk to the plainest: one device on the default machine.
    assert "machine arch=x86_64 page=4K ram=4G nodes=1" in first
    assert "d0 = dax create at=0x180000000 size=128M" in first
    assert first.count("state.run(") == 1
    kept = list((tmp_path / ".hypothesis" / "examples").rglob("*"))
    assert kept
    assert "d0 = dax create at=0x180000000 size=128M" in run()


def test_as_an_engine() -> None:
    engine = Stateful(1)
    found = engine.advance(60.0, 5)
    assert engine.statistics.programs >= 5
    assert engine.statistics.operations > 50
    assert len(found) == engine.statistics.findings


def test_a_slice_of_one_example_is_not_the_plainest_one() -> None:
    """Hypothesis begins each run with all zeros; an engine that is asked for one program at a time ran nothing else."""
    engine = Stateful(1)
    programs = []
    for _ in range(6):
        engine.advance(0.0, 1)
        programs += [parse(fresh["program"]) for fresh in engine.statistics.coverage.drain()["fresh"]]
    assert engine.statistics.programs == 6
    assert len(set(programs)) > 3
    assert any(program.machine != Machine() for program in programs)


def test_it_finds_what_is_planted() -> None:
    """A defect of nearly every device: any engine shows it within a few programs (docs/zoo.md)."""
    trial = race(Key("stateful", "ACC-2026-03", 1), 60.0)
    assert trial.detected is not None
    assert trial.programs < 50
