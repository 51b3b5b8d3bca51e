"""What an operation changes and does not list is seen, on one side and on both."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import fuzz.side
from fuzz.execute import Lockstep
from fuzz.oracle import listed
from fuzz.program.text import parse
from fuzz.side import Args, Side
from mm.kernel import Kernel
from mm.page import Plain
from mm.pgtable import Pte
from mm.runs import RunMap

PROGRAM = """vmm 1
machine arch=x86_64 page=4K ram=4G nodes=1
boot
hugetlb resize size=2M to=8
m0 = memory add at=0x200000000 size=256M
hugetlb overcommit size=2M to=4
"""


def _part(k: Kernel) -> None:
    k.pages.owners.set(0x8000, 0x8002, "pages")
    k.pages.touched.append((0x8000, 0x8001))


QUIET: dict[str, tuple[Callable[[Kernel], object], str]] = {
    "owner": (lambda k: k.pages.owners.set(0x8000, 0x8001, "pages"), "frames"),
    "owner of a part": (_part, "frames"),
    "owner gone": (lambda k: k.pages.owners.clear(*k.pages.owners.items()[1][:2]), "frames"),
    "entry": (lambda k: RunMap.set(k.tables.entries, 0x8000, 0x8001, Pte(5, True)), "mapping"),
    "content": (lambda k: k.memmap.own.set(0x80000, 0x80001, Plain(0, 3)), "structpages"),
    "section": (lambda k: k.sections.flags.set(999, 1000, 1), "structpages"),
    "memory block": (lambda k: k.memory_blocks.zone.set(999, 1000, (0, 1)), "structpages"),
    "pool": (lambda k: k.hstates[18].nr.__setitem__(0, 1), "accounting"),
}
"""Changes behind the back of the lists, and the layer that they are in."""


@pytest.mark.parametrize("name", QUIET)
@pytest.mark.parametrize("both", [False, True])
def test_a_change_that_no_list_names(monkeypatch: pytest.MonkeyPatch, name: str, both: bool) -> None:
    change, layer = QUIET[name]
    program = parse(PROGRAM)
    pair = Lockstep(program.machine)
    monkeypatch.setattr(listed, "EVERY", 1)
    for op in program.ops[:-1]:
        assert pair.step(op).finding is None
    entry = fuzz.side.ENTRIES["hugetlb overcommit"]

    def quietly(side: Side, args: Args, result: str | None) -> int:
        rc = entry(side, args, result)
        if both or side is pair.candidate:
            change(side.kernel)
        return rc

    monkeypatch.setitem(fuzz.side.ENTRIES, "hugetlb overcommit", quietly)
    books = listed.look(pair.candidate.kernel)
    change(pair.candidate.kernel)
    found = listed.missing(pair.candidate.kernel, "candidate", books)
    assert found is not None
    assert (found.layer, found.field) == (layer, "candidate: not listed")
    pair = Lockstep(program.machine)
    for op in program.ops[:-1]:
        pair.step(op)
    finding = pair.step(program.ops[-1]).finding
    assert finding is not None
    if both:
        assert (finding.layer, finding.field) == (layer, "reference: not listed")


def test_what_is_listed_is_in_order() -> None:
    program = parse(PROGRAM)
    pair = Lockstep(program.machine)
    for op in program.ops:
        k = pair.reference.kernel
        books = listed.look(k)
        pair.reference.run(op)
        assert listed.missing(k, "reference", books) is None
        k.pages.touched.clear()
        k.memmap.touched.clear()
        missing = listed.missing(k, "reference", books)
        assert (missing is None) is (op.name == "hugetlb overcommit"), op
