"""The arrays of struct mem_section (mem_section[], mm/sparse.c): they decide which allocation of an operation is which.

Both sides make an array when the first section in it is added, and never free one. How many sections are in an array
is their own matter, since struct mem_section has another size.
"""

from __future__ import annotations

from fuzz.oracle.finding import Broken, Difference
from mm.kernel import Kernel
from mm.runs import RunSet


def _covered(k: Kernel) -> RunSet:
    """The sections that have an array."""
    per, roots = k.paths.section_root_arrays()
    out = RunSet()
    for root in roots:
        out.add(root * per, (root + 1) * per)
    return out


def missing(k: Kernel) -> Broken | None:
    """Every section that says something is in an array (sparse_index_init, mm/sparse.c, comes before
    section_activate)."""
    have = _covered(k)
    for lo, hi, word in k.sections.flags.items():
        if not have.covers(lo, hi):
            return Broken("structpages", "section root", "missing", f"sections {lo:#x}..{hi:#x}: {word:#x} in no array")
    return None


def differ(ref: Kernel, cand: Kernel) -> Difference | None:
    """An array of one side that no array of the other meets: no section can have asked for both."""
    for name, k, other in (("reference", ref, cand), ("candidate", cand, ref)):
        theirs = _covered(other)
        per, roots = k.paths.section_root_arrays()
        for root in roots:
            if not theirs.overlaps(root * per, (root + 1) * per):
                text = f"{name} alone has an array for sections {root * per:#x}..{(root + 1) * per:#x}"
                return Difference("structpages", "section root", "missing", text)
    return None
