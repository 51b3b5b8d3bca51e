"""Faults in the vmemmap of a device, where a compound page, a section or a range begins or ends, or beside it.

A run of the page tables can cover a whole device. What the rules of the ledger say of its parts (`fuzz.oracle.pieces`,
`unaligned`, `arches`) goes by such borders, most of which lie in the middle of a run, where `fuzz.mutants.spoil`
changes nothing.
"""

from __future__ import annotations

from random import Random
from typing import Final

from fuzz.mutants.spoil import TOUCHED, Spoiler, neighbour
from mm.kernel import Kernel
from mm.mmzone import ZONE_DEVICE
from mm.page import POISON, RAW, Compound, Content, Plain, Tail
from mm.pgmap import PgMap
from mm.pgtable import Leaf, Mapping, Pte, Shared, Strided, frame_at
from mm.runs import RunMap


def _device(k: Kernel, draw: Random) -> PgMap | None:
    """The device that the operation has begun to add, or any."""
    added = [pgmap for pgmap, before in k.remaps if before is not None]
    found = added or k.pgmaps
    return draw.choice(found) if found else None


def _part(k: Kernel, pgmap: PgMap, draw: Random) -> tuple[int, int]:
    """Vmemmap pages between two borders of a device, or a few behind or in front of one."""
    arch = k.arch
    start, end = draw.choice(pgmap.ranges)
    page = arch.pfn(1)
    size = max(page, 1 << pgmap.vmemmap_shift)
    unit = draw.choice((page, arch.pages_per_section, size, size))
    inside = start + draw.randrange(max(1, (end - start) // unit)) * unit
    compounds = start // size * size, start // size * size + size
    at = draw.choice((start, start, end, inside, *compounds, *(pfn // unit * unit for pfn in (start, inside, end))))
    vpn = max(0, arch.vpn(at) + draw.choice((-2, -1, 0, 0, 0, 1, 2)))
    return vpn, vpn + draw.choice((1, 1, 2, max(1, arch.vpn(unit))))


def device_entry(k: Kernel, draw: Random) -> str | None:
    """The mapping of a part of a device, or beside it: as that of the page before, another way, or gone."""
    pgmap = _device(k, draw)
    if pgmap is None:
        return None
    lo, hi = _part(k, pgmap, draw)
    entries = k.tables.entries
    was, before = entries.get(lo), entries.get(lo - 1)
    others: list[Mapping | None] = [None, before]
    if was is not None:
        frame = frame_at(was, lo)
        others += [neighbour(was, draw), Leaf(frame - lo), Pte(frame - lo, True), Pte(frame - lo, False)]
        others += [Shared(frame, True), Shared(frame, False)]
        if isinstance(was, Strided) and was.tail is not None:
            others.append(Shared(was.tail, was.tail_rw))
    if before is not None:
        frame = frame_at(before, lo - 1)
        others += [Shared(frame, True), Shared(frame, False), Pte(frame + 1 - lo, True)]
    others = [other for other in others if other != was]
    if not others:
        return None  # nothing is mapped there, nor in front of it
    new = draw.choice(others)
    entries.clear(lo, hi)
    if new is not None:
        entries.set(lo, hi, new)
    if draw.random() < TOUCHED:
        k.tables.touched.append((lo, hi))
    return f"mapping {lo:#x}..{hi:#x} of {pgmap.ranges}: {was} -> {new}"


def device_page(k: Kernel, draw: Random) -> str | None:
    """What struct pages of a part of a device, or beside it, show."""
    pgmap = _device(k, draw)
    if pgmap is None:
        return None
    lo, hi = map(k.arch.pfn, _part(k, pgmap, draw))
    order, nid = pgmap.vmemmap_shift, pgmap.nid
    own: RunMap[Content] = k.memmap.own
    was = own.get(lo)
    others: list[Content] = [POISON, RAW, Plain(nid, ZONE_DEVICE), Tail(order, nid, ZONE_DEVICE, True)]
    others.append(Compound(order, pgmap.ranges[0][0] % (1 << order), nid, ZONE_DEVICE, "devdax"))
    if was is not None:
        others += [neighbour(was, draw)] * 2
    new = draw.choice([other for other in others if other != was])
    own.set(lo, hi, new)
    if draw.random() < TOUCHED:
        k.memmap.touched.append((lo, hi))
    return f"struct pages {lo:#x}..{hi:#x} of {pgmap.ranges}: {was} -> {new}"


DEVICES: Final[tuple[Spoiler, ...]] = (device_entry, device_entry, device_page)
"""All of them."""
