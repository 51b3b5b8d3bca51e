"""Rules of the clauses after which two sides cannot be compared any more."""

from pathlib import Path

from fuzz.execute import Lockstep
from fuzz.oracle.arches import starved_boot
from fuzz.oracle.finding import NO_MEMMAP, Outcome
from fuzz.oracle.parting import Lack, Room, came_further, had_less, none_left
from fuzz.program.model import Op
from fuzz.program.text import parse
from mm.errno import EBUSY, ENOMEM
from mm.kernel import Kernel
from mm.page_alloc import OWNER_PAGES_MOVABLE

REGRESSIONS = Path(__file__).parents[3] / "corpus" / "regressions"


def played(name: str) -> tuple[Kernel, Kernel, tuple[Outcome, Outcome], Op]:
    """Both kernels after a regression, what its last operation returned, and that operation."""
    program = parse((REGRESSIONS / f"{name}.vmm").read_text(encoding="utf-8"))
    pair = Lockstep(program.machine)
    for op in program.ops:
        rcs = pair.step(op).rcs
    return pair.reference.kernel, pair.candidate.kernel, rcs, op


def test_a_block_that_only_one_side_came_to() -> None:
    ref, cand, rcs, _ = played("clause-unplug-got-further")
    assert rcs == (-ENOMEM, -EBUSY)
    assert came_further(ref, cand, (-ENOMEM, -EBUSY)) == (-EBUSY,)
    assert came_further(ref, cand, (-EBUSY, -ENOMEM)) == ()  # the reference came no further
    assert came_further(ref, cand, (-EBUSY, -EBUSY)) == ()
    (_, last) = cand.memory_blocks.tried
    cand.pages.owners.set(*last, OWNER_PAGES_MOVABLE)  # all that is in the way could move
    assert came_further(ref, cand, (-ENOMEM, -EBUSY)) == ()


def test_less_in_one_zone_is_less() -> None:
    """Two pageblocks in the higher zone, or one in each: single pages break one of the higher zone."""
    high, both = Room([511, 1024], [0, 2]), Room([1022, 512], [1, 1])
    assert had_less(Lack((0, 0), (1, 0)), (high, both))
    assert had_less(Lack((0, 0), (0, 1)), (high, both))  # it has less of the higher one
    more = Room([1022, 1024], [1, 2])
    assert had_less(Lack((0, 0), (1, 0)), (high, more))
    assert not had_less(Lack((0, 0), (0, 1)), (high, more))
    assert not had_less(Lack((0, 0), (0, 0)), (high, more))
    assert not had_less(Lack((0, 0), (1, 1)), (more, more))


def test_a_gigantic_page_needs_memory_in_one_piece() -> None:
    ref, cand, rcs, op = played("clause-gigantic-page-in-one-piece")
    kernels = ref, cand
    assert rcs == (-ENOMEM, 0)
    assert none_left("hugetlb map", (-ENOMEM, 0), kernels, op.args)
    assert not none_left("hugetlb resize", (-ENOMEM, 0), kernels, op.args)
    assert not none_left("hugetlb map", (-ENOMEM, -ENOMEM), kernels, op.args)
    assert not none_left("hugetlb map", (-ENOMEM, 0), kernels, {**op.args, "size": 2 << 20})  # for others
    pages = ref.pages
    zone = pages.zone_of.get(0xC0000)
    assert zone is not None
    zone.blocks.add(0xC0000 >> pages.block_order, 0x100000 >> pages.block_order)
    assert not none_left("hugetlb map", (-ENOMEM, 0), kernels, op.args)  # with a piece it had no reason


def test_a_boot_that_only_the_framework_survives() -> None:
    ref, cand, rcs, _ = played("clause-boot-without-room-for-memmap")
    assert starved_boot(ref, cand, rcs, past=False)
    unmapped = "bug: page fault: struct page of pfn 0x1000 is written but not mapped"
    assert not starved_boot(ref, cand, (unmapped, 0), past=False)  # 7.3 panics in time
    assert starved_boot(ref, cand, (unmapped, 0), past=True)
    assert not starved_boot(ref, cand, (f"{NO_MEMMAP}a section", -ENOMEM), past=False)
    zone = max((zone for node in cand.nodes for zone in node.zones), key=lambda zone: zone.end_pfn)
    zone.frags.add(zone.end_pfn, zone.end_pfn + 132 * 4095)
    assert not starved_boot(ref, cand, rcs, past=False)  # there was memory for it
