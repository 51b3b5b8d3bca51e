"""The walk over the page tables of a folio's vmemmap: what HugeTLB's optimization splits, remaps and gives back
(mm/hugetlb_vmemmap.c, -mm of November 2026).

In profile `merged` the update of each entry can fail: point `PTEHOOK` for each slot, `PMDHOOK` for each split,
-EAGAIN. In `posted` neither point exists.

Left out: concurrent splits; the warnings of CONFIG_DEBUG_VM when a slot does not hold the head or tails it should (5.13
b); split_page of a block that a leaf maps, because frames are single here.
"""

from __future__ import annotations

from candidate.vmemmap_optimization import Framework, vmemmap_shared_tail_page
from mm.errno import EAGAIN, ENOMEM, ENOTSUPP
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.page_alloc import BOOT_OWNERS, OWNER_MEMMAP, OWNER_PGTABLE, OWNER_SELFHOSTED, Extents, KernelBug
from mm.pgtable import Leaf, Mapping, Pte, Shared

VMEMMAP_REMAP_INCOMPLETE = 1

Pages = list[tuple[int, int, str]]
"""Lists of vmemmap pages in the order of their slots: (first frame, frames, OWNER_*)."""

# -- lists of pages -------------------------------------------------------------------------------------------------


def free_vmemmap_page_list(k: Kernel, pages: Pages) -> None:
    """free_vmemmap_page_list (mm/hugetlb_vmemmap.c, -mm): a page from memblock leaves the boot counter, any other the
    run-time one.
    """
    if not pages:
        return
    pfn, n, owner = pages[0]
    for first, m, other in pages[1:]:
        if other == owner and first == pfn + n:
            n += m
        elif other == owner and first + m == pfn:
            pfn, n = first, n + m
        else:
            _free_vmemmap_pages(k, pfn, n, owner)
            pfn, n, owner = first, m, other
    _free_vmemmap_pages(k, pfn, n, owner)


def _free_vmemmap_pages(k: Kernel, pfn: int, n: int, owner: str) -> None:
    if owner in BOOT_OWNERS:
        k.vmstat.nr_memmap_boot -= n
    else:
        k.vmstat.nr_memmap -= n
    k.pages.free(pfn, n)


def mapped_pages(k: Kernel, lo: int, hi: int) -> tuple[bool, Pages]:
    """The private frames that [lo, hi) maps, by owner, and whether any of them is mapped by a PMD leaf."""
    owners = k.pages.owners
    leaf = False
    out: Pages = []
    for s, e, m in k.tables.entries.runs(lo, hi):
        if isinstance(m, Leaf):
            leaf = True
        elif not isinstance(m, Pte):
            raise KernelBug(f"vmemmap page {s:#x} of a folio that is not optimized is shared")
        pfn = s + m.delta
        end = e + m.delta
        while pfn < end:
            run = owners.run(pfn)
            if run is None:
                raise KernelBug(f"vmemmap maps frame {pfn:#x} which nobody owns")
            stop = run[1] if run[1] < end else end
            out.append((pfn, stop - pfn, run[2]))
            pfn = stop
    return leaf, out


def _pop(pages: Pages, n: int) -> Extents:
    """Take `n` frames from the end of the list, last in first out.

    Order matters by owner only, which decides the counter that a frame leaves when it is freed; inside an extent of one
    owner the frames stay ascending, which is the same up to their numbers and keeps one run one run.
    """
    taken: Extents = []
    while n:
        pfn, m, owner = pages.pop()
        take = min(n, m)
        if take < m:
            pages.append((pfn, m - take, owner))
        taken.append((pfn + m - take, take))
        n -= take
    return taken


def alloc_vmemmap_page_list(k: Kernel, n: int, nid: int) -> Extents:
    """alloc_vmemmap_page_list (mm/hugetlb_vmemmap.c, -mm): `n` frames, counted, or none; point `RES` for each."""
    faults = k.faults
    got = k.pages.alloc_bulk(faults.room(n), nid, OWNER_MEMMAP)
    have = got[0][1] if len(got) == 1 else sum([m for _, m in got])
    faults.grant("RES", have)
    if have < n:
        faults.fails("RES")
        k.pages.free_extents(got)
        return []
    k.vmstat.nr_memmap += n
    return got


# -- updates that can fail --------------------------------------------------------------------------------------------


def hvo_update_vmemmap_pte(f: Framework, n: int) -> int:
    """hvo_update_vmemmap_pte (mm/hugetlb_vmemmap.c, -mm) for `n` slots in a row: how many of them may be written; the
    next one gets -EAGAIN.

    Left out: what try_update_vmemmap_pte of an architecture can refuse by itself (5.16).
    """
    return f.k.faults.grant("PTEHOOK", n) if f.merged else n


def hvo_populate_vmemmap_pmd(f: Framework, pmd: int) -> int:
    """hvo_populate_vmemmap_pmd (mm/hugetlb_vmemmap.c, -mm): failure by injection, else what the architecture says."""
    if f.merged and f.k.faults.fails("PMDHOOK"):
        return -EAGAIN
    return f.vmemmap.try_populate_vmemmap_pmd(f, pmd)


# -- the walk ---------------------------------------------------------------------------------------------------------


def vmemmap_split_pmd(f: Framework, pmd: int, flush: bool) -> int:
    """vmemmap_split_pmd (mm/hugetlb_vmemmap.c, -mm): point `SPLIT` for the PTE table, then `PMDHOOK`.

    pte_alloc_one_kernel takes no node: the table comes from the node of the running CPU, which is node 0 here.
    """
    k = f.k
    frame = None if k.faults.fails("SPLIT") else k.pages.alloc_page(0, OWNER_PGTABLE)
    if frame is None:
        return -ENOMEM
    rc = hvo_populate_vmemmap_pmd(f, pmd)
    if rc:
        k.pages.free(frame, 1)
        return rc
    k.tables.split_leaf(pmd, frame)
    k.vmstat.nr_page_table_pages += 1
    if flush:
        k.tlb.flush_tlb_kernel_range(pmd * k.arch.ptrs_per_pte, (pmd + 1) * k.arch.ptrs_per_pte)
    return 0


def vmemmap_remap_split(f: Framework, lo: int, hi: int, flush: bool = False) -> int:
    """vmemmap_remap_split (mm/hugetlb_vmemmap.c, -mm): split the leaves over vmemmap pages [lo, hi)."""
    ptrs = f.k.arch.ptrs_per_pte
    for pmd in range(lo // ptrs, -(-hi // ptrs)):
        if isinstance(f.k.tables.entries.get(max(lo, pmd * ptrs)), Leaf):
            rc = vmemmap_split_pmd(f, pmd, flush)
            if rc:
                return rc
    return 0


def _remap_walk(f: Framework, lo: int, hi: int, leaf: bool) -> tuple[int, int]:
    """vmemmap_remap_range, vmemmap_pmd_entry, vmemmap_remap_pte, up to writing entries: (error, first vmemmap page
    not reached).
    """
    ptrs = f.k.arch.ptrs_per_pte
    at = lo
    while at < hi:
        stop = hi
        if leaf:
            stop = min(hi, (at // ptrs + 1) * ptrs)
            rc = vmemmap_remap_split(f, at, stop, flush=True)
            if rc:
                return rc, at
        done = hvo_update_vmemmap_pte(f, stop - at)
        if done < stop - at:
            return -EAGAIN, at + done
        at = stop
    return 0, hi


# -- entries ----------------------------------------------------------------------------------------------------------


def _map_optimized(k: Kernel, lo: int, hi: int, head: int, tail: Shared) -> None:
    """Slot `lo` maps the copied head, read-write, the others up to `hi` the shared tail, read-only."""
    entry = Pte(head - lo, True)
    map_row(k, *(([lo, lo + 1, hi], [entry, tail]) if lo + 1 < hi else ([lo, hi], [entry])))


def map_row(k: Kernel, bounds: list[int], entries: list[Mapping]) -> None:
    """Install entries that follow each other and differ.

    What `MemMap.own` holds for slots that map T is left there: nobody sees it, and restoring writes them all.
    """
    lo, hi = bounds[0], bounds[-1]
    k.tables.entries.replace(bounds, entries)
    k.tables.touched.append((lo, hi))
    spp = k.arch.spp
    k.memmap.touched.append((lo * spp, hi * spp))


def map_restored(k: Kernel, vpn: int, frames: Extents, tail: int) -> None:
    """vmemmap_restore_pte (mm/hugetlb_vmemmap.c, -mm) for slots from `vpn` that all map T: private copies of it."""
    end = k.tables.map_extents(vpn, frames)
    if end > vpn:
        memmap = k.memmap
        lo, hi = vpn * k.arch.spp, end * k.arch.spp
        memmap.own.set(lo, hi, memmap.frames[tail])  # MemMap.write, with nothing left to check
        memmap.touched.append((lo, hi))


# -- remapping --------------------------------------------------------------------------------------------------------


def vmemmap_remap_free(f: Framework, head: int, tail: int, lo: int, hi: int, pages: Pages, flush: bool) -> int:
    """vmemmap_remap_free (mm/hugetlb_vmemmap.c, -mm): map [lo, hi) to `head` and `tail`, and put on `pages` what can be
    freed.

    Fails with everything undone, or with VMEMMAP_REMAP_INCOMPLETE when undoing failed on the way. After undoing, the
    head stays on `head`, and the tail slots hold copies of T, not what they held before. Undoing always flushes.
    """
    k = f.k
    leaf, old = mapped_pages(k, lo, hi)
    # A self-hosted memmap covers whole sections, so that the first slot speaks for the folio.
    rc, end = (-ENOTSUPP, lo) if old[0][2] == OWNER_SELFHOSTED else _remap_walk(f, lo, hi, leaf)
    if end > lo:
        _map_optimized(k, lo, end, head, Shared(tail, False))
    if flush:
        k.tlb.flush_tlb_kernel_range(lo, hi)  # even if nothing was written
    if end == lo:
        pages.append((head, 1, OWNER_MEMMAP))
        return rc
    if not rc:
        pages += old
        return 0
    _pop(old, hi - end)  # never replaced
    want = end - lo - 1
    back = hvo_update_vmemmap_pte(f, want)
    map_restored(k, lo + 1, _pop(old, back), tail)
    k.tlb.flush_tlb_kernel_range(lo, end)
    pages += old
    return rc if back == want else VMEMMAP_REMAP_INCOMPLETE


def vmemmap_remap_alloc(f: Framework, h: HState, folio: Folio, lo: int, hi: int, flush: bool) -> int:
    """vmemmap_remap_alloc (mm/hugetlb_vmemmap.c, -mm): frames of their own for the slots of [lo, hi) that map the T
    of the folio's zone and order.

    0, -ENOMEM with nothing changed, or -EAGAIN with some slots private: a retry goes on from there.
    """
    k = f.k
    tail = vmemmap_shared_tail_page(f, h.order, folio.zone)
    if tail is None:
        k.warn_once("an optimized folio has no shared tail page")
        return -ENOMEM
    want = hi - lo
    frames = alloc_vmemmap_page_list(k, want, folio.nid)
    if not frames:
        return -ENOMEM
    pages = [(pfn, n, OWNER_MEMMAP) for pfn, n in frames]
    rc = 0
    for s, e, m in k.tables.entries.runs(lo, hi):
        if isinstance(m, Shared) and m.frame == tail:
            n = hvo_update_vmemmap_pte(f, e - s)
            if n == want:  # the whole folio, as usual
                map_restored(k, s, frames[::-1], tail)
                pages.clear()
                break
            map_restored(k, s, _pop(pages, n), tail)
            if n < e - s:
                rc = -EAGAIN
                break
    if flush:
        k.tlb.flush_tlb_kernel_range(lo, hi)
    free_vmemmap_page_list(k, pages)
    return rc
