"""Whole sections by the row (the loops of __add_pages and __remove_pages, mm/memory_hotplug.c, Linux 7.3).

The kernel works section by section. Where no allocation point of a range can fail, sections that are all alike end up
the same when they are done together: same frames taken, same counts, same mapping up to the names of fresh frames. A
row that holds the failing point, or for which memory runs short, is halved; a section that stands alone takes the
ordinary path.
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_MARKED_PRESENT
from mm.page import POISON
from mm.page_alloc import KERNEL_ZONES, OWNER_MEMMAP, OWNER_PGTABLE, Extents, joined
from mm.pgmap import PgMap
from mm.pgtable import PMD_TABLE, PTE_TABLE, Leaf
from mm.runs import RunSet
from mm.search import bisect_right
from reference.arch import vmemmap_free, vmemmap_populate, vmemmap_populate_compound_pages
from reference.populate import VMEMMAP_RESERVE_NR, map_compounds, vmemmap_can_optimize
from reference.sparse_vmemmap import (
    section_nr_vmemmap_pages,
    section_roots,
    sparse_add_section,
    sparse_remove_section,
)


def sparse_add_sections(
    k: Kernel, roots: RunSet, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None
) -> int:
    """`sparse_add_section` for each section that [pfn, pfn + nr) meets, ascending. The first error stops; sections
    already added stay.
    """
    per = k.arch.pages_per_section
    end = pfn + nr
    while pfn < end:
        want = 0 if pfn % per else _absent(k, pfn // per, end // per)
        while want > 1:
            done = _add_row(k, roots, nid, pfn, want, altmap, pgmap)
            if done:
                break
            want //= 2
        else:
            done = min(end, pfn - pfn % per + per) - pfn
            rc = sparse_add_section(k, roots, nid, pfn, done, altmap, pgmap)
            if rc:
                return rc
        pfn += done
    return 0


def _absent(k: Kernel, first: int, last: int) -> int:
    """How many of the sections [first, last), from the first on, do not exist yet."""
    if first + 1 < last:
        for runs in (k.sections.flags, k.sections.usage):
            i = bisect_right(runs.ends, first)
            if i < len(runs.starts) and runs.starts[i] < last:
                last = runs.starts[i]
    return last - first


def _add_row(
    k: Kernel, roots: RunSet, nid: int, pfn: int, want: int, altmap: Altmap | None, pgmap: PgMap | None
) -> int:
    """Add up to `want` sections from `pfn` on together; how many pages that was, 0 when it cannot be done."""
    arch, tables = k.arch, k.tables
    per, spp, ptrs = arch.pages_per_section, arch.spp, arch.ptrs_per_pte
    if arch.vmemmap_per_section != ptrs:
        return _add_long_row(k, roots, nid, pfn, want, altmap, pgmap)
    first = pfn // per
    if tables.tables[PMD_TABLE].get(first // ptrs) is None:
        return 0  # the first section of a PMD table makes it, and what is above
    want = min(want, ptrs - first % ptrs)
    compound = 1 << pgmap.vmemmap_shift if pgmap is not None and vmemmap_can_optimize(k, altmap, pgmap) else 0
    if compound > per and pgmap is not None:
        if (pfn - pgmap.ranges[pgmap.nr_range][0]) % compound:
            return 0
        want -= want % (compound // per)
        if not want:
            return 0
    last = first + want
    points = [("ROOT", _gaps(roots, *section_roots(k, first, last))), ("USG", want)]
    if compound:
        points += [("PTBL", want), ("VMF", VMEMMAP_RESERVE_NR * want * per // compound)]
    else:
        points.append(("VMB", want))
    faults = k.faults
    if faults.reached < faults.armed <= faults.reached + sum([n for _, n in points]):
        return 0
    table_frames = _bulk(k, want, nid, OWNER_PGTABLE) if compound else []
    if table_frames is None:
        return 0
    got = _bulk(k, points[-1][1], nid, OWNER_MEMMAP) if compound else _blocks(k, want, nid, altmap)
    if got is None:
        k.pages.free_extents(table_frames)
        return 0
    for kind, n in points:
        faults.grant(kind, n)
    vpn = pfn // spp
    if compound:
        tables.add_tables(PTE_TABLE, first, table_frames)
        map_compounds(k, vpn, arch.vmemmap_pages(compound.bit_length() - 1), got, lends=compound > per)
    else:
        for frame, n in got:
            tables.set(vpn, vpn + n, Leaf(frame - vpn))
            vpn += n
    _sections_added(k, roots, first, last, altmap, pgmap)
    return want * per


def _add_long_row(
    k: Kernel, roots: RunSet, nid: int, pfn: int, want: int, altmap: Altmap | None, pgmap: PgMap | None
) -> int:
    """`_add_row` where a section is more or less than a PMD leaf: the architecture populates the whole row at once.

    Only where memory is so plenty that nothing can fail, and nobody looks at the order of the points.
    """
    arch, faults = k.arch, k.faults
    per, ptrs = arch.pages_per_section, arch.ptrs_per_pte
    if faults.armed or faults.points is not None:
        return 0
    first, last = pfn // per, pfn // per + want
    lo, hi = arch.vpn(pfn), arch.vpn_end(last * per)
    leaves = -(-hi // ptrs) - lo // ptrs
    if altmap is not None and altmap.capacity - altmap.alloc - altmap.align < (leaves + 1) * ptrs:
        return 0
    for node in (nid, 0):
        zones = k.pages.zonelist(node, KERNEL_ZONES, False)
        zone = next(zone for zone in zones if zone.managed_pages)
        # Leaves or as many base pages, PTE tables, and what few tables of other levels there are.
        if zone.blocks.total < leaves + leaves // ptrs + 4:
            return 0
    faults.grant("ROOT", _gaps(roots, *section_roots(k, first, last)))
    faults.grant("USG", want)
    if pgmap is not None and vmemmap_can_optimize(k, altmap, pgmap):
        rc = vmemmap_populate_compound_pages(k, pfn, lo, hi, nid, pgmap)
    else:
        rc = vmemmap_populate(k, lo, hi, nid, altmap)
    if rc:
        raise AssertionError(f"sections {first}..{last} cannot be populated though memory is plenty")
    _sections_added(k, roots, first, last, altmap, pgmap)
    return want * per


def _sections_added(
    k: Kernel, roots: RunSet, first: int, last: int, altmap: Altmap | None, pgmap: PgMap | None
) -> None:
    """What section_activate and sparse_add_section write down for sections [first, last), which have a memmap now."""
    sections, per, sub = k.sections, k.arch.pages_per_section, k.arch.pages_per_subsection
    k.vmstat.nr_memmap += _nr_vmemmap_pages(k, first, last, altmap, pgmap)
    roots.add(*section_roots(k, first, last))
    sections.usage.set(first, last, "hot")
    sections.subsections.add(first * per // sub, last * per // sub)
    k.memmap.write(first * per, (last - first) * per, POISON)
    sections.set_flags(first, last, SECTION_MARKED_PRESENT | SECTION_HAS_MEM_MAP)


def sparse_remove_sections(k: Kernel, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
    """`sparse_remove_section` for each section that [pfn, pfn + nr) meets, ascending."""
    per = k.arch.pages_per_section
    end = pfn + nr
    while pfn < end:
        last = end // per
        if pfn % per == 0 and last - pfn // per > 1:
            last = _removable(k, pfn // per, last)
            if last * per > pfn:
                _remove_row(k, pfn // per, last, altmap, pgmap)
                pfn = last * per
                continue
        stop = min(end, pfn - pfn % per + per)
        sparse_remove_section(k, pfn, stop - pfn, altmap, pgmap)
        pfn = stop


def _removable(k: Kernel, first: int, last: int) -> int:
    """End of the sections from `first` on, at most `last`, that were hot-added and are all there."""
    usage = k.sections.usage.run(first)
    if usage is None or usage[2] != "hot":
        return first
    last = min(last, usage[1])
    bits = k.arch.pages_per_section // k.arch.pages_per_subsection
    return last if k.sections.subsections.covers(first * bits, last * bits) else first


def _remove_row(k: Kernel, first: int, last: int, altmap: Altmap | None, pgmap: PgMap | None) -> None:
    """section_deactivate of sections [first, last), hot-added and removed whole."""
    arch, sections = k.arch, k.sections
    bits = arch.pages_per_section // arch.pages_per_subsection
    sections.subsections.remove(first * bits, last * bits)
    sections.usage.clear(first, last)
    k.vmstat.nr_memmap -= _nr_vmemmap_pages(k, first, last, altmap, pgmap)
    per = arch.pages_per_section
    vmemmap_free(k, arch.vpn(first * per), arch.vpn_end(last * per), altmap)
    sections.flags.clear(first, last)
    sections.touched.append((first, last))


def _nr_vmemmap_pages(k: Kernel, first: int, last: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
    """section_nr_vmemmap_pages, summed over sections [first, last): there are at most two kinds of them, those that
    begin at a multiple of the compound size and the others.
    """
    per = k.arch.pages_per_section
    step = max(1, (1 << pgmap.vmemmap_shift) // per) if pgmap is not None else 1
    aligned = -(-last // step) - -(-first // step)
    n = 0
    if aligned:
        n += aligned * section_nr_vmemmap_pages(k, -(-first // step) * step * per, per, altmap, pgmap)
    if aligned < last - first:
        other = first + (first % step == 0)
        n += (last - first - aligned) * section_nr_vmemmap_pages(k, other * per, per, altmap, pgmap)
    return n


def _gaps(members: RunSet, lo: int, hi: int) -> int:
    return hi - lo - members.count(lo, hi)


def _bulk(k: Kernel, n: int, nid: int, owner: str) -> Extents | None:
    """`n` frames of the kernel's zones, or None and nothing taken."""
    got = k.pages.alloc_bulk(n, nid, owner)
    if sum([m for _, m in got]) == n:
        return got
    k.pages.free_extents(got)
    return None


def _blocks(k: Kernel, n: int, nid: int, altmap: Altmap | None) -> Extents | None:
    """`n` PMD-sized blocks in the order taken; or None and nothing taken."""
    size = k.arch.ptrs_per_pte
    if altmap is None:
        got = k.pages.alloc_kernel_blocks(n, nid, OWNER_MEMMAP)
        if sum([m for _, m in got]) == n * size:
            return got
        k.pages.free_extents(got)
        return None
    before = altmap.alloc, altmap.align
    frames: Extents = []
    for _ in range(n):
        frame = altmap.allocate(size)
        if frame is None:
            altmap.alloc, altmap.align = before
            return None
        frames.append((frame, size))
    return joined(frames)
