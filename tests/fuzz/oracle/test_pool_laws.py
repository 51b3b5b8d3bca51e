"""Laws of the command line, of areas for gigantic pages, and of the order in which huge pages come and go. Both sides
share the code that they are about, so what is spoiled here is spoiled on both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import fuzz.side
from fuzz.execute import Lockstep, run_program
from fuzz.oracle.effects.cma import Areas, Asked, _several, areas
from fuzz.program.text import parse
from fuzz.side import Args, Side
from mm.cma import Cma
from mm.folio import Folio
from mm.hugetlb_alloc import alloc_pool_huge_folios
from mm.hugetlb_isolate import migrate_hugetlb
from mm.kernel import Kernel
from mm.machine import Machine
from mm.memory_online import migrate_movable
from mm.mmzone import Zone
from mm.page_alloc import OWNER_CMA

SEEDS = Path(__file__).resolve().parents[3] / "corpus" / "seeds"
G = 1 << 18
"""Pages of 4K in a gibibyte."""
X86 = Machine(ram=32 << 30)
RISCV = Machine(arch="riscv64", ram=5 << 30)


@pytest.mark.parametrize(
    ("machine", "size", "wanted"),
    [
        # cma_alloc_mem: bottom up from 4G where the area fits above
        (X86, 2 << 30, Areas(2 << 30, [(0, [(4 * G, 6 * G)])], [0])),
        # RAM at 2G..7G: 4G do not fit above 4G, so they lie at the top, and meet ZONE_DMA32 and ZONE_NORMAL
        (RISCV, 4 << 30, Areas(0, [(0, [(3 * G, 7 * G)])], [])),
        (X86, 3 << 29, Areas(0, [], [])),  # no multiple of a gigantic page
        (X86, 64 << 30, Areas(0, [], [])),  # more than there is
    ],
)
def test_where_an_area_must_lie(machine: Machine, size: int, wanted: Areas) -> None:
    assert areas(Lockstep(machine).reference.kernel, Asked(size, 0, [0], [0])) == wanted


def test_several_ranges() -> None:
    """list_insert_sorted puts a range before the first larger one, or before the last one: of ranges of 1, 3 and 2 GiB
    the list is 2, 3, 1 (worked out by hand from mm/cma.c), and 5 GiB are the first two, in the order of addresses."""
    free = [(4 * G, 5 * G), (6 * G, 9 * G), (10 * G, 12 * G)]
    k = Lockstep(X86).reference.kernel
    assert _several(k, free, 5 * G, G) == [(6 * G, 9 * G), (10 * G, 12 * G)]
    assert _several(k, free, 7 * G, G) == []


BEFORE = "vmm 1\nmachine arch=x86_64 page=4K ram=8G nodes=2\n"
POOL = BEFORE + "boot\nhugetlb resize size=2M to=8\n"
BOUND = BEFORE + "boot\nhugetlb overcommit size=2M to=4\nhugetlb resize size=2M to=2 node=0\n"
"""A mapping of three pages that is bound to node 1 makes one, and fails."""


def _turn_round(order: int) -> Callable[[Side, Args], None]:
    def change(side: Side, args: Args) -> None:
        free = side.kernel.hstates[order].free[0]
        turned = list(reversed(free.items()))
        free.clear()
        free.update(turned)

    return change


def _set(attribute: str, value: object, order: int = 9) -> Callable[[Side, Args], None]:
    return lambda side, args: setattr(side.kernel.hstates[order], attribute, value)


def _move_surplus(side: Side, args: Args) -> None:
    h = side.kernel.hstates[9]
    if any(h.surplus):
        h.surplus[0] -= 1
        h.surplus[1] += 1


def _another_place(side: Side, args: Args) -> None:
    side.kernel.cma.areas[0].ranges[0].base_pfn += 512


SPOILED: dict[str, tuple[str, str, Callable[[Side, Args], object]]] = {
    "reserve": (BEFORE + "reserve size=2M count=3\nboot\n", "reserve", lambda s, a: s.kernel.boot_requests.clear()),
    "reserve cma": (
        BEFORE + "reserve cma size=1G node=1\nboot\n",
        "reserve cma",
        lambda s, a: setattr(s.kernel.hugetlb_cma, "size_in_node", [1 << 30, 0]),
    ),
    "reserve cma only": (
        BEFORE + "reserve cma size=1G\nboot\n",
        "reserve cma",
        lambda s, a: setattr(s.kernel.hugetlb_cma, "only", True),
    ),
    "area elsewhere": (BEFORE + "reserve cma size=1G node=1\nboot\n", "boot", _another_place),
    "memory of no area": (
        BEFORE + "reserve cma size=1G node=1\nboot\n",
        "boot",
        lambda s, a: s.kernel.pages.claim(0x1000, 0x1200, OWNER_CMA),
    ),
    "unmap": (POOL + "u0 = hugetlb map size=2M count=3\nhugetlb unmap u0\n", "hugetlb unmap", _turn_round(9)),
    "demote": (
        BEFORE + "boot\nhugetlb resize size=1G to=1 node=0\nhugetlb demote size=1G count=1 node=0\n",
        "hugetlb demote",
        _turn_round(9),
    ),
    "demote, max_huge_pages": (
        BEFORE + "boot\nhugetlb resize size=1G to=1 node=0\nhugetlb demote size=1G count=1 node=0\n",
        "hugetlb demote",
        _set("max_huge_pages", 511),
    ),
    "turns of demoting": (
        BEFORE + "boot\nhugetlb resize size=1G to=2\nhugetlb demote size=1G count=1\n",
        "hugetlb demote",
        _set("next_nid_to_free", 0, 18),
    ),
    "turns of freeing": (
        BEFORE + "boot\nhugetlb resize size=2M to=7\nhugetlb resize size=2M to=4\n",
        "hugetlb resize",
        _set("next_nid_to_free", 0),
    ),
    "turns of allocation": (
        BEFORE + "boot\nhugetlb resize size=2M to=7\n",
        "hugetlb resize",
        _set("next_nid_to_alloc", 0),
    ),
    "max_huge_pages at boot": (BEFORE + "reserve size=2M count=3\nboot\n", "boot", _set("max_huge_pages", 2)),
    "max_huge_pages beside an area": (
        BEFORE + "reserve cma size=1G\nreserve size=1G count=2\nboot\n",
        "boot",
        _set("max_huge_pages", 0, 18),
    ),
    "turns at boot": (BEFORE + "reserve size=1G count=1\nboot\n", "boot", _set("next_nid_to_alloc", 1, 18)),
    "turns of becoming surplus": (
        POOL + "u0 = hugetlb map size=2M count=8\nhugetlb resize size=2M to=4\n",
        "hugetlb resize",
        _move_surplus,
    ),
    "turns of being kept": (
        POOL + "u0 = hugetlb map size=2M count=8\nhugetlb resize size=2M to=3\nhugetlb resize size=2M to=5\n",
        "hugetlb resize",
        _move_surplus,
    ),
    "surplus of a demotion": (
        BEFORE + "boot\nhugetlb resize size=1G to=2\nhugetlb demote size=1G count=1\n",
        "hugetlb demote",
        _set("surplus", [0, 1], 18),
    ),
    "surplus of a mapping": (POOL + "u0 = hugetlb map size=2M count=3\n", "hugetlb map", _set("surplus", [1, 0])),
    "turns of giving back": (
        BOUND + "u0 = hugetlb map size=2M count=3 node=1\n",
        "hugetlb map",
        _set("next_nid_to_free", 1),
    ),
}
"""Programs, and what is changed behind which operation."""


@pytest.mark.parametrize("name", SPOILED)
def test_what_an_operation_must_not_do(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, operation, change = SPOILED[name]
    program = parse(text)
    entry = fuzz.side.ENTRIES[operation]

    def spoiled(side: Side, args: Args, result: str | None) -> int:
        rc = entry(side, args, result)
        change(side, args)
        return rc

    assert run_program(program).finding is None
    monkeypatch.setitem(fuzz.side.ENTRIES, operation, spoiled)
    found = run_program(program).finding
    assert found is not None
    assert (found.field, found.operation) == ("reference: effect", operation)


def test_pages_are_taken_from_the_wrong_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these takes from the head; here the list is turned round before."""
    for last in ("u0 = hugetlb map size=2M count=3\n", "hugetlb resize size=2M to=4\n"):
        program = parse(POOL + last)
        operation = program.ops[-1].name
        entry = fuzz.side.ENTRIES[operation]

        def turned(
            side: Side,
            args: Args,
            result: str | None,
            entry: Callable[..., int] = entry,
            end: Args = program.ops[-1].args,
        ) -> int:
            if args is end:
                _turn_round(9)(side, args)
            return entry(side, args, result)

        assert run_program(program).finding is None
        with monkeypatch.context() as patch:
            patch.setitem(fuzz.side.ENTRIES, operation, turned)
            found = run_program(program).finding
        assert found is not None
        assert (found.field, found.operation) == ("reference: effect", operation)


def test_fewer_pages_than_there_is_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocator that says that memory ran short while there are free pageblocks."""

    def one_less(*args: object) -> object:
        k, h, nodes, n = args
        k.pages.short += 1  # type: ignore[attr-defined]
        return alloc_pool_huge_folios(k, h, nodes, n - 1)  # type: ignore[arg-type, operator]

    monkeypatch.setattr("mm.hugetlb_resize.alloc_pool_huge_folios", one_less)
    found = run_program(parse(POOL)).finding
    assert found is not None
    assert "there was memory for" in str(found.detail)


MOVED = """vmm 1
machine arch=x86_64 page=4K ram=4G nodes=2
boot
m0 = memory add at=0x200000000 size=128M node=1
memory online m0 block=0 zone=movable
p0 = pages alloc count=100 node=1 movable=on
memory offline m0 block=0
"""


def test_what_is_moved_goes_to_another_node(monkeypatch: pytest.MonkeyPatch) -> None:
    program = parse(MOVED)
    assert run_program(program).finding is None

    def at_home(k: Kernel, lo: int, hi: int, zone: Zone) -> int:
        return migrate_movable(k, lo, hi, zone, [zone.nid])

    monkeypatch.setattr("mm.memory_online.do_migrate_range", at_home)
    found = run_program(program).finding
    assert found is not None
    assert (found.field, found.operation) == ("reference: effect", "memory offline")


def test_a_huge_page_in_the_way_is_not_made_anew_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """htlb_allow_alloc_fallback is false of MR_CONTIG_RANGE: without room on the node the range cannot be had."""
    program = parse((SEEDS / "contig-huge-page-without-room.vmm").read_text())
    assert run_program(program).finding is None

    def anywhere(k: Kernel, folio: Folio, nodes: list[int], fallback: bool, isolated: tuple[int, int]) -> bool:
        return migrate_hugetlb(k, folio, nodes, True, isolated)

    monkeypatch.setattr("mm.contig.migrate_hugetlb", anywhere)
    found = run_program(program).finding
    assert found is not None
    assert (found.field, found.operation) == ("reference: effect", "pages contig")


def test_gigantic_pages_that_areas_have_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    program = parse((SEEDS / "hugetlb-cma-only-filled.vmm").read_text())
    assert run_program(program).finding is None

    def never(k: Kernel, cma: Cma | None, n: int) -> int | None:
        return None

    monkeypatch.setattr("mm.hugetlb_cma.cma_reserve_early", never)
    found = run_program(program).finding
    assert found is not None
    assert "areas have room" in str(found.detail)
