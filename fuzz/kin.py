"""Which findings of two programs name the same bug."""

from __future__ import annotations

from dataclasses import replace

from fuzz.execute import Lockstep, Profile, StepResult, run_program
from fuzz.oracle.finding import DIED, Difference, Finding
from fuzz.program.model import Op, Program
from fuzz.shortcuts import SAME_FUNCTION

SIDES = ("reference", "candidate")
ANSWERS = tuple({"rc", f"{side}: effect"} for side in SIDES)
OPPOSITE = {"+": "-", "-": "+"}
DEATHS = ("bug: ", "crash: ")


def deaths(finding: Finding) -> tuple[str, ...]:
    """Of what each side died; empty where it did not."""
    return tuple(outcome if outcome.startswith(DEATHS) else "" for outcome in finding.outcomes)


def refused(finding: Finding) -> bool:
    """Whether both sides refused the operation alike, so that what they answered is not the finding."""
    first, second = finding.outcomes
    return first == second and first.startswith("-") and finding.layer != "returns"


def kin(target: Finding, found: Finding) -> bool:
    """Whether two findings name the same bug: by their signature, or because they say the same of one side.

    One side died of the same in the same operation, whatever the other returned. Or an invariant of one side says what
    the comparison says: that this side's counter is too high, or too low, after an operation that returned the same
    there. Which of the two speaks first depends on what the ledger lets the other side do. Where it lets one side fail,
    it is the law of an operation's answer that speaks of what the two returned, not the comparison. Operations that
    come to the same function of the kernel count as one, and so do errnos with which both sides refuse it alike.
    """
    if {found.operation, target.operation} in SAME_FUNCTION:
        found = replace(found, operation=target.operation)
    if refused(found) and refused(target):
        found = replace(found, outcomes=target.outcomes)
    if found.signature == target.signature:
        return True
    if target.drift == found.drift == DIED and found.operation == target.operation:
        return deaths(found) == deaths(target)
    if target.layer == found.layer == "returns" and {target.field, found.field} in ANSWERS:
        return (found.operation, found.outcomes) == (target.operation, target.outcomes)
    side, _, counter = target.field.rpartition(": ")
    if side not in SIDES or target.drift not in OPPOSITE:
        return False
    which = SIDES.index(side)
    # The drift of a comparison is that of the candidate against the reference.
    drift = {target.field: target.drift, counter: target.drift if which else OPPOSITE[target.drift]}
    return (found.layer, found.operation, found.outcomes[which]) == (
        target.layer,
        target.operation,
        target.outcomes[which],
    ) and drift.get(found.field) == found.drift


def hidden(target: Finding, found: Finding, program: Program, profile: Profile) -> bool:
    """Whether the target is to be seen in `program` too, where the first difference is another one.

    A finding is the first difference. In a shorter program others may come before it: frames lie elsewhere, so that
    another page is the first that is mapped wrongly; or the comparison speaks where only an invariant of one side
    could, because the sides had parted for a reason that the ledger knows. So the program is run once more, and all
    that could be said where its finding is, of the mapping and by the invariants, is looked through.
    """
    side = target.field.rpartition(": ")[0]
    if found.operation != target.operation or DIED in (target.drift, found.drift):
        return False
    if side in SIDES:
        which = SIDES.index(side)
        alike = found.outcomes[which] == target.outcomes[which]
    else:
        alike = found.layer == target.layer == "mapping" and found.outcomes == target.outcomes
    if not alike:
        return False
    said: list[Difference] = []

    def look(pair: Lockstep, op: Op, result: StepResult) -> None:
        if result.finding is not None:
            said.extend(pair.oracle.complaints())

    run_program(program, profile=profile, full_every=1, observer=look)
    wanted = target.layer, target.field, target.drift, target.page_class
    return wanted in [(diff.layer, diff.field, diff.drift, diff.page_class) for diff in said]
