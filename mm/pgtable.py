"""The kernel page tables of the vmemmap (arch/x86/mm/init_64.c, mm/sparse-vmemmap.c, mm/hugetlb_vmemmap.c).

The vmemmap is indexed by *vmemmap page number*, vpn = pfn // spp. Its mapping is a `RunMap` of four forms, each a
function of the vpn, so that a run can be cut anywhere and equal neighbours merge:

  Leaf(delta)             part of a PMD leaf, RW; vpn maps frame vpn + delta
  Pte(delta, rw)          base pages with consecutive frames; vpn maps frame vpn + delta
  Shared(frame, rw)       every vpn maps the one frame
  Strided(...)            a row of compound pages: per `period` vpns the first `keep` map frames of their own
  (consecutive over
                          the whole row), the others map `tail`, or the period's last kept frame when `tail` is None

Page-table pages themselves are frames too: PTE tables by PMD index (vpn // ptrs), PMD tables by PUD index, PUD tables
by PGD index. Installing and freeing frames is the business of the callers; this module only knows the entries.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from mm.arch import Arch
from mm.page_alloc import Extents, KernelBug
from mm.runs import RunMap, RunSet


class Leaf(NamedTuple):
    """PMD leaf, RW, private frames: vpn maps frame vpn + delta."""

    delta: int
    kind: Literal["leaf"] = "leaf"


class Pte(NamedTuple):
    """PTEs with private, consecutive frames: vpn maps frame vpn + delta."""

    delta: int
    rw: bool
    kind: Literal["pte"] = "pte"


class Shared(NamedTuple):
    """PTEs that all map one frame."""

    frame: int
    rw: bool
    kind: Literal["shared"] = "shared"


class Strided(NamedTuple):
    """PTEs of a row of compound pages, all of `period` vpns. Build it with `strided`, which makes it canonical."""

    period: int
    keep: int
    phase: int
    """vpn of a period's start, modulo `period`."""
    base: int
    """First kept frame of the (possibly fictitious) period that starts at vpn `phase`."""
    rw: bool
    """Protection of the kept pages."""
    tail: int | None
    """Frame that the other pages map; None: the period's last kept frame."""
    tail_rw: bool
    kind: Literal["strided"] = "strided"

    def kept_frame(self, vpn: int) -> int:
        """Frame of a kept page, or of the last kept page of vpn's period."""
        period, at = divmod(vpn - self.phase, self.period)
        return self.base + period * self.keep + min(at, self.keep - 1)


Mapping = Leaf | Pte | Shared | Strided


def strided(start_vpn: int, period: int, keep: int, frame: int, rw: bool, tail: int | None, tail_rw: bool) -> Strided:
    """The row of compound pages that begins at `start_vpn` with kept frame `frame`."""
    phase = start_vpn % period
    base = frame - (start_vpn - phase) // period * keep
    return Strided(period, keep, phase, base, rw, tail, tail_rw)


def frame_at(m: Mapping, vpn: int) -> int:
    """The frame that `vpn` maps under `m`."""
    if isinstance(m, Leaf | Pte):
        return vpn + m.delta
    if isinstance(m, Shared):
        return m.frame
    if m.tail is not None and (vpn - m.phase) % m.period >= m.keep:
        return m.tail
    return m.kept_frame(vpn)


def writable(m: Mapping, vpn: int) -> bool:
    """Whether `vpn` is mapped RW under `m`."""
    if isinstance(m, Leaf):
        return True
    if isinstance(m, Strided):
        return m.rw if (vpn - m.phase) % m.period < m.keep else m.tail_rw
    return m.rw


def private_frames(m: Mapping, lo: int, hi: int) -> Extents:
    """Extents of the kept (not shared by `tail`) frames that [lo, hi) maps under `m`; Strided runs must be whole
    periods."""
    if isinstance(m, Leaf | Pte):
        return [(lo + m.delta, hi - lo)]
    if isinstance(m, Shared):
        return []
    if (lo - m.phase) % m.period or (hi - m.phase) % m.period:
        raise KernelBug(f"vmemmap pages {lo:#x}..{hi:#x} cut a compound page of {m.period} vmemmap pages")
    return [(m.kept_frame(lo), (hi - lo) // m.period * m.keep)]


def shared_uses(m: Mapping, lo: int, hi: int) -> tuple[int, int] | None:
    """(frame, PTEs that map it) for the frame shared over the whole of [lo, hi), or None if `m` has none."""
    if isinstance(m, Shared):
        return m.frame, hi - lo
    if isinstance(m, Strided) and m.tail is not None:
        return m.tail, (hi - lo) // m.period * (m.period - m.keep)
    return None


PTE_TABLE, PMD_TABLE, PUD_TABLE = 0, 1, 2


class VmemmapTables:
    """The entries of init_mm for the vmemmap, and the frames of its page tables."""

    __slots__ = ("arch", "entries", "roots", "spans", "tables", "touched", "undone", "window")

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self.window: tuple[int, int] | None = None
        """The vmemmap pages that have an address (VMEMMAP_START..VMEMMAP_END); None until `setup_bootmem`, and where
        all have one."""
        self.entries: RunMap[Mapping] = RunMap()
        ptrs = arch.ptrs_per_pte
        self.spans = (ptrs, 1 << (arch.pud_shift - arch.page_shift), 1 << (arch.pgd_shift - arch.page_shift))
        """Vmemmap pages covered by one PTE, PMD and PUD table. Where the PUD is folded the last two are equal, and no
        PUD table exists."""
        self.tables: tuple[RunMap[int], RunMap[int], RunMap[int]] = (RunMap(), RunMap(), RunMap())
        """Per level: table index (vpn // span) -> frame - index."""
        self.roots: RunSet | None = None
        """PUD tables that a process forked at the end of the boot has in its page table (pgd_list in arch/x86/mm), by
        index. None before that, and where page tables share the kernel's entries."""
        self.touched: list[tuple[int, int]] = []
        """Ranges of vpns whose entries changed since the oracle last looked."""
        self.undone: list[tuple[int, int]] = []
        """Ranges of vpns that were remapped in vain, and put back, since then."""

    def get(self, vpn: int) -> Mapping | None:
        """The form that maps `vpn`, or None."""
        return self.entries.get(vpn)

    def runs(self, lo: int, hi: int) -> list[tuple[int, int, Mapping]]:
        """Mapped runs of [lo, hi), clipped, ascending."""
        return self.entries.runs(lo, hi)

    def set(self, lo: int, hi: int, m: Mapping) -> None:
        """Install `m` for [lo, hi), replacing what was there."""
        self.entries.set(lo, hi, m)
        self.touched.append((lo, hi))

    def clear(self, lo: int, hi: int) -> list[tuple[int, int, Mapping]]:
        """Remove the entries of [lo, hi) and return them as clipped runs."""
        old = self.entries.runs(lo, hi)
        self.entries.clear(lo, hi)
        self.touched.append((lo, hi))
        return old

    def map_extents(self, lo: int, extents: Extents, rw: bool = True) -> int:
        """Map consecutive vpns from `lo` to the frames of `extents` in order; returns the vpn after the last."""
        for frame, n in extents:
            self.set(lo, lo + n, Pte(frame - lo, rw))
            lo += n
        return lo

    def holes(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The unmapped parts of [lo, hi), ascending."""
        out = []
        for s, e, _ in self.entries.runs(lo, hi):
            if lo < s:
                out.append((lo, s))
            lo = e
        if lo < hi:
            out.append((lo, hi))
        return out

    def missing_tables(self, level: int, lo: int, hi: int) -> list[tuple[int, int]]:
        """Index ranges of the tables of `level` that [lo, hi) needs and that do not exist yet."""
        span = self.spans[level]
        first, last = lo // span, -(-hi // span)
        out = []
        for s, e, _ in self.tables[level].runs(first, last):
            if first < s:
                out.append((first, s))
            first = e
        if first < last:
            out.append((first, last))
        return out

    def add_tables(self, level: int, index: int, extents: Extents) -> int:
        """Install table pages with consecutive indices from `index`; returns the index after the last."""
        for frame, n in extents:
            self.tables[level].set(index, index + n, frame - index)
            index += n
        return index

    def pgd_ctor(self) -> None:
        """pgd_ctor (arch/x86/mm/pgtable.c): a process is forked, whose page table begins as a copy of init_mm's."""
        if self.arch.page_table_sync:
            self.roots = RunSet()
            self.sync_global_pgds(0, 1 << 62)

    def p4d_populate_kernel(self, index: int, frame: int) -> None:
        """p4d_populate_kernel (include/linux/pgalloc.h, 7.3): PUD table `index` of init_mm, which all page tables get
        at once (ARCH_PAGE_TABLE_SYNC_MASK, arch_sync_kernel_mappings)."""
        self.tables[PUD_TABLE].set(index, index + 1, frame - index)
        span = self.spans[PUD_TABLE]
        self.sync_global_pgds(index * span, (index + 1) * span)

    def sync_global_pgds(self, lo: int, hi: int) -> None:
        """sync_global_pgds_l4 (arch/x86/mm/init_64.c, 7.3): the page tables of all processes get the PUD tables of
        init_mm for [lo, hi). The entry is at the p4d level, which is the top one with four levels."""
        if self.roots is not None:
            span = self.spans[PUD_TABLE]
            for s, e, _ in self.tables[PUD_TABLE].runs(lo // span, -(-hi // span)):
                self.roots.add(s, e)

    def access(self, lo: int, hi: int) -> None:
        """A process reads or writes [lo, hi), which init_mm maps: a page fault where its own page table has no entry
        (do_kern_addr_fault in arch/x86/mm/fault.c copies none on 64 bits)."""
        span = self.spans[PUD_TABLE]
        if self.roots is not None and not self.roots.covers(lo // span, -(-hi // span)):
            raise KernelBug(f"page fault: vmemmap pages {lo:#x}..{hi:#x} are not in the page table of a process")

    def split_leaf(self, pmd: int, frame: int) -> None:
        """Replace the PMD leaf with index `pmd` by a PTE table in `frame` with the same 512 RW entries."""
        ptrs = self.arch.ptrs_per_pte
        lo, hi = pmd * ptrs, (pmd + 1) * ptrs
        leaf = self.entries.get(lo)
        if not isinstance(leaf, Leaf):
            raise KernelBug(f"vmemmap PMD {pmd:#x} is split but is no leaf")
        self.tables[PTE_TABLE].set(pmd, pmd + 1, frame - pmd)
        self.set(lo, hi, Pte(leaf.delta, True))

    def pop_empty_tables(
        self, lo: int, hi: int, levels: tuple[int, ...] = (PTE_TABLE, PMD_TABLE, PUD_TABLE)
    ) -> Extents:
        """Detach the empty tables of `levels`, in this order, over [lo, hi), which is cleared; returns their frames
        (the caller frees them)."""
        out: Extents = []
        for level in levels:
            span = self.spans[level]
            for s, e, delta in self.tables[level].runs(lo // span, -(-hi // span)):
                # Only tables that reach beyond the cleared range can still be in use.
                if s * span < lo and self._in_use(level, s):
                    s += 1
                if s < e and e * span > hi and self._in_use(level, e - 1):
                    e -= 1
                if s < e:
                    self.tables[level].clear(s, e)
                    out.append((s + delta, e - s))
        return out

    def _in_use(self, level: int, index: int) -> bool:
        span = self.spans[level]
        if level == PTE_TABLE:
            return self.entries.overlaps(index * span, (index + 1) * span)
        ptrs = span // self.spans[level - 1]
        if self.tables[level - 1].overlaps(index * ptrs, (index + 1) * ptrs):
            return True
        return level == PMD_TABLE and self.entries.overlaps(index * span, (index + 1) * span)
