"""Poisoned huge pages on both sides (separate-paths.md 3.21).

Numbers marked [live] are the deltas measured on Linux 7.3.4 (live-linux.md section 3, rows on poison): V = 8 vmemmap
pages of a 2M page, so restoring adds 7, and 512 - 1 - 7 = 504 pages become free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from candidate.framework import UnifiedFramework
from fuzz.program import parse
from fuzz.side import Side
from mm.errno import EBUSY, EHWPOISON, EIO, ENOMEM, ENOTRECOVERABLE, ENXIO
from mm.kernel import Kernel
from mm.page_alloc import OWNER_HWPOISON, OWNER_LEAKED, OWNER_PAGES, OWNER_PAGES_MOVABLE, KernelBug
from mm.vmemmap import VmemmapPaths
from reference.paths import SeparatePaths

SIDES: list[Callable[[Kernel], VmemmapPaths]] = [SeparatePaths, UnifiedFramework]
PAGE = 4096


class Lab:
    """One side that runs lines of a program one after the other."""

    def __init__(self, make: Callable[[Kernel], VmemmapPaths], machine: str = "ram=2G") -> None:
        self.make = make
        self.machine = machine
        self.side = Side(parse(f"vmm 1\nmachine {machine}\nboot\n").machine, make)
        self.text = f"vmm 1\nmachine {machine}\nboot\n"
        self.done = 0
        self.do()

    @property
    def kernel(self) -> Kernel:
        return self.side.kernel

    def do(self, *lines: str) -> Any:
        """Run more lines; the result of the last one."""
        self.text += "".join(f"{line}\n" for line in lines)
        ops = parse(self.text).ops
        rc: Any = 0
        for op in ops[self.done :]:
            rc = self.side.run(op)
        self.done = len(ops)
        return rc

    def heads(self, order: int = 9) -> list[int]:
        """Addresses of the pool's folios, the one that is handed out next first."""
        free = self.kernel.hstates[order].free
        return [pfn * PAGE for node in free for pfn in reversed(node)]

    def counts(self) -> tuple[int, ...]:
        """nr_memmap + nr_memmap_boot, free pages, huge pages, HardwareCorrupted."""
        k = self.kernel
        free = sum(zone.free_pages(9) for node in k.nodes for zone in node.zones)
        pool = sum(k.hstates[9].nr)
        return k.vmstat.nr_memmap + k.vmstat.nr_memmap_boot, free, pool, k.memory_blocks.num_poisoned_pages

    def delta(self, *lines: str) -> tuple[Any, tuple[int, ...]]:
        before = self.counts()
        rc = self.do(*lines)
        return rc, tuple(b - a for a, b in zip(before, self.counts(), strict=True))


@pytest.fixture(params=SIDES, ids=["reference", "candidate"])
def lab(request: pytest.FixtureRequest) -> Lab:
    lab = Lab(request.param)
    lab.do("hugetlb resize size=2M to=8")
    return lab


@pytest.mark.parametrize("how", ["hard", "soft"])
def test_a_free_optimized_page_is_restored_and_dissolved(lab: Lab, how: str) -> None:
    """[live] rc 0, nr_memmap +7, free +504, pool -1, HardwareCorrupted +4 kB."""
    at = lab.heads()[3] + 5 * PAGE
    assert lab.delta(f"memory {how}_offline at={at:#x}") == (0, (7, 504, -1, 1))
    assert lab.kernel.pages.owners.get(at // PAGE) == OWNER_HWPOISON


def test_a_mapped_page_loses_its_user(lab: Lab) -> None:
    """[live] MADV_HWPOISON: +7, +504, pool -1; the other page of the mapping stays."""
    at = lab.heads()[0]
    lab.do("u0 = hugetlb map size=2M count=2")
    assert lab.delta(f"memory hard_offline at={at + PAGE:#x}") == (0, (7, 504, -1, 1))
    _, mapped = lab.side.handles["u0"]
    assert [folio.pfn * PAGE for folio in mapped] == [at + 0x200000]
    assert lab.do("hugetlb unmap u0") == 0
    assert len(lab.heads()) == 7


def test_soft_offline_moves_a_mapped_page_to_another_of_the_pool(lab: Lab) -> None:
    """[live] MADV_SOFT_OFFLINE: rc 0, +7, +504; "migrated to another pool page"."""
    first, *_, last = lab.heads()
    free = lab.heads()[1]
    lab.do("u0 = hugetlb map size=2M count=1")
    assert lab.delta(f"memory soft_offline at={first + PAGE:#x}") == (0, (7, 504, -1, 1))
    _, mapped = lab.side.handles["u0"]
    assert [folio.pfn * PAGE for folio in mapped] == [free]
    assert len(lab.heads()) == 6
    assert last in lab.heads()


def test_unpoison_gives_the_page_back(lab: Lab) -> None:
    """[live] unpoison-pfn: free +1, nothing else."""
    at = lab.heads()[0] + 5 * PAGE
    lab.do(f"memory hard_offline at={at:#x}")
    assert lab.delta(f"memory unpoison at={at:#x}") == (0, (0, 1, 0, -1))
    assert lab.do(f"memory unpoison at={at:#x}") == -EBUSY


def test_the_same_page_twice(lab: Lab) -> None:
    at = lab.heads()[0]
    lab.do(f"memory hard_offline at={at:#x}")
    assert lab.delta(f"memory hard_offline at={at:#x}") == (-EHWPOISON, (0, 0, 0, 0))
    assert lab.delta(f"memory soft_offline at={at:#x}") == (0, (0, 0, 0, 0))


def test_a_page_that_cannot_be_restored_stays_poisoned_and_optimized(lab: Lab) -> None:
    """3.21, 2: point RAW is the first, RES the second. The pool passes over it, demotion and mapping too."""
    at = lab.heads()[0]
    rc, delta = lab.delta("fail alloc nth=2", f"memory hard_offline at={at + PAGE:#x}")
    assert (rc, delta) == (-EBUSY, (0, 0, 0, 1))
    folio = lab.kernel.hstates[9].folios[at // PAGE]
    assert folio.vmemmap_optimized
    assert folio.raw_hwp == (at // PAGE + 1,)
    # The same raw page is not counted again, another one of the folio is; both were "already poisoned".
    assert lab.delta(f"memory hard_offline at={at + PAGE:#x}") == (-EHWPOISON, (0, 0, 0, 0))
    assert lab.delta(f"memory hard_offline at={at:#x}") == (-EHWPOISON, (0, 0, 0, 1))
    assert lab.do("u0 = hugetlb map size=2M count=8") == -ENOMEM
    assert lab.do("u1 = hugetlb map size=2M count=7") == 0
    # Freed, the mark moves to the raw pages, which are free with all the others (3.11).
    assert lab.delta("hugetlb resize size=2M to=7") == (0, (7, 512 - 7, -1, 0))
    assert set(lab.kernel.pages.hwpoison) == {at // PAGE, at // PAGE + 1}


def test_unpoison_of_a_page_of_the_pool_needs_its_head(lab: Lab) -> None:
    at = lab.heads()[0]
    lab.do("fail alloc nth=2", f"memory hard_offline at={at + PAGE:#x}")
    assert lab.do(f"memory unpoison at={at + PAGE:#x}") == -EBUSY  # the tail has no mark
    assert lab.delta(f"memory unpoison at={at:#x}") == (0, (0, 0, 0, -1))
    assert lab.do("u0 = hugetlb map size=2M count=8") == 0


def test_lost_records_leak_the_page(lab: Lab) -> None:
    """3.21, 1 and 5: RAW fails; the folio is restored (+7) and leaked (none of its 512 pages becomes free)."""
    at = lab.heads()[0]
    assert lab.delta("fail alloc nth=1", f"memory hard_offline at={at:#x}") == (-EBUSY, (7, -7, -1, 1))
    assert lab.kernel.pages.owners.get(at // PAGE) == OWNER_LEAKED
    assert lab.do(f"memory unpoison at={at:#x}") == -EBUSY


def test_soft_offline_tries_a_second_time(lab: Lab) -> None:
    """soft_offline_page: page_handle_poison failed once, so again; there is one injected failure."""
    at = lab.heads()[0]
    assert lab.delta("fail alloc nth=1", f"memory soft_offline at={at:#x}") == (0, (7, 504, -1, 1))


def test_the_last_free_page_cannot_be_dissolved_while_it_is_queued(lab: Lab) -> None:
    """A mapped surplus page with no other free page: freed by the work item after dissolving gave up (-EBUSY)."""
    lab.do("hugetlb resize size=2M to=0", "hugetlb overcommit size=2M to=1", "u0 = hugetlb map size=2M count=1")
    _, mapped = lab.side.handles["u0"]
    at = mapped[0].pfn * PAGE
    assert lab.delta(f"memory hard_offline at={at:#x}") == (-EBUSY, (7, 512 - 7, -1, 1))
    assert at // PAGE in lab.kernel.pages.hwpoison


def test_a_queued_page_is_marked_and_left_alone(lab: Lab) -> None:
    """In no pool and on no list (MF_HUGETLB_RETRY)."""
    lab.do("hugetlb resize size=2M to=0", "hugetlb overcommit size=2M to=1", "u0 = hugetlb map size=2M count=1")
    at = lab.side.handles["u0"][1][0].pfn * PAGE
    lab.do("hugetlb unmap u0 flush=off")
    assert lab.do(f"memory soft_offline at={at:#x}") == -EIO
    assert lab.delta(f"memory hard_offline at={at:#x}") == (-EBUSY, (0, 0, 0, 1))
    assert lab.delta("hugetlb flush") == (0, (7, 512 - 7, 0, 0))
    assert list(lab.kernel.pages.hwpoison) == [at // PAGE]


# -- single pages ---------------------------------------------------------------------------------------------------


def pages_of(lab: Lab, owner: str) -> int:
    owners = lab.kernel.pages.owners
    return owners.starts[owners.vals.index(owner)] * PAGE


@pytest.mark.parametrize(("how", "taken"), [("hard", 0), ("soft", -1)])
def test_a_movable_page_of_a_program(lab: Lab, how: str, taken: int) -> None:
    """Hard: the program loses it (me_pagecache_clean of an anonymous page). Soft: it moves to a free page."""
    lab.do("p0 = pages alloc count=10 movable=on")
    at = pages_of(lab, OWNER_PAGES_MOVABLE)
    assert lab.delta(f"memory {how}_offline at={at:#x}") == (0, (0, taken, 0, 1))
    assert lab.delta("pages free p0") == (0, (0, 9 - taken, 0, 0))
    assert lab.delta(f"memory unpoison at={at:#x}") == (0, (0, 1, 0, -1))


def test_a_page_of_the_kernel_is_marked_and_lost_when_it_is_freed(lab: Lab) -> None:
    """get_any_page: -EIO; free_pages_prepare keeps a poisoned single page from the free lists."""
    lab.do("p0 = pages alloc count=10")
    at = pages_of(lab, OWNER_PAGES)
    assert lab.do(f"memory soft_offline at={at:#x}") == -EIO
    assert lab.delta(f"memory hard_offline at={at:#x}") == (-EBUSY, (0, 0, 0, 1))
    assert lab.delta("pages free p0") == (0, (0, 9, 0, 0))
    assert lab.delta(f"memory unpoison at={at:#x}") == (0, (0, 0, 0, -1))


def test_reserved_pages_cannot_be_handled(lab: Lab) -> None:
    assert lab.do("memory soft_offline at=0x1000") == -ENOTRECOVERABLE
    assert lab.do("memory hard_offline at=0x1000") == -EBUSY
    assert lab.do("memory unpoison at=0x1000") == -EBUSY


def test_what_is_not_online_memory(lab: Lab) -> None:
    lab.do("m0 = memory add at=0x100000000 size=128M", "d0 = dax create at=0x140000000 size=128M")
    answers = [
        lab.do(f"memory {what} at={at:#x}")
        for at in (0x400000000, 0x100000000, 0x140000000)  # nothing; offline; a device
        for what in ("hard_offline", "soft_offline", "unpoison")
    ]
    assert answers == [-EBUSY, -ENXIO, -EIO, -ENXIO, -EIO, -EIO, -EBUSY, -EIO, -EIO]
    # memory_failure_dev_pagemap counts what it could not recover; so does a real 7.3.4.
    assert lab.kernel.memory_blocks.num_poisoned_pages == 1
    assert not lab.kernel.memory_blocks.nr_hwpoison


def test_a_device_page_counts_in_the_block_that_it_lies_in(lab: Lab) -> None:
    """memblk_nr_poison_inc looks the block up by the page: here the last one of boot memory, which ends within it."""
    lab = Lab(lab.make, "ram=1088M")
    assert lab.do("d0 = dax create at=0x46000000 size=2M align=4K") == 0
    assert lab.delta("memory hard_offline at=0x46000000") == (-EBUSY, (0, 0, 0, 1))
    assert lab.kernel.memory_blocks.nr_hwpoison == {8: 1}


def test_a_block_with_poison_goes_offline_and_stays_so(lab: Lab) -> None:
    """memory_block_online: -EHWPOISON. Removing the block removes the mark and its count."""
    lab.do("m0 = memory add at=0x100000000 size=128M", "memory online m0 block=0", "memory hard_offline at=0x100003000")
    assert lab.do("memory offline m0 block=0") == 0
    assert lab.do("memory online m0 block=0") == -EHWPOISON
    assert lab.delta("memory remove m0") == (0, (-512, 512, 0, -1))
    assert lab.kernel.pages.hwpoison == {}
    assert lab.do("m1 = memory add at=0x100000000 size=128M", "memory online m1 block=0") == 0


def test_a_frame_is_taken_off_once(lab: Lab) -> None:
    pages = lab.kernel.pages
    assert pages.take_off(0x8000)
    assert not pages.take_off(0x8000)
    pages.put_back(0x8000)
    with pytest.raises(KernelBug, match="not all allocated"):
        pages.free(0x8000, 1)
