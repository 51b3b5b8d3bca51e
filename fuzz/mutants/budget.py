"""The smoke that a mutant has to survive, in so many seconds of CPU time: trials, what a real kernel answered, the zoo,
the panel, and what is near.

Before any mutant the baseline runs it all, and records which lines each part runs; a mutant is given the parts that run
its line and no others. Time that is left goes to programs a step or two away from these. Unit tests have no say.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from time import process_time
from types import CodeType
from typing import Final

from fuzz.answers import against_candidate, unexcused
from fuzz.engines.collector import paused
from fuzz.execute import Lockstep, StepResult, run_program
from fuzz.generate.program import run_affordable
from fuzz.mutants import forms
from fuzz.mutants.covering import Covering
from fuzz.mutants.directed import Directed
from fuzz.mutants.panel import Panel, spoiled
from fuzz.mutants.planted import Seen, Source, answers_of
from fuzz.mutants.searches import SEARCHES, counts
from fuzz.mutants.sites import Mutant
from fuzz.mutants.trials import MERGED, PAST, POSTED, Kill, Setting, Trial, corpus_trials, judge, random_trials
from fuzz.oracle.ledger import clauses
from fuzz.program.model import Op, Program
from fuzz.program.mutate import mutate
from fuzz.program.text import parse
from live.recorded import FOLDER, Recorded, load, programs, replay
from zoo import planted
from zoo.defect import Defect
from zoo.registry import DEFECTS

HANG: Final = 10.0
"""CPU seconds after which one trial counts as hung: the slowest of the corpus needs a fiftieth of it."""
RECORDED: Final = 2.0
"""CPU seconds of recorded random programs for each second of the budget."""
PARENTS: Final = 200
"""Programs from which those near a line are made, at most."""
MORE: Final = 300
"""Faults of the panel that are still looked at, for one that is missed, once one was seen as something else."""
UNDIRECTED: Final = 0.6
"""Share of the time that a mutant of the oracle is given what was chosen without regard to it; then faults are planted
where it is reached."""
PANEL: Final = 0.3
"""Share of the time that goes into the panel, at most."""
PLANTED_EVERY: Final = 3
"""Every so manyth trial of random programs gives programs to plant faults in."""
SLOW: Final = 0.05
"""CPU seconds of a program in which no faults are planted: the panel would become slow."""

Said = list[tuple[str, str, str, str]]
"""Differences by what names them: layer, field, drift, class of page."""


@dataclass(slots=True)
class Budget:
    """The smoke, the same for every mutant."""

    seconds: float
    seed: int
    trials: dict[str, Trial]
    defects: dict[str, tuple[Defect, Program]]
    answers: dict[str, tuple[Recorded, int]] = field(default_factory=dict)
    """Programs that a real kernel has run, and for how many operations the candidate must do the same."""
    times: dict[str, float] = field(default_factory=dict)
    used: dict[str, set[str]] = field(default_factory=dict)
    """Clauses of the ledger that each trial exercises."""
    unclean: dict[str, Kill] = field(default_factory=dict)
    """Trials that show something without a mutant; no mutant is given these."""
    programs: int = 0
    covering: Covering = field(default_factory=Covering)
    panel: Panel = field(default_factory=Panel)
    sources: list[Source] = field(default_factory=list)
    """Programs to plant faults in."""
    searches: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """What the small searches count without a mutant."""
    holding: dict[Setting, frozenset[str]] = field(default_factory=dict)
    """The clauses of each setting."""
    said: dict[str, Said] = field(default_factory=dict)
    """All that the sound oracle says of each bug of the zoo where it is found, which the minimizer asks for."""

    @classmethod
    def load(cls, seconds: float, seed: int) -> Budget:
        """The budget with the corpus and the zoo of this checkout."""
        defects = {f"zoo {d.id}": (d, parse(d.program)) for d in DEFECTS.values() if d.program}
        kernel = (load(path) for path in programs([FOLDER]))
        answers = {f"kernel {r.path.stem}": (r, unexcused(r.program, POSTED.profile)) for r in kernel}
        return cls(seconds, seed, {trial.name: trial for trial in corpus_trials()}, defects, answers)

    # -- without a mutant -------------------------------------------------------------------------------------------

    def baseline(self) -> Kill | None:
        """Run it without a mutant and record what runs what. What the corpus or the zoo shows then would make every
        kill worthless, and is returned; other trials that show something are left out from then on."""
        with paused(), self.covering.recording() as next_is:
            for name, trial in list(self.trials.items()):
                next_is(name)
                kill = self._time(trial)
                if kill is not None and trial.setting == POSTED:
                    return kill
            self.holding = {setting: clauses(*setting) for setting in (POSTED, MERGED, PAST)}
            idle = self.holding[POSTED] - self._exercised(POSTED)
            if idle:
                return Kill("clause", f"not exercised: {', '.join(sorted(idle))}", "corpus")
            for name in self.defects:
                next_is(name)
                if kill := self._defect(name):
                    return kill
            for name in self.answers:
                next_is(name)
                begin = process_time()
                if kill := self._kernel(name):
                    return kill
                self.times[name] = process_time() - begin
            end = process_time() + RECORDED * self.seconds
            for trial in random_trials():
                next_is(trial.name)
                self.trials[trial.name] = trial
                self.programs += len(trial.numbers)
                self._time(trial)
                if process_time() > end:
                    break
        for name in self.unclean:
            del self.trials[name]
        self.sources = [source for source in self.sources if source.name not in self.unclean]
        return None

    def record_panel(self) -> None:
        """Which lines each member of the panel runs, and each search, which is for mutants of the oracle as well."""
        with paused(), self.covering.recording() as next_is:
            for name in SEARCHES:
                next_is(name)
                self.searches[name] = counts(name)
            for number, member in enumerate(self.panel.members):
                next_is(f"panel {number}")
                member.look(self.seed)

    def _time(self, trial: Trial) -> Kill | None:
        begin = process_time()
        programs: list[Source] = []
        kill = self._trial(trial, programs)
        spent = self.times[trial.name] = process_time() - begin
        plant = trial.program is not None or trial.numbers.start // len(trial.numbers) % PLANTED_EVERY == 0
        if plant and spent < SLOW * len(programs):
            self.sources += programs
        if kill is not None:
            self.unclean[trial.name] = kill
        return kill

    def _exercised(self, setting: Setting) -> set[str]:
        """The clauses that the corpus exercises."""
        corpus = (t.name for t in self.trials.values() if t.setting == setting and t.program is not None)
        return set().union(*(self.used.get(name, set()) for name in corpus))

    # -- with one ---------------------------------------------------------------------------------------------------

    def run(self, mutant: Mutant, original: CodeType, seconds: float | None = None) -> Kill | None:
        """Run it until something notices or the time is up; the mutant is planted. A trial that hangs ends the process
        (SIGPROF)."""
        begin = process_time()
        given = self.seconds if seconds is None else seconds
        end = begin + given
        oracle = mutant.package == "fuzz.oracle"
        first = begin + (UNDIRECTED * given if oracle else given)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        parents: list[Source] = []
        try:
            for kill in self._parts(mutant, parents, kernel=seconds is None):
                if kill is not None or process_time() > end:
                    return kill
                if process_time() > first:
                    break
            if oracle:
                return self._directed(mutant, original, parents, end)
            rng = Random(self.seed)
            while parents and process_time() < end:
                parent = parents[int(rng.random() * len(parents))]
                setting, program = parent.setting, mutate(parent.program, rng)
                kill = self._near(setting, program)
                if kill is not None:
                    with spoiled(mutant, original):
                        clean = self._near(setting, program) is None
                    if clean:
                        return kill
        except Exception as error:  # out of the oracle or the generator: a fuzzer that dies has noticed
            return Kill("crash", f"{type(error).__name__}: {error}", "")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return None

    def _directed(self, mutant: Mutant, original: CodeType, parents: list[Source], end: float) -> Kill | None:
        """Plant faults where the mutant's line runs, in programs that come by it, and in others."""
        faults = [
            member.fault
            for number in sorted(self._members(mutant))
            if isinstance(member := self.panel.members[number], Seen)
        ]
        rng = Random(self.seed)
        others = [fault.source for fault in faults] or self.sources
        sources = parents + rng.sample(others, min(PARENTS, len(others)))
        if mutant.module == forms.MODULE:
            return forms.Forms(mutant, original, self.seed).search(sources, end)
        return Directed(mutant, original, self.seed).search(sources, faults, end)

    def _members(self, mutant: Mutant) -> set[int]:
        """Numbers of the members of the panel that run the mutant's line, or if none does, its function."""
        for names in (self.covering.of_line(mutant), self.covering.of_function(mutant)):
            found = {int(name.removeprefix("panel ")) for name in names if name.startswith("panel ")}
            if found:
                break
        return found

    def _parts(self, mutant: Mutant, parents: list[Source], kernel: bool) -> Iterator[Kill | None]:
        """What runs the mutant's line, part by part, the quickest first; what a kernel answered only if wanted."""
        names = self.covering.of_line(mutant)
        trials = sorted((name for name in names if name in self.trials), key=lambda name: self.times[name])
        corpus = [name for name in trials if self.trials[name].program is not None]
        drawn = [name for name in trials if self.trials[name].program is None]
        oracle = mutant.package == "fuzz.oracle"
        before = {setting: self._exercised(setting) for setting in (POSTED, MERGED, PAST)}
        answers = names & self.answers.keys() if kernel else set()
        for name in corpus if oracle else sorted([*trials, *answers], key=lambda name: self.times[name]):
            _rearm()
            if oracle:
                yield self._sound(name, parents)
            else:
                yield self._kernel(name) if name in answers else self._trial(self.trials[name], parents)
        for setting, clauses_before in before.items():
            if oracle and clauses(*setting) != self.holding[setting]:
                yield Kill("clause", "the ledger has other clauses", str(setting))
            idle = clauses_before - self._exercised(setting)
            if idle:
                yield Kill("clause", f"not exercised: {', '.join(sorted(idle))}", f"corpus ({setting})")
        for name in sorted(names & self.defects.keys()):
            _rearm()
            yield self._defect(name)
        if oracle:
            changed, more = None, MORE
            end = process_time() + PANEL * self.seconds
            for number, member in enumerate(self.panel.members):
                if process_time() > end:
                    break
                if f"panel {number}" in names:
                    _rearm()
                    kill = member.look(self.seed)
                    if kill is not None and kill.by == "signature":
                        changed = changed or kill
                        kill = None
                    yield kill
                    more -= changed is not None
                    if not more:
                        break
            yield changed
            for name in sorted(names & self.searches.keys()):
                _rearm()
                yield self._search(name)
            for name in drawn:
                _rearm()
                yield self._sound(name, parents)
        if not parents:
            # Nobody comes by the line: begin with those that come near.
            near = self.covering.of_function(mutant) & self.trials.keys()
            for name in sorted(near, key=lambda name: self.times[name])[: PARENTS // 10]:
                _rearm()
                yield self._trial(self.trials[name], parents)

    def _trial(self, trial: Trial, parents: list[Source] | None = None) -> Kill | None:
        used: set[str] = set()
        for name, program, outcome in trial.runs(self.seed):
            if kill := judge(name, program, outcome):
                return kill._replace(where=f"{trial.name}: {name}") if trial.program is None else kill
            used |= outcome.clauses
            if parents is not None and len(parents) < PARENTS:
                parents.append(Source(trial.setting, trial.name, program.bare(), answers_of(outcome)))
        self.used[trial.name] = used
        return None

    def _sound(self, name: str, parents: list[Source]) -> Kill | None:
        """Run a trial with a mutant of the oracle: other clauses must not explain it than explained it before."""
        before = self.used[name]
        kill = self._trial(self.trials[name], parents)
        if kill is None and self.used[name] != before:
            changed = ", ".join(sorted(self.used[name] ^ before))
            kill = Kill("clause", f"explained by other clauses: {changed}", name)
        return kill

    def _kernel(self, name: str) -> Kill | None:
        """Whether either side does something else than a real kernel did."""
        recorded, until = self.answers[name]
        for side, result in (
            ("reference", replay(recorded)),
            ("candidate", against_candidate(recorded, POSTED.profile, until)),
        ):
            if result.finding is not None:
                return Kill("kernel", f"{side}: {result.finding.signature}", name)
        return None

    def _defect(self, name: str) -> Kill | None:
        """Whether a bug of the zoo is seen in the layer that the zoo says."""
        defect, program = self.defects[name]
        said: Said = []

        def look(pair: Lockstep, _: Op, result: StepResult) -> None:
            if result.finding is not None:
                said.extend((one.layer, one.field, one.drift, one.page_class) for one in pair.oracle.complaints())

        with planted(defect):
            finding = run_program(program, observer=look).finding
        if finding is None:
            return Kill("zoo", f"{defect.id} is not found", defect.id)
        if finding.layer != defect.layer:
            return Kill("zoo", f"{defect.id} is found in {finding.layer}, not in {defect.layer}", defect.id)
        sound = self.said.setdefault(name, said)
        return None if said == sound else Kill("zoo", f"of {defect.id} is said {said}, not {sound}", defect.id)

    def _search(self, name: str) -> Kill | None:
        """Whether a search of all short programs counts what it counted without a mutant."""
        now = counts(name)
        return None if now == self.searches[name] else Kill("search", f"{self.searches[name]} is now {now}", name)

    def _near(self, setting: Setting, program: Program) -> Kill | None:
        _rearm()
        try:
            with setting.models():
                return judge("a program near others", *run_affordable(program, setting.profile))
        except Exception as error:
            return Kill("crash", f"{type(error).__name__}: {error}", "a program near others")


def _rearm() -> None:
    signal.setitimer(signal.ITIMER_PROF, HANG)
