"""The invariants of the modelled TLB (mm/tlb.py): no frame is freed while a stale translation of it exists, and no
valid entry becomes another valid one where the architecture forbids it."""

from __future__ import annotations

from fuzz.oracle.finding import Difference
from mm.kernel import Kernel

CLAUSE = "hot-remove-frees-before-flush"
"""docs/findings/0007."""


def violated(k: Kernel, side: str, used: set[str]) -> Difference | None:
    """What went wrong in the operation in progress."""
    for text in k.tlb.violations:
        stale = text.startswith("frame ")
        if stale and k.arch.vmemmap_flush_late and k.sections.touched:
            used.add(CLAUSE)  # memory came or went, or failed to come
            continue
        field = "stale translation" if stale else "break before make"
        return Difference("frames", f"{side}: {field}", "stale" if stale else "conflict", f"{side}: {text}")
    return None
