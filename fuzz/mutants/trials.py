"""What a mutant is given to run: programs of the corpus and random ones, each against a pair of models of some setting.

A trial knows nothing about the right results but what fuzzing knows: `judge` asks for a difference between the sides
that no clause of the ledger explains, a broken invariant, an exception, or an outcome that the specifications do not
allow (fuzz/surface.toml).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from fuzz.execute import Profile, RunOutcome, run_program
from fuzz.generate.program import run_generated
from fuzz.generate.weights import choose_machine
from fuzz.oracle.finding import Outcome
from fuzz.program.arguments import format_size
from fuzz.program.model import Program
from fuzz.program.text import parse_file
from fuzz.surface import LABELS, Cell, answer, known
from zoo import Version, reference_version

ROOT: Final = Path(__file__).resolve().parents[2]
TOGETHER: Final = 5
"""Random programs of one trial. What they run is recorded once for all of them, which costs as much as they do."""


class Kill(NamedTuple):
    """What noticed the mutant."""

    by: str
    """finding, crash, surface, kernel, clause, zoo, panel, planted, signature, search; what ended its process adds
    timeout and death."""
    what: str
    where: str
    """corpus file, defect, or program of the seed."""


class Setting(NamedTuple):
    """Which candidate against which reference."""

    profile: Profile = "posted"
    reference: Version = "v7.3"

    def models(self) -> AbstractContextManager[None]:
        """A block in which the reference is that of the setting."""
        return nullcontext() if self.reference == "v7.3" else reference_version(self.reference)

    def __str__(self) -> str:
        return self.profile if self.reference == "v7.3" else f"{self.profile}, {self.reference}"


POSTED: Final = Setting()
MERGED: Final = Setting("merged")
PAST: Final = Setting(reference="v7.0-base")
CORPUS: Final = (
    (POSTED, ("seeds", "regressions")),
    (MERGED, ("seeds", "regressions")),
    (PAST, ("history", "seeds")),
)
"""Folders of the corpus by setting."""
TURNS: Final = (POSTED, POSTED, MERGED, POSTED, POSTED, MERGED, POSTED, PAST)
"""Settings of the trials of random programs, in turn."""
ANY_ARCH: Final = 2
"""Every so manyth random program is on the next architecture, the others on that which the generator draws."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A program of the corpus, or random programs that run together."""

    setting: Setting
    name: str
    program: Program | None = None
    numbers: range = range(0)

    def runs(self, seed: int) -> Iterator[tuple[str, Program, RunOutcome]]:
        """Run it: name, program and outcome of each program."""
        with self.setting.models():
            if self.program is not None:
                yield self.name, self.program, run_program(self.program, profile=self.setting.profile)
            for number in self.numbers:
                yield f"program {number}", *random_program(seed, number, self.setting.profile)

    def only(self, name: str) -> Trial:
        """The trial with one of its programs, by its name."""
        for number in self.numbers:
            if name == f"program {number}":
                return Trial(self.setting, self.name, numbers=range(number, number + 1))
        return self


def random_program(seed: int, number: int, profile: Profile) -> tuple[Program, RunOutcome]:
    """Make and run a program; it depends on the seed and the number only, and on what the models do. Each is looked at
    deeply, as in `replay`: a mutant is given few programs, and it is not speed that is asked about."""
    draw = Random(seed << 40 | number).random
    turn, other = divmod(number, ANY_ARCH)
    machine = None if other else choose_machine(draw, [*LABELS.values()][turn % len(LABELS)])
    return run_generated(draw, profile, machine=machine, deep_share=1.0)


def corpus_trials() -> list[Trial]:
    """A trial for each program of this checkout and setting."""
    return [
        Trial(setting, f"{path.stem} ({setting})", parse_file(path))
        for setting, folders in CORPUS
        for folder in folders
        for path in sorted((ROOT / "corpus" / folder).rglob("*.vmm"))
    ]


def random_trials() -> Iterator[Trial]:
    """Trials of random programs, without end."""
    turn = 0
    while True:
        first = turn * TOGETHER
        setting = TURNS[turn % len(TURNS)]
        yield Trial(setting, f"programs from {first} ({setting})", numbers=range(first, first + TOGETHER))
        turn += 1


def judge(where: str, program: Program, outcome: RunOutcome) -> Kill | None:
    """Whether anything is wrong with one run."""
    if outcome.finding is not None:
        return Kill("finding", outcome.finding.signature, where)
    table = known()
    label = f"{program.machine.arch}/{format_size(program.machine.page)}"
    for op, pair in zip(program.ops, outcome.rcs, strict=False):
        if any(crashed(rc) for rc in pair):
            return Kill("crash", next(str(rc) for rc in pair if crashed(rc)), where)
        # How a kernel dies is for the ledger to say; the table is about answers.
        if not isinstance(pair[0], str) and Cell(op.name, answer(pair[0]), label) not in table:
            return Kill("surface", f"{op.name}: {answer(pair[0])} on {label}", where)
    return None


def crashed(rc: Outcome) -> bool:
    """Whether a model ended with an exception that no kernel has."""
    return isinstance(rc, str) and rc.startswith("crash")
