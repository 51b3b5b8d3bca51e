"""The table of reachable outcomes, and what counts as empty."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from candidate.framework import UnifiedFramework
from fuzz.cli import app
from fuzz.execute import run_program
from fuzz.generate.operations import MAKERS, aimed
from fuzz.program import parse
from fuzz.program.operations import OPERATIONS
from fuzz.surface import LABELS, LEADING, Cell, Surface, explore, known, reachable
from mm.arch import ARCHES

SOME = {"x86_64/4K"}
PROGRAM = parse("vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\nhugetlb resize size=16M to=1\n")


def test_every_operation_can_succeed_somewhere() -> None:
    assert {cell.operation for cell in reachable() if cell.outcome == "ok"} == set(OPERATIONS)


def test_every_cell_names_its_source() -> None:
    assert all(source.strip() for source in reachable().values())
    assert {cell.arch for cell in reachable()} == set(LABELS)
    assert set(LABELS.values()) == set(ARCHES)


def test_what_needs_hvo_is_reachable_where_hvo_is() -> None:
    """separate-paths.md 1.2: x86-64, riscv64 and loongarch64; only a restore can lack memory in `dissolve`."""
    cells = {cell.arch for cell in reachable() if cell[:2] == ("hugetlb dissolve", "ENOMEM")}
    assert cells == {label for label, key in LABELS.items() if ARCHES[key].hvo}


def test_a_cell_is_empty_until_a_program_reaches_it() -> None:
    surface = Surface()
    cell = Cell("hugetlb resize", "ENOENT", "x86_64/4K")
    assert cell in surface.empty_on(SOME)
    surface.record(PROGRAM, run_program(PROGRAM))
    assert cell not in surface.empty_on(SOME)
    assert surface.cells[cell] == 1
    assert surface.unexpected == []


def test_what_the_table_does_not_know_is_told() -> None:
    surface = Surface()
    surface.cells[Cell("boot", "EIO", "x86_64/4K")] += 1
    assert surface.unexpected == [Cell("boot", "EIO", "x86_64/4K")]


def test_random_programs_are_those_of_the_seed() -> None:
    def first(n: int) -> Surface:
        surface = Surface()
        for _ in explore(surface, 60, 3, "posted", ["x86_64/4K"]):
            if surface.programs == n:
                break
        return surface

    a, b = first(12), first(12)
    assert a.cells == b.cells
    assert a.cells[Cell("boot", "ok", "x86_64/4K")] > 0


def test_the_command_prints_json_and_refuses_an_unknown_architecture() -> None:
    out = CliRunner().invoke(app, ["coverage", "--seconds", "0.2", "--arch", "x86_64", "--json"])
    assert out.exit_code == 0
    data = json.loads(out.stdout)
    assert data["architectures"] == ["x86_64/4K"]
    assert {"operation", "outcome", "arch"} == set(data["empty_reachable"][0])
    out = CliRunner().invoke(app, ["coverage", "--arch", "vax"])
    assert out.exit_code == 2
    assert "--arch vax: no such architecture; expected one of x86_64/4K" in out.stderr


def test_an_unexplained_difference_comes_with_its_architecture_and_a_small_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    optimize = UnifiedFramework.hugetlb_vmemmap_optimize_folios

    def forgetful(self: UnifiedFramework, *args: Any) -> None:
        optimize(self, *args)
        self.k.vmstat.nr_memmap += 1

    monkeypatch.setattr(UnifiedFramework, "hugetlb_vmemmap_optimize_folios", forgetful)
    file = tmp_path / "long.vmm"
    file.write_text(
        "vmm 1\nmachine arch=riscv64 page=4K ram=1G nodes=1\nboot\np0 = pages alloc count=8\n"
        "hugetlb resize size=2M to=4\npages free p0\n"
    )
    out = CliRunner().invoke(app, ["coverage", str(file), "--seconds", "0", "--json"])
    assert out.exit_code == 1
    (found,) = json.loads(out.stdout)["findings"]
    assert found["arch"] == "riscv64/4K"
    assert found["signature"].startswith("accounting|nr_memmap|hugetlb resize|")
    assert [op.name for op in parse(found["program"]).ops] == ["boot", "hugetlb resize"]
    assert found["one_minimal"] is True
    text = CliRunner().invoke(app, ["coverage", str(file), "--seconds", "0"]).stdout
    assert f"finding: {found['signature']} on riscv64/4K\n  {found['detail']}\n  vmm 1\n" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_prints_what_it_has(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "fuzz.cli", "coverage", "--seconds", "600", "--arch", "s390x", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "programs" in process.stderr.readline()  # it runs
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert "interrupted" in err
    data = json.loads(out)
    assert data["programs"] > 0
    assert process.returncode == bool(data["findings"])


def test_a_rare_outcome_is_known_but_not_missed() -> None:
    surface = Surface()
    cell = Cell("hugetlb demote", "EBUSY", "x86_64/4K")
    assert known()[cell].rare
    assert cell not in surface.empty_on(SOME)
    assert cell in surface.rare_on(SOME)
    surface.cells[cell] += 1
    assert surface.unexpected == []
    assert cell not in surface.rare_on(SOME)


def test_programs_aim_at_what_is_missing() -> None:
    """By weight `dax set` is 2 operations in 340; a table that aims at it has it as often as half of all others."""
    table = aimed(Random(3).random, [("dax set", ())])
    assert table.count(MAKERS["dax set"]) >= len(table) // 3
    assert len(set(table)) > 8


def test_programs_aim_at_what_leads_to_an_outcome() -> None:
    """A block with poison does not come online: it must have gone offline, and have been poisoned before."""
    leading = LEADING["EHWPOISON"]
    table = aimed(Random(3).random, [("dax online", leading)])
    often = min(table.count(MAKERS[name]) for name in ("dax online", *leading))
    assert often >= len(table) // 16
    assert len(set(table)) > 8


def test_what_leads_to_an_outcome_can_be_made() -> None:
    assert {name for names in LEADING.values() for name in names} <= MAKERS.keys()
