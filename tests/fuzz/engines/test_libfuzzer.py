"""libFuzzer, always in a process of its own; what counts is what it hands over, not how it exits."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuzz.campaign.slices import Task, Work
from fuzz.engines import libfuzzer
from fuzz.engines.libfuzzer import SEEDS, LibFuzzer, unavailable
from fuzz.engines.protocol import EngineError
from fuzz.program.text import parse

DEPTH = 6
"""Of the hidden chain in fuzz.engines.counters."""

needs_atheris = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")


def test_without_atheris_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    reason = unavailable()
    assert reason is not None
    assert "\n" not in reason
    with pytest.raises(EngineError, match="atheris is not installed"):
        LibFuzzer(0).start()


@needs_atheris
def test_a_campaign_hands_over_its_numbers() -> None:
    engine = LibFuzzer(1)
    engine.start()
    try:
        end = time.monotonic() + 60
        engine.advance(0.1, SEEDS + 40)
        while engine.running and time.monotonic() < end:
            engine.advance(0.2)
        engine.advance(0.0)
        assert engine.statistics.programs == SEEDS + 40
        assert engine.statistics.operations > SEEDS
        assert engine.statistics.outcomes["boot", "ok"] > 0
    finally:
        engine.stop()


@needs_atheris
def test_a_campaign_plants_in_the_child_too() -> None:
    """Found there, and only because it is planted there: engines know no defects."""
    work = Work(Task("libfuzzer", 1, defect="ACC-2026-03", reference="v7.3", programs=400))
    found = []
    while not work.done:
        found += work.step(0.5)["found"]
    found += work.stop()["found"]
    assert "nr_memmap" in {discovery["finding"]["field"] for discovery in found}


@needs_atheris
@pytest.mark.parametrize(("mode", "reached"), [("on", range(DEPTH, DEPTH + 1)), ("off", range(DEPTH - 1))])
def test_state_feedback_reaches_libfuzzer(mode: str, reached: range, tmp_path: Path) -> None:
    """Private names of atheris that may become stubs: with feedback a hidden chain is climbed, without it is not."""
    command = [sys.executable, "-P", "-m", "fuzz.engines.counters", str(tmp_path / "depth"), mode]
    environment = {**os.environ, "PYTHONPATH": str(libfuzzer.ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=True)
    assert int((tmp_path / "depth").read_text()) in reached


LEFT = (libfuzzer.ROOT / "corpus" / "regressions" / "altmap-left-behind.vmm").read_text(encoding="utf-8")
"""Uses a clause of the ledger that chance does not come by soon: no random program of 4,000 did."""


@needs_atheris
def test_what_it_is_fed_while_it_runs_is_run() -> None:
    engine = LibFuzzer(4)
    engine.start()
    try:
        end = time.monotonic() + 60
        while engine.statistics.programs < SEEDS and time.monotonic() < end:
            engine.advance(0.2)
        assert "altmap-left-behind" not in engine.statistics.clauses
        engine.feed([parse(LEFT)])
        while "altmap-left-behind" not in engine.statistics.clauses and time.monotonic() < end:
            engine.advance(0.2)
        assert "altmap-left-behind" in engine.statistics.clauses
    finally:
        engine.stop()


@needs_atheris
def test_stop_leaves_nothing_behind() -> None:
    engine = LibFuzzer(2)
    engine.start()
    engine.advance(1.0)
    child, folder = engine.child, engine.folder
    assert child is not None
    assert folder is not None
    engine.stop()
    engine.stop()
    assert child.poll() is not None
    assert not Path(folder).exists()


@needs_atheris
def test_a_child_that_fails_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(libfuzzer, "ROOT", tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, "PYTHONPATH": "", "PYTHONHOME": str(tmp_path)})
    engine = LibFuzzer(3)
    engine.start()
    try:
        with pytest.raises(EngineError, match="ended with status"):
            engine.advance(30.0)
    finally:
        engine.stop()
