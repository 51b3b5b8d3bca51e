"""Which memory the areas for gigantic pages take (hugetlb_cma_reserve, mm/hugetlb_cma.c; cma_declare_contiguous_multi,
mm/cma.c, Linux 7.3), worked out from the command line and the RAM alone.

Both sides share the code that makes the areas. When they are made, nothing has been taken of a node's RAM but the
kernel's image, so what an area must get follows from the ranges of RAM.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Final, NamedTuple

from mm.kernel import Kernel

Ranges = list[tuple[int, int]]
"""(first pfn, end pfn)."""
MOST: Final = 8
"""CMA_MAX_RANGES."""
LOW: Final = 4 << 30
"""SZ_4G: an area lies above if it can."""


class Asked(NamedTuple):
    """hugetlb_cma=: bytes, or percent of memory, for all nodes or for single ones."""

    size: int
    percent: int
    in_node: list[int]
    percent_in_node: list[int]


class Areas(NamedTuple):
    """What the boot must make."""

    size: int
    """hugetlb_cma_size, bytes; 0 if nothing came of it."""
    made: list[tuple[int, Ranges]]
    """Node and ranges of each area, those that are of no use because they span zones included."""
    used: list[int]
    """Nodes whose area HugeTLB has."""


def areas(k: Kernel, said: Asked) -> Areas:
    """What the command line asks for. A part of memory is rounded down to gigantic pages; a size is one, or nothing."""
    gigantic = 1 << k.arch.hugetlb_cma_shift if k.arch.hugetlb_cma_shift else 1
    ram: dict[int, int] = {}
    for nid, lo, hi in k.machine.ram_ranges():
        ram[nid] = ram.get(nid, 0) + (hi - lo) * k.arch.page
    specific = any(said.in_node) or any(said.percent_in_node)
    parts = {nid: ram.get(nid, 0) * part // 100 for nid, part in enumerate(said.percent_in_node) if part}
    parts = {nid: n // gigantic * gigantic for nid, n in parts.items()}
    each = {**dict(enumerate(said.in_node)), **parts}
    size = sum(ram.values()) * said.percent // 100 // gigantic * gigantic if said.percent else said.size
    if not k.arch.hugetlb_cma_shift:
        return Areas(sum(each.values()) if specific else size, [], [])
    with_ram = sorted(ram)
    asked = {nid: n for nid, n in each.items() if n and nid in ram and n % gigantic == 0}
    total = sum(asked.values()) if specific else size
    if not total or total % gigantic:
        return Areas(0, [], [])
    share = -(-total // (gigantic * len(with_ram))) * gigantic
    out = Areas(total, [], [])
    left = total
    for nid in with_ram:
        wanted = asked.get(nid, 0) if asked else min(share, left)
        ranges = _area(k, nid, wanted // k.arch.page, gigantic // k.arch.page) if wanted else []
        if not ranges:
            continue
        out.made.append((nid, ranges))
        if all(_in_one_zone(k, lo, hi) for lo, hi in ranges):
            out.used.append(nid)
            left -= wanted
    return out if out.used else out._replace(size=0)


def _in_one_zone(k: Kernel, lo: int, hi: int) -> bool:
    """No range of an area meets two zones (cma_validate_zones)."""
    ends = [end >> k.arch.page_shift for _, end in k.arch.zones]
    return not any(lo < end < hi for end in ends)


def _area(k: Kernel, nid: int, n: int, align: int) -> Ranges:
    """cma_declare_contiguous_multi: one range if there is room for one, else several above 4G, else nothing."""
    free = _free(k, nid)
    above = [(-(-max(lo, LOW >> k.arch.page_shift) // align) * align, hi) for lo, hi in free]
    fits = [lo for lo, hi in above if lo + n <= hi]
    if fits:
        return [(min(fits), min(fits) + n)]
    below = [((hi - n) // align * align, lo) for lo, hi in free]
    fits = [pfn for pfn, lo in below if pfn >= lo]
    return [(max(fits), max(fits) + n)] if fits else _several(k, free, n, align)


def _free(k: Kernel, nid: int) -> Ranges:
    """The node's RAM behind the kernel's image, with which RAM begins; what lies between its parts has no gigantic
    page."""
    ram = k.machine.ram_ranges()
    end = ram[0][1] + (k.arch.image[-1][1] >> k.arch.page_shift)
    return [(max(lo, end), hi) for own, lo, hi in ram if own == nid]


def _several(k: Kernel, free: Ranges, n: int, align: int) -> Ranges:
    """The largest ranges above 4G, as far as the kernel's sorting finds them."""
    low = LOW >> k.arch.page_shift
    cut = [(-(-lo // align) * align, hi // align * align) for lo, hi in free if lo >= low]
    largest: Ranges = []
    for new in [(lo, hi) for lo, hi in cut if lo < hi]:
        if len(largest) == MOST:
            if _pages(new) < _pages(largest[-1]):
                continue
            del largest[-1]
        _insert(largest, new, lambda there, new: _pages(there) > _pages(new))
    sums = list(accumulate(_pages(found) for found in largest))
    if not sums or sums[-1] < n:
        return []
    chosen: Ranges = []
    for found in largest[: next(i for i, total in enumerate(sums) if total >= n) + 1]:
        _insert(chosen, found, lambda there, new: there < new)
    out: Ranges = []
    for lo, hi in chosen:
        if n:
            out.append((lo, min(hi, lo + n)))
            n -= _pages(out[-1])
    return out


def _pages(found: tuple[int, int]) -> int:
    return found[1] - found[0]


def _insert(there: Ranges, new: tuple[int, int], cmp: Callable[[tuple[int, int], tuple[int, int]], bool]) -> None:
    """list_insert_sorted: the walk stops at the first entry that compares, or at the last one; the new one goes before
    where it stopped."""
    for at, old in enumerate(there):
        if cmp(old, new) or at == len(there) - 1:
            there.insert(at, new)
            return
    there.append(new)
