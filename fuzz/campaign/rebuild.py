"""Rows of the index, from files: one program, one finding, all of a campaign.

What a program shows is not written down anywhere but in the index: it is what the models of today do with it. So making
the index again runs the corpus, in helper processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from fuzz.campaign.helper import LIMIT, Helper
from fuzz.campaign.settings import Settings, State
from fuzz.engines.statistics import Statistics
from fuzz.store.files import QUARANTINE, REPORT, Record, Store
from fuzz.store.index import COLUMNS, Index, Row, feature_row
from fuzz.store.journal import Journal

if TYPE_CHECKING:
    from fuzz.campaign.findings import Findings

BATCH: Final = 250
"""Programs that one helper runs."""


def program_row(digest: str, text: str) -> Row:
    """What a program's text says of it."""
    header, *ops = text.splitlines()[1:]
    arch = next((word.removeprefix("arch=") for word in header.split() if word.startswith("arch=")), "")
    return {"program": digest, "operations": len(ops), "arch": arch, "text": text}


def statistics_row(line: dict[str, Any]) -> Row:
    """The columns of a line of statistics."""
    return {name: line[name] for name in COLUMNS["statistics"] if name in line}


def engine_rows(line: dict[str, Any]) -> list[Row]:
    """What each engine had done in a run when a line of statistics was written."""
    return [{"run": line["run"], "engine": engine, **row} for engine, row in line.get("engines", {}).items()]


def record_row(name: str, record: Record, status: str) -> Row:
    """A finding's record."""
    finding = record["finding"]
    return {
        "record": name,
        "stage": record["stage"],
        "kind": record.get("kind", "difference"),
        "status": status,
        "signature": record["signature"],
        "detail": finding["detail"],
        "layer": finding["layer"],
        "operation": finding["operation"],
        "engine": record["engine"],
        "profile": record["profile"],
        "reference": record.get("reference", "v7.3"),  # earlier campaigns know no other
        "operations": len(record["program"].splitlines()) - 2,
        "confirmed": int(bool(record["confirmed"])),
        "one_minimal": int(record["one_minimal"]),
        "of": record.get("of") or "",
        "text": record["program"],
    }


def record_rows(records: dict[str, Record]) -> list[Row]:
    """All records: a `found` one is "pending" until a report stands for it."""
    done = {record.get("of") for record in records.values() if record["stage"] == REPORT}
    status = {REPORT: "reported", QUARANTINE: "quarantined"}
    return [
        record_row(name, record, status.get(record["stage"]) or ("done" if name in done else "pending"))
        for name, record in records.items()
    ]


def state_from(lines: list[dict[str, Any]]) -> State:
    """Totals from the last line of statistics; what it does not hold begins anew."""
    last = lines[-1]
    statistics = Statistics(programs=int(last.get("programs", 0)), operations=int(last.get("operations", 0)))
    run = max(int(line.get("run", 0)) for line in lines)
    return State(run, 0, float(last.get("seconds", 0.0)), int(last.get("deaths", 0)), statistics)


def features_of(
    programs: Iterable[str], settings: Settings, progress: Callable[[int], None] = lambda done: None
) -> list[list[str] | None]:
    """What each program shows; None where the process that ran it and others came to grief."""
    out: list[list[str] | None] = []
    rest = iter(programs)
    while batch := list(islice(rest, BATCH)):
        job = {"do": "features", "programs": batch, **settings.planted()}
        ended = Helper(job, LIMIT + len(batch)).wait()
        if ended.answer is not None:
            out += ended.answer["features"]
        elif len(batch) == 1:
            out.append(None)
        else:  # one of them is to blame: the others get their turn alone
            for text in batch:
                one = Helper({**job, "programs": [text]}).wait()
                out.append(one.answer["features"][0] if one.answer is not None else None)
        progress(len(out))
    return out


def fill(index: Index, store: Store, events: Journal, lines: Journal, settings: Settings) -> None:
    """Gather rows for everything in a campaign's folder."""
    programs(index, store, settings, store.digests())
    for row in record_rows(store.records()):
        index.add("findings", row)
    history(index, events, lines)


def programs(index: Index, store: Store, settings: Settings, wanted: set[str]) -> None:
    """Gather rows for some programs of the corpus."""
    chosen = [(digest, text) for digest, text in store.programs() if digest in wanted]
    shown: dict[str, int] = {}
    for (digest, text), features in zip(chosen, features_of((text for _, text in chosen), settings), strict=True):
        index.add_program(program_row(digest, text), features or ())
        for feature in features or ():
            shown[feature] = shown.get(feature, 0) + 1
    for feature, times in shown.items():
        index.add("features", feature_row(feature, times > 1))


def history(index: Index, events: Journal, lines: Journal) -> None:
    """Gather rows for what happened, and the statistics over time."""
    for line in lines.lines():
        if "run" in line and "seconds" in line:
            index.add("statistics", statistics_row(line))
            for row in engine_rows(line):
                index.add("engines", row)
    for event in events.lines():
        if "run" not in event or "number" not in event:
            continue
        index.add("events", {name: event[name] for name in COLUMNS["events"] if name in event})
        if event.get("kind") == "run":
            index.add("runs", {name: event[name] for name in COLUMNS["runs"] if name in event})
        elif event.get("kind") == "end":
            index.add("runs", {"run": event["run"], "ended": event["time"], "how": event["text"]})


def findings_rows(index: Index, store: Store, findings: Findings) -> None:
    """Bring the table of findings up to date."""
    if findings.written:
        findings.written = False
        for row in record_rows(store.records()):
            index.add("findings", row)
