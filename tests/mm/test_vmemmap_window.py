"""The vmemmap of riscv64: VMEMMAP_START..VMEMMAP_END, vmemmap_start_pfn, mhp_range_allowed of Linux 7.3."""

import pytest

from fuzz.execute import Lockstep
from fuzz.oracle import laws
from mm.errno import E2BIG, EINVAL
from tests.mm.agreed import agreed

T = 1 << 40


def run(base: str, rest: str = "", arch: str = "riscv64") -> tuple[Lockstep, list[object]]:
    """A pair after a program that the models agree on, and what it returned."""
    return agreed(f"arch={arch} page=4K ram=1G nodes=1 base={base}", rest)


@pytest.mark.parametrize(("base", "first"), [("0", 0), ("128T", 128 * T)])
def test_the_window(base: str, first: int) -> None:
    """VMEMMAP_SHIFT = 48 - 12 - 1 + 6: 2T of struct pages, for 128T of memory. It begins with that of 2G, or 128T + 2G,
    rounded down to VMEMMAP_ADDR_ALIGN, 16G; a vmemmap page is for 256K."""
    pair, _ = run(base)
    for side in (pair.reference, pair.candidate):
        assert side.kernel.tables.window == (first >> 18, (first + 128 * T) >> 18)
    assert run(base, arch="x86_64")[0].reference.kernel.tables.window is None


@pytest.mark.parametrize(
    ("base", "at", "fits"),
    [
        ("0", 0, True),
        ("0", 128 * T - (128 << 20), True),
        ("0", 128 * T, False),
        ("0", 128 * T - (64 << 20), False),
        ("128T", 128 * T, True),
        ("128T", 128 * T - (128 << 20), False),
        ("128T", 4 << 30, False),
        ("128T", 256 * T - (128 << 20), True),
        ("128T", 256 * T, False),
    ],
)
def test_memory_that_can_be_added(base: str, at: int, fits: bool) -> None:
    """register_memory_resource: -E2BIG, for kmem too; pagemap_range: -EINVAL."""
    for how, errno in (
        (f"m0 = memory add at={at:#x} size=128M\n", -E2BIG),
        (f"d0 = dax create at={at:#x} size=128M driver=kmem\n", -E2BIG),
        (f"d0 = dax create at={at:#x} size=128M\n", -EINVAL),
    ):
        if at % (128 << 20) and "kmem" in how:
            continue  # of which kmem takes whole blocks only
        _, rcs = run(base, how)
        assert rcs == [0, 0 if fits else errno]


def test_a_device_of_several_ranges_comes_whole_or_not() -> None:
    pair, rcs = run("0", f"d0 = dax create at=0x100000000,{128 * T:#x} size=128M,128M\n")
    assert rcs == [0, -EINVAL]
    assert pair.reference.kernel.pgmaps == []


@pytest.mark.parametrize("window", [(0x2001, 1 << 40), (0, 0x2FFF)])
def test_the_law(window: tuple[int, int]) -> None:
    """RAM is at 2G..3G: vmemmap pages 0x2000..0x3000."""
    pair, _ = run("0")
    for side in (pair.reference, pair.candidate):
        for which in (None, laws.OF_UNINITIALISED):
            assert laws.broken(side.kernel, "x", which) is None
        side.kernel.tables.window = window
        for which in (None, laws.OF_UNINITIALISED):
            found = laws.broken(side.kernel, "x", which)
            assert found is not None
            assert found.field == "x: vmemmap window"
