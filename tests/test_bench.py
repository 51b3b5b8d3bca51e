"""The statistics of `bench/engines.py`, and that its parts run."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

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


def test_a12(engines: ModuleType) -> None:
    assert engines.a12([1, 2], [3, 4]) == 1.0
    assert engines.a12([3, 4], [1, 2]) == 0.0
    assert engines.a12([1, 2, 3], [1, 2, 3]) == 0.5
    # Of nine pairs: 1<2, 1<3, 1<9, 4<9 are wins, 9=9 is half a win (Vargha and Delaney 2000, equation 3).
    assert engines.a12([1, 4, 9], [2, 3, 9]) == pytest.approx(4.5 / 9)


def test_restricted_mean_is_the_area_under_the_survival_curve(engines: ModuleType) -> None:
    times = [0.5, 1.0, 1.0, 2.5, 7.0]
    cap = 4.0
    area, alive, before = 0.0, 1.0, 0.0
    for time in sorted(min(t, cap) for t in times):
        area += alive * (time - before)
        before = time
        alive -= 1 / len(times)
    assert engines.restricted_mean(times, cap) == pytest.approx(area)


def test_who_did_not_get_there_is_later_than_who_did(engines: ModuleType) -> None:
    def trial(engine: str, found: bool, seconds: float) -> Any:
        return engines.Race(engine, "D", 0, 5.0, found, 10, seconds)

    cells = engines.summarize([trial("uniform", False, 5.0), trial("guided", True, 5.0)], 5.0)["D"]
    assert cells["guided"]["a12_seconds"] == 1.0
    assert cells["uniform"]["a12_seconds"] == 0.5
    assert cells["uniform"]["seconds"] == 5.0
    assert cells["uniform"]["found"] == 0


@pytest.mark.parametrize("engine", ["uniform", "guided"])
def test_a_race_ends_with_the_defect(engines: ModuleType, engine: str) -> None:
    one = engines.race(engine, "ACC-2026-03", 1, 20.0)
    assert one.found
    assert 0 < one.seconds < 20.0
    assert one.programs == engines.race(engine, "ACC-2026-03", 1, 20.0).programs


def test_races_are_not_run_twice(engines: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "races"
    words = (["uniform"], ["ACC-2026-03"], 2, 20.0, log, True)
    first = engines.run_races(*words)
    lines = log.read_text()
    assert [json.loads(line)["seed"] for line in lines.splitlines()] == [0, 1]
    assert engines.run_races(*words) == first
    assert log.read_text() == lines


def test_instrumentation_is_measured(engines: ModuleType) -> None:
    if engines.unavailable() is not None:
        pytest.skip(engines.unavailable())
    ratios = engines.instrumentation(1, 5)
    # Counting each branch cannot be for nothing: if it looks like that, nothing was instrumented.
    assert ratios["branch coverage"] > 1.3
