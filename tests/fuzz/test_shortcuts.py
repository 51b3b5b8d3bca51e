"""Other ways to the same state: each proposal is shorter, and the one that is meant is among them."""

from __future__ import annotations

import pytest

from fuzz.execute import run_program
from fuzz.kin import kin
from fuzz.minimize import minimize
from fuzz.program import Program, parse
from fuzz.program.repair import repair
from fuzz.program.text import format as text
from fuzz.shortcuts import shortcuts
from zoo import find, planted

PLAIN = "arch=x86_64 page=4K ram=512M nodes=1"

CASES = {
    "memory goes online by itself": (
        PLAIN,
        "boot\nm0 = memory add at=0x20000000 size=128M\nmemory online m0 block=0\nmemory offline m0 block=0",
        f"{PLAIN} memhp_default_state=online",
        "boot\nm0 = memory add at=0x20000000 size=128M\nmemory offline m0 block=0",
    ),
    "the early parameter": (
        PLAIN,
        "boot\nsysctl hugetlb_optimize_vmemmap=off\nhugetlb resize size=2M to=1",
        f"{PLAIN} hugetlb_free_vmemmap=off",
        "boot\nhugetlb resize size=2M to=1",
    ),
    "boot memory in place of memory that is added": (
        PLAIN,
        "boot\nd0 = dax create at=0x40000000 size=1G align=4K driver=kmem\nhugetlb resize size=1G to=1",
        "arch=x86_64 page=4K ram=4G nodes=1",
        "boot\nhugetlb resize size=1G to=1",
    ),
    "a device has its driver from the beginning": (
        PLAIN,
        "boot\nd0 = dax create at=0x40000000 size=1G\ndax rebind d0 driver=kmem\ndax online d0 block=0",
        PLAIN,
        "boot\nd0 = dax create at=0x40000000 size=1G driver=kmem\ndax online d0 block=0",
    ),
    "a surplus page by overcommit": (
        PLAIN,
        (
            "reserve size=2M count=1\nboot\nu0 = hugetlb map size=2M count=1\nhugetlb resize size=2M to=0\n"
            "hugetlb unmap u0 flush=off"
        ),
        PLAIN,
        "boot\nhugetlb overcommit size=2M to=1\nu0 = hugetlb map size=2M count=1\nhugetlb unmap u0 flush=off",
    ),
    "a map that gives back": (
        PLAIN,
        "boot\nhugetlb overcommit size=2M to=1\nu0 = hugetlb map size=2M count=1\nu1 = hugetlb map size=2M count=1",
        PLAIN,
        "boot\nhugetlb overcommit size=2M to=1\nu0 = hugetlb map size=2M count=2",
    ),
    "memory without the device that adds it": (
        PLAIN,
        "boot\nd0 = dax create at=0x20000000 size=256M\ndax set d0 memmap_on_memory=on\ndax rebind d0 driver=kmem",
        PLAIN,
        "boot\nm0 = memory add at=0x20000000 size=256M memmap_on_memory=on",
    ),
    "frames of boot memory in place of a subblock": (
        "arch=x86_64 page=4K ram=512M nodes=1 memhp_default_state=online",
        "boot\nm0 = memory add at=0x20000000 size=128M\nsubblock unplug m0 block=0 first=0 count=1",
        "arch=x86_64 page=4K ram=512M nodes=1 memhp_default_state=online",
        "boot\np0 = pages contig at=0x10000000 size=2M",
    ),
}


def program(machine: str, operations: str) -> Program:
    return parse(f"vmm 1\nmachine {machine}\n{operations}\n")


@pytest.mark.parametrize("name", CASES)
def test_a_way_that_is_shorter(name: str) -> None:
    machine, operations, *there = CASES[name]
    long = program(machine, operations)
    proposals = [Program(m, repair(m, ops)) for m, ops in shortcuts(long.machine, long.ops)]
    assert all(len(short.ops) < len(long.ops) for short in proposals)
    assert text(program(*there)) in [text(short) for short in proposals]


def test_nothing_is_shorter_than_what_is_short() -> None:
    for operations in ("boot", "boot\nhugetlb resize size=2M to=1", "boot\nm0 = memory add at=0x20000000 size=128M"):
        short = program("arch=x86_64 page=4K ram=4G nodes=1", operations)
        assert not list(shortcuts(short.machine, short.ops))


@pytest.mark.parametrize(
    ("defect", "machine", "operations", "most"),
    [
        (
            # A device whose memory brings its own memmap: the same memory, added.
            "PPC-2023-56",
            "arch=ppc64_radix page=64K ram=512M nodes=1 memmap_on_memory=force",
            (
                "boot\nd0 = dax create at=0x20000000 size=1792M align=64K\ndax set d0 memmap_on_memory=on\n"
                "dax rebind d0 driver=kmem\n"
            ),
            2,
        ),
        (
            # A page that waits to be freed while frames are taken that have nothing to do with it.
            "MHP-2025-33",
            f"{PLAIN} memhp_default_state=online_movable",
            (
                "boot\nhugetlb overcommit size=2M to=1\nu0 = hugetlb map size=2M count=1\n"
                "m0 = memory add at=0x20000000 size=128M\nhugetlb unmap u0 flush=off\n"
                "subblock unplug m0 block=0 first=0 count=1\n"
            ),
            5,
        ),
    ],
)
def test_they_are_taken(defect: str, machine: str, operations: str, most: int) -> None:
    """Programs that were 1-minimal until these were tried."""
    long = program(machine, operations)
    with planted(find(defect)):
        before = run_program(long, full_every=1).finding
        small = minimize(long)
        again = run_program(small.program, full_every=1).finding
    assert before is not None
    assert len(small.program.ops) == most
    assert again == small.finding
    assert kin(before, small.finding)
