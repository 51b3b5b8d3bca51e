"""The table of reachable outcomes, and what counts as empty."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from fuzz.cli import app
from fuzz.execute import run_program
from fuzz.program import parse
from fuzz.program.operations import OPERATIONS
from fuzz.surface import LABELS, Cell, Surface, explore, reachable
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
