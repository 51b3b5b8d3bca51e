"""What the reference `v7.0-base` does otherwise than Linux 7.3, carried forward from operation to operation.

`v7.0-base` has the bugs that the series and its fixes mended first (separate-paths.md section 5, what is FIXED there;
docs/history.md). Each has a clause here. The amounts are computed from the geometry and from what the reference was
asked to do, never from what it shows: what it shows must be as much off as the bug makes it, and what it is off is
taken away before the clauses about the framework are asked.

`History` exists only where the reference is `v7.0-base`; in a run against 7.3 there is none, and no clause of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

from fuzz.oracle.accounting import Accounting
from fuzz.oracle.difference import maps_difference
from fuzz.oracle.finding import NO_MEMMAP, UNMAPPED, Difference, Outcome
from fuzz.oracle.observe import Form, PageSegment, Segment, append, append_pages
from fuzz.oracle.pieces import REF_KEEP, shares_tails
from mm.errno import ENOMEM
from mm.kernel import MIGRATE_MOVABLE, Kernel
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY, SECTION_IS_VMEMMAP_PREINIT, ZONE_DEVICE
from mm.page import Compound, Content, Poison, Row, Tail
from mm.page_alloc import OWNER_MEMMAP, OWNER_MEMMAP_BOOT
from mm.pgmap import PgMap
from mm.pgtable import frame_at
from mm.runs import RunMap, RunSet

VERSION: Final = "v7.0-base"
"""`SeparatePaths.version` of the reference that all this is about."""

UNDERFLOW: Final = "history-vmemmap-accounting-underflow"
DAX_COUNT: Final = "history-dax-vmemmap-accounting"
PAGEBLOCKS: Final = "history-zone-device-pageblocks"
STRUCT_PAGES: Final = "history-zone-device-struct-pages"
PROTECTION: Final = "history-prehvo-protection"
ALTMAP: Final = "history-altmap-in-error-path"
ADDR_PFN: Final = "history-powerpc-addr-pfn"
ROLLBACK: Final = "history-rollback-of-head"
DROP: Final = "history-boot-populate-drop"

_NOT_RAM: Final = re.compile(r"bug: bad page state: frame (0x[0-9a-f]+) is freed but is not online RAM")


V = TypeVar("V")
Runs = list[tuple[int, int]]


class History:
    """How far the reference is off, and where."""

    __slots__ = (
        "_fresh_blocks",
        "accounting",
        "blocks",
        "cand",
        "headless",
        "ref",
        "tails",
        "used",
        "writable",
    )

    def __init__(self, ref: Kernel, cand: Kernel, accounting: Accounting, used: set[str]) -> None:
        self.ref, self.cand, self.accounting, self.used = ref, cand, accounting, used
        self.blocks = RunSet()
        """Pageblocks of devices that the reference has left as they were."""
        self.tails: RunMap[Compound] = RunMap()
        """Struct pages that the reference has left poisoned, and what they should be."""
        self.writable: RunMap[int] = RunMap()
        """Vmemmap pages of pre-HVO folios that the reference has not protected, by the folio's pfn."""
        self.headless: Runs = []
        """Vmemmap pages of folios of the reference whose optimization was rolled back over their heads, as far as it
        had come: the sides part here."""
        self._fresh_blocks: list[Runs] = []
        """Those of the device that the operation adds, range by range."""

    def after(self, operation: str, added: PgMap | None, written: Runs) -> None:
        """Look at what the operation did on the reference; before anything is compared."""
        self._fresh_blocks = []
        ref = self.ref
        for _, nr in ref.sections.unpopulated:
            self.accounting.lose(ref.arch.vpn_end(nr))
            self.used.add(UNDERFLOW)
        for lo, hi, migratetype in ref.pageblocks.items():
            if migratetype == MIGRATE_MOVABLE:
                self.blocks.remove(lo, hi)
        self._written(written)
        self._remapped()
        if operation == "boot":
            self._boot()
        for lo, end in ref.tables.undone:
            self._rolled_back(lo, end)
        if added is not None:
            self._added(added)

    def _added(self, pgmap: PgMap) -> None:
        ref, order = self.ref, pgmap.vmemmap_shift
        altmap, size = pgmap.altmap, 1 << order
        ranges = [(s if altmap is None else altmap.base_pfn + altmap.offset(), e) for s, e in pgmap.ranges]
        block = ref.arch.pmd_order
        if order > block:
            # memmap_init_zone_device: of each compound page only the pageblock of its head.
            self._fresh_blocks = [
                [((head >> block) + 1, (head + size) >> block) for head in range(start, end, size)]
                for start, end in ranges
            ]
        if not shares_tails(ref.arch, order, altmap is not None):
            return
        per, kept = ref.arch.pages_per_section, REF_KEEP * ref.arch.spp
        for start, end in ranges:
            content = Compound(order, start % size, pgmap.nid, ZONE_DEVICE, "devdax")
            for first, last, word in ref.sections.flags.runs(start // per, -(-end // per)):
                if not word & SECTION_IS_EARLY:
                    continue
                s, e = max(start, first * per), min(end, last * per)
                for head in range(start + -(-(s - start) // size) * size, e, size):
                    # compound_nr_pages: as many as where tails are shared. A range that was not reached has none.
                    if ref.memmap.content(head) == content:
                        self.tails.set(head + kept, head + size, content)

    def _boot(self) -> None:
        """__hugetlb_vmemmap_optimize_folios: the end of what is protected is its start and a number of pages, taken as
        bytes."""
        arch = self.ref.arch
        for h in self.ref.hstates.values():
            for pfn, folio in h.folios.items():
                preinit = self.ref.sections.word(pfn // arch.pages_per_section) & SECTION_IS_VMEMMAP_PREINIT
                if preinit and folio.vmemmap_optimized:
                    lo = pfn // arch.spp
                    done, pages = -(-h.pages // arch.page), arch.vmemmap_pages(h.order)
                    if done < pages:
                        self.writable.set(lo + done, lo + pages, pfn)

    def _rolled_back(self, lo: int, end: int) -> None:
        """vmemmap_remap_free: page 0 is put back too, like the others with a copy of the tail page. The frame with the
        head's copy is lost; 7.3 keeps it, and frees the folio's old frames but for one less."""
        ref = self.ref
        last = ref.tables.get(end - 1)
        if last is not None and last.kind == "pte":
            self.headless.append((lo, end))
            frame = frame_at(last, end - 1)
            boot = ref.pages.owners.get(frame) == OWNER_MEMMAP_BOOT
            self.accounting.leak(ref.pages.zone_of.get(frame), boot)
        else:
            # The second try has succeeded: 7.3 has freed the frame that the head's copy was in first.
            self.headless.append((lo, lo))
            self.accounting.leak(None, boot=False)

    def _head(self, pfn: int) -> Compound | None:
        """What a folio's head shows where it is kept; None if there is no folio."""
        for h in self.ref.hstates.values():
            folio = h.folios.get(pfn)
            if folio is not None:
                return Compound(folio.order, 0, folio.nid, folio.zone.idx, "hugetlb")
        return None

    def _written(self, written: Runs) -> None:
        """Poisoned struct pages that have been written since are as they should be."""
        for lo, hi in written:
            for s, e, _ in self.tails.runs(lo, hi):
                spp = self.ref.arch.spp
                for k, stale in ((self.ref, True), (self.cand, False)):
                    for a, b, content in k.memmap.view(s // spp * spp, -(-e // spp) * spp):
                        if isinstance(content, Poison) is not stale:
                            self.tails.clear(max(a, s), min(b, e))

    def _remapped(self) -> None:
        """A folio that has been restored, and maybe optimized again, is protected as it should be."""
        for lo, hi in self.ref.tables.touched:
            for s, _, pfn in self.writable.runs(lo, hi):
                m = self.ref.tables.get(s)
                rw = m is not None and ((m.kind == "strided" and m.tail_rw) or (m.kind == "shared" and m.rw))
                if not rw:
                    first = pfn // self.ref.arch.spp
                    self.writable.clear(first, first + self.ref.arch.vmemmap_pages(max(self.ref.hstates)))

    # -- expectations -----------------------------------------------------------------------------------------------

    def folios(self) -> set[int]:
        """Pre-HVO folios whose tail pages are writable."""
        return set(self.writable.vals)

    def meets(self, lo: int, hi: int) -> bool:
        """Whether 7.3 maps struct pages [lo, hi) otherwise than the reference, or shows other contents there."""
        if self.headless or self.tails.overlaps(lo, hi):
            return True
        arch = self.ref.arch
        return self.writable.overlaps(arch.vpn(lo), arch.vpn_end(hi))

    def mapping(self, segments: list[Segment], lo: int, hi: int) -> list[Segment]:
        """What 7.3 maps at vmemmap pages [lo, hi) where the reference has `segments`."""
        for s, e, _ in self.writable.runs(lo, hi):
            segments = recast(segments, s, e, _protected, append)
            self.used.add(PROTECTION)
        for first, end in self.headless:
            if lo <= first < min(hi, end):
                segments = _with_head(segments, first, min(hi, end))
        return segments

    def pages(self, segments: list[PageSegment], lo: int, hi: int) -> list[PageSegment]:
        """What 7.3 shows in struct pages [lo, hi) where the reference has `segments`."""
        for s, e, content in self.tails.runs(lo, hi):
            segments = recast(segments, s, e, _initialised(content), append_pages)
            self.used.add(STRUCT_PAGES)
        spp = self.ref.arch.spp
        for first, _ in self.headless:
            head = self._head(first * spp)
            if head is not None:
                s, e = max(lo, first * spp), min(hi, (first + 1) * spp)
                segments = recast(segments, s, e, _kept(head), append_pages)
        return segments

    def pageblocks(self, rc: int | str) -> Difference | None:
        """Compare pageblock types: what the reference has left as it was, 7.3 makes movable."""
        fresh = self._fresh_blocks
        if not fresh and not self.blocks.starts:
            return maps_difference("structpages", "pageblock", self.ref.pageblocks, self.cand.pageblocks)
        # Of a device that could not be added, some first ranges may have been initialised.
        diff = None
        for n in [len(fresh)] if rc == 0 else range(len(fresh), -1, -1):
            new = [run for runs in fresh[:n] for run in runs if run[0] < run[1]]
            diff = self._movable(new)
            if diff is None:
                break
        return diff

    def altmap_in_error_path(self, operation: str, rc: Outcome, rc2: Outcome) -> bool:
        """Whether the reference died because it removed a block of self-hosted memory without its altmap, when there
        was no block device for it (create_altmaps_and_memory_blocks): it freed a frame of the block's own memmap."""
        ref = self.ref
        died = _NOT_RAM.match(rc) if isinstance(rc, str) else None
        points = ref.faults.points
        if died is None or not ref.faults.failed or not points or points[-1][0] != "BLK":
            return False
        block, at = divmod(int(died[1], 16), ref.memory_blocks.pages)
        own = at * ref.arch.spp < ref.memory_blocks.pages and block not in ref.memory_blocks.altmaps
        return own and (rc2 == -ENOMEM or (rc2 == 0 and operation.startswith("dax")))

    def dropped(self, rc: Outcome, rc2: Outcome) -> bool:
        """Whether the candidate panicked because boot memory did not suffice for the memmap, and the reference has
        dropped the sections that got none instead (sparse_init_nid), and maybe died over a struct page of one."""
        if not isinstance(rc2, str) or not rc2.startswith(NO_MEMMAP):
            return False
        per = self.ref.arch.pages_per_section
        missing = RunSet()
        for _, lo, hi in self.ref.machine.ram_ranges():
            missing.add(lo // per, -(-hi // per))
        for lo, hi, word in self.ref.sections.flags.items():
            if word & SECTION_HAS_MEM_MAP:
                missing.remove(lo, hi)
        died = UNMAPPED.match(rc) if isinstance(rc, str) else None
        if died is not None:
            return int(died[1], 16) // per in missing
        return rc == 0 and bool(missing.starts)

    def left_of_block(self, rc: Outcome) -> Difference | None:
        """What the candidate has left of the block that the reference died over with `rc`, if it got no block device
        either. Another failure, at a point that only one side reaches, may leave sections (separate-paths.md, Q12)."""
        died = _NOT_RAM.match(str(rc))
        if died is None or self.cand.faults.fired != "BLK":
            return None
        blocks, sub = self.cand.memory_blocks, self.cand.arch.pages_per_subsection
        first = int(died[1], 16) // blocks.pages * blocks.pages
        left = self.cand.sections.subsections.runs(first // sub, (first + blocks.pages) // sub)
        if not left:
            return None
        return Difference("structpages", "subsections", "extra", f"candidate: block at {first:#x} has sections left")

    def _movable(self, new: Runs) -> Difference | None:
        mine, theirs = self.ref.pageblocks, self.cand.pageblocks
        blocks = self.blocks.copy()
        for lo, hi in self.blocks.items():
            for s, e, migratetype in mine.runs(lo, hi):
                for a, b, other in theirs.runs(s, e):
                    if migratetype == other:
                        blocks.remove(a, b)  # written on both sides since, with the same
        wanted = mine.copy()
        for lo, hi in new:
            blocks.add(lo, hi)
        for lo, hi in blocks.items():
            wanted.set(lo, hi, MIGRATE_MOVABLE)
        diff = maps_difference("structpages", "pageblock", wanted, theirs)
        if diff is None:
            self.blocks, self._fresh_blocks = blocks, []
            if wanted.items() != mine.items():
                self.used.add(PAGEBLOCKS)
        return diff


def recast(
    segments: list[tuple[int, int, V]],
    lo: int,
    hi: int,
    change: Callable[[V], V],
    join: Callable[[list[tuple[int, int, V]], int, int, V], None],
) -> list[tuple[int, int, V]]:
    """The segments with `change` made to what lies in [lo, hi)."""
    out: list[tuple[int, int, V]] = []
    for s, e, value in segments:
        if s < min(e, lo):
            join(out, s, min(e, lo), value)
        if max(s, lo) < min(e, hi):
            join(out, max(s, lo), min(e, hi), change(value))
        if max(s, hi) < e:
            join(out, max(s, hi), e, value)
    return out


def _protected(form: Form) -> Form:
    """A form with its shared zone tail read-only."""
    if form[0] == "row" and form[7] is not None:
        return (*form[:6], False, form[7])
    return ("tail", False, *form[2:]) if form[0] == "tail" else form


def _with_head(segments: list[Segment], lo: int, end: int) -> list[Segment]:
    """Page `lo` with the copy of the head, and the old frames one page further on, up to `end`."""
    out: list[Segment] = []
    for s, e, form in segments:
        if s < min(e, lo):
            append(out, s, min(e, lo), form)
        if s <= lo < e:
            append(out, lo, lo + 1, ("pte", True, OWNER_MEMMAP))
        a, b = max(s, lo) + 1, min(min(e, end) + 1, end)
        if a < b:
            append(out, a, b, form)
        if max(s, end) < e:
            append(out, max(s, end), e, form)
    return out


def _kept(head: Content) -> Callable[[Content | Row], Content | Row]:
    return lambda found: head if isinstance(found, Tail) else found


def _initialised(content: Compound) -> Callable[[Content | Row], Content | Row]:
    return lambda found: content if isinstance(found, Poison) else found
