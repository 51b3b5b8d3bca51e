"""CMA areas on both sides: what one side gets wrong about a boot page that came from an area is noticed at the boot, or
when the page is given back (mm/hugetlb.c, mm/hugetlb_cma.c, 7.3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzz.execute import Lockstep
from fuzz.oracle.finding import Finding
from fuzz.program import parse
from mm.folio import Folio
from mm.kernel import MIGRATE_MOVABLE, Kernel

PROGRAM = """vmm 1
machine arch=x86_64 page=4K ram=6G nodes=1
reserve cma size=2G only=on
reserve size=1G count=1
boot
hugetlb resize size=1G to=2
hugetlb resize size=1G to=0
hugetlb resize size=1G to=2
"""


def boot_folio(k: Kernel) -> Folio:
    [folio] = k.hstates[18].folios.values()
    return folio


def without_its_mark(k: Kernel) -> None:
    """folio_set_hugetlb_cma is missing: the page would go to the buddy allocator, and the area lose it."""
    boot_folio(k).cma = False


def of_the_ordinary_type(k: Kernel) -> None:
    """init_pageblock_migratetype instead of init_cma_pageblock."""
    folio = boot_folio(k)
    k.set_pageblocks(folio.pfn, folio.end_pfn, MIGRATE_MOVABLE)


def counted_twice(k: Kernel) -> None:
    """adjust_managed_page_count by the gather too."""
    boot_folio(k).zone.managed_pages += 1 << 18


def not_counted(k: Kernel) -> None:
    """init_cma_pageblock without zone->cma_pages."""
    boot_folio(k).zone.cma_pages -= 1 << 18


def run(damage: Callable[[Kernel], None] | None) -> Finding | None:
    program = parse(PROGRAM)
    pair = Lockstep(program.machine, full_every=1)
    late = pair.candidate.kernel.paths.page_alloc_init_late

    def page_alloc_init_late() -> None:
        late()
        if damage is not None:
            damage(pair.candidate.kernel)

    pair.candidate.kernel.paths.page_alloc_init_late = page_alloc_init_late  # type: ignore[method-assign]
    for op in program.ops:
        result = pair.step(op)
        if result.finding is not None:
            return result.finding
        assert result.terminal is None
    return pair.finish()


def test_both_sides_agree() -> None:
    assert run(None) is None


@pytest.mark.parametrize(
    ("damage", "layer", "field"),
    [
        (without_its_mark, "accounting", "cma"),
        (of_the_ordinary_type, "structpages", "pageblock"),
        (counted_twice, "accounting", "managed"),
        (not_counted, "accounting", "cma_pages"),
    ],
)
def test_a_boot_page_that_is(damage: Callable[[Kernel], None], layer: str, field: str) -> None:
    finding = run(damage)
    assert finding is not None
    assert (finding.operation, finding.layer) == ("boot", layer)
    assert field in finding.field
