"""Faults in what only a law of one side looks at: books that are kept twice, representations, contents that do not fit.

As `fuzz.mutants.spoil`, but what is spoiled here agrees with what is beside it, so that no plainer comparison speaks
first: a content of another page of the same zone, a page that is counted on another node, a run in two pieces.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from fuzz.mutants.spoil import TOUCHED, Spoiler, neighbour
from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.mmzone import SECTION_IS_ONLINE
from mm.page import Compound, Content, Plain, Poison, Raw, SelfHosted, Tail
from mm.runs import RunMap, RunSet


def area(k: Kernel, draw: Random) -> str | None:
    """An area of the contiguous memory allocator: its sizes, its ranges, what it gave out."""
    areas = [cma for cma in k.cma.areas if cma.ranges]
    if not areas:
        return None
    cma = draw.choice(areas)
    cmr = draw.choice(cma.ranges)
    unit = 1 << cma.order_per_bit
    how = draw.randrange(8)
    if how == 0:
        cma.available_count += draw.choice((-unit, unit))
    elif how == 1:
        cma.count += draw.choice((-unit, unit))
        cma.available_count = cma.count - sum(one.bitmap.total for one in cma.ranges)
    elif how == 2:
        cmr.base_pfn += draw.choice((-unit, unit, 1, -1))
    elif how == 3:
        cmr.count += draw.choice((-unit, unit))
    elif how == 4:
        pfn = draw.choice((cmr.base_pfn, cmr.end_pfn - unit, cmr.base_pfn - unit, cmr.end_pfn))
        if cmr.bitmap.overlaps(pfn, pfn + unit):
            cmr.bitmap.remove(pfn, pfn + unit)
            cma.available_count += unit
        else:
            cmr.bitmap.add(pfn, pfn + unit)
            cma.available_count -= unit
    elif how == 5:
        k.pages.cma.remove(cmr.base_pfn, cmr.base_pfn + (1 << k.pages.block_order))
    elif how == 6:
        cma.zones_valid = not cma.zones_valid
    else:
        k.cma.areas.remove(cma)
    ranges = [(one.base_pfn, one.count, one.bitmap.items()) for one in cma.ranges]
    return f"area of {cma.count} pages, {cma.available_count} available: {ranges}"


def early_area(k: Kernel, draw: Random) -> str | None:
    """What the command line asked for of such areas."""
    cma: Any = k.hugetlb_cma
    if not cma.size:
        return None
    if draw.random() < 0.5:
        cma.only = not cma.only
        return f"hugetlb_cma_only={cma.only}"
    cma.size += draw.choice((-1, 1)) << 30
    return f"hugetlb_cma={cma.size}"


def cma_lists(k: Kernel, draw: Random) -> str | None:
    """Free pages of areas are in the lists of ordinary ones, or the other way round."""
    zones = [zone for node in k.nodes for zone in node.zones if zone.frags.starts or zone.cma.starts]
    if not zones:
        return None
    zone = draw.choice(zones)
    lists = [zone.cma, zone.frags]
    if not lists[0].starts or (lists[1].starts and draw.random() < 0.5):
        lists.reverse()
    pfn = draw.choice(lists[0].starts)
    lists[0].remove(pfn, pfn + 1)
    lists[1].add(pfn, pfn + 1)
    k.pages.touched.append((pfn, pfn + 1))
    return f"free frame {pfn:#x} of zone{zone.key} is {'an ordinary one' if lists[1] is zone.frags else 'of an area'}"


def _all_maps(k: Kernel) -> list[RunMap[Any]]:
    blocks, sections = k.memory_blocks, k.sections
    maps: list[RunMap[Any]] = [
        k.pages.owners,
        k.pages.zone_of,
        sections.flags,
        sections.nid,
        sections.usage,
        k.pageblocks,
    ]
    return [*maps, blocks.zone, blocks.nid, k.iomem, k.tables.entries, k.memmap.own, *k.tables.tables]


def representation(k: Kernel, draw: Random) -> str | None:
    """Runs that say the same in another form: one in two pieces, an empty one."""
    if draw.random() < 0.3:
        zones = [zone for node in k.nodes for zone in node.zones]
        sets: list[RunSet] = [runs for zone in zones for runs in (zone.blocks, zone.frags, zone.cma) if runs.starts]
        sets += [runs for runs in (k.pages.cma, k.sections.subsections, k.memory_blocks.unplugged) if runs.starts]
        if not sets:
            return None
        found: Any = draw.choice(sets)
        i = draw.randrange(len(found.starts))
    else:
        maps = [runs for runs in _all_maps(k) if runs.starts]
        if not maps:
            return None
        found = draw.choice(maps)
        i = draw.randrange(len(found.starts))
        found.vals.insert(i, found.vals[i])
    lo, hi = found.starts[i], found.ends[i]
    at = draw.choice((lo, (lo + hi) // 2, hi))
    found.ends.insert(i, at)
    found.starts.insert(i + 1, at)
    return f"a run {lo:#x}..{hi:#x} is cut at {at:#x}"


def another_content(k: Kernel, draw: Random) -> str | None:
    """Struct pages look like others of their zone and node: a huge page like none, none like a huge page."""
    runs = k.memmap.own
    if not runs.starts:
        return None
    folios = [(folio.pfn, folio.end_pfn, h.order) for h in k.hstates.values() for folio in h.folios.values()]
    if folios and draw.random() < 0.5:
        lo, hi, order = draw.choice(folios)
    else:
        i = draw.randrange(len(runs.starts))
        lo, hi, order = runs.starts[i], runs.ends[i], draw.choice([*k.hstates, 0])
    was = runs.get(lo)
    if was is None or isinstance(was, Raw | Poison):
        return None
    nid, zone = was.nid, was.zone
    others: list[Content] = [
        Plain(nid, zone),
        SelfHosted(nid, zone),
        Tail(order, nid, zone, False),
        Tail(order, nid, zone, True),
        Compound(order, 0, nid, zone, "hugetlb"),
        Compound(order, 1, nid, zone, "hugetlb"),
        Compound(order + 1, 0, nid, zone, "hugetlb"),
        Compound(order, 0, nid, zone, "devdax"),
    ]
    new = draw.choice([other for other in others if other != was])
    hi = draw.choice((hi, lo + k.arch.pfn(1), min(hi, lo + 1)))
    runs.set(lo, hi, new)
    if draw.random() < TOUCHED:
        k.memmap.touched.append((lo, hi))
    return f"struct pages {lo:#x}..{hi:#x}: {was} -> {new}"


def on_another_node(k: Kernel, draw: Random) -> str | None:
    """A huge page is counted on another node."""
    pools = [h for h in k.hstates.values() if len(h.nr) > 1 and h.folios]
    if not pools:
        return None
    h = draw.choice(pools)
    name = draw.choice(("nr", "surplus", "free"))
    if name == "free":
        lists = [(a, b) for a, b in ((h.free[0], h.free[1]), (h.free[1], h.free[0])) if a]
        if not lists:
            return None
        mine, other = draw.choice(lists)
        pfn = draw.choice(sorted(mine))
        other[pfn] = mine.pop(pfn)
    else:
        numbers = getattr(h, name)
        a, b = draw.choice(((0, 1), (1, 0)))
        numbers[a] -= 1
        numbers[b] += 1
    h.touched = True
    return f"hugetlb.{h.order}: one of {name} is on another node"


def window(k: Kernel, draw: Random) -> str | None:
    """An altmap gave out more than it has, or belongs to a memory block that is not there."""
    altmaps = k.memory_blocks.altmaps
    maps = [pgmap.altmap for pgmap in k.pgmaps if pgmap.altmap is not None]
    found: list[Altmap] = [*altmaps.values(), *maps]
    if not found:
        return None
    chosen = draw.choice(found)
    how = draw.randrange(4)
    if how == 0:
        chosen.alloc = chosen.capacity + draw.choice((1, 0, -chosen.align))
    elif how == 1:
        chosen.capacity = draw.choice((chosen.alloc + chosen.align, chosen.alloc, max(0, chosen.alloc - 1)))
    elif how == 2 and altmaps:
        block = draw.choice(sorted(altmaps))
        altmaps[block + 1000] = altmaps.pop(block)
    else:
        lo = chosen.base_pfn
        k.pages.owners.clear(lo, lo + draw.choice((1, max(1, chosen.capacity))))
    return f"altmap at {chosen.base_pfn:#x}: {chosen.alloc} of {chosen.capacity}, blocks {sorted(altmaps)}"


def gone(k: Kernel, draw: Random) -> str | None:
    """All that is known of a stretch of memory in one place is gone: subsections, migratetypes, tables, blocks."""
    spans = [(lo, hi) for lo, hi, _ in k.pages.zone_of.items()] + [run for pgmap in k.pgmaps for run in pgmap.ranges]
    if not spans:
        return None
    lo, hi = draw.choice(spans)
    how = draw.randrange(7)
    arch = k.arch
    sub, block, order = arch.pages_per_subsection, k.memory_blocks.pages, arch.pmd_order
    first, last = arch.vpn(lo), arch.vpn_end(hi)
    if how == 0:
        k.sections.subsections.remove(lo // sub, -(-hi // sub))
    elif how == 1:
        k.pageblocks.clear(lo >> order, -(-hi >> order))
    elif how == 2:
        level, span = draw.choice([*zip(k.tables.tables, k.tables.spans, strict=False)])
        level.clear(first // span, -(-last // span))
    elif how == 3:
        k.tables.entries.clear(first, last)
    elif how == 4:
        k.memory_blocks.zone.clear(lo // block, -(-hi // block))
    elif how == 5:
        k.iomem.clear(lo, hi)
    else:
        per = k.arch.pages_per_section
        for s, e, word in k.sections.flags.runs(lo // per, -(-hi // per)):
            k.sections.flags.set(s, e, word ^ SECTION_IS_ONLINE)
    names = "subsections", "pageblocks", "page tables", "mapping", "memory blocks", "resources", "online sections"
    if draw.random() < TOUCHED:
        k.memmap.touched.append((lo, hi))
    return f"{names[how]} of {lo:#x}..{hi:#x} are gone"


def driver_frames(k: Kernel, draw: Random) -> str | None:
    """Unplugged frames are in no block, or are not the driver's."""
    unplugged = k.memory_blocks.unplugged
    if not unplugged.starts:
        return None
    lo, hi = draw.choice(list(unplugged.items()))
    if draw.random() < 0.5:
        k.pages.owners.clear(lo, draw.choice((hi, lo + 1)))
        return f"unplugged frames {lo:#x}..{hi:#x} are free"
    end = max(k.memory_blocks.zone.ends) * k.memory_blocks.pages if k.memory_blocks.zone.ends else 0
    unplugged.add(end, neighbour(end + 512, draw))
    return f"frames from {end:#x} on are unplugged"


def roots(k: Kernel, draw: Random) -> str | None:
    """The page tables of processes lack a top-level entry of init_mm, or have one that is gone."""
    have = k.tables.roots
    if have is None:
        return None
    if draw.random() < 0.5:
        have.remove(0, 1)
    else:
        have.add(have.ends[-1], have.ends[-1] + 1)
    return f"processes have the top-level entries {have.items()}"


def root_array(k: Kernel, draw: Random) -> str | None:
    """An array of struct mem_section is gone, or there is one that nobody asked for, or they are of another size."""
    paths: Any = k.paths
    have = paths.section_root_arrays()[1]
    if not have:
        return None
    new = draw.choice((0, have[-1] + 1, have[-1] + 9))
    root = draw.choice((have[0], have[-1], draw.choice(have), new, new))
    if hasattr(paths, "sections_per_root") and draw.random() < 0.3:
        paths.sections_per_root += draw.choice((-1, 1))
        return f"{paths.sections_per_root} sections in an array"
    if hasattr(paths, "section_roots"):
        change = paths.section_roots.remove if root in have else paths.section_roots.add
        change(root, root + 1)
    elif root in have:
        paths.roots.remove(root)
    else:
        paths.roots.add(root)
    return f"array {root:#x} of sections is {'gone' if root in have else 'new'}"


def left_behind(k: Kernel, draw: Random) -> str | None:
    """A reference of a memory block, or the ops of a driver in a page map, of which another one is sound; or what a
    parameter shows."""
    how = draw.randrange(3)
    if how == 0 and k.memory_blocks.zone.starts:
        block = draw.choice(k.memory_blocks.zone.starts)
        k.memory_blocks.memory_block_get(block)
        return f"a reference of block {block}"
    if how == 1 and k.pgmaps:
        pgmap = draw.choice(k.pgmaps)
        pgmap.ops = "" if pgmap.ops else "fsdev"
        return f"a page map with the ops {pgmap.ops!r}"
    if k.parameters:
        k.parameters.update(dict.fromkeys(k.parameters, "?"))
        return f"parameters {k.parameters}"
    return None


def direct_map(k: Kernel, draw: Random) -> str | None:
    """Pages of the direct map are counted that are not there, or another way, or are not those of memory."""
    direct = k.direct_map
    if direct is None or not direct.entries.starts:
        return None
    how = draw.randrange(4)
    large, small = direct.orders[-2:]
    i = draw.randrange(len(direct.entries.starts))
    lo, hi = direct.entries.starts[i], direct.entries.ends[i]
    if how == 0:
        direct.pages[draw.choice((large, small))] += draw.choice((-1, 1, 64))
    elif how == 1:
        direct.pages[large] -= 1
        direct.pages[small] += 1 << (large - small)
    elif how == 2:
        direct.entries.clear(lo, draw.choice((hi, lo + (1 << large))))
    else:
        direct.entries.set(hi, hi + (1 << large), large)
    return f"direct map {direct.entries.items()}, counted {direct.arch_report_meminfo()}"


def leaks(k: Kernel, draw: Random) -> str | None:
    """The leak detector knows frames that the boot gave for other things, or not those that it should."""
    known = k.memblock.kmemleak
    if known.starts and draw.random() < 0.5:
        i = draw.randrange(len(known.starts))
        known.remove(known.starts[i], draw.choice((known.ends[i], known.starts[i] + 1)))
    else:
        runs = [(lo, hi) for lo, hi, _ in k.pages.owners.items() if not known.overlaps(lo, hi)]
        if not runs:
            return None
        lo, hi = draw.choice(runs)
        known.add(lo, draw.choice((hi, lo + 1)))
    return f"the leak detector knows {known.items()}"


def outside(k: Kernel, draw: Random) -> str | None:
    """The vmemmap begins or ends inside of what is mapped."""
    window, entries = k.tables.window, k.tables.entries
    if window is None or not entries.starts:
        return None
    lo, hi = entries.starts[0] + draw.choice((1, 512)), entries.ends[-1] - draw.choice((1, 512))
    k.tables.window = draw.choice(((lo, window[1]), (window[0], hi)))
    return f"the vmemmap is {k.tables.window}"


BOOKS: Final[tuple[Spoiler, ...]] = (
    *(area, area, area, early_area, cma_lists, representation, representation, another_content, another_content),
    *(on_another_node, window, window, gone, gone, gone, driver_frames, roots, left_behind, direct_map),
    *(leaks, outside),
)
"""All of them; what has more to be got wrong is there twice."""
