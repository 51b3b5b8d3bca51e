"""The guest's vmemmap as the hardware sees it: a walk from CR3 through guest memory, from outside the guest.

Nothing here asks the guest anything. Addresses are those of x86-64 with four-level page tables and without KASLR: the
struct page of `pfn` is at VMEMMAP_START + 64 * pfn, so one PMD entry maps the memmap of one 128M section, and PMD entry
number and section number are the same number.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import Final, NamedTuple

VMEMMAP_START: Final = 0xFFFFEA0000000000
PRESENT, WRITABLE, LEAF = 1 << 0, 1 << 1, 1 << 7
FRAME: Final = 0x000FFFFFFFFFF000
PTRS: Final = 512
PAGE_WORDS: Final = 512
"""64-bit words of a page."""
PAGE_WORDS_STRUCT: Final = 8
"""64-bit words of a struct page."""
SECTION_PFNS: Final = 1 << 15
SECTIONS_PER_PMD_TABLE: Final = 512

LOW_LIMIT: Final = 2816 << 20
LOW: Final = 2 << 30
HIGH_START: Final = 4 << 30


class BadAddress(Exception):
    """A page table points to no guest RAM: the walk began at the wrong place, or raced with the guest."""


class GuestMemory:
    """Guest RAM by physical address. `nodes` are the memory files of the nodes as 64-bit words, in node order.

    q35 puts RAM of less than 2816M at 0, else 2G at 0 and the rest at 4G; nodes follow one another.
    """

    def __init__(self, nodes: list[memoryview]) -> None:
        total = sum(len(words) * 8 for words in nodes)
        low = total if total < LOW_LIMIT else LOW
        self._starts: list[int] = []
        self._parts: list[tuple[int, memoryview, int]] = []
        offset = 0
        for words in nodes:
            size = len(words) * 8
            cut = min(max(low - offset, 0), size)
            if cut:
                self._add(offset, offset + cut, words, 0)
            if cut < size:
                start = HIGH_START + offset + cut - low
                self._add(start, start + size - cut, words, cut)
            offset += size

    def _add(self, start: int, end: int, words: memoryview, at: int) -> None:
        self._starts.append(start)
        self._parts.append((end, words, (at - start) // 8))

    def words(self, address: int, n: int, step: int = 1) -> memoryview:
        """`n` words from a physical address on, every `step`-th; they must lie in one part of RAM."""
        i = bisect_right(self._starts, address) - 1
        if i < 0 or address + 8 * ((n - 1) * step + 1) > self._parts[i][0]:
            raise BadAddress(f"physical address {address:#x} is no RAM")
        _, words, shift = self._parts[i]
        first = address // 8 + shift
        return words[first : first + (n - 1) * step + 1 : step]


class Leaf(NamedTuple):
    """A section's memmap mapped by a PMD leaf."""

    frame: int
    writable: bool


Entry = Leaf | bytes
"""What maps a section: a leaf, or the 512 entries of a PTE table."""


def indices(section: int) -> tuple[int, int, int]:
    """PGD, PUD and PMD index of a section's memmap."""
    va = VMEMMAP_START + section * SECTION_PFNS * 64
    return va >> 39 & 511, va >> 30 & 511, va >> 21 & 511


def sections(memory: GuestMemory, cr3: int) -> dict[int, Entry]:
    """Every section that has a memmap, and what maps it."""
    out: dict[int, Entry] = {}
    pgd, first_pud, _ = indices(0)
    for up, entry in enumerate(memory.words(cr3 + 8 * pgd, PTRS - pgd)):
        # The vmemmap is one terabyte long (arch/x86/mm: after it comes a hole), two entries of the top table.
        if up == 2:
            break
        if not entry & PRESENT:
            continue
        for pud, below in enumerate(memory.words(entry & FRAME, PTRS)):
            if not below & PRESENT or (up == 0 and pud < first_pud):
                continue
            base = (up * PTRS + pud - first_pud) * SECTIONS_PER_PMD_TABLE
            for i, pmd in enumerate(memory.words(below & FRAME, PTRS)):
                if not pmd & PRESENT:
                    continue
                if pmd & LEAF:
                    out[base + i] = Leaf((pmd & FRAME) >> 12, bool(pmd & WRITABLE))
                else:
                    out[base + i] = memory.words(pmd & FRAME, PTRS).tobytes()
    return out


@lru_cache(maxsize=256)
def decode(table: bytes) -> tuple[int, ...]:
    """Each entry of a PTE table as frame * 2 + writable, -1 where nothing is mapped. Many look at the same table."""
    words = memoryview(table).cast("Q")
    return tuple([(pte & FRAME) >> 11 | (pte & WRITABLE) >> 1 if pte & PRESENT else -1 for pte in words])


class StructPages:
    """Struct pages, read through the mapping of one snapshot."""

    def __init__(self, memory: GuestMemory, mapping: dict[int, Entry]) -> None:
        self.memory = memory
        self.mapping = mapping
        self._decoded: dict[int, tuple[int, ...]] = {}

    def address(self, pfn: int) -> int | None:
        """Physical address of the struct page of `pfn`; None when it is not mapped."""
        section, at = divmod(pfn, SECTION_PFNS)
        entry = self.mapping.get(section)
        if entry is None:
            return None
        if isinstance(entry, Leaf):
            return (entry.frame << 12) + at * 64
        ptes = self._decoded.get(section)
        if ptes is None:
            ptes = self._decoded[section] = decode(entry)
        pte = ptes[at // 64]
        return None if pte < 0 else (pte >> 1 << 12) + at % 64 * 64

    def read(self, pfn: int) -> memoryview | None:
        """The eight words of a struct page."""
        address = self.address(pfn)
        return None if address is None else self.memory.words(address, PAGE_WORDS_STRUCT)

    def column(self, section: int, word: int, stride: int) -> list[tuple[int, int]]:
        """(pfn, that word of its struct page) of every `stride`-th pfn of a section, as far as they are mapped."""
        entry = self.mapping.get(section)
        first = section * SECTION_PFNS
        if entry is None:
            return []
        if isinstance(entry, Leaf):
            got = self.memory.words((entry.frame << 12) + 8 * word, SECTION_PFNS // stride, stride * PAGE_WORDS_STRUCT)
            return list(zip(range(first, first + SECTION_PFNS, stride), got, strict=True))
        out = []
        for pfn in range(first, first + SECTION_PFNS, stride):
            address = self.address(pfn)
            if address is not None:
                out.append((pfn, self.memory.words(address + 8 * word, 1)[0]))
        return out
