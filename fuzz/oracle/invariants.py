"""What must hold in one kernel alone, whatever the other one says.

Frames: each frame of online RAM is free or owned, never both; each owned memmap, page-table and tail frame is mapped as
often as its reference count says, and nothing maps a frame of another class. Pools: free lists, counters and folios
agree, and a folio is marked optimized if and only if its vmemmap is. Counters: NR_MEMMAP and NR_MEMMAP_BOOT together
are the private memmap frames (I3). The numbers I1.. are those of separate-paths.md section 6.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final

from fuzz.oracle.finding import Difference, Layer
from fuzz.oracle.observe import Runs, TailName, Tails, home, tails_by_frame, union, without
from mm.hstate import HState
from mm.kernel import Kernel
from mm.mmzone import ZONE_DEVICE
from mm.page_alloc import (
    OWNER_ALTMAP,
    OWNER_HUGETLB,
    OWNER_MEMMAP,
    OWNER_MEMMAP_BOOT,
    OWNER_PGTABLE,
    OWNER_PGTABLE_BOOT,
    OWNER_SELFHOSTED,
    OWNER_TAIL,
    OWNER_TAIL_BOOT,
)
from mm.pgtable import PTE_TABLE, Shared, Strided
from mm.pgtable import Mapping as PageMapping
from mm.runs import RunSet

MEMMAP: Final = frozenset({OWNER_MEMMAP, OWNER_MEMMAP_BOOT})
TAILS: Final = frozenset({OWNER_TAIL, OWNER_TAIL_BOOT})
TABLES: Final = frozenset({OWNER_PGTABLE, OWNER_PGTABLE_BOOT})
LENT: Final = frozenset({OWNER_SELFHOSTED, OWNER_ALTMAP})
"""Memmap frames that lie in the memory they describe; some of a window may be unused."""

COUNTED: Final = frozenset({("x86_64", 12), ("arm64", 12)})
"""Architectures where every memmap frame is counted, and nothing else (I2 of unified-framework.md, I3 of
separate-paths.md). Elsewhere a PMD leaf can be larger than what it was populated for (riscv64, loongarch64, s390x,
powerpc with 4K pages), vmemmap_free does nothing (loongarch64), or subsections share a vmemmap page (larger pages)."""

ZoneTails = Mapping[TailName, int]
Entries = list[tuple[int, int, PageMapping]]
"""The vmemmap's page table entries."""
Owned = dict[str, Runs]
"""The frames of each owner."""


def _violated(layer: Layer, field: str, drift: str, detail: str, side: str) -> Difference:
    return Difference(layer, f"{side}: {field}", drift, f"{side}: {detail}")


def check(
    k: Kernel,
    side: str,
    slack: int = 0,
    partial: bool = False,
    over_surplus: Container[int] = (),
    writable: Container[int] = (),
) -> Difference | None:
    """The first violated invariant.

    `slack` is what NR_MEMMAP counts more than there are frames, for a reason the ledger knows. `partial`: an optimized
    folio may map only some of its tail pages to the shared one (profile merged, unified-framework.md 3.9).
    `over_surplus`: orders of pools that may have more surplus pages than pages, for a reason the ledger knows.
    `writable`: first pfns of optimized folios whose tail pages may be mapped writable, for a reason the ledger knows.
    """
    owners, entries = k.pages.owners.items(), k.tables.entries.items()
    owned: Owned = {}
    for lo, hi, owner in owners:
        runs = owned.get(owner)
        if runs is None:
            owned[owner] = [(lo, hi)]
        else:
            runs.append((lo, hi))
    tails = tails_by_frame(k)
    return (
        _partition(k, side, owners)
        or _mapped(k, side, slack, entries, owned, tails)
        or _references(k, side, entries, owned, tails)
        or _tables(k, side, entries, owned)
        or _pools(k, side, partial, over_surplus, writable, owned)
    )


def unmarked(k: Kernel, side: str, pfn: int) -> Difference | None:
    """A frame whose failure was handled must carry PG_hwpoison, or it is used again (memory_failure, 7.3, in
    mm/memory-failure.c: TestSetPageHWPoison comes before all else). Both sides share the code that marks it."""
    if pfn in k.pages.hwpoison:
        return None
    detail = f"frame {pfn:#x} failed, that was handled, and it is not marked"
    return _violated("accounting", "hwpoison", "unmarked", detail, side)


# -- frames ---------------------------------------------------------------------------------------------------------


def _partition(k: Kernel, side: str, owners: list[tuple[int, int, str]]) -> Difference | None:
    """Every online frame is free or owned."""
    parts = owners.copy()
    order = k.pages.block_order
    for node in k.nodes:
        for zone in node.zones:
            parts += [(lo, hi, "free") for lo, hi in zone.frags.items()]
            parts += [(lo << order, hi << order, "free") for lo, hi in zone.blocks.items()]
            parts += [(lo, hi, "free") for lo, hi in zone.cma.items()]
    parts.sort()
    done, before = 0, ""
    online = k.pages.zone_of.items()
    i = 0
    for lo, hi, what in parts:
        if lo == done:
            done, before = hi, what
            continue
        if lo < done:
            return _violated(
                "frames", "conservation", f"{before}+{what}", f"frame {lo:#x} is {before} and {what}", side
            )
        while i < len(online) and online[i][1] <= done:
            i += 1
        if i < len(online) and max(done, online[i][0]) < min(lo, online[i][1]):
            at = max(done, online[i][0])
            return _violated("frames", "conservation", "lost", f"frame {at:#x} is neither free nor owned", side)
        done, before = hi, what
    if online and done < online[-1][1]:
        return _violated("frames", "conservation", "lost", f"frame {done:#x} is neither free nor owned", side)
    return None


def _join(runs: Iterable[tuple[int, int]]) -> tuple[Runs, int | None]:
    """Sorted runs, joined where they touch; and a position that is in two of them, if there is one."""
    ordered = sorted(runs)
    if not ordered:
        return ordered, None
    out: Runs = []
    first, end = ordered[0][0], ordered[0][0]
    for lo, hi in ordered:
        if lo > end:
            out.append((first, end))
            first = lo
        elif lo < end:
            return out, lo
        end = hi
    out.append((first, end))
    return out, None


def _of(owned: Owned, owners: frozenset[str]) -> Runs:
    """The frames of all `owners`, joined."""
    lists = [owned[owner] for owner in owners if owner in owned]
    if len(lists) == 1:
        return lists[0]
    return union([run for runs in lists for run in runs])


def _unlike(mapped: Runs, owned: Runs) -> tuple[int, str] | None:
    """First frame that is in one list only."""
    for a, b in zip(mapped, owned, strict=False):
        if a != b:
            if a[0] != b[0]:
                return (a[0], "extra") if a[0] < b[0] else (b[0], "missing")
            return (b[1], "extra") if a[1] > b[1] else (a[1], "missing")
    if len(mapped) > len(owned):
        return mapped[len(owned)][0], "extra"
    return (owned[len(mapped)][0], "missing") if len(owned) > len(mapped) else None


def _mapped(k: Kernel, side: str, slack: int, entries: Entries, owned: Owned, tails: Tails) -> Difference | None:
    """The memmap frames are those that the vmemmap maps privately, each once; so many are counted."""
    frames: Runs = []
    aliases: set[int] = set()
    for lo, hi, m in entries:
        if m.kind == "leaf" or m.kind == "pte":
            frames.append((lo + m.delta, hi + m.delta))
        elif m.kind == "shared":
            if m.frame not in tails:
                aliases.add(m.frame)
        elif isinstance(m, Strided):
            first, end = lo - (lo - m.phase) % m.period, hi - (hi - m.phase) % m.period
            if m.tail is not None and lo - first >= m.keep:
                first += m.period  # of this page only tails are left, the rest has other protection
            if first < end:
                frames.append((m.kept_frame(first), m.kept_frame(first) + (end - first) // m.period * m.keep))
            if first <= end < hi:
                frames.append((m.kept_frame(end), m.kept_frame(end) + min(hi - end, m.keep)))
    # A frame that several PTEs share is a private frame of one of them, which may be among `frames` already.
    frames, twice = _join(frames)
    if twice is not None:
        return _violated("frames", "memmap", "mapped twice", f"memmap frame {twice:#x} is mapped twice", side)
    for frame in sorted(aliases):
        if not any(lo <= frame < hi for lo, hi in frames):
            frames.append((frame, frame + 1))
    frames, _ = _join(frames)
    lent = _of(owned, LENT)
    own = without(frames, lent) if lent else frames
    unlike = _unlike(own, _of(owned, MEMMAP))
    if unlike is not None:
        frame, drift = unlike
        owner = k.pages.owners.get(frame) or "nobody"
        text = (
            f"frame {frame:#x} is mapped as memmap but belongs to {owner}"
            if drift == "extra"
            else f"memmap frame {frame:#x} is mapped nowhere"
        )
        return _violated("frames", "memmap", drift, text, side)
    if (k.arch.name, k.arch.page_shift) not in COUNTED:
        return None
    total = sum(hi - lo for lo, hi in frames)
    counted = k.vmstat.nr_memmap + k.vmstat.nr_memmap_boot - slack
    if counted != total:
        text = f"nr_memmap + nr_memmap_boot is {counted + slack}, for {total + slack} pages"
        return _violated("accounting", "nr_memmap", "+" if counted > total else "-", text, side)
    return None


def _references(k: Kernel, side: str, entries: Entries, owned: Owned, tails: Tails) -> Difference | None:
    """The reference count of every frame shared by PTEs, which alone have contents; and which tail frames there are.

    Shared tail frames have a reference of their own and one for each slot of a device; slots of HugeTLB take none. The
    frame that a compound page of the separate paths shares has one for each PTE.
    """
    uses: dict[int, int] = dict.fromkeys(tails, 1)
    private = _private(entries) if k.arch.name == "ppc64_radix" else RunSet()
    for lo, hi, m in entries:
        if m.kind == "leaf" or m.kind == "pte":
            continue
        if m.kind == "shared":
            if m.frame not in tails:
                uses[m.frame] = uses.get(m.frame, _private_use(k, lo, m.frame, private)) + hi - lo
            elif tails[m.frame][0][1] == ZONE_DEVICE:
                uses[m.frame] += hi - lo
        elif m.tail is not None and _device(tails, m.tail):
            uses[m.tail] = uses.get(m.tail, 1) + _tail_slots(m, lo, hi)
    counts = {frame: n for frame, n in uses.items() if n != 1}
    unlike: list[int] = []
    if counts != k.pages.refs:
        unlike = [f for f in counts.keys() | k.pages.refs.keys() if counts.get(f, 1) != k.pages.refs.get(f, 1)]
    if unlike:
        frame = min(unlike)
        wanted, found = counts.get(frame, 1), k.pages.refs.get(frame, 1)
        text = f"frame {frame:#x} has {found} references, {wanted} uses"
        return _violated("frames", "references", "+" if found > wanted else "-", text, side)
    other = _unlike(_join((f, f + 1) for f in tails)[0], _of(owned, TAILS))
    if other is not None:
        return _violated("frames", "tail", other[1], f"tail frame {other[0]:#x}: owned and known do not agree", side)
    left = k.memmap.frames.keys() - uses.keys()
    if left and private.starts:
        # What has lent its frame to a device that is gone keeps what was written there.
        left = {frame for frame in left if not private.overlaps(frame, frame + 1)}
    if left:
        return _violated("frames", "content", "extra", f"frame {min(left):#x} that nothing shares has a content", side)
    return None


def _private(entries: Entries) -> RunSet:
    """The frames that private PTEs map."""
    out = RunSet()
    for lo, hi in _join((lo + m.delta, hi + m.delta) for lo, hi, m in entries if m.kind == "pte")[0]:
        out.add(lo, hi)
    return out


def _private_use(k: Kernel, vpn: int, frame: int, private: RunSet) -> int:
    """1 if a private PTE in front of the run that shares `frame` maps it too.

    On powerpc that is the second page of the compound page, wherever the run is: one of the `private` frames.
    """
    return int(home(k, vpn, frame) < vpn or frame in private)


def _device(tails: Tails, frame: int) -> bool:
    return frame in tails and tails[frame][0][1] == ZONE_DEVICE


def _tail_slots(m: Strided, lo: int, hi: int) -> int:
    def before(vpn: int) -> int:
        periods, at = divmod(vpn - m.phase, m.period)
        return periods * (m.period - m.keep) + max(0, at - m.keep)

    return before(hi) - before(lo)


def _tables(k: Kernel, side: str, entries: Entries, owned: Owned) -> Difference | None:
    """Page-table frames are those of the tables; PTEs lie under a PTE table and leaves under none."""
    frames, twice = _join((lo + delta, hi + delta) for level in k.tables.tables for lo, hi, delta in level.items())
    unlike = (twice, "twice") if twice is not None else _unlike(frames, _of(owned, TABLES))
    if unlike is not None:
        return _violated(
            "frames", "page table", unlike[1], f"page-table frame {unlike[0]:#x}: owned and used do not agree", side
        )
    ptrs = k.arch.ptrs_per_pte
    pte = k.tables.tables[PTE_TABLE]
    for lo, hi, leaf in _levels(entries):
        have = sum([e - s for s, e, _ in pte.runs(lo // ptrs, -(-hi // ptrs))])
        if have != (0 if leaf else -(-hi // ptrs) - lo // ptrs):
            what = "PMD leaves" if leaf else "PTEs"
            return _violated(
                "mapping", "page table", "level", f"vmemmap pages {lo:#x}..{hi:#x}: {what} and {have} PTE tables", side
            )
    return None


def _levels(entries: Entries) -> list[tuple[int, int, bool]]:
    """The mapped vmemmap pages in rows of one level: first, end, whether PMD leaves map them."""
    out: list[tuple[int, int, bool]] = []
    first = end = -1
    was = False
    for lo, hi, m in entries:
        leaf = m.kind == "leaf"
        if lo != end or leaf != was:
            if end >= 0:
                out.append((first, end, was))
            first, was = lo, leaf
        end = hi
    if end >= 0:
        out.append((first, end, was))
    return out


# -- pools ----------------------------------------------------------------------------------------------------------


def _pools(
    k: Kernel, side: str, partial: bool, over_surplus: Container[int], writable: Container[int], owned: Owned
) -> Difference | None:
    folios: Runs = []
    zone_tails = k.paths.zone_tails()
    for h in k.hstates.values():
        name = f"hugetlb.{h.order}"
        per_node = [0] * len(h.nr)
        free = 0
        pages = h.pages
        for folio in h.folios.values():
            per_node[folio.nid] += 1
            free += folio.refcount == 0
        for lo, hi, optimized in _rows(h):
            folios.append((lo, hi))
            if _row_alike(k, lo, hi, h.order, optimized, zone_tails):
                continue
            for pfn in range(lo, hi, pages):
                wrong = _folio(k, pfn, h.order, optimized, partial, zone_tails, pfn in writable)
                if wrong:
                    return _violated("mapping", f"{name} folio", wrong, f"folio {pfn:#x}: {wrong} (I1)", side)
        fits = h.order in over_surplus or all(0 <= s <= n for s, n in zip(h.surplus, h.nr, strict=True))
        if per_node != h.nr or not fits:
            text = f"nr {h.nr}, surplus {h.surplus}, folios {per_node} (I14)"
            return _violated("accounting", f"{name}.nr", "changed", text, side)
        listed = sum([len(f) for f in h.free])
        if listed != free:
            return _violated(
                "accounting", f"{name}.free", "changed", f"{listed} on free lists, {free} free (I14)", side
            )
    folios += [(folio.pfn, folio.end_pfn) for folio in k.hpage_freelist]
    unlike = _unlike(_join(folios)[0], owned.get(OWNER_HUGETLB, []))
    if unlike is not None:
        return _violated(
            "frames", "hugetlb", unlike[1], f"frame {unlike[0]:#x}: owned by hugetlb and pools do not agree", side
        )
    return None


def _rows(h: HState) -> list[tuple[int, int, bool]]:
    """The folios of a pool in rows of neighbours with the same mark: first pfn, end, marked optimized."""
    out: list[tuple[int, int, bool]] = []
    pages, folios = h.pages, h.folios
    first = end = -1
    was = False
    for pfn in sorted(folios):
        optimized = folios[pfn].vmemmap_optimized
        if pfn != end or optimized != was:
            if end >= 0:
                out.append((first, end, was))
            first, was = pfn, optimized
        end = pfn + pages
    if end >= 0:
        out.append((first, end, was))
    return out


def _row_alike(k: Kernel, lo: int, hi: int, order: int, optimized: bool, zone_tails: ZoneTails) -> bool:
    """Whether a row of folios is as its mark says (I1), by a quick look; if not, each folio must be looked at."""
    n = k.arch.vmemmap_pages(order)
    at, end = k.arch.vpn(lo), k.arch.vpn(hi)
    runs = k.tables.entries.runs(at, end)
    if not optimized:
        for s, e, m in runs:
            if s != at or (m.kind != "pte" and m.kind != "leaf"):
                return False
            at = e
        return at == end
    zone = k.pages.zone_of.run(lo)
    if zone is None or zone[1] < hi:
        return False
    tail = zone_tails.get((zone[2].key, order))
    for s, e, m in runs:
        if s != at:
            return False
        at = e
        if m.kind == "pte":
            if s % n or e - s != 1:
                return False
        elif m.kind == "shared":
            if m.frame != tail or m.rw or s % n != 1 or e - s != n - 1:
                return False
        elif m.kind == "leaf" or m.tail != tail or m.tail_rw or m.period != n or m.keep != 1 or m.phase or (s | e) % n:
            return False
    return at == end


def _folio(
    k: Kernel, pfn: int, order: int, optimized: bool, partial: bool, zone_tails: ZoneTails, writable: bool
) -> str:
    """What is wrong with the vmemmap of a folio, "" if it is as its mark says (I1); tails may be `writable`."""
    lo, n = k.arch.vpn(pfn), k.arch.vmemmap_pages(order)
    zone = k.pages.zone_of.get(pfn)
    tail = None if zone is None else zone_tails.get((zone.key, order))
    shared = private = 0
    for s, e, m in k.tables.entries.runs(lo, lo + n):
        if isinstance(m, Shared):
            rw = m.rw and not writable
            if m.frame != tail or rw or s == lo:
                return "maps a wrong tail page" if m.frame != tail else "tail is writable" if rw else "head is shared"
            shared += e - s
        elif isinstance(m, Strided):
            if m.tail != tail or (m.tail_rw and not writable) or (lo - m.phase) % m.period or m.period != n:
                return "maps a wrong row"
            kept = max(0, min(e, lo + m.keep) - s)
            shared += e - s - kept
            private += kept
        else:
            private += e - s
    if (shared, private) == ((n - 1, 1) if optimized else (0, n)) or (partial and optimized and shared + private == n):
        return ""
    return f"marked {'optimized' if optimized else 'not optimized'} with {shared} shared pages"
