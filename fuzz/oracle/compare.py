"""Comparison of the two kernels after every operation.

Five layers, from cheap to deep: returns, mapping, struct pages, accounting, frames. After each operation only what it
touched on either side is compared; the kernels' containers keep lists of touched ranges, which the oracle empties.
`full` compares everything and checks the invariants of each side on its own.

Where the two trees are meant to differ, the expectation for the candidate is computed from the reference's observation
by a rule of the ledger (`fuzz.oracle.rules`), and the candidate must meet it exactly. Some intended differences make
the two sides part for good; those are asked about last, once a difference has been found that nothing else explains.
"""

from __future__ import annotations

from typing import Any

from fuzz.oracle import arches, known, laws, parting, roots, rules, sections, tlb, unaligned
from fuzz.oracle.accounting import Accounting
from fuzz.oracle.alike import mapping_alike
from fuzz.oracle.difference import mapping_differences, maps_difference, pages_difference
from fuzz.oracle.finding import NO_MEMMAP, Difference, Finding, Outcome, outcome_class
from fuzz.oracle.history import ADDR_PFN, ALTMAP, DAX_COUNT, DROP, ROLLBACK, VERSION, History
from fuzz.oracle.invariants import check, unmarked
from fuzz.oracle.observe import (
    Segment,
    TailName,
    Tails,
    content_in_row,
    expand,
    expand_pages,
    in_row,
    mapping,
    struct_pages,
    tails_by_frame,
    union,
    unlike,
    without,
)
from fuzz.oracle.pieces import Pieces, shares_tails
from mm.errno import EEXIST, EOPNOTSUPP
from mm.kernel import Kernel
from mm.mmzone import ZONE_DEVICE, ZONE_MOVABLE
from mm.page import Tail
from mm.pgmap import PgMap
from mm.runs import RunSet


class Oracle:
    """Holds the two kernels of a pair and says after each operation whether they still agree."""

    def __init__(self, ref: Kernel, cand: Kernel, profile: str, deep: bool = True) -> None:
        self.ref, self.cand = ref, cand
        self.deep = deep  # whether the laws of either side alone are asked
        self.merged = profile == "merged"
        self.clauses: set[str] = set()
        """Ids of the ledger clauses that explained a difference so far."""
        self.terminal: str | None = None
        """The clause that explained why the two sides part for good."""
        self.dead = False
        """Both kernels panicked in the same way."""
        past = ref.paths.version == VERSION
        self.pieces = Pieces(ref.arch, tail_rw=self.merged, full_count=past)
        self.accounting = Accounting(ref, cand)
        self.history = History(ref, cand, self.accounting, self.clauses) if past else None
        """What the reference is off because it is not 7.3 yet."""
        self._name = ""
        """The operation."""
        self._args: dict[str, Any] = {}
        self.over_surplus: set[int] = set()
        """Orders of pools in which a surplus page was taken off without lowering surplus."""
        self._meets = False
        """Whether the memory that the operation adds is there in part: a device that could not be added has left it."""
        self._left = RunSet()
        """Frames that hold memmap of devices that could not be added, in their own memory."""
        self._hit = parting.NOBODY, parting.NOBODY
        """Who used the frame that a poisoning operation names."""
        self.parted = False
        """Other pageblocks are free on the two sides, or pages of other zones, or DAX has been here: frames may lie
        elsewhere from now on. Which fresh frame a private vmemmap page gets is not compared, and decides which
        pageblock becomes free with it, and in which zone another page is, once one has run out."""
        self._device_tails: set[tuple[tuple[int, int], int]] = set()
        """Names of the candidate's device tails; they are kept forever."""
        self._lists: list[list[Any]] = [
            owner.touched for k in (ref, cand) for owner in (k.tables, k.memmap, k.pages, k.sections, k.memory_blocks)
        ]
        for k in (ref, cand):
            self._lists += [k.tlb.violations, k.sections.unpopulated, k.tables.undone, k.remaps]
        """What each operation touches; emptied after it."""
        self._added: PgMap | None = None
        """The device memory that the operation has begun to add, if any."""
        self._subsections = RunSet()
        """The subsections that existed before that."""
        self._short = 0, 0, 0, 0
        self._tails: tuple[Tails, Tails] = {}, {}
        """Names of the shared tail frames, by side."""
        self._pairs: list[tuple[TailName, int, int]] = []
        """The candidate's shared tail frames: name, the reference's frame of that name or -1, frame."""
        self._tails_of = -1, -1
        """How many shared frames had contents when the names were looked up; a new tail frame is one more."""
        self._new_tails = False

    # -- one operation ----------------------------------------------------------------------------------------------

    def before(self, name: str, args: dict[str, Any]) -> None:
        """Look at the kernels before the operation, as far as this operation needs it."""
        self._name, self._args = name, args
        ref, cand = self.ref, self.cand
        faults = ref.faults
        if faults.nth:
            faults.points, cand.faults.points = [], []
        elif faults.points is not None:
            faults.points = cand.faults.points = None
        self._short = self._shortages()
        ref.memory_blocks.tried.clear()
        cand.memory_blocks.tried.clear()
        self._meets = parting.meets(ref, name, args)
        self._hit = parting.NOBODY, parting.NOBODY
        if name in parting.POISONING:
            pfn = args["at"] >> ref.arch.page_shift
            self._hit = parting.user_of(ref, pfn), parting.user_of(cand, pfn)

    def after(self, rc: Outcome, rc2: Outcome, full: bool) -> Finding | None:
        """Compare; with `full` everything. A difference that the ledger does not explain is a finding."""
        name, ref, cand = self._name, self.ref, self.cand
        if ref.remaps:
            self._remapped()
        if self.history is not None:
            self.history.after(name, self._added, ref.memmap.touched + cand.memmap.touched)
        clause = None
        diff = self._returns(rc, rc2)
        if diff is None:
            if isinstance(rc, str):
                self.dead = True
                return None
            if ref.remaps:
                self._expect(rc)
            elif name == "boot":
                more = rules.boot_initialized(ref.machine, ref)
                if more:
                    self.clauses.add("boot-initialized")
                    self.accounting.expect(self.pieces, 0, [more])
                if rules.boot_order(ref) and self.accounting.unsettle():
                    self.clauses.add("boot-order")
                    self.parted = True
            elif name == "hugetlb resize" or name == "hugetlb demote":
                over = known.surplus_above_nr(ref, cand)
                if over:
                    self.clauses.add("surplus-above-nr")
                    self.over_surplus |= over
            back = name == "pages free" and self.accounting.astray
            self.accounting.moved = name in parting.MOVING or len(ref.remaps) > 1 or back
            diff = self._touched(rc) or tlb.either(ref, cand, name, self.clauses)
            if diff is None and rc == 0 and name == "memory hard_offline":
                pfn = self._args["at"] >> ref.arch.page_shift
                diff = unmarked(ref, "reference", pfn) or unmarked(cand, "candidate", pfn)
            if diff is None and (ref.faults.first or ref.faults.reached != cand.faults.reached) and not self.parted:
                diff = parting.points_differ(ref, cand, self.merged, self._added, (name, rc), self._lack())
            clause = self._ends(rc) if diff is None else None
            if clause == "placement-fork":
                diff = self._parted(rc, rc2)
            elif diff is None and clause is None and full:
                diff = self._everything()
        if diff is not None and clause is None:
            clause = self._known(rc, rc2)
            if clause is not None:
                diff = self._parted(rc, rc2)
            elif self.history is not None and name == "boot" and self.history.dropped(rc, rc2):
                clause = DROP
                diff = None
            elif self.history is not None and self.history.altmap_in_error_path(name, rc, rc2):
                clause = ALTMAP
                diff = self._check_candidate(self.pieces.slack[1]) or self.history.left_of_block(rc)
            else:
                clause = self._fork(rc, rc2)
                if clause is not None:
                    diff = self._parted(rc, rc2)
        if clause is not None:
            self.clauses.add(clause)
            self.terminal = clause
        finding = None
        if diff is not None:
            pair = outcome_class(rc), outcome_class(rc2)
            finding = Finding(diff.layer, diff.field, name, pair, diff.page_class, diff.drift, diff.detail)
        for ranges in self._lists:
            if ranges:
                ranges.clear()
        self._added = None
        self.accounting.forget()
        return finding

    def effect(self, missing: Difference, rcs: tuple[Outcome, Outcome]) -> Finding:
        """What one side alone shows of an operation (fuzz.oracle.effects, fuzz.oracle.listed), as a finding."""
        pair = outcome_class(rcs[0]), outcome_class(rcs[1])
        return Finding(missing.layer, missing.field, self._name, pair, "", missing.drift, missing.detail)

    def full(self, deep: bool = True) -> Finding | None:
        """Compare everything, or if not `deep` everything but mapping and struct pages, which are compared as they are
        touched; the finding's operation is the end of the program."""
        self._tails_of = -1, -1
        diff = self._everything(deep)
        if diff is None:
            return None
        return Finding(diff.layer, diff.field, "end", ("", ""), diff.page_class, diff.drift, diff.detail)

    def _touched(self, rc: Outcome) -> Difference | None:
        ref, cand = self.ref, self.cand
        mapped = ref.tables.touched + cand.tables.touched
        written = ref.memmap.touched + cand.memmap.touched
        quiet = not (mapped or written or ref.pages.touched or cand.pages.touched or ref.remaps)
        diff = None
        if mapped:
            mapped = union(mapped)
            diff = self._mapping(mapped)
        if diff is None and (mapped or written):
            pfn = ref.arch.pfn
            written += [(pfn(lo), pfn(hi)) for lo, hi in mapped]
            diff = self._struct_pages(union(written), quick=True)
        diff = diff or self._pageblocks(rc)
        if diff is None and (ref.sections.touched or cand.sections.touched):
            diff = sections.differ(ref, cand, self.clauses)
        blocks = ref.memory_blocks.touched or cand.memory_blocks.touched
        diff = diff or self._accounting(quiet=quiet and not blocks)
        if diff is None and not quiet and not self.parted:
            self.parted = not self.accounting.free_alike()
        return diff or self._frames()

    def _everything(self, deep: bool = True) -> Difference | None:
        ref, cand = self.ref, self.cand
        diff = None
        if deep:
            entries = [k.tables.entries for k in (ref, cand)]
            end = max([e.ends[-1] for e in entries if e.ends], default=0)
            diff = self._mapping([(0, end)]) or self._struct_pages([(0, ref.arch.pfn(end))])
        return (
            diff
            or self._pageblocks()
            or sections.differ(ref, cand, self.clauses)
            or self._accounting(everything=True)
            or self._frames()
            or self._check_reference(self.pieces.slack[0])
            or self._check_candidate(self.pieces.slack[1])
            or (self._laws() if deep else None)
        )

    def complaints(self) -> list[Difference]:
        """Everything in which the mapping differs, and what an invariant says of each side, if one does."""
        end = max([k.tables.entries.ends[-1] for k in (self.ref, self.cand) if k.tables.entries.ends], default=0)
        unlike = self._unlike(0, end)
        found = [] if unlike is None else list(mapping_differences(self.ref, self.pieces, *unlike))
        mine, theirs = self.pieces.slack
        return found + [d for d in (self._check_reference(mine), self._check_candidate(theirs)) if d is not None]

    def _laws(self) -> Difference | None:
        diff = roots.differ(self.ref, self.cand)
        return diff or (laws.broken(self.ref, "reference", laws.LAWS) or laws.broken(self.cand, "candidate", laws.LAWS))

    def _check_reference(self, slack: int) -> Difference | None:
        if self.history is not None and self.history.headless:
            self.clauses.add(ROLLBACK)
            return None  # it has lost frames, and the sides part here
        writable = set() if self.history is None else self.history.folios()
        slack -= self.accounting.drift
        return check(self.ref, "reference", slack, over_surplus=self.over_surplus, writable=writable)

    def _check_candidate(self, slack: int) -> Difference | None:
        return check(self.cand, "candidate", slack, partial=self.merged, over_surplus=self.over_surplus)

    # -- returns ----------------------------------------------------------------------------------------------------

    def _returns(self, rc: Outcome, rc2: Outcome) -> Difference | None:
        if isinstance(rc, str) or isinstance(rc2, str):
            a, b = outcome_class(rc), outcome_class(rc2)
            if a.startswith("bug: panic") and (a == b or (a.startswith(NO_MEMMAP) and b.startswith(NO_MEMMAP))):
                return None
            field = "crash" if "crash: " in (a[:7], b[:7]) else "bug"
            return Difference("returns", field, "died", f"reference: {rc}; candidate: {rc2}")
        wanted = rc
        if rc == -EEXIST and self._added is not None:
            if rules.partial_add_unsupported(self.pieces, self._subsections, self._added.ranges):
                self.clauses.add("dax-partial-add-unsupported")
                wanted = -EOPNOTSUPP
        if wanted != rc2:
            return Difference("returns", "rc", "changed", f"reference returned {rc}, candidate {rc2}")
        mine, theirs = self.ref.log, self.cand.log
        if (mine or theirs) and [outcome_class(s) for s in mine] != [outcome_class(s) for s in theirs]:
            return Difference("returns", "log", "changed", f"reference logged {mine}, candidate {theirs}")
        return None

    # -- mapping ----------------------------------------------------------------------------------------------------

    def _names(self) -> tuple[Tails, Tails]:
        have = len(self.ref.memmap.frames), len(self.cand.memmap.frames)
        if have != self._tails_of:
            self._tails_of = have
            mine, theirs = self._tails = tails_by_frame(self.ref), tails_by_frame(self.cand)
            frames = {name: frame for frame, name in mine.items()}
            self._pairs = [(name, frames.get(name, -1), frame) for frame, name in theirs.items()]
            self._new_tails = True
        return self._tails

    def _mapping(self, ranges: list[tuple[int, int]]) -> Difference | None:
        for lo, hi in ranges:
            apart = self._unlike(lo, hi)
            if apart is not None:
                return next(mapping_differences(self.ref, self.pieces, *apart), None)
        return None

    def _unlike(self, lo: int, hi: int) -> tuple[list[Segment], list[Segment]] | None:
        """How vmemmap pages should be mapped and how they are, without the ends that are alike; None if all is."""
        ref, cand = self.ref, self.cand
        mine, theirs = names = self._names()
        dax, pfn = self.pieces.runs, ref.arch.pfn
        here = dax.starts and dax.overlaps(pfn(lo), pfn(hi))
        past = self.history is not None and self.history.meets(pfn(lo), pfn(hi))
        if not (here or past) and mapping_alike(ref, cand, names, lo, hi):
            return None
        a = mapping(ref, mine, lo, hi)
        b = mapping(cand, theirs, lo, hi)
        if past and self.history is not None:
            a = self.history.mapping(a, lo, hi)
        if here:
            a = rules.dax_mapping(self.pieces, a, lo, hi, self.clauses)
        if a == b:
            return None
        a, b = map(expand, unlike(a, b, in_row))
        return None if a == b else (a, b)

    # -- struct pages -----------------------------------------------------------------------------------------------

    def _struct_pages(self, ranges: list[tuple[int, int]], quick: bool = False) -> Difference | None:
        """`quick`: the ranges are mapped alike, or as the pieces of DAX say."""
        ref, cand = self.ref, self.cand
        arch = ref.arch
        dax = self.pieces.runs
        for lo, hi in ranges:
            lo, hi = arch.pfn(arch.vpn(lo)), arch.pfn(arch.vpn_end(hi))
            here = dax.starts and dax.overlaps(lo, hi)
            past = self.history is not None and self.history.meets(lo, hi)
            # What a struct page shows is what was written to it, or what its tail frame holds; those follow below.
            if quick and not (here or past) and ref.memmap.own.runs(lo, hi) == cand.memmap.own.runs(lo, hi):
                continue
            a = struct_pages(ref, lo, hi)
            b = struct_pages(cand, lo, hi)
            if past and self.history is not None:
                a = self.history.pages(a, lo, hi)
            if here:
                a = rules.dax_pages(self.pieces, a, lo, hi, self.clauses)
            if a != b:
                a, b = map(expand_pages, unlike(a, b, content_in_row))
                if a != b:
                    return pages_difference(ref, self.pieces, a, b)
        self._names()
        for ((nid, zone), order), frame, its in self._pairs:
            wanted = ref.memmap.frames.get(frame) if zone != ZONE_DEVICE else Tail(order, nid, zone, True)
            got = cand.memmap.frames.get(its)
            if wanted != got:
                detail = f"shared tail page of node {nid}, zone {zone}, order {order}: {wanted} expected, {got} found"
                return Difference("structpages", "tail", "content", detail)
        return None

    def _pageblocks(self, rc: Outcome = 0) -> Difference | None:
        if self.history is not None:
            return self.history.pageblocks(rc)
        return maps_difference("structpages", "pageblock", self.ref.pageblocks, self.cand.pageblocks)

    # -- accounting -------------------------------------------------------------------------------------------------

    def _accounting(self, everything: bool = False, quiet: bool = False) -> Difference | None:
        """`quiet`: no frame and no memory block changed."""
        accounting = self.accounting
        diff = (
            accounting.counters(self.clauses, quiet, everything) or accounting.pools(everything) or accounting.poison()
        )
        if diff is None and (not quiet or everything):
            diff = accounting.blocks(everything)
            if diff is None and (everything or self.ref.memory_blocks.touched or self.ref.sections.touched):
                diff = accounting.layout()
        return diff

    def _remapped(self) -> None:
        """Device memory came or went: the pieces of what went are gone. At most one page map is added by an
        operation."""
        for pgmap, subsections in self.ref.remaps:
            if subsections is not None:
                self._added, self._subsections = pgmap, subsections
            else:
                self.pieces.destroyed(pgmap.ranges[: pgmap.nr_range])

    def _refused(self) -> tuple[int, ...]:
        """What adding memory may be refused with when it gets further: it meets memory that exists."""
        if self._added is None:
            return (-EEXIST,) if self._meets else ()
        sub = self.ref.arch.pages_per_subsection
        meets = any(self._subsections.overlaps(start // sub, -(-end // sub)) for start, end in self._added.ranges)
        return (-EEXIST, -EOPNOTSUPP) if meets else ()

    def _created(self, k: Kernel, pieces: Pieces, pgmap: PgMap) -> int:
        """Add what a page map has added to `k`; the order of its compound pages, 0 if it optimizes none."""
        order = pgmap.vmemmap_shift
        if not shares_tails(k.arch, order, pgmap.altmap is not None):
            return 0
        pieces.created(k, self._subsections, pgmap.ranges, order, pgmap.nid)
        return order

    def _expect(self, rc: Outcome) -> None:
        """Keep `pieces` up to date, and what the counters must differ by."""
        ref, pieces, added = self.ref, self.pieces, self._added
        initialized: list[int] = []
        if added is not None:
            order = self._created(ref, pieces, added)
            if order:
                initialized = rules.dax_initialized(ref, added.ranges, order, self.history is not None)
                if rc == 0:
                    del initialized[:-1]
                    if initialized[0]:
                        self.clauses.add("dax-struct-pages-initialized")
        self._device_tails |= rules.device_tails(pieces)
        if rc and added is not None:
            # Adding that failed may have made a tail frame before it did (unified-framework.md 5.13 h).
            key = added.nid, ZONE_DEVICE
            self._device_tails |= {name for name in self._names()[1].values() if name[0] == key}
            for lo, hi in known.altmap_left(ref, ref.remaps).items():
                self._left.add(lo, hi)
        if pieces.runs.starts or self._device_tails:
            self.parted = True
        if pieces.overcount:
            self.clauses.add(DAX_COUNT)
        if pieces.addr_pfn_drifts and pieces.runs.starts:
            self.clauses.add(ADDR_PFN)
        self.accounting.expect(pieces, len(self._device_tails), initialized)

    # -- frames -----------------------------------------------------------------------------------------------------

    def _frames(self) -> Difference | None:
        """Which shared tail frames there are, and that those of devices have a reference for each slot."""
        if not self._new_tails:
            return None
        self._new_tails = False
        mine, theirs = self._names()
        have, wanted = set(theirs.values()), set(mine.values()) | self._device_tails
        if have != wanted:
            (nid, zone), order = min(have ^ wanted)
            drift = "extra" if have - wanted else "missing"
            detail = f"shared tail frame of node {nid}, zone {zone}, order {order} is {drift}"
            return Difference("frames", "shared tail", drift, detail)
        if not self._device_tails:
            return None
        self.clauses.add("dax-shared-tail-frame")
        refs = self.cand.pages.refs
        for frame, name in theirs.items():
            if name in self._device_tails:
                uses, found = 1 + self.pieces.slots.get(name, 0), refs.get(frame, 1)
                if uses != found:
                    drift = "+" if found > uses else "-"
                    detail = f"candidate: shared tail frame {frame:#x} has {found} references, {uses} uses"
                    return Difference("frames", "candidate: references", drift, detail)
        return None

    def _pieces_of(self, k: Kernel) -> Pieces:
        """The pieces of DAX that one of two kernels has that have parted."""
        pieces = self.pieces.on(k)
        if self._added is not None:
            self._created(k, pieces, self._added)
        return pieces

    def _parted(self, rc: Outcome, rc2: Outcome) -> Difference | None:
        """The invariants of two kernels that have parted, and the laws; of one that died nothing is asked."""
        ref, cand, added = self.ref, self.cand, self._added
        blank = added is not None and (unaligned.inside(ref.arch, added) or arches.blank(ref, cand, added))
        diff, asked = None, () if not self.deep else laws.OF_UNINITIALISED if blank else laws.LAWS
        if not isinstance(rc, str):
            diff = self._check_reference(self._pieces_of(ref).slack[0]) or laws.broken(ref, "reference", asked)
        if diff is None and not isinstance(rc2, str):
            diff = self._check_candidate(self._pieces_of(cand).slack[1]) or laws.broken(cand, "candidate", asked)
        return diff

    # -- forks ------------------------------------------------------------------------------------------------------

    def _ends(self, rc: Outcome) -> str | None:
        """The clause by which the program ends although nothing differs yet: what comes would."""
        ref, added = self.ref, self._added
        if known.shared_vmemmap_page(ref, ref.remaps, rc):
            return "arm64-shared-vmemmap-page"
        if added is not None and unaligned.lent(self.cand, added):
            return "dax-1g-unaligned-start"
        if self.history is not None and self.history.headless:
            return ROLLBACK
        if known.left_used(ref, self.cand, self._left, added, rc):
            return "altmap-left-behind"
        return "placement-fork" if parting.other_holder(self._hit) else None

    def _known(self, rc: Outcome, rc2: Outcome) -> str | None:
        """The open finding that explains a difference, if one does."""
        added = self._added
        if added is not None and unaligned.inside(self.ref.arch, added):
            self._created(self.ref, self.pieces, added)
            sides = self.ref, self.cand, added, self._pieces_of(self.cand), self.history is not None
            if unaligned.explains(*sides, (rc, rc2), self._lack().pages, self._refused(), self._mapping):
                return "dax-1g-unaligned-start"
        if added is not None and known.compound_under_leaf(self.ref, added.ranges, rc):
            return "riscv-compound-under-leaf"
        if added is not None and known.missed_vmemmap_page(self.ref, added.ranges, (rc, rc2)):
            return "arm64-missed-vmemmap-page"
        if isinstance(rc, str) and rc == rc2 and known.shared_vmemmap_page(self.ref, self.ref.remaps, rc):
            return "arm64-shared-vmemmap-page"
        if self._name == "boot" and known.prehvo_of_interleaved_node(self.ref, (rc, rc2)):
            return "prehvo-interleaved-node"
        return None

    def _leaves(self, added: PgMap, rcs: tuple[int, int], refused: tuple[int, ...]) -> str | None:
        """The clause for PMD leaves under a device that shares tails; outside of them the sides must be alike, and so
        must their answers, but for memory that a side did not get, or met."""
        ref, cand = self.ref, self.cand
        spans, under = arches.leaf_spans(ref, cand, added)
        if not spans or arches.answers_differ(rcs, (ref, cand), self._lack().pages, refused):
            return None
        if self._mapping(without(union(ref.tables.touched + cand.tables.touched), spans)) is not None:
            return None
        spp = ref.arch.spp
        written = union([(lo // spp, -(-hi // spp)) for lo, hi in ref.memmap.touched + cand.memmap.touched])
        outside = [(lo * spp, hi * spp) for lo, hi in without(written, spans)]
        if rcs[0] == rcs[1] and (self._struct_pages(outside) or self._pageblocks(rcs[0])) is not None:
            return None
        return "radix-leaf-under-compounds" if under else "dax-partial-section-leaf"

    def _shortages(self) -> tuple[int, int, int, int]:
        mine, theirs = self.ref.pages, self.cand.pages
        return mine.short, theirs.short, mine.short_of_blocks, theirs.short_of_blocks

    def _lack(self) -> parting.Lack:
        """What the operation did not get."""
        a, b, c, d = (now - before for now, before in zip(self._shortages(), self._short, strict=True))
        return parting.Lack((a - c, b - d), (c, d))

    def _fork(self, rc: Outcome, rc2: Outcome) -> str | None:
        """The terminal clause that explains a difference after this operation, if one does."""
        ref, cand, name, args = self.ref, self.cand, self._name, self._args
        if parting.another_user(self._hit):
            return "placement-fork"
        if name == "boot" and arches.starved_boot(ref, cand, (rc, rc2), self.history is not None):
            return "boot-preoptimized"
        if isinstance(rc, str) or isinstance(rc2, str):
            return None
        added = self._added
        if name == "boot":
            return "boot-preoptimized" if arches.preoptimized_boot(ref, cand) else None
        rcs, refused = (rc, rc2), self._refused()
        if parting.poison_fork(ref, cand):
            return "placement-fork"
        elsewhere = self.parted and (name in parting.MOVING or name.startswith("hugetlb"))
        if parting.fault_fork(
            name, rcs, ref, cand, self.merged, refused, added, self.pieces.addr_pfn_drifts, elsewhere
        ):
            return "fault-fork"
        if added is not None:
            clause = self._leaves(added, rcs, refused)
            if clause is not None:
                return clause
        # Restoring huge pages is enough to give a memmap page another frame, with the same pageblocks free.
        if name in parting.MOVING and parting.placement_fork(ref, cand, rcs):
            return "placement-fork"
        if not self.parted and added is None:
            return None
        lack = self._lack()
        room = self.accounting.room_before(ZONE_DEVICE, cma=True)
        rooms = [room, self.accounting.room_before(ZONE_MOVABLE, cma=False)]
        altmap = added is not None and added.altmap is not None
        excused = altmap or ref.faults.fired is not None, altmap or cand.faults.fired is not None
        refused += parting.came_further(ref, cand, rcs)
        if name == "pages alloc":
            rooms = rooms[:1] if args["movable"] else rooms[1:]
        if parting.memory_fork(name, rcs, lack, excused, rooms, refused, bool(ref.remaps)):
            return "memory-fork"
        if name in parting.OFFLINING and parting.crowded_fork(ref, cand, rcs, lack.pages, room):
            return "placement-fork"
        if name == "pages contig" and parting.contig_fork(ref, cand, rcs, *parting.span(ref, args)):
            return "placement-fork"
        alike = rc == rc2 and (name in parting.MOVING or name.startswith("hugetlb"))
        if alike or parting.none_left(name, rcs, (ref, cand), args):
            n, preferred = parting.first_choice(ref, name, args)
            if parting.folios_fork(ref, cand, n, preferred):
                return "placement-fork"
        return None
