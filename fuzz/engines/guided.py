"""Novelty search in pure Python: keep the programs that did something new, begin again where something rare happened.

Some of the programs are drawn as `uniform` draws them; fresh starts win on shallow bugs, and they keep the corpus
honest. The others start from the corpus:

- an entry is picked as the rarest of a few at random: the one whose rarest feature has been seen the fewest times, in
  all programs so far. That is where the energy goes, and it moves on by itself as a behaviour becomes common;
- mostly the entry is cut behind the operation that showed the rare feature and continued with fresh operations drawn
  against that very state;
- or one of its operations fails at one of the allocation points that it is known to reach, and what follows is drawn
  against the state which that leaves: error paths are behind the rarest of doors, and few numbers open them;
- else it is mutated, or crossed with another.

A program enters the corpus, cut behind the last new thing, when it shows a feature that nobody has seen. The corpus is
capped; what goes is the entry whose behaviour is the most common by now.

No clock and no hash order decides anything, so a seed and a number of programs give the same run every time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from fuzz.engines.inprocess import InProcess
from fuzz.engines.novelty import FAULT, Feature, Watch
from fuzz.engines.statistics import Statistics
from fuzz.execute import Profile, RunOutcome
from fuzz.generate.operations import ALL, swarm
from fuzz.generate.program import DEEP, run_affordable, run_generated
from fuzz.program.model import Op, Program, make_op
from fuzz.program.mutate import crossover, mutate

FRESH: Final = 0.4
"""Share of programs that start from nothing; half of these have a random subset of the operations."""
CONTINUED: Final = 0.5
"""Share of the others that continue a beginning."""
FAILED: Final = 0.3
"""Share of the others in which an operation fails; the rest are mutants."""
EARLY: Final = 12
"""Half of the failures hit one of so many first points, where the different kinds are; bulk comes behind them."""
CROSSED: Final = 0.15
"""Share of the mutants that are made of two entries."""
RAREST_OF: Final = 8
"""Entries among which the rarest is picked."""
CAP: Final = 2000
"""Entries of the corpus."""


Failure = tuple[str, object, int]
"""An operation, its size if it has one, and which allocation point fails: by number, later ones by magnitude."""


@dataclass(slots=True)
class Entry:
    """A program of the corpus and what was new in it: feature -> operation that showed it first."""

    program: Program
    features: dict[Feature, int]
    points: list[int]
    """Allocation points that each of its operations reached."""


class Guided(InProcess):
    """The search; `corpus` and `counts` are all that it remembers."""

    name = "guided"

    def __init__(self, seed: int, profile: Profile = "posted", *, cap: int = CAP) -> None:
        self.statistics = Statistics()
        self.profile = profile
        self.cap = cap
        self.corpus: list[Entry] = []
        self.counts: Counter[Feature] = Counter()
        """How many programs have shown each feature."""
        self.tried: Counter[Failure] = Counter()
        """How often each failure was asked for."""
        self._random = Random(seed)
        self._fed: list[Program] = []

    def feed(self, programs: Iterable[Program]) -> None:
        """Run these before anything else; they are kept if they show something new."""
        self._fed += programs

    def next(self) -> tuple[Program, RunOutcome]:
        """Choose a program, run it, learn from it."""
        watch = Watch()
        program, outcome = self._choose(watch)
        self._learn(program, watch)
        return program, outcome

    def _choose(self, watch: Watch) -> tuple[Program, RunOutcome]:
        rng, profile = self._random, self.profile
        draw = rng.random
        if self._fed:
            return run_affordable(self._fed.pop(0).bare(), profile, observer=watch)
        if not self.corpus or draw() < FRESH:
            table = swarm(draw) if draw() < 0.5 else ALL
            return run_generated(draw, profile, table, observer=watch)
        entry = self._pick()
        program = entry.program
        kind = draw()
        if kind < CONTINUED:
            table = swarm(draw) if draw() < 0.25 else ALL
            prefix = program.ops[: self._turn(entry) + 1]
            return run_generated(draw, profile, table, program.machine, prefix=prefix, observer=watch)
        if kind < CONTINUED + FAILED:
            failing = self._failing(entry)
            if failing is not None:
                return run_generated(draw, profile, ALL, program.machine, prefix=failing, observer=watch)
        mutant = crossover(program, self._pick().program, rng) if draw() < CROSSED else mutate(program, rng)
        return run_affordable(mutant, profile, deep=draw() < DEEP, observer=watch)

    def _rarity(self, entry: Entry) -> int:
        counts = self.counts
        return min([counts[feature] for feature in entry.features])

    def _pick(self) -> Entry:
        """The rarest of some entries."""
        corpus, draw = self.corpus, self._random.random
        return min((corpus[int(draw() * len(corpus))] for _ in range(RAREST_OF)), key=self._rarity)

    def _turn(self, entry: Entry) -> int:
        """Number of the operation to continue behind: the one with the rarest feature, never before the boot."""
        counts = self.counts
        at = min(entry.features.items(), key=lambda item: counts[item[0]])[1]
        boot = next(i for i, op in enumerate(entry.program.ops) if op.name == "boot")
        return max(at, boot)

    def _failing(self, entry: Entry) -> tuple[Op, ...] | None:
        """The entry up to one of its operations with allocation points, of which one fails; None if it has none.

        Of some such failures it is the one that was tried least, so that all doors are tried before one twice.
        """
        draw = self._random.random
        ops = entry.program.ops
        boot = next(i for i, op in enumerate(ops) if op.name == "boot")
        able = [i for i in range(boot + 1, len(ops)) if entry.points[i] and ops[i - 1].name != FAULT]
        if not able:
            return None
        best: tuple[int, int, int, Failure] | None = None
        for _ in range(RAREST_OF):
            at = able[int(draw() * len(able))]
            points = entry.points[at]
            most = min(points, EARLY) if draw() < 0.5 else points
            nth = 1 + int(draw() * most)
            failure = (ops[at].name, ops[at].args.get("size"), nth if nth <= EARLY else EARLY + nth.bit_length())
            tried = self.tried[failure]
            if best is None or tried < best[0]:
                best = tried, at, nth, failure
        assert best is not None
        _, at, nth, failure = best
        self.tried[failure] += 1
        return (*ops[:at], make_op(FAULT, nth=nth), ops[at])

    def _learn(self, program: Program, watch: Watch) -> None:
        """Count what was seen, and keep the program if it was the first to show something."""
        counts = self.counts
        features = watch.features
        new = {feature: at for feature, at in features.items() if feature not in counts}
        counts.update(features.keys())
        if not new:
            return
        boot = next((i for i, op in enumerate(program.ops) if op.name == "boot"), len(program.ops))
        last = max(new.values())
        if last < boot or boot == len(program.ops) - 1 < last:
            return  # it died in its boot: there is nothing to continue
        kept = Program(program.machine, program.ops[: last + 1])
        self.corpus.append(Entry(kept, new, watch.points[: last + 1]))
        if len(self.corpus) > self.cap:
            corpus = self.corpus
            common = max(range(len(corpus)), key=lambda i: self._rarity(corpus[i]))
            del corpus[common]
