"""Rows of whole sections: what `sparse_vmemmap` does section by section, in one go.

A row is done at once where nothing can go wrong on the way: nothing is there yet, memory suffices, no failure is armed,
nobody traces points. The result is that of the loop up to the numbers of frames: the row takes the same frames from the
allocator, but gives page tables and memmap each their own run of them.
"""

from __future__ import annotations

from candidate.sparse_vmemmap import (
    HOT_SECTION,
    add_section,
    remove_section,
    sections_nr_vmemmap_pages,
)
from candidate.vmemmap_optimization import Framework, vmemmap_can_optimize, vmemmap_shared_tail_page
from candidate.vmemmap_populate import altmap_alloc_pages, vmemmap_upper_populate
from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.mmzone import ZONE_DEVICE
from mm.page import POISON
from mm.page_alloc import KERNEL_ZONES, OWNER_MEMMAP, OWNER_PGTABLE
from mm.pgmap import PgMap
from mm.pgtable import PMD_TABLE, PTE_TABLE, Leaf, Pte, Shared, strided


def sparse_add_section(f: Framework, nid: int, pfn: int, nr: int, altmap: Altmap | None, pgmap: PgMap | None) -> int:
    """`sparse_vmemmap.add_section` for each section of [pfn, pfn + nr), ascending, to the first error.

    Rows end where a PMD table does, so that only their first section can lack upper tables. A section in which one ends
    is in no row.
    """
    arch = f.k.arch
    per = arch.pages_per_section
    end = pfn + nr
    optimized = pgmap is not None and vmemmap_can_optimize(f, altmap, pgmap)
    step = max(per, arch.pfn(1 if optimized or not f.vmemmap.leaves else arch.ptrs_per_pte))
    whole = end - end % step
    span = f.k.tables.spans[PMD_TABLE]
    while True:
        if pfn < whole and not pfn % step:
            stop = min(whole, arch.pfn((arch.vpn(pfn) // span + 1) * span))
            stop -= stop % step
            if pfn < stop and _add_row(f, nid, pfn, stop, altmap, pgmap if optimized else None):
                if stop == end:
                    return 0
                pfn = stop
                continue
        stop = min(end, pfn - pfn % per + per)
        rc = add_section(f, nid, pfn, stop - pfn, altmap, pgmap)
        if rc or stop == end:
            return rc
        pfn = stop


def _add_row(f: Framework, nid: int, pfn: int, end: int, altmap: Altmap | None, optimized: PgMap | None) -> bool:
    """Add the whole sections of [pfn, end), which are whole leaves or vmemmap pages too, or return False with nothing
    changed. `optimized` is the page map if the sections get its order.
    """
    k = f.k
    faults, arch, sections, tables = k.faults, k.arch, k.sections, k.tables
    if faults.armed or faults.points is not None:
        return False
    per = arch.pages_per_section
    first, last = pfn // per, end // per
    lo, hi = arch.vpn(pfn), arch.vpn(end)
    if sections.usage.overlaps(first, last) or f.orders.overlaps(first, last) or tables.entries.overlaps(lo, hi):
        return False
    roots = [r for r in range(first // f.sections_per_root, (last - 1) // f.sections_per_root + 1) if r not in f.roots]
    heads: range | None = range(lo, hi)
    if optimized is not None:
        heads = f.vmemmap.head_slots(f, pfn, end, optimized)
    elif f.vmemmap.leaves:
        heads = range(lo, hi, arch.ptrs_per_pte)
    if heads is None:
        return False
    missing = []
    if optimized is not None or not f.vmemmap.leaves:
        missing = tables.missing_tables(PTE_TABLE, lo, hi)
    elif tables.tables[PTE_TABLE].overlaps(lo // arch.ptrs_per_pte, hi // arch.ptrs_per_pte):
        return False
    memmap_nid = nid if f.vmemmap.memmap_nid is None else f.vmemmap.memmap_nid
    if optimized is not None:
        if not _populate_optimized(f, lo, hi, nid, optimized.vmemmap_shift, heads, missing):
            return False
        f.orders.set(first, last, optimized.vmemmap_shift)
    else:
        populate = _populate_leaves if f.vmemmap.leaves else _populate_pages
        if not populate(f, lo, hi, memmap_nid, altmap if f.vmemmap.altmaps else None, missing):
            return False
        tables.sync_global_pgds(lo, hi)  # what vmemmap_populate of x86-64 ends with
        k.memmap.write(pfn, end - pfn, POISON)
    # ROOT and USG, and as populated VMB or PTBL and VMF; PGT and TAIL are passed where they are.
    faults.grant("USG", len(roots) + last - first + len(heads) + sum([e - s for s, e in missing]))
    k.vmstat.nr_memmap += sections_nr_vmemmap_pages(f, pfn, end)
    f.roots.update(roots)
    sections.usage.set(first, last, "hot")
    sections.subsections.add(pfn // arch.pages_per_subsection, end // arch.pages_per_subsection)
    sections.flags.set(first, last, HOT_SECTION)
    sections.touched.append((first, last))
    return True


def _free_frames(k: Kernel, nid: int) -> int:
    """Frames that single allocations on `nid` can have."""
    order = k.pages.block_order
    return sum([(z.blocks.total << order) + z.frags.total for z in k.pages.zonelist(nid, KERNEL_ZONES, False)])


def _populate_tables(f: Framework, vpn: int, nid: int, missing: list[tuple[int, int]]) -> None:
    """The upper tables over `vpn`, and the `missing` PTE tables; there is memory for them."""
    k = f.k
    if not f.vmemmap.page_tables:
        return
    if f.vmemmap.table_nid is not None:
        nid = f.vmemmap.table_nid
    tables = k.tables
    made = tables.tables[PMD_TABLE].get(vpn // tables.spans[PMD_TABLE]) is None
    vmemmap_upper_populate(k, vpn, nid)
    count = int(made)
    for first, last in missing:
        tables.add_tables(PTE_TABLE, first, k.pages.alloc_bulk(last - first, nid, OWNER_PGTABLE))
        count += last - first
    if f.vmemmap.counts_tables:
        k.vmstat.nr_page_table_pages += count


def _populate_leaves(
    f: Framework, lo: int, hi: int, nid: int, altmap: Altmap | None, missing: list[tuple[int, int]]
) -> bool:
    """`vmemmap_populate` for whole sections, all PMD leaves; False when memory is short."""
    k = f.k
    tables, n = k.tables, hi - lo
    ptrs = k.arch.ptrs_per_pte
    blocks = n // ptrs
    if altmap:
        pad = -(altmap.base_pfn + altmap.reserve + altmap.alloc + altmap.align) % ptrs
        if n + pad > altmap.capacity - altmap.alloc - altmap.align or _free_frames(k, nid) < 2:
            return False
    elif sum([zone.blocks.total for zone in k.pages.zonelist(nid, KERNEL_ZONES, False)]) < blocks + 2:
        return False
    _populate_tables(f, lo, nid, missing)
    if altmap:
        frame = altmap.allocate(ptrs)
        if frame is None:
            raise AssertionError(altmap)
        altmap.alloc += n - ptrs
        tables.set(lo, hi, Leaf(frame - lo))
        return True
    entries = tables.entries
    tables.touched.append((lo, hi))
    for pfn, m in k.pages.alloc_kernel_blocks(blocks, nid, OWNER_MEMMAP):
        entries.set(lo, lo + m, Leaf(pfn - lo))
        lo += m
    return True


def _populate_pages(
    f: Framework, lo: int, hi: int, nid: int, altmap: Altmap | None, missing: list[tuple[int, int]]
) -> bool:
    """`vmemmap_populate` for whole sections, all base pages; False when memory is short."""
    k = f.k
    tables = sum([e - s for s, e in missing]) + 2
    if altmap and altmap.capacity - altmap.alloc - altmap.align < hi - lo:
        return False
    if _free_frames(k, nid) < tables + (0 if altmap else hi - lo):
        return False
    _populate_tables(f, lo, nid, missing)
    frames = altmap_alloc_pages(altmap, hi - lo) if altmap else k.pages.alloc_bulk(hi - lo, nid, OWNER_MEMMAP)
    k.tables.map_extents(lo, frames)
    return True


def _populate_optimized(
    f: Framework, lo: int, hi: int, nid: int, order: int, heads: range, missing: list[tuple[int, int]]
) -> bool:
    """`vmemmap_populate_compound_pages` for whole sections; False when memory is short."""
    k = f.k
    tables = k.tables
    if _free_frames(k, nid) < len(heads) + sum([e - s for s, e in missing]) + 3:
        return False
    tail = vmemmap_shared_tail_page(f, order, k.nodes[nid].zones[ZONE_DEVICE])
    if tail is None:
        return False
    _populate_tables(f, lo, nid, missing)
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
    shared = Shared(tail, rw)
    slot = heads.start
    for frame, n in frames:
        for at in range(frame, frame + n):
            entries.set(lo, slot, shared)
            lo = slot + 1
            entries.set(slot, lo, Pte(at - slot, True))
            slot += period
    entries.set(lo, hi, shared)
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
    """Remove the whole sections of [pfn, end), which are complete, if all are hot-added and never were boot memory."""
    k = f.k
    sections, arch = k.sections, k.arch
    per, sub = arch.pages_per_section, arch.pages_per_subsection
    first, last = pfn // per, end // per
    if sections.usage.runs(first, last) != [(first, last, "hot")]:
        return False
    k.vmstat.nr_memmap -= sections_nr_vmemmap_pages(f, pfn, end)
    sections.subsections.remove(pfn // sub, end // sub)
    sections.usage.clear(first, last)
    sections.flags.clear(first, last)
    f.vmemmap.vmemmap_free(f, pfn, end, altmap)
    f.orders.clear(first, last)
    sections.touched.append((first, last))
    return True
