"""Faults in several books at once, each of which agrees with the others: a wrong page is wholly there, a right one is
wholly gone.

As `fuzz.mutants.spoil_books`; what is spoiled here no law about the books of a state can see, but only one that knows
what the operation was to do, or one about a place that the others leave alone.
"""

from __future__ import annotations

from dataclasses import fields
from random import Random
from typing import Any, Final, cast

from fuzz.mutants.spoil import TOUCHED, Spoiler, neighbour
from mm.cma import Cma
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.machine import Machine
from mm.memory import MemoryBlocks
from mm.page_alloc import OWNER_CMA, OWNER_HWPOISON, OWNER_PAGES, OWNER_PAGES_MOVABLE, OWNER_PGTABLE
from mm.pgtable import PMD_TABLE, PTE_TABLE, PUD_TABLE


def used_pool(k: Kernel, draw: Random) -> HState:
    """A pool that has pages, or any if none has."""
    pools = list(k.hstates.values())
    return draw.choice([h for h in pools if h.folios] or pools)


def _with_free(k: Kernel, draw: Random) -> tuple[HState, int] | None:
    """A pool, and a node that has free pages of it."""
    found = [(h, nid) for h in k.hstates.values() for nid, free in enumerate(h.free) if free]
    return draw.choice(found) if found else None


def swapped(k: Kernel, draw: Random) -> str | None:
    """A mapping has its pages in another order, or a free page has taken the place of one of them."""
    found = [(h, mapped) for h in k.hstates.values() for mapped in h.mapped if mapped]
    if not found:
        return None
    h, mapped = draw.choice(found)
    lists = [free for free in h.free if free]
    if not lists or draw.random() < 0.3:
        if len(mapped) < 2:
            return None
        mapped.reverse()
        return f"hugetlb.{h.order}: a mapping of {len(mapped)} pages is the wrong way round"
    free = draw.choice(lists)
    other = free.pop(draw.choice(list(free)))
    i = draw.randrange(len(mapped))
    mine = mapped[i]
    mapped[i], mine.refcount, other.refcount = other, 0, 1
    h.free[mine.nid][mine.pfn] = mine
    return f"hugetlb.{h.order}: {other!r} is mapped, not {mine!r}"


def program_elsewhere(k: Kernel, draw: Random) -> str | None:
    """A page of a program is of another zone, or is movable where it was not."""
    runs = [(lo, owner) for lo, _, owner in k.pages.owners.items() if owner in (OWNER_PAGES, OWNER_PAGES_MOVABLE)]
    if not runs:
        return None
    pfn, owner = draw.choice(runs)
    zone = k.pages.zone_of.get(pfn)
    others = [z for node in k.nodes for z in node.zones if z is not zone and z.frags.starts]
    extents = k.pages.holders.get(pfn)
    if zone is None or not others or (extents is None and owner == OWNER_PAGES_MOVABLE) or draw.random() < 0.3:
        owner = OWNER_PAGES if owner == OWNER_PAGES_MOVABLE else OWNER_PAGES_MOVABLE
        k.pages.owners.set(pfn, pfn + 1, owner)
        return f"frame {pfn:#x} is of {owner}"
    z = draw.choice(others)
    new = z.frags.starts[0]
    z.frags.remove(new, new + 1)
    zone.frags.add(pfn, pfn + 1)
    k.pages.owners.clear(pfn, pfn + 1)
    k.pages.owners.set(new, new + 1, owner)
    if extents is not None:
        i = next(i for i, (at, n) in enumerate(extents) if at <= pfn < at + n)
        at, n = extents[i]
        extents[i : i + 1] = [(lo, m) for lo, m in ((at, pfn - at), (new, 1), (pfn + 1, at + n - pfn - 1)) if m]
        k.pages.holders.clear(pfn, pfn + 1)
        k.pages.holders.set(new, new + 1, extents)
    return f"frame {new:#x} of {z!r} is a program's, not {pfn:#x}"


def _dropped(k: Kernel, h: HState, folio: Folio) -> None:
    """A free huge page is gone, and its frames are free."""
    del h.free[folio.nid][folio.pfn], h.folios[folio.pfn]
    h.nr[folio.nid] -= 1
    k.pages.owners.clear(folio.pfn, folio.end_pfn)
    shift = k.pages.block_order
    if folio.end_pfn - folio.pfn >= 1 << shift:
        folio.zone.blocks.add(folio.pfn >> shift, folio.end_pfn >> shift)
    else:
        folio.zone.frags.add(folio.pfn, folio.end_pfn)


def one_less(k: Kernel, draw: Random) -> str | None:
    """A pool has a free page less, or a surplus one."""
    found = _with_free(k, draw)
    if found is None:
        return None
    h, nid = found
    folio = draw.choice([next(iter(h.free[nid].values())), next(reversed(h.free[nid].values()))])
    _dropped(k, h, folio)
    if h.surplus[nid] and draw.random() < 0.5:
        h.surplus[nid] -= 1
    else:
        h.max_huge_pages -= 1
    h.touched = True
    return f"{folio!r} is gone"


def traded(k: Kernel, draw: Random) -> str | None:
    """Of two nodes that take turns one served more: a free page, or a surplus one, is counted on the other node."""
    found = _with_free(k, draw)
    if found is None or len(k.nodes) == 1:
        return None
    h, nid = found
    other = 1 - nid
    h.touched = True
    if draw.random() < 0.3 and any(h.surplus):
        nid = h.surplus.index(max(h.surplus))
        h.surplus[nid] -= 1
        h.surplus[1 - nid] += 1
        return f"hugetlb.{h.order}: surplus pages are {h.surplus}"
    pfn, folio = h.free[nid].popitem()
    h.free[other] = {pfn: folio, **h.free[other]}
    h.nr[nid] -= 1
    h.nr[other] += 1
    folio.nid = other
    return f"{folio!r} is of node {other}, at the tail of its list"


def turns(k: Kernel, draw: Random) -> str:
    """It is another node's turn."""
    h = used_pool(k, draw)
    name = draw.choice(("next_nid_to_alloc", "next_nid_to_free"))
    setattr(h, name, (getattr(h, name) + 1) % max(2, len(k.nodes)))
    return f"hugetlb.{h.order}.{name} is {getattr(h, name)}"


def in_pieces(k: Kernel, draw: Random) -> str | None:
    """A free pageblock is in the lists of smaller pages."""
    zones = [zone for node in k.nodes for zone in node.zones if zone.blocks.starts]
    if not zones:
        return None
    zone = draw.choice(zones)
    block, shift = draw.choice((zone.blocks.starts[0], zone.blocks.ends[-1] - 1)), k.pages.block_order
    zone.blocks.remove(block, block + 1)
    zone.frags.add(block << shift, block + 1 << shift)
    k.pages.touched.append((block << shift, block + 1 << shift))
    return f"free pageblock {block:#x} of {zone!r} is in pieces"


def no_table(k: Kernel, draw: Random) -> str | None:
    """A page table of an upper level is gone, and its frame is free and not counted."""
    levels = [level for level in (PMD_TABLE, PUD_TABLE) if k.tables.tables[level].starts]
    if not levels:
        return None
    level = draw.choice(levels)
    tables = k.tables.tables[level]
    i = draw.randrange(len(tables.starts))
    index = draw.choice((tables.starts[i], tables.ends[i] - 1))
    frame = index + tables.vals[i]
    tables.clear(index, index + 1)
    k.pages.owners.clear(frame, frame + 1)
    zone = k.pages.zone_of.get(frame)
    if zone is not None:
        zone.frags.add(frame, frame + 1)
        zone.managed_pages += k.vmstat.nr_page_table_pages > 0
    k.vmstat.nr_page_table_pages -= 1
    return f"table {index:#x} of level {level} is gone, frame {frame:#x} is free"


def idle_table(k: Kernel, draw: Random) -> str | None:
    """A page table is left, or made, where nothing is mapped, and its frame is counted."""
    zones = [zone for node in k.nodes for zone in node.zones if zone.frags.starts]
    if not zones or not k.tables.entries.ends:
        return None
    end = k.tables.entries.ends[-1]
    lo, hi = draw.choice([run for run in k.tables.touched if run[0] < run[1]] or [(end, end + 1)])
    level = draw.choice((PTE_TABLE, PMD_TABLE))
    index = draw.choice((lo, hi - 1)) // k.tables.spans[level]
    while k.tables.tables[level].get(index) is not None:
        index += 1
    zone = draw.choice(zones)
    frame = zone.frags.starts[0]
    zone.frags.remove(frame, frame + 1)
    k.pages.owners.set(frame, frame + 1, OWNER_PGTABLE)
    k.tables.tables[level].set(index, index + 1, frame - index)
    k.vmstat.nr_page_table_pages += 1
    return f"table {index:#x} of level {level} is in frame {frame:#x}"


def no_block(k: Kernel, draw: Random) -> str | None:
    """A memory block is gone with all its books, or is off line, or its pages are those of another zone."""
    blocks = k.memory_blocks
    if not blocks.zone.starts:
        return None
    i = draw.randrange(len(blocks.zone.starts))
    block = draw.choice((blocks.zone.starts[i], blocks.zone.ends[i] - 1))
    state = blocks.zone.vals[i]
    how = draw.randrange(4)
    if how == 0:
        blocks.zone.clear(block, block + 1)
        blocks.nid.clear(block, block + 1)
    elif how == 1 and state != MemoryBlocks.OFFLINE:
        blocks.zone.set(block, block + 1, MemoryBlocks.OFFLINE)
    elif how == 2:
        nid = blocks.nid.get(block)
        blocks.zone.set(block, block + 1, (nid or 0, draw.choice((2, 3))))
    else:
        nid = neighbour(blocks.nid.get(block) or 0, draw)
        blocks.nid.set(block, block + 1, nid)
        if state != MemoryBlocks.OFFLINE:
            blocks.zone.set(block, block + 1, (nid, state[1]))
    if draw.random() < TOUCHED:
        blocks.touched.append((block, block + 1))
    return f"block {block:#x} of {state}: {blocks.nid.get(block)}, {blocks.zone.get(block)}"


def left_over(k: Kernel, draw: Random) -> str | None:
    """Something of memory that came or went is there: a resource, subsections, a block, or it is free."""
    spans = [run for run in k.sections.touched if run[0] < run[1]]
    if not spans:
        return None
    lo, hi = draw.choice(spans)
    per = k.arch.pages_per_section
    ratio = per // k.arch.pages_per_subsection
    how = draw.randrange(4)
    if how == 0:
        k.iomem.set(lo * per, hi * per, draw.choice(("hotplug", "dax")))
    elif how == 1:
        k.sections.subsections.add(lo * ratio, lo * ratio + draw.choice((1, ratio)))
    elif how == 2:
        block = lo * per // k.memory_blocks.pages
        k.memory_blocks.put(block, block + 1, draw.randrange(len(k.nodes)), MemoryBlocks.OFFLINE)
    else:
        k.iomem.clear(lo * per, hi * per)
    return f"{('a resource', 'subsections', 'a block', 'no resource')[how]} where sections {lo:#x}..{hi:#x} are"


def record(k: Kernel, draw: Random) -> str | None:
    """A poisoned huge page does not know which of its pages failed, a count is one off, a mark is lost or new."""
    folios = [folio for h in k.hstates.values() for folio in h.folios.values() if folio.hwpoison]
    folios += [folio for folio in k.hpage_freelist if folio.hwpoison]
    counts, marks = k.memory_blocks.nr_hwpoison, k.pages.hwpoison
    if folios and draw.random() < 0.5:
        folio = draw.choice(folios)
        how = draw.randrange(4)
        if how == 0:
            folio.raw_hwp_unreliable = not folio.raw_hwp_unreliable
        elif how == 1:
            folio.hwpoison = False
        else:
            folio.raw_hwp = () if how == 2 else folio.raw_hwp[1:]
        return f"{folio!r} is poisoned: {folio.hwpoison}, raw pages {folio.raw_hwp}, {folio.raw_hwp_unreliable}"
    if not counts:
        return None
    if marks and draw.random() < 0.5:
        pfn = draw.choice(sorted(marks))
        if draw.random() < 0.5:
            del marks[pfn]
            return f"frame {pfn:#x} is not marked"
        owner = k.pages.owners.get(pfn)
        k.pages.owners.set(pfn, pfn + 1, OWNER_PAGES if owner == OWNER_HWPOISON else OWNER_HWPOISON)
        return f"poisoned frame {pfn:#x} is of {k.pages.owners.get(pfn)}"
    block = draw.choice(sorted(counts))
    counts[block] += draw.choice((-1, 1))
    return f"block {block:#x} counts {counts[block]} poisoned pages"


def made_areas(k: Kernel, draw: Random) -> str | None:
    """What the boot made of areas is not what their size says, or an area is of no use, or there is one too many."""
    cma = k.hugetlb_cma
    used = [area for area in cma.areas if area is not None]
    how = draw.randrange(6)
    if how == 0:
        cma.only = not cma.only
    elif how == 1:
        cma.size = draw.choice((cma.size + (1 << 30), cma.size - (1 << 30) if cma.size else 1 << 30, 0))
    elif how == 2 and used:
        cma.areas[used[-1].nid] = None
    elif how == 3 and used:
        area = draw.choice(used)
        area.activated = not area.activated
    elif how == 4 and used:
        area = draw.choice(used)
        lo = area.ranges[0].base_pfn
        if draw.random() < 0.5 and len(area.ranges) > 1:
            area.ranges[0].base_pfn -= area.ranges[0].base_pfn >> area.order_per_bit << area.order_per_bit
        else:
            k.pages.owners.set(lo, lo + (1 << area.order_per_bit), OWNER_CMA)
    else:
        k.cma.areas.append(Cma(0, 0, 0))
    return f"areas of {cma.size} bytes on {len(used)} nodes, only {cma.only}, {len(k.cma.areas)} in all"


def ram(k: Kernel, draw: Random) -> str | None:
    """The machine has other ranges of RAM than its kernel was given."""
    ranges = list(k.machine.ram_ranges())
    i = draw.randrange(len(ranges))
    nid, lo, hi = ranges[i]
    how = draw.randrange(4)
    unit = (2 << 20) >> k.arch.page_shift
    if how == 0:
        ranges[i] = (nid + 1) % max(2, len(k.nodes)), lo, hi
    elif how == 1:
        ranges[i] = nid, lo, hi + draw.choice((unit, -unit))
    elif how == 2:
        ranges[i] = nid, max(0, lo - unit), hi
    else:
        ranges.append((nid, ranges[-1][2], ranges[-1][2] + unit))
    skewed = type("Machine", (Machine,), {"__slots__": (), "ram_ranges": lambda self: tuple(ranges)})
    kept = {field.name: getattr(k.machine, field.name) for field in fields(Machine)}
    k.machine = cast(Machine, cast(Any, skewed)(**kept))
    return f"RAM is {ranges}"


def map_type(k: Kernel, draw: Random) -> str | None:
    """A page map is of another type, or of another order."""
    if not k.pgmaps:
        return None
    pgmap = draw.choice(k.pgmaps)
    if draw.random() < 0.5:
        pgmap.type = draw.choice([one for one in ("generic", "fsdax") if one != pgmap.type])
    else:
        pgmap.vmemmap_shift = neighbour(pgmap.vmemmap_shift, draw)
    return f"a page map of type {pgmap.type}, order {pgmap.vmemmap_shift}"


WHOLE: Final[tuple[Spoiler, ...]] = (
    *(swapped, program_elsewhere, one_less, traded, turns, in_pieces, no_table, no_block, left_over, record),
    *(made_areas, ram, map_type),
)
"""All of them."""

OF_OPERATIONS: Final[dict[str, tuple[Spoiler, ...]]] = {
    "reserve": (made_areas,),
    "boot": (made_areas, made_areas, ram, one_less, turns),
    "hugetlb": (swapped, one_less, traded, turns),
    "sysctl": (turns,),
    "memory": (no_block, left_over, record, record, one_less, swapped),
    "subblock": (no_block, in_pieces),
    "dax": (left_over, left_over, map_type, no_block, no_table),
    "pages": (program_elsewhere, program_elsewhere, in_pieces),
    "fail": (turns,),
}
"""By the first word of an operation."""
