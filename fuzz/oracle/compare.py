"""Comparison of the two kernels after every operation."""

from __future__ import annotations

from fuzz.oracle.finding import Difference, Finding, Outcome, outcome_class
from fuzz.oracle.observe import counters, first_difference
from mm.kernel import Kernel


class Oracle:
    """Holds the two kernels of a pair and says after each operation whether they still agree."""

    def __init__(self, ref: Kernel, cand: Kernel, profile: str) -> None:
        self.ref = ref
        self.cand = cand
        self.profile = profile
        self.clauses: set[str] = set()
        self.terminal: str | None = None
        self.dead = False
        self._op = None

    def before(self, op) -> None:
        self._op = op

    def after(self, op, rc: Outcome, rc2: Outcome, full: bool) -> Finding | None:
        diff: Difference | None = None
        if rc != rc2:
            diff = Difference("returns", "rc", "changed", f"reference returned {rc}, candidate {rc2}")
        elif isinstance(rc, str):
            self.dead = True
        else:
            diff = first_difference(counters(self.ref), counters(self.cand))
        if diff is None:
            return None
        return Finding(
            diff.layer, diff.field, op.name, (outcome_class(rc), outcome_class(rc2)), diff.page_class, diff.drift, diff.detail
        )

    def full(self) -> Finding | None:
        return None
