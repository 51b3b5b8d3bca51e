"""Every defect shows when both sides run its shortest program, in the layer that its entry names, and only then."""

import pytest

from fuzz.execute import run_program
from fuzz.program.text import parse
from zoo import DEFECTS, PROFILES, Defect, planted

SHOWN = [defect for defect in DEFECTS.values() if defect.program]


@pytest.mark.parametrize("defect", SHOWN, ids=lambda defect: defect.id)
def test_defect_is_seen(defect: Defect) -> None:
    program = parse(defect.program or "")
    assert run_program(program, full_every=1).finding is None
    with planted(defect):
        finding = run_program(program, full_every=1).finding
        assert finding is not None
        assert finding.signature.split("|")[0] == defect.layer
    assert run_program(program, full_every=1).finding is None


@pytest.mark.parametrize("defect", SHOWN, ids=lambda defect: defect.id)
def test_program_is_as_short_as_can_be(defect: Defect) -> None:
    """Without any one of its operations but the boot, the defect does not show."""
    program = parse(defect.program or "")
    lines = (defect.program or "").splitlines()
    for i, op in enumerate(program.ops):
        if op.name == "boot":
            continue
        shorter = parse("\n".join(lines[: 2 + i] + lines[3 + i :]) + "\n")
        with planted(defect):
            assert run_program(shorter, full_every=1).finding is None


@pytest.mark.parametrize("defect", SHOWN, ids=lambda defect: defect.id)
def test_defect_is_seen_among_all_others(defect: Defect) -> None:
    """v7.0-base: the same program, the same layer."""
    with planted(*PROFILES["v7.0-base"]):
        finding = run_program(parse(defect.program or ""), full_every=1).finding
    assert finding is not None
    assert finding.signature.split("|")[0] == defect.layer
