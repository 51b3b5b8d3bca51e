"""Faults in what the oracle observes: one value of a kernel's state becomes its neighbour.

Each function spoils one value of one structure, which `draw` chooses, and returns a line that says what it did, or None
where there is nothing to spoil. The neighbour is as near as can be: a number one larger or smaller, the next frame, a
range one unit shorter or longer, another owner, the other protection. A comparison that lets that pass lets everything
pass.

About half of the time the structure is told that it was touched there, as every function of the models tells it; what
changes in silence is for the full comparison at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Any, Final, TypeVar, cast

from mm import page_alloc
from mm.altmap import Altmap
from mm.kernel import MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, Kernel
from mm.mmzone import Zone
from mm.page import POISON, RAW, Compound, Content, Plain, Tail
from mm.page_alloc import Poisoned
from mm.pgtable import Leaf, Mapping, Pte, Shared, Strided, frame_at
from mm.runs import RunMap, RunSet

Spoiler = Callable[[Kernel, Random], str | None]
Spans = list[tuple[int, int]]
T = TypeVar("T")

OWNERS: Final[list[str]] = sorted(value for name, value in vars(page_alloc).items() if name.startswith("OWNER_"))
POINTS: Final = ("VMB", "VMF", "PTBL", "PGT", "TAIL", "ROOT", "BLK", "HEAD", "HP", "PTEHOOK", "PMDHOOK", "RAW", "RES")
"""Kinds of allocation points."""
TOUCHED: Final = 0.5


def neighbour(value: T, draw: Random) -> T:
    """A value next to this one, of its kind."""
    return cast(T, _neighbour(value, draw))


def _neighbour(value: Any, draw: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + draw.choice((-1, 1))
    if isinstance(value, Enum):
        members = list(type(value))
        return members[(members.index(value) + 1) % len(members)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        names = [name for name in value._fields if name != "kind" and not isinstance(getattr(value, name), str)]
        if names:
            name = draw.choice(names)
            named: Any = value
            return named._replace(**{name: _neighbour(getattr(value, name), draw)})
        return value
    if isinstance(value, tuple) and value:
        i = draw.randrange(len(value))
        return (*value[:i], _neighbour(value[i], draw), *value[i + 1 :])
    return 1 if value is None else value


def _content(content: Content, draw: Random) -> Content:
    """Another content of a struct page."""
    others: list[Content] = [POISON, RAW, Plain(0, 2), Plain(0, 4), Tail(9, 0, 4, True), Compound(9, 0, 0, 4, "devdax")]
    near: Content = _neighbour(content, draw)
    others = [other for other in others if other != content]
    return near if near != content and draw.random() < 0.6 else draw.choice(others)


def _owner(owner: str, draw: Random) -> str:
    others = [other for other in OWNERS if other != owner]
    return draw.choice(others)


def _entry(vpn: int, m: Mapping, draw: Random) -> Mapping:
    """Another mapping of a run that begins at `vpn`: its neighbour, or the same frame mapped in another way."""
    if draw.random() < 0.6:
        return neighbour(m, draw)
    frame = frame_at(m, vpn)
    others: list[Mapping] = [Leaf(frame - vpn), Pte(frame - vpn, True), Shared(frame, False), Shared(frame, True)]
    if isinstance(m, Strided) and m.tail is not None:
        others += [Shared(m.tail, m.tail_rw)] * 2  # the kept pages too
    return draw.choice([other for other in others if other != m])


def _run(spans: Spans, near: Spans, draw: Random) -> tuple[int, int] | None:
    """One of the runs, preferably one that the operation touched, or its first or last unit."""
    close = [run for run in spans if any(lo < run[1] and run[0] < hi for lo, hi in near)] if near else []
    if close and draw.random() < 0.7:
        spans = close
    if not spans:
        return None
    lo, hi = draw.choice(spans)
    return draw.choice(((lo, hi), (lo, lo + 1), (hi - 1, hi), (lo, (lo + hi + 1) // 2)))


def _map(
    name: str, runs: RunMap[Any], touched: Spans, draw: Random, other: Callable[[int, Any, Random], Any], unit: int = 1
) -> str | None:
    """Spoil a run of a map; units of `touched` are so many times those of the map."""
    near = [(lo // unit, -(-hi // unit)) for lo, hi in touched]
    at = _run(list(zip(runs.starts, runs.ends, strict=True)), near, draw)
    if at is None:
        return None
    lo, hi = at
    value = runs.get(lo)
    how = draw.random()
    if how < 0.6:
        new = other(lo, value, draw)
        if new == value:
            return None
        runs.set(lo, hi, new)
        text = f"{value} -> {new}"
    elif how < 0.8:
        runs.clear(lo, hi)
        text = f"{value} is gone"
    else:
        edge = runs.run(lo)
        assert edge is not None
        lo, hi = draw.choice(((edge[0] - 1, edge[0]), (edge[1], edge[1] + 1)))
        if lo < 0:
            return None
        runs.set(lo, hi, value)
        text = f"{value} reaches one further"
    if draw.random() < TOUCHED:
        touched.append((lo * unit, hi * unit))
    return f"{name} {lo:#x}..{hi:#x}: {text}"


def _set(name: str, runs: RunSet, touched: Spans, draw: Random, unit: int = 1) -> str | None:
    """Take something from a set, or add what is next to it."""
    near = [(lo // unit, -(-hi // unit)) for lo, hi in touched]
    at = _run(list(zip(runs.starts, runs.ends, strict=True)), near, draw)
    if at is None:
        return None
    lo, hi = at
    how = draw.random()
    if how < 0.5:
        runs.remove(lo, hi)
        text = "gone"
    elif how < 0.9:
        edges = [(s - 1, s) for s, e in runs.items() if s] + [(e, e + 1) for s, e in runs.items()]
        lo, hi = draw.choice(edges)
        runs.add(lo, hi)
        text = "new"
    else:
        runs.total += draw.choice((-1, 1))
        text = f"{runs.total} counted"
    if draw.random() < TOUCHED:
        touched.append((lo * unit, hi * unit))
    return f"{name} {lo:#x}..{hi:#x}: {text}"


def _attribute(name: str, thing: Any, names: tuple[str, ...], draw: Random) -> str | None:
    """Spoil one attribute."""
    attribute = draw.choice(names)
    value = getattr(thing, attribute)
    new = neighbour(value, draw)
    if new == value:
        return None
    setattr(thing, attribute, new)
    return f"{name}.{attribute}: {value} -> {new}"


def _key(name: str, values: dict[Any, Any], draw: Random, other: Callable[[Any, Random], Any]) -> str | None:
    """Spoil one value of a dictionary, take it away, or give it to the next key."""
    if not values:
        return None
    key = draw.choice(sorted(values))
    how = draw.random()
    value = values[key]
    if how < 0.5:
        values[key] = other(value, draw)
        return f"{name} {key}: {value} -> {values[key]}"
    del values[key]
    if how < 0.75:
        return f"{name} {key} is gone"
    values[neighbour(key, draw)] = value
    return f"{name} {key} has moved"


def _pool(k: Kernel, draw: Random) -> Any:
    pools = list(k.hstates.values())
    used = [h for h in pools if h.folios]
    return draw.choice(used if used and draw.random() < 0.8 else pools)


def _zone(k: Kernel, draw: Random) -> Zone:
    zones = [zone for node in k.nodes for zone in node.zones]
    used = [zone for zone in zones if zone.present_pages]
    return draw.choice(used if used and draw.random() < 0.8 else zones)


# -- one function a structure ---------------------------------------------------------------------------------------


def counter(k: Kernel, draw: Random) -> str | None:
    """A counter of the memory map."""
    names = "nr_memmap", "nr_memmap_boot", "nr_page_table_pages", "struct_pages_initialized"
    return _attribute("vmstat", k.vmstat, names, draw)


def zone(k: Kernel, draw: Random) -> str | None:
    """A number of a zone."""
    z = _zone(k, draw)
    names = "present_pages", "managed_pages", "cma_pages", "start_pfn", "end_pfn"
    text = _attribute(f"zone{z.key}", z, names, draw)
    if draw.random() < TOUCHED:
        k.memory_blocks.touched.append((0, 0))
        k.pages.touched.append((0, 0))
    return text


def free(k: Kernel, draw: Random) -> str | None:
    """Free pages of a zone."""
    z = _zone(k, draw)
    name = draw.choice(("blocks", "frags", "cma"))
    unit = 1 << k.pages.block_order if name == "blocks" else 1
    return _set(f"zone{z.key}.{name}", getattr(z, name), k.pages.touched, draw, unit)


def free_zone(k: Kernel, draw: Random) -> str | None:
    """Free pages are in another zone's lists."""
    a, b = _zone(k, draw), _zone(k, draw)
    if a is b or not a.frags.starts:
        return None
    pfn = a.frags.starts[0]
    a.frags.remove(pfn, pfn + 1)
    b.frags.add(pfn, pfn + 1)
    k.pages.touched.append((pfn, pfn + 1))
    return f"free frame {pfn:#x} is in the lists of {b.key}, not {a.key}"


def managed_zone(k: Kernel, draw: Random) -> str | None:
    """A page is counted in another zone."""
    a, b = _zone(k, draw), _zone(k, draw)
    name = draw.choice(("managed_pages", "present_pages"))
    if a is b:
        return None
    setattr(a, name, getattr(a, name) - 1)
    setattr(b, name, getattr(b, name) + 1)
    k.pages.touched.append((0, 0))
    return f"{name}: one of {a.key} is counted in {b.key}"


def entry(k: Kernel, draw: Random) -> str | None:
    """The mapping of vmemmap pages."""
    return _map("mapping", k.tables.entries, k.tables.touched, draw, _entry)


def entry_protection(k: Kernel, draw: Random) -> str | None:
    """The protection of vmemmap pages."""

    def other(vpn: int, m: Mapping, draw: Random) -> Mapping:
        if isinstance(m, Leaf):
            return m
        if isinstance(m, Strided) and draw.random() < 0.5:
            return m._replace(tail_rw=not m.tail_rw)
        return m._replace(rw=not m.rw)

    return _map("protection", k.tables.entries, k.tables.touched, draw, other)


def table(k: Kernel, draw: Random) -> str | None:
    """A page table's frame."""
    level = draw.randrange(3)
    return _map(
        f"table{level}",
        k.tables.tables[level],
        k.tables.touched,
        draw,
        lambda _, v, d: neighbour(v, d),
        k.tables.spans[0],
    )


def struct_page(k: Kernel, draw: Random) -> str | None:
    """The content of struct pages of private vmemmap pages."""
    return _map("struct page", k.memmap.own, k.memmap.touched, draw, lambda _, c, d: _content(c, d))


def shared_page(k: Kernel, draw: Random) -> str | None:
    """The content of a shared vmemmap page."""
    return _key("shared page", k.memmap.frames, draw, _content)


def owner(k: Kernel, draw: Random) -> str | None:
    """The owner of frames."""
    return _map("owner", k.pages.owners, k.pages.touched, draw, lambda _, o, d: _owner(o, d))


def references(k: Kernel, draw: Random) -> str | None:
    """The reference count of a frame."""
    if k.pages.refs:
        return _key("references", k.pages.refs, draw, neighbour)
    if not k.pages.owners.starts:
        return None
    frame = draw.choice(k.pages.owners.starts)
    k.pages.refs[frame] = 2
    return f"frame {frame:#x} has 2 references"


def section(k: Kernel, draw: Random) -> str | None:
    """A bit of a section's word."""
    return _map("section", k.sections.flags, k.sections.touched, draw, lambda _, w, d: w ^ 1 << d.randrange(10))


def section_node(k: Kernel, draw: Random) -> str | None:
    """The node of a section, or its usage map."""
    if draw.random() < 0.5:
        return _map("section node", k.sections.nid, k.sections.touched, draw, lambda _, n, d: neighbour(n, d))
    return _map("usage", k.sections.usage, k.sections.touched, draw, lambda _, u, d: d.choice(("boot", "hot")))


def subsection(k: Kernel, draw: Random) -> str | None:
    """A subsection that is present."""
    ratio = k.arch.pages_per_section // k.arch.pages_per_subsection
    near = [(lo * ratio, hi * ratio) for lo, hi in k.sections.touched]
    known = len(near)
    text = _set("subsections", k.sections.subsections, near, draw)
    k.sections.touched += [(lo // ratio, -(-hi // ratio)) for lo, hi in near[known:]]
    return text


def pageblock(k: Kernel, draw: Random) -> str | None:
    """The migratetype of pageblocks."""

    def other(_: int, kind: str, draw: Random) -> str:
        return draw.choice([t for t in (MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, "cma") if t != kind])

    return _map("pageblock", k.pageblocks, k.pages.touched, draw, other, 1 << k.arch.pmd_order)


def block(k: Kernel, draw: Random) -> str | None:
    """The state or node of a memory block."""
    memory = k.memory_blocks
    if draw.random() < 0.7:
        return _map("memory block", memory.zone, memory.touched, draw, lambda _, z, d: neighbour(z, d))
    return _map("memory block's node", memory.nid, memory.touched, draw, lambda _, n, d: neighbour(n, d))


def online(k: Kernel, draw: Random) -> str | None:
    """The zone of online pages."""

    def other(_: int, z: Zone, draw: Random) -> Zone:
        return draw.choice([zone for node in k.nodes for zone in node.zones if zone is not z])

    return _map("zone of pages", k.pages.zone_of, k.pages.touched, draw, other)


def unplugged(k: Kernel, draw: Random) -> str | None:
    """Unplugged frames."""
    return _set("unplugged", k.memory_blocks.unplugged, k.memory_blocks.touched, draw)


def altmap(k: Kernel, draw: Random) -> str | None:
    """A number of an altmap; the altmap of a block."""
    if k.memory_blocks.altmaps and draw.random() < 0.3:
        return _key("altmap of block", k.memory_blocks.altmaps, draw, lambda a, d: Altmap(1, 2, 0, 1))
    altmaps = [p.altmap for p in k.pgmaps if p.altmap is not None] + list(k.memory_blocks.altmaps.values())
    if not altmaps:
        return None
    return _attribute("altmap", draw.choice(altmaps), ("base_pfn", "capacity", "alloc", "align"), draw)


def page_map(k: Kernel, draw: Random) -> str | None:
    """A device's page map."""
    if not k.pgmaps:
        return None
    i = draw.randrange(len(k.pgmaps))
    pgmap = k.pgmaps[i]
    how = draw.random()
    if how < 0.3:
        del k.pgmaps[i]
        return f"page map {i} is gone"
    if how < 0.5:
        was, pgmap.altmap = pgmap.altmap, None
        return None if was is None else f"page map {i} has no altmap"
    if how < 0.8:
        return _attribute(f"page map {i}", pgmap, ("vmemmap_shift", "nid"), draw)
    start, end = pgmap.ranges[0]
    pgmap.ranges = [neighbour((start, end), draw), *pgmap.ranges[1:]]
    return f"page map {i}: {start:#x}..{end:#x} -> {pgmap.ranges[0]}"


def resource(k: Kernel, draw: Random) -> str | None:
    """A busy resource."""
    return _map("resource", k.iomem, [], draw, lambda _, r, d: d.choice(("ram", "hotplug", "dax")))


def pool(k: Kernel, draw: Random) -> str | None:
    """A number of a pool of huge pages."""
    h = _pool(k, draw)
    if draw.random() < 0.7:
        h.touched = True
    if draw.random() < 0.5:
        names = "resv", "nr_overcommit", "max_huge_pages", "next_nid_to_alloc", "next_nid_to_free"
        return _attribute(f"hugetlb.{h.order}", h, names, draw)
    name, nid = draw.choice(("nr", "surplus")), draw.randrange(len(h.nr))
    getattr(h, name)[nid] += draw.choice((-1, 1))
    return f"hugetlb.{h.order}.{name}: {getattr(h, name)}"


def free_pages(k: Kernel, draw: Random) -> str | None:
    """A free list of huge pages."""
    h = _pool(k, draw)
    lists = [free for free in h.free if free]
    if not lists:
        return None
    if draw.random() < 0.7:
        h.touched = True
    chosen = draw.choice(lists)
    pfn = draw.choice(sorted(chosen))
    folio = chosen.pop(pfn)
    how = draw.randrange(3)
    if how == 0 and len(chosen):
        chosen[pfn] = folio
    elif how == 1:
        h.free[draw.randrange(len(h.free))][neighbour(pfn, draw)] = folio
    return f"hugetlb.{h.order}: free huge page {pfn:#x} {('is last', 'is another', 'is not listed')[how]}"


def folio(k: Kernel, draw: Random) -> str | None:
    """A flag or number of a huge page."""
    h = _pool(k, draw)
    if not h.folios:
        return None
    chosen = h.folios[draw.choice(sorted(h.folios))]
    if draw.random() < 0.5:
        h.touched = True
    names = "vmemmap_optimized", "hugetlb", "refcount", "temporary", "nid", "cma", "hwpoison", "raw_hwp_unreliable"
    if draw.random() < 0.15:
        chosen.raw_hwp = (*chosen.raw_hwp, chosen.pfn + 1) if not chosen.raw_hwp else chosen.raw_hwp[1:]
        return f"{chosen!r}: raw pages {chosen.raw_hwp}"
    return _attribute(repr(chosen), chosen, (*names, "order", "pfn"), draw)


def folios(k: Kernel, draw: Random) -> str | None:
    """The huge pages of a pool, or its mappings."""
    h = _pool(k, draw)
    if not h.folios:
        return None
    if draw.random() < 0.5:
        h.touched = True
    if h.mapped and draw.random() < 0.4:
        mapped = draw.choice(h.mapped)
        if mapped:
            return f"hugetlb.{h.order}: {mapped.pop()!r} is not mapped"
    pfn = draw.choice(sorted(h.folios))
    gone = h.folios.pop(pfn)
    if draw.random() < 0.5:
        h.folios[pfn + h.pages] = gone
    return f"hugetlb.{h.order}: huge page {pfn:#x} is another or gone"


def waiting(k: Kernel, draw: Random) -> str | None:
    """Huge pages that wait for the work item."""
    if k.hpage_freelist:
        return f"{k.hpage_freelist.pop()!r} does not wait"
    h = _pool(k, draw)
    if not h.folios:
        return None
    k.hpage_freelist.append(h.folios[min(h.folios)])
    return f"{k.hpage_freelist[0]!r} waits"


def poison(k: Kernel, draw: Random) -> str | None:
    """A poisoned frame, or how many a block counts."""
    marks, counts = k.pages.hwpoison, k.memory_blocks.nr_hwpoison
    if marks and draw.random() < 0.6:
        return _key("poisoned frame", marks, draw, neighbour)
    if counts:
        return _key("poisoned frames of block", counts, draw, neighbour)
    zones = k.pages.zone_of.starts
    if not zones:
        return None
    marks[zones[0]] = draw.choice(list(Poisoned))
    return f"frame {zones[0]:#x} is poisoned"


def holder(k: Kernel, draw: Random) -> str | None:
    """The pages that a program holds."""
    if not k.pages.holders.starts:
        return None
    extents = draw.choice(k.pages.holders.vals)
    i = draw.randrange(len(extents)) if extents else 0
    if not extents:
        return None
    was = extents[i]
    extents[i : i + 1] = draw.choice(([], [was, was], [neighbour(was, draw)]))
    return f"extent {was} of a program is spoiled"


def isolated(k: Kernel, draw: Random) -> str | None:
    """Pageblocks stay isolated."""
    k.pages.isolated = (0, 1 << k.pages.block_order)
    return "a pageblock stays isolated"


def log(k: Kernel, draw: Random) -> str | None:
    """A complaint more or less."""
    if k.log and draw.random() < 0.5:
        return f"no complaint: {k.log.pop()}"
    k.log.append(draw.choice(("WARNING: planted", "BUG: Bad page state: planted")))
    return "a complaint"


def translation(k: Kernel, draw: Random) -> str | None:
    """A stale translation, or a change without break before make."""
    k.tlb.violations.append(draw.choice(("frame 0x1000 is freed while translations of it are cached", "planted")))
    return f"TLB: {k.tlb.violations[-1]}"


def points(k: Kernel, draw: Random) -> str | None:
    """The allocation points that an operation reached, or which failed."""
    faults = k.faults
    if not faults.points:
        return None
    how = draw.randrange(5)
    i = draw.randrange(len(faults.points))
    kind, n = faults.points[i]
    if how == 0:
        faults.points[i] = kind, n + draw.choice((-1, 1))
    elif how == 1:
        faults.points[i] = draw.choice(POINTS), n
    elif how == 2:
        faults.points.insert(draw.randrange(len(faults.points) + 1), (draw.choice(POINTS), draw.choice((1, 64))))
    elif how == 3:
        faults.fired = None if faults.fired else draw.choice(POINTS)
    else:
        return _attribute("faults", faults, ("failed", "first", "last"), draw)
    return f"allocation points: {faults.points[-3:]}, failed: {faults.fired}"


def shortage(k: Kernel, draw: Random) -> str | None:
    """An allocation got less than it asked for, or another zone gave it."""
    return _attribute("allocator", k.pages, ("short", "spilled"), draw)


def tried(k: Kernel, draw: Random) -> str | None:
    """The frames that were to go."""
    if not k.memory_blocks.tried:
        return None
    k.memory_blocks.tried[-1] = neighbour(k.memory_blocks.tried[-1], draw)
    return f"tried: {k.memory_blocks.tried}"


def remap(k: Kernel, draw: Random) -> str | None:
    """What device memory came or went."""
    if not k.remaps:
        return None
    pgmap, before = k.remaps[-1]
    how = draw.randrange(3)
    if how == 0:
        del k.remaps[-1]
    elif how == 1:
        pgmap.nr_range += draw.choice((-1, 1))
    else:
        return _attribute("page map", pgmap, ("vmemmap_shift", "nid"), draw)
    return f"device memory: {before and 'added'}, {pgmap.nr_range} ranges"


SPOILERS: Final[tuple[Spoiler, ...]] = (
    *(counter, zone, free, free_zone, managed_zone, entry, entry, entry_protection, table, struct_page, struct_page),
    *(shared_page, owner, references, section, section_node, subsection, pageblock, block, online, unplugged, altmap),
    *(page_map, resource, pool, free_pages, folio, folios, waiting, poison, holder, isolated, log, translation),
    *(points, shortage, tried, remap),
)
"""All of them; what has more to be got wrong is there twice."""
