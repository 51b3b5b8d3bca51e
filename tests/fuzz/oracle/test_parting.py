"""Rules of the clauses after which two sides cannot be compared any more."""

from pathlib import Path

from fuzz.execute import Lockstep
from fuzz.oracle.parting import Lack, Room, came_further, had_less
from fuzz.program.text import parse
from mm.errno import EBUSY, ENOMEM
from mm.page_alloc import OWNER_PAGES_MOVABLE

REGRESSIONS = Path(__file__).parents[3] / "corpus" / "regressions"


def test_a_block_that_only_one_side_came_to() -> None:
    program = parse((REGRESSIONS / "clause-unplug-got-further.vmm").read_text(encoding="utf-8"))
    pair = Lockstep(program.machine)
    for op in program.ops:
        rcs = pair.step(op).rcs
    ref, cand = pair.reference.kernel, pair.candidate.kernel
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
