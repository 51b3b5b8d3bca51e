"""HugeTLB vmemmap optimization at run time (mm/hugetlb_vmemmap.c, -mm of November 2026).

An optimized folio maps its first vmemmap page to a private copy and all others to the shared tail page of (zone,
order), read-only. Boot gigantic pages get there by the order of their sections (`hugetlb_boot`); all other folios by
remapping, here.

In profile `merged` the update of each entry can fail: point `PTEHOOK` for each slot, `PMDHOOK` for each split,
-EAGAIN. In `posted` neither point exists. Left out: TLB flushes, concurrent splits.
"""

from __future__ import annotations

from candidate.vmemmap_optimization import VMEMMAP_OPTIMIZATION_PAGES, Framework, vmemmap_shared_tail_page
from mm.errno import EAGAIN, ENOMEM, ENOTSUPP
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.page_alloc import BOOT_OWNERS, OWNER_MEMMAP, OWNER_PGTABLE, OWNER_SELFHOSTED, Extents
from mm.pgtable import Leaf, Pte, Shared, frame_at

VMEMMAP_REMAP_INCOMPLETE = 1


def hugetlb_vmemmap_optimizable(f: Framework, h: HState) -> bool:
    """hugetlb_vmemmap_optimizable (mm/hugetlb_vmemmap.h, -mm)."""
    return f.k.arch.hvo and f.k.arch.vmemmap_pages(h.order) > VMEMMAP_OPTIMIZATION_PAGES


def vmemmap_should_optimize_folio(f: Framework, h: HState, folio: Folio) -> bool:
    """vmemmap_should_optimize_folio (mm/hugetlb_vmemmap.c, -mm)."""
    return not folio.vmemmap_optimized and f.vmemmap_optimize_enabled and hugetlb_vmemmap_optimizable(f, h)


# -- freeing --------------------------------------------------------------------------------------------------------


def free_vmemmap_page_list(k: Kernel, pages: Extents) -> None:
    """free_vmemmap_page_list (mm/hugetlb_vmemmap.c, -mm): a page from memblock leaves the boot counter, any other the
    run-time one.
    """
    vmstat = k.vmstat
    for pfn, n in pages:
        for lo, hi, owner in k.pages.owners.runs(pfn, pfn + n):
            if owner in BOOT_OWNERS:
                vmstat.nr_memmap_boot -= hi - lo
            else:
                vmstat.nr_memmap -= hi - lo
            k.pages.free(lo, hi - lo)


# -- optimize -------------------------------------------------------------------------------------------------------


def vmemmap_split_pmd(f: Framework, pmd: int, nid: int) -> int:
    """vmemmap_split_pmd (mm/hugetlb_vmemmap.c, -mm): point `SPLIT` for the PTE table, then `PMDHOOK`.

    UNCONFIRMED: the table comes from the folio's node; the kernel takes it from the node of the running CPU.
    """
    k = f.k
    frame = None if k.faults.fails("SPLIT") else k.pages.alloc_page(nid, OWNER_PGTABLE)
    if frame is None:
        return -ENOMEM
    if f.merged and k.faults.fails("PMDHOOK"):
        k.pages.free(frame, 1)
        return -EAGAIN
    k.tables.split_leaf(pmd, frame)
    k.tables.counted.add(pmd)
    k.vmstat.nr_page_table_pages += 1
    return 0


def _self_hosted(k: Kernel, vpn: int) -> bool:
    """PageVmemmapSelfHosted of the frame that `vpn` maps: it lies in the memory block that it describes."""
    m = k.tables.entries.get(vpn)
    return m is not None and k.pages.owners.get(frame_at(m, vpn)) == OWNER_SELFHOSTED


def _walk_and_split(f: Framework, folio: Folio, lo: int, hi: int) -> tuple[int, int]:
    """vmemmap_remap_range with vmemmap_remap_pte over vmemmap pages [lo, hi): (error, first page not reached).

    The entries themselves are written by the caller, in one go for all that were reached.
    """
    k = f.k
    if _self_hosted(k, lo):
        return -ENOTSUPP, lo
    ptrs = k.arch.ptrs_per_pte
    entries = k.tables.entries
    at = lo
    while at < hi:
        pmd = at // ptrs
        if isinstance(entries.get(at), Leaf):
            rc = vmemmap_split_pmd(f, pmd, folio.nid)
            if rc:
                return rc, at
        stop = min(hi, (pmd + 1) * ptrs)
        if f.merged:
            done = k.faults.grant("PTEHOOK", stop - at)
            if done < stop - at:
                return -EAGAIN, at + done
        at = stop
    return 0, hi


def vmemmap_remap_free(f: Framework, folio: Folio, head: int, tail: int, lo: int, hi: int, pages: Extents) -> int:
    """vmemmap_remap_free (mm/hugetlb_vmemmap.c, -mm): map [lo, hi) to `head` and `tail`, and put on `pages` what can
        be freed.

    Fails with everything undone, or with VMEMMAP_REMAP_INCOMPLETE when undoing failed on the way. After undoing, the
    head stays on `head`, and the tail slots hold copies of T, not what they held before.
    """
    k = f.k
    tables = k.tables
    rc, end = _walk_and_split(f, folio, lo, hi)
    if end == lo:
        pages.append((head, 1))
        return rc
    old: Extents = []
    for s, e, m in tables.entries.runs(lo, end):
        old.append((frame_at(m, s), e - s))
    tables.set(lo, lo + 1, Pte(head - lo, True))
    if lo + 1 < end:
        tables.set(lo + 1, end, Shared(tail, False))
        spp = k.arch.spp
        k.memmap.forget((lo + 1) * spp, (end - lo - 1) * spp)
    if not rc:
        pages += old
        return 0
    want = end - lo - 1
    back = k.faults.grant("PTEHOOK", want) if f.merged else want
    left, reused = _pop(k, old, back)
    _restore_slots(k, lo + 1, reused, tail)
    pages += left
    return rc if back == want else VMEMMAP_REMAP_INCOMPLETE


def _pop(k: Kernel, pages: Extents, n: int) -> tuple[Extents, Extents]:
    """Take `n` frames from the end of the list, last in first out: (what stays, what was taken).

    Order matters by owner only, which decides the counter that a frame leaves when it is freed; inside an extent of one
    owner the frames stay ascending, which is the same up to their numbers and keeps one run one run.
    """
    split = [(lo, hi - lo) for pfn, m in pages for lo, hi, _ in k.pages.owners.runs(pfn, pfn + m)]
    taken: Extents = []
    while n:
        pfn, m = split.pop()
        take = min(n, m)
        if take < m:
            split.append((pfn, m - take))
        taken.append((pfn + m - take, take))
        n -= take
    return split, taken


def _restore_slots(k: Kernel, vpn: int, frames: Extents, tail: int) -> None:
    """vmemmap_restore_pte (mm/hugetlb_vmemmap.c, -mm) for slots from `vpn` that all map T: private copies of T,
    read-write.
    """
    end = k.tables.map_extents(vpn, frames)
    if end > vpn:
        spp = k.arch.spp
        k.memmap.write(vpn * spp, (end - vpn) * spp, k.memmap.frames[tail])


def __hugetlb_vmemmap_optimize_folio(f: Framework, h: HState, folio: Folio, pages: Extents) -> int:
    """__hugetlb_vmemmap_optimize_folio (mm/hugetlb_vmemmap.c, -mm): points `TAIL`, `HEAD`, and those of the walk.

    0, a negative error with nothing changed (but leaves may stay split), or VMEMMAP_REMAP_INCOMPLETE with the flag set.
    """
    if not vmemmap_should_optimize_folio(f, h, folio):
        return 0
    k = f.k
    tail = vmemmap_shared_tail_page(f, h.order, folio.zone)
    if tail is None:
        return -ENOMEM
    head = None if k.faults.fails("HEAD") else k.pages.alloc_page(folio.nid, OWNER_MEMMAP)
    if head is None:
        return -ENOMEM
    k.vmstat.nr_memmap += 1
    lo = folio.pfn // k.arch.spp
    rc = vmemmap_remap_free(f, folio, head, tail, lo, lo + k.arch.vmemmap_pages(h.order), pages)
    folio.vmemmap_optimized = rc >= 0
    return rc


def hugetlb_vmemmap_optimize_folio(f: Framework, h: HState, folio: Folio) -> None:
    """hugetlb_vmemmap_optimize_folio (mm/hugetlb_vmemmap.c, -mm)."""
    pages: Extents = []
    __hugetlb_vmemmap_optimize_folio(f, h, folio, pages)
    free_vmemmap_page_list(f.k, pages)


def hugetlb_vmemmap_split_folio(f: Framework, h: HState, folio: Folio) -> int:
    """hugetlb_vmemmap_split_folio, vmemmap_remap_split (mm/hugetlb_vmemmap.c, -mm)."""
    k = f.k
    if not vmemmap_should_optimize_folio(f, h, folio):
        return 0
    ptrs = k.arch.ptrs_per_pte
    lo = folio.pfn // k.arch.spp
    hi = lo + k.arch.vmemmap_pages(h.order)
    for pmd in range(lo // ptrs, -(-hi // ptrs)):
        at = max(lo, pmd * ptrs)
        if _self_hosted(k, at):
            return -ENOTSUPP
        if isinstance(k.tables.entries.get(at), Leaf):
            rc = vmemmap_split_pmd(f, pmd, folio.nid)
            if rc:
                return rc
    return 0


def hugetlb_vmemmap_optimize_folios(f: Framework, h: HState, folios: list[Folio], boot: bool = False) -> None:
    """__hugetlb_vmemmap_optimize_folios (mm/hugetlb_vmemmap.c, -mm): write-protect what boot optimized, split all,
    then remap all.

    What is replaced is freed at the end, or when memory runs out; then the folio at hand gets a second chance.
    """
    k = f.k
    todo = False
    for folio in folios:
        if boot and folio.vmemmap_optimized:
            vmemmap_wrprotect_hvo(k, h, folio)
            continue
        todo = True
        if hugetlb_vmemmap_split_folio(f, h, folio) == -ENOMEM:
            break
    if not todo:
        return
    pages: Extents = []
    for folio in folios:
        if __hugetlb_vmemmap_optimize_folio(f, h, folio, pages) == -ENOMEM and pages:
            free_vmemmap_page_list(k, pages)
            pages.clear()
            __hugetlb_vmemmap_optimize_folio(f, h, folio, pages)
    free_vmemmap_page_list(k, pages)


def vmemmap_wrprotect_hvo(k: Kernel, h: HState, folio: Folio) -> None:
    """vmemmap_wrprotect_hvo (mm/sparse-vmemmap.c, -mm): slots 1 to V - 1 of a folio optimized at boot become
    read-only in place.
    """
    lo = folio.pfn // k.arch.spp
    for s, e, m in k.tables.runs(lo + 1, lo + k.arch.vmemmap_pages(h.order)):
        if isinstance(m, Shared):
            k.tables.set(s, e, Shared(m.frame, False))


# -- restore --------------------------------------------------------------------------------------------------------


def hugetlb_vmemmap_restore_folio(f: Framework, h: HState, folio: Folio) -> int:
    """__hugetlb_vmemmap_restore_folio, vmemmap_remap_alloc (mm/hugetlb_vmemmap.c, -mm); point `RES` for each page.

    0, -ENOMEM with nothing changed, or -EAGAIN with the flag set and some slots private: a retry goes on from there.
    Only slots that map T of the folio's zone and order are touched.
    """
    if not folio.vmemmap_optimized:
        return 0
    k = f.k
    tail = vmemmap_shared_tail_page(f, h.order, folio.zone)
    if tail is None:
        k.warn("an optimized folio has no shared tail page")
        return -ENOMEM
    lo = folio.pfn // k.arch.spp
    want = k.arch.vmemmap_pages(h.order) - 1
    pages = _alloc_vmemmap_page_list(k, want, folio.nid)
    if pages is None:
        return -ENOMEM
    k.vmstat.nr_memmap += want
    for s, e, m in k.tables.entries.runs(lo + 1, lo + 1 + want):
        if not isinstance(m, Shared) or m.frame != tail:
            continue
        n = k.faults.grant("PTEHOOK", e - s) if f.merged else e - s
        pages, used = _pop(k, pages, n)
        _restore_slots(k, s, used, tail)
        if n < e - s:
            free_vmemmap_page_list(k, pages)
            return -EAGAIN
    free_vmemmap_page_list(k, pages)
    folio.vmemmap_optimized = False
    return 0


def _alloc_vmemmap_page_list(k: Kernel, n: int, nid: int) -> Extents | None:
    """alloc_vmemmap_page_list (mm/hugetlb_vmemmap.c, -mm): all `n` frames or none."""
    room = k.faults.room(n)
    got = k.pages.alloc_bulk(room, nid, OWNER_MEMMAP)
    have = 0
    for _, m in got:
        have += m
    k.faults.grant("RES", have)
    if have == n:
        return got
    k.faults.fails("RES")
    k.pages.free_extents(got)
    return None


def hugetlb_vmemmap_restore_folios(f: Framework, h: HState, folios: list[Folio], non_hvo: list[Folio]) -> int:
    """hugetlb_vmemmap_restore_folios (mm/hugetlb_vmemmap.c, -mm): stops at the first error; what was done before it
    moves over.
    """
    restored = rc = done = 0
    for folio in folios:
        if folio.vmemmap_optimized:
            rc = hugetlb_vmemmap_restore_folio(f, h, folio)
            if rc:
                break
            restored += 1
        done += 1
    non_hvo += folios[:done]
    del folios[:done]
    return rc or restored
