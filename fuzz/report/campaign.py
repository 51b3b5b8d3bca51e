"""A campaign as one static page: rates, novelty, engines, findings, and what was reached on which architecture.

Everything is read from the campaign's index, `campaign.db`, which a running campaign keeps up to date.
"""

from __future__ import annotations

import io
import sqlite3
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from fuzz.report.page import environment
from fuzz.store.index import NAME

QUERIES: Final = {
    "runs": "select run, started, ended, how, engine, profile, seed from runs order by run",
    "statistics": "select run, seconds, programs, operations, operations_per_second, features, chance, findings "
    "from statistics order by run, seconds",
    "findings": "select signature, detail, engine, operations, confirmed, status from findings "
    "where stage <> 'found' order by signature",
    "outcomes": "select operation, outcome, group_concat(distinct arch) as arches, count(*) as n from features "
    "where kind = 'operation' group by operation, outcome order by operation, outcome",
}


def campaign_page(folder: Path) -> str:
    """The page; raises FileNotFoundError where there is no campaign."""
    path = folder / NAME
    if not path.exists():
        raise FileNotFoundError(2, "no campaign is there", str(path))
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        db.row_factory = sqlite3.Row
        data = {name: [dict(row) for row in db.execute(sql)] for name, sql in QUERIES.items()}
    finally:
        db.close()
    plot = Markup(_plot(data["statistics"]))  # made here, of numbers
    return environment().get_template("campaign.html").render(name=folder.name, plot=plot, kinds=(), **data)


def _plot(statistics: list[dict[str, Any]]) -> str:
    """Features and speed over time as SVG; empty without matplotlib (pip install 'vmemmap-fuzz[report]')."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return ""
    figure = Figure(figsize=(8, 3), layout="constrained")
    novelty, speed = figure.subplots(1, 2)
    seconds = [row["seconds"] for row in statistics]
    novelty.plot(seconds, [row["features"] for row in statistics], marker=".")
    novelty.set(xlabel="seconds", title="features seen")
    speed.plot(seconds, [row["operations_per_second"] for row in statistics], marker=".")
    speed.set(xlabel="seconds", title="operations a second")
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
