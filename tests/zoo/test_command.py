"""`vmemmap-fuzz zoo`."""

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from zoo import DEFECTS, NOT_MODELLED

COMMAND = [sys.executable, "-m", "fuzz.cli", "zoo"]


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True, check=False)


def test_list_names_every_bug_and_every_reason() -> None:
    out = run("--list", "--json")
    assert out.returncode == 0
    entries = json.loads(out.stdout)
    assert [e["id"] for e in entries] == [*DEFECTS, *(n.id for n in NOT_MODELLED)]
    assert all(bool(e["reason"]) != e["modelled"] for e in entries)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--defect", "nonesuch"], "no defect 'nonesuch'"),
        (["--defect", "boot_populate_drop"], "no program shows boot_populate_drop"),
        (["--trials", "0"], "--trials"),
    ],
)
def test_bad_input_is_named(words: list[str], complaint: str) -> None:
    out = run(*words)
    assert out.returncode == 2
    assert complaint in out.stderr


def test_results_of_something_else_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_text('{"mutants": 1}\n')
    out = run("--results", path, "--defect", "ACC-2026-03", "--trials", "1")
    assert out.returncode == 2
    assert "expected the first line" in out.stderr
    assert path.read_text() == '{"mutants": 1}\n'


def test_trials_are_run_once_and_drawn(tmp_path: Path) -> None:
    path, plot = tmp_path / "results", tmp_path / "plot.svg"
    words = "--defect", "ACC-2026-03,INIT-2026-05", "--trials", "2", "--seconds", "20", "--results", path, "--json"
    first = run(*words)
    assert first.returncode == 0, first.stderr
    rows = json.loads(first.stdout)["defects"]
    assert [(row["defect"], row["detected"], row["met"]) for row in rows] == [
        ("ACC-2026-03", 2, True),
        ("INIT-2026-05", 2, True),
    ]
    lines = path.read_text()
    again = run(*words, "--plot", plot)
    assert (again.stdout, path.read_text()) == (first.stdout, lines)
    ET.parse(plot)
    assert "INIT-2026-05" in plot.read_text()


def test_a_defect_that_is_not_found_is_exit_code_1() -> None:
    out = run("--defect", "HVO-2026-08", "--engine", "uniform", "--trials", "1", "--seconds", "0.1")
    assert out.returncode == 1
    assert "did not detect it in 1 of 1 trials" in out.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_is_done_survives(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "results"
    words = "--trials", "1", "--defect", "ACC-2026-03,HVO-2026-08", "--engine", "uniform", "--results", str(path)
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (not path.exists() or path.read_text().count("\n") < 2):
            time.sleep(0.1)
        os.kill(process.pid, number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert ("ACC-2026-03" in out) is (number == signal.SIGINT)
    _, *rest = path.read_text().splitlines()
    assert [json.loads(line)["defect"] for line in rest] == ["ACC-2026-03"]
