"""Findings on their way out: nothing is announced that was not written, whatever cannot be written when."""

from collections.abc import Callable
from time import monotonic, sleep

import pytest

from fuzz.campaign import findings as module
from fuzz.campaign.findings import Findings, Keeper, found_report
from fuzz.campaign.helper import Ended
from fuzz.campaign.settings import Settings
from fuzz.engines.protocol import Discovery
from fuzz.findings import Report
from fuzz.oracle.finding import Finding
from fuzz.program.model import Op, Program, make_op
from fuzz.store.files import Record
from mm.machine import Machine

MACHINE = Machine()


class Disk:
    """Where findings go; full when told so."""

    def __init__(self) -> None:
        self.full = False
        self.records: list[Record] = []
        self.reports: list[Report] = []
        self.announced: list[str] = []
        self.troubles: list[bool] = []

    def record(self, record: Record) -> str:
        if self.full:
            raise OSError(28, "No space left on device")
        self.records.append(record)
        return str(len(self.records))

    def report(self, report: Report) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.reports.append(report)

    def announce(self, report: Report, kind: str) -> None:
        self.announced.append(report.finding.signature)

    def trouble(self, what: str, error: OSError | None) -> None:
        self.troubles.append(error is not None)

    @property
    def keeper(self) -> Keeper:
        return Keeper(self.record, self.report, self.announce, self.trouble)

    def kept(self, stage: str) -> list[str]:
        return [record["signature"] for record in self.records if record["stage"] == stage]


def discovery(name: str, ops: int = 1) -> Discovery:
    """Of a program on which the models really agree: minimizing it comes to nothing, and it is reported as it is."""
    finding = Finding("accounting", name, "boot", ("ok", "ok"), "", "+", "made up")
    more = [make_op("sysctl", hugetlb_optimize_vmemmap=True)] * (ops - 1)
    return Discovery(Program(MACHINE, (Op("boot"), *more)), finding, "test")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.1)


def run(findings: Findings, until: Callable[[], bool]) -> None:
    end = monotonic() + 90
    while not until():
        assert monotonic() < end
        findings.tick()
        sleep(0.02)


def test_what_is_found_is_written_first_and_announced_last() -> None:
    disk = Disk()
    findings = Findings(disk.keeper, Settings())
    assert findings.discovered(discovery("a"), 4)
    assert not findings.discovered(discovery("a"), 5)
    assert disk.kept("found") == ["accounting|a|boot|ok/ok||+"]
    assert disk.announced == []
    run(findings, lambda: not findings.pending)
    assert disk.kept("report") == disk.announced == ["accounting|a|boot|ok/ok||+"]
    assert disk.records[1]["of"] == "1"
    assert disk.reports[0].confirmed is False  # the models agree on it
    assert disk.reports[0].seen == "NOT seen again in a fresh process"


def test_what_was_not_run_again_is_not_said_to_be_gone() -> None:
    report = found_report(discovery("a"))
    assert report.confirmed is None
    assert report.seen == "not minimized nor run again yet"


def test_nothing_is_announced_while_the_disk_is_full() -> None:
    disk = Disk()
    findings = Findings(disk.keeper, Settings())
    disk.full = True
    findings.discovered(discovery("a"), 1)
    run(findings, lambda: bool(findings.unwritten))
    assert disk.announced == []
    assert findings.pending == 1
    disk.full = False
    run(findings, lambda: not findings.pending)
    assert disk.announced == disk.kept("report")
    assert disk.troubles[-1] is False
    assert True in disk.troubles


@pytest.mark.parametrize("begun", [False, True])
def test_cut_short_it_is_reported_as_found_and_never_without_a_record(begun: bool) -> None:
    """Also where there was no room for the record of what was found, and there is now."""
    disk = Disk()
    findings = Findings(disk.keeper, Settings())
    disk.full = True
    findings.discovered(discovery("a"), 1)
    if begun:
        findings.tick()
        assert not findings.wanted
    disk.full = False
    findings.stop()
    assert disk.announced == disk.kept("found") == ["accounting|a|boot|ok/ok||+"]
    assert disk.kept("report") == []
    again = Findings(disk.keeper, Settings())
    again.load({str(i): record for i, record in enumerate(disk.records, 1)})
    assert again.pending == 1
    run(again, lambda: not again.pending)
    assert disk.kept("report") == ["accounting|a|boot|ok/ok||+"]


def test_held_findings_go_by_number_not_by_arrival() -> None:
    disk = Disk()
    findings = Findings(disk.keeper, Settings(), hold=True)
    findings.discovered(discovery("b", 3), 9)
    findings.discovered(discovery("a"), 5)
    findings.discovered(discovery("b", 2), 2)
    findings.discovered(discovery("b", 4), 7)
    findings.tick()
    assert disk.announced == []
    findings.release()
    run(findings, lambda: not findings.pending)
    assert [name.split("|")[1] for name in disk.announced] == ["b", "a"]
    assert [report.original for report in disk.reports] == [2, 1]


def test_an_illegible_record_costs_itself_only() -> None:
    disk = Disk()
    Findings(disk.keeper, Settings()).discovered(discovery("a"), 1)
    findings = Findings(disk.keeper, Settings())
    findings.load({"1": disk.records[0], "2": {"stage": "found"}, "3": {**disk.records[0], "program": "vmm 9\n"}})
    assert findings.pending == 1
    assert [line.partition(":")[0] for line in findings.illegible] == ["2", "3"]


@pytest.mark.parametrize(("kills", "quarantined"), [(0, False), (module.KILLS, False), (module.KILLS + 1, True)])
def test_sigkill_is_somebody_elses(kills: int, quarantined: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A soak kills helpers as it kills workers; on a busy machine it hit three processes with one program in a row."""
    how = ["killed by signal 9"] * kills

    class Shot:
        def __init__(self, job: dict[str, object], limit: float) -> None:
            assert job["do"] == "check"

        def poll(self) -> Ended:
            return Ended(None, how.pop()) if how else Ended({"finding": None}, "")

    monkeypatch.setattr(module, "Helper", Shot)
    disk = Disk()
    findings = Findings(disk.keeper, Settings())
    program = discovery("a").program
    findings.suspect(program, "death", "killed by signal 9")
    run(findings, lambda: not findings.pending)
    assert disk.kept("quarantine") == list(findings.quarantined)
    assert [report.program for report in findings.quarantined.values()] == [program] * quarantined
    assert how == []
