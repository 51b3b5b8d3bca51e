"""The model's state in the form in which a guest is seen, so that both can be asked the same."""

from __future__ import annotations

import array

from live.folios import HugeFolio
from live.pagetable import PTRS, Entry, Leaf
from live.placement import ToldAllocator
from live.snapshot import Pool, Snapshot
from mm.kernel import Kernel
from mm.memory import MemoryBlocks
from mm.mmzone import ZONE_NAMES
from mm.pgtable import Leaf as ModelLeaf
from mm.pgtable import Mapping, Pte, Shared, frame_at, writable


def model_snapshot(k: Kernel) -> Snapshot:
    """What a guest in the model's state would show."""
    assert isinstance(k.pages, ToldAllocator)
    v = k.vmstat
    out = Snapshot(v.nr_memmap, v.nr_memmap_boot, v.nr_page_table_pages, k.pages.all_managed(), poisoned(k))
    out.free = [k.pages.node_free(node.nid) for node in k.nodes]
    for order, h in k.hstates.items():
        out.pools[order] = Pool(list(h.nr), [len(f) for f in h.free], list(h.surplus), h.resv, h.nr_overcommit)
        after: dict[int, int | None] = {}
        for free in h.free:
            row = list(reversed(free))
            after.update(zip(row, [*row[1:], None], strict=False))
        for pfn, f in h.folios.items():
            out.folios[pfn] = HugeFolio(
                pfn, order, f.vmemmap_optimized, pfn in after, f.refcount, after.get(pfn), f.cma
            )
    out.blocks = model_blocks(k)
    for lo, hi, _ in k.tables.entries.items():
        for section in range(lo // PTRS, -(-hi // PTRS)):
            if section not in out.mapping:
                out.mapping[section] = model_entry(k, section)
    return out


def poisoned(k: Kernel) -> int:
    """Pages that are out of use."""
    return k.memory_blocks.num_poisoned_pages


def model_blocks(k: Kernel) -> dict[int, str]:
    """The model's memory blocks."""
    out = {}
    for lo, hi, (_, zone) in k.memory_blocks.zone.items():
        name = "offline" if zone == MemoryBlocks.OFFLINE[1] else ZONE_NAMES[zone]
        out.update(dict.fromkeys(range(lo, hi), name))
    return out


def model_entry(k: Kernel, section: int) -> Entry:
    """How the model maps a section that has a memmap."""
    runs = k.tables.entries.runs(section * PTRS, (section + 1) * PTRS)
    if isinstance(runs[0][2], ModelLeaf):
        return Leaf(frame_at(runs[0][2], section * PTRS), True)
    ptes = model_ptes(section, runs)
    return array.array("Q", [0 if p < 0 else (p >> 1) << 12 | (p & 1) << 1 | 1 for p in ptes]).tobytes()


def model_ptes(section: int, runs: list[tuple[int, int, Mapping]]) -> list[int]:
    """The model's entries of a section, as `live.pagetable.decode` gives the kernel's."""
    out = [-1] * PTRS
    base = section * PTRS
    for lo, hi, m in runs:
        if isinstance(m, ModelLeaf):
            out[lo - base : hi - base] = range((lo + m.delta) * 2 + 1, (hi + m.delta) * 2 + 1, 2)
        elif isinstance(m, Pte):
            out[lo - base : hi - base] = range((lo + m.delta) * 2 + m.rw, (hi + m.delta) * 2 + m.rw, 2)
        elif isinstance(m, Shared):
            out[lo - base : hi - base] = [m.frame * 2 + m.rw] * (hi - lo)
        else:
            out[lo - base : hi - base] = [frame_at(m, vpn) * 2 + writable(m, vpn) for vpn in range(lo, hi)]
    return out
