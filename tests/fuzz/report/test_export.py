"""Exports are run, or checked by what runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fuzz.cli import app
from fuzz.program import parse
from fuzz.program.operations import OPERATIONS
from fuzz.program.real import WITHOUT_INTERFACE
from fuzz.program.text import parse_file
from fuzz.report.export import to_itf, to_live, to_pytest, to_python
from fuzz.report.shell import _COMMANDS, to_shell
from zoo import find, planted

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = parse("vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\nd0 = dax create at=0x100000000 size=2M\n")
BROKEN = """
import fuzz.execute
from zoo import find, planted
HELD = planted(find("ACC-2026-03"))  # it ends when nobody holds it
HELD.__enter__()
"""


@pytest.mark.parametrize(("prelude", "status"), [("", 0), (BROKEN, 1)], ids=["agree", "planted"])
def test_python_script_runs(tmp_path: Path, prelude: str, status: int) -> None:
    path = tmp_path / "repro.py"
    path.write_text(prelude + to_python(PROGRAM))
    out = subprocess.run(
        [sys.executable, path], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert out.returncode == status, out.stderr
    assert out.stdout == ("accounting|nr_memmap|dax create|ok/ok||-\n" if status else "ok\n")


@pytest.mark.parametrize(("prelude", "status"), [("", 0), (BROKEN, 1)], ids=["agree", "planted"])
def test_pytest_file_runs(tmp_path: Path, prelude: str, status: int) -> None:
    (tmp_path / "test_repro.py").write_text(prelude + to_pytest(PROGRAM))
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_repro.py"]
    out = subprocess.run(
        words, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert out.returncode == status, out.stdout
    assert ("1 failed" if status else "1 passed") in out.stdout


OLDER = """
from fuzz.execute import Lockstep
INIT = Lockstep.__init__
def tell(self, *args, **kwargs):
    INIT(self, *args, **kwargs)
    print(self.reference.kernel.paths.version)
Lockstep.__init__ = tell
"""


def test_scripts_name_an_older_reference(tmp_path: Path) -> None:
    """For the script itself; for the test file the same lines."""
    path = tmp_path / "repro.py"
    for reference in ("v7.3", "v7.0-base"):
        path.write_text(OLDER + to_python(PROGRAM, reference=reference))
        out = subprocess.run(
            [sys.executable, path], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
        )
        assert out.stdout == f"{reference}\nok\n"
    (tmp_path / "test_repro.py").write_text(to_pytest(PROGRAM, reference="v7.0-base"))
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_repro.py"]
    subprocess.run(words, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True)
    assert "reference_version('v7.0-base')" in to_pytest(PROGRAM, reference="v7.0-base")


def test_export_of_an_older_reference(tmp_path: Path) -> None:
    """docs/history.md: of a device of 128M the older reference counts 512 vmemmap pages, 7.3 has 128; a real kernel is
    what it is."""
    file = tmp_path / "repro.vmm"
    file.write_text("vmm 1\nmachine ram=1G\nboot\nd0 = dax create at=0x100000000 size=128M\n")
    run = CliRunner().invoke
    for reference, counted in (("v7.3", 128), ("v7.0-base", 512)):
        out = run(app, ["export", str(file), "--to", "itf", "--reference", reference])
        assert out.exit_code == 0
        told = json.loads(out.stdout)
        assert reference in told["#meta"]["description"]
        counters = dict(told["states"][-1]["reference"]["counters"]["#map"])
        assert counters["nr_memmap"] == {"#bigint": str(counted)}
    for form in ("shell", "live"):
        assert run(app, ["export", str(file), "--to", form, "--reference", "v7.0-base"]).exit_code == 2


@pytest.mark.parametrize("path", sorted((ROOT / "corpus/seeds").glob("*.vmm")), ids=lambda path: path.stem)
def test_shell_script_is_one(path: Path) -> None:
    subprocess.run(["bash", "-n"], input=to_shell(parse_file(path)), text=True, check=True)


def test_shell_script_writes_where_the_kernel_reads() -> None:
    program = parse("vmm 1\nmachine nodes=2\nboot\nhugetlb resize size=2M to=8 node=1\n")
    line = "echo 8 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"
    assert line in to_shell(program).splitlines()


def test_every_operation_is_done_or_has_a_reason() -> None:
    assert set(_COMMANDS) | set(WITHOUT_INTERFACE) == set(OPERATIONS)
    assert not set(_COMMANDS) & set(WITHOUT_INTERFACE)


def test_shell_script_finds_the_memory_block(tmp_path: Path) -> None:
    """The second whole block of 128M of 192M at 4G + 64M and 256M at 8G: 8G / 128M = 64, as the first has one."""
    program = parse(
        "vmm 1\nmachine ram=1G\nboot\nd0 = dax create at=0x104000000,0x200000000 size=192M,256M driver=kmem\n"
        "dax online d0 block=1\n"
    )
    script = to_shell(program)
    (tmp_path / "block_size_bytes").write_text("8000000\n")
    lines = script.replace("/sys/devices/system/memory/block_size_bytes", str(tmp_path / "block_size_bytes"))
    functions, _, rest = lines.partition("set -x\n")
    call = next(line for line in rest.splitlines() if "nth_block" in line)
    asked = functions + call.replace("echo online_movable > ", "echo ")
    out = subprocess.run(["sh"], input=asked, text=True, capture_output=True, check=True).stdout
    assert out == "/sys/devices/system/memory/memory64/state\n"
    assert "echo 104000000-10fffffff > /sys/bus/dax/devices/$d0/mapping" in script.splitlines()


@pytest.mark.parametrize("path", sorted((ROOT / "corpus/seeds").glob("*.vmm")), ids=lambda path: path.stem)
def test_live_file_is_the_program_with_reasons(path: Path) -> None:
    program = parse_file(path)
    text = to_live(program)
    assert parse(text).bare() == program.bare()
    for name in {op.name for op in program.ops} & set(WITHOUT_INTERFACE):
        assert f"# not done live: {WITHOUT_INTERFACE[name]}" in text


def test_itf_shows_a_planted_defect() -> None:
    """7.3 with ACC-2026-03 counts the 8 vmemmap pages of a 2M page though it keeps 2."""
    with planted(find("ACC-2026-03")):
        data = json.loads(to_itf(PROGRAM, "merged"))
    assert dict(data["states"][1]["reference"]["counters"]["#map"])["nr_memmap"] == {"#bigint": "8"}
    assert data["#meta"]["description"].endswith("candidate: merged")


def test_itf_has_its_form() -> None:
    data = json.loads(to_itf(PROGRAM))
    assert data["#meta"]["format"] == "ITF"
    assert [state["operation"] for state in data["states"]] == ["boot", "d0 = dax create at=0x100000000 size=2M"]
    for i, state in enumerate(data["states"]):
        assert state["#meta"]["index"] == i
        assert set(state) - {"#meta"} == set(data["vars"])
    counters = dict(data["states"][1]["reference"]["counters"]["#map"])
    # VMEMMAP_RESERVE_NR, mm/sparse-vmemmap.c: two pages of a 2M compound page are kept and counted.
    assert counters["nr_memmap"] == {"#bigint": "2"}
