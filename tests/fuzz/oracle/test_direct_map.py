"""The direct map of powerpc: its counters are compared, and what it must consist of is a law."""

from collections.abc import Callable

import pytest

from fuzz.execute import Lockstep
from fuzz.oracle import laws
from mm.direct_map import DirectMap
from tests.fuzz.oracle.test_laws import after

PROGRAM = """vmm 1
machine arch=ppc64_radix page=64K ram=1G nodes=1 memmap_on_memory=on
boot
m0 = memory add at=0x50000000 size=256M
d0 = dax create at=0x70000000 size=64M align=2M
d1 = dax create at=0x80000000 size=64M align=2M altmap=on
d2 = dax create at=0x90000000 size=256M align=2M driver=kmem
d3 = dax create at=0xa0000000 size=300M driver=kmem
"""


@pytest.fixture
def pair() -> Lockstep:
    return after(PROGRAM)


@pytest.mark.parametrize(
    ("tamper", "field"),
    [
        (lambda d: d.pages.update({5: d.pages[5] + 1}), "DirectMap2M"),
        (lambda d: d.pages.update({0: 1}), "DirectMap64k"),
        (lambda d: d.pages.update({5: d.pages[5] - 1, 0: 32}), "DirectMap2M"),
        (lambda d: d.entries.clear(0x7000, 0x7020), "direct map"),
        (lambda d: d.entries.set(0xF000, 0xF020, 5), "direct map"),
    ],
)
def test_the_law(pair: Lockstep, tamper: Callable[[DirectMap], object], field: str) -> None:
    for side in (pair.reference, pair.candidate):
        assert laws.broken(side.kernel, "x") is None
        assert laws.broken(side.kernel, "x", laws.OF_UNINITIALISED) is None
        assert side.kernel.direct_map is not None
        tamper(side.kernel.direct_map)
        for which in (None, laws.OF_UNINITIALISED):
            found = laws.broken(side.kernel, "x", which)
            assert found is not None
            assert found.field == f"x: {field}"


def test_counters_are_compared(pair: Lockstep) -> None:
    """32 pages of 2M, 65536 kB, more on one side."""
    assert pair.candidate.kernel.direct_map is not None
    pair.candidate.kernel.direct_map.pages[5] += 32
    found = pair.finish()
    assert found is not None
    assert (found.layer, found.field, found.drift) == ("accounting", "DirectMap2M", "+")
    assert "(+65536)" in found.detail
