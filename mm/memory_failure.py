"""Poisoned pages: hard and soft offline, and unpoisoning (mm/memory-failure.c, Linux 7.3; separate-paths.md 3.21).

A huge page carries PG_hwpoison on its head and remembers which of its pages were hit (`Folio.raw_hwp`); single frames
carry it in `PageAllocator.hwpoison`. Failures are simulated ones (MF_SW_SIMULATED), so unpoisoning stays possible.

Left out: killing processes, filters, the sysctls, huge pages in the page cache (a mapping is anonymous here), marks on
the head of a device's compound page (nothing maps devices).
"""

from __future__ import annotations

from mm.errno import EBUSY, EHWPOISON, EIO, ENOMEM, ENOTRECOVERABLE, ENXIO
from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb import dissolve_free_hugetlb_folio, folio_at, free_hpage_workfn, free_huge_folio, queued_at
from mm.hugetlb_isolate import migrate_hugetlb
from mm.kernel import Kernel
from mm.memory_online import replace_extent
from mm.mmzone import ZONE_MOVABLE
from mm.page_alloc import (
    BOOT_OWNERS,
    KERNEL_ZONES,
    MOVABLE_ZONES,
    OWNER_HWPOISON,
    OWNER_PAGES_MOVABLE,
    OWNER_PGTABLE,
    KernelBug,
    Poisoned,
)


def num_poisoned_pages_add(k: Kernel, pfn: int, n: int) -> None:
    """num_poisoned_pages_inc, num_poisoned_pages_sub: in all, and of the memory block of `pfn` if it has one."""
    if not memblk_nr_poison_add(k, pfn // k.memory_blocks.pages, n):
        k.memory_blocks.elsewhere += n


def memblk_nr_poison_add(k: Kernel, block: int, n: int) -> bool:
    """memblk_nr_poison_inc, memblk_nr_poison_sub (drivers/base/memory.c, 7.3): in the block's count, if it exists; it
    has one more reference meanwhile."""
    if not k.memory_blocks.memory_block_get(block):
        return False
    counts = k.memory_blocks.nr_hwpoison
    counts[block] = counts.get(block, 0) + n
    if not counts[block]:
        del counts[block]
    k.memory_blocks.memory_block_put(block)
    return True


def action_result(k: Kernel, pfn: int, recovered: bool) -> int:
    """action_result: the page is counted whether or not it could be recovered; 0 or -EBUSY."""
    num_poisoned_pages_add(k, pfn, 1)
    return 0 if recovered else -EBUSY


# -- huge pages -----------------------------------------------------------------------------------------------------


def hugetlb_update_hwpoison(k: Kernel, folio: Folio, pfn: int) -> bool | None:
    """hugetlb_update_hwpoison: mark the head and record the page; point `RAW`.

    None if the folio was sound, True if this very page was poisoned already, False if another one was.
    """
    before = False if folio.hwpoison else None
    folio.hwpoison = True
    if folio.raw_hwp_unreliable:
        return False
    if pfn in folio.raw_hwp:
        return True
    if k.faults.fails("RAW"):
        folio.raw_hwp_unreliable = True
        for raw in folio.raw_hwp:
            num_poisoned_pages_add(k, raw, -1)
        folio.raw_hwp = ()
    else:
        folio.raw_hwp = (pfn, *folio.raw_hwp)
    return before


def try_memory_failure_hugetlb(k: Kernel, folio: Folio, pfn: int) -> int:
    """try_memory_failure_hugetlb, me_huge_page: 0 recovered, -EBUSY not, -EHWPOISON was poisoned already.

    A mapped folio loses its user. One that is on no free list, nor in use, is marked and left alone.
    """
    h = k.hstates[folio.order]
    queued = folio in k.hpage_freelist
    h.touched = True
    before = hugetlb_update_hwpoison(k, folio, pfn)
    if before is not None:
        if not before:
            num_poisoned_pages_add(k, pfn, 1)
        return -EHWPOISON
    if queued:
        return action_result(k, pfn, False)
    if folio.refcount:
        next(mapped for mapped in h.mapped if folio in mapped).remove(folio)
        free_huge_folio(k, h, folio)
    rc = action_result(k, pfn, __page_handle_poison(k, pfn))
    free_hpage_workfn(k)
    return rc


def __page_handle_poison(k: Kernel, pfn: int) -> bool:
    """__page_handle_poison: dissolve if need be, and take the page off the buddy allocator; whether both worked."""
    return dissolve_free_hugetlb_folio(k, pfn) == 0 and k.pages.take_off(pfn)


def _folio(k: Kernel, pfn: int) -> Folio | None:
    """The folio of hugetlb type over `pfn`."""
    return folio_at(k, pfn) or (queued_at(k, pfn) if k.hpage_freelist else None)


# -- hard offline ---------------------------------------------------------------------------------------------------


def memory_failure(k: Kernel, pfn: int) -> int:
    """hard_offline_page_store (drivers/base/memory.c), memory_failure, 7.3: 0 or a negative errno."""
    if k.pages.zone_of.get(pfn) is None:
        return _memory_failure_not_online(k, pfn)
    folio = _folio(k, pfn)
    if folio is not None:
        return try_memory_failure_hugetlb(k, folio, pfn)
    pages = k.pages
    if pfn in pages.hwpoison:
        return -EHWPOISON
    got = get_any_page(k, pfn)
    if got == 0 and pages.take_off(pfn):
        return action_result(k, pfn, True)
    if got == 1:  # me_pagecache_clean: an anonymous page is unmapped
        _take_from_user(k, pfn)
        pages.hwpoison[pfn] = Poisoned.HELD
        return action_result(k, pfn, True)
    pages.hwpoison[pfn] = Poisoned.MARKED
    return action_result(k, pfn, False)


def _memory_failure_not_online(k: Kernel, pfn: int) -> int:
    """memory_failure of what is no online page: nothing is marked, but a device's page is counted all the same
    (memory_failure_dev_pagemap, action_result).

    -EBUSY where there is no struct page (memory_failure_pfn), and for a device's page that nobody has mapped
    (mf_generic_kill_procs); else -ENXIO.
    """
    if not k.sections.valid(pfn):
        return -EBUSY
    for pgmap in k.pgmaps:
        for start, end in pgmap.ranges[: pgmap.nr_range]:
            if start <= pfn < end:
                action_result(k, pfn, False)
                # pgmap_pfn_valid; then pgmap_has_memory_failure, for fsdev: dax_holder_notify_failure returns
                # -EOPNOTSUPP without a filesystem on the device, and the generic handler is next all the same.
                reserved = start + pgmap.altmap.offset() if pgmap.altmap is not None else start
                return -ENXIO if pfn < reserved else -EBUSY
    return -ENXIO


def get_any_page(k: Kernel, pfn: int) -> int:
    """get_any_page for a page in no huge page: 0 free, 1 a program's and movable, else what forbids handling it.

    Left out: page tables made by memory hotplug lack the type that those of HVO have, and give -EIO.
    """
    owner = k.pages.owners.get(pfn)
    if owner is None:
        return 0
    if owner in BOOT_OWNERS or owner == OWNER_PGTABLE:
        return -ENOTRECOVERABLE
    return 1 if owner == OWNER_PAGES_MOVABLE else -EIO


def _take_from_user(k: Kernel, pfn: int) -> None:
    """The program that has the movable page loses it; the frame is out of use."""
    pages = k.pages
    extents = pages.holders.get(pfn)
    assert extents is not None  # every movable page has a holder
    replace_extent(extents, pfn, pfn + 1, [])
    pages.holders.clear(pfn, pfn + 1)
    pages.claim(pfn, pfn + 1, OWNER_HWPOISON)


# -- soft offline ---------------------------------------------------------------------------------------------------


def soft_offline_page(k: Kernel, pfn: int) -> int:
    """soft_offline_page_store (drivers/base/memory.c), soft_offline_page, 7.3: 0 or a negative errno.

    A free page is taken off the buddy allocator, out of a free huge page if need be; one in use is moved away first.
    """
    if k.pages.zone_of.get(pfn) is None:
        return -EIO if k.sections.valid(pfn) else -ENXIO
    folio = _folio(k, pfn)
    if pfn in k.pages.hwpoison or (folio is not None and folio.hwpoison and folio.pfn == pfn):
        return 0
    if folio is not None:
        return _soft_offline_hugetlb(k, k.hstates[folio.order], folio, pfn)
    got = get_any_page(k, pfn)
    if got == 1:
        return _soft_offline_movable(k, pfn)
    if got == 0:
        k.pages.take_off(pfn)
        num_poisoned_pages_add(k, pfn, 1)
    return got


def _soft_offline_hugetlb(k: Kernel, h: HState, folio: Folio, pfn: int) -> int:
    if folio in k.hpage_freelist:
        return -EIO
    tries = 2
    if folio.refcount:
        nodes = [folio.nid, *(nid for nid in range(len(k.nodes)) if nid != folio.nid)]
        if not migrate_hugetlb(k, folio, nodes, True):
            return -ENOMEM
        tries = 1
    for _ in range(tries):
        if __page_handle_poison(k, pfn):
            num_poisoned_pages_add(k, pfn, 1)
            free_hpage_workfn(k)
            return 0
    free_hpage_workfn(k)
    return -EBUSY


def _soft_offline_movable(k: Kernel, pfn: int) -> int:
    """soft_offline_in_use_page: the page moves, to its own node if it can; -ENOMEM if nowhere."""
    pages = k.pages
    zone = pages.zone_of.get(pfn)
    extents = pages.holders.get(pfn)
    assert zone is not None
    assert extents is not None
    zones = MOVABLE_ZONES if zone.idx == ZONE_MOVABLE else KERNEL_ZONES
    target = pages.alloc_bulk(1, zone.nid, OWNER_PAGES_MOVABLE, zones=zones)
    if not target:
        return -ENOMEM
    pages.holders.set(target[0][0], target[0][0] + 1, extents)
    replace_extent(extents, pfn, pfn + 1, target)
    pages.holders.clear(pfn, pfn + 1)
    pages.claim(pfn, pfn + 1, OWNER_HWPOISON)
    pages.hwpoison[pfn] = Poisoned.HELD
    num_poisoned_pages_add(k, pfn, 1)
    return 0


# -- unpoison -------------------------------------------------------------------------------------------------------


def unpoison_memory(k: Kernel, pfn: int) -> int:
    """unpoison-pfn of hwpoison-inject, unpoison_memory, 7.3: 0, -EIO for what is not online, -EBUSY."""
    pages = k.pages
    if pages.zone_of.get(pfn) is None:
        return -EIO
    folio = _folio(k, pfn)
    if folio is not None:
        if folio.pfn != pfn or not folio.hwpoison:
            return -EBUSY
        # folio_free_raw_hwp
        if folio.raw_hwp_unreliable or not folio.raw_hwp:
            return -EBUSY
        for raw in folio.raw_hwp:
            num_poisoned_pages_add(k, raw, -1)
        folio.raw_hwp = ()
        folio.hwpoison = False
        # One bit with that of the frame, which may have been marked before the huge page was made over it.
        pages.hwpoison.pop(pfn, None)
        k.hstates[folio.order].touched = True
        return 0
    state = pages.hwpoison.get(pfn)
    if state is None:
        return -EBUSY
    if state is Poisoned.TAKEN_OFF or state is Poisoned.HELD:
        pages.put_back(pfn)
    else:
        owner = pages.owners.get(pfn)
        if owner in BOOT_OWNERS or owner == OWNER_PGTABLE:
            return -EBUSY
        if owner is not None and owner != OWNER_HWPOISON:
            raise KernelBug("panic: unpoison_memory drops the last reference of a page in use")
        del pages.hwpoison[pfn]
    num_poisoned_pages_add(k, pfn, -1)
    return 0
