"""Freeing what the vmemmap maps: what all architectures can build on (arch/*/mm, Linux 7.3; the series leaves them
alone).
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.page_alloc import OWNER_PGTABLE
from mm.pgtable import Leaf, Mapping, Shared, Strided, private_frames, shared_uses


def free_pages(k: Kernel, pfn: int, n: int) -> None:
    """Give memmap or page-table frames back, whoever allocated them (free_reserved_page or __free_page)."""
    owners = k.pages.owners
    while n:
        run = owners.run(pfn)
        m = n if run is None else min(n, run[1] - pfn)
        k.pages.free(pfn, m)  # raises for a frame that nobody owns
        pfn += m
        n -= m


def put_tail(k: Kernel, frame: int, n: int) -> None:
    """The unmapping of `n` slots that map shared tail page `frame`; each slot of device DAX holds a reference.

    Slots of HugeTLB hold none: to unmap them would free T under all its users (3.3), or raise for a negative count.
    UNCONFIRMED: who takes the references once DAX uses the common path (series D); here they are taken as in series C.
    """
    if k.pages.put_refs(frame, n):
        k.pages.free(frame, 1)


def free_mapped(k: Kernel, m: Mapping, lo: int, hi: int) -> None:
    """Free what [lo, hi) mapped before it was cleared: private frames, and the references on shared ones."""
    for pfn, n in private_frames(m, lo, hi):
        free_pages(k, pfn, n)
    if isinstance(m, Shared | Strided):
        use = shared_uses(m, lo, hi)
        if use:
            put_tail(k, *use)


def unmap(k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
    """Clear [lo, hi), whose struct pages are gone then. All that was mapped is credited to the altmap if there is one,
    whoever it came from, and else freed: architectures that look only at whether they were given an altmap.
    """
    for s, e, m in k.tables.clear(lo, hi):
        if altmap:
            altmap.release(e - s)
        else:
            free_mapped(k, m, s, e)
    forget(k, lo, hi)


def whole_leaves(k: Kernel, lo: int, hi: int) -> tuple[int, int]:
    """[lo, hi) with the whole of those PMD leaves that it cuts: architectures that do not look clear them at once."""
    ptrs = k.arch.ptrs_per_pte
    if lo % ptrs and isinstance(k.tables.get(lo), Leaf):
        lo -= lo % ptrs
    if hi % ptrs and isinstance(k.tables.get(hi - 1), Leaf):
        hi += -hi % ptrs
    return lo, hi


def forget(k: Kernel, lo: int, hi: int) -> None:
    """The struct pages in vmemmap pages [lo, hi), which are cleared, are gone."""
    spp = k.arch.spp
    k.memmap.forget(lo * spp, (hi - lo) * spp)


def free_empty_tables(k: Kernel, lo: int, hi: int, levels: tuple[int, ...] = (0, 1, 2)) -> tuple[int, int]:
    """Free the tables of `levels` over [lo, hi), which is cleared, that are empty: how many, and how many of them were
    not from memblock.
    """
    freed = fresh = 0
    for pfn, n in k.tables.pop_empty_tables(lo, hi, levels):
        freed += n
        fresh += sum([e - s for s, e, owner in k.pages.owners.runs(pfn, pfn + n) if owner == OWNER_PGTABLE])
        free_pages(k, pfn, n)
    return freed, fresh
