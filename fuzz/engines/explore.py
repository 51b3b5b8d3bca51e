"""Bounded exhaustive search: every program of up to N operations over a small universe, shortest first.

Breadth first: all states that N operations lead to, then those of N + 1. Two programs that lead to the same state, by
its canonical form (`fuzz.oracle.canonical`), are continued once; so a counterexample is as short as any in the
universe, and what has been seen is all there is. A state in which the ledger lets the two sides part for good ends its
program, as it does in every engine. After each new state everything is compared, which is what the end of a program
does.

A state is kept as a pickle of the pair: on the smallest machine taking one out costs a third of a millisecond, a
boot a whole one (measured), and copying in memory five.

A search that meets nothing is worth little if there was nothing to meet, so each universe has properties that must
hold *sometimes*. One that should have shown in N operations, and did not, makes the search vacuous.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any, Final, NamedTuple

from fuzz.engines.collector import paused
from fuzz.engines.protocol import Discovery
from fuzz.engines.statistics import Statistics
from fuzz.engines.universe import UNIVERSES, Universe, glance
from fuzz.execute import Lockstep, Profile, StepResult
from fuzz.oracle.canonical import canonical
from fuzz.oracle.finding import Finding
from fuzz.program.model import Op, Program
from fuzz.program.operations import BEFORE_BOOT, OPERATIONS
from fuzz.program.repair import repair
from fuzz.side import MakePaths

BOOT: Final = Op("boot")


class State(NamedTuple):
    """A state to be continued."""

    pair: bytes
    path: tuple[Op, ...]
    """The moves that led there; the boot is not among them."""


def canonical_pair(pair: Lockstep, *, pages: bool = True) -> bytes:
    """The canonical form of a pair between two operations."""
    ref, cand = pair.reference.handles, pair.candidate.handles
    live = [(ref.get(name), cand.get(name)) for name in {**ref, **cand} if not name.startswith("ram")]
    return canonical(pair.oracle, live, pages=pages)


def freeze(pair: Lockstep) -> bytes:
    """The pair as bytes, after what no later operation asks for has been set to one value: a move that was refused
    then leaves the bytes that were there before it, which is quicker to see than the canonical form.
    """
    pair.steps = 0
    pair.oracle.clauses = set()
    for side in (pair.reference, pair.candidate):
        k = side.kernel
        k.log.clear()
        k.pages.short, k.pages.short_of_blocks, k.pages.spilled = 0, 0, min(k.pages.spilled, 1)
        faults = k.faults
        faults.first = faults.last = faults.armed = faults.reached = faults.failed = 0
        faults.fired = faults.points = None
    return pickle.dumps(pair, pickle.HIGHEST_PROTOCOL)


def thaw(frozen: bytes) -> Lockstep:
    """The inverse of `freeze`."""
    pair: Lockstep = pickle.loads(frozen)
    return pair


class Explore:
    """The search. As an engine it runs one transition where others run a program, and ends by itself."""

    name = "explore"
    background = False

    def __init__(
        self,
        profile: Profile = "posted",
        universe: Universe = UNIVERSES["all"],
        max_ops: int | None = None,
        *,
        make_candidate: MakePaths | None = None,
        merge: bool = True,
    ) -> None:
        self.statistics = Statistics()
        self.profile = profile
        self.universe = universe
        self.max_ops = max_ops
        """Operations after the boot; None for no bound."""
        self.depth = 0
        """All programs of that many operations have been run."""
        self.states = 0
        """States that are told apart."""
        self.merged = 0
        """Transitions into a state that was there."""
        self.transitions = 0
        self.explained: Counter[str] = Counter()
        """Terminal clause of the ledger -> transitions that it ended."""
        self.findings: list[Discovery] = []
        """The first program of each signature."""
        self.sometimes: dict[str, int] = dict.fromkeys((property.name for property in universe.sometimes), 0)
        self.running = True
        self._make_candidate = make_candidate
        self._merge = merge
        self._seen: set[bytes] = set()
        self._signatures: set[str] = set()
        self._new: list[Discovery] = []
        self._work = self._search()

    # -- the protocol -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Nothing to prepare."""

    def feed(self, programs: Iterable[Program]) -> None:
        """It goes its own way."""

    def stop(self) -> list[Discovery]:
        """Nothing to end."""
        return []

    def advance(self, seconds: float, programs: int | None = None) -> list[Discovery]:
        """Run transitions until the time or their number is used up, or there are no more."""
        statistics = self.statistics
        begin = now = perf_counter()
        end = begin + seconds
        left = -1 if programs is None else programs
        with paused():
            while self.running and left and (now < end or now == begin):
                if next(self._work, None) is None:
                    self.running = False
                left -= 1
                now = perf_counter()
        statistics.seconds += now - begin
        found, self._new = self._new, []
        return found

    # -- the search -------------------------------------------------------------------------------------------------

    def _search(self) -> Iterator[bool]:
        """One transition at a time."""
        pair = Lockstep(self.universe.start.machine, self.profile, full_every=0, make_candidate=self._make_candidate)
        result = pair.step(BOOT)
        self._count(BOOT, result)
        if result.finding is not None:
            self._found((), result.finding)
        if pair.over:
            return
        # A pickle of what came out of a pickle is equal to it; the first one need not be.
        pair = thaw(freeze(pair))
        first = self._enter(pair, freeze(pair), ())
        frontier = [] if first is None else [first]
        yield True
        while frontier and (self.max_ops is None or self.depth < self.max_ops):
            following: list[State] = []
            for state in frontier:
                pair = thaw(state.pair)
                for move in list(self.universe.moves(pair, self.depth)):
                    after = self._go(pair, state, move)
                    if after is not None and after is not state:
                        following.append(after)
                    if after is not state:  # the pair has gone on
                        pair.close()
                        pair = thaw(state.pair)
                    yield True
                pair.close()
            self.depth += 1
            frontier = following

    def _go(self, pair: Lockstep, state: State, move: Op) -> State | None:
        """Run one transition; the state behind it if it is new, the state itself if nothing changed."""
        path = (*state.path, move)
        before = glance(pair)
        result = pair.step(move)
        self.transitions += 1
        self._count(move, result, pair.oracle.clauses)
        if result.finding is not None:
            self._found(path, result.finding)
            return None
        after, kernel = glance(pair), pair.candidate.kernel
        for property in self.universe.sometimes:
            if property.seen(before, after, move, result, kernel):
                self.sometimes[property.name] += 1
        if pair.over:
            self.explained[result.terminal or "both kernels died"] += 1
            return None
        frozen = freeze(pair)
        if self._merge and frozen == state.pair:
            self.merged += 1
            return state
        return self._enter(pair, frozen, path)

    def _enter(self, pair: Lockstep, frozen: bytes, path: tuple[Op, ...]) -> State | None:
        """Take a state in, unless it is known; everything is compared in a new one."""
        if self._merge:
            form = canonical_pair(pair)
            if form in self._seen:
                self.merged += 1
                return None
            self._seen.add(form)
        self.states += 1
        finding = pair.finish()
        if finding is not None:
            self._found(path, finding)
        return State(frozen, path)

    def _count(self, op: Op, result: StepResult, clauses: Iterable[str] = ()) -> None:
        statistics = self.statistics
        statistics.count([op.name], [result.rcs])
        statistics.clauses.update(clauses)
        statistics.findings += result.finding is not None
        statistics.explained += result.finding is None and result.terminal is not None

    def _found(self, path: Iterable[Op], finding: Finding) -> None:
        if finding.signature not in self._signatures:
            self._signatures.add(finding.signature)
            discovery = Discovery(self.program([BOOT, *path]), finding, self.name)
            self.findings.append(discovery)
            self._new.append(discovery)

    def program(self, ops: Iterable[Op]) -> Program:
        """A program of the universe, with canonical names."""
        machine = self.universe.start.machine
        return Program(machine, repair(machine, ops))

    # -- what it says -----------------------------------------------------------------------------------------------

    @property
    def vacuous(self) -> list[str]:
        """What should have happened in programs of this length, and did not."""
        return [p.name for p in self.universe.sometimes if p.depth <= self.depth and not self.sometimes[p.name]]

    @property
    def claim(self) -> str:
        """What the search shows."""
        where = f"any program of up to {self.depth} operations over this universe ({self.universe.name})"
        if self.findings:
            return f"{len(self.findings)} unexplained differences in programs of this universe ({self.universe.name})"
        if self.vacuous:
            return f"nothing is shown: the search never saw that {' or that '.join(self.vacuous)}"
        return f"no unexplained difference in {where}"

    def not_covered(self) -> list[str]:
        """What the claim does not reach."""
        machine = self.universe.start.machine
        used = {name for name, _ in self.statistics.outcomes}
        out = [f"machines other than {machine.ram >> 20}M of {machine.arch} on {machine.nodes} node, and boot reserves"]
        unused = [op.name for op in OPERATIONS.values() if op.name not in used and op.when != BEFORE_BOOT]
        if unused:
            out.append(f"operations: {', '.join(unused)}")
        out.append("arguments that the universe does not name (fuzz/engines/universe.py)")
        ended = sum(self.explained.values())
        if ended:
            clauses = ", ".join(f"{clause} {times}" for clause, times in self.explained.most_common())
            out.append(f"what comes after the ledger lets the sides part: {ended} transitions ({clauses})")
        if self.running:
            out.append(f"programs of {self.depth + 1} operations, of which only some were run")
        return out

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, findings apart."""
        return {
            "universe": self.universe.name,
            "profile": self.profile,
            "depth": self.depth,
            "states": self.states,
            "transitions": self.transitions,
            "merged": self.merged,
            "explained": dict(self.explained),
            "sometimes": self.sometimes,
            "vacuous": self.vacuous,
            "not_covered": self.not_covered(),
            "claim": self.claim,
            "complete": not self.running,
            "seconds": round(self.statistics.seconds, 1),
        }
