"""A modelled TLB: which translations of the vmemmap a CPU may still hold (Documentation/core-api/cachetlb.rst).

The pessimistic machine: every valid entry has been used by some CPU, which keeps the translation until a flush covers
it. So an entry that changes or goes leaves a *stale* translation of its old frame behind. Two things are wrong then:

- a frame goes back to the buddy allocator while a stale translation of it exists: whoever gets the frame shares it with
  that CPU;
- on an architecture that wants break-before-make, a valid entry becomes another valid entry with another frame: two
  CPUs, or one with both translations, disagree (a TLB conflict).

What is not modelled: several CPUs, address space identifiers, translations of page tables, caching of the permission
alone (an entry that only becomes read-only leaves nothing stale).

A kernel has a `Tlb` that records nothing unless it was asked to: recording looks at each entry that changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mm.pgtable import Mapping, Shared, Strided
from mm.runs import RunMap, RunSet

if TYPE_CHECKING:
    from mm.kernel import Kernel


class Tlb:
    """The flushes that the models make, and nothing behind them."""

    __slots__ = ("violations",)

    def __init__(self) -> None:
        self.violations: list[str] = []
        """What went wrong in the operation in progress; whoever looks empties it."""

    def flush_tlb_all(self) -> None:
        """flush_tlb_all (arch/*/mm/tlb.c): no translation is left."""

    def flush_tlb_kernel_range(self, lo: int, hi: int) -> None:
        """flush_tlb_kernel_range (arch/*/mm/tlb.c) for vmemmap pages [lo, hi)."""


class RecordingTlb(Tlb):
    """A TLB that knows what is stale."""

    __slots__ = ("break_before_make", "flush_tlb_all_is_empty", "frames", "stale")

    def __init__(self, break_before_make: bool, flush_tlb_all_is_empty: bool = False) -> None:
        super().__init__()
        self.break_before_make = break_before_make
        self.flush_tlb_all_is_empty = flush_tlb_all_is_empty
        self.stale: list[tuple[int, int, Mapping]] = []
        """Ranges of vmemmap pages, and the entries that they had."""
        self.frames = RunSet()
        """Their frames, and perhaps some whose translations are flushed by now: most frames that are freed are none."""

    def flush_tlb_all(self) -> None:
        """No translation is left, or on s390 all are."""
        if not self.flush_tlb_all_is_empty:
            self._forget()

    def _forget(self) -> None:
        self.stale.clear()
        self.frames = RunSet()

    def flush_tlb_kernel_range(self, lo: int, hi: int) -> None:
        """None is left of [lo, hi), on s390 none at all."""
        if self.flush_tlb_all_is_empty:
            self._forget()
            return
        kept: list[tuple[int, int, Mapping]] = []
        for s, e, m in self.stale:
            if s < lo:
                kept.append((s, min(e, lo), m))
            if e > hi:
                kept.append((max(s, hi), e, m))
        self.stale = kept
        if not kept:
            self.frames = RunSet()

    def changed(self, lo: int, hi: int, old: Mapping, new: Mapping | None) -> None:
        """The entries of [lo, hi) were `old` and are now `new`."""
        if new is not None and same_frames(old, new):
            return
        self.stale.append((lo, hi, old))
        for first, last in old_frames(lo, hi, old):
            self.frames.add(first, last)
        if new is not None and self.break_before_make:
            self.violations.append(f"the entries of vmemmap pages {lo:#x}..{hi:#x} change frames without a break")

    def freed(self, pfn: int, end: int) -> None:
        """Frames [pfn, end) go back to the buddy allocator."""
        if not self.frames.overlaps(pfn, end):
            return
        for lo, hi, m in self.stale:
            for first, last in old_frames(lo, hi, m):
                if first < end and pfn < last:
                    at = max(first, pfn)
                    text = f"frame {at:#x} is freed while a translation of vmemmap pages {lo:#x}..{hi:#x} is stale"
                    self.violations.append(text)
                    return


class RecordedEntries(RunMap[Mapping]):
    """Page table entries whose changes a TLB is told."""

    __slots__ = ("tlb",)

    def __init__(self, tlb: RecordingTlb) -> None:
        super().__init__()
        self.tlb = tlb

    def set(self, lo: int, hi: int, val: Mapping) -> None:
        """As RunMap.set."""
        for s, e, old in self.runs(lo, hi):
            self.tlb.changed(s, e, old, val)
        super().set(lo, hi, val)

    def clear(self, lo: int, hi: int) -> None:
        """As RunMap.clear."""
        for s, e, old in self.runs(lo, hi):
            self.tlb.changed(s, e, old, None)
        super().clear(lo, hi)

    def replace(self, bounds: list[int], vals: list[Mapping]) -> None:
        """As RunMap.replace."""
        for lo, hi, val in zip(bounds, bounds[1:], vals, strict=False):
            for s, e, old in self.runs(lo, hi):
                self.tlb.changed(s, e, old, val)
        super().replace(bounds, vals)


def same_frames(a: Mapping, b: Mapping) -> bool:
    """Whether every vmemmap page maps the same frame under both: a split leaf, another protection."""
    if a.kind == "strided" or b.kind == "strided":
        return isinstance(a, Strided) and isinstance(b, Strided) and a._replace(rw=b.rw, tail_rw=b.tail_rw) == b
    if isinstance(a, Shared) or isinstance(b, Shared):
        return isinstance(a, Shared) and isinstance(b, Shared) and a.frame == b.frame
    return a.delta == b.delta


def old_frames(lo: int, hi: int, m: Mapping) -> list[tuple[int, int]]:
    """The frames that [lo, hi) mapped under `m`, as half-open ranges."""
    if isinstance(m, Shared):
        return [(m.frame, m.frame + 1)]
    if isinstance(m, Strided):
        kept = m.kept_frame(lo), m.kept_frame(hi - 1) + 1
        return [kept] if m.tail is None else [kept, (m.tail, m.tail + 1)]
    return [(lo + m.delta, hi + m.delta)]


def record(k: Kernel) -> None:
    """Let a kernel that has not booted yet record what its TLB may hold."""
    tlb = RecordingTlb(k.arch.break_before_make, k.arch.flush_tlb_all_is_empty)
    k.tlb = tlb
    k.tables.entries = RecordedEntries(tlb)
    k.pages.freeing = tlb.freed
