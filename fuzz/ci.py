"""A smoke's results for CI: JUnit XML, SARIF, and GitHub's step summary."""

from __future__ import annotations

import hashlib
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from fuzz.findings import Report, put_text
from fuzz.program.text import format as format_program
from fuzz.smoke import ROOT, SmokeResult

SUMMARY: Final = "GITHUB_STEP_SUMMARY"
SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


class Case(NamedTuple):
    """One thing that was checked."""

    group: str
    name: str
    problem: str = ""
    """What is wrong, in one line; nothing if all is well."""
    details: str = ""
    error: bool = False
    """Whether this program failed, not the models."""


def cases(result: SmokeResult) -> Iterator[Case]:
    """Everything that was checked: the corpus, the planted defects, each engine, each finding."""
    for entry in result.replayed:
        name = relative(entry.path) + ("" if entry.reference == "v7.3" else f" ({entry.reference})")
        yield Case("corpus", name, entry.detail if entry.bad else "", error=entry.verdict == "error")
    for plant in result.planted:
        missed = "" if plant.report is not None else f"not found in {plant.programs} programs"
        yield Case("planted", plant.defect, missed, error=True)
    for name in result.summary.engines:
        yield Case("engine", name)
    for report, sort in found(result):
        yield Case("finding", report.finding.signature, report.finding.detail, _tell(report, sort))


def found(result: SmokeResult) -> Iterator[tuple[Report, str]]:
    """Findings of the fuzzing part, by signature, each with what it is."""
    done = result.summary
    pairs = [(report, "difference") for report in (*done.reports, *done.unwritten)]
    pairs += [(report, report.finding.drift) for report in done.quarantined]
    yield from sorted(pairs, key=lambda pair: pair[0].finding.signature)


def _tell(report: Report, sort: str) -> str:
    return f"{sort}, {report.seen}\n\n{format_program(report.program)}"


def relative(path: Path) -> str:
    """A path as CI knows it: from the root of the checkout."""
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


def junit_xml(result: SmokeResult) -> str:
    """JUnit XML, in the form that Jenkins, GitLab and others read. Engines and clean programs are cases that passed."""
    every = list(cases(result))
    bad = [case for case in every if case.problem]
    totals = {
        "tests": str(len(every)),
        "failures": str(sum(not case.error for case in bad)),
        "errors": str(sum(case.error for case in bad)),
        "skipped": str(len(result.summary.broken)),
    }
    totals["tests"] = str(len(every) + len(result.summary.broken))
    root = ET.Element("testsuites", {"name": "vmemmap-fuzz", **totals})
    suite = ET.SubElement(root, "testsuite", {"name": "vmemmap-fuzz smoke", "time": f"{result.seconds:.1f}", **totals})
    for case in every:
        element = ET.SubElement(suite, "testcase", classname=f"smoke.{case.group}", name=_xml_text(case.name))
        if case.problem:
            kind = "error" if case.error else "failure"
            ET.SubElement(element, kind, message=_xml_text(case.problem), type=case.group).text = _xml_text(
                case.details
            )
    for engine, why in result.summary.broken.items():
        element = ET.SubElement(suite, "testcase", classname="smoke.engine", name=engine)
        ET.SubElement(element, "skipped", message=_xml_text(why))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _xml_text(text: str) -> str:
    """Without the control characters that XML has no way to write."""
    return "".join(c for c in text if c >= " " or c in "\n\t")


def sarif(result: SmokeResult, reports: Path) -> dict[str, Any]:
    """SARIF 2.1.0: one rule a layer of the comparison, one result a finding or a bad program of the corpus.

    The place of a finding is its repro, or the program of the corpus; the fingerprint is its signature, so that one
    finding is one alert however often it is found.
    """
    results = [
        _sarif_result(report.finding.layer, report.finding.detail, report.finding.signature, reports / report.name)
        for report, _ in found(result)
    ]
    results += [
        _sarif_result("corpus", entry.detail, entry.detail or relative(entry.path), entry.path)
        for entry in result.replayed
        if entry.bad
    ]
    rules = sorted({entry["ruleId"] for entry in results})
    driver = {
        "name": "vmemmap-fuzz",
        "version": version("vmemmap-fuzz"),
        "rules": [{"id": rule, "shortDescription": {"text": RULES[rule]}} for rule in rules],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


RULES: Final = {
    "returns": "The two models return different values.",
    "mapping": "The vmemmap is mapped differently.",
    "structpages": "Struct pages have different contents.",
    "accounting": "Counters differ.",
    "frames": "Page frames have different owners.",
    "corpus": "A program of the corpus shows a difference, or is no program.",
}


def _sarif_result(rule: str, message: str, signature: str, path: Path) -> dict[str, Any]:
    place = path if path.suffix else path / "repro.vmm"
    return {
        "ruleId": rule,
        "level": "error",
        "message": {"text": message or signature},
        "partialFingerprints": {"signature/v1": hashlib.sha256(signature.encode()).hexdigest()},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": relative(place)}, "region": {"startLine": 1}}}],
    }


def markdown(result: SmokeResult) -> str:
    """The step summary."""
    bad = sum(entry.bad for entry in result.replayed)
    verdict = "differences found" if result.diverged else "failed" if result.broken else "no unexplained difference"
    lines = [
        f"## vmemmap-fuzz smoke: {verdict}",
        "",
        "| part | result |",
        "|---|---|",
        f"| corpus | {len(result.replayed)} programs, {bad} bad |",
    ]
    lines += [f"| planted defect {plant.defect} | {plant} |" for plant in result.planted]
    for name, statistics in result.summary.engines.items():
        lines.append(f"| {name} | {statistics.programs} programs, {statistics.operations} operations |")
    lines += [f"| {name} | not run: {why} |" for name, why in result.summary.broken.items()]
    for case in cases(result):
        if case.problem:
            lines += ["", f"### {case.group}: `{case.name}`", "", case.problem]
            if case.details:
                lines += ["", "```", case.details.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def write_outputs(result: SmokeResult, reports: Path, junit: Path | None, sarif_file: Path | None) -> None:
    """Write what was asked for."""
    if junit is not None:
        put_text(junit, junit_xml(result))
    if sarif_file is not None:
        put_text(sarif_file, json.dumps(sarif(result, reports), indent=2) + "\n")
    step = os.environ.get(SUMMARY)
    if step:
        with Path(step).open("a") as file:
            file.write(markdown(result))
