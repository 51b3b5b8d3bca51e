"""What an engine has done so far, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fuzz.coverage import Coverage
from fuzz.execute import RunOutcome
from fuzz.oracle.finding import Outcome, outcome_class
from fuzz.program.model import Program

_done: dict[str, tuple[str, str]] = {}
"""Keys made before, of operations that were done."""


def _key(name: str, rc: Outcome) -> tuple[str, str]:
    if not rc:
        key = _done.get(name)
        if key is None:
            key = _done[name] = name, "ok"
        return key
    return name, outcome_class(rc)


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

    def count(self, names: list[str], rcs: list[tuple[Outcome, Outcome]]) -> None:
        """Count the operations of one program."""
        self.programs += 1
        self.operations += len(rcs)
        self.outcomes.update([_key(name, rc) for name, (rc, _) in zip(names, rcs, strict=False)])

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
