"""Races, and what counts as reached, triggered and detected."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fuzz.execute import RunOutcome, run_program
from fuzz.forks import each
from fuzz.program.model import Program
from fuzz.program.text import parse
from fuzz.races.probe import Probe, triggers
from fuzz.races.run import journal, keys, run_all
from fuzz.races.trial import Key, race
from zoo import DEFECTS, find, planted

HEAD = "vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\n"
SHOWN = [d for d in DEFECTS.values() if d.program is not None]


@pytest.mark.parametrize("defect", SHOWN, ids=lambda d: d.id)
def test_the_shortest_program_reaches_and_triggers(defect: object) -> None:
    one = next(d for d in SHOWN if d is defect)
    program = parse(one.program or "")
    probe = Probe(one)
    with planted(probe.defect):
        assert run_program(program, full_every=1).finding is not None
    assert probe.reached
    assert triggers(program, one, "posted")


@pytest.mark.parametrize(
    ("operations", "reached", "triggered"),
    [
        ("", False, False),
        # A device in pages of 4K is counted in full by either.
        ("d0 = dax create at=0x100000000 size=2M align=4K\n", True, False),
        ("d0 = dax create at=0x100000000 size=2M align=2M\n", True, True),
    ],
)
def test_reached_is_less_than_triggered(operations: str, reached: bool, triggered: bool) -> None:
    # ACC-2026-03: section_nr_vmemmap_pages takes every device for one that is not optimized. Each populate asks it.
    defect = find("ACC-2026-03")
    program = parse(f"{HEAD}{operations}")
    probe = Probe(defect)
    with planted(probe.defect):
        run_program(program)
    assert probe.reached is reached
    assert triggers(program, defect, "posted") is triggered


@pytest.mark.parametrize("engine", ["uniform", "guided"])
def test_a_race_ends_with_the_defect(engine: str) -> None:
    one = race(Key(engine, "ACC-2026-03", 1), 20.0, small=True)
    assert one.reached is not None
    assert one.triggered is not None
    assert one.detected is not None
    assert 0 < one.reached.seconds <= one.triggered.seconds <= one.detected.seconds == one.seconds < 20.0
    assert one.reached.programs <= one.triggered.programs <= one.detected.programs == one.programs
    assert one.operations == 2
    again = race(Key(engine, "ACC-2026-03", 1), 20.0)
    assert (again.programs, again.operations) == (one.programs, None)


def test_what_is_explained_once_everything_is_compared_is_not_minimized(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clause may end the program in the very operation behind which the end of the program would show the defect."""
    key = Key("uniform", "ACC-2026-03", 1)

    def explained(program: Program, *, full_every: int = 0, **more: Any) -> RunOutcome:
        return RunOutcome("explained", None, 1) if full_every == 1 else run_program(program, **more)

    monkeypatch.setattr("fuzz.races.trial.run_program", explained)
    one = race(key, 20.0, small=True)
    assert one.detected is not None
    assert (one.operations, one.signature, one.program) == (None, None, None)


def test_a_race_that_is_lost_counts_with_its_cap() -> None:
    one = race(Key("uniform", "HVO-2026-08", 1), 0.05)
    assert (one.seconds, one.detected, one.programs > 0) == (0.05, None, True)


def test_results_are_kept_and_belong_to_their_budget(tmp_path: Path) -> None:
    path = tmp_path / "results"
    todo = keys(["uniform"], ["ACC-2026-03", "INIT-2026-05"], 2, 5)
    assert [(key.defect, key.seed) for key in todo[:3]] == [("ACC-2026-03", 5), ("INIT-2026-05", 5), ("ACC-2026-03", 6)]
    log = journal(path, 20.0, "posted")
    for trial in run_all(todo[:2], 20.0, workers=2):
        log.put(trial)
    log.close()
    with path.open("a") as file:
        file.write('{"engine": "unif')  # killed within a line
    log = journal(path, 20.0, "posted")
    assert set(log.done) == set(todo[:2])
    log.close()
    assert len(path.read_text().splitlines()) == 3
    with pytest.raises(ValueError, match="another checkout or budget"):
        journal(path, 30.0, "posted")


def test_a_process_that_dies_is_no_result() -> None:
    def work(task: str) -> str:
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return task.upper()

    ended = {one.task: one for one in each(["a", "die", "b"], work, 2, 60.0)}
    assert {task: one.answer for task, one in ended.items()} == {"a": "A", "die": None, "b": "B"}
    assert ended["die"].signal == signal.SIGKILL
