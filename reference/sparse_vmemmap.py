"""Giving a section its memory map and taking it away (mm/sparse-vmemmap.c, Linux 7.3; separate-paths.md 3.17).

Left out: the memory that usage maps and section roots occupy (their allocation points ROOT and USG are there).
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.errno import EEXIST, EINVAL, ENOMEM
from mm.kernel import Kernel
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY, SECTION_MARKED_PRESENT
from mm.page import POISON
from mm.pgmap import PgMap
from mm.runs import RunSet
from reference.arch import vmemmap_free, vmemmap_populate, vmemmap_populate_compound_pages, vmemmap_range
from reference.populate import VMEMMAP_RESERVE_NR, vmemmap_can_optimize

SIZEOF_MEM_SECTION = 16
"""sizeof(struct mem_section) without page_ext (include/linux/mmzone.h)."""


def section_nr_vmemmap_pages(k: Kernel, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
    """section_nr_vmemmap_pages: what NR_MEMMAP counts for [pfn, pfn + nr); looks at the absolute alignment of pfn."""
    arch = k.arch
    if pgmap is None or not vmemmap_can_optimize(k, altmap, pgmap):
        return arch.vpn_end(nr)
    compound = 1 << pgmap.vmemmap_shift
    if compound < arch.pages_per_section:
        return VMEMMAP_RESERVE_NR * nr // compound
    return VMEMMAP_RESERVE_NR if pfn % compound == 0 else 0


def populate_section_memmap(k: Kernel, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
    """populate_section_memmap: 0 or -ENOMEM. NR_MEMMAP rises in any case; section_deactivate lowers it after a
    failure.
    """
    lo, hi = vmemmap_range(k, pfn, nr)
    if pgmap is not None and vmemmap_can_optimize(k, altmap, pgmap):
        rc = vmemmap_populate_compound_pages(k, pfn, lo, hi, nid, pgmap)
    else:
        rc = vmemmap_populate(k, lo, hi, nid, altmap)
    k.vmstat.nr_memmap += section_nr_vmemmap_pages(k, pfn, nr, altmap, pgmap)
    return rc


def depopulate_section_memmap(k: Kernel, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
    """depopulate_section_memmap."""
    k.vmstat.nr_memmap -= section_nr_vmemmap_pages(k, pfn, nr, altmap, pgmap)
    vmemmap_free(k, *vmemmap_range(k, pfn, nr), altmap)


def free_map_bootmem(k: Kernel, section: int) -> None:
    """free_map_bootmem: the whole memmap of an early section, however its last part was removed."""
    per = k.arch.pages_per_section
    k.vmstat.nr_memmap_boot -= k.arch.vmemmap_per_section
    vmemmap_free(k, *vmemmap_range(k, section * per, per), None)


def section_deactivate(k: Kernel, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
    """section_deactivate: clear the subsection bits, free what they were backed by, forget the section when it is
    empty.
    """
    sections = k.sections
    arch = k.arch
    section = pfn // arch.pages_per_section
    per = arch.pages_per_subsection
    lo, hi = pfn // per, -(-(pfn + nr) // per)
    if not sections.subsections.covers(lo, hi):
        k.warn(f"section already deactivated ({pfn:#x} + {nr})")
        return
    early = sections.word(section) & SECTION_IS_EARLY
    sections.subsections.remove(lo, hi)
    bits = arch.pages_per_section // per
    empty = not sections.subsections.overlaps(section * bits, (section + 1) * bits)
    if empty:
        # vmemmap_free asks on some architectures what is still valid.
        sections.clear_flags(section, section + 1, SECTION_HAS_MEM_MAP)
        if sections.usage.get(section) == "hot":
            sections.usage.clear(section, section + 1)
    if not early:
        depopulate_section_memmap(k, pfn, nr, altmap, pgmap)
    elif empty:
        free_map_bootmem(k, section)
    if empty:
        sections.flags.clear(section, section + 1)
    sections.touched.append((section, section + 1))


def section_activate(k: Kernel, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
    """section_activate: 0, or -ENOMEM, -EINVAL, -EEXIST with nothing changed. A part of an early section reuses its
    memmap.
    """
    sections = k.sections
    arch = k.arch
    section = pfn // arch.pages_per_section
    fresh = sections.usage.get(section) is None
    if fresh and k.faults.fails("USG"):
        return -ENOMEM
    per = arch.pages_per_subsection
    lo, hi = pfn // per, -(-(pfn + nr) // per)
    if lo == hi:
        return -EINVAL
    if sections.subsections.overlaps(lo, hi):
        return -EEXIST
    sections.subsections.add(lo, hi)
    if fresh:
        sections.usage.set(section, section + 1, "hot")
    if nr < arch.pages_per_section and sections.word(section) & SECTION_IS_EARLY:
        return 0
    if populate_section_memmap(k, nid, pfn, nr, altmap, pgmap):
        sections.unpopulated.append((pfn, nr))
        section_deactivate(k, pfn, nr, altmap, pgmap)
        return -ENOMEM
    return 0


def section_roots(k: Kernel, first: int, last: int) -> tuple[int, int]:
    """The root arrays (SECTIONS_PER_ROOT, include/linux/mmzone.h: one page each) that sections [first, last) are in."""
    per = k.arch.page // SIZEOF_MEM_SECTION
    return first // per, -(-last // per)


def sparse_index_init(k: Kernel, roots: RunSet, section: int) -> int:
    """sparse_index_init (mm/sparse.c): the root array that holds the section; 0 or -ENOMEM."""
    lo, hi = section_roots(k, section, section + 1)
    if lo not in roots:
        if k.faults.fails("ROOT"):
            return -ENOMEM
        roots.add(lo, hi)
    return 0


def sparse_add_section(
    k: Kernel, roots: RunSet, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None
) -> int:
    """sparse_add_section: a memmap for [pfn, pfn + nr), which lies in one section; its struct pages are poisoned. 0
    or -errno.
    """
    section = pfn // k.arch.pages_per_section
    rc = sparse_index_init(k, roots, section)
    if rc:
        return rc
    rc = section_activate(k, nid, pfn, nr, altmap, pgmap)
    if rc:
        return rc
    k.memmap.write(pfn, nr, POISON)
    k.sections.set_flags(section, section + 1, SECTION_MARKED_PRESENT | SECTION_HAS_MEM_MAP)
    return 0


def sparse_remove_section(k: Kernel, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
    """sparse_remove_section."""
    if not k.sections.word(pfn // k.arch.pages_per_section) & SECTION_HAS_MEM_MAP:
        k.warn_once("sparse_remove_section: section is not valid")
        return
    section_deactivate(k, pfn, nr, altmap, pgmap)
