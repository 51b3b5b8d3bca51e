"""State novelty: what a program did that others did not, for the engines that learn (`guided`, `libfuzzer`).

Branch coverage of a model says little once every branch has been taken; what matters then is in which state. After
each operation `Watch` names a handful of *features*, small tuples that mean the same in every process:

- the outcome pair of the operation, and the ledger clauses it used for the first time in this program;
- what it changed on each side: signs and magnitudes of the counters' drift, growth of the mapping, a fault that fired;
- the abstract state after it: of what both sides share next to the operation that led there, of what each side has for
  itself as a pair.

They are coarse on purpose: counts become none, one, few, many. A state that is told from every other one makes every
program new, and a corpus of everything leads nowhere (measured: with one joint state, 92 programs of 100 were new).
Only the pair is looked at, never the program, so that two programs that do the same count as one.
"""

from __future__ import annotations

from typing import Any, Final

from fuzz.execute import Lockstep, StepResult
from fuzz.oracle.finding import outcome_class
from fuzz.program.model import Op

Feature = tuple[Any, ...]
"""A behaviour, by a name that does not depend on the process."""

FAULT: Final = "fail alloc"
_FEW: Final = 3
_BUCKETS: Final = (0, 1, *(2,) * _FEW)


def bucket(count: int) -> int:
    """None, one, few or many; negative numbers, which no count should ever be, have a bucket of their own."""
    return -1 if count < 0 else _BUCKETS[count] if count < 2 + _FEW else 3


def drift(before: int, after: int) -> int:
    """Sign and magnitude of a change: powers of eight, so that 7 pages of a folio differ from a section's memmap."""
    change = after - before
    return 0 if not change else (change.bit_length() + 2) // 3 * (1 if change > 0 else -1)


def common_views(kernel: Any) -> list[Feature]:
    """Abstract state, in separate views, of what the oracle holds equal on the two sides: each pool, devices, memory
    blocks. Views are told apart one by one: their product would make nearly every state a new one.
    """
    on = kernel.paths.vmemmap_optimize_enabled
    views: list[Feature] = []
    for order, pool in kernel.hstates.items():
        nr, free = sum(pool.nr), sum(map(len, pool.free))
        views.append((order, on, bucket(free), bucket(nr - free), any(pool.surplus), pool.nr_overcommit > 0))
    devices = kernel.pgmaps
    views.append(tuple(sorted({(d.vmemmap_shift, d.altmap is not None) for d in devices})) if devices else ())
    blocks = kernel.memory_blocks
    views.append(("blocks", bucket(len(blocks.altmaps)), bucket(len(blocks.zone) - 1)))
    return views


def own_view(kernel: Any, zones: list[Any]) -> Feature:
    """Abstract state of what may differ between the sides: shared tails, split page tables, zones that run out."""
    full = whole = broken = 0
    for zone in zones:
        if zone.managed_pages:
            if zone.blocks.total:
                whole += 1
            else:
                full += 1
            broken += zone.frags.total > 0
    return len(kernel.memmap.frames), bucket(kernel.vmstat.nr_page_table_pages), full, bucket(whole), bucket(broken)


def _counts(kernel: Any) -> tuple[int, ...]:
    stat = kernel.vmstat
    return (
        stat.nr_memmap,
        stat.nr_memmap_boot,
        stat.nr_page_table_pages,
        len(kernel.memmap.frames),
        len(kernel.tables.entries),
        kernel.pages.short,
        kernel.pages.spilled,
    )


class Watch:
    """Follows one pair through one program; call it after every operation."""

    __slots__ = ("_clauses", "_last", "_previous", "_zones", "features", "points")

    def __init__(self) -> None:
        self.features: dict[Feature, int] = {}
        """What has been seen in this program -> number of the operation that showed it first."""
        self.points: list[int] = []
        """Allocation points that each operation reached in the reference."""
        self._last: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._zones: list[list[Any]] = []
        self._clauses: set[str] = set()
        self._previous: Feature = ()

    def __call__(self, pair: Lockstep, op: Op, result: StepResult) -> None:
        """Note what the operation showed."""
        step = pair.steps - 1
        ref, cand = pair.reference.kernel, pair.candidate.kernel
        seen = self.features.setdefault
        name = op.name
        self.points.append(0 if name == FAULT else ref.faults.reached)
        rcs = tuple("ok" if rc.__class__ is int and rc >= 0 else outcome_class(rc) for rc in result.rcs)
        outcome = (name, *rcs)
        seen(("outcome", *outcome), step)
        seen(("pair", self._previous, outcome), step)
        self._previous = outcome
        clauses = pair.oracle.clauses
        if len(clauses) != len(self._clauses):
            fresh = sorted(clauses - self._clauses)
            self._clauses.update(fresh)
            for clause in fresh:
                seen(("clause", clause, name), step)
        now = _counts(ref), _counts(cand)
        if self._last is None:
            for kernel in (ref, cand):
                self._zones.append([zone for node in kernel.nodes for zone in node.zones])
        else:
            change = tuple(tuple(map(drift, before, after)) for before, after in zip(self._last, now, strict=True))
            fired = ref.faults.fired, cand.faults.fired
            seen(("effect", outcome, *change), step)
            if fired != (None, None):
                seen(("fault", outcome, *fired), step)
        self._last = now
        for view in common_views(ref):
            seen(("state", name, view), step)
        seen(("states", own_view(ref, self._zones[0]), own_view(cand, self._zones[1])), step)
