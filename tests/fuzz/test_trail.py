"""The trail: what a process was doing when it was killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from fuzz import execute
from fuzz.program.text import format as format_program
from fuzz.program.text import parse_file
from fuzz.trail import SIZE, Trail, pulse, read

ROOT = Path(__file__).resolve().parents[2]
SEEDS = sorted((ROOT / "corpus" / "seeds").glob("*.vmm"))


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_what_was_run_is_read_back(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = parse_file(path).bare()
    monkeypatch.setattr(execute, "TRAIL", Trail(tmp_path / "trail"))
    out = execute.run_program(program)
    left = read(tmp_path / "trail")
    assert left is not None
    assert left.machine == program.machine
    assert left.ops == program.ops[: out.ops_executed]
    assert pulse(tmp_path / "trail") == (1, out.ops_executed)


def test_an_operation_is_there_before_it_is_run(tmp_path: Path) -> None:
    program = parse_file(SEEDS[0]).bare()
    trail = Trail(tmp_path / "trail")
    trail.begin(program.machine)
    trail.step(program.ops[0])
    left = read(tmp_path / "trail")
    assert left is not None
    assert left.ops == program.ops[:1]


def test_a_program_too_long_for_it_is_cut_not_mixed_up(tmp_path: Path) -> None:
    program = parse_file(SEEDS[0]).bare()
    trail = Trail(tmp_path / "trail")
    trail.begin(program.machine)
    for _ in range(SIZE // 8):
        trail.step(program.ops[-1])
    left = read(tmp_path / "trail")
    assert left is not None
    assert set(left.ops) == {program.ops[-1]}
    assert pulse(tmp_path / "trail") == (1, SIZE // 8)


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, Random(1).randbytes(4096), b"\0" * SIZE])
def test_nonsense_is_no_program(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "trail").write_bytes(data)
    assert read(tmp_path / "trail") is None
    assert read(tmp_path / "none") is None
    assert pulse(tmp_path / "none") == (0, 0)


def test_it_survives_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from fuzz.trail import open_trail; from fuzz.engines.uniform import Uniform\n"
        "open_trail(pathlib.Path(sys.argv[1])); Uniform(3).advance(60.0)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "trail")], cwd=ROOT)
    end = time.monotonic() + 60
    while pulse(tmp_path / "trail")[0] < 20 and time.monotonic() < end:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    number, _ = pulse(tmp_path / "trail")
    program = read(tmp_path / "trail")
    assert program is not None
    # Uniform's programs are known by number: what was left is the beginning of that one.
    from fuzz.engines.uniform import Uniform

    whole, _ = Uniform(3).run(number - 1)
    assert number >= 20
    assert whole.machine == program.machine
    assert format_program(whole).startswith(format_program(program))
