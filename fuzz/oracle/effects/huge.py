"""Huge pages and poisoned ones."""

from __future__ import annotations

from typing import Any, NamedTuple

from fuzz.oracle.effects import order
from fuzz.oracle.effects.common import Args, Before, SideLike
from mm.errno import EHWPOISON, EINVAL, ENOENT, ENOMEM, ENXIO
from mm.folio import Folio
from mm.hugetlb import folio_at, queued_at
from mm.kernel import Kernel
from mm.page_alloc import OWNER_HWPOISON, OWNER_LEAKED


class Pool(NamedTuple):
    """A pool before an operation."""

    persistent: int
    """Pages that are no surplus: all of them, or those of the node that the operation names."""
    resv: int
    nr: int
    """All pages."""
    max_huge_pages: int
    heads: order.Heads


class Demotion(NamedTuple):
    """What a demotion wants to know beside the pool of the larger size."""

    pool: Pool
    sums: list[int]
    """Base pages in huge pages of all sizes, of each node."""
    smaller_max: int
    """max_huge_pages of the smaller size; 0 if there is none."""


def pool_before(side: SideLike, args: Args) -> Pool | None:
    k = side.kernel
    h = k.hstates.get(side.order(args["size"]))
    if h is None:
        return None
    nid = args.get("node")
    now = h.persistent if nid is None or nid >= len(h.nr) else h.nr[nid] - h.surplus[nid]
    heads = order.heads(k, h, nid, args["count"] if "count" in args else now - args["to"])
    return Pool(now, h.resv, sum(h.nr), h.max_huge_pages, heads)


def demote_before(side: SideLike, args: Args) -> Demotion | None:
    found = pool_before(side, args)
    if found is None:
        return None
    k = side.kernel
    h = k.hstates[side.order(args["size"])]
    smaller = k.hstates[h.demote_order].max_huge_pages if h.demote_order else 0
    return Demotion(found, sum_of_pages(side), smaller)


def resized(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """set_max_huge_pages (mm/hugetlb.c): the number moves towards the one that was written, never beyond, and stops
    short of it for want of memory, for pages in use, or for an allocation that failed."""
    if then is None:
        return None
    was, resv, nr, _, heads = then
    k = side.kernel
    h = k.hstates[side.order(args["size"])]
    nid, to = args.get("node"), args["to"]
    now = h.persistent if nid is None or nid >= len(h.nr) else h.nr[nid] - h.surplus[nid]
    if h.resv != resv:
        return f"{h.resv} pages are reserved, {resv} were"
    if rc:
        return None if (sum(h.nr), now) == (nr, was) or k.hpage_freelist else "the pool changed"
    if not min(was, to) <= now <= max(was, to):
        return f"the pool went from {was} to {now} on the way to {to}"
    if h.max_huge_pages != h.persistent:
        return f"max_huge_pages is {h.max_huge_pages}, for {h.persistent} persistent pages"
    text = order.shrunk(k, h, heads) if to < was else order.grown(k, h, heads, to - was)
    if text is not None:
        return text
    # Those in use become surplus; how many can be made, `order.grown` knows.
    return f"{now} pages are left, not {to}" if now > to and not k.faults.armed else None


def switched(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """The sysctl vm.hugetlb_optimize_vmemmap (mm/hugetlb_vmemmap.c), which is there if some size can be optimized:
    never where sizeof(struct page) is no power of two."""
    paths, pools = side.kernel.paths, side.kernel.hstates.values()
    if rc:
        return "some huge pages can be optimized" if any(map(paths.hugetlb_vmemmap_optimizable, pools)) else None
    if side.kernel.arch.struct_page.bit_count() > 1:
        return "no huge pages can be optimized"
    value = paths.vmemmap_optimize_enabled
    return None if value is args["hugetlb_optimize_vmemmap"] else f"the switch is {value}"


def overcommitted(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """nr_overcommit_hugepages_store (mm/hugetlb_sysfs.c)."""
    h = side.kernel.hstates.get(side.order(args["size"]))
    if h is None:
        return None if rc == -ENOENT else "there is no such pool"
    return None if rc == 0 and h.nr_overcommit == args["to"] else f"the limit is {h.nr_overcommit}"


def demoted(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """demote_store (mm/hugetlb_sysfs.c): pages of one size become pages of the next, in equal measure."""
    if then is None:
        return None
    pool, sums, smaller_max = then
    k = side.kernel
    h = k.hstates[side.order(args["size"])]
    if rc in (-ENOENT, -EINVAL):
        return None if sum(h.nr) == pool.nr else "the pool changed"
    gone = pool.nr - sum(h.nr)
    if not 0 <= gone <= args["count"] or h.resv != pool.resv:
        return f"{gone} pages are gone of {args['count']}"
    if pool.max_huge_pages - h.max_huge_pages != gone:
        return f"max_huge_pages fell by {pool.max_huge_pages - h.max_huge_pages}, the pages by {gone}"
    if sum_of_pages(side) != sums:
        return "the nodes have more or fewer pages in huge pages than before"
    smaller = k.hstates[h.demote_order]
    if smaller.max_huge_pages - smaller_max != gone * h.pages // smaller.pages:
        return f"max_huge_pages of the smaller size went from {smaller_max} to {smaller.max_huge_pages}"
    if h.surplus != pool.heads.surplus:
        return f"{pool.heads.surplus} pages were surplus, now {h.surplus} are"
    text = order.demoted(k, h, smaller, pool.heads, args["count"], gone)
    if text is not None:
        return text
    nid = args.get("node")
    left = h.free_count() if nid is None else len(h.free[nid])
    if rc == 0 and gone < args["count"] and left != h.resv:
        return f"{gone} pages are gone of {args['count']}, and {left} are free"
    return None


def sum_of_pages(side: SideLike) -> list[int]:
    """The base pages in huge pages of each node, those included that wait for the work item."""
    k = side.kernel
    out = [sum([h.nr[node.nid] * h.pages for h in k.hstates.values()]) for node in k.nodes]
    for folio in k.hpage_freelist:
        out[folio.nid] += 1 << folio.order
    return out


def mapped(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """hugetlb_reserve_pages, alloc_hugetlb_folio (mm/hugetlb.c): all pages or none, and the reservation is used up.
    New pages are surplus, and no others become it."""
    if then is None:
        return None
    h = side.kernel.hstates[side.order(args["size"])]
    if h.resv != then.resv:
        return f"{h.resv} pages are reserved, {then.resv} were"
    heads = then.heads
    if persistent(h.nr, h.surplus) != persistent(heads.nr, heads.surplus):
        return f"{h.nr} pages, {h.surplus} of them surplus, were {heads.nr}, {heads.surplus} of them surplus"
    if rc:
        failed = rc == -ENOMEM
        return order.given_back(side.kernel, h, heads, args["count"], args["node"]) if failed else None
    if result is None:
        return None
    _, mapped = side.handles[result]
    if len(mapped) != args["count"] or any(f.refcount != 1 for f in mapped):
        return f"{len(mapped)} of {args['count']} pages are mapped"
    nid = args.get("node")
    if nid is not None and any(f.nid != nid for f in mapped):
        return f"pages are not on node {nid}"
    return order.mapped(args["count"], heads, mapped)


def persistent(nr: list[int], surplus: list[int]) -> list[int]:
    """persistent_huge_pages of each node."""
    return [n - s for n, s in zip(nr, surplus, strict=True)]


class User(NamedTuple):
    """A mapping of huge pages, and its pool."""

    order: int
    folios: list[Folio]
    staying: list[int]
    """Persistent pages of each node that stay when the mapping goes."""
    max_huge_pages: int
    resv: int
    mixed: bool
    """Other pages may leave with it, or come back."""


def user_before(side: SideLike, args: Args) -> User | None:
    found = side.handles.get(args["u"])
    if found is None:
        return None
    h = side.kernel.hstates[found[0]]
    staying = persistent(h.nr, h.surplus)
    for folio in found[1]:
        staying[folio.nid] -= folio.temporary
    mixed = any(h.surplus) or bool(side.kernel.hpage_freelist)
    return User(found[0], list(found[1]), staying, h.max_huge_pages, h.resv, mixed)


def unmapped(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """munmap: no page keeps its reference; with the work item done nothing waits."""
    if then is None:
        return None
    if rc or any(f.refcount for f in then.folios):
        return "pages are still in use"
    # free_huge_folio: a page of the pool goes back to it, and only temporary and surplus ones leave.
    h = side.kernel.hstates[then.order]
    if persistent(h.nr, h.surplus) != then.staying:
        return f"{h.nr} pages are left, {h.surplus} of them surplus; {then.staying} others were to stay"
    if (h.max_huge_pages, h.resv) != (then.max_huge_pages, then.resv):
        return "max_huge_pages or reservations changed"
    text = None if then.mixed else order.unmapped(h, then.folios)
    if text is not None:
        return text
    return "the work item has not run" if args["flush"] and side.kernel.hpage_freelist else None


def flushed(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """free_hpage_workfn (mm/hugetlb.c)."""
    return "huge pages still wait" if side.kernel.hpage_freelist else None


def _folios(k: Kernel) -> list[Folio]:
    return [folio for h in k.hstates.values() for folio in h.folios.values()] + k.hpage_freelist


class Poison(NamedTuple):
    """What is known of the frame that a poisoning operation names."""

    pfn: int
    poisoned: bool
    """It is marked, or the huge page that it is in."""
    flagged: bool
    """Its own PG_hwpoison is set, which of a huge page only the head has."""
    recorded: bool
    """It is known to have failed: it is marked, or its huge page remembers it."""
    counted: int
    """All poisoned pages, by the books of the memory blocks."""
    unreliable: bool
    """Some huge page has forgotten which of its pages failed."""


def at_before(side: SideLike, args: Args) -> Poison:
    k = side.kernel
    pfn = args["at"] >> k.arch.page_shift
    folio = folio_at(k, pfn) or queued_at(k, pfn)
    count = sum(k.memory_blocks.nr_hwpoison.values())
    unreliable = any(f.raw_hwp_unreliable for f in _folios(k))
    marked = pfn in k.pages.hwpoison
    if folio is None:
        return Poison(pfn, marked, marked, marked, count, unreliable)
    flagged = marked or (folio.hwpoison and folio.pfn == pfn)
    return Poison(pfn, marked or folio.hwpoison, flagged, pfn in folio.raw_hwp, count, unreliable)


def dissolve_before(side: SideLike, args: Args) -> Any:
    k = side.kernel
    folio = folio_at(k, args["at"] >> k.arch.page_shift)
    if folio is None or k.hpage_freelist:
        return None
    h = k.hstates[folio.order]
    return h.order, folio.nid, list(h.nr), list(h.surplus), h.max_huge_pages


def dissolved(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """dissolve_free_hugetlb_folio (mm/hugetlb.c)."""
    k = side.kernel
    pfn = args["at"] >> k.arch.page_shift
    folio = folio_at(k, pfn)
    if then is not None:
        order, nid, nr, surplus, most = then
        h = k.hstates[order]
        # A surplus page of the node is given up first, else the number that was written sinks too.
        spare = rc == 0 and surplus[nid] > 0
        wanted = sum(nr) - (rc == 0), sum(surplus) - spare, most - (rc == 0 and not spare)
        if (sum(h.nr), sum(h.surplus), h.max_huge_pages) != wanted:
            return (
                f"pages, surplus and max_huge_pages are {sum(h.nr)}, {sum(h.surplus)}, {h.max_huge_pages}, not {wanted}"
            )
    return None if rc or folio is None else f"{folio!r} is still there"


def failed(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """memory_failure (mm/memory-failure.c): what was handled is counted once, and nobody has the frame any more."""
    pfn, poisoned, _, recorded, count, unreliable = then
    k = side.kernel
    now = sum(k.memory_blocks.nr_hwpoison.values())
    if rc != -ENXIO and k.pages.zone_of.get(pfn) is not None:
        # hugetlb_update_hwpoison, TestSetPageHWPoison: recorded, unless there is no memory to record it.
        folio = folio_at(k, pfn) or queued_at(k, pfn)
        marked = pfn in k.pages.hwpoison if folio is None else folio.hwpoison
        if folio is not None and pfn not in folio.raw_hwp and not folio.raw_hwp_unreliable:
            marked = False
        if not marked and k.faults.fired != "RAW" and OWNER_LEAKED not in k.pages.owners.vals:
            return "the frame is not marked"
        if rc == 0 and k.faults.fired == "RAW":
            # __update_and_free_hugetlb_folio
            return "the huge page does not know which of its pages failed, and was freed"
        # action_result counts a page once, and num_poisoned_pages_inc one more of a huge page that was known.
        again = rc == -EHWPOISON and recorded
        if k.faults.fired != "RAW" and now != count + (not again):
            return f"{now} poisoned frames are counted, {count} were"
    if not unreliable and k.faults.fired != "RAW" and any(f.raw_hwp_unreliable for f in _folios(k)):
        return "a huge page has forgotten which of its pages are poisoned"
    if rc == 0:
        # A mark does not keep a frame from being handled again, in a huge page that was made over it.
        if now != count + 1:
            return f"{now} poisoned frames are counted, {count} were"
        owner = k.pages.owners.get(pfn)
        return None if owner == OWNER_HWPOISON else f"the frame belongs to {owner}"
    return "the frame was sound" if rc == -EHWPOISON and not poisoned and folio_at(k, pfn) is None else None


def soft_offlined(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """soft_offline_page (mm/memory-failure.c): the frame is out of use and counted, or nothing is."""
    pfn, _, flagged, _, count, _ = then
    k = side.kernel
    now = sum(k.memory_blocks.nr_hwpoison.values())
    if rc == 0 and not flagged:
        if now != count + 1:
            return f"{now} poisoned frames are counted, {count} were"
        owner = k.pages.owners.get(pfn)
        if owner != OWNER_HWPOISON:
            return f"the frame belongs to {owner}"
        return None if pfn in k.pages.hwpoison else "the frame is not marked"
    return None if now == count else f"{now} poisoned frames are counted, {count} were"


def unpoisoned(side: SideLike, args: Args, rc: int, then: Before, result: str | None) -> str | None:
    """unpoison_memory (mm/memory-failure.c)."""
    pfn, count = then.pfn, then.counted
    k = side.kernel
    now = sum(k.memory_blocks.nr_hwpoison.values())
    if rc:
        return None if now == count else f"{now} poisoned frames are counted, {count} were"
    folio = folio_at(k, pfn)
    if pfn in k.pages.hwpoison or (folio is not None and folio.hwpoison):
        return "the frame is poisoned"
    return None if now < count else f"{now} poisoned frames are counted, {count} were"
