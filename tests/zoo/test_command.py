"""`vmemmap-fuzz zoo --list`."""

import json
import subprocess
import sys

from zoo import DEFECTS, NOT_MODELLED


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fuzz.cli", "zoo", *args], capture_output=True, text=True, check=False)


def test_list_names_every_bug_and_every_reason() -> None:
    out = run("--list", "--json")
    assert out.returncode == 0
    entries = json.loads(out.stdout)
    assert [e["id"] for e in entries] == [*DEFECTS, *(n.id for n in NOT_MODELLED)]
    assert all(bool(e["reason"]) != e["modelled"] for e in entries)


def test_without_list_it_says_what_to_write() -> None:
    out = run()
    assert out.returncode == 2
    assert "--list" in out.stderr
