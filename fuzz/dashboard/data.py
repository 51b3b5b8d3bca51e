"""What the pages of a campaign show, read from its index; every function takes a connection and gives plain values."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fuzz.campaign.settings import LOCK, CampaignError, Settings
from fuzz.store.index import NAME
from fuzz.surface import reachable
from mm.errno import errno_name

Row = dict[str, Any]

POINTS: Final = 400
"""Points of a curve at most; a campaign of weeks has tens of thousands."""
EVENTS: Final = 12
"""Events shown, the newest."""
PAGE: Final = 50
"""Programs on one page of the corpus."""


@contextlib.contextmanager
def connect(folder: Path) -> Iterator[sqlite3.Connection]:
    """The index, for reading only. Raises sqlite3.Error where it is missing or broken."""
    address = (folder / NAME).resolve().as_uri()
    # A folder that cannot be written cannot hold the shared memory of a write-ahead log either; nobody writes there.
    more = "" if os.access(folder, os.W_OK) else "&immutable=1"
    db = sqlite3.connect(f"{address}?mode=ro{more}", uri=True)
    try:
        db.row_factory = sqlite3.Row
        yield db
    finally:
        db.close()


def _rows(db: sqlite3.Connection, sql: str, *values: Any) -> list[Row]:
    return [dict(row) for row in db.execute(sql, values)]


def running(folder: Path) -> bool:
    """Whether a process is at work on the campaign, that is, holds its lock. To try the lock would keep one that just
    begins from getting it, so the kernel's list is asked (proc_locks(5))."""
    try:
        owner, inode = (folder / LOCK).read_text().strip(), (folder / LOCK).stat().st_ino
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return False
    return any(words[1] == "FLOCK" and words[4] == owner and words[5].endswith(f":{inode}") for words in held)


# -- overview -------------------------------------------------------------------------------------------------------


def last_numbers(db: sqlite3.Connection) -> Row:
    """The newest line of statistics; empty before the first."""
    rows = _rows(db, "select * from statistics order by run desc, seconds desc limit 1")
    return rows[0] if rows else {}


def curve(db: sqlite3.Connection) -> list[Row]:
    """Statistics over the whole time of the campaign, thinned out."""
    rows = _rows(
        db,
        "select seconds, programs, operations_per_second, features, chance, corpus, findings "
        "from statistics order by run, seconds",
    )
    step = -(-len(rows) // POINTS) or 1
    thin = rows[::step]
    if rows and thin[-1] is not rows[-1]:
        thin.append(rows[-1])
    return thin


def engines(db: sqlite3.Connection) -> list[Row]:
    """All runs together: what each engine ran, how fast, what it added to the corpus, and findings that it made."""
    rows = _rows(
        db,
        "select engine, sum(programs) as programs, sum(operations) as operations, sum(seconds) as seconds, "
        "sum(differing) as differing from engines group by engine order by engine",
    )
    kept = dict(
        db.execute(
            "select w.engine, count(*) from programs p "
            "join workers w on w.worker = p.engine and w.run = p.run group by 1"
        ).fetchall()
    )
    found = dict(db.execute("select engine, count(*) from findings where stage = 'report' group by 1").fetchall())
    for row in rows:
        row["operations_per_second"] = row["operations"] / row["seconds"] if row["seconds"] else 0.0
        row["kept"] = kept.get(row["engine"], 0)
        row["findings"] = found.get(row["engine"], 0)
    return rows


def runs(db: sqlite3.Connection) -> list[Row]:
    """Starts of the campaign, in order."""
    return _rows(db, "select run, started, ended, how, engine, profile, reference, seed from runs order by run")


def events(db: sqlite3.Connection) -> list[Row]:
    """What happened last, the newest first."""
    return _rows(db, "select run, time, kind, text from events order by run desc, number desc limit ?", EVENTS)


def sides(db: sqlite3.Connection) -> tuple[str, str]:
    """Which kernel the reference models, and which form of the framework the candidate: "v7.3", "posted"."""
    row = db.execute("select reference, profile from runs order by run desc limit 1").fetchone()
    return (row[0] or "v7.3", row[1] or "posted") if row else ("v7.3", "posted")


def planted(folder: Path) -> str | None:
    """The names of the defects that the campaign is run with, if there are any (`campaign.json`)."""
    try:
        return Settings.load(folder).defect
    except CampaignError:
        return None  # no campaign, but an index


# -- findings -------------------------------------------------------------------------------------------------------

_FINDING: Final = (
    "select record, kind, status, signature, detail, layer, operation, engine, profile, reference, operations, "
    "confirmed, one_minimal from findings"
)


def findings(db: sqlite3.Connection) -> list[Row]:
    """One a signature, that of the shortest program, in the order of the signatures; those that wait last."""
    rows = _rows(db, f"{_FINDING} where status <> 'done' order by status = 'pending', signature, operations")
    out: dict[str, Row] = {}
    for row in rows:
        out.setdefault(row["signature"], row)
    return list(out.values())


def finding(db: sqlite3.Connection, record: str) -> Row | None:
    """One finding with its program."""
    rows = _rows(db, _FINDING.replace("one_minimal", "one_minimal, text") + " where record = ?", record)
    return rows[0] if rows else None


# -- coverage -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Coverage:
    """Operation x outcome x architecture: the reference's answers, as fuzz/surface.toml names them."""

    arches: list[str]
    rows: list[Row]
    """`operation`, `outcome`, `times` over all architectures, and `cells`, one an architecture: "several" or "one" for
    how many programs showed it, "empty" where it can be reached and was not, "" where it cannot be."""
    reached: int
    """Cells that can be reached and were."""
    reachable: int


def coverage(db: sqlite3.Connection) -> Coverage:
    """The table. A cell that is reached though fuzz/surface.toml does not know it counts as neither."""
    shown: dict[tuple[str, str, str], str] = {}
    for row in db.execute("select operation, outcome, arch, programs from features where kind = 'operation'"):
        key = row["operation"], answer(row["outcome"]), row["arch"]
        shown[key] = "several" if key in shown else row["programs"]
    known = {(cell.operation, cell.outcome, cell.arch.partition("/")[0]) for cell in reachable()}
    times: dict[tuple[str, str], int] = {}
    for row in db.execute("select operation, outcome, times from coverage"):
        name = row["operation"], answer(row["outcome"])
        times[name] = times.get(name, 0) + row["times"]
    arches = sorted({arch for _, _, arch in (*known, *shown)})
    rows = []
    order = dict.fromkeys(cell.operation for cell in reachable())
    names = {(operation, outcome) for operation, outcome, _ in (*known, *shown)}
    for operation, outcome in sorted(names, key=lambda n: (list(order).index(n[0]) if n[0] in order else 99, n[1])):
        keys = [(operation, outcome, arch) for arch in arches]
        cells = [shown.get(key) or ("empty" if key in known else "") for key in keys]
        row = {"operation": operation, "outcome": outcome, "times": times.get((operation, outcome), 0), "cells": cells}
        rows.append(row)
    return Coverage(arches, rows, len(known & set(shown)), len(known))


def answer(outcome: str) -> str:
    """An outcome of a feature as fuzz/surface.toml names it: the reference's, "ok", "ENOMEM" or "died"."""
    first = outcome.partition("/")[0]
    if first.removeprefix("-").isdigit():
        return errno_name(int(first)).removeprefix("-")
    return first if first == "ok" else "died"


def clauses(db: sqlite3.Connection) -> list[Row]:
    """Ledger clauses that explained something, each with a program that shows it."""
    return _rows(db, "select clause, program from clauses order by clause")


# -- corpus ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which programs of the corpus."""

    arch: str = ""
    text: str = ""
    """Words that the program's text holds."""
    feature: str = ""
    """A feature that it shows, exactly."""
    order: str = "shortest"
    page: int = 0


ORDERS: Final = {"shortest": "operations, program", "longest": "operations desc, program", "name": "program"}


@dataclass(frozen=True, slots=True)
class Programs:
    """A page of programs of the corpus."""

    total: int
    """Those that the filter lets through."""
    rows: list[Row]
    arches: list[str]


def corpus(db: sqlite3.Connection, wanted: Filter, most: int = PAGE) -> Programs:
    """One page of the programs that a filter lets through."""
    where, values = ["1"], []
    if wanted.arch:
        where.append("arch = ?")
        values.append(wanted.arch)
    for word in wanted.text.split():
        where.append("instr(text, ?)")
        values.append(word)
    if wanted.feature:
        where.append("instr(features, ?)")
        values.append(json.dumps(wanted.feature))
    clause = " and ".join(where)
    total = db.execute(f"select count(*) from programs where {clause}", values).fetchone()[0]
    order = ORDERS.get(wanted.order, ORDERS["shortest"])
    rows = _rows(
        db,
        f"select program, operations, arch, engine, run, text from programs where {clause} order by {order} "
        "limit ? offset ?",
        *(*values, most, wanted.page * most),
    )
    arches = [row[0] for row in db.execute("select distinct arch from programs order by 1")]
    return Programs(total, rows, arches)


def program(db: sqlite3.Connection, digest: str) -> Row | None:
    """One program with the features that it shows, rare ones first."""
    rows = _rows(db, "select program, operations, arch, engine, run, text from programs where program = ?", digest)
    if not rows:
        return None
    features = _rows(
        db,
        "select f.feature, f.kind, f.programs from program_features p join features f using (feature) "
        "where p.program = ? order by f.programs = 'several', f.kind, f.feature",
        digest,
    )
    return {**rows[0], "features": features}


# -- two campaigns --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two campaigns side by side."""

    numbers: list[Row]
    """`name`, `first`, `second`."""
    findings: list[Row]
    """`signature`, and `records`: that of the first and of the second, None where it has none."""
    features: dict[str, tuple[list[str], list[str], int]]
    """By kind: those of the first only, of the second only, and how many both have."""


COMPARED: Final = {
    "seconds": "seconds",
    "programs": "programs",
    "operations": "operations",
    "features": "features",
    "chance": "P(new)",
    "corpus": "programs kept",
    "clauses": "ledger clauses",
    "findings": "findings",
    "quarantined": "quarantined",
    "deaths": "deaths of workers",
}


def compare(first: sqlite3.Connection, second: sqlite3.Connection) -> Comparison:
    """What one campaign has and the other has not."""
    last = last_numbers(first), last_numbers(second)
    numbers = [{"name": words, "first": last[0].get(n), "second": last[1].get(n)} for n, words in COMPARED.items()]
    rates = [row["operations"] / row["seconds"] if row.get("seconds") else None for row in last]
    numbers.insert(3, {"name": "operations a second", "first": rates[0], "second": rates[1]})
    mine, theirs = ({row["signature"]: row["record"] for row in findings(db)} for db in (first, second))
    both = [{"signature": s, "records": (mine.get(s), theirs.get(s))} for s in sorted({*mine, *theirs})]
    features = {}
    for kind in ("operation", "pair", "clause"):
        sets = [
            {row[0] for row in db.execute("select feature from features where kind = ?", (kind,))}
            for db in (first, second)
        ]
        features[kind] = sorted(sets[0] - sets[1]), sorted(sets[1] - sets[0]), len(sets[0] & sets[1])
    return Comparison(numbers, both, features)


def numbers(folder: Path) -> Row:
    """All numbers of a campaign's pages but those of the corpus, as plain JSON values."""
    with connect(folder) as db:
        return {
            "campaign": folder.resolve().name,
            "running": running(folder),
            "sides": sides(db),
            "last": last_numbers(db),
            "engines": engines(db),
            "findings": findings(db),
            "coverage": asdict(coverage(db)),
            "clauses": clauses(db),
            "runs": runs(db),
            "curve": curve(db),
        }
