"""The modelled TLB: what may be stale, and what must not happen then. The rules are those of mm/tlb.py's docstring."""

import pytest

from mm.arch import ARCHES, S390X, X86_64
from mm.pgtable import Leaf, Mapping, Pte, Shared, strided
from mm.tlb import RecordedEntries, RecordingTlb, old_frames, same_frames


def entries(break_before_make: bool = False) -> tuple[RecordedEntries, RecordingTlb]:
    """Vmemmap pages 0 to 511 mapped by a leaf to frames 1000 to 1511."""
    tlb = RecordingTlb(break_before_make)
    made = RecordedEntries(tlb)
    made.set(0, 512, Leaf(1000))
    return made, tlb


def test_a_frame_is_free_only_after_a_flush_that_covers_its_old_place() -> None:
    made, tlb = entries()
    made.set(8, 16, Pte(5000 - 8, True))
    tlb.flush_tlb_kernel_range(0, 15)
    tlb.freed(1008, 1015)
    assert tlb.violations == []
    tlb.freed(1000, 1100)
    assert tlb.violations == ["frame 0x3f7 is freed while a translation of vmemmap pages 0xf..0x10 is stale"]
    tlb.flush_tlb_all()
    tlb.freed(1000, 1100)
    assert len(tlb.violations) == 1


def test_on_s390_only_the_flush_of_a_range_flushes_and_then_everything() -> None:
    """arch/s390/include/asm/tlbflush.h: flush_tlb_all is empty, flush_tlb_kernel_range is __tlb_flush_kernel."""
    tlb = RecordingTlb(False, S390X.flush_tlb_all_is_empty)
    tlb.changed(0, 8, Leaf(1000), None)
    tlb.flush_tlb_all()
    tlb.freed(1000, 1001)
    assert len(tlb.violations) == 1
    tlb.flush_tlb_kernel_range(100, 101)
    tlb.freed(1000, 1001)
    assert len(tlb.violations) == 1


def test_removed_entries_are_stale_too() -> None:
    made, tlb = entries()
    made.clear(100, 200)
    tlb.freed(1199, 1300)
    assert tlb.violations == ["frame 0x4af is freed while a translation of vmemmap pages 0x64..0xc8 is stale"]


@pytest.mark.parametrize(
    ("new", "same"),
    [
        (Pte(1000, True), True),  # a split
        (Pte(1000, False), True),
        (Pte(1001, True), False),
        (Shared(1000, False), False),
    ],
)
def test_a_split_or_another_protection_leaves_nothing_stale(new: Mapping, same: bool) -> None:
    made, tlb = entries(break_before_make=True)
    made.set(0, 512, new)
    assert (tlb.stale == []) == same
    assert (tlb.violations == []) == same
    assert same_frames(Leaf(1000), new) == same


def test_replace_is_seen_piece_by_piece() -> None:
    made, tlb = entries()
    made.replace([0, 8, 16], [Pte(1000, True), Shared(7, False)])
    assert tlb.stale == [(8, 16, Leaf(1000))]


def test_what_a_row_of_compound_pages_mapped() -> None:
    """Two compound pages of 8 vmemmap pages that keep 2: four frames of their own, and the shared one."""
    assert old_frames(8, 24, strided(8, 8, 2, 300, True, None, True)) == [(300, 304)]
    assert old_frames(8, 24, strided(8, 8, 1, 300, True, 99, False)) == [(300, 302), (99, 100)]


def test_who_wants_break_before_make() -> None:
    """arm64 and s390 do (bugs.md, ARM64-2023-53, S390-2025-24); where HVO is selected, nobody may."""
    wanting = {name for (name, _), arch in ARCHES.items() if arch.break_before_make}
    assert wanting == {"arm64", "s390x"}
    assert not any(arch.hvo and arch.break_before_make for arch in ARCHES.values())
    assert not X86_64.break_before_make
