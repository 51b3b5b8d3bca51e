"""Lists of folios in bulk, with the same frames in the same order as folio by folio.

Only where nothing can go wrong on the way: no failure is armed, nobody traces points, memory suffices, no folio is in a
mixed state. `hugetlb_vmemmap` does what is turned down here.
"""

from __future__ import annotations

from collections import Counter

from candidate.vmemmap_optimization import Framework, vmemmap_shared_tail_page
from candidate.vmemmap_remap import Pages, hvo_update_vmemmap_pte, map_row
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.mmzone import Zone
from mm.page_alloc import KERNEL_ZONES, OWNER_MEMMAP, Extents
from mm.pgtable import Mapping, Pte, Shared

# -- optimize -------------------------------------------------------------------------------------------------------


def optimize_easily(f: Framework, h: HState, todo: list[tuple[Folio, int, Pages]], pages: Pages) -> int:
    """The second pass over (folio, its first vmemmap page, its pages) where only memory can be missing: all heads of a
    row of folios in one zone at once. Returns how many folios are done; the next one needs more memory than there is.
    """
    k = f.k
    v = k.arch.vmemmap_pages(h.order)
    done = 0
    while done < len(todo):
        zone = todo[done][0].zone
        stop = done + 1
        while stop < len(todo) and todo[stop][0].zone is zone:
            stop += 1
        n = stop - done
        tail = vmemmap_shared_tail_page(f, h.order, zone)
        heads = k.pages.alloc_bulk(n, zone.nid, OWNER_MEMMAP) if tail is not None else []
        if tail is None or sum([m for _, m in heads]) < n:
            k.pages.free_extents(heads)
            break
        k.faults.grant("HEAD", n)
        hvo_update_vmemmap_pte(f, n * v)
        k.vmstat.nr_memmap += n
        shared = Shared(tail, False)
        slots: list[tuple[int, int, Pages]] = []
        for head, m in heads:
            for folio, lo, old in todo[done : done + m]:
                folio.vmemmap_optimized = True
                slots.append((lo, head, old))
                head += 1
            done += m
        slots.sort()
        bounds = [slots[0][0]]
        row: list[Mapping] = []
        for lo, head, old in slots:
            if lo != bounds[-1]:
                map_row(k, bounds, row)
                bounds, row = [lo], []
            bounds += lo + 1, lo + v
            row += Pte(head - lo, True), shared
            pages += old
        map_row(k, bounds, row)
    return done


# -- restore --------------------------------------------------------------------------------------------------------


def restore_easily(f: Framework, h: HState, folios: list[Folio]) -> bool:
    """All of `folios`, which are optimized, by rows of neighbours, with the same frames as one by one; or False with
    nothing done, where one of them could fail or is private in part.

    Left out: that T is copied to the tails. Whoever restores several folios frees them or cuts them up, and writes all
    their struct pages anew; but for one whose poisoned pages nobody knows any more, which is leaked as it is.
    """
    k = f.k
    for folio in folios:
        if folio.raw_hwp_unreliable:
            return False
    v = k.arch.vmemmap_pages(h.order)
    want = v - 1
    n = len(folios) * want
    if k.faults.armed or k.faults.points is not None or not _frames_suffice(k, folios, want):
        return False
    rows = _rows_to_restore(k, sorted(folios, key=_pfn), v)
    if rows is None:
        return False
    frames = _alloc_by_folio(k, folios, want)
    k.faults.grant("RES", n)
    hvo_update_vmemmap_pte(f, n)
    k.vmstat.nr_memmap += n
    for folio in folios:
        folio.vmemmap_optimized = False
    spp = k.arch.spp
    for runs in rows:
        at = runs[0][0]
        bounds: list[int] = [at]
        entries: list[Mapping] = []
        for i in range(0, len(runs), 2):
            if i:
                at, head = runs[i][0], runs[i - 1][2]
                # A head may happen to lie next to the frames of a folio: then they are one run.
                if head == entries[-1]:
                    bounds[-1] = at
                else:
                    bounds.append(at)
                    entries.append(head)
            for frame, m in reversed(frames[(at - 1) * spp]):
                entry = Pte(frame - at, True)
                at += m
                if entries and entry == entries[-1]:
                    bounds[-1] = at
                else:
                    bounds.append(at)
                    entries.append(entry)
        map_row(k, bounds, entries)
    return True


def _pfn(folio: Folio) -> int:
    return folio.pfn


def _frames_suffice(k: Kernel, folios: list[Folio], want: int) -> bool:
    """Whether the first zone to be asked has `want` frames for each folio: nodes do not take each other's then."""
    pages = k.pages
    need: Counter[Zone] = Counter()
    for nid, n in Counter([folio.nid for folio in folios]).items():
        zones = pages.zonelist(nid, KERNEL_ZONES, False)
        need[next(zone for zone in zones if zone.managed_pages or zone.blocks.starts)] += n * want
    # CMA has only movable pages.
    return all((zone.blocks.total << pages.block_order) + zone.frags.total >= n for zone, n in need.items())


def _rows_to_restore(k: Kernel, folios: list[Folio], v: int) -> list[list[tuple[int, int, Mapping]]] | None:
    """The rows of neighbours among `folios`, which ascend: the mapping from slot 1 of the first on, where
    slots that map T and heads alternate. None where some do not map T: of each optimized folio one slot at least does.
    """
    entries = k.tables.entries
    spp = k.arch.spp
    rows = []
    at = 0
    while at < len(folios):
        first = folios[at].pfn
        stop = at + 1
        while stop < len(folios) and folios[stop].pfn == first + (stop - at) * v * spp:
            stop += 1
        slot = first // spp
        runs = entries.runs(slot + 1, slot + (stop - at) * v)
        if any(m.kind != "shared" or e - s != v - 1 for s, e, m in runs[::2]):
            return None
        rows.append(runs)
        at = stop
    return rows


def _alloc_by_folio(k: Kernel, folios: list[Folio], want: int) -> dict[int, Extents]:
    """`want` frames for each folio, by its first pfn; there are enough.

    Less than a pageblock at a time, or one folio: that takes frames in the order in which one by one would.
    """
    most = max(((1 << k.pages.block_order) - 1) // want, 1)
    out: dict[int, Extents] = {}
    at = 0
    while at < len(folios):
        nid = folios[at].nid
        stop = at + 1
        while stop < len(folios) and stop - at < most and folios[stop].nid == nid:
            stop += 1
        got = k.pages.alloc_bulk((stop - at) * want, nid, OWNER_MEMMAP)
        got.reverse()
        frame, left = got.pop()
        for folio in folios[at:stop]:
            mine: Extents = []
            short = want
            while short > left:
                if left:
                    mine.append((frame, left))
                    short -= left
                frame, left = got.pop()
            mine.append((frame, short))
            frame += short
            left -= short
            out[folio.pfn] = mine
        at = stop
    return out
