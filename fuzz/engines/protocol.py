"""What an engine is: it makes programs, runs them on the pair, and hands over what differed.

An engine is driven in slices, so that one loop can run several, draw a live line and stop on Ctrl-C:

    engine.start()
    try:
        while engine.running and time is left:
            for discovery in engine.advance(0.25, programs_left): ...
    finally:
        engine.stop()

Duties: `advance` works for about the given seconds, runs at most the given number of programs, and returns each new
difference once; feedback (what to try next) is the engine's own matter; `statistics` is current after every `advance`.
`stop` leaves no process behind and may be called twice.

Engines share a corpus through `feed`, which offers programs that were worth keeping to whoever drives the engine. An
engine without feedback lets them go. The oracle and the minimizer are shared by construction: an engine runs programs
with `fuzz.execute`, and hands differences over as it met them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fuzz.coverage import Coverage
from fuzz.execute import RunOutcome
from fuzz.oracle.finding import Finding, outcome_class
from fuzz.program.model import Program


class EngineError(Exception):
    """An engine cannot start, or broke down: one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """A program on which the two models differ, as the engine found it: not verified, not minimized."""

    program: Program
    finding: Finding
    engine: str


@dataclass(slots=True)
class Statistics:
    """What an engine has done so far."""

    programs: int = 0
    operations: int = 0
    seconds: float = 0.0
    """Time spent making and running programs."""
    findings: int = 0
    """Programs that ended in a difference, the same one included."""
    explained: int = 0
    """Programs that a terminal clause of the ledger ended."""
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(operation, class of the reference's outcome) -> how often."""
    clauses: set[str] = field(default_factory=set)
    """Ledger clauses that explained a difference."""
    coverage: Coverage = field(default_factory=Coverage, compare=False, repr=False)
    """What the programs showed. Whoever drives the engine drains it, and so gets the programs worth keeping; it has no
    part in `add` and JSON."""

    @property
    def kinds(self) -> int:
        """How many kinds of operation have been executed."""
        return len({name for name, _ in self.outcomes})

    def count(self, names: list[str], rcs: list[tuple[int | str, int | str]]) -> None:
        """Count the operations of one program."""
        self.programs += 1
        self.operations += len(rcs)
        outcomes = self.outcomes
        for name, (rc, _) in zip(names, rcs, strict=False):
            outcomes[name, "ok" if rc.__class__ is int and rc >= 0 else outcome_class(rc)] += 1

    def record(self, program: Program, outcome: RunOutcome) -> None:
        """Count one program that was run."""
        self.count([op.name for op in program.ops], outcome.rcs)
        self.clauses |= outcome.clauses
        self.coverage.observe(program, outcome)
        if outcome.finding is not None:
            self.findings += 1
        elif outcome.verdict == "explained":
            self.explained += 1

    def add(self, other: Statistics) -> None:
        """Add another engine's numbers."""
        self.programs += other.programs
        self.operations += other.operations
        self.seconds += other.seconds
        self.findings += other.findings
        self.explained += other.explained
        self.outcomes += other.outcomes
        self.clauses |= other.clauses

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        outcomes: dict[str, dict[str, int]] = {}
        for (name, outcome), times in sorted(self.outcomes.items()):
            outcomes.setdefault(name, {})[outcome] = times
        return {
            "programs": self.programs,
            "operations": self.operations,
            "seconds": round(self.seconds, 3),
            "findings": self.findings,
            "explained": self.explained,
            "outcomes": outcomes,
            "clauses": sorted(self.clauses),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Statistics:
        """The inverse of `to_json`."""
        outcomes: Counter[tuple[str, str]] = Counter()
        for name, of_name in data["outcomes"].items():
            for outcome, times in of_name.items():
                outcomes[name, outcome] = times
        return cls(
            data["programs"],
            data["operations"],
            data["seconds"],
            data["findings"],
            data["explained"],
            outcomes,
            set(data["clauses"]),
        )


class Engine(Protocol):
    """One source of programs; see the module's text for the duties."""

    name: str
    statistics: Statistics
    background: bool
    """Whether the work is done by another process, so that `advance` only waits and looks."""

    @property
    def running(self) -> bool:
        """Whether `advance` can still bring something."""

    def start(self) -> None:
        """Get ready; raises EngineError if this engine cannot work here."""

    def advance(self, seconds: float, programs: int | None = None) -> list[Discovery]:
        """Work for about `seconds`, on at most `programs` programs; what was found."""

    def feed(self, programs: Iterable[Program]) -> None:
        """Take programs of the shared corpus into account."""

    def stop(self) -> list[Discovery]:
        """End what `start` began; what was found since the last `advance`."""


class Memoryless:
    """The part of the protocol that is the same for engines in this process which learn nothing from what they ran."""

    background = False

    @property
    def running(self) -> bool:
        """It never runs out."""
        return True

    def start(self) -> None:
        """Nothing to prepare."""

    def feed(self, programs: Iterable[Program]) -> None:
        """Nothing to learn."""

    def stop(self) -> list[Discovery]:
        """Nothing to end."""
        return []
