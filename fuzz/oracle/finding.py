"""A finding: the first place where the two sides differ and no ledger clause says they should."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Outcome = int | str
"""What an operation returned: a count or negative errno, or "bug: ..." or "crash: ..." when the model died."""

Layer = Literal["returns", "mapping", "structpages", "accounting", "frames"]

DIED: Final = "died"
"""The drift of a finding that a side died of."""

_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")


NO_MEMMAP: Final = "bug: panic: Failed to allocate memmap for "
"""The death of a kernel whose boot memory does not suffice for its memmap. It goes on to say what for: a section
(mm/sparse.c:sparse_init_nid), or in 7.3 a HugeTLB page (mm/hugetlb_vmemmap.c:hugetlb_vmemmap_init_early), whose memmap
the framework populates with its section (unified-framework.md 1.4, patch 10)."""
UNMAPPED: Final = re.compile(r"bug: page fault: struct page of pfn (0x[0-9a-f]+) is written but not mapped")
"""The death of a kernel that writes a struct page without a mapping."""


def outcome_class(rc: Outcome) -> str:
    """What of an outcome belongs to a signature: errnos by number, counts as "ok", deaths without their numbers."""
    if isinstance(rc, str):
        return _NUMBERS.sub("#", rc)
    return str(rc) if rc < 0 else "ok"


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two observations differ, before it is known in which operation."""

    layer: Layer
    field: str
    drift: str
    """Direction: "+" or "-" for numbers (candidate against expectation), else a word."""
    detail: str
    """One sentence for people."""
    page_class: str = ""
    """"2M" or "1G" when the place belongs to a page of that size."""


class Broken(NamedTuple):
    """How one side alone breaks a law, before it is known which side and in which operation."""

    layer: Layer
    field: str
    drift: str
    detail: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference and the operation after which it was seen."""

    layer: Layer
    field: str
    operation: str
    outcomes: tuple[str, str]
    """`outcome_class` of the reference's and the candidate's outcome."""
    page_class: str
    drift: str
    detail: str

    @property
    def signature(self) -> str:
        """Names the bug, not the program: equal for every program that shows the same bug the same way."""
        pair = "/".join(self.outcomes)
        return "|".join((self.layer, self.field, self.operation, pair, self.page_class, self.drift))
