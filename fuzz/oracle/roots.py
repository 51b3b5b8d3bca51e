"""The arrays of struct mem_section (mem_section[], mm/sparse.c): they decide which allocation of an operation is which.

Both sides make an array when the first section in it is added, and never free one. How many sections are in an array
follows from the size of struct mem_section, which differs.
"""

from __future__ import annotations

from fuzz.oracle.finding import Broken, Difference
from mm.kernel import Kernel
from mm.runs import RunSet


def _covered(per: int, arrays: list[int]) -> RunSet:
    """The sections that have an array, from the numbers of the arrays: those of a large machine are many, and few
    runs."""
    out = RunSet()
    first = end = 0
    for root in arrays:
        if root != end:
            out.add(first * per, end * per)
            first = root
        end = root + 1
    out.add(first * per, end * per)
    return out


def missing(k: Kernel) -> Broken | None:
    """Every section that says something is in an array (sparse_index_init, mm/sparse.c, comes before
    section_activate)."""
    have = _covered(*k.paths.section_root_arrays())
    for lo, hi, word in k.sections.flags.items():
        if not have.covers(lo, hi):
            return Broken("structpages", "section root", "missing", f"sections {lo:#x}..{hi:#x}: {word:#x} in no array")
    return None


def sizes(ref: Kernel, cand: Kernel) -> Difference | None:
    """SECTIONS_PER_ROOT (include/linux/mmzone.h): as many struct mem_section as a page holds. It is two words without
    page_ext, and in the framework has an order where a kernel can have one of the optimizations (unified-framework.md
    3.1); a powerpc kernel has both MMUs."""
    arch = ref.arch
    ordered = arch.hvo or arch.dax_dedup or arch.name.startswith("ppc64")
    for name, k, words in (("reference", ref, 2), ("candidate", cand, 3 if ordered else 2)):
        per, wanted = k.paths.section_root_arrays()[0], arch.page // (8 * words)
        if per != wanted:
            text = f"{name} has {per} sections in an array, {wanted} expected"
            return Difference("structpages", "section root", "size", text)
    return None


def differ(ref: Kernel, cand: Kernel) -> Difference | None:
    """An array of one side that no array of the other meets: no section can have asked for both. Or arrays of another
    size than they have."""
    unlike = sizes(ref, cand)
    if unlike is not None:
        return unlike
    for name, k, other in (("reference", ref, cand), ("candidate", cand, ref)):
        per, arrays = k.paths.section_root_arrays()
        only = _covered(per, arrays)
        for lo, hi in _covered(*other.paths.section_root_arrays()).items():
            only.remove(lo, hi)
        for lo, hi in only.items():
            root = -(-lo // per)
            if (root + 1) * per <= hi:
                text = f"{name} alone has an array for sections {root * per:#x}..{(root + 1) * per:#x}"
                return Difference("structpages", "section root", "missing", text)
    return None
