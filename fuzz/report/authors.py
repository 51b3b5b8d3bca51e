"""Which kernel functions brought about what a report tells: found by running the program again and looking on.

A profile function looks at a value of a side whenever a function that models one of the kernel's is called or returns.
Between two looks one such function is at work, itself or through what it calls that has no name in the kernel: a value
that changed meanwhile was changed by that one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, NamedTuple

from fuzz.execute import Lockstep, Profile
from fuzz.oracle.finding import Finding
from fuzz.program.model import Program
from fuzz.report.entered import kernel_function, step_under
from fuzz.side import Side
from fuzz.trace import Trace, counters
from mm.kernel import Kernel
from mm.pgtable import Mapping

Look = Callable[[Kernel], Any]


class Change(NamedTuple):
    """A value before and after a function."""

    step: int
    function: str
    """The kernel's name; empty for a function that models none, below no other that does."""
    before: Any
    after: Any


class Origin(NamedTuple):
    """Where an operation's failure began: the innermost function that returned the error, or that died."""

    function: str
    died: bool


@dataclass(frozen=True, slots=True)
class Authors:
    """What is known, each for the reference and the candidate."""

    page: tuple[tuple[Change, ...], tuple[Change, ...]] = ((), ())
    """How the vmemmap page at fault was mapped, in words, over the whole program."""
    counter: tuple[tuple[Change, ...], tuple[Change, ...]] = ((), ())
    """The counter at fault, in the last step."""
    contents: tuple[tuple[Change, ...], tuple[Change, ...]] = ((), ())
    """The struct page at fault, in the last step."""
    frames: tuple[tuple[Change, ...], tuple[Change, ...]] = ((), ())
    """How many frames each owner has, in the last step."""
    origins: tuple[Origin | None, Origin | None] = (None, None)
    """Of the last step's failure."""


def find_authors(program: Program, profile: Profile, told: Trace, page: int | None, pfn: int | None) -> Authors:
    """Run the program as often as there is something to look at."""
    finding = told.finding
    if finding is None or not told.steps:
        return Authors()
    last = len(told.steps)
    rcs = told.steps[-1].reference.rc, told.steps[-1].candidate.rc
    pages = changes(program, profile, lambda k: way(k.tables.get(page), page), 1) if page is not None else ((), ())
    contents: tuple[tuple[Change, ...], tuple[Change, ...]] = ((), ())
    if finding.layer == "structpages" and pfn is not None:
        contents = changes(program, profile, lambda k: tuple(k.memmap.view(pfn, pfn + 1)), last)
    frames = changes(program, profile, owners, last) if finding.layer == "frames" else ((), ())
    return Authors(pages, _counter(program, profile, finding, last), contents, frames, origins(program, profile, rcs))


def _counter(
    program: Program, profile: Profile, finding: Finding, last: int
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    if finding.layer != "accounting":
        return (), ()
    field = finding.field
    return changes(program, profile, lambda k: counters(k).get(field, ("", None))[1], last)


def owners(k: Kernel) -> tuple[tuple[str, int], ...]:
    """How many frames each owner has, by name."""
    total: dict[str, int] = {}
    for lo, hi, owner in k.pages.owners.items():
        total[owner] = total.get(owner, 0) + hi - lo
    return tuple(sorted(total.items()))


def way(m: Mapping | None, page: int) -> str:
    """How an entry maps a vmemmap page, in words that follow "maps it"."""
    if m is None:
        return ""
    if m.kind == "leaf":
        return "by a PMD leaf, RW"
    if m.kind == "strided" and (page - m.phase) % m.period >= m.keep:
        whose = "the last page that its compound page keeps" if m.tail is None else "a shared tail page"
        return f"to {whose}, {'RW' if m.tail_rw else 'RO'}"
    shared = m.kind == "shared"
    return f"to {'a shared frame' if shared else 'a frame of its own'}, {'RW' if m.rw else 'RO'}"


# -- looking on -----------------------------------------------------------------------------------------------------


def changes(
    program: Program, profile: Profile, look: Look, first: int
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """How a value changed on each side, from operation `first` on."""
    spy = _Changes(look, first)
    _run(program, profile, spy)
    return tuple(spy.found[0]), tuple(spy.found[1])


def origins(
    program: Program, profile: Profile, rcs: tuple[int | str, int | str]
) -> tuple[Origin | None, Origin | None]:
    """Where the failures of the last operation began; None for a side that succeeded."""
    spy = _Origins(rcs)
    _run(program, profile, spy)
    return spy.found[0], spy.found[1]


class _Spy:
    """Knows which side is at work, and in which operation."""

    def __init__(self) -> None:
        self.pair: Lockstep | None = None
        self.step = 0
        self.side: int | None = None

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        if event not in ("call", "return"):
            return
        if frame.f_code is Side.run.__code__:
            assert self.pair is not None
            side = int(frame.f_locals["self"] is self.pair.candidate)
            if event == "call":
                self.side = side
                self.begin(side, frame)
            else:
                self.side = None
                self.end(side, frame)
        elif self.side is not None:
            if event == "call":
                self.called(frame)
            else:
                self.returned(self.side, frame, value)

    def kernel(self, side: int) -> Kernel:
        """Of a side."""
        assert self.pair is not None
        return (self.pair.candidate if side else self.pair.reference).kernel

    def begin(self, side: int, frame: FrameType) -> None:
        """An operation begins."""

    def end(self, side: int, frame: FrameType) -> None:
        """It ends."""

    def called(self, frame: FrameType) -> None:
        """A function of the models is called."""

    def returned(self, side: int, frame: FrameType, value: Any) -> None:
        """It returns, or is left by an exception."""


class _Changes(_Spy):
    def __init__(self, look: Look, first: int) -> None:
        super().__init__()
        self.look = look
        self.first = first
        self.value: Any = None
        self.found: tuple[list[Change], list[Change]] = ([], [])

    def begin(self, side: int, frame: FrameType) -> None:
        if self.step >= self.first:
            self.value = self.look(self.kernel(side))

    def called(self, frame: FrameType) -> None:
        # What changed before this call was changed by a caller.
        if self.step >= self.first and _name(frame):
            self._look(frame.f_back)

    def returned(self, side: int, frame: FrameType, value: Any) -> None:
        if self.step >= self.first and _name(frame):
            self._look(frame)

    def end(self, side: int, frame: FrameType) -> None:
        if self.step >= self.first:
            self.side = side
            self._look(None)
            self.side = None

    def _look(self, frame: FrameType | None) -> None:
        """Whether the value is another than before; if so, the function is that of `frame` or of a caller."""
        assert self.side is not None
        found = self.found[self.side]
        now = self.look(self.kernel(self.side))
        if now == self.value:
            return
        while frame is not None and frame.f_code is not Side.run.__code__ and not _name(frame):
            frame = frame.f_back
        found.append(Change(self.step, _name(frame) if frame is not None else "", self.value, now))
        self.value = now


class _Origins(_Spy):
    def __init__(self, rcs: tuple[int | str, int | str]) -> None:
        super().__init__()
        self.rcs = rcs
        self.found: list[Origin | None] = [None, None]
        self.sources: dict[int, str] = {}
        """By the frame that got the error from a call: the function where it began."""
        self.unwinding: list[str] = []
        """Functions left since the last call: those that an exception went through, once it has reached the top."""

    def begin(self, side: int, frame: FrameType) -> None:
        self.found[side] = None
        self.sources = {}
        self.unwinding = []

    def called(self, frame: FrameType) -> None:
        self.sources.pop(id(frame), None)
        self.unwinding = []

    def returned(self, side: int, frame: FrameType, value: Any) -> None:
        name = _name(frame)
        rc = self.rcs[side]
        if isinstance(rc, str):
            if name:
                self.unwinding.append(name)
        elif rc < 0 and value == rc and value.__class__ is int:
            source = self.sources.get(id(frame)) or name
            if source:
                self.sources[id(frame.f_back)] = source

    def end(self, side: int, frame: FrameType) -> None:
        rc = self.rcs[side]
        if isinstance(rc, str):
            self.found[side] = Origin(self.unwinding[0], True) if self.unwinding else None
        elif rc < 0 and id(frame) in self.sources:
            self.found[side] = Origin(self.sources[id(frame)], False)


def _name(frame: FrameType) -> str:
    """The kernel's name of the function that a frame runs; of one that stands in for another, the other's."""
    code: CodeType = frame.f_code
    name = kernel_function(code)
    if not name and code.co_name == "wrapper":
        original = getattr(frame.f_locals.get("original"), "__code__", None)
        name = kernel_function(original) if original is not None else ""
    return name


def _run(program: Program, profile: Profile, spy: _Spy) -> None:
    pair = spy.pair = Lockstep(program.machine, profile, full_every=1)

    def begin(number: int) -> None:
        spy.step = number

    step_under(spy, pair, program, begin)
