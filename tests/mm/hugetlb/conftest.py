"""Small kernels for the pool tests."""

import pytest

from mm.machine import Machine
from tests.mm.hugetlb.lab import Lab


@pytest.fixture
def lab() -> Lab:
    """One node, 4G: Normal memory is pfn 0x100000 to 0x180000, and is the first to be used."""
    return Lab(Machine(ram=4 << 30))


@pytest.fixture
def two() -> Lab:
    """Two nodes of 4G; Normal memory of node 0 begins at pfn 0x100000, that of node 1 at 0x180000."""
    return Lab(Machine(ram=8 << 30, nodes=2))
