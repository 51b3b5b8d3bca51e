"""The promises of the cover letter: held, broken, or not exercised, by programs known to do one or the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from candidate.framework import UnifiedFramework
from fuzz.cli import app
from fuzz.execute import Profile
from fuzz.program import parse, parse_file
from fuzz.program.model import Program
from fuzz.promises import PROMISES, Record, examine
from mm.kernel import Kernel

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
HEADER = "vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1 deferred_init=off\n"
FULL = parse(
    HEADER + "reserve size=1G count=1\nboot\nhugetlb resize size=2M to=2\n"
    "d0 = dax create at=0x180000000 size=256M\nd1 = dax create at=0x1c0000000 size=1G align=1G\n"
)


def verdicts(program: Program, profile: Profile) -> dict[str, str]:
    return {record.promise.id: record.verdict for record in examine([("program", program)], profile)}


def test_posted_keeps_all_promises() -> None:
    assert verdicts(FULL, "posted") == dict.fromkeys([promise.id for promise in PROMISES], "held")


def test_merged_maps_tails_writable_and_keeps_the_rest() -> None:
    """unified-framework.md 1.7."""
    found = verdicts(FULL, "merged")
    assert found.pop("dax-tails-read-only") == "broken"
    assert set(found.values()) == {"held"}


def test_a_program_without_devices_says_nothing_of_them() -> None:
    found = verdicts(parse(HEADER + "boot\n"), "posted")
    assert set(found.values()) == {"not exercised"}


def test_a_candidate_that_saves_less_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = UnifiedFramework.sparse_add_section

    def counts_one_more(self: UnifiedFramework, *args: object) -> int:
        rc = sound(self, *args)  # type: ignore[arg-type]
        self.k.vmstat.nr_memmap += 1
        return rc

    monkeypatch.setattr(UnifiedFramework, "sparse_add_section", counts_one_more)
    found = examine([("planted", FULL)], "posted")[0]
    assert (found.promise.id, found.verdict) == ("dax-one-page-more", "broken")
    assert found.sentence.endswith("(first seen in planted, operation 4)")


def test_a_boot_that_writes_everything_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = UnifiedFramework.mm_core_init_early

    def writes_more(self: UnifiedFramework) -> None:
        sound(self)
        kernel: Kernel = self.k
        kernel.vmstat.struct_pages_initialized += 1

    monkeypatch.setattr(UnifiedFramework, "mm_core_init_early", writes_more)
    found: dict[str, Record] = {record.promise.id: record for record in examine([("planted", FULL)], "posted")}
    assert found["hvo-tails-not-initialized"].verdict == "broken"


@pytest.mark.parametrize("profile", ["posted", "merged"])
def test_the_corpus_exercises_every_promise(profile: Profile) -> None:
    """And each on both architectures that have HVO of gigantic pages and device DAX."""
    programs = [(path.name, parse_file(path)) for path in sorted(CORPUS.glob("*/*.vmm"))]
    found = examine(programs, profile)
    assert [record.promise.id for record in found if record.verdict == "not exercised"] == []
    broken = {record.promise.id for record in found if record.broken}
    assert broken == ({"dax-tails-read-only"} if profile == "merged" else set())
    assert [record.promise.id for record in found if not {"riscv64", "x86_64"} <= record.arches] == []


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "p.vmm"
    path.write_text(HEADER + "boot\nd0 = dax create at=0x180000000 size=256M\n")
    out = CliRunner().invoke(app, ["promises", str(path), "--json"])
    assert out.exit_code == 0
    data = json.loads(out.stdout)
    assert set(data) == {"posted", "merged"}
    by_id = {entry["id"]: entry["verdict"] for entry in data["merged"]}
    assert by_id["dax-tails-read-only"] == "broken"
    text = CliRunner().invoke(app, ["promises", str(path)]).stdout
    assert "mapped read-write" in text
