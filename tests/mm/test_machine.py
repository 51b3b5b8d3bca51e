"""Where boot RAM lies."""

import itertools

import pytest

from mm.arch import ARCHES
from mm.machine import HOLE_AT, Machine

M, G = 1 << 20, 1 << 30


def ranges(**keys: int) -> list[tuple[int, int, int]]:
    """(node, first megabyte, end) of an x86-64 machine."""
    return [(nid, lo >> 8, hi >> 8) for nid, lo, hi in Machine(**keys).ram_ranges()]  # type: ignore[arg-type]


def test_a_hole_is_where_the_command_line_puts_it() -> None:
    """memmap=66M$192M."""
    assert HOLE_AT == 192 * M
    assert ranges(ram=4 * G, hole=66 * M) == [(0, 0, 192), (0, 258, 2048), (0, 4096, 6144)]


def test_nodes_take_turns() -> None:
    expected = [(0, 0, 1024), (1, 1024, 2048), (0, 4096, 5120), (1, 5120, 6144)]
    assert ranges(ram=4 * G, nodes=2, interleave=G) == expected
    assert ranges(ram=4 * G, nodes=1, interleave=G) == ranges(ram=4 * G)


def test_a_hole_may_swallow_turns() -> None:
    assert ranges(ram=1 * G, nodes=2, interleave=64 * M, hole=128 * M)[:5] == [
        (0, 0, 64),
        (1, 64, 128),
        (0, 128, 192),
        (1, 320, 384),
        (0, 384, 448),
    ]


def test_ram_of_riscv64_begins_high() -> None:
    """128T above the 2G where QEMU's machine has it; nowhere else is there such a thing."""
    keys = {"ram": 4 * G, "nodes": 2, "hole": 66 * M}
    for arch, page in ARCHES:
        low, high = (Machine(arch=arch, page=page, base=base, **keys) for base in (0, 128 << 40))  # type: ignore[arg-type]
        by = (128 << 40) // page if arch == "riscv64" else 0
        assert high.ram_ranges() == tuple((nid, lo + by, hi + by) for nid, lo, hi in low.ram_ranges())
        assert high.start() - low.start() == by * page


@pytest.mark.parametrize("interleave", [0, 64 * M, 192 * M, G])
@pytest.mark.parametrize("hole", [0, 2 * M, 66 * M, 128 * M, 576 * M])
def test_every_machine_has_memory_on_each_node(interleave: int, hole: int) -> None:
    sizes = (512 * M, 514 * M, G, 2814 * M, 4 * G, 16 << 40)
    for (arch, page), nodes, ram in itertools.product(ARCHES, (1, 2), sizes):
        machine = Machine(arch=arch, page=page, ram=ram, nodes=nodes, interleave=interleave, hole=hole)
        found = machine.ram_ranges()
        assert {nid for nid, _, _ in found} == set(range(nodes))
        assert all(lo < hi for _, lo, hi in found)
        assert all(a[2] <= b[1] for a, b in itertools.pairwise(found))
        assert ram - hole <= sum(hi - lo for _, lo, hi in found) * page <= ram
        assert len(found) < 80
