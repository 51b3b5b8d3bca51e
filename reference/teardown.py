"""Taking vmemmap mappings away: what the architectures' vmemmap_free have in common (Linux 7.3; separate-paths.md 2.3,
3.17).

Ranges are half-open [lo, hi) in vmemmap pages. Frames are free before a flush covers them (I5 of separate-paths.md does
not hold there), on x86-64, powerpc and s390 even before their entries are cleared. arm64 alone flushes an entry before
its frame goes.
"""

from __future__ import annotations

from collections.abc import Callable

from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_EARLY
from mm.page_alloc import OWNER_MEMMAP_BOOT, OWNER_PGTABLE, KernelBug
from mm.pgtable import PMD_TABLE, PTE_TABLE, PUD_TABLE, Leaf, Mapping, Pte, private_frames, shared_uses

Release = Callable[[Kernel, int, int], None]
"""What becomes of frames [frame, frame + n): (k, frame, n)."""


def free_frames(k: Kernel, frame: int, n: int) -> None:
    """Frames go back to buddy, reserved ones as free_reserved_page does it."""
    for lo, hi, _ in k.pages.owners.runs(frame, frame + n):
        k.pages.free(lo, hi - lo)


def crediting(altmap: Altmap | None) -> Release:
    """Where a given altmap is credited with every frame, wherever it came from."""
    if altmap is None:
        return free_frames
    return lambda _k, _frame, n: altmap.release(n)


def crediting_window(altmap: Altmap | None) -> Release:
    """free_vmemmap_pages of powerpc: frames inside the altmap's window are credited to it, others are freed."""
    if altmap is None:
        return free_frames
    first, last = altmap.base_pfn, altmap.base_pfn + altmap.reserve + altmap.capacity

    def release(k: Kernel, frame: int, n: int) -> None:
        start, end = max(frame, first), min(frame + n, last)
        if start < end:
            altmap.release(end - start)
            if frame < start:
                free_frames(k, frame, start - frame)
            if end < frame + n:
                free_frames(k, end, frame + n - end)
        else:
            free_frames(k, frame, n)

    return release


def free_ptes(k: Kernel, lo: int, hi: int, m: Mapping, release: Release) -> None:
    """PTEs [lo, hi) of one form are gone: each drops a reference (__free_pages), and the last releases the frame."""
    uses = shared_uses(m, lo, hi)
    if uses is not None and _put_refs(k, *uses):
        k.memmap.frames.pop(uses[0], None)
        release(k, uses[0], 1)
    refs = k.pages.refs
    for frame, n in private_frames(m, lo, hi):
        end = frame + n
        if refs and isinstance(m, Pte):
            # A private page of an early section can have lent its frame to a device's compound page behind it.
            candidates = range(frame, end) if n < len(refs) else sorted(refs)
            for lent in [f for f in candidates if frame <= f < end and f in refs]:
                _put_refs(k, lent, 1)
                if frame < lent:
                    release(k, frame, lent - frame)
                frame = lent + 1
        if frame < end:
            release(k, frame, end - frame)


def _put_refs(k: Kernel, frame: int, n: int) -> bool:
    """`PageAllocator.put_refs` of a memmap frame.

    One from memblock has the reserved flag, and goes to free_reserved_pages (mm/page_alloc.c), which sets the count to
    0 and frees it, whoever else maps it; the next PTE's __free_pages then finds a free frame, or another owner's. Only
    a device that continues the memmap of an early section shares one.
    """
    if frame in k.pages.refs and k.pages.owners.get(frame) == OWNER_MEMMAP_BOOT:
        raise KernelBug(f"free_reserved_pages: memmap frame {frame:#x} is freed while other entries map it")
    return k.pages.put_refs(frame, n)


def unmap(
    k: Kernel, lo: int, hi: int, release_block: Release, release_page: Release, flush_first: bool = False
) -> None:
    """Take away what [lo, hi) maps; it cuts no PMD leaf."""
    if lo >= hi:
        return
    ptrs = k.arch.ptrs_per_pte
    gone = k.tables.clear(lo, hi)
    if flush_first:
        k.tlb.flush_tlb_kernel_range(lo, hi)
    for s, e, m in gone:
        if isinstance(m, Leaf):
            if s % ptrs or e % ptrs:
                raise AssertionError(f"vmemmap pages {s:#x}..{e:#x} are a part of a PMD leaf")
            release_block(k, s + m.delta, e - s)
        else:
            free_ptes(k, s, e, m, release_page)
    k.memmap.forget(lo * k.arch.spp, (hi - lo) * k.arch.spp)


def free_tables(
    k: Kernel,
    lo: int,
    hi: int,
    levels: tuple[int, ...] = (PTE_TABLE, PMD_TABLE, PUD_TABLE),
    destroyed: tuple[int, ...] = (),
    reserved_too: bool = False,
) -> None:
    """The tables of `levels` over [lo, hi) that became empty go back to buddy.

    Those of the levels `destroyed` run through pagetable_dtor, which lowers NR_PAGETABLE; tables from memblock only if
    `reserved_too`.
    """
    if lo >= hi:
        return
    for level in levels:
        for frame, n in k.tables.pop_empty_tables(lo, hi, (level,)):
            if level in destroyed:
                for s, e, owner in k.pages.owners.runs(frame, frame + n):
                    if reserved_too or owner == OWNER_PGTABLE:
                        k.vmstat.nr_page_table_pages -= e - s
            free_frames(k, frame, n)


def leaf_edges(k: Kernel, lo: int, hi: int, used: Callable[[int, int], bool]) -> tuple[int, int]:
    """[lo, hi) such that it cuts no PMD leaf: a leaf that it met in part is left out if `used(first, end)` says that
    it is needed, else it is in the range as a whole.
    """
    ptrs = k.arch.ptrs_per_pte
    if lo % ptrs and isinstance(k.tables.get(lo), Leaf):
        first = lo - lo % ptrs
        if used(first, first + ptrs):
            lo = min(hi, first + ptrs)
        else:
            lo, hi = first, max(hi, first + ptrs)
    if lo < hi and hi % ptrs and isinstance(k.tables.get(hi - 1), Leaf):
        first = hi - hi % ptrs
        hi = first if used(first, first + ptrs) else first + ptrs
    return lo, max(lo, hi)


def vmemmap_populated(k: Kernel, lo: int, hi: int) -> bool:
    """vmemmap_populated (arch/powerpc/mm/init_64.c): a subsection that [lo, hi) describes is valid (pfn_valid)."""
    arch, sections = k.arch, k.sections
    start, end = lo * arch.spp, hi * arch.spp
    per, sub = arch.pages_per_section, arch.pages_per_subsection
    for first, last, word in sections.flags.runs(start // per, -(-end // per)):
        if word & SECTION_HAS_MEM_MAP:
            s, e = max(start, first * per), min(end, last * per)
            if word & SECTION_IS_EARLY or sections.subsections.overlaps(s // sub, -(-e // sub)):
                return True
    return False
