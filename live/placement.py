"""The reference model, told where the kernel put its huge pages.

Which free block the buddy allocator hands out is no business of vmemmap optimization, and the model leaves it out. But
what follows from it is: which PMD leaves are split, whether a memmap frame that is given back came from boot or from
the buddy allocator, hence every counter and the whole mapping. So the model does not guess: each huge page goes where
the kernel's went, read from the guest's struct pages, and then mapping, protection, sharing and counters must be equal,
not merely similar.

All other frames (memmap, tails, page tables) are compared up to their names. The model takes them from frames that no
machine has, one imaginary zone for each node, so that they are never where the kernel puts a huge page. They count as
free and managed pages of their node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from live.folios import HugeFolio, list_order
from live.pagetable import SECTION_PFNS, Leaf, decode
from live.snapshot import Snapshot
from mm.kernel import Kernel
from mm.memblock import Memblock
from mm.mmzone import ZONE_NORMAL, Zone
from mm.page_alloc import MOVABLE_ZONES, Extents, PageAllocator
from mm.vmemmap import VmemmapPaths

IMAGINARY = 1 << 40
NODE_SHIFT = 36
BUDDY = 1 << 30
"""Imaginary frames of a node that the buddy allocator has; those from memblock come before them."""
GIGANTIC = 1 << 18
VPNS_2M = 8

Wanted = dict[int, list[int]]
"""Order -> head pfns of the huge pages that the next operation makes, in allocation order."""


def node_base(nid: int) -> int:
    """First imaginary frame of a node."""
    return IMAGINARY + (nid << NODE_SHIFT)


class ToldAllocator(PageAllocator):
    """A page allocator that puts huge pages where it is told to."""

    __slots__ = ("anywhere", "imaginary", "wanted")

    def __init__(self, like: PageAllocator) -> None:
        super().__init__(like.nodes, like.block_order)
        self.wanted: Wanted = {}
        self.anywhere = False
        """Huge pages go where the model would put them."""
        self.imaginary: list[Zone] = []
        for node in like.nodes:
            zone = Zone(node.nid, ZONE_NORMAL)
            base = node_base(node.nid)
            self.zone_of.set(base, base + 2 * BUDDY, zone)
            self._give(zone, base + BUDDY, base + 2 * BUDDY)
            self.imaginary.append(zone)

    def zonelist(self, nid: int, indices: tuple[int, ...], thisnode: bool) -> list[Zone]:
        """Everything but huge pages comes from the node's imaginary zone, which never runs out."""
        return [self.imaginary[nid]]

    def alloc_blocks(
        self, order: int, n: int, nid: int, owner: str, thisnode: bool, zones: tuple[int, ...] = MOVABLE_ZONES
    ) -> Extents:
        """Up to `n` of the wanted blocks of that order, those of `nid` first."""
        if self.anywhere:
            return super().alloc_blocks(order, n, nid, owner, thisnode, zones)
        out: Extents = []
        wanted = self.wanted.get(order, [])
        for node in [nid] if thisnode else [nid, *(z.nid for z in self.imaginary if z.nid != nid)]:
            for pfn in list(wanted):
                zone = self.zone_of.get(pfn)
                if len(out) == n or zone is None or zone.nid != node or not self.is_free(pfn, pfn + (1 << order)):
                    continue
                wanted.remove(pfn)
                self._take(zone, pfn, pfn + (1 << order))
                self.owners.set(pfn, pfn + (1 << order), owner)
                self.touched.append((pfn, pfn + (1 << order)))
                out.append((pfn, 1 << order))
        return out

    def node_free(self, nid: int) -> int:
        """Free pages of a node, the imaginary ones included."""
        return sum(z.free_pages(self.block_order) for z in (*self.nodes[nid].zones, self.imaginary[nid]))

    def all_managed(self) -> int:
        """Managed pages of the machine."""
        return sum(z.managed_pages for node in self.nodes for z in node.zones) + sum(
            z.managed_pages for z in self.imaginary
        )


class ToldMemblock(Memblock):
    """A boot allocator that puts gigantic pages where it is told to and everything else on imaginary frames."""

    __slots__ = ("next", "wanted")

    def __init__(self, nodes: int) -> None:
        super().__init__(nodes)
        self.next = [node_base(nid) for nid in range(nodes)]
        self.wanted: list[int] = []

    def alloc(self, nid: int, n: int, align: int, exact: bool = False, kmemleak_trace: bool = False) -> int | None:
        """A gigantic page from where the kernel has one, or imaginary frames."""
        if n < GIGANTIC:
            return self.alloc_many(nid, 1, max(n, align))[0][0]
        nodes = [nid] if exact else [nid, *(i for i in range(len(self.next)) if i != nid)]
        for node in nodes:
            for pfn in self.wanted:
                if self.free_by_node[node].covers(pfn, pfn + n):
                    self.wanted.remove(pfn)
                    self.free_by_node[node].remove(pfn, pfn + n)
                    self.prep_allocation(pfn, n, kmemleak_trace)
                    return pfn
        return None

    def alloc_many(self, nid: int, count: int, n: int) -> Extents:
        """Imaginary frames, as one extent."""
        pfn = -(-self.next[nid] // n) * n
        self.next[nid] = pfn + count * n
        return [(pfn, count * n)]


def told(make_paths: Callable[[Kernel], VmemmapPaths]) -> Callable[[Kernel], VmemmapPaths]:
    """`make_paths` for a kernel whose allocators are told where huge pages go."""

    def make(k: Kernel) -> VmemmapPaths:
        # How large a kernel image is, and where, shows in where there are no huge pages.
        k.arch = replace(k.arch, image=())
        k.pages = ToldAllocator(k.pages)
        k.memblock = ToldMemblock(len(k.nodes))
        return make_paths(k)

    return make


def tell(k: Kernel, before: Snapshot, after: Snapshot) -> None:
    """Say where the kernel's operation between two snapshots put huge pages."""
    if not isinstance(k.pages, ToldAllocator) or not isinstance(k.memblock, ToldMemblock):
        raise TypeError("the model's allocators cannot be told")
    want(k, new_folios(before, after))


def want(k: Kernel, wanted: Wanted | None) -> None:
    """Say where huge pages go; None: anywhere."""
    assert isinstance(k.pages, ToldAllocator)
    assert isinstance(k.memblock, ToldMemblock)
    k.pages.anywhere = wanted is None
    k.pages.wanted = wanted or {}
    k.memblock.wanted = sorted(k.pages.wanted.get(18, []), reverse=True)


def new_folios(before: Snapshot, after: Snapshot) -> Wanted:
    """Huge pages that an operation made, in allocation order, and behind them those that it made and gave up again.

    A batch ends up on the free list in allocation order, its first page at the head; a page that was taken into use
    went to the head of the list of active pages, first come first. Pages given up again can be told by their memmap:
    other frames than before.
    """
    old = before.folios
    out: Wanted = {order: [] for order in after.pools}
    for row in list_order(after.folios):
        for pfn in row if after.folios[row[0]].free else reversed(row):
            folio = after.folios[pfn]
            if pfn not in old or old[pfn].order != folio.order:
                out.setdefault(folio.order, []).append(pfn)
    # Pages in use come first: they were taken off the head of the list.
    for order, pfns in out.items():
        pfns.sort(key=lambda pfn: after.folios[pfn].free)
        out[order] = pfns
    out[9] += given_up(before, after)
    return out


def given_up(before: Snapshot, after: Snapshot) -> list[int]:
    """Heads of 2M ranges that never were huge pages between operations, but whose memmap was replaced."""
    out = []
    for section, entry in after.mapping.items():
        was = before.mapping.get(section)
        if entry == was or was is None or isinstance(entry, Leaf) or section not in after.blocks:
            continue
        new = decode(entry)
        first = was.frame * 2 + 1 if isinstance(was, Leaf) else 0
        old = tuple(range(first, first + 2 * len(new), 2)) if isinstance(was, Leaf) else decode(was)
        for at in range(0, len(new), VPNS_2M):
            pfn = section * SECTION_PFNS + at * 64
            if new[at : at + VPNS_2M] != old[at : at + VPNS_2M] and not covered(pfn, before.folios, after.folios):
                out.append(pfn)
    return out


def covered(pfn: int, *folios: dict[int, HugeFolio]) -> bool:
    """Whether a huge page of any of the snapshots covers `pfn`."""
    gigantic = pfn & -GIGANTIC
    return any(pfn in seen or (gigantic in seen and seen[gigantic].order == 18) for seen in folios)
