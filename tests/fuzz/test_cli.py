"""The command line, as a user and as CI see it: exit codes, messages, files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fuzz.cli import app
from fuzz.program.text import parse, parse_file
from zoo import find, planted

ROOT = Path(__file__).resolve().parents[2]

CLEAN = """vmm 1
machine arch=x86_64 page=4K ram=1G nodes=1
boot
hugetlb resize size=2M to=2
sysctl hugetlb_optimize_vmemmap=off
hugetlb resize size=2M to=0
"""

DAX = """vmm 1
machine arch=x86_64 page=4K ram=1G nodes=1
boot
hugetlb resize size=2M to=2
d0 = dax create at=0x100000000 size=128M
sysctl hugetlb_optimize_vmemmap=off
hugetlb resize size=2M to=0
"""
"""Shows a difference when ACC-2026-03 is planted."""


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    path = tmp_path / "clean.vmm"
    path.write_text(CLEAN)
    return path


@pytest.fixture
def dax(tmp_path: Path) -> Path:
    path = tmp_path / "dax.vmm"
    path.write_text(DAX)
    return path


def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.vmm"
    path.write_text("vmm 1\nmachine ram=4G\nboot\nhugetlb resize size=3M to=1\n")
    return path


# -- replay ---------------------------------------------------------------------------------------------------------


def test_replay_of_agreeing_programs(clean: Path) -> None:
    result = call("replay", clean, clean)
    assert result.exit_code == 0
    assert result.stdout.count("ok") == 2


def test_replay_against_an_older_reference() -> None:
    files = sorted((ROOT / "corpus" / "history").glob("*.vmm"))
    assert len(files) == 10
    result = call("replay", "--reference", "v7.0-base", *files)
    assert result.exit_code == 0
    assert "rollback-of-head.vmm: history-rollback-of-head\n" in result.stdout
    result = call("replay", *files)
    assert result.exit_code == 0
    assert "history-" not in result.stdout
    rows = json.loads(call("replay", "--json", "--reference", "v7.0-base", *files).stdout)
    assert [row["verdict"] for row in rows].count("explained") == 3
    shown = [f"history-{path.stem}" in row["clauses"] for path, row in zip(files, rows, strict=True)]
    assert [path.stem for path, seen in zip(files, shown, strict=True) if not seen] == ["pgmap-in-deactivation"]


def test_an_unknown_reference_is_refused(clean: Path) -> None:
    result = call("replay", "--reference", "v6.6", clean)
    assert result.exit_code == 2
    assert "v7.0-base" in result.stderr


def test_explain_names_the_reference() -> None:
    path = ROOT / "corpus" / "history" / "vmemmap-accounting-underflow.vmm"
    result = call("explain", "--reference", "v7.0-base", path)
    assert result.exit_code == 0
    assert "(reference: v7.0-base, candidate: posted)" in result.stdout
    # 128M * 64 / 4K / 4K
    assert "nr_memmap_pages: reference -512 (0 -> -512), candidate unchanged" in result.stdout
    assert "history-vmemmap-accounting-underflow" in result.stdout
    told = json.loads(call("explain", "--json", path).stdout)
    assert (told["reference"], told["steps"][-1]["clauses"]) == ("v7.3", [])


def test_a_campaign_knows_its_reference(tmp_path: Path) -> None:
    """Settings, records and reports say it; a campaign keeps it."""
    folder, reports = tmp_path / "c", tmp_path / "r"
    args = ["run", "--engine", "uniform", "--programs", "40", "--seed", "1", "--reports", reports]
    result = call(*args, "--campaign", folder, "--reference", "v7.0-base")
    assert result.exit_code == 0, result.stdout
    assert json.loads((folder / "campaign.json").read_text())["reference"] == "v7.0-base"
    result = call("run", "--resume", folder, "--reference", "v7.3", "--programs", "1")
    assert result.exit_code == 2
    assert "--reference cannot be given with --resume" in result.stderr
    result = call(*args, "--campaign", tmp_path / "d", "--reference", "v7.0-base", "--defect", "DAX-2023-54")
    assert result.exit_code == 1, result.stdout
    told = [json.loads(path.read_text()) for path in reports.glob("*/finding.json")]
    assert told
    assert {(data["reference"], data["planted_defect"]) for data in told} == {("v7.0-base", "DAX-2023-54")}


def test_replay_as_json(clean: Path) -> None:
    rows = json.loads(call("replay", "--json", clean).stdout)
    assert [(row["file"], row["verdict"], row["operations"], row["signature"]) for row in rows] == [
        (str(clean), "ok", 4, None)
    ]


def test_replay_of_a_difference(clean: Path, dax: Path) -> None:
    with planted(find("ACC-2026-03")):
        result = call("replay", "--json", clean, dax)
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [row["verdict"] for row in rows] == ["ok", "finding"]
    assert rows[1]["signature"].startswith("accounting|nr_memmap|dax create|")


@pytest.mark.parametrize("command", ["replay", "minimize", "fmt", "explain"])
def test_a_wrong_program_gets_line_and_caret(command: str, tmp_path: Path) -> None:
    path = bad(tmp_path)
    result = call(command, path)
    assert result.exit_code == 2
    assert result.stdout == ""
    first, source, caret = result.stderr.splitlines()
    assert first.startswith(f"error: {path}:4:21: size cannot be 3M")
    assert source == "  hugetlb resize size=3M to=1"
    assert caret == " " * (2 + 20) + "^"


@pytest.mark.parametrize("command", ["replay", "minimize", "fmt", "explain"])
def test_a_missing_file_is_one_line(command: str, tmp_path: Path) -> None:
    result = call(command, tmp_path / "none.vmm")
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path / 'none.vmm'}: No such file or directory\n"


def test_a_folder_is_no_program(tmp_path: Path) -> None:
    result = call("replay", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path}: Is a directory\n"


def test_a_binary_file_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(b"\x7fELF\0\xff")
    result = call("replay", path)
    assert result.exit_code == 2
    assert "binary" in result.stderr


@pytest.mark.parametrize("args", [("replay",), ("nonsense",), ("run", "--engine", "afl"), ("run", "--seconds", "-1")])
def test_wrong_usage(args: tuple[str, ...]) -> None:
    assert call(*args).exit_code == 2


# -- fmt, minimize, explain -----------------------------------------------------------------------------------------


def test_fmt_prints_the_canonical_form(tmp_path: Path) -> None:
    path = tmp_path / "loose.vmm"
    path.write_text(CLEAN.replace("ram=1G", "ram=1024M") + "# the end\n")
    result = call("fmt", path)
    assert result.exit_code == 0
    assert result.stdout == CLEAN + "# the end\n"
    assert call("fmt", "--check", path).exit_code == 1
    assert call("fmt", "--write", path).stdout == ""
    assert path.read_text() == CLEAN + "# the end\n"
    assert call("fmt", "--check", path).exit_code == 0


def test_minimize(dax: Path, tmp_path: Path) -> None:
    with planted(find("ACC-2026-03")):
        result = call("minimize", dax)
        assert result.exit_code == 1
        small = parse(result.stdout)
        assert [op.name for op in small.ops] == ["boot", "dax create"]
        assert call("minimize", dax, "-o", tmp_path / "small.vmm").stdout == ""
    assert parse_file(tmp_path / "small.vmm") == small


def test_a_defect_is_planted_where_it_is_asked_for(dax: Path) -> None:
    for command, code in (("replay", 1), ("minimize", 1), ("explain", 1), ("sweep", 1)):
        assert call(command, dax).exit_code == 0
        result = call(command, dax, "--defect", "ACC-2026-03", "--json")
        assert result.exit_code == code, command
        data = json.loads(result.stdout)
        data = data[0] if isinstance(data, list) else data
        assert data["planted_defect"] == "ACC-2026-03"
        refused = call(command, dax, "--defect", "nonesuch")
        assert refused.exit_code == 2
        assert "no defect 'nonesuch'" in refused.stderr


def test_nothing_to_minimize(clean: Path) -> None:
    result = call("minimize", clean)
    assert result.exit_code == 0
    assert "nothing to minimize" in result.stderr


def test_explain_an_agreeing_program(clean: Path) -> None:
    result = call("explain", clean)
    assert result.exit_code == 0
    text = result.stdout
    # Two folios of 8 vmemmap pages: 2 head copies, 16 boot frames given back, one PMD leaf of 512 split.
    assert "nr_memmap_pages: +2 (0 -> 2)" in text
    assert "nr_memmap_boot_pages: -16" in text
    assert "nr_page_table_pages: +1 (0 -> 1)" in text
    assert "16 pages" in text
    assert "in every 8: 1 own (buddy memory, RW), 7 share the zone's tail page (RO)" in text
    assert text.rstrip().endswith("No unexplained difference in 4 operations.")


def test_explain_marks_the_first_difference(dax: Path) -> None:
    with planted(find("ACC-2026-03")):
        result = call("explain", dax)
        data = json.loads(call("explain", "--json", dax).stdout)
    assert result.exit_code == 1
    # 128M in pages of 2M: the planted reference counts all 512, the candidate one page of each 8.
    marked = [line for line in result.stdout.splitlines() if "first difference" in line and "<--" in line]
    assert len(marked) == 1
    assert "nr_memmap_pages: reference +512 (2 -> 514), candidate +64 (2 -> 66)" in marked[0]
    assert [step["number"] for step in data["steps"]] == [1, 2, 3]
    assert data["steps"][2]["finding"]["field"] == data["finding"]["field"] == "nr_memmap"


# -- run ------------------------------------------------------------------------------------------------------------


def run_planted(folder: Path, *args: str) -> Result:
    where = "--reports", folder / "reports", "--campaign", folder / "campaign"
    return call("run", "--defect", "ACC-2026-03", "--programs", "8", "--seed", "3", *where, *args)


@pytest.mark.parametrize(("engine", "workers"), [("uniform", "12"), ("guided", "11")])
def test_run_is_repeated_by_its_seed(engine: str, workers: str, tmp_path: Path) -> None:
    """By `uniform` with any number of workers, by `guided`, whose workers learn from each other, with one."""
    words = ("--json", "--engine", engine, "--workers")
    runs = [json.loads(run_planted(tmp_path / str(i), *words, n).stdout) for i, n in enumerate(workers)]
    for data in runs:
        assert data.pop("seconds") > 0
        assert Path(data.pop("campaign")).is_dir()
    assert runs[0] == runs[1]
    assert runs[0]["programs"] == 8
    assert runs[0]["reports"]


def test_run_writes_reports(tmp_path: Path) -> None:
    result = run_planted(tmp_path)
    assert result.exit_code == 1
    folders = [
        path for path in (tmp_path / "reports").iterdir() if path.name.startswith("accounting-nr-memmap-dax-create")
    ]
    assert folders
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == ["finding.json", "report.html", "repro.vmm"]
        data = json.loads((folder / "finding.json").read_text())
        assert data["program"] == (folder / "repro.vmm").read_text()
        assert data["signature"].startswith("accounting|nr_memmap|dax create|")
        assert data["confirmed_in_fresh_process"] is True
        assert data["planted_defect"] == "ACC-2026-03"


def test_an_unwritable_folder_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    begin = time.monotonic()
    result = call("run", "--seconds", "30", "--reports", tmp_path / "file" / "reports")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: cannot write reports to {tmp_path}/file/reports: ")
    assert time.monotonic() - begin < 10


def test_an_engine_that_cannot_work_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The worker is a process of its own: this is read by every interpreter that starts.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name: None if name == 'atheris' else find(name)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    where = "--reports", tmp_path / "reports", "--campaign", tmp_path / "campaign"
    result = call("run", "--engine", "libfuzzer", "--seconds", "1", *where)
    assert result.exit_code == 2
    assert "error: atheris is not installed" in result.stderr


# -- as a process ---------------------------------------------------------------------------------------------------


def process(*args: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "fuzz.cli", *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDEVMODE": ""},
    )


def test_ctrl_c_prints_what_was_done(tmp_path: Path) -> None:
    where = "--reports", tmp_path / "reports", "--campaign", tmp_path / "campaign"
    child = process("run", "--seconds", "120", *where, "--json")
    end = time.monotonic() + 60
    while not list(tmp_path.glob("campaign/corpus/*/*.vmm")) and time.monotonic() < end:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    data = json.loads(out)
    assert data["interrupted"] is True
    assert data["programs"] > 0
    assert child.returncode == (1 if data["reports"] else 0), err


def test_help_is_fast_and_names_every_command() -> None:
    child = process("--help")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    for command in ("run", "smoke", "replay", "minimize", "fmt", "explain"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize("command", ["run", "smoke", "replay", "minimize", "fmt", "explain"])
def test_every_command_has_help(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 8


def test_the_models_are_not_imported_for_help() -> None:
    code = (
        "import sys, fuzz.cli; print(sorted(m for m in sys.modules if m.split('.')[0] in ('mm', 'reference', 'rich')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reader_that_leaves_is_no_error(clean: Path) -> None:
    child = process("explain", clean)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    assert "Traceback" not in child.stderr.read()
    child.stderr.close()
    child.wait(60)
