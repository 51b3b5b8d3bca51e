"""`campaign.db`: an index of a campaign's files, for questions in SQL and for a dashboard.

Rows are gathered by `add` and written by `flush`, all of them in one transaction, by the one process that runs the
campaign; readers go on meanwhile (WAL). Nothing is in the database that is not in the files: one that is missing,
truncated or broken is put aside and made again (`fuzz.campaign.rebuild`), and a disk that is full costs the campaign
the index until there is room again, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from sqlite_utils import Database

from fuzz.program.operations import OPERATIONS

NAME: Final = "campaign.db"

HEADER: Final = 100
MAGIC: Final = b"SQLite format 3\0"
"""https://www.sqlite.org/fileformat2.html, "The Database Header": at 16 the page size, where 1 is 64K, at 28 the number
of pages."""

Row = dict[str, Any]

SHOWN: Final = "program_features"
MAKE_SHOWN: Final = (
    f"create view {SHOWN} as select p.program as program, j.value as feature from programs p, json_each(p.features) j"
)
"""Which program shows what. A hundred features a program, each a row of its own, took two thirds of the index's time
and room."""

KEYS: Final[dict[str, str | tuple[str, ...]]] = {
    "runs": "run",
    "workers": ("run", "worker"),
    "statistics": ("run", "seconds"),
    "engines": ("run", "engine"),
    "programs": "program",
    "features": "feature",
    "findings": "record",
    "coverage": ("operation", "outcome"),
    "clauses": "clause",
    "events": ("run", "number"),
}

COLUMNS: Final[dict[str, dict[str, type]]] = {
    "runs": {
        "run": int,
        "started": str,
        "ended": str,
        "how": str,
        "engine": str,
        "profile": str,
        "reference": str,
        "seed": int,
        "workers": int,
    },
    "workers": {"run": int, "worker": str, "engine": str, "started": str, "ended": str, "how": str},
    "statistics": {
        "run": int,
        "seconds": float,
        "time": str,
        "programs": int,
        "operations": int,
        "operations_per_second": float,
        "workers": int,
        "features": int,
        "singletons": int,
        "chance": float,
        "corpus": int,
        "clauses": int,
        "findings": int,
        "pending": int,
        "quarantined": int,
        "deaths": int,
    },
    "engines": {
        "run": int,
        "engine": str,
        "programs": int,
        "operations": int,
        "seconds": float,
        "differing": int,
    },
    "programs": {
        "program": str,
        "operations": int,
        "arch": str,
        "engine": str,
        "run": int,
        "text": str,
        "features": str,
    },
    "features": {"feature": str, "kind": str, "arch": str, "operation": str, "outcome": str, "programs": str},
    "findings": {
        "record": str,
        "stage": str,
        "kind": str,
        "status": str,
        "signature": str,
        "detail": str,
        "layer": str,
        "operation": str,
        "engine": str,
        "profile": str,
        "reference": str,
        "operations": int,
        "confirmed": int,
        "one_minimal": int,
        "folder": str,
        "of": str,
        "text": str,
    },
    "coverage": {"operation": str, "outcome": str, "times": int},
    "clauses": {"clause": str, "program": str},
    "events": {"run": int, "number": int, "time": str, "kind": str, "text": str},
}


class BrokenIndex(Exception):
    """The database cannot be used: why, in one line."""


class Index:
    """The writer's end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._rows: dict[str, dict[Any, Row]] = {}
        self._db: Database | None = None

    def add(self, table: str, row: Row) -> None:
        """Gather a row; it replaces one of the same key, and columns that it does not name keep their values."""
        key = KEYS[table]
        name = row[key] if isinstance(key, str) else tuple(row[part] for part in key)
        rows = self._rows.setdefault(table, {})
        known = rows.get(name)
        rows[name] = row if known is None else {**known, **row}

    def add_program(self, row: Row, features: Iterable[str]) -> None:
        """Gather a program's row and what it showed."""
        shown = sorted(features)
        self.add("programs", {**row, "features": json.dumps(shown)})
        for clause in [feature[7:] for feature in shown if feature[:7] == "clause "]:
            self.add("clauses", {"clause": clause, "program": row["program"]})

    @property
    def opened(self) -> bool:
        """Whether there is a database to write to."""
        return self._db is not None

    @property
    def waiting(self) -> int:
        """Rows not written yet."""
        return sum(map(len, self._rows.values()))

    def open(self) -> bool:
        """Open the database, or make it; whether it was made. Raises BrokenIndex for one that is broken."""
        made = not self.path.exists()
        try:
            db = Database(str(self.path))
            if not made and db.execute("pragma quick_check").fetchone()[0] != "ok":
                raise BrokenIndex("it does not pass SQLite's check")
            db.enable_wal()
            for table, columns in COLUMNS.items():
                if not made and not (db[table].exists() and columns.keys() <= db[table].columns_dict.keys()):
                    raise BrokenIndex(f"it has no table {table} of this version")
                if made:
                    db[table].create(columns, pk=KEYS[table])  # type: ignore[union-attr]
            if made:
                db.execute(MAKE_SHOWN)
        except sqlite3.Error as error:
            raise BrokenIndex(str(error)) from None
        self._db = db
        return made

    def missing(self, table: str, names: set[str]) -> set[str]:
        """Which of these have no row in a table with a key of one column; raises BrokenIndex."""
        if self._db is None:
            return set()
        try:
            known = {row[0] for row in self._db.execute(f"select [{KEYS[table]}] from [{table}]")}
        except sqlite3.Error as error:
            raise BrokenIndex(str(error)) from None
        return names - known

    def flush(self) -> None:
        """Write what was gathered; what cannot be written stays. Raises BrokenIndex, or OSError on a full disk."""
        if self._db is None:
            return
        self._look()
        if not self.waiting:
            return
        try:
            with self._db.atomic():
                for table, rows in self._rows.items():
                    self._write(table, rows)
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "locked" in str(error) or "disk I/O" in str(error):
                raise OSError(28, str(error), str(self.path)) from None
            raise BrokenIndex(str(error)) from None
        except sqlite3.Error as error:
            raise BrokenIndex(str(error)) from None
        self._forget()

    def _forget(self) -> None:
        self._rows = {}

    def _look(self) -> None:
        """Whether the file is still a database, by its header: SQLite works from its cache, and would notice only when
        it is opened the next time."""
        try:
            with self.path.open("rb") as file:
                head = file.read(HEADER)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            raise BrokenIndex("it was deleted") from None
        page = int.from_bytes(head[16:18], "big")
        page = 1 << 16 if page == 1 else page
        if not head.startswith(MAGIC) or size < page * int.from_bytes(head[28:32], "big"):
            raise BrokenIndex("it was truncated or overwritten")

    def _write(self, table: str, rows: dict[Any, Row]) -> None:
        """One statement a set of columns: partial rows keep what they do not name.

        `upsert_all` of sqlite-utils takes ten times as long, and the workers have to share their cores with this
        process.
        """
        by_columns: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
        for row in rows.values():
            by_columns.setdefault(tuple(row), []).append(tuple(row.values()))
        assert self._db is not None
        key = KEYS[table]
        keys = (key,) if isinstance(key, str) else key
        for columns, group in by_columns.items():
            rest = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in keys)
            statement = (
                f"insert into {table} ({', '.join(columns)}) values ({', '.join('?' * len(columns))}) "
                f"on conflict ({', '.join(keys)}) do {f'update set {rest}' if rest else 'nothing'}"
            )
            self._db.conn.executemany(statement, group)

    def set_aside(self) -> Path:
        """Close a broken database and move it away, with what belongs to it; where it is now."""
        self.close()
        place = self.path.with_suffix(".db.broken")
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        if self.path.exists():
            self.path.replace(place)
        self._forget()
        return place

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None


_LONGEST_FIRST: Final = sorted(OPERATIONS, key=len, reverse=True)
"""So that "reserve cma ok" is none of "reserve"."""


def feature_row(feature: str, often: bool) -> Row:
    """A feature's row, its text taken apart."""
    programs = "several" if often else "one"
    if " > " in feature:
        return {"feature": feature, "kind": "pair", "arch": "", "operation": "", "outcome": "", "programs": programs}
    if feature.startswith("clause "):
        return {"feature": feature, "kind": "clause", "arch": "", "operation": "", "outcome": "", "programs": programs}
    arch, _, rest = feature.partition(": ")
    operation = next((name for name in _LONGEST_FIRST if rest.startswith(f"{name} ")), rest)
    outcome = rest[len(operation) + 1 :]
    return {
        "feature": feature,
        "kind": "operation",
        "arch": arch,
        "operation": operation,
        "outcome": outcome,
        "programs": programs,
    }
