"""Rules that any state of a kernel with separate paths obeys, whoever made it: what a disagreement is judged by.

A law looks at one side only, at a snapshot of a guest or of the model, and at the snapshot after the boot. Each is a
statement of the kernel's source that needs no model of the operation that went before. Where the two sides differ and
one of them breaks a law, it is the other one that the specification supports.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final, NamedTuple

from live.folios import HugeFolio
from live.pagetable import PTRS, SECTION_PFNS, Leaf, decode
from live.snapshot import Snapshot

SPP: Final = 64
"""Struct pages of a vmemmap page."""
SIZES: Final = {9: "2M", 18: "1G"}


class Law(NamedTuple):
    """One rule."""

    title: str
    source: str
    """Where the kernel says so."""
    broken: Callable[[Snapshot, Snapshot], str | None]
    """(after boot, now) -> how the rule is broken, or None."""


def broken(first: Snapshot, now: Snapshot) -> list[tuple[Law, str]]:
    """The laws that a state breaks, and how."""
    out = []
    for law in LAWS:
        how = law.broken(first, now)
        if how is not None:
            out.append((law, how))
    return out


# -- memory of the memory map ---------------------------------------------------------------------------------------


def frames(seen: Snapshot) -> int:
    """Frames that hold the memory map and belong to one place: those behind leaves, and those mapped writable."""
    leaves = 0
    private: set[int] = set()
    for entry in seen.mapping.values():
        if isinstance(entry, Leaf):
            leaves += 1
        else:
            private.update(pte >> 1 for pte in decode(entry) if pte >= 0 and pte & 1)
    return leaves * PTRS + len(private)


def memmap_count(first: Snapshot, now: Snapshot) -> str | None:
    """nr_memmap_pages and nr_memmap_boot_pages together count those frames."""
    counted = now.nr_memmap + now.nr_memmap_boot - first.nr_memmap - first.nr_memmap_boot
    there = frames(now) - frames(first)
    if counted == there:
        return None
    return f"nr_memmap and nr_memmap_boot changed by {counted:+} since boot, the frames of the memory map by {there:+}"


def memtotal(first: Snapshot, now: Snapshot) -> str | None:
    """MemTotal grows by what is plugged and online, less the memory map it holds itself, and by the boot memory map
    given back.
    """
    plugged = 0
    for block, state in now.blocks.items():
        if block in first.blocks or state == "offline":
            continue
        entry = now.mapping.get(block)
        own = isinstance(entry, Leaf) and entry.frame // SECTION_PFNS == block
        plugged += SECTION_PFNS - (PTRS if own else 0)
    managed = now.managed - first.managed
    boot = now.nr_memmap_boot - first.nr_memmap_boot
    if managed == plugged - boot:
        return None
    return (
        f"MemTotal changed by {managed:+} pages since boot; {plugged} are online in blocks added since, and"
        f" {-boot} came from the boot memory map"
    )


# -- huge pages -----------------------------------------------------------------------------------------------------


def pools(first: Snapshot, now: Snapshot) -> str | None:
    """nr_hugepages and free_hugepages count the huge pages there are."""
    for order, pool in now.pools.items():
        mine = [f for f in now.folios.values() if f.order == order]
        rows = (
            ("nr_hugepages", sum(pool.nr), len(mine)),
            ("free_hugepages", sum(pool.free), sum(f.free for f in mine)),
        )
        for name, counted, there in rows:
            if counted != there:
                return f"{SIZES[order]} {name} is {counted}, and there are {there}"
        if pool.resv > sum(pool.free):
            return f"{SIZES[order]} resv_hugepages is {pool.resv}, and only {sum(pool.free)} are free"
        if any(s > n for s, n in zip(pool.surplus, pool.nr, strict=True)):
            return f"{SIZES[order]} surplus_hugepages {pool.surplus} exceeds nr_hugepages {pool.nr}"
    return None


def refcounts(first: Snapshot, now: Snapshot) -> str | None:
    """A free huge page has no reference, one in use has."""
    for f in now.folios.values():
        if f.free and f.refcount:
            return f"the {SIZES[f.order]} page at {f.pfn << 12:#x} is free with a reference count of {f.refcount}"
        if not f.free and not f.refcount:
            return f"the {SIZES[f.order]} page at {f.pfn << 12:#x} is in use with a reference count of 0"
    return None


def folio_maps(first: Snapshot, now: Snapshot) -> str | None:
    """An optimized page keeps its first vmemmap page, writable; the others share one frame, read-only. The memory map
    of another huge page is its own and writable.
    """
    tables: dict[int, tuple[int, ...]] = {}
    tails: defaultdict[int, set[int]] = defaultdict(set)
    for f in now.folios.values():
        ptes = _ptes(f, now, tables)
        where = f"the {SIZES[f.order]} page at {f.pfn << 12:#x}"
        if any(pte < 0 for pte in ptes):
            return f"{where} has no memory map"
        if not f.optimized:
            if not all(pte & 1 for pte in ptes):
                return f"{where} is not optimized, and its memory map is read-only in part"
            continue
        if not ptes[0] & 1:
            return f"{where} is optimized, and its first vmemmap page is read-only"
        if any(pte & 1 for pte in ptes[1:]) or len(set(ptes[1:])) != 1:
            return f"{where} is optimized, and its other vmemmap pages do not share one frame read-only"
        tails[ptes[1] >> 1].add(f.order)
    for frame, orders in tails.items():
        if len(orders) > 1:
            return f"huge pages of several sizes share tail frame {frame:#x}"
    return None


def _ptes(f: HugeFolio, now: Snapshot, tables: dict[int, tuple[int, ...]]) -> list[int]:
    """The entries of a huge page's memory map; of a leaf, as if it were a table."""
    out: list[int] = []
    vpn, end = f.pfn // SPP, (f.pfn + (1 << f.order)) // SPP
    while vpn < end:
        section, at = divmod(vpn, PTRS)
        n = min(PTRS - at, end - vpn)
        entry = now.mapping.get(section)
        if entry is None:
            out += [-1] * n
        elif isinstance(entry, Leaf):
            out += range((entry.frame + at) * 2 + 1, (entry.frame + at + n) * 2 + 1, 2)
        else:
            if section not in tables:
                tables[section] = decode(entry)
            out += tables[section][at : at + n]
        vpn += n
    return out


def writers(first: Snapshot, now: Snapshot) -> str | None:
    """A frame that is mapped read-only anywhere is shared, and nobody can write to it through the vmemmap."""
    count: Counter[int] = Counter()
    for entry in now.mapping.values():
        if isinstance(entry, bytes):
            count.update({pte for pte in decode(entry) if pte >= 0})
    for pte in count:
        if pte & 1 and pte - 1 in count:
            return f"frame {pte >> 1:#x} is mapped both read-only and writable"
    return None


LAWS: Final = (
    Law("nr_memmap_pages and nr_memmap_boot_pages count the frames of the memory map", "mm/vmstat.c", memmap_count),
    Law("MemTotal follows online memory and the boot memory map", "mm/memory_hotplug.c, mm/page_alloc.c", memtotal),
    Law("the counters of a pool count its huge pages", "mm/hugetlb.c", pools),
    Law("a free huge page has a reference count of 0", "mm/hugetlb.c, enqueue_hugetlb_folio", refcounts),
    Law("an optimized page keeps one vmemmap page and shares the others", "mm/hugetlb_vmemmap.c", folio_maps),
    Law("a shared vmemmap page is read-only everywhere", "mm/hugetlb_vmemmap.c", writers),
)
