"""HugeTLB vmemmap optimization at run time (mm/hugetlb_vmemmap.c, -mm of November 2026).

An optimized folio maps its first vmemmap page to a private copy and all others to the shared tail page of (zone,
order), read-only. Boot gigantic pages get there by the order of their sections (`hugetlb_boot`); all other folios by
remapping, here.

In profile `merged` the update of each entry can fail: point `PTEHOOK` for each slot, `PMDHOOK` for each split,
-EAGAIN. In `posted` neither point exists. Left out: concurrent splits.

Whole lists are done in bulk when no injected failure waits and memory suffices; that takes the same frames in the same
order as folio by folio.
"""

from __future__ import annotations

from candidate.vmemmap_optimization import VMEMMAP_OPTIMIZATION_PAGES, Framework, vmemmap_shared_tail_page
from mm.errno import EAGAIN, ENOMEM, ENOTSUPP
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.page import Content
from mm.page_alloc import BOOT_OWNERS, KERNEL_ZONES, OWNER_MEMMAP, OWNER_PGTABLE, OWNER_SELFHOSTED, Extents, KernelBug
from mm.pgtable import Leaf, Mapping, Pte, Shared

VMEMMAP_REMAP_INCOMPLETE = 1

Pages = list[tuple[int, int, str]]
"""Lists of vmemmap pages in the order of their slots: (first frame, frames, OWNER_*)."""


def hugetlb_vmemmap_optimizable(f: Framework, h: HState) -> bool:
    """hugetlb_vmemmap_optimizable (mm/hugetlb_vmemmap.h, -mm)."""
    return f.k.arch.hvo and f.k.arch.vmemmap_pages(h.order) > VMEMMAP_OPTIMIZATION_PAGES


def vmemmap_should_optimize_folio(f: Framework, h: HState, folio: Folio) -> bool:
    """vmemmap_should_optimize_folio (mm/hugetlb_vmemmap.c, -mm)."""
    return not folio.vmemmap_optimized and f.vmemmap_optimize_enabled and hugetlb_vmemmap_optimizable(f, h)


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


def _mapped_pages(k: Kernel, lo: int, hi: int) -> tuple[bool, Pages]:
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


# -- optimize -------------------------------------------------------------------------------------------------------


def hvo_populate_vmemmap_pmd(f: Framework, pmd: int) -> int:
    """hvo_populate_vmemmap_pmd (mm/hugetlb_vmemmap.c, -mm): failure by injection, else what the architecture says."""
    if f.merged and f.k.faults.fails("PMDHOOK"):
        return -EAGAIN
    return f.vmemmap.try_populate_vmemmap_pmd(f, pmd)


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
    """vmemmap_remap_range with vmemmap_remap_pte, up to writing entries: (error, first vmemmap page not reached)."""
    k = f.k
    ptrs = k.arch.ptrs_per_pte
    at = lo
    while at < hi:
        stop = hi
        if leaf:
            stop = min(hi, (at // ptrs + 1) * ptrs)
            rc = vmemmap_remap_split(f, at, stop, flush=True)
            if rc:
                return rc, at
        if f.merged:
            done = k.faults.grant("PTEHOOK", stop - at)
            if done < stop - at:
                return -EAGAIN, at + done
        at = stop
    return 0, hi


def _map_optimized(k: Kernel, lo: int, hi: int, head: int, tail: Shared) -> None:
    """Slot `lo` maps the copied head, read-write, the others up to `hi` the shared tail, read-only."""
    entry = Pte(head - lo, True)
    _map_row(k, *(([lo, lo + 1, hi], [entry, tail]) if lo + 1 < hi else ([lo, hi], [entry])))


def _map_row(k: Kernel, bounds: list[int], entries: list[Mapping]) -> None:
    """Install entries that follow each other and differ.

    What `MemMap.own` holds for slots that map T is left there: nobody sees it, and restoring writes them all.
    """
    lo, hi = bounds[0], bounds[-1]
    k.tables.entries.replace(bounds, entries)
    k.tables.touched.append((lo, hi))
    spp = k.arch.spp
    k.memmap.touched.append((lo * spp, hi * spp))


def _map_restored(k: Kernel, vpn: int, frames: Extents, tail: int) -> None:
    """vmemmap_restore_pte (mm/hugetlb_vmemmap.c, -mm) for slots from `vpn` that all map T: private copies of it."""
    end = k.tables.map_extents(vpn, frames)
    if end > vpn:
        memmap = k.memmap
        lo, hi = vpn * memmap.spp, end * memmap.spp
        memmap.own.set(lo, hi, memmap.frames[tail])  # MemMap.write, with nothing left to check
        memmap.touched.append((lo, hi))


def vmemmap_remap_free(f: Framework, head: int, tail: int, lo: int, hi: int, pages: Pages, flush: bool) -> int:
    """vmemmap_remap_free (mm/hugetlb_vmemmap.c, -mm): map [lo, hi) to `head` and `tail`, and put on `pages` what can be
    freed.

    Fails with everything undone, or with VMEMMAP_REMAP_INCOMPLETE when undoing failed on the way. After undoing, the
    head stays on `head`, and the tail slots hold copies of T, not what they held before. Undoing always flushes.
    """
    k = f.k
    leaf, old = _mapped_pages(k, lo, hi)
    # A self-hosted memmap covers whole sections, so that the first slot speaks for the folio.
    rc, end = (-ENOTSUPP, lo) if old[0][2] == OWNER_SELFHOSTED else _remap_walk(f, lo, hi, leaf)
    if end == lo:
        pages.append((head, 1, OWNER_MEMMAP))
        return rc
    _map_optimized(k, lo, end, head, Shared(tail, False))
    if flush:
        k.tlb.flush_tlb_kernel_range(lo, hi)
    if not rc:
        pages += old
        return 0
    _pop(old, hi - end)  # never replaced
    want = end - lo - 1
    back = k.faults.grant("PTEHOOK", want) if f.merged else want
    _map_restored(k, lo + 1, _pop(old, back), tail)
    k.tlb.flush_tlb_kernel_range(lo, end)
    pages += old
    return rc if back == want else VMEMMAP_REMAP_INCOMPLETE


def __hugetlb_vmemmap_optimize_folio(f: Framework, h: HState, folio: Folio, pages: Pages, flush: bool) -> int:
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
    rc = vmemmap_remap_free(f, head, tail, lo, lo + k.arch.vmemmap_pages(h.order), pages, flush)
    folio.vmemmap_optimized = rc >= 0
    return rc


def hugetlb_vmemmap_optimize_folio(f: Framework, h: HState, folio: Folio) -> None:
    """hugetlb_vmemmap_optimize_folio (mm/hugetlb_vmemmap.c, -mm)."""
    pages: Pages = []
    __hugetlb_vmemmap_optimize_folio(f, h, folio, pages, flush=True)
    free_vmemmap_page_list(f.k, pages)


def hugetlb_vmemmap_optimize_folios(f: Framework, h: HState, folios: list[Folio], boot: bool = False) -> None:
    """__hugetlb_vmemmap_optimize_folios (mm/hugetlb_vmemmap.c, -mm): write-protect what boot optimized, split all, then
    remap all.

    What is replaced is freed at the end, or when memory runs out; then the folio at hand gets a second chance.
    """
    if not folios:
        return
    k = f.k
    enabled = f.vmemmap_optimize_enabled and hugetlb_vmemmap_optimizable(f, h)
    easy = k.faults.armed <= k.faults.reached and k.faults.points is None
    spp = k.arch.spp
    v = k.arch.vmemmap_pages(h.order)
    todo: list[tuple[Folio, int, Pages]] = []
    for folio in folios:
        if folio.vmemmap_optimized:
            if boot:
                vmemmap_wrprotect_hvo(k, h, folio)
            continue
        if not enabled:
            continue
        lo = folio.pfn // spp
        leaf, old = _mapped_pages(k, lo, lo + v)
        todo.append((folio, lo, old))
        if old[0][2] == OWNER_SELFHOSTED:
            easy = False
        elif leaf:
            rc = vmemmap_remap_split(f, lo, lo + v)
            if rc:
                easy = False
                if rc == -ENOMEM:
                    break
    k.tlb.flush_tlb_all()
    pages: Pages = []
    if not easy or _optimize_easily(f, h, todo, pages) < len(todo):
        for folio in folios:
            if __hugetlb_vmemmap_optimize_folio(f, h, folio, pages, flush=False) == -ENOMEM and pages:
                k.tlb.flush_tlb_all()
                free_vmemmap_page_list(k, pages)
                pages.clear()
                __hugetlb_vmemmap_optimize_folio(f, h, folio, pages, flush=False)
    k.tlb.flush_tlb_all()
    free_vmemmap_page_list(k, pages)


def _optimize_easily(f: Framework, h: HState, todo: list[tuple[Folio, int, Pages]], pages: Pages) -> int:
    """The second pass over (folio, its first vmemmap page, its pages) where only memory can be missing: all heads of a
    row of folios in one zone at once. Returns how many folios are done; the next one needs more memory than there is.
    """
    k = f.k
    v = k.arch.vmemmap_pages(h.order)
    done = 0
    while done < len(todo):
        zone = todo[done][0].zone
        stop = done + 1
        while stop < len(todo) and todo[stop][0].zone is zone:
            stop += 1
        n = stop - done
        tail = vmemmap_shared_tail_page(f, h.order, zone)
        heads = k.pages.alloc_bulk(n, zone.nid, OWNER_MEMMAP) if tail is not None else []
        if tail is None or sum([m for _, m in heads]) < n:
            k.pages.free_extents(heads)
            break
        k.faults.grant("HEAD", n)
        if f.merged:
            k.faults.grant("PTEHOOK", n * v)
        k.vmstat.nr_memmap += n
        shared = Shared(tail, False)
        slots: list[tuple[int, int, Pages]] = []
        for head, m in heads:
            for folio, lo, old in todo[done : done + m]:
                folio.vmemmap_optimized = True
                slots.append((lo, head, old))
                head += 1
            done += m
        slots.sort()
        bounds = [slots[0][0]]
        row: list[Mapping] = []
        for lo, head, old in slots:
            if lo != bounds[-1]:
                _map_row(k, bounds, row)
                bounds, row = [lo], []
            bounds += lo + 1, lo + v
            row += Pte(head - lo, True), shared
            pages += old
        _map_row(k, bounds, row)
    return done


def vmemmap_wrprotect_hvo(k: Kernel, h: HState, folio: Folio) -> None:
    """vmemmap_wrprotect_hvo (mm/sparse-vmemmap.c, -mm): slots 1 to V - 1 of a folio optimized at boot become
    read-only in place.
    """
    lo = folio.pfn // k.arch.spp
    for s, e, m in k.tables.runs(lo + 1, lo + k.arch.vmemmap_pages(h.order)):
        if isinstance(m, Shared):
            k.tables.set(s, e, Shared(m.frame, False))


# -- restore --------------------------------------------------------------------------------------------------------


def hugetlb_vmemmap_restore_folio(f: Framework, h: HState, folio: Folio, flush: bool = True) -> int:
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
    lo = folio.pfn // k.arch.spp + 1
    want = k.arch.vmemmap_pages(h.order) - 1
    frames = _alloc_vmemmap_page_list(k, want, folio.nid)
    if not frames:
        return -ENOMEM
    k.vmstat.nr_memmap += want
    pages = [(pfn, n, OWNER_MEMMAP) for pfn, n in frames]
    rc = 0
    for s, e, m in k.tables.entries.runs(lo, lo + want):
        if isinstance(m, Shared) and m.frame == tail:
            n = k.faults.grant("PTEHOOK", e - s) if f.merged else e - s
            if n == want:  # the whole folio, as usual
                _map_restored(k, s, frames[::-1], tail)
                if flush:
                    k.tlb.flush_tlb_kernel_range(lo, lo + want)
                folio.vmemmap_optimized = False
                return 0
            _map_restored(k, s, _pop(pages, n), tail)
            if n < e - s:
                rc = -EAGAIN
                break
    if flush:
        k.tlb.flush_tlb_kernel_range(lo, lo + want)
    free_vmemmap_page_list(k, pages)
    if not rc:
        folio.vmemmap_optimized = False
    return rc


def _alloc_vmemmap_page_list(k: Kernel, n: int, nid: int) -> Extents:
    """alloc_vmemmap_page_list (mm/hugetlb_vmemmap.c, -mm): all `n` frames or none."""
    faults = k.faults
    got = k.pages.alloc_bulk(faults.room(n), nid, OWNER_MEMMAP)
    have = got[0][1] if len(got) == 1 else sum([m for _, m in got])
    faults.grant("RES", have)
    if have < n:
        faults.fails("RES")
        k.pages.free_extents(got)
        return []
    return got


def hugetlb_vmemmap_restore_folios(f: Framework, h: HState, folios: list[Folio], non_hvo: list[Folio]) -> int:
    """hugetlb_vmemmap_restore_folios (mm/hugetlb_vmemmap.c, -mm): stops at the first error; what is done moves over.

    One flush at the end, and none at all when no folio was restored (5.13 d).
    """
    todo = [folio for folio in folios if folio.vmemmap_optimized]
    if len(todo) > 1 and _restore_easily(f, h, todo):
        f.k.tlb.flush_tlb_all()
        non_hvo += folios
        folios.clear()
        return len(todo)
    restored = rc = done = 0
    for folio in folios:
        if folio.vmemmap_optimized:
            rc = hugetlb_vmemmap_restore_folio(f, h, folio, flush=False)
            if rc:
                break
            restored += 1
        done += 1
    if restored:
        f.k.tlb.flush_tlb_all()
    non_hvo += folios[:done]
    del folios[:done]
    return rc or restored


def _restore_easily(f: Framework, h: HState, folios: list[Folio]) -> bool:
    """All of `folios`, which are optimized, by rows of neighbours, with the same frames as one by one; or False with
    nothing done, where one of them could fail or is private in part.
    """
    k = f.k
    v = k.arch.vmemmap_pages(h.order)
    want = v - 1
    n = len(folios) * want
    points = n * 2 if f.merged else n
    if k.faults.points is not None or k.faults.room(points) < points or not _frames_suffice(k, folios, want):
        return False
    rows = _rows_to_restore(f, h, sorted(folios, key=_pfn), v)
    if rows is None:
        return False
    frames = _alloc_by_folio(k, folios, want)
    k.faults.grant("RES", n)
    if f.merged:
        k.faults.grant("PTEHOOK", n)
    k.vmstat.nr_memmap += n
    for folio in folios:
        folio.vmemmap_optimized = False
    spp = k.arch.spp
    for tail, runs in rows:
        at = runs[0][0]
        bounds: list[int] = [at]
        entries: list[Mapping] = []
        for i in range(0, len(runs), 2):
            if i:
                at, head = runs[i][0], runs[i - 1][2]
                # A head may happen to lie next to the frames of a folio: then they are one run.
                if head == entries[-1]:
                    bounds[-1] = at
                else:
                    bounds.append(at)
                    entries.append(head)
            for frame, m in reversed(frames[(at - 1) * spp]):
                entry = Pte(frame - at, True)
                at += m
                if entries and entry == entries[-1]:
                    bounds[-1] = at
                else:
                    bounds.append(at)
                    entries.append(entry)
        _map_row(k, bounds, entries)
        _copy_tails(k, runs, k.memmap.frames[tail])
    return True


def _pfn(folio: Folio) -> int:
    return folio.pfn


def _frames_suffice(k: Kernel, folios: list[Folio], want: int) -> bool:
    """Whether the first zone to be asked has `want` frames for each folio."""
    need: dict[int, int] = {}
    for folio in folios:
        nid = folio.nid
        need[nid] = need.get(nid, 0) + want
    for nid, n in need.items():
        for zone in k.pages.zonelist(nid, KERNEL_ZONES, False):
            free = zone.free_pages(k.pages.block_order)
            if free >= n:
                break
            if free or zone.managed_pages:
                return False
        else:
            return False
    # Nodes do not take each other's frames then.
    return True


def _rows_to_restore(
    f: Framework, h: HState, folios: list[Folio], v: int
) -> list[tuple[int, list[tuple[int, int, Mapping]]]] | None:
    """The rows of neighbours in one zone among `folios`, which ascend: T, and the mapping from slot 1 of the first on,
    where slots that map T and heads alternate. None where they do not.
    """
    entries = f.k.tables.entries
    spp = f.k.arch.spp
    rows = []
    at = 0
    while at < len(folios):
        zone, first = folios[at].zone, folios[at].pfn
        step = v * spp
        stop = at + 1
        while stop < len(folios) and folios[stop].pfn == first + (stop - at) * step and folios[stop].zone is zone:
            stop += 1
        array = f.tails.get(zone.key)
        tail = array[h.order - f.min_order] if array else None
        slot = first // spp + 1
        runs = entries.runs(slot, slot - 1 + (stop - at) * v)
        if tail is None or len(runs) != 2 * (stop - at) - 1:
            return None
        for s, e, m in runs[::2]:
            if s != slot or e != s + v - 1 or not isinstance(m, Shared) or m.frame != tail:
                return None
            slot += v
        rows.append((tail, runs))
        at = stop
    return rows


def _alloc_by_folio(k: Kernel, folios: list[Folio], want: int) -> dict[int, Extents]:
    """`want` frames for each folio, by its first pfn; there are enough.

    Less than a pageblock at a time, or one folio: that takes frames in the order in which one by one would.
    """
    most = max(((1 << k.pages.block_order) - 1) // want, 1)
    out: dict[int, Extents] = {}
    at = 0
    while at < len(folios):
        nid = folios[at].nid
        stop = at + 1
        while stop < len(folios) and stop - at < most and folios[stop].nid == nid:
            stop += 1
        got = k.pages.alloc_bulk((stop - at) * want, nid, OWNER_MEMMAP)
        got.reverse()
        frame, left = got.pop()
        for folio in folios[at:stop]:
            mine: Extents = []
            short = want
            while short > left:
                if left:
                    mine.append((frame, left))
                    short -= left
                frame, left = got.pop()
            mine.append((frame, short))
            frame += short
            left -= short
            out[folio.pfn] = mine
        at = stop
    return out


def _copy_tails(k: Kernel, runs: list[tuple[int, int, Mapping]], content: Content) -> None:
    """Write `content`, what T holds, to every other run of vmemmap pages: the others are heads, which keep theirs."""
    own = k.memmap.own
    spp = k.arch.spp
    bounds = [runs[0][0] * spp, runs[0][1] * spp]
    contents = [content]
    for s, e, _ in runs[2::2]:
        head = bounds[-1]
        run = own.run(head)
        if run is None or run[1] < s * spp or run[2] == content:
            break  # a head with several contents, or with none
        bounds += s * spp, e * spp
        contents += run[2], content
    else:
        own.replace(bounds, contents)
        return
    for s, e, _ in runs[::2]:
        own.set(s * spp, e * spp, content)
