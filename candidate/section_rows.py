"""Rows of whole sections: what `sparse_vmemmap` does section by section, in one go.

A row is done at once where nothing can go wrong on the way: nothing is there yet, memory suffices, no injected failure
lies within reach, nobody traces points. The result is that of the loop up to the numbers of frames: the row takes the
same frames from the allocator, but gives page tables and memmap each their own run of them.
"""

from __future__ import annotations

from candidate.sparse_vmemmap import (
    HOT_SECTION,
    SECTIONS_PER_ROOT,
    add_section,
    remove_section,
    sections_nr_vmemmap_pages,
)
from candidate.vmemmap_optimization import Framework, vmemmap_can_optimize, vmemmap_shared_tail_page
from candidate.x86_pgtable import vmemmap_free, vmemmap_upper_populate
from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY, ZONE_DEVICE
from mm.page import POISON
from mm.page_alloc import KERNEL_ZONES, OWNER_MEMMAP, OWNER_PGTABLE
from mm.pgmap import PgMap
from mm.pgtable import PMD_TABLE, PTE_TABLE, Leaf, Pte, Shared, strided


def sparse_add_section(f: Framework, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
    """`sparse_vmemmap.add_section` for each section of [pfn, pfn + nr), ascending, to the first error.

    Rows end where a PMD table does, so that only their first section can lack upper tables.
    """
    arch = f.k.arch
    per = arch.pages_per_section
    end = pfn + nr
    whole = end - end % per
    span = f.k.tables.spans[PMD_TABLE] * arch.spp
    while True:
        if pfn < whole and not pfn % per:
            stop = min(whole, pfn - pfn % span + span)
            if _add_row(f, nid, pfn, stop, altmap, pgmap):
                if stop == end:
                    return 0
                pfn = stop
                continue
        stop = min(end, pfn - pfn % per + per)
        rc = add_section(f, nid, pfn, stop - pfn, altmap, pgmap)
        if rc or stop == end:
            return rc
        pfn = stop


def _add_row(f: Framework, nid: int, pfn: int, end: int, altmap: Altmap | None, pgmap: PgMap | None) -> bool:
    """Add the whole sections of [pfn, end), or return False with nothing changed."""
    k = f.k
    faults, arch, sections, tables = k.faults, k.arch, k.sections, k.tables
    if faults.points is not None:
        return False
    per, spp, ptrs = arch.pages_per_section, arch.spp, arch.ptrs_per_pte
    first, last = pfn // per, end // per
    lo, hi = pfn // spp, end // spp
    if (
        sections.usage.overlaps(first, last)
        or sections.flags.overlaps(first, last)
        or f.orders.overlaps(first, last)
        or tables.entries.overlaps(lo, hi)
        or tables.tables[PTE_TABLE].overlaps(lo // ptrs, hi // ptrs)
    ):
        return False
    roots = [r for r in range(first // SECTIONS_PER_ROOT, (last - 1) // SECTIONS_PER_ROOT + 1) if r not in f.roots]
    # USG for each section, then at most two PGT, one TAIL, and as populated VMB or PTBL and VMF.
    own = len(roots) + last - first
    optimized = pgmap is not None and vmemmap_can_optimize(f, altmap, pgmap)
    heads = _head_slots(f, pfn, end, pgmap) if pgmap is not None and optimized else range(lo, hi, ptrs)
    if heads is None:
        return False
    mapped = len(heads) + (hi - lo) // ptrs if optimized else len(heads)
    if faults.room(own + mapped + 3) < own + mapped + 3:
        return False
    if optimized:
        if pgmap is None or _free_frames(k, nid) < mapped + 3:
            return False
        if not _populate_optimized(f, lo, hi, nid, pgmap.vmemmap_shift, heads):
            return False
        f.orders.set(first, last, pgmap.vmemmap_shift)
    else:
        if not _populate_leaves(k, lo, hi, nid, altmap):
            return False
        k.memmap.write(pfn, end - pfn, POISON)
    faults.grant("USG", own + mapped)
    k.vmstat.nr_memmap += sections_nr_vmemmap_pages(f, pfn, end)
    f.roots.update(roots)
    sections.usage.set(first, last, "hot")
    sections.subsections.add(pfn // arch.pages_per_subsection, end // arch.pages_per_subsection)
    sections.nid.set(first, last, nid)
    sections.flags.set(first, last, HOT_SECTION)
    sections.touched.append((first, last))
    return True


def _free_frames(k: Kernel, nid: int) -> int:
    """Frames that single allocations on `nid` can have."""
    order = k.pages.block_order
    return sum([(z.blocks.total << order) + z.frags.total for z in k.pages.zonelist(nid, KERNEL_ZONES, False)])


def _head_slots(f: Framework, pfn: int, end: int, pgmap: PgMap) -> range | None:
    """Vmemmap pages of a row that get a page of their own (reuse_compound_section); None where a row does not help."""
    arch = f.k.arch
    size = 1 << pgmap.vmemmap_shift
    spp = arch.spp
    if size <= arch.pages_per_subsection:
        return range(pfn // spp, end // spp, size // spp)
    if size < arch.pages_per_section:
        return None
    start = pgmap.ranges[pgmap.nr_range][0]
    if start % arch.pages_per_section:  # compound pages begin inside of sections, where nobody looks
        return range(0)
    return range((pfn + (start - pfn) % size) // spp, end // spp, size // spp)


def _populate_leaves(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> bool:
    """`vmemmap_populate` for whole sections, all PMD leaves; False when memory is short."""
    tables, n = k.tables, hi - lo
    blocks = n // k.arch.ptrs_per_pte
    if altmap:
        pad = -(altmap.base_pfn + altmap.reserve + altmap.alloc + altmap.align) % k.arch.ptrs_per_pte
        if n + pad > altmap.capacity - altmap.alloc - altmap.align or _free_frames(k, nid) < 2:
            return False
    elif sum([zone.blocks.total for zone in k.pages.zonelist(nid, KERNEL_ZONES, False)]) < blocks + 2:
        return False
    vmemmap_upper_populate(k, lo, nid)
    if altmap:
        frame = altmap.allocate(k.arch.ptrs_per_pte)
        if frame is None:
            raise AssertionError(altmap)
        altmap.alloc += n - k.arch.ptrs_per_pte
        tables.set(lo, hi, Leaf(frame - lo))
        return True
    entries = tables.entries
    tables.touched.append((lo, hi))
    for pfn, m in k.pages.alloc_kernel_blocks(blocks, nid, OWNER_MEMMAP):
        entries.set(lo, lo + m, Leaf(pfn - lo))
        lo += m
    return True


def _populate_optimized(f: Framework, lo: int, hi: int, nid: int, order: int, heads: range) -> bool:
    """`vmemmap_populate_compound_pages` for whole sections; False when there is no such shared tail page."""
    k = f.k
    tables = k.tables
    tail = vmemmap_shared_tail_page(f, order, k.nodes[nid].zones[ZONE_DEVICE])
    if tail is None:
        return False
    vmemmap_upper_populate(k, lo, nid)
    ptrs = k.arch.ptrs_per_pte
    tables.add_tables(PTE_TABLE, lo // ptrs, k.pages.alloc_bulk((hi - lo) // ptrs, nid, OWNER_PGTABLE))
    k.pages.get_refs(tail, hi - lo - len(heads))
    tables.touched.append((lo, hi))
    entries = tables.entries
    period, rw = heads.step, f.dax_tail_rw
    frames = k.pages.alloc_bulk(len(heads), nid, OWNER_MEMMAP)
    if period <= k.arch.vmemmap_per_section and heads:
        for frame, n in frames:
            entries.set(lo, lo + n * period, strided(lo, period, 1, frame, True, tail, rw))
            lo += n * period
        return True
    entries.set(lo, hi, Shared(tail, rw))
    if heads:
        slot = heads.start
        for frame, n in frames:
            for at in range(frame, frame + n):
                entries.set(slot, slot + 1, Pte(at - slot, True))
                slot += period
    return True


def sparse_remove_section(f: Framework, pfn: int, nr: int, altmap: Altmap | None) -> None:
    """`sparse_vmemmap.remove_section` for each section of [pfn, pfn + nr), ascending."""
    per = f.k.arch.pages_per_section
    end = pfn + nr
    whole = end - end % per
    while True:
        if pfn < whole and not pfn % per and _remove_row(f, pfn, whole, altmap):
            stop = whole
        else:
            stop = min(end, pfn - pfn % per + per)
            remove_section(f, pfn, stop - pfn, altmap)
        if stop == end:
            return
        pfn = stop


def _remove_row(f: Framework, pfn: int, end: int, altmap: Altmap | None) -> bool:
    """Remove the whole sections of [pfn, end) if all are hot-added and complete."""
    k = f.k
    sections, arch = k.sections, k.arch
    per, sub = arch.pages_per_section, arch.pages_per_subsection
    first, last = pfn // per, end // per
    usage = sections.usage.run(first)
    if usage is None or usage[1] < last or usage[2] != "hot":
        return False
    if not sections.subsections.covers(pfn // sub, end // sub):
        return False
    done = first
    for lo, hi, word in sections.flags.runs(first, last):
        if lo != done or word & (SECTION_HAS_MEM_MAP | SECTION_IS_EARLY) != SECTION_HAS_MEM_MAP:
            return False
        done = hi
    if done != last:
        return False
    k.vmstat.nr_memmap -= sections_nr_vmemmap_pages(f, pfn, end)
    sections.subsections.remove(pfn // sub, end // sub)
    sections.usage.clear(first, last)
    vmemmap_free(k, pfn // arch.spp, end // arch.spp, altmap)
    sections.flags.clear(first, last)
    f.orders.clear(first, last)
    sections.touched.append((first, last))
    return True
