"""The statistics of `bench/engines.py`, and that its parts run."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fuzz.races.trial import Mark, Trial

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def engines() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_engines", ROOT / "bench" / "engines.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_engines"] = module
    spec.loader.exec_module(module)
    return module


def test_who_did_not_get_there_is_later_than_who_did(engines: ModuleType) -> None:
    def trial(engine: str, found: bool, seconds: float) -> Trial:
        mark = Mark(10, seconds) if found else None
        return Trial(engine, "D", 0, 5.0, 10, seconds, mark, mark, mark)

    cells = engines.summarize([trial("uniform", False, 5.0), trial("guided", True, 5.0)], 5.0)["D"]
    assert cells["guided"]["a12_seconds"] == 1.0
    assert cells["uniform"]["a12_seconds"] == 0.5
    assert cells["uniform"]["seconds"] == 5.0
    assert cells["uniform"]["found"] == 0


def test_races_are_not_run_twice(engines: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "races"
    words = (["uniform"], ["ACC-2026-03"], 2, 20.0, log, True)
    first = engines.run_races(*words)
    lines = log.read_text()
    assert [json.loads(line)["seed"] for line in lines.splitlines()[1:]] == [0, 1]
    assert engines.run_races(*words) == first
    assert log.read_text() == lines


def test_instrumentation_is_measured(engines: ModuleType) -> None:
    if engines.unavailable() is not None:
        pytest.skip(engines.unavailable())
    ratios = engines.instrumentation(1, 5)
    # Counting each branch cannot be for nothing: if it looks like that, nothing was instrumented.
    assert ratios["branch coverage"] > 1.3
