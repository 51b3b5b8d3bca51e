"""The pools of huge pages, as far as both trees share them (mm/hugetlb.c, Linux 7.3).

A folio is in its pool (`HState.folios`) from accounting until removal, free or mapped. The free lists are dicts in
insertion order whose END is the kernel's list head: enqueue inserts, dequeue is `popitem`, and a folio in the middle
leaves in constant time.

Left out: cgroups, subpools and reservations that outlive an operation, gigantic pages without run-time support.

Atomic freeing: the kernel hands optimized folios that are freed in atomic context to a work item (`free_hpage_workfn`),
through `Kernel.hpage_freelist`. Every operation that adds to that list runs the work before it returns, but for
`hugetlb unmap` with `flush=off`.
"""

from __future__ import annotations

from functools import cache
from operator import attrgetter

from mm.errno import EBUSY, EINVAL, ENOMEM
from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb_alloc import alloc_fresh_hugetlb_folio, alloc_pool_huge_folios, hstate_is_gigantic, next_node
from mm.hugetlb_cma import hugetlb_cma_free_frozen_folio, hugetlb_cma_total_size, hugetlb_early_cma
from mm.kernel import Kernel
from mm.page import Plain
from mm.page_alloc import OWNER_HUGETLB, OWNER_LEAKED, KernelBug, Poisoned


@cache
def plain(nid: int, zone: int) -> Plain:
    """Content of the struct pages of free memory, one object for all of a zone."""
    return Plain(nid, zone)


def folio_at(k: Kernel, pfn: int) -> Folio | None:
    """The pool folio that covers `pfn` (page_folio where that is a hugetlb folio), or None."""
    for h in k.hstates.values():
        folio = h.folios.get(pfn & -h.pages)
        if folio is not None:
            return folio
    return None


def queued_at(k: Kernel, pfn: int) -> Folio | None:
    """The folio over `pfn` that waits for the work item: in no pool, and still of hugetlb type."""
    for folio in k.hpage_freelist:
        if folio.pfn <= pfn < folio.end_pfn:
            return folio
    return None


# -- accounting -----------------------------------------------------------------------------------------------------


def account_new_hugetlb_folio(h: HState, folio: Folio) -> None:
    """account_new_hugetlb_folio (mm/hugetlb.c, 7.3)."""
    h.nr[folio.nid] += 1
    h.folios[folio.pfn] = folio
    h.touched = True


def enqueue_hugetlb_folio(h: HState, folio: Folio) -> None:
    """enqueue_hugetlb_folio (mm/hugetlb.c, 7.3): to the head of its node's free list."""
    h.free[folio.nid][folio.pfn] = folio
    h.touched = True


def add_boot_folio(k: Kernel, h: HState, folio: Folio) -> None:
    """The end of prep_and_add_bootmem_folios for one folio (mm/hugetlb.c, 7.3): account and enqueue."""
    account_new_hugetlb_folio(h, folio)
    enqueue_hugetlb_folio(h, folio)


def prep_and_add_allocated_folios(k: Kernel, h: HState, folios: list[Folio]) -> None:
    """prep_and_add_allocated_folios (mm/hugetlb.c, 7.3): optimize, account and enqueue, in list order."""
    if not folios:
        return
    k.paths.hugetlb_vmemmap_optimize_folios(h, folios)
    by_pfn = {folio.pfn: folio for folio in folios}
    h.folios.update(by_pfn)
    if len(h.nr) == 1:
        h.nr[0] += len(folios)
        h.free[0].update(by_pfn)
    else:
        for folio in folios:
            h.nr[folio.nid] += 1
            h.free[folio.nid][folio.pfn] = folio
    h.touched = True


def remove_hugetlb_folio(h: HState, folio: Folio, adjust_surplus: bool) -> None:
    """remove_hugetlb_folio (mm/hugetlb.c, 7.3): an optimized folio keeps its type until it is restored."""
    pfn, nid = folio.pfn, folio.nid
    h.free[nid].pop(pfn, None)
    del h.folios[pfn]
    if adjust_surplus:
        h.surplus[nid] -= 1
    if not folio.vmemmap_optimized:
        folio.hugetlb = False
    h.nr[nid] -= 1
    h.touched = True


def add_hugetlb_folio(h: HState, folio: Folio, adjust_surplus: bool) -> None:
    """add_hugetlb_folio (mm/hugetlb.c, 7.3): back to the pool, with its flag word reset to optimized."""
    if not folio.vmemmap_optimized:
        raise KernelBug(f"{folio!r} goes back to the pool but is not optimized")
    if adjust_surplus:
        h.surplus[folio.nid] += 1
    folio.hugetlb = True
    folio.temporary = folio.cma = folio.raw_hwp_unreliable = False
    account_new_hugetlb_folio(h, folio)
    enqueue_hugetlb_folio(h, folio)


def dequeue_hugetlb_folio_node_exact(h: HState, nid: int, lo: int = 0, hi: int = 0) -> Folio | None:
    """dequeue_hugetlb_folio_node_exact (mm/hugetlb.c, 7.3): the first free folio that is sound and not in [lo, hi).

    [lo, hi) are the pageblocks under isolation; a folio that only partly lies there is skipped too.
    """
    free = h.free[nid]
    for folio in reversed(free.values()):
        if folio.hwpoison or (folio.pfn < hi and lo < folio.end_pfn):
            continue
        del free[folio.pfn]
        folio.refcount = 1
        h.touched = True
        return folio
    return None


# -- freeing --------------------------------------------------------------------------------------------------------


def free_frozen_folios(k: Kernel, h: HState, folios: list[Folio]) -> None:
    """The end of __update_and_free_hugetlb_folio for folios that are not optimized; neighbours go at once.

    A folio whose poisoned pages are unknown is leaked on purpose.
    """
    if len(folios) > 1:
        folios = sorted(folios, key=_pfn_of)
    step = h.pages
    lo = hi = 0
    zone = None
    for folio in folios:
        folio.hugetlb = False
        if folio.hwpoison:
            if folio.raw_hwp_unreliable:
                leak(k, folio)
                continue
            folio_clear_hugetlb_hwpoison(k, folio)
        if folio.cma:
            hugetlb_cma_free_frozen_folio(k, folio)
        if folio.pfn == hi and folio.zone is zone:
            hi += step
            continue
        if zone is not None:
            k.memmap.write(lo, hi - lo, plain(zone.nid, zone.idx))
            k.pages.free(lo, hi - lo)
        lo, zone = folio.pfn, folio.zone
        hi = lo + step
    if zone is not None:
        k.memmap.write(lo, hi - lo, plain(zone.nid, zone.idx))
        k.pages.free(lo, hi - lo)


_pfn_of = attrgetter("pfn")


def folio_clear_hugetlb_hwpoison(k: Kernel, folio: Folio) -> None:
    """folio_clear_hugetlb_hwpoison (mm/memory-failure.c, 7.3) of a restored folio: the mark moves to the raw pages."""
    folio.hwpoison = False
    for pfn in folio.raw_hwp:
        k.pages.hwpoison[pfn] = Poisoned.MARKED
    folio.raw_hwp = ()


def leak(k: Kernel, folio: Folio) -> None:
    """Nobody knows which of its pages are poisoned: the folio is not freed."""
    k.pages.disclaim(folio.pfn, folio.end_pfn)
    k.pages.claim(folio.pfn, folio.end_pfn, OWNER_LEAKED)


def update_and_free_hugetlb_folio(k: Kernel, h: HState, folio: Folio) -> None:
    """__update_and_free_hugetlb_folio (mm/hugetlb.c, 7.3): free; a folio that cannot be restored returns as surplus."""
    if folio.raw_hwp_unreliable:
        leak(k, folio)
        return
    if folio.vmemmap_optimized and k.paths.hugetlb_vmemmap_restore_folio(h, folio):
        add_hugetlb_folio(h, folio, True)
        return
    free_frozen_folios(k, h, [folio])


def free_hpage_workfn(k: Kernel) -> None:
    """free_hpage_workfn (mm/hugetlb.c, 7.3): free what was queued, the last one first (an llist)."""
    work, k.hpage_freelist = k.hpage_freelist, []
    for folio in reversed(work):
        update_and_free_hugetlb_folio(k, k.hstates[folio.order], folio)


def wait_for_freed_hugetlb_folios(k: Kernel) -> None:
    """wait_for_freed_hugetlb_folios (mm/hugetlb.c, 7.3): by test_pages_isolated, before it looks."""
    free_hpage_workfn(k)


def flush_free_hpage_work(k: Kernel, h: HState) -> None:
    """flush_free_hpage_work (mm/hugetlb.c, 7.3)."""
    if k.hpage_freelist and k.paths.hugetlb_vmemmap_optimizable(h):
        free_hpage_workfn(k)


def bulk_vmemmap_restore_error(k: Kernel, h: HState, folios: list[Folio], non_hvo: list[Folio]) -> None:
    """bulk_vmemmap_restore_error (mm/hugetlb.c, 7.3): free what was restored, else try one by one."""
    if non_hvo:
        free_frozen_folios(k, h, non_hvo)
        non_hvo.clear()
        return
    for i, folio in enumerate(folios):
        if k.paths.hugetlb_vmemmap_restore_folio(h, folio) == 0:
            free_frozen_folios(k, h, [folio])
            del folios[: i + 1]
            return
        add_hugetlb_folio(h, folio, True)
    folios.clear()


def update_and_free_pages_bulk(k: Kernel, h: HState, folios: list[Folio]) -> None:
    """update_and_free_pages_bulk (mm/hugetlb.c, 7.3): all of `folios`, which is emptied, end free or surplus."""
    if not folios:
        return
    non_hvo: list[Folio] = []
    while k.paths.hugetlb_vmemmap_restore_folios(h, folios, non_hvo) < 0:
        bulk_vmemmap_restore_error(k, h, folios, non_hvo)
    free_frozen_folios(k, h, non_hvo)


def free_huge_folio(k: Kernel, h: HState, folio: Folio) -> None:
    """free_huge_folio (mm/hugetlb.c, 7.3): the last reference is gone. Temporary and surplus folios leave the pool.

    Optimized ones of those wait for the work item, which the caller runs when it is done.
    """
    folio.refcount = 0
    if folio.temporary:
        remove_hugetlb_folio(h, folio, False)
    elif h.surplus[folio.nid]:
        remove_hugetlb_folio(h, folio, True)
    else:
        enqueue_hugetlb_folio(h, folio)
        return
    if folio.vmemmap_optimized:
        k.hpage_freelist.append(folio)
    else:
        update_and_free_hugetlb_folio(k, h, folio)


def remove_pool_hugetlb_folio(h: HState) -> Folio | None:
    """remove_pool_hugetlb_folio with acct_surplus (mm/hugetlb.c, 7.3): of the next node with surplus."""
    nodes = range(len(h.nr))
    for _ in nodes:
        nid = next_node(h.next_nid_to_free, nodes)
        h.next_nid_to_free = next_node(nid + 1, nodes)
        free = h.free[nid]
        if free and h.surplus[nid]:
            folio = free[next(reversed(free))]
            remove_hugetlb_folio(h, folio, True)
            return folio
    return None


# -- surplus and mappings -------------------------------------------------------------------------------------------


def alloc_surplus_hugetlb_folio(k: Kernel, h: HState, nid: int, thisnode: bool) -> Folio | None:
    """alloc_surplus_hugetlb_folio (mm/hugetlb.c, 7.3). Left out: a limit passed meanwhile."""
    if sum(h.surplus) >= h.nr_overcommit:
        return None
    folio = alloc_fresh_hugetlb_folio(k, h, nid, thisnode)
    if folio is not None:
        account_new_hugetlb_folio(h, folio)
        h.surplus[folio.nid] += 1
    return folio


def gather_surplus_pages(k: Kernel, h: HState, delta: int, nid: int | None) -> int:
    """gather_surplus_pages (mm/hugetlb.c, 7.3): reserve `delta` huge pages, if need be surplus ones.

    0 or -ENOMEM. `nid` is the node that the task's memory policy binds to. The task runs on node 0.
    """
    needed = h.resv + delta - h.free_count()
    surplus: list[Folio] = []
    while len(surplus) < needed:
        folio = alloc_surplus_hugetlb_folio(k, h, nid or 0, thisnode=nid is not None)
        if folio is None:
            for folio in reversed(surplus):
                free_huge_folio(k, h, folio)
            free_hpage_workfn(k)
            return -ENOMEM
        surplus.append(folio)
    h.resv += delta
    for folio in reversed(surplus):
        enqueue_hugetlb_folio(h, folio)
    return 0


def return_unused_surplus_pages(k: Kernel, h: HState, unused: int) -> None:
    """return_unused_surplus_pages (mm/hugetlb.c, 7.3): give a reservation back, and as many free surplus pages."""
    h.resv -= unused
    folios: list[Folio] = []
    for _ in range(min(unused, sum(h.surplus))):
        folio = remove_pool_hugetlb_folio(h)
        if folio is None:
            break
        folios.append(folio)
    folios.reverse()
    update_and_free_pages_bulk(k, h, folios)


def hugetlb_acct_memory(k: Kernel, h: HState, delta: int, nid: int | None) -> int:
    """hugetlb_acct_memory (mm/hugetlb.c, 7.3) for a growing reservation: 0 or -ENOMEM.

    Whether the bound node has that many free pages is only looked at after the pool as a whole has.
    """
    if gather_surplus_pages(k, h, delta, nid):
        return -ENOMEM
    if nid is not None and delta > len(h.free[nid]):
        return_unused_surplus_pages(k, h, delta)
        return -ENOMEM
    return 0


def hugetlb_map(k: Kernel, order: int, count: int, nid: int | None, mapped: list[Folio]) -> int:
    """mmap(MAP_HUGETLB | MAP_POPULATE) of `count` private pages by a task on node 0, bound to `nid` if given.

    Stands for hugetlb_reserve_pages and alloc_hugetlb_folio (mm/hugetlb.c, 7.3): the reservation is all or nothing and
    wholly used up. Free folios of the task's node come first. Appends the folios to `mapped`; 0, -EINVAL for no pages,
    or -ENOMEM (also where the kernel would let the mapping be and send SIGBUS: free pages were counted that are
    poisoned).
    """
    h = k.hstates.get(order)
    if h is None or count <= 0:
        return -EINVAL  # hstate_sizelog
    if hugetlb_acct_memory(k, h, count, nid):
        return -ENOMEM
    nodes = range(len(h.nr)) if nid is None else (nid,)
    taken: list[Folio] = []
    while len(taken) < count:
        for node in nodes:
            folio = dequeue_hugetlb_folio_node_exact(h, node)
            if folio is not None:
                break
        else:
            folio = alloc_surplus_hugetlb_folio(k, h, nid or 0, thisnode=nid is not None)
            if folio is None:
                break
            folio.refcount = 1
        h.resv -= 1
        taken.append(folio)
    else:
        mapped += taken
        h.mapped.append(mapped)
        return 0
    hugetlb_unmap(k, order, taken)
    return_unused_surplus_pages(k, h, count - len(taken))
    return -ENOMEM


def hugetlb_unmap(k: Kernel, order: int, mapped: list[Folio], flush: bool = True) -> int:
    """munmap of a huge mapping: free_huge_folio in address order, then, if `flush`, the work item; 0."""
    h = k.hstates[order]
    for i, known in enumerate(h.mapped):
        if known is mapped:  # lists of other mappings may be equal: two that are empty after their pages failed
            del h.mapped[i]
            break
    for folio in mapped:
        free_huge_folio(k, h, folio)
    if flush:
        free_hpage_workfn(k)
    return 0


# -- dissolving -----------------------------------------------------------------------------------------------------


def dissolve_free_hugetlb_folio(k: Kernel, pfn: int) -> int:
    """dissolve_free_hugetlb_folio (mm/hugetlb.c, 7.3) of the folio over `pfn`: 0, -EBUSY, a restore's error.

    A folio that is on its way through the work item is waited for.
    """
    folio = folio_at(k, pfn)
    if folio is None:
        folio = queued_at(k, pfn)
        if folio is None:
            return 0
        h = k.hstates[folio.order]
        if h.free_count() == h.resv:
            return -EBUSY
        if folio.raw_hwp_unreliable:
            # It keeps its hugetlb type and never gets to a free list.
            raise KernelBug("panic: hung task: dissolve_free_hugetlb_folio retries for a leaked folio for ever")
        free_hpage_workfn(k)
        folio = folio_at(k, pfn)
        if folio is None:
            return 0
    return _dissolve(k, k.hstates[folio.order], folio)


def _dissolve(k: Kernel, h: HState, folio: Folio) -> int:
    if folio.refcount or h.free_count() == h.resv:
        return -EBUSY
    adjust_surplus = h.surplus[folio.nid] > 0
    remove_hugetlb_folio(h, folio, adjust_surplus)
    if not adjust_surplus:
        h.max_huge_pages -= 1
    if folio.hugetlb:
        rc = k.paths.hugetlb_vmemmap_restore_folio(h, folio)
        if rc:
            add_hugetlb_folio(h, folio, adjust_surplus)
            if not adjust_surplus:
                h.max_huge_pages += 1
            return rc
    update_and_free_hugetlb_folio(k, h, folio)
    return 0


def dissolve_free_hugetlb_folios(k: Kernel, start_pfn: int, end_pfn: int) -> int:
    """dissolve_free_hugetlb_folios (mm/hugetlb.c, 7.3): all that meet the range; the first error stops.

    The kernel steps by the smallest huge page size; here only frames that huge pages own are looked at.
    """
    for lo, hi, owner in k.pages.owners.runs(start_pfn, end_pfn):
        if owner != OWNER_HUGETLB:
            continue
        while lo < hi:
            folio = folio_at(k, lo)
            assert folio is not None  # whoever moved pages out of the range has waited for the work item
            rc = dissolve_free_hugetlb_folio(k, lo)
            if rc:
                return rc
            lo = folio.end_pfn
    return 0


# -- boot -----------------------------------------------------------------------------------------------------------


def hugetlb_init(k: Kernel) -> None:
    """hugetlb_init, hugetlb_init_hstates (mm/hugetlb.c, 7.3): boot pages of ordinary order, start of the turns.

    The sides have added the gigantic ones by now; where they skipped them because of hugetlb_cma, the number asked for
    stays. Demote orders are fixed in `Kernel`, but that nothing of the PMD size or less is demoted beside CMA areas.
    """
    total = hugetlb_cma_total_size(k)
    for h in k.hstates.values():
        hugetlb_add_hstate(k, h.order)
        h.next_nid_to_alloc = h.next_nid_to_free = 0
        h.touched = True
        if not hstate_is_gigantic(h):
            hugetlb_hstate_alloc_pages(k, h)
        if total and hstate_is_gigantic(h) and not hugetlb_early_cma(k, h):
            h.max_huge_pages = sum(r.count for r in k.boot_requests if r.order == h.order)
        else:
            h.max_huge_pages = h.persistent
        if total and h.order <= k.arch.pmd_order:
            h.demote_order = 0


def hugetlb_add_hstate(k: Kernel, order: int) -> None:
    """hugetlb_add_hstate (mm/hugetlb.c, 7.3): a pool of a folio that is too large is warned of. The pools are made with
    `Kernel`; the kernel registers them earlier in its boot, which nobody can see.
    """
    if order > k.arch.max_folio_order:
        k.warn(f"WARN_ON(order > MAX_FOLIO_ORDER): a pool of order {order}")


def hugetlb_hstate_alloc_pages(k: Kernel, h: HState) -> None:
    """hugetlb_hstate_alloc_pages for an ordinary order (mm/hugetlb.c, 7.3): by node, then in turns.

    The kernel takes one kind of request for a size, not both.
    """
    requests = [r for r in k.boot_requests if r.order == h.order]
    for nid in range(len(h.nr)):
        _alloc_boot(k, h, range(nid, nid + 1), sum(r.count for r in requests if r.nid == nid))
    h.next_nid_to_alloc = 0
    _alloc_boot(k, h, range(len(h.nr)), sum(r.count for r in requests if r.nid is None))
    h.next_nid_to_alloc = 0


def _alloc_boot(k: Kernel, h: HState, nodes: range, count: int) -> None:
    """hugetlb_hstate_alloc_pages_onenode, hugetlb_pages_alloc_boot with one worker (mm/hugetlb.c, 7.3).

    When memory runs out, optimizing what was allocated may give one page more; repeated as often as that works. Left
    out: the flush of a batch when no memory at all is available; the next repetition does the same.
    """
    while count:
        folios = alloc_pool_huge_folios(k, h, nodes, count)
        count -= len(folios)
        prep_and_add_allocated_folios(k, h, folios[::-1])
        if not folios or not k.paths.hugetlb_vmemmap_optimizable(h):
            return
