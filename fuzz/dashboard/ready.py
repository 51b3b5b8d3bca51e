"""A campaign's index, fit to be read: made again from the files where it is missing or broken."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from fuzz.campaign import rebuild
from fuzz.campaign.settings import EVENTS, STATISTICS, CampaignError, Settings, locked
from fuzz.dashboard.data import connect
from fuzz.store.files import Store
from fuzz.store.index import COLUMNS, NAME, BrokenIndex, Index
from fuzz.store.journal import Journal


def make_ready(folder: Path, say: Callable[[str], None]) -> None:
    """See to it that the index of a campaign can be read; raises CampaignError where there is no campaign, or a running
    one that has not made its index yet."""
    settings = Settings.load(folder)
    why = broken(folder)
    if not why:
        return
    # A campaign that is running makes its index again by itself, within a second; `locked` says so.
    with locked(folder):
        index = Index(folder)
        aside = ""
        if index.path.exists():
            aside = f", put aside as {index.set_aside().name},"
        say(f"{NAME} {why}{aside} and is made again from the files, which runs the corpus")
        store = Store(folder)
        try:
            index.open()
            rebuild.fill(index, store, Journal(folder / EVENTS), Journal(folder / STATISTICS), settings)
            index.flush()
        except BrokenIndex as error:
            raise CampaignError(f"{index.path} cannot be made again: {error}") from None
        finally:
            index.close()


def broken(folder: Path) -> str:
    """What is wrong with the index, in words that follow its name; empty if nothing is."""
    if not (folder / NAME).exists():
        return "is missing"
    try:
        with connect(folder) as db:
            if db.execute("pragma quick_check").fetchone()[0] != "ok":
                return "does not pass SQLite's check"
            for table, columns in COLUMNS.items():
                have = {row["name"] for row in db.execute(f"pragma table_info([{table}])")}
                if set(columns) - have:
                    return f"is of an older version (its table {table} lacks {', '.join(sorted(set(columns) - have))})"
    except sqlite3.Error as error:
        return f"is broken ({error})"
    return ""
