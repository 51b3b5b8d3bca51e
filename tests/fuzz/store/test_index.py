"""The index: rows gathered, written in one transaction, a broken database noticed."""

import sqlite3
from pathlib import Path

import pytest

from fuzz.store.index import COLUMNS, KEYS, BrokenIndex, Index, feature_row


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as db:
        return db.execute(sql).fetchall()


def test_tables_and_journal_mode(tmp_path: Path) -> None:
    index = Index(tmp_path)
    assert index.open() is True
    assert {name for (name,) in rows(index.path, "select name from sqlite_master where type = 'table'")} == set(COLUMNS)
    assert rows(index.path, "pragma journal_mode") == [("wal",)]
    assert KEYS.keys() == COLUMNS.keys()
    index.close()
    assert Index(tmp_path).open() is False


def test_rows_are_merged_by_key(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.open()
    index.add("workers", {"run": 1, "worker": "w1", "engine": "uniform", "how": "at work"})
    index.add("workers", {"run": 1, "worker": "w1", "how": "killed"})
    assert index.waiting == 1
    index.flush()
    index.add("workers", {"run": 1, "worker": "w1", "ended": "now"})
    index.add("workers", {"run": 1, "worker": "w2", "engine": "guided"})
    index.flush()
    assert rows(index.path, "select worker, engine, how, ended from workers order by worker") == [
        ("w1", "uniform", "killed", "now"),
        ("w2", "guided", None, None),
    ]


def test_a_reader_does_not_stop_the_writer(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.open()
    with sqlite3.connect(index.path) as reader:
        reader.execute("begin")
        assert reader.execute("select count(*) from events").fetchone() == (0,)
        index.add("events", {"run": 1, "number": 1, "kind": "x", "text": "y"})
        index.flush()
        assert reader.execute("select count(*) from events").fetchone() == (0,)
    assert rows(index.path, "select count(*) from events") == [(1,)]


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "table"])
def test_a_broken_database_is_noticed(damage: str, tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.open()
    for i in range(2000):
        index.add("events", {"run": 1, "number": i, "kind": "x", "text": "y" * 50})
    index.flush()
    index.close()
    if damage == "table":
        with sqlite3.connect(index.path) as db:
            db.execute("drop table features")
    else:
        data = index.path.read_bytes()
        kept = {"empty": b"", "cut": data[: len(data) // 2], "noise": b"\x55" * len(data)}[damage]
        index.path.write_bytes(kept)
    again = Index(tmp_path)
    with pytest.raises(BrokenIndex):
        again.open()
    place = again.set_aside()
    assert place.exists()
    assert again.open() is True


def test_a_full_disk_keeps_the_rows(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.open()
    assert index._db is not None
    index._db.execute("pragma max_page_count = 40")
    for i in range(5000):
        index.add("events", {"run": 1, "number": i, "kind": "x", "text": "y" * 50})
    with pytest.raises(OSError, match="full"):
        index.flush()
    assert index.waiting == 5000
    index._db.execute("pragma max_page_count = 100000")
    index.flush()
    assert index.waiting == 0
    assert rows(index.path, "select count(*) from events") == [(5000,)]


def test_features_are_taken_apart() -> None:
    assert feature_row("x86_64: hugetlb resize -12", False) == {
        "feature": "x86_64: hugetlb resize -12",
        "kind": "operation",
        "arch": "x86_64",
        "operation": "hugetlb resize",
        "outcome": "-12",
        "programs": "one",
    }
    assert feature_row("x86_64: boot bug: panic # of #", True)["outcome"] == "bug: panic # of #"
    assert feature_row("boot ok > memory add -17", True)["kind"] == "pair"
    assert feature_row("clause boot-order", True)["kind"] == "clause"
