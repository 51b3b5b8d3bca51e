"""What a program did, step by step, on both sides: the one object that terminal, JSON and HTML reports render.

A step holds what changed, in words: return codes, counters before and after, the ranges of vmemmap pages whose mapping
changed. It also holds the state it led to, for pictures: the whole mapping as blocks, all counters, and how many frames
each owner has. A text is ready to be read; a number is the kernel's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

from fuzz.execute import Lockstep, Profile
from fuzz.oracle.finding import Finding
from fuzz.oracle.observe import Form, Segment, mapping, tails_by_frame
from fuzz.program.arguments import format_size
from fuzz.program.model import Program
from fuzz.program.text import format as format_program
from fuzz.program.text import format_machine, format_op
from fuzz.side import Side
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


class Value(NamedTuple):
    """One counter after an operation."""

    field: str
    name: str
    value: int


class Owned(NamedTuple):
    """How many page frames one owner has."""

    owner: str
    """As the models call it: `OWNER_*` of mm/page_alloc.py."""
    frames: int


class Block(NamedTuple):
    """A range of vmemmap pages [first, end) that are mapped in one way."""

    first: int
    end: int
    text: str
    """The way, in words; blocks that touch have different ones."""
    kind: Literal["leaf", "own", "shared", "row"]
    """PMD leaf, PTEs to frames of their own, PTEs to one shared frame, or a row of compound pages, each of which has
    frames of its own and then a shared one."""
    owner: str
    """Of the frames that are not shared."""
    rw: bool
    """Whether pages with frames of their own are writable; of `shared`, the shared ones."""
    period: int = 1
    """Vmemmap pages of a compound page of a row."""
    keep: int = 1
    """How many of them have frames of their own."""
    phase: int = 0
    """First page of a compound page, modulo `period`."""
    tail_rw: bool = False

    def own_pages(self, first: int, end: int) -> int:
        """Pages of [first, end), a part of the block, that have a frame of their own."""
        if self.kind == "shared":
            return 0
        if self.kind != "row":
            return end - first
        return self._own_below(end) - self._own_below(first)

    def _own_below(self, page: int) -> int:
        rows, at = divmod(page - self.phase, self.period)
        return rows * self.keep + min(at, self.keep)


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
    values: tuple[Value, ...]
    """All counters after it."""
    blocks: tuple[Block, ...]
    """The whole mapping after it."""
    frames: tuple[Owned, ...]
    """Owners of frames after it, those that have some, by name."""


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
    reference: str
    """Which kernel the reference models."""
    steps: tuple[Step, ...]
    finding: Finding | None
    """The first difference that no clause explains; where no step has it, the full comparison at the end saw it."""
    terminal: str | None
    """The ledger clause that ended the program early."""
    program: str
    """The text of the program."""
    page: int
    """Bytes of a page."""
    struct_page: int
    """Bytes of a struct page."""

    def vpn(self, pfn: int) -> int:
        """The vmemmap page in which the struct page of `pfn` begins."""
        return pfn * self.struct_page // self.page

    def pfn(self, vpn: int) -> int:
        """The first page whose struct page does not begin before vmemmap page `vpn`."""
        return -(-vpn * self.page // self.struct_page)

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
    arch = pair.reference.kernel.arch
    return Trace(
        format_machine(program.machine),
        profile,
        pair.reference.kernel.paths.version,
        tuple(steps),
        finding,
        None if finding else terminal,
        format_program(program),
        arch.page,
        arch.struct_page,
    )


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
            out[f"{field}.cma"] = f"{name} free CMA pages", zone.cma.total
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
        self.frames = _owned(kernel)

    def step(self, after: _Snapshot, kernel: Kernel, rc: int | str) -> SideStep:
        """What happened between this snapshot and a later one."""
        changed = tuple(
            CounterChange(field, name, value, after.counters[field][1])
            for field, (name, value) in self.counters.items()
            if value != after.counters[field][1]
        )
        arch = kernel.arch
        moved = tuple(
            MappingChange(lo, hi, arch.pfn(lo) * arch.page, (arch.pfn(hi) - arch.pfn(lo)) * arch.page, old, new)
            for lo, hi, old, new in differences(self.mapping, after.mapping)
        )
        values = tuple(Value(field, name, value) for field, (name, value) in after.counters.items())
        return SideStep(
            rc, outcome(rc), changed, moved, tuple(kernel.log), values, tuple(after.mapping), tuple(after.frames)
        )


def _owned(kernel: Kernel) -> list[Owned]:
    """Frames by owner."""
    total: dict[str, int] = {}
    for lo, hi, owner in kernel.pages.owners.items():
        total[owner] = total.get(owner, 0) + hi - lo
    return [Owned(owner, frames) for owner, frames in sorted(total.items())]


def differences(before: Sequence[Block], after: Sequence[Block]) -> list[tuple[int, int, str, str]]:
    """Ranges that are mapped otherwise than before, as (first, end, how before, how now)."""
    edges = sorted({edge for blocks in (before, after) for block in blocks for edge in block[:2]})
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

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self.i = 0

    def at(self, position: int) -> str:
        while self.i < len(self.blocks) and self.blocks[self.i].end <= position:
            self.i += 1
        if self.i < len(self.blocks) and self.blocks[self.i].first <= position:
            return self.blocks[self.i].text
        return UNMAPPED


def rows(segments: list[Segment]) -> list[Block]:
    """The mapping as blocks; compound pages are told as rows, however the side stores them."""
    out: list[Block] = []
    i = 0
    while i < len(segments):
        lo, hi, form = segments[i]
        block = _block(lo, hi, form)
        if form[0] == "pte" and i + 1 < len(segments):
            start, end, tail = segments[i + 1]
            period = end - lo
            if start == hi and tail[0] in ("tail", "alias") and period & (period - 1) == 0 and lo % period == 0:
                # The page that an alias shows is one of those that are kept.
                alias = tail[0] == "alias"
                block = _row(lo, end, period, start - lo + alias, 0, form[1], form[2], tail[1], alias)
                i += 1
        if out and out[-1].end == block.first and out[-1].text == block.text and out[-1].phase == block.phase:
            out[-1] = out[-1]._replace(end=block.end)
        else:
            out.append(block)
        i += 1
    return out


def _block(lo: int, hi: int, form: Form) -> Block:
    """A range that is mapped in one form."""
    match form:
        case ("leaf", owner):
            return Block(lo, hi, f"PMD leaf, {OWNERS.get(owner, owner)}, RW", "leaf", owner, True)
        case ("pte", rw, owner):
            return Block(lo, hi, f"base pages, {OWNERS.get(owner, owner)}, {_rights(rw)}", "own", owner, rw)
        case ("tail", rw, _, order):
            return Block(lo, hi, f"the zone's tail page of order {order}, {_rights(rw)}", "shared", "", rw)
        case ("alias", rw, _, _):
            return Block(lo, hi, f"a tail page of the compound page's own, {_rights(rw)}", "shared", "", rw)
        case ("row", period, keep, phase, rw, owner, tail_rw, name):
            return _row(lo, hi, period, keep, phase, rw, owner, tail_rw, name is None)
    raise AssertionError(form)


def _row(
    lo: int, hi: int, period: int, keep: int, phase: int, rw: bool, owner: str, tail_rw: bool, alias: bool
) -> Block:
    whose = "the last of these" if alias else "the zone's tail page"
    kept = f"{keep} own ({OWNERS.get(owner, owner)}, {_rights(rw)})"
    text = f"in every {period}: {kept}, {period - keep} share {whose} ({_rights(tail_rw)})"
    return Block(lo, hi, text, "row", owner, rw, period, keep, phase, tail_rw)


OWNERS: Final = {
    "memmap_boot": "boot memory",
    "memmap": "buddy memory",
    "selfhosted": "in the block itself",
    "altmap": "in the device itself",
}


def _rights(rw: bool) -> str:
    return "RW" if rw else "RO"
