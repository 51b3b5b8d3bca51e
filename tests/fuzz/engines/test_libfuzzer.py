"""libFuzzer, always in a process of its own; what counts is what it hands over, not how it exits."""

import importlib.util
import os
import time
from pathlib import Path

import pytest

from fuzz.engines import libfuzzer
from fuzz.engines.libfuzzer import SEEDS, LibFuzzer, unavailable
from fuzz.engines.protocol import EngineError

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
