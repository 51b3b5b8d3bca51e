"""Each invariant speaks up when one kernel alone is damaged, whatever the other one looks like."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzz.oracle.invariants import check, unmarked
from fuzz.program import make_op
from fuzz.side import Side
from mm.errno import ENOMEM
from mm.kernel import Kernel
from mm.machine import Machine
from mm.mmzone import ZONE_NORMAL
from mm.page_alloc import OWNER_MEMMAP, OWNER_PGTABLE
from mm.pgtable import PTE_TABLE, Leaf, Pte
from reference.paths import SeparatePaths

M, G = 1 << 20, 1 << 30


@pytest.fixture
def kernel() -> Kernel:
    side = Side(Machine(), SeparatePaths)
    for op in (
        make_op("boot"),
        make_op("hugetlb resize", size=2 * M, to=4),
        make_op("dax create", "d0", at=(6 * G,), size=(G,), align=G),
        make_op("dax create", "d1", at=(8 * G,), size=(256 * M,)),
    ):
        assert side.run(op) == 0
    return side.kernel


def test_a_sound_kernel_breaks_none(kernel: Kernel) -> None:
    assert check(kernel, "reference") is None


def test_a_page_on_powerpc_is_lent_far_ahead() -> None:
    """radix__vmemmap_populate maps base pages from the start of the PMD on, and runs out of memory before it reaches
    the range; vmemmap_compound_tail_page later shares the second of them with the last page of a compound page.
    """
    side = Side(Machine(arch="ppc64_radix", page=1 << 16, ram=1536 * M), SeparatePaths)
    for op, rc in (
        (make_op("boot"), 0),
        (make_op("pages alloc", "p0", count=24014), 0),
        (make_op("memory add", "m0", at=3 * G, size=256 * M), -ENOMEM),
        (make_op("dax create", "d0", at=(2 * G,), size=(2 * G,), align=G), -ENOMEM),
    ):
        assert side.run(op) == rc
    assert list(side.kernel.pages.refs.values()) == [2]
    assert check(side.kernel, "reference") is None


def content_of_a_frame_that_is_gone(k: Kernel) -> None:
    frame, content = next(iter(k.memmap.frames.items()))
    k.memmap.frames[frame ^ 1 << 30] = content


def lost_frame(k: Kernel) -> None:
    frame = k.pages.alloc_page(0, OWNER_MEMMAP)
    assert frame is not None
    k.pages.owners.clear(frame, frame + 1)


def free_and_owned(k: Kernel) -> None:
    frames = k.nodes[0].zones[ZONE_NORMAL].frags
    k.pages.owners.set(frames.starts[0], frames.starts[0] + 1, OWNER_MEMMAP)


def leaked_memmap(k: Kernel) -> None:
    k.pages.alloc_page(0, OWNER_MEMMAP)


def leaked_table(k: Kernel) -> None:
    k.pages.alloc_page(0, OWNER_PGTABLE)


def freed_under_a_mapping(k: Kernel) -> None:
    m = k.tables.get(8 * G >> 18)
    assert m is not None
    frame = m.kept_frame(8 * G >> 18)  # type: ignore[union-attr]
    k.pages.free(frame, 1)


def mapped_twice(k: Kernel) -> None:
    a, b = (6 * G >> 18), (8 * G >> 18)
    m = k.tables.get(a)
    assert isinstance(m, Pte)
    k.tables.set(b, b + 1, Pte(m.delta + a - b, True))


def lost_reference(k: Kernel) -> None:
    frame = next(iter(k.pages.refs))
    k.pages.refs[frame] -= 1


def forgotten_tail(k: Kernel) -> None:
    k.paths.zone_tails().clear()


def miscounted(k: Kernel) -> None:
    k.vmstat.nr_memmap_boot += 1


def pte_without_table(k: Kernel) -> None:
    pte = k.tables.tables[PTE_TABLE]
    lo, hi, _ = pte.items()[-1]
    pte.clear(lo, hi)


def leaf_under_a_table(k: Kernel) -> None:
    lo = k.tables.tables[PTE_TABLE].starts[0] * 512
    k.tables.set(lo, lo + 512, Leaf(0))


def writable_tail(k: Kernel) -> None:
    pfn = next(iter(k.hstates[9].folios))
    lo = pfn // 64
    m = k.tables.get(lo)
    assert m is not None
    k.tables.set(lo, lo + 8, m._replace(tail_rw=True))  # type: ignore[call-arg]


def wrong_mark(k: Kernel) -> None:
    next(iter(k.hstates[9].folios.values())).vmemmap_optimized = False


def wrong_surplus(k: Kernel) -> None:
    k.hstates[9].surplus[0] = 5


def off_the_list(k: Kernel) -> None:
    k.hstates[9].free[0].popitem()


def out_of_the_pool(k: Kernel) -> None:
    pfn, _ = k.hstates[9].free[0].popitem()
    del k.hstates[9].folios[pfn]
    k.hstates[9].nr[0] -= 1


DAMAGE: dict[Callable[[Kernel], None], tuple[str, str]] = {
    content_of_a_frame_that_is_gone: ("frames", "content"),
    lost_frame: ("frames", "conservation"),
    free_and_owned: ("frames", "conservation"),
    leaked_memmap: ("frames", "memmap"),
    leaked_table: ("frames", "page table"),
    freed_under_a_mapping: ("frames", "memmap"),
    mapped_twice: ("frames", "memmap"),
    lost_reference: ("frames", "references"),
    forgotten_tail: ("frames", "tail"),
    miscounted: ("accounting", "nr_memmap"),
    pte_without_table: ("frames", "page table"),
    leaf_under_a_table: ("frames", "memmap"),
    writable_tail: ("mapping", "hugetlb.9 folio"),
    wrong_mark: ("mapping", "hugetlb.9 folio"),
    wrong_surplus: ("accounting", "hugetlb.9.nr"),
    off_the_list: ("accounting", "hugetlb.9.free"),
    out_of_the_pool: ("frames", "hugetlb"),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_damage_is_seen(kernel: Kernel, damage: Callable[[Kernel], None]) -> None:
    damage(kernel)
    diff = check(kernel, "reference")
    assert diff is not None
    layer, field = DAMAGE[damage]
    assert (diff.layer, diff.field) == (layer, f"reference: {field}"), diff.detail


def test_a_frame_that_failed_must_be_marked() -> None:
    side = Side(Machine(), SeparatePaths)
    assert side.run(make_op("boot")) == 0
    assert side.run(make_op("memory hard_offline", at=G)) == 0
    pfn = G >> 12
    assert unmarked(side.kernel, "reference", pfn) is None
    del side.kernel.pages.hwpoison[pfn]
    found = unmarked(side.kernel, "reference", pfn)
    assert found is not None
    assert (found.layer, found.field, found.drift) == ("accounting", "reference: hwpoison", "unmarked")
