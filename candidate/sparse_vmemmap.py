"""Memory maps of hot-added sections (mm/sparse-vmemmap.c, -mm of November 2026, series C).

The order of the section decides everything: it is set before the memmap is populated and cleared after it is freed,
because the accounting on both ways asks for it.
"""

from __future__ import annotations

from candidate.vmemmap_optimization import (
    VMEMMAP_OPTIMIZATION_PAGES,
    Framework,
    section_nr_vmemmap_pages,
    section_set_compound_order,
    section_vmemmap_optimizable,
    vmemmap_can_optimize,
    vmemmap_optimizable_order,
    vmemmap_shared_tail_page,
)
from candidate.x86_pgtable import vmemmap_alloc_frames, vmemmap_free, vmemmap_populate, vmemmap_tables_populate
from mm.altmap import Altmap
from mm.errno import EEXIST, EINVAL, ENOMEM, EOPNOTSUPP
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY, SECTION_MARKED_PRESENT, ZONE_DEVICE
from mm.page import POISON
from mm.pgmap import PgMap
from mm.pgtable import Pte, Shared, strided

SECTIONS_PER_ROOT = 4096 // 24
"""struct mem_section is the memmap word, usage and the order; the framework dropped its power-of-two size.
UNCONFIRMED: no page_ext.
"""
HOT_SECTION = SECTION_MARKED_PRESENT | SECTION_HAS_MEM_MAP

# -- population -----------------------------------------------------------------------------------------------------


def reuse_compound_section(f: Framework, pfn: int, pgmap: PgMap) -> bool:
    """reuse_compound_section (mm/sparse-vmemmap.c, series C): `pfn` continues a compound page.

    Counted from the start of the range being added, while accounting and vmemmap_optimizable_pfn go by the absolute pfn
    (4.2).
    """
    nr = 1 << pgmap.vmemmap_shift
    offset = pfn - pgmap.ranges[pgmap.nr_range][0]
    return offset & (nr - 1) != 0 and nr > f.k.arch.pages_per_subsection


def vmemmap_populate_compound_pages(f: Framework, pfn: int, lo: int, hi: int, nid: int, pgmap: PgMap) -> int:
    """vmemmap_populate_compound_pages (mm/sparse-vmemmap.c, series C): vmemmap pages [lo, hi), under one PTE table,
        of a DAX section.

    Each slot that maps T takes a reference on it. Left out: pages that are mapped already, but for one at the start,
    which is refused as a mapped tail slot is.
    """
    k = f.k
    tables = k.tables
    order = pgmap.vmemmap_shift
    tail = vmemmap_shared_tail_page(f, order, k.nodes[nid].zones[ZONE_DEVICE])
    if tail is None or not vmemmap_tables_populate(k, lo, nid):
        return -ENOMEM
    if tables.get(lo) is not None:
        k.warn_once("vmemmap of an optimizable section is populated already")
        return -ENOMEM
    rw = f.dax_tail_rw
    if reuse_compound_section(f, pfn, pgmap):
        tables.set(lo, hi, Shared(tail, rw))
        k.pages.get_refs(tail, hi - lo)
        return 0
    period = k.arch.vmemmap_pages(order)
    if period > hi - lo:
        got = vmemmap_alloc_frames(k, 1, nid)
        if not got:
            return -ENOMEM
        tables.set(lo, lo + 1, Pte(got[0][0] - lo, True))
        tables.set(lo + 1, hi, Shared(tail, rw))
        k.pages.get_refs(tail, hi - lo - 1)
        return 0
    for frame, n in vmemmap_alloc_frames(k, (hi - lo) // period, nid):
        tables.set(lo, lo + n * period, strided(lo, period, 1, frame, True, tail, rw))
        k.pages.get_refs(tail, n * (period - 1))
        lo += n * period
    return 0 if lo == hi else -ENOMEM


def __populate_section_memmap(
    f: Framework, pfn: int, nr: int, nid: int, altmap: Altmap | None, pgmap: PgMap | None
) -> int:
    """__populate_section_memmap (mm/sparse-vmemmap.c, series C); the caller hides which error it was."""
    arch = f.k.arch
    if (pfn | nr) & (arch.pages_per_subsection - 1):
        f.k.warn_once("memory map of a range that is not whole subsections")
        return -EINVAL
    lo = pfn // arch.spp
    hi = lo + nr // arch.spp
    if pgmap is not None and section_vmemmap_optimizable(f, pfn // arch.pages_per_section):
        return vmemmap_populate_compound_pages(f, pfn, lo, hi, nid, pgmap)
    return vmemmap_populate(f, lo, hi, nid, altmap)


def populate_section_memmap(
    f: Framework, pfn: int, nr: int, nid: int, altmap: Altmap | None, pgmap: PgMap | None
) -> int:
    """populate_section_memmap (mm/sparse-vmemmap.c, -mm): counts the memmap even when it failed; depopulate takes it
    back.
    """
    rc = __populate_section_memmap(f, pfn, nr, nid, altmap, pgmap)
    f.k.vmstat.nr_memmap += section_nr_vmemmap_pages(f, pfn, nr)
    return rc


def depopulate_section_memmap(f: Framework, pfn: int, nr: int, altmap: Altmap | None) -> None:
    """depopulate_section_memmap (mm/sparse-vmemmap.c, -mm)."""
    k = f.k
    k.vmstat.nr_memmap -= section_nr_vmemmap_pages(f, pfn, nr)
    vmemmap_free(k, pfn // k.arch.spp, (pfn + nr) // k.arch.spp, altmap)


def free_map_bootmem(f: Framework, section: int) -> None:
    """free_map_bootmem (mm/sparse-vmemmap.c, -mm): the whole memmap of an early section."""
    k = f.k
    per = k.arch.pages_per_section
    k.vmstat.nr_memmap_boot -= section_nr_vmemmap_pages(f, section * per, per)
    per = k.arch.vmemmap_per_section
    vmemmap_free(k, section * per, (section + 1) * per, None)


def sections_nr_vmemmap_pages(f: Framework, pfn: int, end: int) -> int:
    """The sum of section_nr_vmemmap_pages over the whole sections of [pfn, end)."""
    arch = f.k.arch
    per = arch.pages_per_section
    total = (end - pfn) // arch.spp
    for first, last, order in f.orders.runs(pfn // per, end // per):
        if order >= f.min_order:
            heads = (-first * per >> order) - (-last * per >> order)  # multiples of 2^order, both rounded up
            total += VMEMMAP_OPTIMIZATION_PAGES * heads - (last - first) * arch.vmemmap_per_section
    return total


# -- sections -------------------------------------------------------------------------------------------------------


def section_activate(f: Framework, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
    """section_activate, fill_subsection_map (mm/sparse-vmemmap.c, -mm); point `USG`."""
    k = f.k
    sections = k.sections
    per, sub = k.arch.pages_per_section, k.arch.pages_per_subsection
    section = pfn // per
    if nr < per and f.orders.get(section):
        return -EOPNOTSUPP
    fresh = sections.usage.get(section) is None
    if fresh and k.faults.fails("USG"):
        return -ENOMEM
    if not nr:
        return -EINVAL
    lo, hi = pfn // sub, -(-(pfn + nr) // sub)
    if not fresh and sections.subsections.overlaps(lo, hi):
        return -EEXIST
    if fresh:
        sections.usage.set(section, section + 1, "hot")
    sections.subsections.add(lo, hi)
    if nr < per and (sections.flags.get(section) or 0) & SECTION_IS_EARLY:
        return 0
    order = pgmap.vmemmap_shift if pgmap is not None and vmemmap_can_optimize(f, altmap, pgmap) else 0
    if nr == per:
        section_set_compound_order(f, section, order)
    if populate_section_memmap(f, pfn, nr, nid, altmap, pgmap):
        section_deactivate(f, pfn, nr, altmap)
        return -ENOMEM
    return 0


def section_deactivate(f: Framework, pfn: int, nr: int, altmap: Altmap | None) -> None:
    """section_deactivate, clear_subsection_map (mm/sparse-vmemmap.c, -mm). Usage from memblock stays for the next
    add.
    """
    k = f.k
    sections = k.sections
    arch = k.arch
    section = pfn // arch.pages_per_section
    sub = arch.pages_per_subsection
    lo, hi = pfn // sub, -(-(pfn + nr) // sub)
    usage = sections.usage.get(section)
    if usage is None or not sections.subsections.covers(lo, hi):
        k.warn(f"section already deactivated ({pfn:#x} + {nr})")
        return
    early = (sections.flags.get(section) or 0) & SECTION_IS_EARLY
    sections.subsections.remove(lo, hi)
    subs = arch.pages_per_section // sub
    empty = not sections.subsections.overlaps(section * subs, (section + 1) * subs)
    if empty and usage == "hot":
        sections.usage.clear(section, section + 1)
    if not early:
        depopulate_section_memmap(f, pfn, nr, altmap)
    elif empty:
        free_map_bootmem(f, section)
    if empty:
        sections.flags.clear(section, section + 1)
        section_set_compound_order(f, section, 0)
    sections.touched.append((section, section + 1))


def add_section(f: Framework, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
    """sparse_add_section, sparse_index_init (mm/sparse-vmemmap.c, mm/sparse.c, -mm) for one section; point `ROOT` for a
    new root of sections.
    """
    k = f.k
    section = pfn // k.arch.pages_per_section
    root = section // SECTIONS_PER_ROOT
    if root not in f.roots:
        if k.faults.fails("ROOT"):
            return -ENOMEM
        f.roots.add(root)
    rc = section_activate(f, nid, pfn, nr, altmap, pgmap)
    if rc:
        return rc
    # A write to T would poison the tail pages of everybody.
    if not vmemmap_optimizable_order(f, f.orders.get(section) or 0):
        k.memmap.write(pfn, nr, POISON)
    sections = k.sections
    sections.nid.set(section, section + 1, nid)
    word = sections.flags.get(section) or 0
    sections.flags.set(section, section + 1, word | HOT_SECTION)
    sections.touched.append((section, section + 1))
    return 0


def remove_section(f: Framework, pfn: int, nr: int, altmap: Altmap | None) -> None:
    """sparse_remove_section (mm/sparse-vmemmap.c, -mm) for one section."""
    k = f.k
    if not k.sections.word(pfn // k.arch.pages_per_section) & SECTION_HAS_MEM_MAP:
        k.warn_once("a section without memory map is removed")
        return
    section_deactivate(f, pfn, nr, altmap)
