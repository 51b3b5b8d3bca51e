"""Drivers of one device in turn, on both sides (separate-paths.md 3.19, 3.20, 4; unified-framework.md 3.7, 4)."""

from collections.abc import Callable
from typing import Any

import pytest

from candidate.framework import UnifiedFramework
from fuzz.execute import Lockstep, RunOutcome, run_program
from fuzz.program import parse
from mm.kernel import Kernel
from mm.mmzone import ZONE_DEVICE
from mm.page import Compound, Plain
from mm.pgmap import PgMap

TOP = 0x180000
"""First pfn after 4G of RAM."""
HEAD = "vmm 1\nmachine ram=4G"


def run(lines: str, head: str = HEAD) -> tuple[Lockstep, list[int | str]]:
    """Both kernels after the last operation, and what the reference returned after the boot."""
    program = parse(f"{head}\nboot\n{lines}\n")
    pair = Lockstep(program.machine, full_every=1)
    rcs: list[int | str] = []
    for op in program.ops:
        result = pair.step(op)
        assert result.finding is None
        assert result.terminal is None
        rcs.append(result.rcs[0])
    return pair, rcs[1:]


def memmap(pair: Lockstep) -> tuple[int, int]:
    return pair.reference.kernel.vmstat.nr_memmap, pair.candidate.kernel.vmstat.nr_memmap


@pytest.mark.parametrize(
    ("align", "driver", "counted"),
    [
        # 1 GiB is 8 sections of 512 vmemmap pages. 2M: 2 of 8 kept, 128 a section; the framework keeps 1, 64 a section.
        ("2M", "devdax", (1024, 512)),
        # 1G: two pages, and one.
        ("1G", "devdax", (2, 1)),
        # "fsdev: shift 0: never P4"; kmem is RAM.
        ("2M", "fsdev", (4096, 4096)),
        ("1G", "fsdev", (4096, 4096)),
        ("1G", "kmem", (4096, 4096)),
    ],
)
def test_memmap_follows_the_driver(align: str, driver: str, counted: tuple[int, int]) -> None:
    first, rcs = run(f"d0 = dax create at=0x180000000 size=1G align={align} driver={driver}")
    assert (rcs, memmap(first)) == ([0], counted)
    for before in {"devdax", "fsdev", "kmem"} - {driver}:
        lines = f"d0 = dax create at=0x180000000 size=1G align={align} driver={before}\ndax rebind d0 driver={driver}"
        then, rcs = run(lines)
        assert (rcs, memmap(then)) == ([0, 0], counted)
        gone, rcs = run(f"{lines}\ndax destroy d0")
        assert (rcs, memmap(gone)) == ([0, 0, 0], (0, 0))


@pytest.mark.parametrize("altmap", ["off", "on"])
def test_reference_counts_of_device_pages_follow_the_type(altmap: str) -> None:
    """mm/mm_init.c:__init_zone_device_page: 0 for MEMORY_DEVICE_FS_DAX, 1 for MEMORY_DEVICE_GENERIC."""
    lines = f"d0 = dax create at=0x180000000 size=1G altmap={altmap} driver=fsdev"
    data = TOP + (18 << 8)  # behind a memmap in the device (18M of 1 GiB)
    fs, _ = run(lines)
    for side in (fs.reference, fs.candidate):
        assert side.kernel.memmap.content(data) == Plain(0, ZONE_DEVICE, "fsdax")
    dev, _ = run(f"{lines}\ndax rebind d0 driver=devdax")
    for side in (dev.reference, dev.candidate):
        assert side.kernel.memmap.content(data) == Compound(9, 0, 0, ZONE_DEVICE, "devdax")


@pytest.mark.parametrize(("wish", "change"), [("off", -280), ("on", 0)])
def test_self_hosted_memory_of_kmem_is_never_optimized(wish: str, change: int) -> None:
    """live-linux.md 3: 40 huge pages on that node: -280; self-hosted: no change (P3)."""
    head = "vmm 1\nmachine ram=4G nodes=2 memmap_on_memory=on memhp_default_state=online_movable"
    bound = "d0 = dax create at=0x180000000 size=128M node=1 driver=devdax\n"
    bound += f"dax set d0 memmap_on_memory={wish}\ndax rebind d0 driver=kmem"
    before, _ = run(bound, head)
    after, rcs = run(f"{bound}\nhugetlb resize size=2M to=40 node=1", head)
    assert rcs == [0, 0, 0, 0]
    assert [now - was for now, was in zip(memmap(after), memmap(before), strict=True)] == [change, change]


@pytest.mark.parametrize(
    ("arch", "counted"),
    [
        # A memory block of 256M is 16 sections of 16M: 64 vmemmap pages each with 4K pages; with 64K pages a quarter of
        # one, which N rounds up (3.20).
        ("arch=ppc64_radix page=4K", 2 * 16 * 64),
        ("arch=ppc64_radix page=64K", 2 * 16),
        ("arch=arm64 page=4K", 4 * 512),
        ("arch=riscv64", 4 * 512),
        ("arch=s390x", 4 * 512),
    ],
)
def test_whole_memory_blocks_of_every_size(arch: str, counted: int) -> None:
    """Four blocks of 128M; or two of 256M, and half a one on either side that kmem leaves out."""
    at, size = (0x1008000000, "768M") if "ppc" in arch else (0x1000000000, "512M")
    align = "1M" if "s390x" in arch else "2M"  # the PMD size
    lines = f"d0 = dax create at={at:#x} size={size} align={align} driver=kmem"
    head = f"vmm 1\nmachine {arch} ram=4G memhp_default_state=online_movable"
    added, rcs = run(lines, head)
    assert (rcs, memmap(added)) == ([0], (counted, counted))
    blocks = 2 if "ppc" in arch else 4
    zone = added.reference.kernel.memory_blocks.zone
    assert sum(hi - lo for lo, hi, key in zone.items() if key == (0, 3)) == blocks
    gone, rcs = run(f"{lines}\ndax state d0 state=unplugged", head)
    assert (rcs, memmap(gone)) == ([0, 0], (0, 0))


# -- defects --------------------------------------------------------------------------------------------------------


def planted(lines: str, defect: Callable[[UnifiedFramework, Any, PgMap], None]) -> RunOutcome:
    """A run in which the candidate initialises a device's struct pages, and then does something wrong."""

    class Broken(UnifiedFramework):
        def memmap_init_zone_device(self, zone: Any, pfn: int, nr: int, pgmap: PgMap) -> None:
            super().memmap_init_zone_device(zone, pfn, nr, pgmap)
            defect(self, zone, pgmap)

    def make(k: Kernel) -> UnifiedFramework:
        return Broken(k, "posted")

    return run_program(parse(f"{HEAD}\nboot\n{lines}\n"), make_candidate=make)


def test_a_reference_count_of_the_wrong_type_is_found() -> None:
    def one(f: UnifiedFramework, zone: Any, pgmap: PgMap) -> None:
        if pgmap.type == "fsdax":
            f.k.memmap.write(TOP, 64, Plain(0, ZONE_DEVICE))

    outcome = planted("d0 = dax create at=0x180000000 size=256M\ndax rebind d0 driver=fsdev", one)
    assert outcome.finding is not None
    assert outcome.finding.layer == "structpages"


def test_pages_that_the_last_driver_left_are_found() -> None:
    """Nothing of a device that was optimized excuses what its next binding is."""

    def counted(f: UnifiedFramework, zone: Any, pgmap: PgMap) -> None:
        if pgmap.type == "fsdax":
            f.k.vmstat.nr_memmap -= 64

    outcome = planted("d0 = dax create at=0x180000000 size=256M\ndax rebind d0 driver=fsdev", counted)
    assert outcome.finding is not None
    assert outcome.finding.signature.startswith("accounting|nr_memmap|dax rebind|")
