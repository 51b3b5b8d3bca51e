"""Bounded exhaustive search: complete, shortest first, and never vacuous in silence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from candidate.framework import UnifiedFramework
from fuzz.cli import app
from fuzz.engines.explore import BOOT, Explore
from fuzz.engines.protocol import Engine
from fuzz.engines.universe import UNIVERSES, Universe, device_moves, pool_moves
from fuzz.execute import Lockstep, run_program
from fuzz.program.model import Op
from fuzz.program.text import format as format_program
from fuzz.program.text import parse
from mm.kernel import Kernel
from zoo import find, planted


def done(search: Explore) -> Explore:
    while search.running:
        search.advance(600.0)
    return search


def every_program(universe: Universe, depth: int) -> Iterator[tuple[list[Op], set[tuple[Any, ...]]]]:
    """All programs of a length, by running each of them from its boot: (program, what each operation answered)."""

    def go(path: list[Op], left: int) -> Iterator[tuple[list[Op], set[tuple[Any, ...]]]]:
        pair = Lockstep(universe.start.machine, full_every=0)
        seen = {(op.name, *pair.step(op).rcs) for op in [BOOT, *path]}
        yield path, seen
        if left and not pair.over:
            for move in list(universe.moves(pair, len(path))):
                yield from go([*path, move], left - 1)

    yield from go([], depth)


@pytest.mark.parametrize("name", ["pool", "devices"])
def test_it_runs_what_running_every_program_runs(name: str) -> None:
    """States are merged, programs are not lost: the same outcomes and the same states as without any merging."""
    universe = UNIVERSES[name]
    search = done(Explore("posted", universe, 2))
    programs = list(every_program(universe, 2))
    assert len(programs) > search.states
    outcomes = set().union(*(seen for _, seen in programs))
    assert {(op, "ok" if rc == 0 else str(rc)) for op, rc, _ in outcomes} == set(search.statistics.outcomes)
    unmerged = done(Explore("posted", universe, 2, merge=False))
    assert unmerged.transitions == len(programs) - 1
    assert unmerged.sometimes.keys() == search.sometimes.keys()
    assert {k for k, n in unmerged.sometimes.items() if n} == {k for k, n in search.sometimes.items() if n}


@pytest.mark.parametrize("profile", ["posted", "merged"])
def test_no_unexplained_difference_in_short_programs(profile: Any) -> None:
    search = done(Explore(profile, UNIVERSES["all"], 2))
    assert search.findings == []
    assert search.vacuous == []
    assert search.depth == 2
    assert search.claim == "no unexplained difference in any program of up to 2 operations over this universe (all)"
    assert search.transitions > search.states > 200


def test_what_should_happen_sometimes_happens() -> None:
    for name in ("pool", "devices"):
        search = done(Explore("posted", UNIVERSES[name], 3))
        assert all(search.sometimes.values()), search.sometimes


def test_a_universe_in_which_nothing_happens_claims_nothing() -> None:
    everything = UNIVERSES["all"]
    poor = dataclasses.replace(everything, families=(pool_moves,))
    search = done(Explore("posted", poor, 2))
    assert "a device is made" in search.vacuous
    assert search.claim.startswith("nothing is shown")


def test_equal_searches_are_equal() -> None:
    first, second = (done(Explore("posted", UNIVERSES["memory"], 2)) for _ in range(2))
    first.statistics.seconds = second.statistics.seconds = 0.0
    assert first.to_json() == second.to_json()
    assert first.statistics == second.statistics


def test_slices_do_not_change_the_search() -> None:
    sliced = Explore("posted", UNIVERSES["pool"], 2)
    while sliced.running:
        sliced.advance(600.0, 7)
    whole = done(Explore("posted", UNIVERSES["pool"], 2))
    assert (sliced.states, sliced.transitions, sliced.merged) == (whole.states, whole.transitions, whole.merged)


def test_a_search_that_was_stopped_claims_what_it_finished() -> None:
    search = Explore("posted", UNIVERSES["pool"], 3)
    while search.depth < 1:
        search.advance(600.0, 1)
    search.advance(600.0, 5)
    assert search.running
    assert "up to 1 operations" in search.claim
    assert any(line.startswith("programs of 2 operations") for line in search.not_covered())


def test_a_planted_defect_is_found_by_a_shortest_program() -> None:
    with planted(find("ACC-2026-03")):
        search = done(Explore("posted", UNIVERSES["devices"], 2))
        assert search.findings
        first = search.findings[0]
        assert [op.name for op in first.program.ops] == ["boot", "dax create"]
        again = run_program(parse(format_program(first.program)), full_every=1)
        assert again.finding is not None
    assert "unexplained" in search.claim


class Third(UnifiedFramework):
    """Miscounts the third device."""

    def __init__(self, k: Kernel) -> None:
        super().__init__(k, "posted")
        self.made = 0

    def sparse_add_section(self, nid: int, pfn: int, nr: int, altmap: Any, pgmap: Any) -> int:
        rc = super().sparse_add_section(nid, pfn, nr, altmap, pgmap)
        self.made += 1
        if self.made == 3:
            self.k.vmstat.nr_memmap += 1
        return rc


def test_breadth_first_is_shortest() -> None:
    universe = dataclasses.replace(UNIVERSES["devices"], families=(device_moves,))
    search = Explore("posted", universe, 5, make_candidate=Third)
    while search.running and not search.findings:
        search.advance(600.0, 1)
    # Three sections of devices: three creations, or fewer where a device of 1G adds its eight sections in one call.
    names = [op.name for op in search.findings[0].program.ops if op.name != "boot"]
    assert names.count("dax create") == len(names) == 3


def test_it_follows_the_protocol() -> None:
    engine: Engine = Explore("posted", UNIVERSES["pool"], 1)
    engine.start()
    assert engine.advance(0.0) == []
    assert engine.statistics.programs == 1
    engine.feed([])
    assert engine.stop() == []


def explore(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["explore", *words])
    return result.exit_code, result.stdout


def test_the_command(tmp_path: Path) -> None:
    code, out = explore("--max-ops", "1", "--universe", "pool", "--reports", str(tmp_path))
    assert code == 0
    assert "no unexplained difference in any program of up to 1 operations over this universe (pool)" in out
    code, out = explore("--max-ops", "2", "--universe", "devices", "--reports", str(tmp_path), "--json")
    assert code == 0
    told = json.loads(out)
    assert {"depth", "states", "transitions", "findings", "not_covered"} <= told.keys()
    assert told["depth"] == 2
    assert told["findings"] == []
    assert told["complete"]


def test_the_command_reports_what_it_finds(tmp_path: Path) -> None:
    with planted(find("ACC-2026-03")):
        code, out = explore("--max-ops", "1", "--universe", "devices", "--reports", str(tmp_path), "--json")
    assert code == 1
    told = json.loads(out)
    assert all((tmp_path / found["folder"] / "repro.vmm").exists() for found in told["findings"])
    assert told["findings"][0]["operations"] == 2


def test_the_time_limit_ends_it_in_good_order(tmp_path: Path) -> None:
    code, out = explore(
        "--max-ops", "9", "--universe", "pool", "--seconds", "0.5", "--reports", str(tmp_path), "--json"
    )
    told = json.loads(out)
    assert not told["complete"]
    assert told["depth"] < 9
    assert code in (0, 3)
