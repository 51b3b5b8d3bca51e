"""Faults that are planted for one mutant of the oracle: where its line runs, or shortly before.

The panel is chosen without regard to any mutant. Here programs that come by the mutant's place get a fault there, and
the verdict of the oracle with the mutant is held against that of the sound one: found or not, as what, or explained by
which clause. The search climbs: faults that made the mutant compute something else than the original would have
(`fuzz.mutants.probe`) are varied, and only they are run with the sound oracle too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from time import process_time
from types import CodeType
from typing import Final, NamedTuple

from fuzz.execute import Lockstep
from fuzz.mutants.focus import EXCUSING, FAILING, FOCUS, KINDS_OF, MIMICKING, ONE_SIDED
from fuzz.mutants.planted import KINDS, SIDES, Fault, Hints, Source
from fuzz.mutants.probe import instrumented, marked
from fuzz.mutants.sites import Mutant
from fuzz.mutants.trials import Kill
from fuzz.mutants.turns import Turns
from fuzz.program.model import make_op
from fuzz.program.mutate import mutate

LOOKED: Final = 0.1
"""Share of the time that goes into finding out at which operations the mutant's place is reached."""
KEPT: Final = 24
"""Faults that came near and are varied, of each verdict the latest ones."""
FEW: Final = 4
"""Of them with the same operation of the same program."""
MORE: Final = (0, 0, 0, 1, 2, 4, 30)
"""How many operations follow the fault."""
CLIMB: Final = 0.6
"""Share of faults that are varied from such as came near, once there are any."""
ALIKE: Final = 0.6
"""Share of faults on both sides for a law of one side: on one side alone a comparison is there first."""


OUT_OF_REACH: Final = 1 << 30
"""Number of a point that no operation gets to: it fails nowhere, but its points are recorded."""


class Verdict(NamedTuple):
    """What an oracle says of a program with a fault."""

    signature: str | None = None
    terminal: str | None = None
    text: str | None = None
    """What the fault did."""
    error: str = ""
    """The exception in which the oracle ended."""
    hints: Sequence[Hints] = ()
    clauses: frozenset[str] = frozenset()
    """What explained differences before."""


class Directed(Turns):
    """The search for one mutant, which is planted; it takes turns with the sound function."""

    def __init__(self, mutant: Mutant, original: CodeType, seed: int) -> None:
        super().__init__(mutant, original)
        self.code, self.probe = instrumented(mutant)
        self.marked, self.entered = marked(mutant), marked(mutant, entered=True)
        self.draw = Random(seed)
        self.sources: list[Source] = []
        self.places: list[tuple[Source, int]] = []
        """Programs, and operations at which the mutant's place is reached."""
        self.named: dict[str, list[tuple[Source, int]]] = {}
        """All operations of the programs by their name."""
        self.near: dict[str, dict[str, list[Fault]]] = {}
        """Faults that made the mutant differ, by the clause that ended the program and by what the sound oracle found:
        what is rare is varied as often as what is not."""
        module = mutant.module.rpartition(".")[2]
        own = f"{module}:{mutant.function.rpartition('.')[2]}"
        focus = own if own in FOCUS else module
        kinds = [*KINDS, "none", "refusal", "flush", *([focus] * len(KINDS) if focus in FOCUS else [])]
        self.failing = 0.0
        """Share of fresh faults in an operation with a failed allocation."""
        self.excusing = focus in EXCUSING
        kinds += KINDS_OF.get(focus, ())
        if self.excusing:
            kinds += [*["refusal"] * (len(KINDS) // 2), *["answer"] * (len(KINDS) // 4)]
            self.failing = 0.7 if own in FAILING else 0.3
        elif focus in MIMICKING:
            kinds += ["mimic"] * (len(KINDS) // 2)
        self.kinds = kinds
        self.alike = ALIKE if module in ONE_SIDED else 0.0
        """Share of faults that are on both sides alike, beside those that happen to be."""
        self._begun = 0
        """How often the mutant had differed when the last fault was planted."""
        self.runs = self.doubles = 0
        """Programs run with the mutant, and with the sound oracle."""

    def search(self, sources: list[Source], faults: list[Fault], end: float) -> Kill | None:
        """Look until `end` of the process's CPU time, in these programs, some of which come by the mutant's line, and
        near these faults, which do."""
        begin = process_time()
        self.sources = sources
        for source in sources:
            for at, op in enumerate(source.program.ops):
                self.named.setdefault(op.name, []).append((source, at))
        with self.taken():
            for source in sources:
                self._reached(source)
                if process_time() > begin + LOOKED * (end - begin):
                    break
            starts = faults[:]
            self.draw.shuffle(starts)
            while process_time() < end:
                fault = starts.pop() if starts and self.draw.random() < 0.5 else self._next(faults)
                kill = None if fault is None else self._try(fault)
                if kill is not None:
                    return kill
        return None

    # -- which fault is next ----------------------------------------------------------------------------------------

    def _next(self, faults: list[Fault]) -> Fault | None:
        draw = self.draw
        if self.near and draw.random() < CLIMB:
            found = self.near[draw.choice(list(self.near))]
            return self._varied(draw.choice(found[draw.choice(list(found))]))
        if faults and draw.random() < 0.3:
            return self._varied(draw.choice(faults))
        if self.places and draw.random() < 0.9:
            source, at = draw.choice(self.places)
            if self.excusing and draw.random() < 0.5:
                # Where it is asked, the sides differ already; elsewhere only the fault is to be excused.
                source, at = draw.choice(self.named[source.program.ops[at].name])
            else:
                at = max(0, at - draw.choice((0, 0, 0, 1, 2)))
        elif self.sources:
            source, at = draw.choice(self.named[draw.choice(sorted(self.named))])
        else:
            return None
        fault = Fault(source, at, *self._kind(), draw.random() < 0.3, draw.getrandbits(32), draw.choice(MORE))
        return self._failed(fault) if draw.random() < self.failing else fault

    def _kind(self) -> tuple[tuple[int, ...], str]:
        kind = self.draw.choice(self.kinds)
        if kind == "mimic":
            return (1,), kind
        alike = self.alike and self.draw.random() < self.alike
        return ((0, 1) if alike else self.draw.choice(SIDES)), kind

    def _varied(self, fault: Fault) -> Fault:
        draw, source, at = self.draw, fault.source, fault.at
        how = draw.random()
        fault = replace(fault, seed=draw.getrandbits(32), more=draw.choice(MORE), full=draw.random() < 0.3)
        if how < 0.3:
            return fault
        if how < 0.5:
            sides, kind = self._kind()
            return replace(fault, kind=kind, sides=sides)
        if how < 0.6:
            return replace(fault, sides=draw.choice(SIDES)) if fault.kind != "mimic" else fault
        if how < 0.7:
            other = self._kind()[1]
            return replace(fault, kind=f"{fault.kind}+{other}") if "+" not in fault.kind else fault
        if how < 0.8:
            places = self.named.get(source.program.ops[at].name)
            if not places:
                return fault
            source, at = draw.choice(places)
            return replace(fault, source=source, at=at)
        if how < 0.85:
            return replace(fault, at=max(0, min(at + draw.choice((-1, 1)), len(source.program.ops) - 1)))
        if how < 0.92:
            return self._failed(fault)
        name, program = source.program.ops[at].name, mutate(source.program, draw)
        at = min(at, len(program.ops) - 1)
        alike = [i for i, op in enumerate(program.ops) if op.name == name]
        at = min(alike, key=lambda i: abs(i - at)) if alike else at
        return replace(fault, source=Source(source.setting, f"near {source.name}", program, rough=True), at=at)

    def _failed(self, fault: Fault) -> Fault:
        """The fault in an operation with one or two failed allocations."""
        draw, source, at = self.draw, fault.source, fault.at
        ops = source.program.ops
        if all(op.name != "boot" for op in ops[:at]):
            return fault
        nth = draw.choice((1, 1, 2, 3, draw.randrange(1, 40), draw.randrange(1, 40), OUT_OF_REACH))
        fail = make_op("fail alloc", None, nth=nth, times=draw.choice((1, 1, 2)))
        program = replace(source.program, ops=(*ops[:at], fail, *ops[at:]))
        return replace(fault, source=Source(source.setting, f"near {source.name}", program, rough=True), at=at + 1)

    # -- what is said of it -----------------------------------------------------------------------------------------

    def _try(self, fault: Fault) -> Kill | None:
        """Whether the mutant says something else."""
        records = self.mutant.records
        if records:
            # The fault goes by what a sound model lists.
            sound = self._verdict(fault, self.original)
            before = self.probe.differed
            mine = self._verdict(fault, self.code, sound.hints)
        else:
            before = self.probe.differed
            mine = self._verdict(fault, self.code)
        self.runs += 1
        if self.probe.sure and self.probe.differed == before:
            return None
        near = not self.probe.sure or self.probe.differed > self._begun
        if not records:
            sound = self._verdict(fault, self.original)
            self.doubles += 1
        if near:
            self._keep(fault, sound)
        if compare(sound, mine, fault) is None:
            return None
        again, plain = self._verdict(fault, self.original), self._verdict(fault, self.mutated, sound.hints)
        return compare(again, plain, fault) if again == sound else None

    def _keep(self, fault: Fault, sound: Verdict) -> None:
        found = self.near.setdefault(sound.terminal or "", {}).setdefault(sound.signature or sound.error, [])
        if sum(one.at == fault.at and one.source.program == fault.source.program for one in found) < FEW:
            found.append(fault)
            del found[:-KEPT]

    def _begin(self) -> None:
        self._begun = self.probe.differed

    def _verdict(self, fault: Fault, code: CodeType, hints: Sequence[Hints] = ()) -> Verdict:
        self._begun = self.probe.differed
        return self.run(code, lambda: self._played(fault, hints)) or Verdict(error="slow")

    def _played(self, fault: Fault, hints: Sequence[Hints]) -> Verdict:
        try:
            played = fault.play(self._begin, hints)
        except Exception as error:
            return Verdict(error=f"{type(error).__name__}: {error}")
        signature = None if played.finding is None else played.finding.signature
        return Verdict(signature, played.terminal, played.text, "", played.hints, played.clauses)

    def _reached(self, source: Source) -> None:
        """Note at which operations of a program the mutant differs; or if it never does, is reached; or else its
        statement is, or at least its function."""
        last = len(source.program.ops) - 1
        for code in self.code, self.marked, self.entered:
            counts: list[tuple[int, int]] = []
            try:
                self.run(code, lambda counts=counts: _walk(source, lambda: counts.append(self._count())))  # type: ignore[misc]
            except Exception:
                return
            for which in 1, 0:
                found = [at for at, (a, b) in enumerate(pairwise(counts)) if b[which] > a[which]]
                if found and (which == 0 or code is self.code):
                    self.places += [(source, min(at, last)) for at in found]
                    return

    def _count(self) -> tuple[int, int]:
        return self.probe.reached, self.probe.differed


def _walk(source: Source, count: Callable[[], None]) -> None:
    """Run a program; `count` is called before it, behind each operation, and at the end."""
    with source.setting.models():
        pair = Lockstep(source.program.machine, source.setting.profile)
        count()
        for op in source.program.ops:
            pair.step(op)
            count()
            if pair.over:
                return
        pair.finish()
        count()
        pair.close()


def compare(sound: Verdict, mine: Verdict, fault: Fault) -> Kill | None:
    """How the verdict of a mutant differs from the sound one, if it does. Of faults that are not the same nothing can
    be said, nor of what neither can look at."""
    where = f"{fault.source.name}, operation {fault.at}"
    if sound.error or mine.error == "slow":
        return None
    if mine.error:
        return Kill("crash", f"{mine.error}: {sound.text}", where)
    if sound.text is not None and mine.text is not None and sound.text != mine.text:
        return None
    if sound.signature != mine.signature:
        if mine.signature is None:
            return Kill("planted", f"not seen: {sound.text}: {sound.signature}", where)
        if sound.signature is None:
            return Kill("planted", f"{mine.signature}, which is none: {sound.text}", where)
        return Kill("signature", f"{sound.signature} is now {mine.signature}", where)
    if sound.terminal != mine.terminal:
        return Kill("clause", f"ended by {mine.terminal}, not by {sound.terminal}: {sound.text}", where)
    if sound.clauses != mine.clauses:
        changed = ", ".join(sorted(sound.clauses ^ mine.clauses))
        return Kill("clause", f"explained by other clauses: {changed}: {sound.text}", where)
    return None
