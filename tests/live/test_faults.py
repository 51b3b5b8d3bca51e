"""From the model's allocation points to the kernel's, and back."""

from fuzz.program.model import make_op
from fuzz.side import Side
from live.faults import Target, number, points, ranges, target
from live.placement import told
from mm.machine import Machine
from reference.paths import SeparatePaths

M, G = 1 << 20, 1 << 30
MEMMAP, HUGETLB = "vmemmap_alloc_block", "hugetlb_vmemmap_optimize_folio"
ROW = [("HP", 2), ("SPLIT", 1), ("HEAD", 3), ("USG", 1), ("VMF", 4)]


def test_ranges_are_the_neighbours_that_are_named_after_the_vmemmap() -> None:
    symbols = """\
ffffffff81000000 T start
ffffffff81001000 t vmemmap_pte_entry
ffffffff81001100 t alloc_helper
ffffffff81001200 T hugetlb_vmemmap_optimize_folio
ffffffff81001300 T hugetlb_vmemmap_optimize_folios
ffffffff81001400 t one
ffffffff81001500 t two
ffffffff81001600 t three
ffffffff81001700 t four
ffffffff81001800 T vmemmap_alloc_block
ffffffff81001900 T vmemmap_populate_hugepages
ffffffff81001a00 T other
ffffffff81001b00 D vmemmap_base
"""
    assert ranges(symbols) == {
        HUGETLB: (0xFFFFFFFF81001000, 0xFFFFFFFF81001400),
        MEMMAP: (0xFFFFFFFF81001800, 0xFFFFFFFF81001A00),
    }


def test_target() -> None:
    assert target(ROW, 1) == "HP"
    assert target(ROW, 3) == Target(HUGETLB, 1)
    assert target(ROW, 6) == Target(HUGETLB, 4)
    assert target(ROW, 7) == "USG"
    assert target(ROW, 8) == Target(MEMMAP, 1)
    assert target(ROW, 11) == Target(MEMMAP, 4)
    assert target(ROW, 12) is None


def test_points_of_a_device_without_touching_the_model() -> None:
    """A 1G device: each of 8 sections takes a usage slot and a PTE table, the first one a frame for the head and one
    for the first tail as well (separate-paths.md, population of compound pages); the model itself stays as it is.
    """
    side = Side(Machine(ram=G), told(SeparatePaths))
    side.run(make_op("boot"))
    before = side.kernel.vmstat.nr_memmap
    op = make_op("dax create", "d0", at=(G,), size=(G,), align=G)
    section = ["USG", "PTBL", "VMF", "VMF"]
    for nth, kind in enumerate([*section, "USG", "PTBL", "USG", "PTBL"], 1):
        row = points(side, op, None, nth)
        assert sum(n for _, n in row) == nth
        assert [k for k, n in row if n][-1] == kind
    aim = Target(MEMMAP, 5)
    assert target(points(side, op, None, 8), 8) == aim
    assert number(side, op, {}, aim, 8) == 8
    assert number(side, op, {}, aim, 6) == 8
    assert number(side, op, {}, Target(HUGETLB, 1), 6) == 0
    assert side.kernel.vmstat.nr_memmap == before
    assert side.handles.keys() == {"ram0"}
    assert side.run(op) == 0
