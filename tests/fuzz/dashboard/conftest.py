"""A small campaign: forty programs of a real run, and a finding of a planted defect."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fuzz.campaign.findings import record_of
from fuzz.campaign.rebuild import record_rows
from fuzz.campaign.settings import Settings
from fuzz.execute import run_program
from fuzz.findings import Report, write
from fuzz.program import parse
from fuzz.store.files import REPORT, Store
from fuzz.store.index import Index
from tests.fuzz.dashboard.places import Made
from zoo import find, planted

DEFECT = "ACC-2026-03"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The campaign, the folder of its findings, and the finding's record. To be read, not to be changed."""
    folder = tmp_path_factory.mktemp("campaign") / "night"
    reports = folder.parent / "reports"
    words = ["run", "--programs", "40", "--seed", "3", "--engine", "uniform", "--workers", "1"]
    out = subprocess.run(
        [sys.executable, "-m", "fuzz.cli", *words, "--campaign", folder, "--reports", reports],
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    defect = find(DEFECT)
    assert defect.program is not None
    program = parse(defect.program)
    with planted(defect):
        finding = run_program(program, full_every=1).finding
    assert finding is not None
    report = Report(finding, program, 9, "uniform", confirmed=True, one_minimal=True, page="<!doctype html>the page")
    store = Store(folder)
    record = store.add_record(record_of(report, REPORT, Settings(defect=DEFECT)))
    write(report, reports, "posted", DEFECT)
    index = Index(folder)
    index.open()
    for row in record_rows(store.records()):
        index.add("findings", row)
    index.flush()
    index.close()
    return Made(folder, reports, record, finding.signature, program)
