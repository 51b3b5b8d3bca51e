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
)
from mm.altmap import Altmap
from mm.errno import EEXIST, EINVAL, ENOMEM, EOPNOTSUPP
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY, SECTION_MARKED_PRESENT
from mm.page import POISON
from mm.pgmap import PgMap

HOT_SECTION = SECTION_MARKED_PRESENT | SECTION_HAS_MEM_MAP

# -- population -----------------------------------------------------------------------------------------------------


def __populate_section_memmap(
    f: Framework, pfn: int, nr: int, nid: int, altmap: Altmap | None, pgmap: PgMap | None
) -> int:
    """__populate_section_memmap (mm/sparse-vmemmap.c, series C); the caller hides which error it was."""
    arch = f.k.arch
    if (pfn | nr) & (arch.pages_per_subsection - 1):
        f.k.warn_once("memory map of a range that is not whole subsections")
        return -EINVAL
    if pgmap is not None and section_vmemmap_optimizable(f, pfn // arch.pages_per_section):
        return f.vmemmap.vmemmap_populate_compound_pages(f, pfn, pfn + nr, nid, pgmap)
    return f.vmemmap.vmemmap_populate(f, pfn, pfn + nr, nid, altmap)


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
    f.k.vmstat.nr_memmap -= section_nr_vmemmap_pages(f, pfn, nr)
    f.vmemmap.vmemmap_free(f, pfn, pfn + nr, altmap)


def free_map_bootmem(f: Framework, section: int) -> None:
    """free_map_bootmem (mm/sparse-vmemmap.c, -mm): the whole memmap of an early section."""
    per = f.k.arch.pages_per_section
    f.k.vmstat.nr_memmap_boot -= section_nr_vmemmap_pages(f, section * per, per)
    f.vmemmap.vmemmap_free(f, section * per, (section + 1) * per, None)


def sections_nr_vmemmap_pages(f: Framework, pfn: int, end: int) -> int:
    """The sum of section_nr_vmemmap_pages over the whole sections of [pfn, end)."""
    arch = f.k.arch
    per = arch.pages_per_section
    total = (end - pfn) // per * arch.vmemmap_per_section
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
    if empty:
        sections.flags.set(section, section + 1, sections.word(section) & ~SECTION_HAS_MEM_MAP)
        if usage == "hot":
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
    root = section // f.sections_per_root
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
