"""What a campaign survives: kill -9 of any of its processes, damaged files, a full disk, programs that kill or hang."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz.compiled import VARIABLE
from fuzz.coverage import features
from fuzz.execute import run_program
from fuzz.findings import slug
from fuzz.program.text import parse
from fuzz.store.files import Store, pending
from tests.fuzz.campaign.running import ROOT, Running, gone, wait_for
from zoo import find, planted

DEFECT = ("--defect", "ACC-2026-03")
WORKER = "fuzz.campaign.worker"
HELPER = "fuzz.campaign.helper"
Start = Callable[..., Running]


def kept(running: Running, signature: str) -> None:
    """A finding that was announced is on disk: record, report, journal."""
    records = Store(running.folder).records()
    assert any(r["stage"] == "report" and r["signature"] == signature for r in records.values())
    folder = running.reports / slug(signature)
    data = json.loads((folder / "finding.json").read_text())
    assert data["signature"] == signature
    assert data["program"] == (folder / "repro.vmm").read_text()
    assert signature in (running.folder / "events.jsonl").read_text()


def test_a_killed_worker_is_replaced_and_costs_nothing_else(campaign: Start) -> None:
    running = campaign("--seconds", "600", "--workers", "2", "--json")
    before = wait_for(lambda: running.of(WORKER) if len(running.of(WORKER)) == 2 else None)
    wait_for(lambda: list(running.folder.glob("corpus/*/*.vmm")))
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: "died (killed by signal 9)" in running.said())
    after = wait_for(lambda: running.of(WORKER) if len(running.of(WORKER)) == 2 else None)
    assert before[0] not in after
    assert before[1] in after
    # The program that it was running is tried again, and is not to blame.
    wait_for(lambda: not running.of(HELPER))
    running.interrupt()
    assert running.json()["interrupted"] is True
    assert running.json()["quarantined"] == []


def test_workers_die_with_a_killed_parent_and_resume_goes_on(campaign: Start) -> None:
    first = campaign("--seconds", "600", "--workers", "2", *DEFECT)
    signature = wait_for(first.announced)[0]
    wait_for((first.folder / "state.json").exists)
    processes = first.of("fuzz.campaign")
    assert processes
    first.kill()
    wait_for(lambda: all(map(gone, processes)), 20)
    kept(first, signature)
    done = json.loads((first.folder / "state.json").read_text())["statistics"]["programs"]
    waiting = set(pending(Store(first.folder).records()))

    second = campaign("--seconds", "3", "--workers", "2", "--json")
    assert second.end() == 1
    data = second.json()
    assert data["programs"] > done
    assert signature in {report["signature"] for report in data["reports"]}
    assert "run 2:" in second.said()
    assert signature not in second.announced()  # once is enough
    # What waited when the parent was killed was done by the second run.
    assert not waiting & set(pending(Store(first.folder).records()))
    for other in second.announced():
        kept(second, other)


def test_a_killed_minimizer_is_tried_again(campaign: Start) -> None:
    running = campaign("--seconds", "600", *DEFECT)
    helper = wait_for(lambda: running.of(HELPER))[0]
    os.kill(helper, signal.SIGKILL)
    signature = wait_for(running.announced)[0]
    kept(running, signature)
    assert running.interrupt() == 1


def test_two_runs_of_one_campaign_exclude_each_other(campaign: Start) -> None:
    running = campaign("--seconds", "600")
    wait_for(lambda: running.of(WORKER))
    other = campaign("--seconds", "1")
    assert other.end() == 2
    assert f"is being run by process {running.process.pid}" in other.said()
    running.kill()


# -- programs that kill or hang -------------------------------------------------------------------------------------


def patched(folder: Path) -> dict[str, str]:
    """Environment of processes that replace functions by the folder's sitecustomize, which compiled ones do not let."""
    return {"PYTHONPATH": str(folder), VARIABLE: "0"}


@pytest.mark.parametrize(
    ("code", "kind"),
    [("os.kill(os.getpid(), 11)", "death"), ("os._exit(7)", "death"), ("time.sleep(1000)", "hang")],
)
def test_a_program_that_kills_or_hangs_is_quarantined(code: str, kind: str, campaign: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time, fuzz.campaign.findings as f, fuzz.side as e\n"
        "f.LIMIT = 3.0\n"
        f"def bad(side, args, result): {code}; return 0\n"
        "e.ENTRIES['hugetlb demote'] = bad\n"
    )
    running = campaign("--seconds", "600", "--hang", "3", environment=patched(tmp_path))
    wait_for(lambda: "quarantined: returns" in running.said())
    running.process.terminate()  # as a service manager does: the same as Ctrl-C
    assert running.end() == 1
    assert b"interrupted; this is what was done until then" in running.out
    records = [r for r in Store(running.folder).records().values() if r["stage"] == "quarantine"]
    assert [(r["kind"], r["finding"]["operation"]) for r in records] == [(kind, "hugetlb demote")]
    program = parse(records[0]["program"])
    assert program.ops[-1].name == "hugetlb demote"
    assert "hugetlb demote" not in [op.name for op in program.ops[:-1]]
    repro = running.reports / slug(records[0]["signature"]) / "repro.vmm"
    assert parse(repro.read_text()) == program


def test_an_operation_that_outlasts_the_campaign_is_no_secret(campaign: Start, tmp_path: Path) -> None:
    """The time is up before the limit for one operation is."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time, fuzz.campaign.findings as f, fuzz.campaign.pool as p, fuzz.side as e\n"
        "f.LIMIT, p.SLOW, p.GRACE = 3.0, 2.0, 4.0\n"
        "e.ENTRIES['memory add'] = lambda side, args, result: time.sleep(1000)\n"
    )
    running = campaign("--seconds", "20", environment=patched(tmp_path))
    assert running.end() == 1
    assert "has been at one operation for 2 s: operation " in running.said()
    assert "hung (no operation in 4 s)" in running.said()
    records = [r for r in Store(running.folder).records().values() if r["stage"] == "quarantine"]
    assert [(r["kind"], r["finding"]["operation"]) for r in records] == [("hang", "memory add")]


def test_a_worker_that_cannot_begin_is_given_up(campaign: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'fuzz.campaign.worker' in sys.orig_argv: sys.stderr.write('no luck today'); os._exit(1)\n"
    )
    running = campaign("--seconds", "600", environment=patched(tmp_path))
    assert running.end() == 2
    assert "5 workers died before they had a result" in running.said()
    assert "error: no luck today" in running.said()


# -- damaged files --------------------------------------------------------------------------------------------------


def rows(folder: Path, sql: str) -> list[tuple[str, ...]]:
    with sqlite3.connect(folder / "campaign.db") as db:
        return db.execute(sql).fetchall()


def test_damage_is_said_and_mended(campaign: Start) -> None:
    first = campaign("--programs", "40", "--seed", "5", *DEFECT)
    assert first.end() == 1
    folder = first.folder
    tables = {
        "programs": "select program, text from programs",
        "shown": "select program, feature from program_features",
        "findings": "select record, status, signature from findings",
        "clauses": "select clause from clauses",
    }
    before = {name: set(rows(folder, sql)) for name, sql in tables.items()}
    assert all(before.values())
    # Every kind of damage at once.
    database = folder / "campaign.db"
    database.write_bytes(database.read_bytes()[:5000])
    victim = min(folder.glob("corpus/*/*.vmm"))
    victim.write_text("torn")
    record = next(path for path in folder.glob("findings/*.json") if '"found"' in path.read_text())
    record.write_bytes(b"")
    (folder / "state.json").write_text('{"version": 1, "ru')
    with (folder / "statistics.jsonl").open("a") as file:
        file.write('{"run": 1, "secon')

    second = campaign("--programs", "1", "--json")
    assert second.end() == 1
    said = second.said()
    assert "campaign.db is broken" in said
    assert f"{victim.name}: 4 bytes that are not those its name stands for" in said
    assert f"{record.name}: 0 bytes that are not those its name stands for" in said
    assert "the checkpoint is lost" in said
    assert second.json()["programs"] == 41
    # The index was made again from the files, of all that is still there; the second run added to it.
    after = {name: set(rows(folder, sql)) for name, sql in tables.items()}
    assert {row for row in before["programs"] if row[0] != victim.stem} <= after["programs"]
    assert {row for row in before["findings"] if row[0] != record.stem} <= after["findings"]
    assert before["clauses"] - after["clauses"] <= {
        (feature.removeprefix("clause "),) for program, feature in before["shown"] if program == victim.stem
    }
    for digest, text in before["programs"] & after["programs"]:
        program = parse(text)
        shown = {feature for owner, feature in after["shown"] if owner == digest}
        with planted(find("ACC-2026-03")):
            assert shown == features(program, run_program(program)), text
    assert rows(folder, "select count(*) from runs") == [(2,)]


def programs_in_index(folder: Path) -> int:
    """0 while there is no index."""
    try:
        return int(rows(folder, "select count(*) from programs")[0][0])
    except sqlite3.OperationalError:
        return 0


def test_the_database_breaks_while_it_runs(campaign: Start) -> None:
    running = campaign("--seconds", "600")
    wait_for(lambda: (running.folder / "campaign.db").exists() and list(running.folder.glob("corpus/*/*.vmm")))
    wait_for((running.folder / "campaign.db-wal").exists)
    for name in ("campaign.db", "campaign.db-wal"):
        with (running.folder / name).open("r+b") as file:
            file.write(b"\x55" * 4096)
    wait_for(lambda: "campaign.db is broken" in running.said())
    # The new one is not there at once; what an interruption leaves out of it, the next run adds.
    known = len(Store(running.folder).digests())
    wait_for(lambda: programs_in_index(running.folder) >= known)
    running.interrupt()
    assert rows(running.folder, "pragma quick_check") == [("ok",)]
    assert known <= programs_in_index(running.folder) <= len(Store(running.folder).digests())
    following = campaign("--seconds", "1")
    assert following.end() in (0, 1), following.said()  # whether it finds something is not asked here
    assert programs_in_index(running.folder) == len(Store(running.folder).digests())


# -- a full disk ----------------------------------------------------------------------------------------------------


def has_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


FULL = """
import os, signal, subprocess, sys, time
from pathlib import Path
from fuzz.store.files import Store

disk, log = Path(sys.argv[1]), Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True)
words = "run --seconds 600 --defect ACC-2026-03 --campaign campaign --reports reports".split()
with log.open("wb") as out:
    child = subprocess.Popen([sys.executable, "-P", "-m", "fuzz.cli", *words], stdout=out, stderr=out, cwd=disk)

def announced():
    lines = log.read_text().partition("interrupted;")[0].splitlines()
    return [line.removeprefix("finding: ") for line in lines if line.startswith("finding: ")]

def wait(what):
    end = time.monotonic() + 90
    while not what():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)

wait(lambda: (disk / "campaign" / "campaign.db").exists())
try:
    with open(disk / "ballast", "wb", buffering=0) as file:
        while file.write(b"x" * 4096): pass
except OSError:
    pass
wait(lambda: "findings: cannot be written (No space left on device)" in log.read_text())
before = announced()
time.sleep(2)
assert announced() == before
assert child.poll() is None
os.unlink(disk / "ballast")
wait(lambda: "findings: written again" in log.read_text())
wait(lambda: len(announced()) > len(before))
child.send_signal(signal.SIGINT)
assert child.wait(90) == 1
# Those that Ctrl-C cut short are reported as they were found.
kept = {record["signature"] for record in Store(disk / "campaign").records().values()}
assert set(announced()) <= kept, (announced(), kept)
print("survived")
"""


@pytest.mark.skipif(not has_namespaces(), reason="no user and mount namespaces here")
def test_a_full_disk_is_said_and_nothing_is_announced_that_is_not_kept(tmp_path: Path) -> None:
    """A tmpfs, filled up after the start and emptied again, all inside a mount namespace."""
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL, tmp_path / "disk", tmp_path / "log"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=400,
        check=False,
    )
    assert "survived" in done.stdout, done.stderr
