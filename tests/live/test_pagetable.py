"""The walk, on page tables made by hand."""

import array

import pytest

from live.folios import huge_folios, list_order
from live.pagetable import BadAddress, GuestMemory, Leaf, StructPages, decode, sections

CR3, PUD, PMD, PTE = 0x1000, 0x2000, 0x3000, 0x4000
LEAF = 0x200000
"""Physical addresses of the tables, and of the 2M that section 0's memmap lies in."""
PRESENT, RW, PSE = 1, 2, 1 << 7
NX_ACCESSED_DIRTY = 1 << 63 | 0x60


class Ram:
    """4M of guest memory at 0."""

    def __init__(self) -> None:
        self.words = array.array("Q", bytes(4 << 20))

    def put(self, address: int, value: int) -> None:
        self.words[address // 8] = value

    def memory(self) -> GuestMemory:
        return GuestMemory([memoryview(self.words).cast("B").cast("Q")])


@pytest.fixture
def ram() -> Ram:
    """Section 0 by a leaf, section 3 by a table, nothing else."""
    ram = Ram()
    ram.put(CR3 + 8 * 468, PUD | PRESENT | RW)  # VMEMMAP_START is entry 468 of the top table
    ram.put(PUD, PMD | PRESENT | RW)
    ram.put(PMD, LEAF | PRESENT | RW | PSE | NX_ACCESSED_DIRTY)
    ram.put(PMD + 8 * 3, PTE | PRESENT | RW)
    ram.put(PTE, 0x300000 | PRESENT | RW | NX_ACCESSED_DIRTY)
    ram.put(PTE + 8, 0x301000 | PRESENT | NX_ACCESSED_DIRTY)
    return ram


def test_sections(ram: Ram) -> None:
    found = sections(ram.memory(), CR3)
    assert found.keys() == {0, 3}
    assert found[0] == Leaf(0x200, True)
    table = found[3]
    assert isinstance(table, bytes)
    assert decode(table) == (0x300 * 2 + 1, 0x301 * 2, *[-1] * 510)


def test_struct_page_addresses(ram: Ram) -> None:
    pages = StructPages(ram.memory(), sections(ram.memory(), CR3))
    assert pages.address(5) == LEAF + 5 * 64
    assert pages.address(3 * 32768 + 64 + 2) == 0x301000 + 2 * 64
    assert pages.address(3 * 32768 + 128) is None
    assert pages.address(32768) is None


def test_addresses_outside_ram(ram: Ram) -> None:
    with pytest.raises(BadAddress):
        ram.memory().words(4 << 20, 1)
    with pytest.raises(BadAddress):
        ram.memory().words((4 << 20) - 8, 2)


def test_nodes_follow_one_another() -> None:
    first, second = array.array("Q", [1] * 512), array.array("Q", [2] * 512)
    memory = GuestMemory([memoryview(first), memoryview(second)])
    assert memory.words(4096 - 8, 1)[0] == 1
    assert memory.words(4096, 1)[0] == 2


def test_huge_folios_and_their_list(ram: Ram) -> None:
    base = 0xFFFFEA0000000000
    anchor = 0xFFFFFFFF84019510
    for head, after, flags, count in ((512, 1024, 0x18, 0), (1024, None, 0x08, 0), (2048, None, 0x10, 1)):
        at = LEAF + head * 64
        ram.put(at + 8, anchor if after is None else base + after * 64 + 8)
        ram.put(at + 40, flags)
        ram.put(at + 48, count << 32 | 0xF4000000)
        ram.put(at + 64, 0xABCD00 | 9)  # the order is in the lowest byte of the second page's flags
    pages = StructPages(ram.memory(), sections(ram.memory(), CR3))
    found = huge_folios(pages, [0])
    assert sorted(found) == [512, 1024, 2048]
    assert {f.order for f in found.values()} == {9}
    assert [found[p].optimized for p in (512, 1024, 2048)] == [True, False, True]
    assert [found[p].free for p in (512, 1024, 2048)] == [True, True, False]
    assert found[2048].refcount == 1
    assert sorted(list_order(found)) == [[512, 1024], [2048]]
