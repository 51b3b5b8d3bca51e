"""What a run did and found, in numbers that add up over workers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from fuzz import program as language
from fuzz.oracle.finding import Finding, Outcome
from fuzz.program.model import Op, Program
from mm.machine import Machine

UNSEEN: Final = (
    "struct page contents beyond flags, type, order and reference count of huge pages",
    "TLB flushes and the order of page table updates",
    "who owns a frame that neither the vmemmap nor a huge page uses",
    "page tables of the agent itself",
)
"""What a guest does not show from outside; docs/live.md says the same at more length."""


def case(op: Op, machine: Machine) -> str:
    """The kind of an operation, finer than its name: page size, where the memory map lies."""
    args, words = op.args, [op.name]
    size = args.get("align" if op.name == "dax create" else "size")
    if op.name == "memory add":
        words.append("with memmap_on_memory" if _self_hosted(op, machine) else "without memmap_on_memory")
    elif size is not None:
        words.append("1G" if size == 1 << 30 else "2M" if size == 2 << 20 else "4K")
    if args.get("altmap"):
        words.append("altmap")
    if op.name == "memory online":
        words.append(args["zone"])
    return " ".join(words)


def _self_hosted(op: Op, machine: Machine) -> bool:
    return bool(op.args["memmap_on_memory"]) and machine.memmap_on_memory != "off"


@dataclass(slots=True)
class Disagreement:
    """A program after which the two differ."""

    finding: Finding
    program: Program
    at: int = 0
    """How many of the program's operations it took."""
    triage: str = ""
    """Which of the two is right, in a sentence."""
    original: int = 0
    """Operations of the program as it was found, 0 if nobody tried to make it smaller."""
    minimal: bool = False
    """No operation can be left out and no argument made simpler without losing it."""
    repeats: bool = True
    """Whether it was seen again when the program was run again."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        f = self.finding
        return {
            "signature": f.signature,
            "layer": f.layer,
            "field": f.field,
            "operation": f.operation,
            "detail": f.detail,
            "triage": self.triage,
            "minimal": self.minimal,
            "repeats": self.repeats,
            "program": language.format(self.program),
        }

    def text(self) -> str:
        """For people."""
        how = "minimal" if self.minimal else "as found" if not self.original else "smaller, perhaps not minimal"
        again = "" if self.repeats else "; not seen again when run again"
        return f"{self.finding.detail}\n{self.triage}\n({how}{again})\n{language.format(self.program)}"


@dataclass(slots=True)
class Tally:
    """What was done."""

    programs: int = 0
    operations: int = 0
    cases: Counter[str] = field(default_factory=Counter)
    """Kind of operation -> how often."""
    machines: Counter[str] = field(default_factory=Counter)
    """Kind of machine -> programs on it."""
    errors: Counter[str] = field(default_factory=Counter)
    """Operation and errno -> how often."""
    refused: Counter[str] = field(default_factory=Counter)
    """Reason -> operations that were wanted but not done."""
    explained: Counter[str] = field(default_factory=Counter)
    """Known deviation of the kernel -> programs that showed it."""
    seconds: Counter[str] = field(default_factory=Counter)
    """Where the time went, summed over workers: boot, reset, run (divided by `parts`), minimize."""
    parts: Counter[str] = field(default_factory=Counter)
    """What `run` is made of."""
    disagreements: list[Disagreement] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another worker's numbers."""
        self.programs += other.programs
        self.operations += other.operations
        for name in ("cases", "machines", "errors", "refused", "explained", "seconds", "parts"):
            getattr(self, name).update(getattr(other, name))
        self.disagreements += other.disagreements

    def kinds(self) -> list[tuple[Disagreement, int]]:
        """The smallest program of each signature, and how many programs showed it."""
        out: dict[str, tuple[Disagreement, int]] = {}
        for found in self.disagreements:
            best, times = out.get(found.finding.signature, (found, 0))
            better = (not found.minimal, len(found.program.ops)) < (not best.minimal, len(best.program.ops))
            out[found.finding.signature] = found if better else best, times + 1
        return list(out.values())

    def spend(self, what: str, seconds: float) -> None:
        """Count time."""
        self.seconds[what] += seconds  # type: ignore[assignment]

    def count_op(self, op: Op, machine: Machine, outcome: Outcome) -> None:
        """Count an operation that was done."""
        self.operations += 1
        self.cases[case(op, machine)] += 1
        if isinstance(outcome, int) and outcome < 0:
            self.errors[f"{op.name} {outcome}"] += 1

    def count_program(self, machine: Machine) -> None:
        """Count a program that was run."""
        self.programs += 1
        self.machines[f"{machine.nodes} node{'s' if machine.nodes > 1 else ''}"] += 1

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `unexplained` is the number of disagreements."""
        return {
            "programs": self.programs,
            "operations": self.operations,
            "unexplained": len(self.disagreements),
            "disagreements": [{**found.to_json(), "times": times} for found, times in self.kinds()],
            "explained": dict(self.explained),
            "cases": dict(sorted(self.cases.items())),
            "machines": dict(self.machines),
            "errors": dict(self.errors),
            "refused": dict(self.refused),
            "unseen": list(UNSEEN),
            "seconds": {name: round(float(s), 1) for name, s in self.seconds.items()},
            "seconds_of_run": {name: round(float(s), 1) for name, s in self.parts.items()},
        }
