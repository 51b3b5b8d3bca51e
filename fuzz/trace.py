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
from fuzz.program.arguments import format_size
from fuzz.program.model import Program
from fuzz.program.text import format_machine, format_op
from mm.errno import errno_name
from mm.kernel import Kernel
from mm.mmzone import ZONE_NAMES
from mm.pgtable import Leaf, Mapping, Pte, Shared, Strided
from mm.runs import RunMap

UNMAPPED: Final = "not mapped"


class CounterChange(NamedTuple):
    """One counter, before and after an operation."""

    name: str
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


def counters(kernel: Kernel) -> dict[str, int]:
    """The counters that a report shows, by name."""
    stat = kernel.vmstat
    out = {
        "nr_memmap_pages": stat.nr_memmap,
        "nr_memmap_boot_pages": stat.nr_memmap_boot,
        "nr_page_table_pages": stat.nr_page_table_pages,
        "struct pages initialized": stat.struct_pages_initialized,
    }
    for node in kernel.nodes:
        for zone in node.zones:
            name = f"node {node.nid} {ZONE_NAMES[zone.idx]}"
            out[f"{name} free pages"] = zone.free_pages(kernel.arch.pmd_order)
            out[f"{name} managed pages"] = zone.managed_pages
            out[f"{name} present pages"] = zone.present_pages
    for order, pool in kernel.hstates.items():
        size = format_size(kernel.arch.page << order)
        for nid in range(len(pool.nr)):
            out[f"node {nid} {size} huge pages"] = pool.nr[nid]
            out[f"node {nid} {size} free huge pages"] = len(pool.free[nid])
            out[f"node {nid} {size} surplus huge pages"] = pool.surplus[nid]
    return out


class _Snapshot:
    """One side between two operations."""

    def __init__(self, side: Side) -> None:
        self.counters = counters(side.kernel)
        self.mapping = side.kernel.tables.entries.copy()

    def step(self, after: _Snapshot, kernel: Kernel, rc: int | str) -> SideStep:
        """What happened between this snapshot and a later one."""
        changed = tuple(
            CounterChange(name, value, after.counters[name])
            for name, value in self.counters.items()
            if value != after.counters[name]
        )
        arch = kernel.arch
        mapping = tuple(
            MappingChange(lo, hi, lo * arch.spp * arch.page, (hi - lo) * arch.spp * arch.page, old, new)
            for lo, hi, old, new in differences(self.mapping, after.mapping)
        )
        return SideStep(rc, outcome(rc), changed, mapping, tuple(kernel.log))


def differences(before: RunMap[Mapping], after: RunMap[Mapping]) -> list[tuple[int, int, str, str]]:
    """Ranges that are mapped otherwise than before, as (first, end, how before, how now), alike neighbours joined."""
    edges = sorted({*before.starts, *before.ends, *after.starts, *after.ends})
    out: list[tuple[int, int, str, str]] = []
    for lo, hi in pairwise(edges):
        old, new = before.get(lo), after.get(lo)
        if old == new:
            continue
        words = describe(old), describe(new)
        if words[0] == words[1]:
            words = words[0], f"{words[1]}, other frames"
        if out and out[-1][1] == lo and out[-1][2:] == words:
            out[-1] = (out[-1][0], hi, *words)
        else:
            out.append((lo, hi, *words))
    return out


def describe(mapping: Mapping | None) -> str:
    """A form of mapping in words."""
    if mapping is None:
        return UNMAPPED
    if isinstance(mapping, Leaf):
        return "PMD leaf, RW"
    if isinstance(mapping, Pte):
        return f"own frames by PTE, {_rights(mapping.rw)}"
    if isinstance(mapping, Shared):
        return f"the shared tail page, {_rights(mapping.rw)}"
    assert isinstance(mapping, Strided)
    kept = f"{mapping.keep} own {_rights(mapping.rw)}"
    rest = mapping.period - mapping.keep
    whose = "its last own page" if mapping.tail is None else "the shared tail page"
    return f"in each {mapping.period} pages {kept}, {rest} to {whose} {_rights(mapping.tail_rw)}"


def _rights(rw: bool) -> str:
    return "RW" if rw else "RO"
