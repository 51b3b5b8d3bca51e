"""Many HugeTLB folios at once (mm/hugetlb_vmemmap.c, Linux 7.3; separate-paths.md 3.8-3.10).

The kernel works folio by folio. Where no allocation point of a list can fail, the result of the loop is written for
whole rows of neighbours instead: same frames taken, same counts, same mapping up to the names of fresh frames. A
function that meets a failure does nothing and returns False; its caller then goes one by one.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.mmzone import Zone
from mm.page import Content, Tail
from mm.page_alloc import OWNER_MEMMAP, OWNER_PGTABLE, OWNER_SELFHOSTED, OWNER_TAIL, Extents
from mm.pgtable import PTE_TABLE, Leaf, Mapping, Pte, Strided

if TYPE_CHECKING:
    from reference.paths import SeparatePaths

HUGETLB_VMEMMAP_RESERVE = 1
"""Vmemmap pages that a HugeTLB folio keeps (HUGETLB_VMEMMAP_RESERVE_SIZE)."""

_pfn = attrgetter("pfn")

Row = tuple[int, int, Zone]
"""Neighbouring folios of one zone: first pfn, end pfn, zone."""


def folio_rows(k: Kernel, folios: list[Folio]) -> list[Row]:
    """The folios, of one order and in any order, as rows by ascending address."""
    rows: list[Row] = []
    if not folios:
        return rows
    zone = folios[0].zone
    size = 1 << folios[0].order
    pfns = [folio.pfn for folio in folios]
    lo, hi = min(pfns), max(pfns) + size
    if hi - lo == size * len(pfns):
        # No gaps, in whatever order; mostly all in one zone.
        home = k.pages.zone_of.run(lo)
        if home is not None and home[1] >= hi:
            return [(lo, hi, home[2])]
    lo = hi = -1
    for folio in sorted(folios, key=_pfn):
        if folio.pfn != hi or folio.zone is not zone:
            if hi >= 0:
                rows.append((lo, hi, zone))
            lo, zone = folio.pfn, folio.zone
        hi = folio.pfn + size
    rows.append((lo, hi, zone))
    return rows


def split_rows(k: Kernel, rows: list[Row]) -> Extents | None:
    """Split all leaves of the rows at once if none of their SPLIT points fails and nothing there is self-hosted; else
    None, with nothing done. The frames behind the rows, which are not optimized, neighbours joined.
    """
    arch, ptrs, tables, owners = k.arch, k.arch.ptrs_per_pte, k.tables, k.pages.owners
    hosted = bool(k.memory_blocks.altmaps)
    leaves: list[tuple[int, int, int]] = []
    old: Extents = []
    n = done = 0
    behind = -1
    for lo, hi, _ in rows:
        for s, e, m in tables.entries.runs(arch.vpn(lo), arch.vpn(hi)):
            if not isinstance(m, Leaf | Pte):
                raise AssertionError(f"vmemmap page {s:#x} of a folio that is not optimized is mapped by {m}")
            frame = s + m.delta
            if frame == behind:
                old[-1] = (old[-1][0], old[-1][1] + e - s)
            else:
                old.append((frame, e - s))
            behind = frame + e - s
            if hosted:
                for _, _, owner in owners.runs(frame, frame + e - s):
                    if owner == OWNER_SELFHOSTED:
                        return None
            if m.kind == "leaf":
                first = s // ptrs
                if first < done:
                    first = done
                done = -(-e // ptrs)
                if first < done:
                    leaves.append((first, done, m.delta))
                    n += done - first
    if not n:
        return old
    faults = k.faults
    if faults.reached < faults.armed <= faults.reached + n:
        return None
    spilled = k.pages.spilled
    got = k.pages.alloc_bulk(n, 0, OWNER_PGTABLE)
    if not _complete(k, got, n, spilled):
        k.pages.free_extents(got)
        return None
    faults.grant("SPLIT", n)
    k.vmstat.nr_page_table_pages += n
    frames = iter(got)
    frame = left = 0
    for first, done, delta in leaves:
        tables.set(first * ptrs, done * ptrs, Pte(delta, True))
        while first < done:
            if not left:
                frame, left = next(frames)
            count = min(left, done - first)
            tables.tables[PTE_TABLE].set(first, first + count, frame - first)
            first, frame, left = first + count, frame + count, left - count
    return old


def _complete(k: Kernel, got: Extents, n: int, spilled: int) -> bool:
    """Whether all `n` frames were had without an allocation that went on to another zone since the count `spilled`.

    Once frames come from several zones it matters who takes which: the order of the list decides, frame by frame.
    """
    return k.pages.spilled == spilled and sum([m for _, m in got]) == n


def optimize_rows(p: SeparatePaths, h: HState, folios: list[Folio], rows: list[Row]) -> bool:
    """Remap all folios at once if only TAIL and HEAD points are ahead and none of them fails; else False, with nothing
    done.

    The head copies, allocated in a row, go to the folios by address and not by place in the list: nobody can tell these
    private frames apart, and neighbours become one run.
    """
    k = p.k
    order, tails, faults, pages = h.order, p.tails, k.faults, k.pages
    n = len(folios)
    missing = [zone for zone in dict.fromkeys([zone for _, _, zone in rows]) if (zone.key, order) not in tails]
    if faults.reached < faults.armed <= faults.reached + n + len(missing):
        return False
    size = h.pages
    need: dict[int, int] = {}
    for lo, hi, zone in rows:
        need[zone.nid] = need.get(zone.nid, 0) + (hi - lo) // size
    fresh: Extents = []
    heads: dict[int, Extents] = {}
    spilled = pages.spilled
    for zone in missing:
        tail = pages.alloc_page(zone.nid, OWNER_TAIL)
        if tail is not None:
            fresh.append((tail, 1))
    if len(fresh) == len(missing):
        for nid, count in need.items():
            heads[nid] = got = pages.alloc_bulk(count, nid, OWNER_MEMMAP)
            if not _complete(k, got, count, spilled):
                break
        else:
            _remap_rows(p, h, folios, rows, heads, dict(zip(missing, fresh, strict=True)))
            return True
    for got in heads.values():
        pages.free_extents(got)
    pages.free_extents(fresh)
    return False


def _remap_rows(
    p: SeparatePaths,
    h: HState,
    folios: list[Folio],
    rows: list[Row],
    heads: dict[int, Extents],
    fresh: dict[Zone, tuple[int, int]],
) -> None:
    """What `optimize_rows` does with its frames: `heads` of each node, `fresh` for tail pages."""
    k = p.k
    tails, order, size = p.tails, h.order, h.pages
    passed = 0
    if fresh:
        for i, folio in enumerate(folios):
            zone = folio.zone
            if (zone.key, order) not in tails:
                k.faults.grant("HEAD", i - passed)
                k.faults.grant("TAIL", 1)
                passed = i
                tails[zone.key, order] = frame = fresh[zone][0]
                k.memmap.frames[frame] = Tail(order, zone.nid, zone.idx)
    k.faults.grant("HEAD", len(folios) - passed)
    k.vmstat.nr_memmap += len(folios)
    tables, own, touched, arch = k.tables, k.memmap.own, k.memmap.touched, k.arch
    period, keep = arch.vpn(size), HUGETLB_VMEMMAP_RESERVE
    for lo, hi, zone in rows:
        tail = tails[zone.key, order]
        run = own.run(lo)
        if run is None or run[1] < hi:
            for pfn in range(lo, hi, size):
                keep_head_content(k, pfn, pfn + size)
        touched.append((lo, hi))
        frames = heads[zone.nid]
        while lo < hi:
            frame, left = frames[0]
            m = (hi - lo) // size
            if m < left:
                frames[0] = frame + m, left - m
            else:
                m = left
                del frames[0]
            vlo = arch.vpn(lo)
            periods, phase = divmod(vlo, period)
            lo += m * size
            tables.set(vlo, vlo + m * period, Strided(period, keep, phase, frame - periods * keep, True, tail, False))
    for folio in folios:
        folio.vmemmap_optimized = True


def keep_head_content(k: Kernel, pfn: int, end: int) -> None:
    """A row keeps the content of its kept page for the whole period."""
    own = k.memmap.own
    run = own.run(pfn)
    if run is None:
        own.clear(pfn, end)
    elif run[1] < end:
        own.set(pfn, end, run[2])


def restore_rows(k: Kernel, h: HState, folios: list[Folio]) -> bool:
    """Restore all folios at once when none of their RES points fails; else False, with nothing done.

    Each row of folios is written with one change of the entries and one of the contents.
    """
    faults, pages, arch = k.faults, k.pages, k.arch
    n = arch.vmemmap_pages(h.order) - HUGETLB_VMEMMAP_RESERVE
    total = n * len(folios)
    if faults.reached < faults.armed <= faults.reached + total:
        return False
    rows = folio_rows(k, folios)
    entries = [k.tables.entries.runs(arch.vpn(lo), arch.vpn(hi)) for lo, hi, _ in rows]
    if any((e - s) % (n + HUGETLB_VMEMMAP_RESERVE) for old in entries for s, e, _ in old):
        return False  # an entry ends inside a folio, half of which is protected
    need: dict[int, int] = {}
    for lo, hi, zone in rows:
        need[zone.nid] = need.get(zone.nid, 0) + (hi - lo) // h.pages * n
    frames: dict[int, Extents] = {}
    spilled = pages.spilled
    for nid, count in need.items():
        frames[nid] = got = pages.alloc_bulk(count, nid, OWNER_MEMMAP)
        if not _complete(k, got, count, spilled):
            for got in frames.values():
                pages.free_extents(got)
            return False
    faults.grant("RES", total)
    k.vmstat.nr_memmap += total
    tables, own, touched = k.tables, k.memmap.own, k.memmap.touched
    kept = arch.pfn(HUGETLB_VMEMMAP_RESERVE)
    for (lo, hi, zone), old in zip(rows, entries, strict=True):
        vlo, vhi = arch.vpn(lo), arch.vpn(hi)
        tables.entries.replace(*_restored(old, n + HUGETLB_VMEMMAP_RESERVE, frames[zone.nid]))
        tables.touched.append((vlo, vhi))
        bounds = [lo]
        contents: list[Content] = []
        for s, e, m in old:
            assert isinstance(m, Strided)
            assert m.tail is not None
            tail = k.memmap.frames[m.tail]
            for a, b, content in own.runs(arch.pfn(s), arch.pfn(e)):
                for pfn in range(a, b, h.pages):
                    bounds += pfn + kept, pfn + h.pages
                contents += [content, tail] * ((b - a) // h.pages)
        own.replace(bounds, contents)
        touched.append((lo, hi))
    for folio in folios:
        folio.vmemmap_optimized = False
    return True


def _restored(old: list[tuple[int, int, Mapping]], period: int, frames: Extents) -> tuple[list[int], list[Mapping]]:
    """Entries for a row of optimized folios, as `RunMap.replace` takes them: kept pages stay, others take frames off
    `frames`.
    """
    bounds = [old[0][0]]
    vals: list[Mapping] = []
    frame, left = frames[0]
    at = 0
    last = None
    for lo, hi, m in old:
        if not isinstance(m, Strided):
            raise AssertionError(f"vmemmap page {lo:#x} of an optimized folio is mapped by {m}")
        head = m.kept_frame(lo)
        for vpn in range(lo, hi, period):
            v, end, delta = vpn, vpn + 1, head - vpn
            head += 1
            while True:
                if delta == last:
                    bounds[-1] = end
                else:
                    bounds.append(end)
                    vals.append(Pte(delta, True))
                    last = delta
                v = end
                if v == vpn + period:
                    break
                if not left:
                    at += 1
                    frame, left = frames[at]
                end = vpn + period if vpn + period - v <= left else v + left
                delta = frame - v
                frame += end - v
                left -= end - v
    frames[: at + 1] = [(frame, left)] if left else []
    return bounds, vals
