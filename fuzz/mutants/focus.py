"""Faults near what one module of the oracle reads, for the mutants of that module.

What an excuse asks about are seldom the values that a comparison reads: who ran short, which points failed, whose the
frames are that were to go, what either side answered.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from fuzz.mutants.spoil import (
    POINTS,
    Spoiler,
    altmap,
    block,
    counter,
    entry,
    entry_protection,
    folio,
    folios,
    free,
    free_pages,
    free_zone,
    holder,
    isolated,
    log,
    managed_zone,
    online,
    owner,
    page_map,
    pageblock,
    points,
    poison,
    pool,
    references,
    remap,
    resource,
    section,
    section_node,
    shared_page,
    shortage,
    struct_page,
    subsection,
    table,
    translation,
    tried,
    unplugged,
    waiting,
    zone,
)
from fuzz.mutants.spoil_books import (
    another_content,
    area,
    cma_lists,
    direct_map,
    driver_frames,
    early_area,
    gone,
    leaks,
    left_behind,
    on_another_node,
    outside,
    representation,
    root_array,
    roots,
    window,
)
from fuzz.mutants.spoil_devices import DEVICES
from fuzz.mutants.spoil_near import request
from fuzz.mutants.spoil_whole import (
    WHOLE,
    idle_table,
    in_pieces,
    left_over,
    made_areas,
    map_type,
    no_block,
    no_table,
    program_elsewhere,
    ram,
    record,
    swapped,
    traded,
    turns,
)
from fuzz.oracle.finding import Outcome
from mm.errno import EBUSY, EEXIST, ENOMEM, EOPNOTSUPP
from mm.kernel import Kernel
from mm.page_alloc import OWNER_HUGETLB, OWNER_MEMMAP, OWNER_PAGES, OWNER_PAGES_MOVABLE, OWNER_PGTABLE
from mm.tlb import RecordingTlb

REFUSALS: Final[tuple[Outcome, ...]] = (0, 0, -ENOMEM, -ENOMEM, -EBUSY, -EEXIST, -EEXIST, -EOPNOTSUPP)
"""What an operation may answer where a clause of the ledger lets the sides part."""


def lack(k: Kernel, draw: Random) -> str | None:
    """Allocations got less than they asked for, of pages or of whole pageblocks, or more did not."""
    pages = k.pages
    names = draw.choice((("short",), ("short", "short_of_blocks"), ("short_of_blocks",), ("spilled",)))
    step = draw.choice((1, 1, 1, -1))
    for name in names:
        setattr(pages, name, getattr(pages, name) + step)
    return f"{' and '.join(names)}: {step:+}"


def fired(k: Kernel, draw: Random) -> str | None:
    """An injected failure hit another point, or none, or hit where there was none."""
    faults = k.faults
    if faults.points is None:
        return None
    faults.fired = draw.choice([kind for kind in (*POINTS, None) if kind != faults.fired])
    faults.failed = draw.choice((faults.failed, int(faults.fired is not None)))
    return f"{faults.failed} failed: {faults.fired}"


def passed(k: Kernel, draw: Random) -> str | None:
    """One of the points that were passed is passed once more or less, or comes later."""
    trace = k.faults.points
    if not trace:
        return None
    i = draw.randrange(len(trace))
    kind, n = trace[i]
    how = draw.randrange(4)
    if how == 0:
        trace[i] = kind, n + draw.choice((1, -1))
    elif how == 1:
        trace.insert(i, (kind, 1))
    elif how == 2:
        del trace[i]
    else:
        trace.append(trace.pop(i))
    return f"points from {i} on: {trace[i : i + 3]}"


def stuck(k: Kernel, draw: Random) -> str | None:
    """A frame of what was to go, or of what the operation touched, is of another owner."""
    spans = [(lo, hi) for lo, hi in (*k.memory_blocks.tried, *k.pages.touched) if lo < hi]
    if not spans:
        return None
    lo, hi = draw.choice(spans)
    pfn = draw.choice((lo, hi - 1, (lo + hi) // 2))
    run = k.pages.owners.run(pfn)
    was = None if run is None else run[2]
    owners = (OWNER_PAGES, OWNER_PAGES_MOVABLE, OWNER_MEMMAP, OWNER_PGTABLE, OWNER_HUGETLB)
    new = draw.choice([one for one in owners if one != was])
    if run is not None and draw.random() < 0.5:
        lo, hi = max(lo, run[0]), min(hi, run[1])
    else:
        lo, hi = pfn, pfn + 1
    k.pages.owners.set(lo, hi, new)
    return f"frames {lo:#x}..{hi:#x} are of {new}, not {was}"


def freed(k: Kernel, draw: Random) -> str | None:
    """Something that the operation took is free, or the other way round; the numbers of the zone agree."""
    spans = [(lo, hi) for lo, hi in k.pages.touched if lo < hi and k.pages.zone_of.get(lo) is not None]
    if not spans:
        return None
    lo, hi = draw.choice(spans)
    hi = min(hi, lo + draw.choice((1, 1, 1 << k.pages.block_order)))
    z = k.pages.zone_of.get(lo)
    assert z is not None
    if z.frags.overlaps(lo, hi):
        z.frags.remove(lo, hi)
        k.pages.owners.set(lo, hi, draw.choice((OWNER_PAGES, OWNER_MEMMAP)))
        return f"frames {lo:#x}..{hi:#x} are not free"
    k.pages.owners.clear(lo, hi)
    z.frags.add(lo, hi)
    return f"frames {lo:#x}..{hi:#x} are free"


def counted(k: Kernel, draw: Random) -> str | None:
    """A page of memmap more or less, in the counter and among the free pages, as a page too many would be."""
    zones = [z for node in k.nodes for z in node.zones if z.frags.starts]
    if not zones:
        return None
    z = draw.choice(zones)
    pfn = z.frags.starts[0]
    z.frags.remove(pfn, pfn + 1)
    k.pages.owners.set(pfn, pfn + 1, OWNER_MEMMAP)
    name = draw.choice(("nr_memmap", "nr_memmap_boot", "nr_page_table_pages"))
    setattr(k.vmstat, name, getattr(k.vmstat, name) + 1)
    k.pages.touched.append((pfn, pfn + 1))
    return f"frame {pfn:#x} of zone{z.key} is one more of {name}"


def initialized(k: Kernel, draw: Random) -> str | None:
    """Struct pages were initialised more or less often, by one or by a unit that a rule knows."""
    kept = k.arch.pfn(1)
    step = draw.choice((1, kept, 2 * kept, k.arch.pages_per_section, 512)) * draw.choice((1, -1))
    k.vmstat.struct_pages_initialized += step
    return f"struct_pages_initialized: {step:+}"


_MAPPED: Final = (entry, entry, entry_protection, table, shared_page, references, page_map)
_WRITTEN: Final = (struct_page, struct_page, another_content, shared_page, remap)
_COUNTED: Final = (zone, free, free_zone, managed_zone, counter, counted, freed, lack, initialized, cma_lists)
_POOLED: Final = (pool, free_pages, folio, folios, waiting, on_another_node, poison)
_EXCUSED: Final = (lack, lack, fired, passed, points, stuck, stuck, tried, freed, owner, holder, poison, free_zone)
_BLOCKS: Final = (block, altmap, window, section, section_node, subsection, pageblock, unplugged)

_ALTMAPS: Final = (block, altmap, window, page_map)
_ADDED: Final = (remap, page_map, subsection, counter, initialized, counted, references, shared_page, altmap)

_LAWS: Final[dict[str, tuple[Spoiler, ...]]] = {
    "zone_counters": (zone, zone, managed_zone, counted, online, owner),
    "free_areas": (in_pieces, cma_lists, isolated, free),
    "totals": (free, free_zone, cma_lists),
    "page_tables": (no_table, no_table, roots, table),
    "vmemmap_window": (outside,),
    "blocks": (block, no_block, online, unplugged, driver_frames, left_behind, owner, section),
    "_shared_blocks": (online, no_block, block),
    "_added_later": (no_block, online, block, gone, resource),
    "section_words": (section, subsection, gone, online),
    "memory_maps": (gone, entry),
    "resources": (resource, gone, page_map, subsection),
    "_covered": (resource, gone, holder, unplugged, driver_frames),
    "device_zones": (zone, section, page_map),
    "pageblocks": (pageblock, gone),
    "altmaps": (altmap, window),
    "holders": (holder, owner, program_elsewhere),
    "poison": (poison, record, folio),
    "pools": (pool, free_pages, folio, folios, waiting, on_another_node),
}
_BOOKS: Final[dict[str, tuple[Spoiler, ...]]] = {
    **dict.fromkeys(("runs", "_maps", "_sets"), (representation,)),
    "windows": (window, window, altmap, owner),
    "areas": (area, area, area, folio, cma_lists, zone),
    "busy": (resource, gone, left_over, no_block),
    "direct_map": (direct_map,),
    "out_of_use": (poison, owner, record),
}
_INVARIANTS: Final[dict[str, tuple[Spoiler, ...]]] = {
    "_partition": (free, owner, freed, online),
    **dict.fromkeys(("_mapped", "_unlike", "_join", "_of"), (entry, entry, owner, counter, counted, table)),
    **dict.fromkeys(
        ("_references", "_private", "_private_use", "_tail_slots", "_device"), (references, shared_page, entry, owner)
    ),
    **dict.fromkeys(("_tables", "_levels"), (table, no_table, idle_table, entry, owner)),
    **dict.fromkeys(("_pools", "_rows"), _POOLED),
    **dict.fromkeys(("_row_alike", "_folio"), (folio, entry, entry_protection, entry_protection, table)),
}

FOCUS: Final[dict[str, tuple[Spoiler, ...]]] = {
    "accounting": (*_COUNTED, *_POOLED, *_BLOCKS, page_map),
    **dict.fromkeys(("accounting:counters", "accounting:_explain", "accounting:leak", "accounting:lose"), _COUNTED),
    **dict.fromkeys(("accounting:expect", "accounting:unsettle"), _COUNTED),
    **dict.fromkeys(("accounting:pools", "accounting:_pool_numbers", "accounting:_numbers"), _POOLED),
    **dict.fromkeys(("accounting:_folios", "accounting:_unlike"), (folio, folios)),
    **dict.fromkeys(("accounting:blocks", "accounting:_no_altmaps", "accounting:_altmap"), _ALTMAPS),
    "accounting:layout": (zone, managed_zone, direct_map, direct_map, leaks),
    "accounting:poison": (poison,),
    "zones": (*_COUNTED, area),
    "parting": _EXCUSED,
    "known": (*_EXCUSED, *_MAPPED, pool, owner, altmap, window),
    "unaligned": (*_MAPPED, *_WRITTEN, *_EXCUSED, *DEVICES * 6),
    "arches": (*_MAPPED, *_POOLED, *_COUNTED, owner, *DEVICES * 2),
    "rules": (*_MAPPED, *_WRITTEN, *_COUNTED, subsection, section, *DEVICES * 3),
    "pieces": (*_MAPPED, *_WRITTEN, *_COUNTED, subsection, section, *DEVICES * 4),
    "observe": (*_MAPPED, *_WRITTEN, *DEVICES),
    "difference": (*_MAPPED, *_WRITTEN, owner, *DEVICES),
    "alike": (*_MAPPED, *_WRITTEN, owner),
    "contents": (*_WRITTEN, entry, owner, folio, *DEVICES),
    "contents:migratetypes": (pageblock, pageblock, area, owner, online),
    "compare": (*_EXCUSED, *_MAPPED, *_WRITTEN, *_COUNTED, *_BLOCKS, pool, translation, shortage, remap),
    **dict.fromkeys(("compare:_mapping", "compare:_unlike"), _MAPPED),
    "compare:_touched": (*[points] * 4, *[passed] * 4, *[struct_page] * 4, entry, *_COUNTED, *_BLOCKS),
    "compare:_struct_pages": (*_WRITTEN, *_MAPPED),
    "compare:_frames": (references, references, shared_page, entry),
    "tlb:either": (translation,),
    **dict.fromkeys(("compare:_fork", "compare:_lack", "compare:_refused"), _EXCUSED),
    **dict.fromkeys(("compare:_known", "compare:_leaves"), (*_MAPPED, *_WRITTEN, counter, log)),
    **dict.fromkeys(("compare:_expect", "compare:_remapped", "compare:_created"), _ADDED),
    "compare:_returns": (log, fired, lack, subsection),
    "history:after": (entry_protection, entry_protection, entry_protection, pageblock, struct_page, counter),
    **dict.fromkeys(("history:_remapped", "history:_boot"), (entry_protection,)),
    "history:dropped": (log, section, section, subsection, block),
    **dict.fromkeys(
        ("history:altmap_in_error_path", "history:left_of_block"), (fired, passed, altmap, subsection, block)
    ),
    **dict.fromkeys(("zones:room", "accounting:room_before"), (lack, lack, lack, *_COUNTED)),
    "history": (*_MAPPED, *_WRITTEN, *_COUNTED, pageblock, owner),
    "listed": (*_BLOCKS, entry, struct_page, owner, pool, free_pages),
    "roots": (root_array, root_array, root_array, section),
    "effect": (points, fired, waiting, translation),
    "sections": (section, section_node, subsection),
    "laws": (*WHOLE, *_BLOCKS, *_COUNTED, *_POOLED, resource, page_map, holder),
    "books": (*WHOLE, area, area, altmap, window, cma_lists, free, owner, resource),
    **{f"laws:{name}": found for name, found in _LAWS.items()},
    **{f"books:{name}": found for name, found in _BOOKS.items()},
    **{f"invariants:{name}": found for name, found in _INVARIANTS.items()},
    "invariants": (*WHOLE, *_MAPPED, *_POOLED, owner, references, counter, counted),
    "boot": (made_areas, made_areas, ram, area, zone, pool, turns, request, request, early_area, leaks, left_behind),
    "cma": (made_areas, area, area, request),
    "order": (swapped, traded, traded, turns, free_pages, pool, on_another_node),
    "huge": (*_POOLED, record, record, swapped, traded, turns),
    "device": (map_type, left_behind, page_map, resource, block, subsection, table, entry),
    "pages": (program_elsewhere, holder, owner, stuck, on_another_node, folio, folio),
    "memory": (no_block, no_block, *_BLOCKS, resource, poison, record, holder, stuck, program_elsewhere, idle_table),
    "memory:_idle_table": (idle_table,),
    **dict.fromkeys(("boot:_memory", "boot:_turns"), (ram, ram, zone, online)),
    "boot:_leak_detector": (leaks,),
}
"""By module of fuzz.oracle, or by module and function."""

KINDS_OF: Final[dict[str, tuple[str, ...]]] = {
    "tlb": ("flush",) * 25,
    "answers": ("answer",) * 25 + ("misled", "argument") * 4,
    "device": ("handle", "handle", "answer", "misled") * 2,
    "memory": ("misled", "misled", "answer", "argument", "idle") * 2,
    "huge": ("misled", "misled", "answer", "idle") * 2,
    "order": ("misled", "misled", "misled", "idle") * 3,
    "pages": ("misled", "answer", "handle") * 4,
    **dict.fromkeys(("boot", "boot:_memory", "boot:_turns"), ("misled",) * 12),
}
"""Other faults than spoiled states that are planted more often, by the same names."""

ONE_SIDED: Final = frozenset(
    {"answers", "boot", "cma", "common", "device", "effect", "huge", "memory", "order", "pages"}
    | {"laws", "books", "invariants", "contents", "roots", "listed"}
)
"""Modules with laws that look at one side alone."""

EXCUSING: Final = frozenset(
    {"parting", "known", "unaligned", "compare:_fork", "compare:_lack", "compare:_refused", "compare:_returns"}
    | {"compare:_known", "compare:_leaves", "history:altmap_in_error_path", "history:dropped", "history:left_of_block"}
    | {"zones:room", "accounting:room_before"}
)
"""Those of them that ask what either side answered, and which allocation failed."""

FAILING: Final = frozenset(
    f"parting:{name}"
    for name in ("fault_fork", "pieces_done", "points_differ", "_way_round", "_moved", "_first_points")
)
"""Those of them that are about allocations that fail."""

MIMICKING: Final = frozenset(
    {"compare:_unlike", "compare:_mapping", "compare:_struct_pages", "alike", "rules", "pieces"}
    | {"sections", "history"}
)
"""Those that look at what the series promises to change: the candidate is as the reference there."""


def leave_out_flush(tlb: RecordingTlb, draw: Random) -> Callable[[], str | None]:
    """From now on one of the flushes is left out, or is of one page less at one end. To be called when the operation
    is over: what was left out, None if there were not as many."""
    nth, how = draw.choice((1, 1, 1, 2, 2, 3, 5)), draw.randrange(3)
    calls = 0
    done: list[str] = []

    def counted() -> bool:
        nonlocal calls
        calls += 1
        return calls == nth

    def flush_tlb_all(self: Any) -> None:
        if counted():
            done.append(f"flush {nth}, of all, is left out")
        else:
            RecordingTlb.flush_tlb_all(self)

    def flush_tlb_kernel_range(self: Any, lo: int, hi: int) -> None:
        if not counted():
            RecordingTlb.flush_tlb_kernel_range(self, lo, hi)
            return
        done.append(f"flush {nth}, of {lo:#x}..{hi:#x}, is left out, but for {('all', 'the first', 'the last')[how]}")
        if how:
            RecordingTlb.flush_tlb_kernel_range(self, lo + (how == 1), hi - (how == 2))

    methods = {"flush_tlb_all": flush_tlb_all, "flush_tlb_kernel_range": flush_tlb_kernel_range}
    tlb.__class__ = type("Lazy", (RecordingTlb,), {"__slots__": (), **methods})

    def ended() -> str | None:
        tlb.__class__ = RecordingTlb
        return done[0] if done else None

    return ended
