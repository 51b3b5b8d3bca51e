"""Short programs that may show what a long one shows: written anew, not cut from it.

Dropping operations ends where two changes are needed at once: another way to the same state. So programs that are
shorter are tried one after the other, the shortest first: some operations of the kinds that the long program has, or
that lead to the same (a page on demand in place of a page of the pool), with arguments that the state before them
suggests (the handles there are, the huge pages there are, the blocks they lie in); then the operation that shows it;
and where an allocation had failed, each of its allocation points that may be the one. What can come next is found out
on the reference alone, and a program is proposed only if its last operation returns there what the finding says.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, Final

from fuzz.adapt import AT_A_HUGE_PAGE, FAULT, SIDES, Ops, huge_pages, lacked, run
from fuzz.oracle.finding import DIED, Finding, Outcome, outcome_class
from fuzz.program.arguments import G
from fuzz.program.model import Op, make_op
from fuzz.program.operations import AFTER_BOOT, BOOT, KINDS, MEMORY, OPERATIONS
from fuzz.shortcuts import BY_ITSELF, ONLINE
from fuzz.side import MakePaths, Side
from mm.errno import ENOMEM
from mm.fault import FaultInjector
from mm.machine import Machine
from mm.page_alloc import KERNEL_ZONES, MOVABLE_ZONES
from reference.paths import SeparatePaths

RUNS: Final = 1000
"""Programs that are run on one side to find proposals, at most, of each choice of operations."""
MORE_RUNS: Final = 6
"""So many times as many for proposals that are long themselves."""
LONGEST: Final = 6
"""Operations of the longest proposal, the boot included."""
FEW: Final = 2
"""Allocation points of one kind that are tried in an operation before the last one: the first ones."""
POINTS: Final = 3
"""Allocation points of one kind that are tried: the first ones, and the last one besides."""
BLOCKS: Final = 3
"""Memory blocks of one range that are tried."""
LONG: Final = 5
"""Operations of the longest proposal from which on any operation before its last one may fail, too."""
FAR: Final = 64 * G
"""An address where nothing is, for memory and devices that can be anywhere."""
POOL: Final = ("hugetlb resize", "hugetlb overcommit", "hugetlb map")
"""What makes huge pages; each of them may do in place of another."""
FILLER: Final = "pages alloc"
RUN_OUT: Final = 1 << 10
"""Points in a row that fail as if memory had run out: a section has some hundred."""


class Resynthesis:
    """One search for programs shorter than `ops`, which shows `finding`."""

    def __init__(self, machine: Machine, ops: Ops, finding: Finding, early: bool) -> None:
        self.machine = machine
        self.left = 0
        self.finding = finding
        self.most = min(len(ops) - 1, LONGEST)
        self.last = ops[-1]
        faults = [i for i, op in enumerate(ops[:-1]) if op.name == FAULT]
        self.failing = {ops[i + 1].name for i in faults if i + 2 < len(ops)}
        """Operations before the last one in which an allocation fails, whatever they answer."""
        self.failing.update(ops[i].name for i in lacked(machine, ops[:-1]) if ops[i].name != FILLER)
        self.before = run(machine, ops[:-1])
        """The reference before the last operation."""
        self.kinds = {kind for paths in SIDES for kind in [_failed(run(machine, ops[:-1], paths), ops[-1])] if kind}
        """Kinds of allocation points that were made to fail in the last one."""
        self.apart = finding.layer == "returns" and finding.drift != DIED
        """Whether the finding is what the two sides returned."""
        no_memory = str(-ENOMEM) in finding.outcomes
        self.fails = bool(faults) or no_memory
        """Whether one fails in the last operation, or may."""
        self.times = (1, RUN_OUT) if no_memory else (1,)
        """How many."""
        self.early = early
        self.templates = _templates(ops)
        self.related = [op for op in self.templates if op in _needed(ops)]
        self.drivers = [op.args["driver"] for op in ops if op.name == "dax rebind" and op.args["driver"] != "none"]
        """Drivers that a device gets later, and may have from the beginning."""
        booted = [op.name for op in ops].index(BOOT)
        self._seen: set[tuple[Machine, bytes]] = set()
        self.starts = list(dict.fromkeys(((Op(BOOT),), ops[: booted + 1])))

    def proposals(self) -> Iterator[tuple[Machine, Ops]]:
        """Programs, the shortest first; they end when the runs are used up. Several times, with more each time: what
        the last one's handle needs, operations of its kind, all of them, failures in any of them."""
        everything, failing = self.templates, self.failing
        alike = [op for op in everything if _family(op) == _family(self.last) or op.name in failing]
        stages = [(self.related, failing)]
        if not self.early:
            stages += [(alike, failing), (everything, failing)]
            if self.most >= LONG:
                stages.append((everything, {op.name for op in everything}))
        for i, stage in enumerate(stages):
            if stage not in stages[:i]:
                self.templates, self.failing = stage
                self.left = RUNS * (MORE_RUNS if self.most >= LONG else 1)
                self._seen.clear()
                yield from self._search()

    def _search(self) -> Iterator[tuple[Machine, Ops]]:
        machines = [self.machine]
        if any(op.name in (*ONLINE, "memory add") for op in self.templates):
            machines += [replace(self.machine, memhp_default_state=state) for state in BY_ITSELF]
        if not self.machine.hugetlb_free_vmemmap:
            machines.append(replace(self.machine, hugetlb_free_vmemmap=True))
        levels: list[list[tuple[Machine, Ops]]] = [[] for _ in range(self.most + 1)]
        """Beginnings, by their number of operations."""
        for machine, start in product(dict.fromkeys(machines), self.starts):
            if len(start) < self.most:
                levels[len(start)].append((machine, start))
        for length in range(2, self.most + 1):
            for machine, prefix in levels[length - 1]:
                yield from self._endings(machine, prefix)
            # With a failure they are one longer, and come before beginnings of that length are looked for.
            for machine, prefix in levels[length - 1] if self.fails and length < self.most else ():
                yield from self._failures(machine, prefix)
            if length == self.most or self.left <= 0:
                return
            for machine, prefix in levels[length - 2] if self.failing else ():
                levels[length] += [(machine, (*prefix, *ops)) for ops in self._failed_moves(machine, prefix)]
            for machine, prefix in levels[length - 1]:
                levels[length] += [(machine, (*prefix, op)) for op in self._moves(machine, prefix)]

    # -- what comes last --------------------------------------------------------------------------------------------

    def _endings(self, machine: Machine, prefix: Ops) -> Iterator[tuple[Machine, Ops]]:
        if self.left > 0:
            for last in self._variants(self._run(machine, prefix)[0], prefix, self.last):
                yield from self._proposal(machine, (*prefix, last))

    def _failures(self, machine: Machine, prefix: Ops) -> Iterator[tuple[Machine, Ops]]:
        """With a failure in the last operation."""
        if self.left <= 0:
            return
        for last in self._variants(self._run(machine, prefix)[0], prefix, self.last):
            for nth, times in product(self._points(machine, prefix, last, self.kinds), self.times):
                yield from self._proposal(machine, (*prefix, make_op(FAULT, nth=nth, times=times), last))

    def _proposal(self, machine: Machine, ops: Ops) -> Iterator[tuple[Machine, Ops]]:
        if self.left > 0 and all(
            outcome_class(self._run(machine, ops, paths)[1]) == outcome
            for paths, outcome in zip(SIDES, self.finding.outcomes, strict=True)
            if paths is SeparatePaths or self.apart
        ):
            yield machine, ops

    def _points(self, machine: Machine, prefix: Ops, op: Op, kinds: Collection[str] = ()) -> list[int]:
        """Allocation points of an operation behind a prefix, on both sides: the first ones and the last one of these
        kinds, or the first ones of each kind."""
        numbers: list[int] = []
        for paths in SIDES:
            self.left -= 1
            seen: dict[str, list[int]] = {}
            reached = 0
            for kind, n in _traced(run(machine, prefix, paths), op):
                seen.setdefault(kind, []).extend((reached + 1, reached + n))
                reached += n
            for kind, found in seen.items():
                if not kinds:
                    numbers += _distinct(found)[:FEW]
                elif kind in kinds:
                    numbers += [*_distinct(found)[:POINTS], found[-1]]
        return _distinct(numbers)

    # -- what comes before ------------------------------------------------------------------------------------------

    def _moves(self, machine: Machine, prefix: Ops) -> Iterator[Op]:
        """Operations that can come behind a prefix and do something there."""
        for op in self._candidates(machine, prefix):
            if self.left > 0 and op != prefix[-1]:
                side, rc = self._run(machine, (*prefix, op))
                if not isinstance(rc, str) and self._new(machine, side):
                    yield op

    def _failed_moves(self, machine: Machine, prefix: Ops) -> Iterator[Ops]:
        """The same with a failure in front of each, for operations of which one failed."""
        for op in self._candidates(machine, prefix):
            if op.name in self.failing and self.left > 0:
                for nth, times in product(self._points(machine, prefix, op), (1, 2, RUN_OUT)):
                    failed = make_op(FAULT, nth=nth, times=times), op
                    side, rc = self._run(machine, prefix + failed)
                    if not isinstance(rc, str) and self._new(machine, side):
                        yield failed

    def _candidates(self, machine: Machine, prefix: Ops) -> list[Op]:
        if self.left <= 0:
            return []
        side = self._run(machine, prefix)[0]
        by_itself = machine.memhp_default_state != self.machine.memhp_default_state
        templates = [op for op in self.templates if not (by_itself and op.name in ONLINE)]
        return [op for template in templates for op in self._variants(side, prefix, template)]

    def _new(self, machine: Machine, side: Side) -> bool:
        """Whether a state is another than those that were continued before."""
        k = side.kernel
        k.log.clear()
        k.pages.short, k.pages.short_of_blocks, k.pages.spilled = 0, 0, 0
        k.faults = FaultInjector()
        state = machine, pickle.dumps((k, list(side.handles)), pickle.HIGHEST_PROTOCOL)
        known = state in self._seen
        self._seen.add(state)
        return not known

    def _variants(self, side: Side, prefix: Ops, template: Op) -> list[Op]:
        """The operation with the arguments that the state behind a prefix suggests."""
        operation = OPERATIONS[template.name]
        choices: dict[str, list[Any]] = {name: [value] for name, value in template.args.items()}
        if operation.handle is not None:
            kind = operation.handle.name
            choices[kind] = [name for name in side.handles if _kind(name) == kind]
        if template.name in AT_A_HUGE_PAGE:
            shift = side.page_shift
            choices["at"] = [pfn << shift for pfn in huge_pages(side.kernel)] + choices["at"]
        elif operation.makes is not None and "at" in choices:
            at = template.args["at"]
            choices["at"] = [at, (FAR, *(FAR + a - at[0] for a in at[1:])) if isinstance(at, tuple) else FAR]
        if template.name == "dax create":
            choices["driver"] += self.drivers
        if template.name in POOL:
            count = "count" if "count" in choices else "to"
            choices[count] = [1, 2, *choices[count]]
            if MEMORY in self.last.args:  # so many that they are in the second memory block, too
                choices[count].append(
                    side.kernel.memory_blocks.pages * side.kernel.arch.page // template.args["size"] + 1
                )
        if template.name == FILLER:
            choices["count"] = [_free(side, template) - _free(self.before, template), *choices["count"]]
        result = None if operation.makes is None else f"{operation.makes}{sum(op.result is not None for op in prefix)}"
        out: list[Op] = []
        for values in product(*(_distinct(found) for found in choices.values())):
            op = Op(template.name, dict(zip(choices, values, strict=True)), result)
            out += _with_blocks(op, side) if op.args.get(MEMORY) in side.handles and "block" in op.args else [op]
        return out

    def _run(self, machine: Machine, ops: Ops, paths: MakePaths = SeparatePaths) -> tuple[Side, Outcome]:
        """One side after a program, and what the last operation returned."""
        self.left -= 1
        side = run(machine, ops[:-1], paths)
        return side, side.run(ops[-1])


def _templates(ops: Ops) -> list[Op]:
    """Operations that a short program may have: those of the long one, each once, and what makes huge pages of the
    sizes that it has."""
    found = [op for op in ops[:-1] if OPERATIONS[op.name].when == AFTER_BOOT and op.name != FAULT]
    sizes = {op.args["size"]: None for op in ops if op.name in (*POOL, "reserve", "hugetlb demote")}
    for size in sizes:
        found += [
            make_op("hugetlb resize", size=size, to=1),
            make_op("hugetlb overcommit", size=size, to=1),
            make_op("hugetlb map", size=size, count=1),
        ]
    out: list[Op] = []
    alike: list[Any] = []
    for op in found:
        what = op.name, {name: value for name, value in op.args.items() if name not in _CHOSEN}
        if what not in alike:
            alike.append(what)
            out.append(op)
    return out


_CHOSEN: Final = frozenset({*KINDS, "to", "count", "block"})
"""Arguments that the state suggests."""


def _traced(side: Side, op: Op) -> list[tuple[str, int]]:
    """Allocation points that an operation reaches: the kind, and how many in a row."""
    side.kernel.faults.points = []
    side.run(op)
    return [point for point in side.kernel.faults.points if point[1]]


def _failed(side: Side, op: Op) -> str | None:
    """Kind of the allocation point that an injected failure fails in an operation."""
    side.run(op)
    return side.kernel.faults.fired


def _needed(ops: Ops) -> list[Op]:
    """Operations that make or change the handles of the last one."""
    wanted: set[str | None] = set()
    out: list[Op] = []
    for op in reversed(ops):
        handle = OPERATIONS[op.name].handle
        used = op.args[handle.name] if handle is not None else None
        if not out or op.result in wanted or used in wanted:
            out.append(op)
            if used is not None:
                wanted.add(used)
    return out[1:]


def _family(op: Op) -> str:
    return op.name.partition(" ")[0]


def _free(side: Side, alloc: Op) -> int:
    """Pages that such an allocation can have (`pages_alloc`)."""
    kernel, nid = side.kernel, alloc.args["node"]
    if nid >= len(kernel.nodes):
        return 0
    zones = MOVABLE_ZONES if alloc.args["movable"] else KERNEL_ZONES
    return sum(kernel.nodes[nid].zones[zone].free_pages(kernel.arch.pmd_order) for zone in zones)


def _distinct(values: list[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _kind(handle: str) -> str:
    return MEMORY if handle.startswith("ram") else handle[0]


def _with_blocks(op: Op, side: Side) -> list[Op]:
    """The operation at its own block of the range, at those that hold huge pages, and at the first and the last one."""
    kernel = side.kernel
    start, nr = side.handles[op.args[MEMORY]]
    per = kernel.memory_blocks.pages
    first, last = start // per, -(-(start + nr) // per) - 1
    held = [pfn // per - first for pfn in huge_pages(kernel) if start <= pfn < start + nr]
    blocks = _distinct([*held, op.args["block"], 0, last - first])[:BLOCKS]
    return [Op(op.name, {**op.args, "block": block}, op.result) for block in blocks]
