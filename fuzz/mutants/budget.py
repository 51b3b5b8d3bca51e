"""The smoke that a mutant has to survive: the corpus, the zoo, then random programs, in so many seconds of CPU time.

It knows nothing about the right results but what fuzzing knows: a difference between the sides that no clause of the
ledger explains, a broken invariant, an exception, an outcome that the specifications do not allow
(fuzz/surface.toml), a clause that the corpus no longer exercises, a bug of the zoo that its own program no longer
shows. Unit tests have no say.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time
from typing import Final, NamedTuple

from fuzz.engines.collector import paused
from fuzz.engines.uniform import Uniform
from fuzz.execute import Profile, RunOutcome, run_program
from fuzz.oracle.ledger import clauses
from fuzz.program.arguments import format_size
from fuzz.program.model import Program
from fuzz.program.text import parse, parse_file
from fuzz.surface import Cell, answer, known
from zoo import planted
from zoo.defect import Defect
from zoo.registry import DEFECTS

ROOT: Final = Path(__file__).resolve().parents[2]
CORPUS: Final = (ROOT / "corpus" / "seeds", ROOT / "corpus" / "regressions")
HANG: Final = 10.0
"""CPU seconds after which one program counts as hung: the slowest of the corpus needs a fiftieth of it."""


class Kill(NamedTuple):
    """What noticed the mutant."""

    by: str
    """finding, crash, surface, clause, zoo; the process's own end adds timeout and death."""
    what: str
    where: str
    """corpus file, defect, or program of the seed."""


@dataclass(slots=True)
class Budget:
    """The smoke, the same for every mutant."""

    seconds: float
    seed: int
    profile: Profile
    corpus: list[tuple[str, Program]]
    """The quickest first, once the baseline has timed them."""
    defects: list[tuple[Defect, Program]]
    programs: int = 0
    """Random programs that the baseline ran; no mutant is given any other."""
    unclean: dict[int, Kill] = field(default_factory=dict)
    """Those that show something without a mutant; no mutant is given these either."""

    @classmethod
    def load(cls, seconds: float, seed: int, profile: Profile) -> Budget:
        """The budget with the corpus and the zoo of this checkout."""
        paths = sorted(path for folder in CORPUS for path in folder.rglob("*.vmm"))
        corpus = [(path.stem, parse_file(path)) for path in paths]
        defects = [(defect, parse(defect.program)) for defect in DEFECTS.values() if defect.program]
        return cls(seconds, seed, profile, corpus, defects)

    def baseline(self) -> Kill | None:
        """Run it without a mutant. What the corpus or the zoo shows then would make every kill worthless, and is
        returned; random programs that show something are left out from then on. Takes a quarter longer than the smoke,
        so that few mutants run out of programs."""
        times: dict[str, float] = {}
        begin = last = process_time()
        used: set[str] = set()
        with paused():
            for name, program in self.corpus:
                if kill := self._replay(name, program, used):
                    return kill
                now = process_time()
                times[name], last = now - last, now
            self.corpus.sort(key=lambda entry: times[entry[0]])
            if kill := self._clauses(used) or self._zoo():
                return kill
            for number, kill in self._random():
                if kill:
                    self.unclean[number] = kill
                self.programs = number + 1
                if process_time() - begin > 1.25 * self.seconds:
                    break
        return None

    def run(self, enough: Callable[[], bool] = lambda: False) -> Kill | None:
        """Run it until something notices, the time is up, or it is `enough` after a program.

        A program that hangs ends the process (SIGPROF).
        """
        begin = process_time()
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        used: set[str] = set()
        signal.setitimer(signal.ITIMER_PROF, HANG)
        try:
            for name, program in self.corpus:
                if kill := self._replay(name, program, used):
                    return kill
                if enough():
                    return None
                signal.setitimer(signal.ITIMER_PROF, HANG)
            if kill := self._clauses(used) or self._zoo():
                return kill
            for number, kill in self._random():
                done = number + 1 >= self.programs or process_time() - begin > self.seconds
                if kill or done or enough():
                    return kill
                signal.setitimer(signal.ITIMER_PROF, HANG)
        except Exception as error:  # out of the oracle or the generator: a fuzzer that dies has noticed
            return Kill("crash", f"{type(error).__name__}: {error}", "")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return None

    def _replay(self, name: str, program: Program, used: set[str]) -> Kill | None:
        outcome = run_program(program, profile=self.profile)
        used |= outcome.clauses
        return judge(name, program, outcome)

    def _clauses(self, used: set[str]) -> Kill | None:
        idle = clauses(self.profile) - used
        return Kill("clause", f"not exercised: {', '.join(sorted(idle))}", "corpus") if idle else None

    def _zoo(self) -> Kill | None:
        for defect, program in self.defects:
            with planted(defect):
                if run_program(program, profile=self.profile).finding is None:
                    return Kill("zoo", f"{defect.id} is not found", defect.id)
        return None

    def _random(self) -> Iterator[tuple[int, Kill | None]]:
        engine = Uniform(self.seed, self.profile)
        number = -1
        while True:
            number += 1
            if number in self.unclean:
                continue
            program, outcome = engine.run(number)
            yield number, judge(f"program {number}", program, outcome)


def judge(where: str, program: Program, outcome: RunOutcome) -> Kill | None:
    """Whether anything is wrong with one run."""
    if outcome.finding is not None:
        return Kill("finding", outcome.finding.signature, where)
    table = known()
    label = f"{program.machine.arch}/{format_size(program.machine.page)}"
    for op, pair in zip(program.ops, outcome.rcs, strict=False):
        for rc in pair:
            if isinstance(rc, str) and rc.startswith("crash"):
                return Kill("crash", rc, where)
        # How a kernel dies is for the ledger to say; the table is about answers.
        if not isinstance(pair[0], str) and Cell(op.name, answer(pair[0]), label) not in table:
            return Kill("surface", f"{op.name}: {answer(pair[0])} on {label}", where)
    return None
