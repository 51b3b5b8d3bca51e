"""A smoke's results for CI: JUnit, SARIF, step summary; and that a smoke is repeated by its seed."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fuzz import ci
from fuzz.campaign.campaign import Summary
from fuzz.cli import app
from fuzz.engines.statistics import Statistics
from fuzz.findings import Report
from fuzz.oracle.finding import Finding
from fuzz.program.model import Op, Program
from fuzz.smoke import PLANTED, ROOT, Planted, Replayed, SmokeResult, rotation
from mm.machine import Machine
from zoo import DEFECTS

PROGRAM = Program(Machine(), (Op("boot"),))
DIFFERENCE = Finding("accounting", "nr_memmap", "boot", ("ok", "ok"), "", "+", "counted <twice> & \x07 wrong")
HANG = Finding("returns", "process", "boot", ("", ""), "", "hang", "no operation in 60 s")


def made(*, bad: bool) -> SmokeResult:
    """A result with everything in it that can be bad, or with nothing."""
    seeds = ROOT / "corpus" / "seeds"
    result = SmokeResult([Replayed(seeds / "a.vmm", "ok"), Replayed(seeds / "b.vmm", "explained")])
    result.summary = Summary(Statistics(), {"uniform": Statistics(7, 70)}, [], [], 1.0)
    result.planted = [Planted("ACC-2026-03", Report(DIFFERENCE, PROGRAM, 9, "guided", True, True), 3)]
    if bad:
        result.replayed += [
            Replayed(seeds / "c.vmm", "finding", "a|b|c"),
            Replayed(seeds / "d.vmm", "error", "no program"),
        ]
        result.planted[0].report = None
        result.summary.reports.append(Report(DIFFERENCE, PROGRAM, 9, "uniform", True, True))
        result.summary.quarantined.append(Report(HANG, PROGRAM, 1, "", True))
        result.summary.broken["libfuzzer"] = "atheris is not installed"
    return result


def suite(result: SmokeResult) -> ET.Element:
    found = ET.fromstring(ci.junit_xml(result)).find("testsuite")
    assert found is not None
    return found


def test_junit_of_a_clean_smoke() -> None:
    element = suite(made(bad=False))
    assert (element.get("tests"), element.get("failures"), element.get("errors")) == ("4", "0", "0")
    names = [(case.get("classname"), case.get("name")) for case in element]
    assert names == [
        ("smoke.corpus", "corpus/seeds/a.vmm"),
        ("smoke.corpus", "corpus/seeds/b.vmm"),
        ("smoke.planted", "ACC-2026-03"),
        ("smoke.engine", "uniform"),
    ]
    assert not list(element.iter("failure")) + list(element.iter("error"))


def test_junit_of_a_bad_smoke() -> None:
    element = suite(made(bad=True))
    counts = [element.get(name) for name in ("tests", "failures", "errors", "skipped")]
    # 4 of the corpus, the planted one, uniform, two findings, and libfuzzer, which was skipped.
    assert counts == ["9", "3", "2", "1"]
    for name, count in zip(("failure", "error", "skipped"), counts[1:], strict=True):
        assert len(list(element.iter(name))) == int(str(count))
    failures = {case.get("name"): case.find("failure") for case in element if case.find("failure") is not None}
    assert set(failures) == {"corpus/seeds/c.vmm", DIFFERENCE.signature, HANG.signature}
    told = failures[DIFFERENCE.signature]
    assert told is not None
    assert "seen again in a fresh process" in str(told.text)
    assert "machine arch=x86_64" in str(told.text)


def test_sarif(tmp_path: Path) -> None:
    data: dict[str, Any] = ci.sarif(made(bad=True), ROOT / "reports")
    assert data["version"] == "2.1.0"
    (run,) = data["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert {entry["ruleId"] for entry in run["results"]} == rules == {"accounting", "returns", "corpus"}
    places = [entry["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for entry in run["results"]]
    assert "corpus/seeds/c.vmm" in places
    assert sum(place.startswith("reports/accounting-nr-memmap-boot") for place in places) == 1
    assert all(entry["message"]["text"] and entry["level"] == "error" for entry in run["results"])
    prints = {entry["partialFingerprints"]["signature/v1"] for entry in run["results"]}
    assert len(prints) == len(run["results"]) == 4
    assert ci.sarif(made(bad=False), tmp_path)["runs"][0]["results"] == []


def test_step_summary() -> None:
    assert ci.markdown(made(bad=False)).startswith("## vmemmap-fuzz smoke: no unexplained difference\n")
    text = ci.markdown(made(bad=True))
    assert text.startswith("## vmemmap-fuzz smoke: differences found\n")
    assert f"### finding: `{DIFFERENCE.signature}`" in text
    assert "| libfuzzer | not run: atheris is not installed |" in text
    assert "| uniform | 7 programs, 70 operations |" in text


def smoke(folder: Path, *args: str) -> Result:
    folder.mkdir()
    where = "--reports", str(folder / "reports"), "--junit", str(folder / "j.xml"), "--sarif", str(folder / "s.json")
    words = ["smoke", "--programs", "30", "--seed", "9", *where, *args]
    return CliRunner().invoke(app, words if "--defect" in args else [*words, "--defect", "ACC-2026-03,BOOT-2026-11"])


def test_equal_seeds_give_equal_smokes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for name in "ab":
        monkeypatch.setenv(ci.SUMMARY, str(tmp_path / f"summary-{name}"))
        result = smoke(tmp_path / name, "--json")
        assert result.exit_code in (0, 1), result.output
        data = json.loads(result.stdout)
        assert data.pop("seconds") > 0
        assert data["engines"]["uniform"].pop("seconds") > 0
        assert data["engines"]["uniform"]["programs"] == 30
        assert [one["found"] for one in data["planted"]] == [True, True]
        junit = ET.fromstring((tmp_path / name / "j.xml").read_text())
        cases = [(case.get("classname"), case.get("name")) for case in junit.iter("testcase")]
        findings = json.loads((tmp_path / name / "s.json").read_text())["runs"][0]["results"]
        results.append((data, cases, [entry["partialFingerprints"] for entry in findings]))
    assert results[0] == results[1]
    assert (tmp_path / "summary-a").read_text() == (tmp_path / "summary-b").read_text() != ""


def test_the_turn_comes_to_every_defect_and_follows_from_the_sources() -> None:
    turns = [[defect.id for defect in rotation(str(number))] for number in range(60)]
    assert rotation() == rotation()
    assert all(len(set(turn)) == PLANTED for turn in turns)
    # Each is left out of one turn with a chance of 15/18; of 60, 18 * (15/18)**60 = 0.0003 are expected to be missed.
    assert {name for turn in turns for name in turn} == {d.id for d in DEFECTS.values() if d.program is not None}


def test_a_smoke_plants_what_it_is_told_to(tmp_path: Path) -> None:
    result = smoke(tmp_path / "one", "--defect", "DAX-2023-54,HPG-2023-47@reference", "--json")
    assert [(one["defect"], one["found"]) for one in json.loads(result.stdout)["planted"]] == [
        ("DAX-2023-54", True),
        ("HPG-2023-47@reference", True),
    ]
    assert smoke(tmp_path / "none", "--defect", "nonesuch").exit_code == 2


def test_a_planted_defect_that_is_not_found_is_an_error_of_the_fuzzer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzz.smoke.PLANT_PROGRAMS", 1)
    result = smoke(tmp_path / "one", "--defect", "HVO-2026-08")
    assert result.exit_code == 3
    assert "planted defect HVO-2026-08: not found in 1 programs" in result.stdout
