"""From what a worker hands over to what is announced.

A discovery is written down at once (`found`). Then, in the background, one at a time: minimized in a process of its
own, run again in another, written as a `report` and as a folder below the reports, noted in the journal, and only then
announced. Whatever is killed on the way, what was written goes on from there with the next run of the campaign.

A program that a dead or hung worker was running is tried once more in a process of its own. If that one dies too, the
program is to blame: it is kept as a finding of its own kind, and nobody runs it again. SIGKILL does not count, and the
program is tried again up to `KILLS` times: no program can cause it within the memory it is allowed, so somebody sent
it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any, Final

from fuzz.campaign.helper import LIMIT, Answer, Ended, Helper, finding_from_json
from fuzz.campaign.settings import Settings
from fuzz.engines.protocol import Discovery
from fuzz.findings import Report
from fuzz.oracle.finding import Finding
from fuzz.program.model import Program
from fuzz.program.text import format as format_program
from fuzz.program.text import parse
from fuzz.store.files import FOUND, QUARANTINE, REPORT, Record

HOUR: Final = 3600.0
"""Limit of a minimization without a clock of its own."""
KILLS: Final = 5
"""How often a program is tried again whose process was sent SIGKILL. On a busy machine a try takes as long as it takes
the next kill to come where processes are killed every few seconds."""
RETRY: Final = 2.0
"""Seconds between two tries to write where there was no room."""

Job = Generator[tuple[dict[str, Any], float], Ended, None]
"""Yields what a helper is to do and for how long; gets how that ended."""


@dataclass(slots=True)
class Wanted:
    """A discovery that waits for its turn."""

    discovery: Discovery
    number: int
    of: str | None = None
    """Its `found` record, once that is written."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """How findings leave this module; each raises OSError where there is no room."""

    record: Callable[[Record], str]
    report: Callable[[Report], None]
    announce: Callable[[Report, str], None]
    """A report, and its kind: "difference", "death" or "hang"."""
    trouble: Callable[[str, OSError | None], None]
    """Something cannot be written, or can again."""


class Findings:
    """One campaign's findings."""

    def __init__(
        self,
        keeper: Keeper,
        settings: Settings,
        *,
        patience: float | None = None,
        hold: bool = False,
    ) -> None:
        self.keeper = keeper
        self.settings = settings
        self.patience = patience
        """Seconds that minimizing one program may take; None for as long as it takes, which makes equal runs equal."""
        self.hold = hold
        """Begin when told to (`release`), in the order of the programs' numbers: then it does not matter which worker
        was faster."""
        self.reports: dict[str, Report] = {}
        """By signature."""
        self.quarantined: dict[str, Report] = {}
        self.wanted: dict[str, Wanted] = {}
        """By the signature that the engine saw."""
        self.suspects: list[tuple[Program, str, str]] = []
        self.unwritten: list[tuple[Record, Report, str]] = []
        """Ready, and no room for them."""
        self.illegible: list[str] = []
        """Records that `load` could not make sense of."""
        self._known: set[str] = set()
        """Signatures that engines saw and that are being taken care of, or were."""
        self.written = True
        """Whether records were written since somebody set this to false."""
        self._job: Job | None = None
        self._helper: Helper | None = None
        self._next_try = 0.0

    # -- in ---------------------------------------------------------------------------------------------------------

    def load(self, records: dict[str, Record]) -> None:
        """Go on from what earlier runs wrote."""
        done = {record.get("of") for record in records.values() if record["stage"] == REPORT}
        for name, record in records.items():
            try:
                self._load(name, record, name in done)
            except (KeyError, TypeError, ValueError) as error:
                self.illegible.append(f"{name}: {error}".partition("\n")[0])

    def _load(self, name: str, record: Record, done: bool) -> None:
        report = report_of(record)
        signature = report.finding.signature
        if record["stage"] == FOUND:
            if done:
                self._known.add(signature)
                self.wanted.pop(signature, None)
            elif signature not in self._known and signature not in self.wanted:
                found = Discovery(report.program, report.finding, report.engine)
                self.wanted[signature] = Wanted(found, record["number"], name)
            return
        place = self.reports if record["stage"] == REPORT else self.quarantined
        known = place.get(signature)
        if known is None or len(report.program.ops) < len(known.program.ops):
            place[signature] = report

    def discovered(self, discovery: Discovery, number: int) -> bool:
        """Take a discovery in; whether its signature is a new one."""
        signature = discovery.finding.signature
        if signature in self._known:
            return False
        waiting = self.wanted.get(signature)
        if waiting is not None and not (self.hold and number < waiting.number):
            return False
        self.wanted[signature] = Wanted(discovery, number)
        self._save_wanted()
        return waiting is None

    def suspect(self, program: Program, kind: str, how: str) -> None:
        """A worker died or hung over this program."""
        self.suspects.append((program, kind, how))

    @property
    def pending(self) -> int:
        """What is not done yet."""
        return len(self.wanted) + len(self.suspects) + len(self.unwritten) + (self._job is not None)

    # -- work -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what can be done without waiting."""
        if monotonic() >= self._next_try:
            self._save_wanted()
            self._save_unwritten()
        if self._helper is not None:
            ended = self._helper.poll()
            if ended is None:
                return
            self._helper = None
            self._advance(ended)
        if self._job is None:
            self._job = self._choose()
            if self._job is not None:
                self._advance(None)

    def _choose(self) -> Job | None:
        if self.suspects:
            return self._try_again(*self.suspects.pop(0))
        if self.wanted and not self.hold:
            signature = min(self.wanted, key=lambda name: (self.wanted[name].number, name))
            self._known.add(signature)
            return self._report(self.wanted.pop(signature))
        return None

    def _advance(self, ended: Ended | None) -> None:
        assert self._job is not None
        try:
            job, limit = next(self._job) if ended is None else self._job.send(ended)
        except StopIteration:
            self._job = None
            return
        self._helper = Helper({**job, **self.settings.planted()}, limit)

    def release(self) -> None:
        """Begin with what was held."""
        self.hold = False

    def stop(self) -> None:
        """End early: no more minimizing. What waits is reported as it was found."""
        if self._helper is not None:
            self._helper.stop()
            self._helper = None
        if self._job is not None:
            # It was taken off the list of what waits when it began; closing it says so to the job.
            self._job.close()
            self._job = None
        for wanted in self.wanted.values():
            self._keep(wanted, found_report(wanted.discovery), final=False)
        self.wanted.clear()

    # -- the two jobs -----------------------------------------------------------------------------------------------

    def _report(self, wanted: Wanted) -> Job:
        """Minimize, run again, draw, keep."""
        report = found_report(wanted.discovery)
        try:
            limit = HOUR if self.patience is None else self.patience + LIMIT
            job = {"do": "minimize", "program": format_program(report.program.bare()), "patience": self.patience}
            ended = yield job, limit
            if ended.answer is None:
                ended = yield job, limit
            small = ended.answer
            if small is not None and small["finding"] is not None:
                report = replace(
                    report,
                    finding=finding_from_json(small["finding"]),
                    program=parse(small["program"]),
                    one_minimal=small["one_minimal"],
                )
            again = yield {"do": "check", "program": format_program(report.program)}, LIMIT
            if again.answer is None:
                again = yield {"do": "check", "program": format_program(report.program)}, LIMIT
            report = replace(report, confirmed=_signature(again.answer) == report.finding.signature)
            page = (yield {"do": "page", "program": format_program(report.program)}, LIMIT).answer
            report = replace(report, page=page["page"] if page is not None else "")
        except GeneratorExit:
            self._keep(wanted, found_report(wanted.discovery), final=False)
            raise
        self._keep(wanted, report)

    def _try_again(self, program: Program, kind: str, how: str) -> Job:
        """Was it the program?"""
        job = {"do": "check", "program": format_program(program)}
        ended = yield job, LIMIT
        for _ in range(KILLS):
            if ended.how != "killed by signal 9":
                break
            ended = yield job, LIMIT
        if ended.answer is not None:
            if ended.answer["finding"] is not None:
                self.discovered(Discovery(program, finding_from_json(ended.answer["finding"]), "again"), 0)
            return
        kind = "hang" if ended.how == "hang" else "death"
        last = program.ops[-1].name if program.ops else "power-on"
        detail = f"{how}; run again in a process of its own: {ended.how}"
        finding = Finding("returns", "process", last, ("", ""), "", kind, detail)
        if finding.signature not in self.quarantined:
            report = Report(finding, program, len(program.ops), "", confirmed=True)
            record = record_of(report, QUARANTINE, self.settings) | {"kind": kind}
            self.unwritten.append((record, report, kind))
            self._save_unwritten()

    # -- out --------------------------------------------------------------------------------------------------------

    def _keep(self, wanted: Wanted, report: Report, *, final: bool = True) -> None:
        """Write and announce a report that is new, or smaller than the one that is known.

        One that is not `final` has no record but the one of what was found, if there was room for that: the next run of
        the campaign minimizes the program.
        """
        record: Record = {}
        if final:
            record = record_of(report, REPORT, self.settings) | {"of": wanted.of, "kind": "difference"}
        elif wanted.of is None:
            record = self._found_record(wanted)
        self.unwritten.append((record, report, "difference"))
        self._save_unwritten()

    def _save_wanted(self) -> None:
        for wanted in self.wanted.values():
            if wanted.of is None:
                try:
                    wanted.of = self.keeper.record(self._found_record(wanted))
                    self.written = True
                except OSError as error:
                    self._no_room(error)
                    return

    def _found_record(self, wanted: Wanted) -> Record:
        report = found_report(wanted.discovery)
        return record_of(report, FOUND, self.settings) | {"number": wanted.number}

    def _save_unwritten(self) -> None:
        while self.unwritten:
            record, report, kind = self.unwritten[0]
            place = self.reports if kind == "difference" else self.quarantined
            signature = report.finding.signature
            known = place.get(signature)
            better = known is None or len(report.program.ops) < len(known.program.ops)
            try:
                if record:
                    self.keeper.record(record)
                    self.written = True
                if better:
                    self.keeper.report(report)
            except OSError as error:
                self._no_room(error)
                return
            del self.unwritten[0]
            self.keeper.trouble("findings", None)
            if better:
                place[signature] = report
            if known is None:
                self.keeper.announce(report, kind)

    def _no_room(self, error: OSError) -> None:
        self._next_try = monotonic() + RETRY
        self.keeper.trouble("findings", error)


def _signature(answer: Answer | None) -> str | None:
    return None if answer is None else answer["signature"]


def found_report(discovery: Discovery) -> Report:
    """A discovery as it came."""
    return Report(discovery.finding, discovery.program, len(discovery.program.ops), discovery.engine)


def record_of(report: Report, stage: str, settings: Settings) -> Record:
    """A report as a record of the store."""
    return {
        "version": 1,
        "stage": stage,
        "signature": report.finding.signature,
        "finding": asdict(report.finding),
        "program": format_program(report.program.bare()),
        "engine": report.engine,
        **settings.planted(),
        "operations_found": report.original,
        "confirmed": report.confirmed,
        "one_minimal": report.one_minimal,
    }


def report_of(record: Record) -> Report:
    """The inverse of `record_of`."""
    return Report(
        finding_from_json(record["finding"]),
        parse(record["program"]),
        record["operations_found"],
        record["engine"],
        record["confirmed"],
        record["one_minimal"],
    )
