"""The numbers of the pages are those of the campaign's files."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from fuzz.campaign.settings import locked
from fuzz.coverage import features
from fuzz.dashboard import data
from fuzz.dashboard.claims import examine
from fuzz.dashboard.data import Filter, connect
from fuzz.execute import run_program
from fuzz.program import parse
from fuzz.store.files import Store
from fuzz.surface import reachable
from tests.fuzz.dashboard.places import Made


def test_engines_add_up_to_the_campaign(made: Made) -> None:
    with connect(made.folder) as db:
        rows, last = data.engines(db), data.last_numbers(db)
    assert [row["engine"] for row in rows] == ["uniform"]
    assert rows[0]["programs"] == last["programs"] == 40
    assert rows[0]["operations"] == last["operations"]
    assert rows[0]["kept"] == len(Store(made.folder).digests())
    assert rows[0]["findings"] == 1


def test_coverage_is_what_the_corpus_shows(made: Made) -> None:
    """Every feature of every kept program is in the table, and no other cell is filled."""
    with connect(made.folder) as db:
        table = data.coverage(db)
    filled = {
        (row["operation"], row["outcome"], arch)
        for row in table.rows
        for arch, cell in zip(table.arches, row["cells"], strict=True)
        if cell in ("one", "several")
    }
    shown = set()
    for _, text in Store(made.folder).programs():
        program = parse(text)
        outcome = run_program(program)
        for op, (rc, _) in zip(program.ops, outcome.rcs, strict=False):
            word = "died" if isinstance(rc, str) else "ok" if rc >= 0 else data.answer(str(rc))
            shown.add((op.name, word, program.machine.arch))
        assert features(program, outcome)
    assert filled == shown
    assert table.reachable == len({(c.operation, c.outcome, c.arch.partition("/")[0]) for c in reachable()})
    empty = sum(cell == "empty" for row in table.rows for cell in row["cells"])
    assert table.reached + empty == table.reachable


@pytest.mark.parametrize(
    ("outcome", "name"), [("ok", "ok"), ("-12", "ENOMEM"), ("-16/ok", "EBUSY"), ("ok/-12", "ok"), ("bug: x", "died")]
)
def test_an_outcome_is_named_as_in_the_table_of_the_surface(outcome: str, name: str) -> None:
    assert data.answer(outcome) == name


def test_the_corpus_is_filtered(made: Made) -> None:
    texts = [text for _, text in Store(made.folder).programs()]
    wanted = [text for text in texts if "dax create" in text and "arch=x86_64" in text]
    with connect(made.folder) as db:
        found = data.corpus(db, Filter(arch="x86_64", text="dax create"), 1000)
        none = data.corpus(db, Filter(text="' or 1=1 --"))
        second = data.corpus(db, Filter(page=1), 10)
        whole = data.corpus(db, Filter(), 1000)
    assert sorted(row["text"] for row in found.rows) == sorted(wanted)
    assert none.total == 0
    assert second.rows == whole.rows[10:20]
    assert whole.total == len(texts)


def test_two_campaigns_that_are_one_differ_in_nothing(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(made.folder, other)
    db = sqlite3.connect(other / "campaign.db")
    with db:
        db.execute("delete from findings")
        db.execute("delete from features where feature = 'x86_64: boot ok'")
    db.close()
    with connect(made.folder) as first, connect(other) as second:
        same, found = data.compare(first, first), data.compare(first, second)
    assert all(row["first"] == row["second"] for row in same.numbers)
    assert all(mine == theirs == [] and both > 0 for mine, theirs, both in same.features.values())
    assert found.features["operation"][:2] == (["x86_64: boot ok"], [])
    assert found.findings == [{"signature": made.signature, "records": (made.record, None)}]


def test_a_campaign_runs_while_its_lock_is_held(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.folder, tmp_path / "night")
    assert not data.running(made.folder)
    with locked(tmp_path / "night"):
        assert data.running(tmp_path / "night")
    # The number of a process that lives, and holds no lock: that of another one, given anew.
    assert (tmp_path / "night" / "lock").read_text() == f"{os.getpid()}\n"
    assert not data.running(tmp_path / "night")


def test_numbers_are_json(made: Made) -> None:
    assert json.loads(json.dumps(data.numbers(made.folder)))["last"]["programs"] == 40


def test_claims_are_those_of_the_corpus(made: Made) -> None:
    claims = examine(made.folder)
    assert claims.trouble == ""
    assert {row["id"]: row["verdict"] for row in claims.promises}["dax-one-page-more"] == "held"
    # 24 pages of 1G; HVO keeps one vmemmap page of each, 64 struct pages (HUGETLB_VMEMMAP_RESERVE_SIZE), and the
    # candidate writes none of the others (unified-framework.md 3.6).
    assert claims.saved == 24 * (262144 - 64)
