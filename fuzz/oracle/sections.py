"""Comparison of sections of both kernels (struct mem_section, include/linux/mmzone.h)."""

from __future__ import annotations

from fuzz.oracle import rules
from fuzz.oracle.difference import maps_difference, runs_difference
from fuzz.oracle.finding import Difference
from mm.kernel import Kernel


def differ(ref: Kernel, cand: Kernel, used: rules.Clauses) -> Difference | None:
    """Compare subsections, and what struct mem_section says: flags, usage, node. Where the
    reference has the PREINIT mark, the candidate has none (clause `section-preinit`)."""
    a, b = ref.sections, cand.sections
    if a.subsections.starts != b.subsections.starts or a.subsections.ends != b.subsections.ends:
        mine = [(lo, hi, "present") for lo, hi in a.subsections.items()]
        theirs = [(lo, hi, "present") for lo, hi in b.subsections.items()]
        return runs_difference("structpages", "subsections", mine, theirs)
    x, y = a.flags, b.flags
    if x.starts != y.starts or x.ends != y.ends or x.vals != y.vals:
        expected = rules.section_words(x)
        if expected != y.items():
            return runs_difference("structpages", "section", expected, y.items())
        used.add("section-preinit")
    diff = maps_difference("structpages", "usage", a.usage, b.usage)
    return diff or maps_difference("structpages", "section node", a.nid, b.nid)
