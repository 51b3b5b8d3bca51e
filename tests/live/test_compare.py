"""The comparison: a snapshot that says what the model says is accepted, and each single deviation is seen."""

import array
from collections.abc import Callable
from dataclasses import replace

import pytest

from fuzz.program.model import make_op
from fuzz.side import Side
from live.compare import BOOT_TAIL_REFCOUNT, Comparison
from live.folios import HugeFolio
from live.mirror import model_snapshot
from live.pagetable import Leaf
from live.placement import tell, told
from live.snapshot import Pool, Snapshot
from mm.kernel import Kernel
from mm.machine import Machine
from reference.paths import SeparatePaths

M, G = 1 << 20, 1 << 30
RENAME = 0x1234567
"""The kernel's frames are the model's, exclusive-or this."""


def as_seen(k: Kernel) -> Snapshot:
    """The model's state as a guest would show it, frames renamed."""
    out = model_snapshot(k)
    for section, entry in out.mapping.items():
        if isinstance(entry, Leaf):
            out.mapping[section] = Leaf(entry.frame ^ RENAME, True)
        else:
            words = [pte and pte ^ RENAME << 12 for pte in array.array("Q", entry)]
            out.mapping[section] = array.array("Q", words).tobytes()
    return out


def pool_of(pfns: list[int]) -> Snapshot:
    """A snapshot in which the kernel has put huge pages there, first come first."""
    folios = {p: HugeFolio(p, 9, True, True, 0, n) for p, n in zip(pfns, [*pfns[1:], None], strict=True)}
    return Snapshot(folios=folios, pools={9: Pool([0], [0], [0], 0, 0), 18: Pool([0], [0], [0], 0, 0)})


@pytest.fixture
def pair() -> tuple[Kernel, Comparison]:
    """A kernel with three huge pages, two of them behind each other, and a DAX device."""
    side = Side(Machine(ram=G), told(SeparatePaths))
    assert side.run(make_op("boot")) == 0
    comparison = Comparison(side.kernel, as_seen(side.kernel))
    tell(side.kernel, Snapshot(), pool_of([0x8000, 0x8200, 0xC000]))
    assert side.run(make_op("hugetlb resize", size=2 * M, to=3)) == 0
    assert side.run(make_op("dax create", "d0", at=(G,), size=(128 * M,))) == 0
    return side.kernel, comparison


def test_huge_pages_are_where_they_are_told_to_be(pair: tuple[Kernel, Comparison]) -> None:
    assert [list(reversed(free)) for free in pair[0].hstates[9].free] == [[0x8000, 0x8200, 0xC000]]


def test_the_same_is_no_difference(pair: tuple[Kernel, Comparison]) -> None:
    k, comparison = pair
    assert comparison.difference("hugetlb resize", 0, 0, as_seen(k)) is None


def change_pte(section: int, at: int, pte: int) -> Callable[[Snapshot], None]:
    def change(seen: Snapshot) -> None:
        table = array.array("Q", seen.mapping[section])
        table[at] = pte
        seen.mapping[section] = table.tobytes()

    return change


def folio(pfn: int, **fields: object) -> Callable[[Snapshot], None]:
    return lambda seen: seen.folios.update({pfn: replace_folio(seen.folios[pfn], fields)})


def replace_folio(was: HugeFolio, fields: dict[str, object]) -> HugeFolio:
    return was._replace(**fields)


DEVIATIONS: dict[str, Callable[[Snapshot], None]] = {
    "nr_memmap": lambda s: setattr(s, "nr_memmap", s.nr_memmap + 1),
    "nr_memmap_boot": lambda s: setattr(s, "nr_memmap_boot", s.nr_memmap_boot - 1),
    "nr_page_table_pages": lambda s: setattr(s, "nr_page_table_pages", s.nr_page_table_pages + 1),
    "HardwareCorrupted": lambda s: setattr(s, "poisoned", 1),
    "MemTotal": lambda s: setattr(s, "managed", s.managed - 1),
    "node0.free": lambda s: setattr(s, "free", [s.free[0] - 200]),
    "surplus_hugepages.9": lambda s: s.pools.update({9: replace(s.pools[9], surplus=[1])}),
    "vmemmap_optimized": folio(0x8200, optimized=False),
    "cma": folio(0x8200, cma=True),
    "free_list": folio(0x8000, next=0xC000),
    "free": folio(0x8000, free=False),
    "refcount": folio(0x8000, refcount=1),
    "hugetlb": lambda s: s.folios.pop(0xC000) and None,
    "memory_block": lambda s: s.blocks.update({3: "offline"}),
    # Section 1 holds pfns 0x8000 to 0xffff: vmemmap page 1 is a shared tail, page 0 the kept page of 0x8000.
    "writable": change_pte(1, 1, (0x55 << 12) | 3),
    "present": change_pte(1, 1, 0),
    "level": lambda s: s.mapping.update({2: Leaf(0x77, True), 1: Leaf(0x78, True)}),
    "log": lambda s: s.complaints.append("BUG: Bad page state in process init"),
}


def test_a_frame_of_its_own_instead_of_a_shared_one(pair: tuple[Kernel, Comparison]) -> None:
    k, comparison = pair
    seen = as_seen(k)
    change_pte(1, 1, (0x55 << 12) | 1)(seen)  # read-only like the tail, but another frame
    found = comparison.difference("hugetlb resize", 0, 0, seen)
    assert found is not None
    assert found.field == "sharing"


@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_deviation_is_seen(pair: tuple[Kernel, Comparison], name: str) -> None:
    k, comparison = pair
    seen = as_seen(k)
    DEVIATIONS[name](seen)
    found = comparison.difference("hugetlb resize", 0, 0, seen)
    assert found is not None
    assert found.field == name


def test_another_result_is_a_difference(pair: tuple[Kernel, Comparison]) -> None:
    k, comparison = pair
    found = comparison.difference("hugetlb map", -12, 0, as_seen(k))
    assert found is not None
    assert found.field == "rc"


def test_small_wandering_of_free_pages_is_none(pair: tuple[Kernel, Comparison]) -> None:
    k, comparison = pair
    seen = as_seen(k)
    seen.free = [seen.free[0] - 30]
    assert comparison.difference("hugetlb resize", 0, 0, seen) is None


def test_gigantic_pages_share_the_boots_tail_frame_in_its_zone_only() -> None:
    """Boot page at 5G, zone Normal, hence a tail frame of that zone: the page at 4G has it, one at 1G (DMA32) not."""
    side = Side(Machine(ram=6 * G), told(SeparatePaths))
    assert side.run(make_op("boot")) == 0
    at = G // 4096
    start = as_seen(side.kernel)
    start.folios[5 * at] = HugeFolio(5 * at, 18, True, True, 0, None)
    comparison = Comparison(side.kernel, start)
    seen = as_seen(side.kernel)
    for gigabyte in (1, 4):
        seen.folios[gigabyte * at] = HugeFolio(gigabyte * at, 18, True, True, 0, None)
    comparison.difference("hugetlb resize", 0, 0, seen)
    assert comparison.boot_hvo == {4 * at, 5 * at}


def test_the_known_refcount_is_explained_only_where_a_boot_page_was(pair: tuple[Kernel, Comparison]) -> None:
    k, comparison = pair
    seen = as_seen(k)
    folio(0x8200, refcount=1)(seen)
    comparison.boot_hvo = {0x8000}
    assert comparison.difference("hugetlb resize", 0, 0, seen) is None
    assert comparison.explained == {BOOT_TAIL_REFCOUNT}
    folio(0x8000, refcount=1)(seen)  # the boot page's own head is no tail
    found = comparison.difference("hugetlb resize", 0, 0, seen)
    assert found is not None
    assert found.field == "refcount"
