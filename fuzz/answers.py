"""What a real kernel said, held against both models (live.recorded has the files and the comparison).

The two sides share mm, so where mm is wrong they are wrong together, and only a kernel knows better. The recorded
kernel is 7.3, the reference's: that side must agree in everything. The candidate must agree as well, up to the first
operation of a program at which a clause of the ledger says that it need not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from candidate.framework import UnifiedFramework
from fuzz.execute import Lockstep, Profile, StepResult, run_program
from fuzz.oracle.finding import Finding
from fuzz.program.model import Op, Program
from live.recorded import FOLDER, Recorded, Replay, load, programs, replay

UNSEEN: Final = frozenset({"hot-remove-frees-before-flush"})
"""Clauses about what a CPU may still hold in its TLB, which a recorded kernel does not show."""


@dataclass(slots=True)
class Checked:
    """One program against the answers to it."""

    path: Path
    reference: Replay
    candidate: Replay
    until: int
    """Operations after the boot in which the candidate has to do what the kernel did."""

    @property
    def wrong(self) -> tuple[Literal["reference", "candidate"], Finding] | None:
        """The side that differs from the kernel, and in what."""
        if self.reference.finding is not None:
            return "reference", self.reference.finding
        return None if self.candidate.finding is None else ("candidate", self.candidate.finding)


def unexcused(program: Program, profile: Profile) -> int:
    """Operations after the boot before the first one for which the ledger lets the candidate differ; -1 if that is the
    boot.
    """
    excused: list[bool] = []

    def observe(lockstep: Lockstep, op: Op, result: StepResult) -> None:
        excused.append(bool(lockstep.oracle.clauses - UNSEEN) or result.terminal is not None)

    run_program(program, profile=profile, observer=observe)
    boot = next(i for i, op in enumerate(program.ops) if op.name == "boot")
    done = excused.index(True) if True in excused else len(excused)
    return done - boot - 1


def against_candidate(recorded: Recorded, profile: Profile, until: int) -> Replay:
    """The candidate in its first operations."""
    if until < 0:
        return Replay()
    return replay(recorded, lambda k: UnifiedFramework(k, profile), until)


def check(recorded: Recorded, profile: Profile = "posted") -> Checked:
    """Both sides."""
    until = unexcused(recorded.program, profile)
    return Checked(recorded.path, replay(recorded), against_candidate(recorded, profile, until), until)


def check_all(paths: Iterable[Path] = (FOLDER,), profile: Profile = "posted") -> Iterator[Checked]:
    """Programs, and those of folders that have answers. ProgramError, AnswersError."""
    for path in programs(paths):
        yield check(load(path), profile)
