"""Which answers an operation may give in the state that it finds: an errno only with its reason, and always with it.

The kernel's functions ask one thing after the other before they change anything; here it is asked of the state before,
in the order of the source. What only shows on the way (memory that runs short, a page that cannot be moved) leaves
several answers open. What nobody may return is a positive number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Final

from fuzz.oracle.effects.common import Args, SideLike, data_of, dax_align_valid, self_hosted, subsections_of
from fuzz.oracle.effects.memory import block_before
from mm.errno import (
    E2BIG,
    EAGAIN,
    EBUSY,
    EEXIST,
    EHWPOISON,
    EINVAL,
    EIO,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOTRECOVERABLE,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
)
from mm.hugetlb import folio_at, queued_at
from mm.kernel import Kernel
from mm.memory import MemoryBlocks
from mm.mmzone import ZONE_MOVABLE
from mm.page_alloc import (
    BOOT_OWNERS,
    OWNER_HUGETLB,
    OWNER_HWPOISON,
    OWNER_OFFLINE,
    OWNER_PAGES_MOVABLE,
    OWNER_PGTABLE,
)
from mm.runs import RunSet

Answers = frozenset[int] | None
"""None: any."""
Rule = Callable[[SideLike, Args], Answers]

OK: Final = frozenset({0})
ANYWHERE: Final = frozenset({OWNER_HUGETLB, OWNER_PAGES_MOVABLE})
"""Who can be moved, or makes room."""


@cache
def one(errno: int) -> Answers:
    """Nothing but this errno."""
    return frozenset({-errno})


@cache
def some(*errnos: int) -> Answers:
    """0, or one of these."""
    return frozenset({0, *(-errno for errno in errnos)})


def allowed(rule: Rule, side: SideLike, args: Args) -> Answers:
    """The answers of an operation; a node that the machine does not have has no files."""
    nid = args.get("node")
    return one(EINVAL) if nid is not None and nid >= len(side.kernel.nodes) else rule(side, args)


# -- memory blocks --------------------------------------------------------------------------------------------------


def onlined(side: SideLike, args: Args) -> Answers:
    """memory_block_online, memory_subsys_online (drivers/base/memory.c): -EHWPOISON comes first of what it tests."""
    block, state = block_before(side, args)
    if state is None:
        return one(ENODEV)
    if state != MemoryBlocks.OFFLINE:
        return one(EINVAL)
    return one(EHWPOISON) if side.kernel.memory_blocks.nr_hwpoison.get(block) else OK


def offlined(side: SideLike, args: Args) -> Answers:
    """memory_block_offline."""
    block, state = block_before(side, args)
    return one(ENODEV) if state is None else _offline(side.kernel, block, state)


def _offline(k: Kernel, block: int, state: Any) -> Answers:
    """offline_pages (mm/memory_hotplug.c): holes and several zones first, then what cannot be moved
    (has_unmovable_pages, mm/page_isolation.c), then the notifiers."""
    if state == MemoryBlocks.OFFLINE:
        return one(EINVAL)
    lo = block * k.memory_blocks.pages
    hi = lo + k.memory_blocks.pages
    run = k.pages.zone_of.run(lo)
    if run is None or run[1] < hi:
        return one(EINVAL)
    altmap = k.memory_blocks.altmaps.get(block)
    if altmap is not None:
        lo += altmap.capacity
    owners = {owner for _, _, owner in k.pages.owners.runs(lo, hi)} - {OWNER_OFFLINE}
    if k.pages.cma.overlaps(lo, hi) or not owners <= ANYWHERE | {OWNER_HWPOISON}:
        return one(EBUSY)
    if k.arch.boot_memory_stays and k.sections.early(lo):
        return frozenset({-EBUSY, -EPERM}) if OWNER_HWPOISON in owners else one(EPERM)
    return some(EBUSY, ENOMEM, EAGAIN) if owners else OK


def removed(side: SideLike, args: Args) -> Answers:
    """try_remove_memory (mm/memory_hotplug.c): no block may be online, and all or none hold their memmap."""
    memory = side.handles.get(args["m"])
    if memory is None:
        return one(ENODEV)
    blocks = side.kernel.memory_blocks
    lo, n = memory
    if n <= 0 or lo % blocks.pages or n % blocks.pages:
        return one(EINVAL)
    first, last = lo // blocks.pages, (lo + n) // blocks.pages
    if any(state != MemoryBlocks.OFFLINE for _, _, state in blocks.zone.runs(first, last)):
        return one(EBUSY)
    return OK if self_hosted(side.kernel, first, last) is not None else one(EINVAL)


def unplugged(side: SideLike, args: Args) -> Answers:
    """offline_and_remove_memory_ranges (mm/memory_hotplug.c): it fails as the first block that does not go offline."""
    memory = side.handles.get(args["m"])
    if memory is None:
        return one(ENODEV)
    k = side.kernel
    lo, n = memory
    per = k.memory_blocks.pages
    return one(EINVAL) if n <= 0 or lo % per or n % per else _ranges(k, [(lo, lo + n)])


def _ranges(k: Kernel, ranges: Iterable[tuple[int, int]]) -> Answers:
    per = k.memory_blocks.pages
    out: set[int] = set()
    for lo, hi in ranges:
        for first, last, state in k.memory_blocks.zone.runs(lo // per, hi // per):
            for block in _not_empty(k, first, last) if state != MemoryBlocks.OFFLINE else ():
                answers = _offline(k, block, state) or OK
                out |= answers - OK
                if 0 not in answers:
                    return frozenset(out)
    return OK | out


def _not_empty(k: Kernel, first: int, last: int) -> Iterable[int]:
    """Of the blocks [first, last), ascending, those that may not simply go offline; of 16 TiB most are empty."""
    pages, per = k.pages, k.memory_blocks.pages
    lo, hi = first * per, last * per
    whole = pages.zone_of.run(lo)
    if k.arch.boot_memory_stays or whole is None or whole[1] < hi:
        return range(first, last)
    blocks = RunSet()
    for s, e in [*((s, e) for s, e, _ in pages.owners.runs(lo, hi)), *pages.cma.runs(lo, hi)]:
        blocks.add(s // per, -(-e // per))
    return (block for s, e in blocks.items() for block in range(s, e))


def added(side: SideLike, args: Args) -> Answers:
    """register_memory_resource, __add_memory_resource (mm/memory_hotplug.c): a resource that is busy, then
    check_hotplug_memory_range, then memory that is there (section_activate, mm/sparse-vmemmap.c)."""
    k = side.kernel
    page, at, size = k.arch.page, args["at"], args["size"]
    if at % page or size % page:
        return one(EINVAL)
    lo, hi = at // page, (at + size) // page
    if lo == hi:
        return None
    if hi > 1 << (k.arch.physmem_bits - k.arch.page_shift) or not _room_in_vmemmap(k, lo, hi):
        return one(E2BIG)
    if k.iomem.overlaps(lo, hi):
        return one(EEXIST)
    if lo % k.memory_blocks.pages or hi % k.memory_blocks.pages:
        return one(EINVAL)
    if k.sections.subsections.overlaps(*subsections_of(k, lo, hi)):
        return frozenset({-EEXIST, -ENOMEM, -EOPNOTSUPP})
    return some(ENOMEM)


def _room_in_vmemmap(k: Kernel, lo: int, hi: int) -> bool:
    """DIRECT_MAP_PHYSMEM_END (arch/riscv/include/asm/pgtable.h): riscv64 has struct pages for 128T of memory (Sv48)
    from that 16G on in which RAM begins."""
    if k.arch.name != "riscv64":
        return True
    first = k.machine.ram_ranges()[0][1] * k.arch.page >> 34 << 34
    return first <= lo * k.arch.page and hi * k.arch.page <= first + (128 << 40)


# -- subblocks ------------------------------------------------------------------------------------------------------


def subblock_unplug(side: SideLike, args: Args) -> Answers:
    """virtio_mem_sbm_unplug_sb_online (drivers/virtio/virtio_mem.c), alloc_contig_range (mm/page_alloc.c)."""
    where = _subblocks(side, args)
    if not isinstance(where, tuple):
        return where
    lo, hi, state = where
    k = side.kernel
    gone = k.memory_blocks.unplugged
    start = lo // k.memory_blocks.pages * k.memory_blocks.pages
    if gone.overlaps(lo, hi) or gone.count(start, start + k.memory_blocks.pages) + hi - lo >= k.memory_blocks.pages:
        return one(EINVAL)
    if state == MemoryBlocks.OFFLINE:
        return OK
    # A hole in boot memory is of no driver.
    return one(EINVAL) if k.pages.zone_of.get(lo) is None else _contig(k, lo, hi)


def subblock_plug(side: SideLike, args: Args) -> Answers:
    """virtio_mem_sbm_plug_any_sb (drivers/virtio/virtio_mem.c)."""
    where = _subblocks(side, args)
    if not isinstance(where, tuple):
        return where
    return OK if side.kernel.memory_blocks.unplugged.covers(where[0], where[1]) else one(EINVAL)


def _subblocks(side: SideLike, args: Args) -> tuple[int, int, Any] | Answers:
    """The frames of the subblocks and the state of their block, or the refusal: the driver owns whole subblocks of
    memory that it added, without a memmap in it."""
    k = side.kernel
    block, state = block_before(side, args)
    if state is None:
        return one(ENODEV)
    size, per = 1 << k.arch.pmd_order, k.memory_blocks.pages
    first, count = args["first"], args["count"]
    if count < 1 or (first + count) * size > per or size >= per or block in k.memory_blocks.altmaps:
        return one(EINVAL)
    lo = block * per + first * size
    return one(EINVAL) if k.sections.early(lo) else (lo, lo + count * size, state)


def _contig(k: Kernel, lo: int, hi: int) -> Answers:
    """alloc_contig_range (mm/page_alloc.c): CMA and what is unmovable (outside of ZONE_MOVABLE, where the migration
    finds out) refuse at once; free frames are there; a gigantic page is not moved (isolate_or_dissolve_huge_folio,
    mm/hugetlb.c)."""
    if k.pages.cma.overlaps(lo, hi):
        return one(EBUSY)
    zone = k.pages.zone_of.get(lo)
    owners = {owner for _, _, owner in k.pages.owners.runs(lo, hi)}
    if zone is not None and zone.idx != ZONE_MOVABLE and not owners <= ANYWHERE:
        return one(EBUSY)
    if not owners:
        return OK
    # Pages of one kind only, so that it is clear what comes first.
    if owners <= ANYWHERE:
        folio = folio_at(k, lo)
        if folio is not None and k.hstates[folio.order].gigantic:
            return one(ENOMEM)
    if owners == {OWNER_PAGES_MOVABLE} and not any(lo <= pfn < hi for pfn in k.pages.hwpoison):
        return some(ENOMEM)  # what has moved leaves free frames (test_pages_isolated), unless they are poisoned
    return some(EBUSY, ENOMEM) if owners <= ANYWHERE else frozenset({-EBUSY, -ENOMEM})


# -- huge pages -----------------------------------------------------------------------------------------------------


def resize(side: SideLike, args: Args) -> Answers:
    """set_max_huge_pages (mm/hugetlb.c): only its node mask can be missing."""
    k = side.kernel
    if side.order(args["size"]) not in k.hstates:
        return one(ENOENT)
    return some(ENOMEM) if k.faults.nth else OK


def demote(side: SideLike, args: Args) -> Answers:
    """demote_store (mm/hugetlb_sysfs.c): a file for sizes that can be demoted; with nothing to demote it is done."""
    k = side.kernel
    h = k.hstates.get(side.order(args["size"]))
    if h is None or not h.demote_order:
        return one(ENOENT)
    nid = args["node"]
    free = h.free_count() if nid is None else len(h.free[nid])
    if not args["count"] or free == h.resv:
        return OK
    return some(ENOMEM, EBUSY, EAGAIN)


def mapped(side: SideLike, args: Args) -> Answers:
    """hugetlb_acct_memory, gather_surplus_pages, alloc_surplus_hugetlb_folio (mm/hugetlb.c): free pages that nobody
    reserved are enough, and there are no more than those and what overcommit allows."""
    h = side.kernel.hstates.get(side.order(args["size"]))
    count, nid = args["count"], args["node"]
    if h is None or count <= 0:
        return one(EINVAL)
    left = h.free_count() - h.resv
    if count > left + max(0, h.nr_overcommit - sum(h.surplus)):
        return one(ENOMEM)
    poisoned = any(folio.hwpoison for lists in h.free for folio in lists.values())
    enough = count <= left and (nid is None or count <= len(h.free[nid]))
    return OK if enough and not poisoned else some(ENOMEM)


def unmapped(side: SideLike, args: Args) -> Answers:
    """munmap."""
    return OK if args["u"] in side.handles else one(ENODEV)


def flush(side: SideLike, args: Args) -> Answers:
    """free_hpage_workfn (mm/hugetlb.c) returns nothing."""
    return OK


def dissolve(side: SideLike, args: Args) -> Answers:
    """dissolve_free_hugetlb_folio (mm/hugetlb.c)."""
    k = side.kernel
    pfn = args["at"] >> k.arch.page_shift
    folio = folio_at(k, pfn)
    if folio is None:
        return OK if queued_at(k, pfn) is None else None
    h = k.hstates[folio.order]
    if folio.refcount or h.free_count() == h.resv:
        return one(EBUSY)
    return some(ENOMEM, EAGAIN) if folio.vmemmap_optimized else OK


# -- poison ---------------------------------------------------------------------------------------------------------


def hard_offline(side: SideLike, args: Args) -> Answers:
    """memory_failure (mm/memory-failure.c): a free frame and one of a program are taken, another is marked and stays;
    what was poisoned before is -EHWPOISON."""
    k = side.kernel
    pfn = args["at"] >> k.arch.page_shift
    if k.pages.zone_of.get(pfn) is None:
        return one(EBUSY if not k.sections.valid(pfn) or _of_data(k, pfn) else ENXIO)
    folio = folio_at(k, pfn)
    if folio is not None or queued_at(k, pfn) is not None:
        if folio is None:
            return frozenset({-EBUSY, -EHWPOISON})
        return one(EHWPOISON) if folio.hwpoison else some(EBUSY)
    if pfn in k.pages.hwpoison:
        return one(EHWPOISON)
    return OK if k.pages.owners.get(pfn) in (None, OWNER_PAGES_MOVABLE) else one(EBUSY)


def _of_data(k: Kernel, pfn: int) -> bool:
    """A frame of a device behind its memory map, in which nobody has mapped it (mf_generic_kill_procs); of the memory
    map it is no page of the device (pgmap_pfn_valid, mm/memremap.c)."""
    for pgmap in k.pgmaps:
        for start, end in pgmap.ranges:
            if start <= pfn < end:
                return pgmap.altmap is None or pfn >= start + pgmap.altmap.offset()
    return False


def soft_offline(side: SideLike, args: Args) -> Answers:
    """soft_offline_page (mm/memory-failure.c): -ENXIO without a struct page, -EIO off line and for what cannot be
    moved; a free frame is taken."""
    k = side.kernel
    pfn = args["at"] >> k.arch.page_shift
    if k.pages.zone_of.get(pfn) is None:
        return one(EIO) if k.sections.valid(pfn) else one(ENXIO)
    folio = folio_at(k, pfn)
    if folio is not None:
        if folio.hwpoison and folio.pfn == pfn:
            return OK
        return some(EBUSY, ENOMEM) if folio.refcount else some(EBUSY)
    if queued_at(k, pfn) is not None:
        return None
    if pfn in k.pages.hwpoison:
        return OK
    owner = k.pages.owners.get(pfn)
    if owner is None:
        return OK
    if owner == OWNER_PAGES_MOVABLE:
        return some(ENOMEM)
    return one(ENOTRECOVERABLE if owner in BOOT_OWNERS or owner == OWNER_PGTABLE else EIO)


def unpoison(side: SideLike, args: Args) -> Answers:
    """unpoison_memory (mm/memory-failure.c)."""
    k = side.kernel
    pfn = args["at"] >> k.arch.page_shift
    if k.pages.zone_of.get(pfn) is None:
        return one(EIO)
    folio = folio_at(k, pfn) or queued_at(k, pfn)
    if folio is not None:
        return OK if folio.pfn == pfn and folio.hwpoison and folio.raw_hwp else one(EBUSY)
    if pfn not in k.pages.hwpoison:
        return one(EBUSY)
    owner = k.pages.owners.get(pfn)
    return one(EBUSY) if owner in BOOT_OWNERS or owner == OWNER_PGTABLE else OK


# -- devices --------------------------------------------------------------------------------------------------------


def created(side: SideLike, args: Args) -> Answers:
    """dax_align_valid, dev_dax_validate_align (drivers/dax), request_mem_region in dev_dax_probe."""
    k = side.kernel
    page = k.arch.page
    ranges: list[tuple[int, int]] = []
    for at, size in zip(args["at"], args["size"], strict=True):
        if at % page or size % page:
            return one(EINVAL)
        if size:
            ranges.append((at // page, (at + size) // page))
    if not ranges:
        return one(ENXIO)
    if not dax_align_valid(k.arch, args["align"]):
        return one(EINVAL)
    if args["altmap"]:
        return one(EINVAL) if len(ranges) > 1 else _namespace(k, *ranges[0], args)
    granule = max(args["align"] // page, k.arch.pages_per_subsection)
    for lo, hi in ranges:
        if (hi - lo) % granule:
            return one(EINVAL)
    return _probe(k, ranges, args["align"] // page, args["driver"])


def _namespace(k: Kernel, lo: int, hi: int, args: Args) -> Answers:
    """nd_namespace_store (drivers/nvdimm/claim.c): at least 16M; nd_pfn_init (drivers/nvdimm/pfn_devs.c): whole
    subsections, and there is room for data."""
    if hi - lo < (16 << 20) // k.arch.page:
        return one(ENXIO)
    if lo % k.arch.pages_per_subsection:
        return one(EINVAL)
    if k.arch.struct_page > 64:  # MAX_STRUCT_PAGE_SIZE
        return one(EINVAL)
    data, end = data_of(k, lo, hi, args["align"])
    if data >= end:
        return one(EBUSY if end < lo else ENXIO)
    return None if args["driver"] == "kmem" else some(EBUSY, EEXIST, ENOMEM, EINVAL, EOPNOTSUPP)


def _probe(k: Kernel, ranges: list[tuple[int, int]], align: int, driver: str) -> Answers:
    """dev_dax_probe (drivers/dax/device.c), memremap_pages, __add_pages (check_pfn_span): resources first; where there
    is no section yet and the range is whole subsections, only memory can be missing."""
    if driver == "kmem":
        return None
    limit = 1 << (k.arch.physmem_bits - k.arch.page_shift)
    for i, (lo, hi) in enumerate(ranges):
        if hi > limit or k.iomem.overlaps(lo, hi):
            return one(EBUSY)
        if any(lo < end and first < hi for first, end in ranges[:i]):
            return one(EBUSY)
    if driver == "devdax" and align.bit_length() - 1 > k.arch.max_folio_order:
        return one(EINVAL)
    lo, hi = ranges[0]
    if not _room_in_vmemmap(k, lo, hi) or lo % k.arch.pages_per_subsection:
        return one(EINVAL)
    if k.sections.subsections.overlaps(*subsections_of(k, lo, hi)):
        return frozenset({-EEXIST, -ENOMEM, -EOPNOTSUPP})
    per = k.arch.pages_per_section
    fresh = len(ranges) == 1 and not lo % per and not k.sections.flags.overlaps(lo // per, -(-hi // per))
    return some(ENOMEM) if fresh else None


def destroyed(side: SideLike, args: Args) -> Answers:
    """unregister_dev_dax (drivers/dax/bus.c)."""
    return OK if args["d"] in side.handles else one(ENODEV)


def rebound(side: SideLike, args: Args) -> Answers:
    """dax_bus_probe (drivers/dax/bus.c)."""
    if args["d"] not in side.handles:
        return one(ENODEV)
    return OK if args["driver"] == "none" else None


def attribute(side: SideLike, args: Args) -> Answers:
    """memmap_on_memory_store (drivers/dax/bus.c): support is asked about first, then the driver."""
    device = side.handles.get(args["d"])
    if device is None:
        return one(ENODEV)
    k = side.kernel
    wanted = args["memmap_on_memory"]
    if wanted and (k.machine.memmap_on_memory == "off" or not k.arch.memmap_on_memory):
        return one(EOPNOTSUPP)
    answers = one(EBUSY) if device.driver == "kmem" and device.memmap_on_memory != wanted else OK
    return answers | {-EOPNOTSUPP} if wanted and answers is not None else answers


def kmem_state(side: SideLike, args: Args) -> Answers:
    """state_store, dax_kmem_do_hotremove (drivers/dax/kmem.c)."""
    device = side.handles.get(args["d"])
    if device is None:
        return one(ENODEV)
    data = device.kmem
    if data is None:
        return one(ENOENT)
    if args["state"] == "offline":
        return one(EINVAL)
    if data.state == args["state"]:
        return OK
    if args["state"] == "unplugged":
        return None
    return one(EBUSY) if data.state != "unplugged" else None


# -- pages of programs ----------------------------------------------------------------------------------------------


def allocated(side: SideLike, args: Args) -> Answers:
    """`count` order-0 pages of the node's zones that the request may use, all or none (get_page_from_freelist without
    watermarks, mm/page_alloc.c)."""
    k = side.kernel
    movable = args["movable"]
    free = 0
    for zone in k.nodes[args["node"]].zones[: ZONE_MOVABLE + movable]:
        free += (zone.blocks.total << k.pages.block_order) + zone.frags.total + (zone.cma.total if movable else 0)
    return OK if args["count"] <= free else one(ENOMEM)


def contiguous(side: SideLike, args: Args) -> Answers:
    """alloc_contig_range (mm/page_alloc.c) of a row of online pages of one zone."""
    k = side.kernel
    page, at, size = k.arch.page, args["at"], args["size"]
    if at % page or size % page:
        return one(EINVAL)
    lo, hi = at // page, (at + size) // page
    run = k.pages.zone_of.run(lo)
    if lo >= hi or run is None or run[1] < hi:
        return one(EINVAL)
    return _contig(k, lo, hi)


def freed(side: SideLike, args: Args) -> Answers:
    """The pages are there, or the allocation was refused."""
    return OK if args["p"] in side.handles else one(ENODEV)


def anything(side: SideLike, args: Args) -> Answers:
    """0, or what the law of the effect says."""
    return None
