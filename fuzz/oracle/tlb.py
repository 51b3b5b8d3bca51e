"""The invariants of the modelled TLB (mm/tlb.py): no frame is freed while a stale translation of it exists, no valid
entry becomes another valid one where the architecture forbids it, and no operation ends with a stale translation of
what is mapped."""

from __future__ import annotations

from typing import Final

from fuzz.oracle.finding import Difference
from mm.hugetlb import folio_at
from mm.kernel import Kernel
from mm.pgtable import frame_at
from mm.tlb import RecordingTlb

CLAUSE: Final = "hot-remove-frees-before-flush"
"""docs/findings/0007."""


LASTING: Final = frozenset({"memory online", "memory offline", "dax online", "dax offline"})
"""Operations that change sections and leave the memory map where it is."""


def violated(k: Kernel, side: str, operation: str, used: set[str]) -> Difference | None:
    """What went wrong in the operation in progress."""
    for text in k.tlb.violations:
        stale = text.startswith("frame ")
        if stale and k.arch.vmemmap_flush_late and k.sections.touched and operation not in LASTING:
            used.add(CLAUSE)  # memory came or went, or failed to come
            continue
        field = "stale translation" if stale else "break before make"
        return Difference("frames", f"{side}: {field}", "stale" if stale else "conflict", f"{side}: {text}")
    return None


def left(k: Kernel, side: str) -> Difference | None:
    """Whether a CPU may still see the old frame of a vmemmap page that has another one by the end of an operation: it
    would read and write struct pages that are no longer there (Documentation/core-api/cachetlb.rst: a flush follows
    each change; vmemmap_remap_alloc and vmemmap_remap_free in mm/hugetlb_vmemmap.c, both before they return).

    But for a folio that is private in part (profile merged): where restoring many fails at the first of them, nobody
    flushes what was restored of it (docs/findings/0011).
    """
    if not isinstance(k.tlb, RecordingTlb):
        return None
    for lo, hi, old in k.tlb.stale:
        for s, e, new in k.tables.entries.runs(lo, hi):
            for vpn in (s, min(s + 1, e - 1), e - 1):
                if frame_at(old, vpn) != frame_at(new, vpn) and not _partial(k, vpn):
                    text = (
                        f"{side}: vmemmap page {vpn:#x} has another frame now, and its old translation is not flushed"
                    )
                    return Difference("frames", f"{side}: stale translation", "left", text)
    return None


def _partial(k: Kernel, vpn: int) -> bool:
    """Whether `vpn` is of a huge page that may be private in part."""
    folio = folio_at(k, k.arch.pfn(vpn)) if k.paths.version == "merged" else None
    return folio is not None and folio.vmemmap_optimized


def either(ref: Kernel, cand: Kernel, operation: str, clauses: set[str]) -> Difference | None:
    """What one of the two kernels has violated."""
    return violated(ref, "reference", operation, clauses) or violated(cand, "candidate", operation, clauses)
