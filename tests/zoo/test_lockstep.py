"""Every defect shows when both sides run its shortest program, in the layer that its entry names, and only then."""

import re
from errno import ENOMEM

import pytest

from fuzz.execute import run_program
from fuzz.program.errors import ProgramError
from fuzz.program.text import parse
from zoo import DEFECTS, NOT_MODELLED, PROFILES, Defect, find, planted

SHOWN = [defect for defect in DEFECTS.values() if defect.program]
FAILING = [defect for defect in DEFECTS.values() if defect.failing]


@pytest.mark.parametrize("defect", SHOWN, ids=lambda defect: defect.id)
def test_defect_is_seen(defect: Defect) -> None:
    program = parse(defect.program or "")
    assert run_program(program, full_every=1).finding is None
    with planted(defect):
        finding = run_program(program, full_every=1).finding
        assert finding is not None
        assert finding.signature.split("|")[0] == defect.layer
    assert run_program(program, full_every=1).finding is None


@pytest.mark.parametrize("defect", FAILING, ids=lambda defect: defect.id)
def test_it_is_seen_where_the_operation_fails(defect: Defect) -> None:
    program = parse(defect.failing or "")
    assert run_program(program, full_every=1).finding is None
    with planted(defect):
        failing = run_program(program, full_every=1)
        succeeding = run_program(parse(defect.program or ""), full_every=1)
    assert failing.finding is not None
    assert all(isinstance(rc, int) and rc < 0 for rc in failing.rcs[-1])
    assert not any(isinstance(rc, int) and rc < 0 for rc in succeeding.rcs[-1])


@pytest.mark.parametrize(
    ("defect", "text"),
    [(d, d.program or "") for d in SHOWN] + [(d, d.failing or "") for d in FAILING],
    ids=lambda value: value.id if isinstance(value, Defect) else "",
)
def test_program_is_as_short_as_can_be(defect: Defect, text: str) -> None:
    """Without any one of its operations but the boot, the defect does not show; in a program that fails, not so."""
    program = parse(text)
    lines = text.splitlines()
    failing = text == defect.failing
    for i, op in enumerate(program.ops):
        if op.name == "boot":
            continue
        try:
            shorter = parse("\n".join(lines[: 2 + i] + lines[3 + i :]) + "\n")
        except ProgramError:
            continue  # a later operation needs what this one makes
        with planted(defect):
            outcome = run_program(shorter, full_every=1)
        assert outcome.finding is None or (failing and outcome.rcs[-1] != (-ENOMEM, -ENOMEM))


@pytest.mark.parametrize("defect", [d for d in PROFILES["v7.0-base"] if d.program], ids=lambda defect: defect.id)
def test_defect_is_seen_among_all_others(defect: Defect) -> None:
    """v7.0-base: the same program, the same layer."""
    with planted(*PROFILES["v7.0-base"]):
        finding = run_program(parse(defect.program or ""), full_every=1).finding
    assert finding is not None
    assert finding.signature.split("|")[0] == defect.layer


def test_every_entry_of_the_ground_truth_is_modelled_or_excused() -> None:
    """The 46 real bugs that the zoo is about: each is a defect or has its reason, none is both."""
    known = re.compile(r"[A-Z0-9]+-20[0-9]{2}-[0-9]{2}")
    modelled = {name for name in DEFECTS if known.fullmatch(name)}
    excused = {entry.id for entry in NOT_MODELLED if known.fullmatch(entry.id)}
    assert not modelled & excused
    assert len(modelled | excused) == 46


def test_shared_code_can_be_spoiled_on_either_side() -> None:
    """A bug of `mm` shows whichever side has it; one of a side stays there."""
    for side in ("reference", "candidate"):
        defect = find(f"DAX-2026-20@{side}")
        assert defect.side == side
        with planted(defect):
            assert run_program(parse(defect.program or ""), full_every=1).finding is not None
    with pytest.raises(ValueError, match="lives in the reference"):
        find("ACC-2026-03@candidate")
    with pytest.raises(ValueError, match="no side"):
        find("DAX-2026-20@left")
