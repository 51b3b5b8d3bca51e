"""From a machine to an emulated one."""

import pytest

from fuzz.program.model import make_op
from live.layout import areas_unsupported, layout, reserves_unsupported, unsupported
from mm.machine import Machine

M, G = 1 << 20, 1 << 30


def test_low_machine() -> None:
    plan = layout(Machine(ram=G))
    # 2816M, less 2M so that RAM stays in one piece, less the hidden tail, in whole sections
    whole = (2816 - 2 - 128 - 1024) // 128 * 128 * M
    size = whole - 194 * M - 190 * M
    assert plan.region == (G, size)
    assert sum(plan.nodes) == G + whole + 128 * M < 2816 * M
    assert f"memmap=128M${hex(G + whole)}" in plan.append
    assert f"memmap={hex(size)}%{hex(G)}-1+0xefffffff" in plan.append
    assert plan.namespaces == ((G + size, 194 * M), (G + size + 194 * M, 190 * M))
    assert f"memmap={hex(190 * M)}!{hex(G + size + 194 * M)}" in plan.append


def test_no_namespaces_at_the_expense_of_the_region() -> None:
    plan = layout(Machine(ram=2 * G))
    assert plan.namespaces == ()
    assert "!" not in plan.append


def test_high_machine() -> None:
    plan = layout(Machine(ram=4 * G, nodes=2))
    assert plan.region == (6 * G, 3 * G)
    assert plan.namespaces[0] == (9 * G, 3 * G)
    assert sum(plan.namespaces[-1]) == 2 * G + sum(plan.nodes)  # RAM ends with the last one, 2G of addresses are a hole
    assert "$" not in plan.append


def test_the_region_begins_at_a_multiple_of_64m() -> None:
    plan = layout(Machine(ram=G + 34 * M))
    assert plan.region[0] == G + 64 * M
    assert f"memmap=30M${hex(G + 34 * M)}" in plan.append


def test_command_line() -> None:
    reserves = (make_op("reserve", size=G, count=2, node=0), make_op("reserve", size=G, count=1, node=1))
    machine = Machine(ram=4 * G, nodes=2, hugetlb_free_vmemmap=False, memmap_on_memory="force")
    append = layout(machine, reserves).append
    assert "hugetlb_free_vmemmap=off" in append
    assert "memory_hotplug.memmap_on_memory=force" in append
    assert "hugepagesz=1G hugepages=0:2,1:1" in append


def test_areas_on_the_command_line() -> None:
    areas = (make_op("reserve cma", size=G, node=0), make_op("reserve cma", size=1536 * M, only=True))
    append = layout(Machine(ram=6 * G), (*areas, make_op("reserve", size=G, count=1))).append
    assert "hugetlb_cma=0:1G hugetlb_cma=1536M hugetlb_cma_only=on hugepagesz=1G hugepages=1" in append


@pytest.mark.parametrize(
    ("ram", "nodes", "size", "node", "fits"),
    [
        (6 * G, 1, 2 * G, None, True),  # 4G to 6G of RAM up to 8G
        (6 * G, 1, 4 * G, None, False),  # all of it
        (2 * G, 1, G, None, False),  # below 4G
        (4 * G, 2, G, 1, True),
        (4 * G, 2, 2 * G, None, False),  # one on each node, that of node 0 below 4G
        (6 * G, 1, 512 * M, None, True),  # none
    ],
)
def test_where_areas_can_be(ram: int, nodes: int, size: int, node: int | None, fits: bool) -> None:
    line = make_op("reserve cma", size=size, node=node)
    assert (areas_unsupported(Machine(ram=ram, nodes=nodes), (line,)) is None) == fits


@pytest.mark.parametrize("ram", [512 * M, 2816 * M - 2 * M, 64 * G])
def test_machines_that_are_not_emulated(ram: int) -> None:
    assert unsupported(Machine(ram=ram))


def test_machines_that_are() -> None:
    assert unsupported(Machine(ram=G)) is None
    assert unsupported(Machine(ram=8 * G, nodes=2)) is None


def test_reserves_that_the_command_line_cannot_say() -> None:
    one, other = make_op("reserve", size=G, count=1), make_op("reserve", size=G, count=1, node=0)
    assert reserves_unsupported((one, other))
    assert reserves_unsupported((other, other))
    assert reserves_unsupported((one, make_op("reserve", size=2 * M, count=1))) is None
