"""The ledger's form, and that every clause is exercised."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import get_args

import pytest

import fuzz.oracle
from fuzz.execute import Profile, run_program
from fuzz.oracle import compare
from fuzz.oracle.finding import Layer
from fuzz.oracle.ledger import clauses, ledger
from fuzz.program import parse, parse_file
from zoo import reference_version

ROOT = Path(__file__).resolve().parents[3]
SEEDS = sorted((ROOT / "corpus").glob("*/*.vmm"))
HISTORY = sorted((ROOT / "corpus" / "history").glob("*.vmm"))


def test_rules_exist() -> None:
    for clause in ledger().values():
        assert callable(attrgetter(clause.rule)(fuzz.oracle)), clause.id


def test_clauses_are_well_formed() -> None:
    for clause in ledger().values():
        assert clause.layer in get_args(Layer), clause.id
        assert clause.profiles, clause.id
        assert set(clause.profiles) <= set(get_args(Profile)), clause.id
        assert clause.reference in ("", "v7.0-base"), clause.id


def test_every_clause_that_the_oracle_uses_is_in_the_ledger() -> None:
    used = set()
    for module in ("compare.py", "sections.py", "rules.py", "accounting.py", "history.py", "tlb.py"):
        text = Path(compare.__file__).with_name(module).read_text(encoding="utf-8")
        used |= {name for name in ledger() if f'"{name}"' in text}
    assert used == set(ledger())


def test_clauses_of_a_profile() -> None:
    assert clauses("posted") - clauses("merged") == {"dax-tail-read-only"}
    assert clauses("merged") <= clauses("posted")


def test_clauses_of_a_reference() -> None:
    """Against 7.3 no clause about an older reference exists; against that one, all others hold too."""
    old = {c.id for c in ledger().values() if c.reference}
    assert old == {f"history-{path.stem}" for path in HISTORY} - {"history-pgmap-in-deactivation"}
    assert clauses("posted") == set(ledger()) - old
    assert clauses("posted", "v7.0-base") == set(ledger())


def test_every_clause_says_where_it_comes_from() -> None:
    for clause in ledger().values():
        assert clause.promise, clause.id
        assert "unified-framework.md" in clause.source or clause.finding, clause.id
        assert not clause.reference or "separate-paths.md 5, Q" in clause.source, clause.id
        fixes = "; Fixes " in clause.source or "(Fixes " in clause.source
        assert not clause.reference or fixes or clause.id == "history-boot-populate-drop", clause.id  # mends no commit
        assert not clause.finding or (ROOT / clause.finding).is_file(), clause.id
        assert clause.expires, clause.id


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.stem)
def test_seeds_show_no_unexplained_difference(seed: Path) -> None:
    for profile in ("posted", "merged"):
        out = run_program(parse_file(seed), profile=profile, full_every=1)
        assert out.finding is None
        assert out.clauses <= clauses(profile)


@pytest.mark.parametrize("profile", ["posted", "merged"])
def test_the_corpus_exercises_every_clause(profile: Profile) -> None:
    used: set[str] = set()
    for seed in SEEDS:
        used |= run_program(parse_file(seed), profile=profile).clauses
    assert used == clauses(profile)


@pytest.mark.parametrize("profile", ["posted", "merged"])
@pytest.mark.parametrize("program", HISTORY, ids=lambda path: path.stem)
def test_what_an_older_reference_does_is_explained(program: Path, profile: Profile) -> None:
    """By the clause of the program's name (the patch without one makes no difference alone), and by no other of the
    reference but what the same device shows anyway; against 7.3 there is nothing to explain."""
    with reference_version("v7.0-base"):
        out = run_program(parse_file(program), profile=profile, full_every=1)
    assert out.finding is None
    shown = {name for name in out.clauses if name.startswith("history-")}
    own, dax = f"history-{program.stem}", "history-dax-vmemmap-accounting"
    if program.stem == "pgmap-in-deactivation":
        assert shown == {dax}
    else:
        assert own in shown
        assert shown - {own, dax, "history-zone-device-pageblocks"} == set()
    out = run_program(parse_file(program), profile=profile, full_every=1)
    assert out.finding is None
    assert not any(name.startswith("history-") for name in out.clauses)


def test_every_old_seed_is_explained_against_an_older_reference() -> None:
    for seed in SEEDS:
        with reference_version("v7.0-base"):
            out = run_program(parse_file(seed))
        assert out.finding is None, seed
        assert out.clauses <= clauses("posted", "v7.0-base")


WORKED = """vmm 1
machine arch=x86_64 page=4K ram=4G nodes=1
boot
d0 = dax create at=0x180000000 size=SIZE align=ALIGN
"""


@pytest.mark.parametrize(
    ("size", "align", "ref", "cand"),
    [
        # separate-paths.md 4 and unified-framework.md 4: per section 128 and 64, per 1G page 2 and 1.
        ("128M", "2M", 128, 64),
        ("1G", "2M", 1024, 512),
        ("3G", "1G", 6, 3),
        # A part of a section: 2 a compound page; all 64 struct-page pages of a 16M part.
        ("16M", "2M", 16, 64),
        # "k full sections and a subsection on each side" needs an unaligned start; a subsection behind: 2 and 8.
        ("130M", "2M", 130, 72),
        ("128M", "4K", 512, 512),
    ],
)
def test_worked_counters(size: str, align: str, ref: int, cand: int) -> None:
    counted = []

    def look(pair: object, op: object, result: object) -> None:
        counted.append((pair.reference.kernel.vmstat.nr_memmap, pair.candidate.kernel.vmstat.nr_memmap))  # type: ignore[attr-defined]

    out = run_program(parse(WORKED.replace("SIZE", size).replace("ALIGN", align)), observer=look)
    assert out.verdict == "ok"
    assert counted == [(0, 0), (ref, cand)]
