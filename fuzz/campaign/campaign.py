"""The loop of a campaign: takes in what workers bring, keeps files, tells the user.

It is the only writer of the campaign's folder. Whatever cannot be written is said once, kept in memory, and tried
again; nothing of that ends the campaign.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from fuzz.campaign import rebuild
from fuzz.campaign.findings import Findings, Keeper
from fuzz.campaign.numbers import Numbers
from fuzz.campaign.pool import LEARNED, Broken, Died, Event, Got, Pool
from fuzz.campaign.settings import EVENTS, METRICS, STATISTICS, CampaignError, Settings, State
from fuzz.engines.handover import discovery_from_json
from fuzz.engines.statistics import Statistics
from fuzz.findings import Report, write
from fuzz.progress import Progress
from fuzz.store.files import Corrupt, Store
from fuzz.store.index import BrokenIndex, Index, feature_row
from fuzz.store.journal import Journal

TICK: Final = 0.2
"""Seconds that the loop waits for workers at most."""
INDEX_EVERY: Final = 1.0
SAVE_EVERY: Final = 5.0
"""Seconds between two checkpoints, and two lines of statistics in the first ten minutes; a minute later on."""

MakePool = Callable[[int, int], Pool]
"""From the number of this run and that of worker processes started in all runs."""


@dataclass(slots=True)
class Summary:
    """What a run of a campaign came to."""

    statistics: Statistics
    """Of the whole campaign."""
    engines: dict[str, Statistics]
    """Of this run."""
    reports: list[Report]
    quarantined: list[Report]
    seconds: float
    interrupted: bool = False
    broken: dict[str, str] = field(default_factory=dict)
    """Engines that could not work, and why."""
    unwritten: list[Report] = field(default_factory=list)
    """Found, and there was no room for them."""

    @property
    def diverged(self) -> bool:
        """Whether anything was found."""
        return bool(self.reports or self.quarantined or self.unwritten)


class Campaign:
    """One run of a campaign, new or gone on with."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        reports: Path,
        progress: Progress,
        *,
        patience: float | None = None,
        hold: bool = False,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.reports = reports
        self.progress = progress
        self.store = Store(folder)
        self.events = Journal(folder / EVENTS)
        self.lines = Journal(folder / STATISTICS)
        self.index = Index(folder)
        self.numbers = Numbers()
        keeper = Keeper(self.store.add_record, self._write_report, self._announce, self._trouble)
        self.findings = Findings(keeper, settings, patience=patience, hold=hold)
        self.state = State()
        self.programs = 0
        """In the corpus."""
        self._digests: set[str] = set()
        self.engines: dict[str, Statistics] = {}
        """What each engine did in this run."""
        self.broken: dict[str, str] = {}
        self._sources: dict[str, tuple[str, Statistics]] = {}
        """Workers that are at it: engine, and what it did."""
        self._unsaved: list[tuple[str, str, list[str]]] = []
        """Programs for which there was no room: text, engine, features."""
        self._troubles: dict[str, str] = {}
        self._number = 0
        """Of the last event."""
        self._begin = 0.0
        self._before = 0.0
        """Seconds of earlier runs."""
        self._last: tuple[float, int] = (0.0, 0)
        """Time and operations when the speed was measured last."""

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self, make_pool: MakePool, seconds: float | None) -> Summary:
        """Fuzz until the time is up or the pool has nothing left to do."""
        self._begin = monotonic()
        self._open()
        pool = make_pool(self.state.run, self.state.launches)
        interrupted = False
        try:
            pool.feed((text for _, text in islice(self.store.programs(), LEARNED)), "")
            self._say_corrupt()
            self._take(pool.start(), pool)
            due_index = due_save = self._begin
            while not pool.done and (seconds is None or monotonic() - self._begin < seconds):
                left = TICK if seconds is None else min(TICK, max(0.0, self._begin + seconds - monotonic()))
                self._take(pool.poll(left), pool)
                self.findings.tick()
                now = monotonic()
                if now >= due_index:
                    due_index = now + INDEX_EVERY
                    self._count(pool)
                    self._flush()
                if now >= due_save:
                    due_save = now + (SAVE_EVERY if now - self._begin < 600 else 60.0)
                    self._checkpoint(pool)
                self.progress.show(self.numbers.line(now - self._begin, seconds))
        except KeyboardInterrupt:
            interrupted = True
        try:
            # A second Ctrl-C does not make workers linger: they die with this process.
            self._take(pool.stop(), pool)
            self._drain(interrupted)
        except KeyboardInterrupt:
            interrupted = True
            self.findings.stop()
        took = monotonic() - self._begin
        if getattr(pool, "given_up", False) and not self.broken:
            self.broken = dict.fromkeys(self.settings.engines, str(getattr(pool, "last_words", "")))
        self._end(pool, "interrupted" if interrupted else "done")
        return Summary(
            self._total(),
            self.engines,
            list(self.findings.reports.values()),
            list(self.findings.quarantined.values()),
            took,
            interrupted,
            self.broken,
            [report for _, report, _ in self.findings.unwritten],
        )

    def _drain(self, interrupted: bool) -> None:
        """Finish what was found."""
        self.findings.release()
        if interrupted:
            self.findings.stop()
            return
        stuck = 0
        while self.findings.pending and stuck < 50:
            self.findings.tick()
            # Where there is no room, it is tried for some seconds, and then left to the summary.
            only_unwritten = self.findings.pending == len(self.findings.unwritten)
            stuck = stuck + 1 if only_unwritten else 0
            self.progress.show(f"minimizing: {self.findings.pending} left")
            sleep(0.05)

    # -- begin and end ----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Make the folder or go on with it: files first, then what is made from them."""
        self.store.make()
        new = True
        try:
            self.state = State.load(self.folder)
            new = False
        except CampaignError as error:
            lines = list(self.lines.lines())
            if lines:
                new = False
                self.state = rebuild.state_from(lines)
                self.say("state", f"the checkpoint is lost ({error}); totals go on from the last line of statistics")
        events = list(self.events.lines())
        self._number = max((int(event.get("number", 0)) for event in events), default=0)
        self.state.run = 1 + max([self.state.run, *(int(event.get("run", 0)) for event in events)])
        self._before = self.state.seconds
        self._last = monotonic(), self.state.statistics.operations
        records = self.store.records()
        self.findings.load(records)
        self._digests = self.store.digests()
        self.programs = len(self._digests)
        self._flush(begin=True)
        if not new:
            self.say(
                "resumed",
                f"run {self.state.run}: {self.state.statistics.programs} programs so far, {self.programs} in the "
                f"corpus, {len(self.findings.reports)} findings reported, {self.findings.pending} waiting",
            )
        for line in self.findings.illegible:
            self.say("illegible", f"a record of a finding is not legible: {line}")
        self._say_corrupt()
        for report in self.findings.reports.values():
            self._attempt("reports", lambda report=report: self._write_report(report))  # type: ignore[misc]
        self._index_run()

    def _index_run(self) -> None:
        settings = self.settings
        row: dict[str, Any] = {
            "run": self.state.run,
            "started": now_text(),
            "how": "running",
            "engine": "+".join(settings.engines),
            "profile": settings.profile,
            "reference": settings.reference,
            "seed": settings.seed,
        }
        self.index.add("runs", row)
        more = {key: value for key, value in row.items() if key != "run"}
        self._event("run", " ".join(f"{key}={value}" for key, value in row.items()), **more)

    def _end(self, pool: Pool, how: str) -> None:
        """Everything to disk."""
        self._count(pool)
        for source in list(self._sources):
            self._retire(source, how)
        self.index.add("runs", {"run": self.state.run, "ended": now_text(), "how": how})
        self._event("end", how)
        self._checkpoint(pool)
        self._flush()
        self.index.close()
        self.progress.clear()

    # -- what comes in ----------------------------------------------------------------------------------------------

    def _take(self, events: list[Event], pool: Pool) -> None:
        for event in events:
            if isinstance(event, Got):
                self._got(event, pool)
            elif isinstance(event, Died):
                self._died(event)
            elif isinstance(event, Broken):
                self.broken[event.engine] = event.why
                self.say("broken", f"{event.engine}: {event.why}")
            else:
                self.say("worker", event.text)
        self.state.launches = getattr(pool, "launches", self.state.launches)

    def _got(self, event: Got, pool: Pool) -> None:
        result, source = event.result, event.source
        if source not in self._sources:
            row = {"run": self.state.run, "worker": source, "engine": result["engine"]}
            self.index.add("workers", {**row, "started": now_text(), "how": "at work"})
        self._sources[source] = result["engine"], Statistics.from_json(result["statistics"])
        kept = self.state.coverage.merge(result["coverage"], f"{self.state.run}.{source}")
        texts = [fresh["program"] for fresh in kept]
        for fresh in kept:
            self._keep_program(fresh["program"], source, fresh["features"])
        for feature, owner in result["coverage"]["owners"].items():
            self.index.add("features", feature_row(feature, not self.state.coverage.owners[feature] or not owner))
        if texts:
            pool.feed(texts, source)
        for found in result["found"]:
            self.findings.discovered(discovery_from_json(found), found["number"])
        if result["last"]:
            self._retire(source, "done")

    def _keep_program(self, text: str, source: str, features: list[str]) -> None:
        try:
            digest, new = self.store.add_program(text)
        except OSError as error:
            self._trouble("corpus", error)
            self._unsaved.append((text, source, features))
            return
        if new or digest not in self._digests:
            self._digests.add(digest)
            self.programs += 1
        row = rebuild.program_row(digest, text)
        self.index.add_program({**row, "engine": source, "run": self.state.run}, features)

    def _died(self, event: Died) -> None:
        self.state.deaths += 1
        self._retire(event.source, f"{event.kind}: {event.how}")
        what = "hung" if event.kind == "hang" else "died"
        at = ""
        if event.program is not None:
            at = f" in operation {len(event.program.ops)} of a program, which is tried again in a process of its own"
            self.findings.suspect(event.program, event.kind, event.how)
        self.say("death", f"worker {event.source} {what} ({event.how}){at}")

    def _retire(self, source: str, how: str) -> None:
        """An engine is gone; its numbers stay."""
        gone = self._sources.pop(source, None)
        if gone is not None:
            engine, statistics = gone
            self.state.statistics.add(statistics)
            self.engines.setdefault(engine, Statistics()).add(statistics)
            self.index.add("workers", {"run": self.state.run, "worker": source, "ended": now_text(), "how": how})

    def _total(self) -> Statistics:
        total = Statistics()
        total.add(self.state.statistics)
        for _, statistics in self._sources.values():
            total.add(statistics)
        return total

    def _by_engine(self) -> dict[str, dict[str, float]]:
        """What each engine did in this run; `differing` counts programs that ended in a difference."""
        total: dict[str, Statistics] = {}
        for engine, statistics in (*self.engines.items(), *self._sources.values()):
            total.setdefault(engine, Statistics()).add(statistics)
        return {
            engine: {
                "programs": s.programs,
                "operations": s.operations,
                "seconds": round(s.seconds, 3),
                "differing": s.findings,
            }
            for engine, s in sorted(total.items())
        }

    # -- what goes out ----------------------------------------------------------------------------------------------

    def _write_report(self, report: Report) -> None:
        write(report, self.reports, self.settings.profile, self.settings.defect, self.settings.reference)

    def _announce(self, report: Report, kind: str) -> None:
        """Journal, then the terminal; the files are there."""
        signature = report.finding.signature
        row: dict[str, Any] = {"signature": signature, "folder": report.name, "sort": kind}
        word = "finding" if kind == "difference" else "quarantined"
        self._event(word, signature, sync=True, **row)
        self.progress.say(f"{word}: {signature}")

    def say(self, kind: str, text: str) -> None:
        """A line in the journal and on the terminal."""
        self._event(kind, text)
        self.progress.say(text)

    def _event(self, kind: str, text: str, *, sync: bool = False, **more: Any) -> None:
        self._number += 1
        row = {"run": self.state.run, "number": self._number, "time": now_text(), "kind": kind, "text": text}
        self.index.add("events", row)
        self._attempt("journal", lambda: self.events.add({**row, **more}, sync=sync))

    def _say_corrupt(self) -> None:
        corrupt: list[Corrupt] = self.store.corrupt
        for entry in corrupt:
            self.say("corrupt", f"{entry.path.name}: {entry.why}; set aside in {entry.path.parent.name}/")
        corrupt.clear()

    def _attempt(self, what: str, write_it: Callable[[], object]) -> bool:
        """Write something; whether that worked. What is wrong is said once."""
        try:
            write_it()
        except OSError as error:
            self._trouble(what, error)
            return False
        self._trouble(what, None)
        return True

    def _trouble(self, what: str, error: OSError | None) -> None:
        known = self._troubles.get(what)
        if error is None:
            if known is not None:
                del self._troubles[what]
                self.progress.say(f"{what}: written again")
        elif known is None:
            self._troubles[what] = str(error.strerror or error)
            self.progress.say(f"{what}: cannot be written ({error.strerror or error}); kept in memory and tried again")

    # -- now and then -----------------------------------------------------------------------------------------------

    def _count(self, pool: Pool) -> None:
        """Bring the numbers up to date."""
        total, coverage, now = self._total(), self.state.coverage, monotonic()
        since, operations = self._last
        if now - since >= 0.9:
            self.numbers.set(operations_per_second=max(0.0, (total.operations - operations) / (now - since)))
            self._last = now, total.operations
        self.state.seconds = self._before + now - self._begin
        self.numbers.statistics = total
        self.numbers.set(
            programs=total.programs,
            operations=total.operations,
            workers=pool.size,
            features=len(coverage.owners),
            singletons=coverage.singletons,
            chance=coverage.chance,
            corpus=self.programs,
            clauses=len(total.clauses),
            findings=len(self.findings.reports),
            pending=self.findings.pending,
            quarantined=len(self.findings.quarantined),
            deaths=self.state.deaths,
            seconds=self.state.seconds,
        )

    def _flush(self, *, begin: bool = False) -> None:
        """Write the index; one that is missing or broken is made again from the files."""
        for _ in range(2):
            try:
                if not self.index.opened and self.index.open():
                    rebuild.fill(self.index, self.store, self.events, self.lines, self.settings)
                    self._say_corrupt()
                elif begin:
                    # What was gathered when the last run was killed.
                    missing = self.index.missing("programs", self._digests)
                    if missing:
                        rebuild.programs(self.index, self.store, self.settings, missing)
                    rebuild.history(self.index, self.events, self.lines)
                    for feature, owner in self.state.coverage.owners.items():
                        self.index.add("features", feature_row(feature, not owner))
                self.index.flush()
            except BrokenIndex as error:
                place = self.index.set_aside()
                self.say("index", f"{self.index.path.name} is broken ({error}): put aside as {place.name}, made again")
            except OSError as error:
                self._trouble("index", error)
                return
            else:
                self._trouble("index", None)
                return

    def _checkpoint(self, pool: Pool) -> None:
        """State, statistics, metrics, and what could not be written before."""
        self._count(pool)
        unsaved, self._unsaved = self._unsaved, []
        for text, source, features in unsaved:
            self._keep_program(text, source, features)
        if unsaved and not self._unsaved:
            self._trouble("corpus", None)
        row = {"run": self.state.run, "time": now_text(), **self.numbers.to_json(), "engines": self._by_engine()}
        self._attempt("statistics", lambda: self.lines.add(row))
        self.index.add("statistics", rebuild.statistics_row(row))
        for engine in rebuild.engine_rows(row):
            self.index.add("engines", engine)
        for (operation, outcome), times in self.numbers.statistics.outcomes.items():
            self.index.add("coverage", {"operation": operation, "outcome": outcome, "times": times})
        self._attempt("metrics", lambda: self.numbers.write_prometheus(self.folder / METRICS))
        state = State(
            self.state.run,
            self.state.launches,
            self.state.seconds,
            self.state.deaths,
            self.numbers.statistics,
            self.state.coverage,
        )
        self._attempt("state", lambda: state.save(self.folder))
        rebuild.findings_rows(self.index, self.store, self.findings)


def now_text() -> str:
    """The time, as text that sorts."""
    return datetime.now(UTC).isoformat(timespec="seconds")
