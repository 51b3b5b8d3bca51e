"""What a program did, step by step, on both sides: the one object that terminal, JSON and HTML reports render.

A step holds what changed, not the state: return codes, counters before and after, and the ranges of vmemmap pages whose
mapping changed, in words. A text is ready to be read; a number is the kernel's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

from fuzz.execute import Lockstep, Profile, Side
from fuzz.oracle.finding import Finding
from fuzz.oracle.observe import Form, Segment, mapping, tails_by_frame
from fuzz.program.arguments import format_size
from fuzz.program.model import Program
from fuzz.program.text import format_machine, format_op
from mm.errno import errno_name
from mm.kernel import Kernel
from mm.mmzone import ZONE_NAMES

UNMAPPED: Final = "not mapped"
END: Final = 1 << 52
"""Behind the last vmemmap page of any machine."""


class CounterChange(NamedTuple):
    """One counter, before and after an operation."""

    field: str
    """Its name in a finding."""
    name: str
    """Its name for people."""
    before: int
    after: int


class MappingChange(NamedTuple):
    """A range of vmemmap pages [first, end) that were mapped in one way and are now mapped in another."""

    first: int
    end: int
    at: int
    """Address of the first page frame that the range describes."""
    size: int
    """Bytes of memory that the range describes."""
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class SideStep:
    """What one side did in one operation."""

    rc: int | str
    outcome: str
    """The return code by name, or how the kernel died."""
    counters: tuple[CounterChange, ...]
    mapping: tuple[MappingChange, ...]
    log: tuple[str, ...]
    """Warnings of the kernel."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on both sides."""

    number: int
    text: str
    comment: str
    reference: SideStep
    candidate: SideStep
    clauses: tuple[str, ...]
    """Ledger clauses that explained a difference here for the first time."""
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class Trace:
    """A program's run."""

    machine: str
    profile: str
    steps: tuple[Step, ...]
    finding: Finding | None
    """The first difference that no clause explains; where no step has it, the full comparison at the end saw it."""
    terminal: str | None
    """The ledger clause that ended the program early."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        data: dict[str, Any] = _plain(self)
        return data


def _plain(value: Any) -> Any:
    """Dataclasses and named tuples as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value):
        plain = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, Finding):
            plain["signature"] = value.signature
        return plain
    if hasattr(value, "_asdict"):
        return {name: _plain(entry) for name, entry in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value


def trace(program: Program, profile: Profile = "posted") -> Trace:
    """Run a program and write down what each operation changed."""
    # A full comparison after every operation: the step that is blamed is the one that did it.
    pair = Lockstep(program.machine, profile, full_every=1)
    steps: list[Step] = []
    terminal = None
    known: set[str] = set()
    before = _Snapshot(pair.reference), _Snapshot(pair.candidate)
    finding = None
    for number, op in enumerate(program.ops, 1):
        result = pair.step(op)
        after = _Snapshot(pair.reference), _Snapshot(pair.candidate)
        sides = [
            before[i].step(after[i], side.kernel, result.rcs[i])
            for i, side in enumerate((pair.reference, pair.candidate))
        ]
        new = tuple(sorted(pair.oracle.clauses - known))
        known.update(new)
        finding, terminal = result.finding, result.terminal
        steps.append(Step(number, format_op(op), op.comment, sides[0], sides[1], new, finding))
        before = after
        if pair.over:
            break
    else:
        finding = pair.finish()
    return Trace(format_machine(program.machine), profile, tuple(steps), finding, None if finding else terminal)


def outcome(rc: int | str) -> str:
    """A return code as a kernel developer reads it."""
    if isinstance(rc, str):
        return rc
    return errno_name(rc) if rc < 0 else str(rc)


def counters(kernel: Kernel) -> dict[str, tuple[str, int]]:
    """The counters that a report shows: by the name that a finding gives them, the name for people and the value."""
    stat = kernel.vmstat
    out = {
        "nr_memmap": ("nr_memmap_pages", stat.nr_memmap),
        "nr_memmap_boot": ("nr_memmap_boot_pages", stat.nr_memmap_boot),
        "nr_page_table_pages": ("nr_page_table_pages", stat.nr_page_table_pages),
        "struct_pages_initialized": ("struct pages initialized", stat.struct_pages_initialized),
    }
    total = 0
    for node in kernel.nodes:
        for zone in node.zones:
            field, name = f"zone{zone.nid}.{zone.idx}", f"node {zone.nid} {ZONE_NAMES[zone.idx]}"
            free = zone.free_pages(kernel.arch.pmd_order)
            total += free
            out[f"{field}.free"] = f"{name} free pages", free
            out[f"{field}.managed"] = f"{name} managed pages", zone.managed_pages
            out[f"{field}.present"] = f"{name} present pages", zone.present_pages
    if len(kernel.nodes) > 1:
        out["free pages"] = "free pages of all nodes", total
    for order, pool in kernel.hstates.items():
        field, size = f"hugetlb.{order}", format_size(kernel.arch.page << order)
        out[f"{field}.nr"] = f"{size} huge pages", sum(pool.nr)
        out[f"{field}.free"] = f"{size} free huge pages", pool.free_count()
        out[f"{field}.surplus"] = f"{size} surplus huge pages", sum(pool.surplus)
    return out


class _Snapshot:
    """One side between two operations."""

    def __init__(self, side: Side) -> None:
        kernel = side.kernel
        self.counters = counters(kernel)
        self.mapping = rows(mapping(kernel, tails_by_frame(kernel), 0, END))

    def step(self, after: _Snapshot, kernel: Kernel, rc: int | str) -> SideStep:
        """What happened between this snapshot and a later one."""
        changed = tuple(
            CounterChange(field, name, value, after.counters[field][1])
            for field, (name, value) in self.counters.items()
            if value != after.counters[field][1]
        )
        arch = kernel.arch
        moved = tuple(
            MappingChange(lo, hi, lo * arch.spp * arch.page, (hi - lo) * arch.spp * arch.page, old, new)
            for lo, hi, old, new in differences(self.mapping, after.mapping)
        )
        return SideStep(rc, outcome(rc), changed, moved, tuple(kernel.log))


Words = tuple[int, int, str]
"""A range of vmemmap pages and how it is mapped."""


def differences(before: list[Words], after: list[Words]) -> list[tuple[int, int, str, str]]:
    """Ranges that are mapped otherwise than before, as (first, end, how before, how now)."""
    edges = sorted({edge for words in (before, after) for lo, hi, _ in words for edge in (lo, hi)})
    out: list[tuple[int, int, str, str]] = []
    old, new = _Cursor(before), _Cursor(after)
    for lo, hi in pairwise(edges):
        words = old.at(lo), new.at(lo)
        if words[0] == words[1]:
            continue
        if out and out[-1][1] == lo and out[-1][2:] == words:
            out[-1] = (out[-1][0], hi, *words)
        else:
            out.append((lo, hi, *words))
    return out


class _Cursor:
    """Looks up ascending positions in a list of ranges."""

    def __init__(self, words: list[Words]) -> None:
        self.words = words
        self.i = 0

    def at(self, position: int) -> str:
        while self.i < len(self.words) and self.words[self.i][1] <= position:
            self.i += 1
        if self.i < len(self.words) and self.words[self.i][0] <= position:
            return self.words[self.i][2]
        return UNMAPPED


def rows(segments: list[Segment]) -> list[Words]:
    """The mapping in words; compound pages are told as rows, however the side stores them."""
    out: list[Words] = []
    i = 0
    while i < len(segments):
        lo, hi, form = segments[i]
        text = describe(form)
        if form[0] == "pte" and i + 1 < len(segments):
            start, end, tail = segments[i + 1]
            period = end - lo
            if start == hi and tail[0] in ("tail", "alias") and period & (period - 1) == 0 and lo % period == 0:
                # The page that an alias shows is one of those that are kept.
                alias = tail[0] == "alias"
                keep = start - lo + alias
                text, hi = _row(period, keep, form[1], form[2], tail[1], alias), end
                i += 1
        if out and out[-1][1] == lo and out[-1][2] == text:
            out[-1] = out[-1][0], hi, text
        else:
            out.append((lo, hi, text))
        i += 1
    return out


def describe(form: Form) -> str:
    """One form of mapping in words."""
    match form:
        case ("leaf", owner):
            return f"PMD leaf, {_OWNERS.get(owner, owner)}, RW"
        case ("pte", rw, owner):
            return f"base pages, {_OWNERS.get(owner, owner)}, {_rights(rw)}"
        case ("tail", rw, _, order):
            return f"the zone's tail page of order {order}, {_rights(rw)}"
        case ("alias", rw, _, _):
            return f"a tail page of the compound page's own, {_rights(rw)}"
        case ("row", period, keep, _, rw, owner, tail_rw, name):
            return _row(period, keep, rw, owner, tail_rw, name is None)
    raise AssertionError(form)


def _row(period: int, keep: int, rw: bool, owner: str, tail_rw: bool, own: bool) -> str:
    whose = "the last of these" if own else "the zone's tail page"
    kept = f"{keep} own ({_OWNERS.get(owner, owner)}, {_rights(rw)})"
    return f"in every {period}: {kept}, {period - keep} share {whose} ({_rights(tail_rw)})"


_OWNERS: Final = {
    "memmap_boot": "boot memory",
    "memmap": "buddy memory",
    "selfhosted": "in the block itself",
    "altmap": "in the device itself",
}


def _rights(rw: bool) -> str:
    return "RW" if rw else "RO"
