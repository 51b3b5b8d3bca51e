"""What programs have shown so far, and the chance that the next one shows something new.

A program shows *features*: each operation with its outcome, by architecture; each pair of operations that followed one
another, with their outcomes; each ledger clause that explained a difference. They are coarse on purpose: a feature is
something a reader can name, and a corpus that keeps a program for each of them stays small.

A feature is counted as seen in one program or in several, no further. That is what the estimate needs: the chance that
the next program shows a feature that none has shown is about the share of programs that hold a feature seen in no other
program (Good and Turing; with many features a program, the leave-one-out form of their estimate: take one program away,
and ask whether it would be news). It holds for programs drawn independently, as `uniform` draws them; an engine with
feedback chases rare features, and for such an engine it is a rough guide only.

Counts of several processes are folded by `merge`, from what `drain` gives, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from fuzz.execute import RunOutcome
from fuzz.oracle.finding import Outcome, outcome_class
from fuzz.program.model import Program
from fuzz.program.text import format as format_program
from fuzz.program.text import parse

OFTEN: Final = ""
"""Owner of a feature that several programs show."""


def features(program: Program, outcome: RunOutcome) -> set[str]:
    """What one run of a program showed."""
    return {_pair(before, now) for before, now in _pairs_of(program, outcome)} | _clauses(outcome)


def _clauses(outcome: RunOutcome) -> set[str]:
    return {f"clause {clause}" for clause in outcome.clauses}


def _pairs_of(program: Program, outcome: RunOutcome) -> set[tuple[str, str]]:
    """The operations that followed one another, each with its outcome; each follows the architecture too."""
    machine = f"{program.machine.arch}:"
    steps = [_step(op.name, rc, rc2) for op, (rc, rc2) in zip(program.ops, outcome.rcs, strict=False)]
    pairs = set(zip([machine, *steps], steps, strict=False))
    pairs.update([(machine, step) for step in set(steps)])
    return pairs


_done: dict[str, str] = {}
_names: dict[tuple[str, str, str], str] = {}
_pairs: dict[tuple[str, str], str] = {}
"""Texts made before: formatting them anew each time would cost a tenth of a campaign."""


def _step(name: str, rc: Outcome, rc2: Outcome) -> str:
    if not rc and not rc2:
        text = _done.get(name)
        if text is None:
            text = _done[name] = f"{name} ok"
        return text
    key = name, _class(rc), _class(rc2)
    text = _names.get(key)
    if text is None:
        text = _names[key] = f"{name} " + (key[1] if key[1] == key[2] else f"{key[1]}/{key[2]}")
    return text


def _class(rc: Outcome) -> str:
    return outcome_class(rc) if rc else "ok"


def _pair(before: str, now: str) -> str:
    text = _pairs.get((before, now))
    if text is None:
        text = _pairs[before, now] = f"{before} {now}" if before.endswith(":") else f"{before} > {now}"
    return text


@dataclass(slots=True)
class Fresh:
    """A program that showed something new, and all that it showed."""

    program: Program
    features: set[str]


@dataclass(slots=True)
class Coverage:
    """Features seen, and by how many programs."""

    programs: int = 0
    owners: dict[str, str] = field(default_factory=dict)
    """Feature -> the only program that showed it, or OFTEN."""
    _changed: set[str] = field(default_factory=set)
    _fresh: list[Fresh] = field(default_factory=list)
    _drained: int = 0
    _often: set[tuple[str, str]] = field(default_factory=set, repr=False, compare=False)
    """Pairs whose features belong to OFTEN, as far as they were met: nothing is left to say about them."""

    def observe(self, program: Program, outcome: RunOutcome) -> bool:
        """Count one run; whether it showed something new."""
        self.programs += 1
        owners = self.owners
        pairs = _pairs_of(program, outcome) - self._often
        new = False
        for feature in _clauses(outcome):
            new |= self._count(feature)
        for before, now in pairs:
            feature = _pair(before, now)
            new |= self._count(feature)
            if owners[feature] == OFTEN:
                self._often.add((before, now))
        if new:
            self._fresh.append(Fresh(program, features(program, outcome)))
        return new

    def _count(self, feature: str) -> bool:
        """Count a feature of the present program; whether it is new."""
        owners = self.owners
        owner = owners.get(feature)
        if owner is None:
            owners[feature] = str(self.programs)
            self._changed.add(feature)
            return True
        if owner:
            owners[feature] = OFTEN
            self._changed.add(feature)
        return False

    def drain(self) -> dict[str, Any]:
        """What was observed since the last call, as plain JSON values."""
        data = {
            "programs": self.programs - self._drained,
            "owners": {feature: self.owners[feature] for feature in sorted(self._changed)},
            "fresh": [
                {"program": format_program(fresh.program.bare()), "features": sorted(fresh.features)}
                for fresh in self._fresh
            ],
        }
        self._drained = self.programs
        self._changed.clear()
        self._fresh.clear()
        return data

    def merge(self, data: dict[str, Any], source: str) -> list[dict[str, Any]]:
        """Count what another process drained; of its fresh programs, those that are fresh here too.

        `source` names the process: its programs are others than those of any other source.
        """
        self.programs += data["programs"]
        owners = self.owners
        new = {feature for feature in data["owners"] if feature not in owners}
        for feature, owner in data["owners"].items():
            if owner == OFTEN:
                owners[feature] = OFTEN
            elif feature in new:
                owners[feature] = f"{source}/{owner}"
            else:
                owners[feature] = OFTEN
        kept = []
        for fresh in data["fresh"]:
            if not new.isdisjoint(fresh["features"]):
                kept.append(fresh)
                new.difference_update(fresh["features"])
        return kept

    def take(self, data: dict[str, Any]) -> None:
        """Observe what another process drained, to be drained here; for an engine that works elsewhere."""
        base = self.programs
        for feature, owner in data["owners"].items():
            known = self.owners.get(feature)
            self.owners[feature] = f"{base}+{owner}" if owner and known is None else OFTEN
            self._changed.add(feature)
        self.programs += data["programs"]
        self._fresh += [Fresh(parse(fresh["program"]), set(fresh["features"])) for fresh in data["fresh"]]

    @property
    def singletons(self) -> int:
        """Features that only one program has shown."""
        return len(self.owners) - list(self.owners.values()).count(OFTEN)

    @property
    def chance(self) -> float:
        """Estimate of the chance that the next program shows something new: 1 while nothing is known."""
        if not self.programs:
            return 1.0
        alone = set(self.owners.values())
        alone.discard(OFTEN)
        return min(1.0, len(alone) / self.programs)

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain JSON values."""
        return {"programs": self.programs, "owners": self.owners}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Coverage:
        """The inverse of `to_json`; nothing is left to drain."""
        return cls(int(data["programs"]), dict(data["owners"]), _drained=int(data["programs"]))
