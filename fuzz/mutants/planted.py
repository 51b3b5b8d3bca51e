"""Faults that are planted into one operation of a program, so that its kernels end it as no kernel should.

The panel of `fuzz.mutants.panel` has mutants of the models; they show what mistakes in functions do, and leave most of
what the oracle compares alone, and all that it concludes from return codes. Here every fault is made at the very place
that a comparison reads: after the operation one value of one kernel's state is a neighbour of what it was
(`fuzz.mutants.spoil`, `spoil_books`, `spoil_near`), or something of the candidate is as the reference has it
(`fuzz.mutants.mimic`), or the operation answers something else, is not run at all, or is run with an argument that is
one off. On one side the comparison must see it, on both sides alike a law must.

A fault that the oracle does not see is no member of the panel: a frame may lie elsewhere, a counter of what nobody
compares is nobody's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, Final, NamedTuple

from fuzz.execute import Lockstep, RunOutcome, StepResult
from fuzz.generate.afford import affordable
from fuzz.mutants.focus import FOCUS, REFUSALS, leave_out_flush
from fuzz.mutants.mimic import mimic
from fuzz.mutants.misled import mislead
from fuzz.mutants.spoil import SPOILERS, Spoiler, neighbour
from fuzz.mutants.spoil_books import BOOKS
from fuzz.mutants.spoil_near import NEAR
from fuzz.mutants.spoil_whole import OF_OPERATIONS
from fuzz.mutants.trials import Kill, Setting
from fuzz.oracle.finding import NO_MEMMAP, Finding, Outcome, outcome_class
from fuzz.program.model import Op, Program
from fuzz.side import Side
from mm.dev_dax import DevDax, Driver, KmemState
from mm.errno import (
    E2BIG,
    EAGAIN,
    EBUSY,
    EEXIST,
    EHWPOISON,
    EINVAL,
    EIO,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOTRECOVERABLE,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
)
from mm.kernel import Kernel
from mm.tlb import RecordingTlb

ERRNOS: Final = (
    *(EBUSY, EEXIST, EHWPOISON, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, ENOMEM, ENXIO, EOPNOTSUPP),
    *(EAGAIN, EPERM, ENOTRECOVERABLE, E2BIG),
)
DEATHS: Final = (
    "bug: panic: planted",
    f"{NO_MEMMAP}section 0x1",
    "bug: planted",
    "crash: Planted: planted",
    "bug: page fault: struct page of pfn {frame} is written but not mapped",
    "bug: page fault: struct page of pfn {frame} is written through a read-only shared tail page",
    "bug: bad page state: frame {frame} is freed but is not online RAM",
    "bug: bad page state: frame {frame} is freed but is not online RAM",
    "bug: compound_section_tail_page: the PTE of vmemmap page 0x1000 is read through a PMD leaf",
)
"""Ways to die, those of the open findings among them."""
SIDES: Final = ((1,), (1,), (0,), (0, 1), (0, 1))
"""Sides that have a spoiled state: the candidate, the reference, or both alike."""
KINDS: Final = (
    *(("state",) * 5 + ("near",) * 4 + ("books",) * 4 + ("whole",) * 3 + ("misled",) * 3),
    *("answer", "answer", "idle", "argument", "handle", "mimic"),
)
SPOILED: Final[dict[str, tuple[Spoiler, ...]]] = {"state": SPOILERS, "books": BOOKS, **FOCUS}
BEFORE: Final = frozenset({"argument", "idle", "flush", "misled", "none"})
"""Kinds that do nothing after the operation."""
TRIES: Final = 4
"""Structures that are tried, where the first ones have nothing that can be spoiled."""
DRIVERS: Final[tuple[Driver, ...]] = ("none", "devdax", "fsdev", "kmem")
STATES: Final[tuple[KmemState, ...]] = ("unplugged", "offline", "online", "online_movable")
SENTENCE: Final = 60
"""Letters of a sentence that tell it from others."""
_NUMBERS: Final = re.compile(r"0x[0-9a-f]+|-?\d+")
REFUSED: Final = 0.3
"""Share of faults of a refused operation that are other answers."""
FULL: Final = 0.3
"""Share of faults that a full comparison follows at once."""


class Planted(Side):
    """A side with a fault in its next operation: of one kind, or of several, joined by `+`."""

    __slots__ = ("does", "draw", "hints", "kinds", "other")

    def __init__(self, side: Side, other: Side, kind: str, seed: int, hints: Hints | None = None) -> None:
        self.kernel, self.handles, self.page_shift = side.kernel, side.handles, side.page_shift
        self.other = other.kernel
        self.kinds = kind.split("+")
        self.draw = Random(seed)
        self.does: str | None = None
        """What the fault did, once it was run."""
        self.hints = hints
        """What a sound model has listed as touched, if this one may not be."""

    def run(self, op: Op) -> Outcome:
        """Run the operation with the fault."""
        done: list[str | None] = []
        rc: Outcome | None = None
        flushed: list[Callable[[], str | None]] = []
        undo: list[Callable[[], object]] = []
        for kind in self.kinds:
            if kind == "argument" and rc is None:
                other = argument_off(op, self.draw, self.page_shift)
                if other is not None:
                    op = other[1]
                    done.append(f"{op.name} with {other[0]}={op.args[other[0]]}")
            elif kind == "idle" and rc is None:
                self.kernel.log.clear()
                self.kernel.faults.begin()
                rc = self.draw.choice((0, 0, 1, -self.draw.choice(ERRNOS)))
                done.append(f"{op.name} does nothing and answers {rc}")
            elif kind == "flush" and isinstance(self.kernel.tlb, RecordingTlb):
                flushed.append(leave_out_flush(self.kernel.tlb, self.draw))
            elif kind == "misled" and rc is None:
                misled = mislead(self.kernel, op.name, self.draw)
                if misled is not None:
                    done.append(misled[0])
                    undo.append(misled[1])
        if rc is None:
            rc = super().run(op)
        for right in reversed(undo):
            right()
        done += [ended() for ended in flushed]
        lists = touched_lists(self.kernel)
        listed = [ranges[:] for ranges in lists]
        if self.hints is not None:
            for ranges, hint in zip(lists, self.hints, strict=True):
                ranges[:] = hint
        hints = [ranges[:] for ranges in lists]
        for kind in self.kinds:
            if kind not in BEFORE:
                rc = self._spoil(kind, op, rc, done)
        if self.hints is not None:
            for ranges, was, hint in zip(lists, listed, hints, strict=True):
                ranges[:] = was + ranges[len(hint) :]
        self.hints = hints
        told = [text for text in done if text]
        self.does = ", ".join(told) if told else None
        return rc

    def _spoil(self, kind: str, op: Op, rc: Outcome, done: list[str | None]) -> Outcome:
        """What a fault of this kind does after the operation; what it says then."""
        draw = self.draw
        if kind in ("answer", "refusal"):
            other_rc = self._answer(op, rc) if kind == "answer" else draw.choice(REFUSALS)
            if other_rc != rc:
                done.append(f"{op.name} answers {other_rc}, not {rc}")
            return other_rc
        if kind == "handle":
            done.append(handle_off(self.handles, op, draw))
        elif kind == "mimic":
            done.append(mimic(self.kernel, self.other, draw))
        else:
            first = op.name.partition(" ")[0]
            spoilers = OF_OPERATIONS[first] if kind == "whole" else SPOILED.get(kind) or NEAR[first]
            for _ in range(TRIES):
                done.append(draw.choice(spoilers)(self.kernel, draw))
                if done[-1] is not None:
                    break
        return rc

    def _answer(self, op: Op, rc: Outcome) -> Outcome:
        """Another answer. A kernel dies of a frame that the operation names, or of one behind it."""
        answer = answer_off(rc, self.draw)
        if not isinstance(answer, str):
            return answer
        at = op.args.get("at", 0x1000 << self.page_shift)
        first = at if isinstance(at, int) else at[0]
        frame = (first >> self.page_shift) + self.draw.choice((0, 0, 1, 511, 512, 0x8000))
        return answer.format(frame=f"{frame:#x}")


Hints = list[list[Any]]


def touched_lists(k: Kernel) -> Hints:
    """The lists that faults go by: where the operation has changed something."""
    return [owner.touched for owner in (k.tables, k.memmap, k.pages, k.sections, k.memory_blocks)]


def answer_off(rc: Outcome, draw: Random) -> Outcome:
    """Another answer."""
    how = draw.random()
    if isinstance(rc, str):
        return draw.choice((0, -draw.choice(ERRNOS), draw.choice(DEATHS)))
    if how < 0.15:
        return draw.choice(DEATHS)
    if how < 0.25:
        return rc + 1
    return 0 if rc and how < 0.6 else -draw.choice(ERRNOS)


def argument_off(op: Op, draw: Random, page_shift: int) -> tuple[str, Op] | None:
    """The operation with one argument that is one off, and that argument's name."""
    names = [name for name, value in op.args.items() if isinstance(value, int | list | tuple) or name == "zone"]
    if not names:
        return None
    name = draw.choice(names)
    value = op.args[name]
    new: Any
    if isinstance(value, bool):
        new = not value
    elif name == "zone":
        new = draw.choice([zone for zone in ("default", "kernel", "movable") if zone != value])
    elif isinstance(value, int):
        step = 1 << draw.choice((page_shift, 21, 27)) if name in ("at", "size", "align") else 1
        if op.name.startswith("hugetlb") and name == "size":
            return None
        new = max(0, value + draw.choice((-step, step)))
    else:
        if not value or not isinstance(value[0], int):
            return None
        step = 1 << draw.choice((page_shift, 21, 27))
        new = type(value)([max(0, value[0] + draw.choice((-step, step))), *value[1:]])
    return name, Op(op.name, {**op.args, name: new}, op.result)


def handle_off(handles: dict[str, Any], op: Op, draw: Random) -> str | None:
    """Spoil what a handle of the operation stands for, or any other; a line that says how."""
    live = sorted(name for name in handles if not name.startswith("ram"))
    named = [name for name in (op.result, *op.args.values()) if isinstance(name, str) and name in live]
    if not live:
        return None
    name = draw.choice(named or live)
    thing = handles[name]
    if isinstance(thing, DevDax):
        how = draw.randrange(5)
        if how == 0:
            thing.driver = draw.choice([driver for driver in DRIVERS if driver != thing.driver])
        elif how == 1:
            thing.ranges = [neighbour(thing.ranges[0], draw), *thing.ranges[1:]]
        elif how == 2:
            thing.align = draw.choice((1, thing.align * 512, thing.align // 512 or 2))
        elif how == 3 and thing.kmem is not None:
            thing.kmem.res = [not has for has in thing.kmem.res]
            if draw.random() < 0.5:
                thing.kmem.state = draw.choice([state for state in STATES if state != thing.kmem.state])
        else:
            attribute = draw.choice(("nid", "memmap_on_memory"))
            setattr(thing, attribute, neighbour(getattr(thing, attribute), draw))
        return f"{name} is a device {thing.ranges} of {thing.driver}, node {thing.nid}, align {thing.align}"
    if isinstance(thing, list) and thing:
        thing[0] = neighbour(thing[0], draw)
        return f"{name}: extent {thing[0]}"
    if isinstance(thing, tuple) and isinstance(thing[1], list) and thing[1]:
        return f"{name}: {thing[1].pop()!r} is not of the mapping"
    return None


def answers_of(outcome: RunOutcome) -> tuple[str, ...]:
    """What the operations of a program returned on the reference."""
    return tuple(outcome_class(pair[0]) for pair in outcome.rcs)


class Source(NamedTuple):
    """A program that faults are planted in."""

    setting: Setting
    name: str
    program: Program
    answers: tuple[str, ...] = ()
    """What its operations return on the reference, as far as that is known."""
    rough: bool = False
    """Its numbers are to be cut to what is affordable."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in one operation of a program."""

    source: Source
    at: int
    """Number of the operation."""
    sides: tuple[int, ...]
    kind: str
    full: bool
    seed: int
    more: int = 0
    """Operations that are run behind it."""

    def run(self) -> tuple[Finding | None, str | None]:
        """What the oracle sees of it, and what was done; no words if there was nothing to do."""
        played = self.play()
        if played.text is None or (played.finding is None and not played.complete):
            return None, None
        return played.finding, played.text

    def play(self, begin: Callable[[], object] | None = None, hints: Sequence[Hints] | None = None) -> Played:
        """Run it; `begin` is called right before the operation with the fault. `hints`: those of a sound run."""
        source = self.source
        with source.setting.models():
            pair = Lockstep(source.program.machine, source.setting.profile)
            last = self._steps(pair, source.program.ops[: self.at])
            if last is not None and pair.over:
                return Played(last.finding, last.terminal, clauses=frozenset(pair.oracle.clauses))
            if begin is not None:
                begin()
            sound = pair.reference, pair.candidate
            pair.full_every = int(self.full)
            given = dict(zip(self.sides, hints or (), strict=False))
            planted = [
                Planted(side, sound[1 - i], self.kind, self.seed, given.get(i)) if i in self.sides else side
                for i, side in enumerate(sound)
            ]
            pair.reference, pair.candidate = planted
            result = self._step(pair, source.program.ops[self.at])
            faults = [side for side in planted if isinstance(side, Planted)]
            pair.reference, pair.candidate = sound
            pair.full_every = 0
            behind = source.program.ops[self.at + 1 :][: self.more]
            result = self._steps(pair, behind) or result
            finding = result.finding
            if finding is None and not pair.over and not (self.full and not behind):
                finding = pair.finish()
            pair.close()
        does = [side.does for side in faults]
        text = "; ".join(text or "nothing" for text in does)
        hinted = [side.hints or [] for side in faults]
        return Played(finding, result.terminal, text, all(does), hinted, frozenset(pair.oracle.clauses))

    def _steps(self, pair: Lockstep, ops: Iterable[Op]) -> StepResult | None:
        result = None
        for op in ops:
            if pair.over:
                break
            result = self._step(pair, op)
        return result

    def _step(self, pair: Lockstep, op: Op) -> StepResult:
        return pair.step(affordable(op, pair.reference) if self.source.rough else op)


class Played(NamedTuple):
    """What became of a program with a fault."""

    finding: Finding | None
    terminal: str | None
    text: str | None = None
    """What the fault did; None if the program ended before."""
    complete: bool = False
    """Whether it did something on each of its sides."""
    hints: Sequence[Hints] = ()
    """For each side with a fault, what the operation had listed as touched."""
    clauses: frozenset[str] = frozenset()
    """Clauses of the ledger that explained a difference."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A fault that the oracle sees."""

    fault: Fault
    text: str
    """What the fault does, in a line."""
    signature: str

    def look(self, seed: int) -> Kill | None:
        """Whether it is no longer seen, or seen as something else."""
        finding, text = self.fault.run()
        where = f"{self.fault.source.name}, operation {self.fault.at}"
        if text is not None and text != self.text:
            return None  # another fault: what it goes by is what the mutant has changed
        if finding is None:
            return Kill("planted", f"not seen: {self.text}", where)
        if finding.signature != self.signature:
            return Kill("signature", f"{self.signature} is now {finding.signature}", where)
        return None


def sentence(finding: Finding) -> str:
    """Which sentence of the oracle a finding is: all laws of an operation share one signature. Without its numbers, and
    only its beginning, for there may be lists in it."""
    return _NUMBERS.sub("#", finding.detail)[:SENTENCE]


class Faults:
    """All faults of some programs, by number: every operation of the language has its turn as often as any other, and
    every answer of it, in one of the places where a program has it."""

    def __init__(self, sources: list[Source], seed: int) -> None:
        self.seed = seed
        self.places: dict[str, dict[str, list[tuple[Source, int]]]] = {}
        """Operation -> answer -> programs, and the number of the operation in them."""
        for source in sources:
            for at, op in enumerate(source.program.ops):
                answer = source.answers[at] if at < len(source.answers) else ""
                self.places.setdefault(op.name, {}).setdefault(answer, []).append((source, at))
        self.operations = sorted(self.places)

    def __getitem__(self, number: int) -> Fault:
        draw = Random(self.seed << 32 | number)
        answers = self.places[draw.choice(self.operations)]
        # Where it succeeds as often as with all errnos together.
        answer = "ok" if "ok" in answers and draw.random() < 0.5 else draw.choice(sorted(answers))
        source, at = draw.choice(answers[answer])
        kind = draw.choice(KINDS)
        if answer not in ("ok", "") and draw.random() < REFUSED:
            kind = "answer"  # it has done nothing that could be spoiled
        sides = (1,) if kind == "mimic" else draw.choice(SIDES)
        if kind not in ("state", "mimic") and draw.random() < 0.5:
            sides = 0, 1  # one side alone is plain to see
        return Fault(source, at, sides, kind, draw.random() < FULL, draw.getrandbits(32))

    def seen(self, number: int) -> list[str] | None:
        """Signature and text of a fault, if the oracle sees it, and the sentence that says so."""
        try:
            finding, text = self[number].run()
        except Exception:
            # What the fault has left cannot be looked at: it is seen, but not by a comparison.
            return None
        return None if finding is None or text is None else [finding.signature, text, sentence(finding)]


def batches(size: int) -> Iterator[range]:
    """Numbers of faults, without end."""
    return (range(first, first + size) for first in count(step=size))
