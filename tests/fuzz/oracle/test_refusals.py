"""Refusals without a reason, and what only a law can see of page tables, areas and numbers of blocks: both sides share
the code that is spoiled here."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import fuzz.side
from fuzz.execute import run_program
from fuzz.program.text import parse
from fuzz.side import Args, Side
from mm.errno import EBUSY, ENOMEM, ENXIO
from mm.kernel import Kernel
from mm.pgtable import VmemmapTables

BEFORE = "vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\n"
ONLINE = BEFORE + "m0 = memory add at=0x40000000 size=128M\nmemory online m0 block=0\n"
NAMESPACE = BEFORE + "d0 = dax create at=0x80000000 size=16M altmap=on\n"


def _effect(text: str) -> tuple[str, str] | None:
    """The operation that a law of effects was broken by, and what it returned."""
    found = run_program(parse(text)).finding
    return None if found is None else (found.operation, found.drift) if found.field == "reference: effect" else ("", "")


def test_a_block_that_is_as_good_as_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """offline_pages dissolves free huge pages before it looks (mm/memory_hotplug.c)."""
    text = ONLINE + "hugetlb resize size=2M to=3\nmemory offline m0 block=0\n"
    assert _effect(text) is None
    monkeypatch.setattr("mm.memory_online.dissolve_free_hugetlb_folios", lambda k, lo, hi: -EBUSY)
    assert _effect(text) == ("memory offline", str(-EBUSY))


REPLACED = BEFORE + "hugetlb resize size=2M to=6\nu0 = hugetlb map size=2M count=3\n"


def test_huge_pages_that_became_free_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    text = REPLACED + "p0 = pages contig at=0x3000000 size=6M\np1 = pages contig at=0x3600000 size=6M\n"
    assert _effect(text) is None
    monkeypatch.setattr("mm.contig.replace_free_hugepage_folios", lambda k, lo, hi: 0)
    assert _effect(text) == ("pages contig", str(-EBUSY))


def test_memory_leaves_no_empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """free_pmd_table (arch/x86/mm/init_64.c)."""
    text = BEFORE + "m0 = memory add at=0x1000000000 size=128M\nmemory remove m0\n"
    assert _effect(text) is None
    monkeypatch.setattr(VmemmapTables, "pop_empty_tables", lambda self, lo, hi, levels=(): [])
    assert _effect(text) == ("memory remove", "ok")


def _says(operation: str, errno: int, nth: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Its `nth` call on a side does nothing and returns an errno."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        entry = fuzz.side.ENTRIES[operation]
        calls: dict[int, int] = {}

        def said(side: Side, args: Args, result: str | None) -> int:
            calls[id(side)] = calls.get(id(side), 0) + 1
            return -errno if calls[id(side)] == nth else entry(side, args, result)

        monkeypatch.setitem(fuzz.side.ENTRIES, operation, said)

    return plant


@pytest.mark.parametrize(
    ("text", "operation", "errno", "nth"),
    [
        (NAMESPACE, "dax create", ENXIO, 1),  # SZ_16M is enough (drivers/nvdimm/claim.c)
        # 2M of info block and memory map, then the data, which nobody has mapped (mf_generic_kill_procs)
        (NAMESPACE + "memory hard_offline at=0x80200000\n", "memory hard_offline", ENXIO, 1),
        (NAMESPACE + "memory hard_offline at=0x801ff000\n", "memory hard_offline", EBUSY, 1),  # pgmap_pfn_valid
        (
            BEFORE.replace("ram=1G nodes=1\n", "ram=8G nodes=2\nreserve cma size=2G node=1 only=on\n")
            + "hugetlb overcommit size=1G to=1\nu0 = hugetlb map size=1G count=1\n",
            "hugetlb map",
            ENOMEM,
            1,
        ),
    ],
)
def test_what_nothing_forbids(monkeypatch: pytest.MonkeyPatch, text: str, operation: str, errno: int, nth: int) -> None:
    assert _effect(text) is None
    _says(operation, errno, nth)(monkeypatch)
    assert _effect(text) == (operation, str(-errno))


def test_blocks_of_a_device_are_numbered_through_its_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/language.md; here the numbers begin anew in each range."""
    create = "d0 = dax create at=0x80000000,0x90000000 size=128M,256M driver=kmem\n"
    text = BEFORE + create + "dax online d0 block=0\ndax online d0 block=2\n"
    assert _effect(text) is None

    def anew(k: Kernel, device: object, index: int) -> int:
        return (0x80000000, 0x90000000, 0x98000000)[0 if index == 0 else 1] >> 27

    monkeypatch.setattr("fuzz.side.kmem_block", anew)
    assert _effect(text) == ("dax online", "ok")
