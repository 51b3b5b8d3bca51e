"""Operands resolved against the live state of the reference.

Each function draws one operand: mostly a value at which the kernel's behaviour changes in this very state, and for
about 15 % of operands a raw one, so that what the kernel refuses stays covered. Functions are named after what they
give.

Amounts that would make one operation handle many thousands of huge pages are not asked for (`MANY`): exhaustion is
reached the cheap way, by `pages alloc` of all but a few frames, or on a machine that is small.
"""

from __future__ import annotations

from typing import Final

from fuzz.generate.live import Device, Live, points_of
from fuzz.generate.weights import Draw
from fuzz.program.model import Op
from mm.hstate import HState
from mm.kernel import Kernel
from mm.memory import MemoryBlocks
from mm.page_alloc import OWNER_HUGETLB, OWNER_PAGES, OWNER_PAGES_MOVABLE
from mm.virtio_mem import subblock_pages

K: Final = 1 << 10
M: Final = 1 << 20
G: Final = 1 << 30

BESIDE_LEAVES: Final = 0.92
"""Share of devices that keep clear of PMD leaves, on architectures where leaves lie under parts of sections."""
RAW: Final = 0.15
"""Share of operands that do not look at the state."""

MANY: Final = 64
"""The most 2M pages that one operation takes where the state allows more: those whose memmap is a section's."""
MANY_GIGANTIC: Final = 2

LOW_HOLE: Final = 4 * G
"""End of the hole below 4G."""

_PROGRAMS: Final = frozenset({OWNER_PAGES, OWNER_PAGES_MOVABLE})
_NEAR: Final = (1, 1, 1, 1, -1, -1, -1, 2, 2, -2, 3, -3, 5, 8, -4, 16)
_LEFT: Final = (0, 0, 1, 2, 3, 7, 8, 9, 16, 64, 511, 512, 513, 1024, 4095, 4096, -1, -64)
"""Frames that `pages alloc` leaves free: what some heads, tails, page tables, one restore or one section need."""

_MEMORY_SECTIONS: Final = (*(1,) * 14, *(2,) * 4, 3, 4, 8)
_DAX_SECTIONS: Final = (1, 1, 1, 1, 1, 1, 2, 2, 3, 8)
_SHIFTS: Final = ((0, 0), (0, 0), (0, 0), (0, 2), (0, 2), (0.5, 0), (1, 0), (1, -2), (3, 0), (4, 0))
"""By how much a device lies beside a round address: (sections, megabytes)."""
_ODD: Final = (
    *(4 * K, 2 * M, 64 * M, 126 * M, 130 * M, 2 * M + 4 * K, 0, 1, 4 * M, 254 * M, G + 2 * M, 128 * M - 4 * K),
    *(16 * M, 64 * K, 510 * M, 2 * M + 64 * K),
)


def raw_number(draw: Draw) -> int:
    """A number of any magnitude up to 2**62, small ones as often as large ones."""
    bits = int(draw() * 63)
    return int(draw() * (1 << bits))


def raw_address(draw: Draw) -> int:
    """An address anywhere: on a 2M boundary below 64T, or any byte at all."""
    x = draw()
    if x < 0.7:
        return int(draw() * (1 << int(draw() * 26))) * 2 * M
    if x < 0.9:
        return int(draw() * (1 << int(draw() * 35))) * 4 * K
    return raw_number(draw)


def any_node(draw: Draw, live: Live) -> int | None:
    """No node, one of the machine, or rarely one that it does not have."""
    x = draw()
    if x < 0.5:
        return None
    nodes = live.kernel.machine.nodes
    return int(draw() * nodes) if x < 0.96 else nodes + int(draw() * 3)


def node(draw: Draw, live: Live) -> int:
    """A node of the machine, or rarely one that it does not have."""
    x = draw()
    nodes = live.kernel.machine.nodes
    return int(x * 1.04 * nodes) if nodes > 1 else 0 if x < 0.97 else 1 + int(draw() * 3)


def align(draw: Draw, live: Live) -> int:
    """An alignment for a device: mostly the PMD size, that of the PUD, the base page; rarely one of another machine."""
    arch = live.kernel.arch
    x = draw()
    if x < 0.65:
        return 1 << arch.pmd_shift
    if x < 0.8:
        return 1 << (arch.pud_shift if arch.pud_thp else arch.pmd_shift)
    return arch.page if x < 0.985 else 2 * M if draw() < 0.5 else G


def huge_page(draw: Draw, live: Live) -> HState:
    """A huge page pool: mostly that of the smallest size."""
    states = live.pools
    return states[-1] if draw() < 0.66 else states[0]


def fit(kernel: Kernel, pool: HState, nid: int | None) -> int:
    """How many pages of a size the free blocks can make, if placement is kind."""
    blocks = 0
    for of_node in kernel.nodes:
        if nid is None or of_node.nid == nid:
            for zone in of_node.zones:
                blocks += zone.blocks.total
    return blocks >> (pool.order - kernel.arch.pmd_order)


def pool_target(draw: Draw, live: Live, pool: HState, nid: int | None) -> int:
    """nr_hugepages: near the present number, none, half, all that fit, one more than that."""
    now = pool.persistent if nid is None or nid >= len(pool.nr) else pool.nr[nid] - pool.surplus[nid]
    now = max(0, now)  # there may be more surplus pages than pages (docs/findings/0002)
    x = draw()
    if x < 0.6:
        return max(0, now + _NEAR[int(draw() * len(_NEAR))])
    if x < 0.73:
        return 0
    if x < 0.77:
        return now
    if x < 0.81:
        return now // 2
    room = fit(live.kernel, pool, nid)
    most = MANY_GIGANTIC if pool.gigantic else MANY
    if x < 1 - RAW:
        target = max(0, now + room + int(draw() * 3) - 1)
    else:
        target = raw_number(draw) if draw() < 0.25 else int(draw() * 24)
    if room > most and target > now + most:
        return now + int(draw() * 8) if draw() < 0.9 else now + most
    return target


def overcommit(draw: Draw, live: Live, pool: HState) -> int:
    """nr_overcommit_hugepages: a few, none, as many as there are surplus pages."""
    x = draw()
    if x < 0.5:
        return 1 + int(draw() * 8)
    if x < 0.7:
        return 0
    surplus = sum(pool.surplus)
    if x < 1 - RAW:
        return max(0, surplus + int(draw() * 3) - 1)
    return raw_number(draw) if fit(live.kernel, pool, None) <= (1 if pool.gigantic else MANY) else int(draw() * 256)


def map_count(draw: Draw, pool: HState, nid: int | None) -> int:
    """Huge pages to map: some of the free ones, all of them, as many as overcommit allows on top, one more."""
    free = pool.free_count() if nid is None or nid >= len(pool.free) else len(pool.free[nid])
    x = draw()
    if x < 0.45:
        return 1 + int(draw() * min(free, 8))
    if x < 0.6:
        return free
    extra = max(0, pool.nr_overcommit - sum(pool.surplus))
    if x < 0.7:
        return free + 1
    if x < 1 - RAW:
        return free + min(extra, 6) + int(draw() * 3) // 2
    return int(draw() * 24)


def demote_count(draw: Draw, pool: HState, nid: int | None) -> int:
    """Pages to demote: one, all free ones, one more, none."""
    free = pool.free_count() if nid is None or nid >= len(pool.free) else len(pool.free[nid])
    x = draw()
    if x < 0.6:
        return 1
    if x < 0.8:
        return free
    if x < 1 - RAW:
        return free + 1
    return int(draw() * 3) if draw() < 0.7 else raw_number(draw)


def hugetlb_address(draw: Draw, live: Live) -> int:
    """An address for `hugetlb dissolve`: in a free folio, in a folio of any state, in ordinary memory, anywhere."""
    kernel = live.kernel
    page = kernel.arch.page
    x = draw()
    if x < 0.3:
        pool = huge_page(draw, live)
        for free in pool.free:
            if free:
                pfn = next(iter(free)) if draw() < 0.5 else next(reversed(free))
                return (pfn + (int(draw() * pool.pages) if draw() >= 0.5 else 0)) * page
    if x < 1 - RAW:
        owners = kernel.pages.owners
        start = int(draw() * len(owners.starts))
        for i in range(start, min(start + 4, len(owners.starts))):
            if owners.vals[i] == OWNER_HUGETLB:
                first = owners.starts[i]
                return (first + int(draw() * (owners.ends[i] - first))) * page
    return raw_address(draw) if draw() < 0.3 else int(draw() * live.top)


def poison_address(draw: Draw, live: Live) -> int:
    """An address to take out of use: in a huge page, of a program's page, free or poisoned, of a device, anywhere."""
    kernel = live.kernel
    page = kernel.arch.page
    waiting = kernel.hpage_freelist
    if waiting and draw() >= 0.1:
        return waiting[int(draw() * len(waiting))].pfn * page
    x = draw()
    if x < 0.55:
        return hugetlb_address(draw, live)
    if x < 0.65:  # another page of a poisoned huge page, or the same one
        for h in kernel.hstates.values():
            for folio in h.folios.values() if len(h.folios) <= MANY else ():
                if folio.hwpoison:
                    hit = (*folio.raw_hwp, folio.pfn)[0]
                    return (hit if draw() < 0.5 else folio.pfn + int(draw() * h.pages)) * page
    if x < 0.8:
        owners = kernel.pages.owners
        start = int(draw() * len(owners.starts))
        for i in range(start, min(start + 8, len(owners.starts))):
            if owners.vals[i] in _PROGRAMS:
                return (owners.starts[i] + int(draw() * (owners.ends[i] - owners.starts[i]))) * page
    if x < 1 - RAW:
        device = None
        if live.devices and draw() < 0.3:  # rather one that is system RAM
            devices = [device for device in live.devices for _ in range(3 if device.driver == "kmem" else 1)]
            device = devices[int(draw() * len(devices))]
        at, size = device.ranges[0] if device else _some_range(draw, live)
        return at + int(draw() * (size // page)) * page
    return poisoned_address(draw, live) if draw() < 0.4 else raw_address(draw)


def poisoned_address(draw: Draw, live: Live) -> int:
    """An address to unpoison: a frame out of use, the head of a poisoned huge page, anything."""
    kernel = live.kernel
    page = kernel.arch.page
    x = draw()
    marked = kernel.pages.hwpoison
    if marked and x < 0.7:
        return list(marked)[int(draw() * len(marked))] * page
    if x < 1 - RAW:
        for h in kernel.hstates.values():
            for folio in h.folios.values() if len(h.folios) <= MANY else ():
                if folio.hwpoison:
                    return folio.pfn * page
    return hugetlb_address(draw, live)


def contiguous(draw: Draw, live: Live) -> tuple[int, int]:
    """A range for `pages contig`: pageblocks from a huge page, a movable page or anything on; sometimes odd."""
    kernel = live.kernel
    page, block = kernel.arch.page, kernel.arch.page << kernel.arch.pmd_order
    x = draw()
    at = hugetlb_address(draw, live)
    if x < 0.3:
        owners = kernel.pages.owners
        start = int(draw() * len(owners.starts))
        for i in range(start, min(start + 8, len(owners.starts))):
            if owners.vals[i] == OWNER_PAGES_MOVABLE:
                at = owners.starts[i] * page
                break
    if x < 1 - RAW:
        return at & -block, block * (1, 1, 1, 2, 2, 4, 8, 16)[int(draw() * 8)]
    if x < 0.97:
        return at & -page, page * (1 + int(draw() * 1500))
    return raw_address(draw), raw_number(draw)


_SECOND_ENTRY: Final = 32 << 40
"""Where memory begins whose memory map is not under the first top-level page table entry (x86-64: 512G of vmemmap)."""


def new_range(draw: Draw, live: Live, size: int) -> int:
    """Where to put new memory: behind or before what is there, where something was, in a hole, over something."""
    x = draw()
    section = live.section
    above = -(-live.top // section) * section
    if x < 0.3:
        return above
    if x < 0.45 and live.vacated:
        return live.vacated[int(draw() * len(live.vacated))][0]
    if x < 0.6:
        at, length = _some_range(draw, live)
        return at + length if x < 0.54 else max(0, at - size)
    if x < 0.68:
        return hole(draw, live)
    if x < 0.75:
        return -(-above // G) * G
    if x < 0.8:
        return above + (1 + int(draw() * 12)) * section
    if x < 1 - RAW:
        at, length = _some_range(draw, live)
        return at + int(draw() * (length // section + 1)) * section
    if x < 0.9:
        return above + _ODD[int(draw() * len(_ODD))]
    return raw_address(draw) if x < 0.985 else _SECOND_ENTRY


def hole(draw: Draw, live: Live) -> int:
    """A section in the hole below 4G, or where there is no such hole, in the first 4G above RAM."""
    first = live.rams[0].at + live.rams[0].size
    for ram in live.rams:
        if ram.at <= first <= ram.at + ram.size <= LOW_HOLE:
            first = ram.at + ram.size
    section = live.section
    start = -(-first // section) * section
    end = LOW_HOLE if start < LOW_HOLE else start + LOW_HOLE
    return start + int(draw() * ((end - start) // section)) * section


def _some_range(draw: Draw, live: Live) -> tuple[int, int]:
    """A range in use: hot-added memory, a device, or boot memory."""
    memory, devices = len(live.memory), len(live.devices)
    i = int(draw() * (memory + devices + 1))
    if i < memory:
        return live.memory[i][1:]
    if i < memory + devices:
        ranges = live.devices[i - memory].ranges
        return ranges[int(draw() * len(ranges))]
    return live.rams[int(draw() * len(live.rams))][1:]


def memory_size(draw: Draw, live: Live) -> int:
    """Sizes for `memory add`: a few blocks; rarely none, odd, or huge."""
    x = draw()
    if x < 0.93:
        return live.section * _MEMORY_SECTIONS[int(draw() * len(_MEMORY_SECTIONS))]
    return _ODD[int(draw() * len(_ODD))] if x < 0.999 else 16 * G + int(draw() * 48) * G


def device_ranges(draw: Draw, live: Live, align: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Addresses and sizes of one to three ranges for `dax create`."""
    at, size = _device_range(draw, live, align)
    starts, sizes = [at], [size]
    more = draw()
    for _ in range(0 if more < 0.88 else 1 if more < 0.96 else 2):
        at += size + (0 if draw() < 0.4 else int(draw() * 4) * live.section)
        size = _device_size(draw, live, align) if draw() < 0.85 else size
        starts.append(at)
        sizes.append(size)
    if live.kernel.arch.tails_beside_leaves and draw() < BESIDE_LEAVES:
        _apart_from_leaves(live, align, starts, sizes)
    return tuple(starts), tuple(sizes)


def _apart_from_leaves(live: Live, align: int, starts: list[int], sizes: list[int]) -> None:
    """Move ranges to memory blocks of their own, where no PMD leaf lies under compound pages, and no compound page in a
    part of a section: where they do, the two sides part for good (ledger, dax-partial-section-leaf,
    radix-leaf-under-compounds, dax-1g-unaligned-start).
    """
    arch, block = live.kernel.arch, live.section
    unit = max(block, align) if arch.compounds_by_pfn else block
    end = 0
    for i, (at, size) in enumerate(zip(starts, sizes, strict=True)):
        starts[i] = max(-(-at // unit), -(-end // unit)) * unit
        if arch.vmemmap_pages((align // arch.page).bit_length() - 1):
            sizes[i] = -(-size // block) * block
        end = starts[i] + sizes[i]


def _device_range(draw: Draw, live: Live, align: int) -> tuple[int, int]:
    rest = -live.ram_end % live.section
    x = draw()
    if rest and x >= 0.85:  # in the part of the last boot section that has no RAM
        skip = int(draw() * (rest // (2 * M))) * 2 * M if x >= 0.93 else 0
        size = rest - skip if draw() < 0.6 else 2 * M * (1 + int(draw() * ((rest - skip) // (2 * M))))
        return live.ram_end + skip, size
    size = _device_size(draw, live, align)
    at = new_range(draw, live, size)
    if align >= G and x < 0.5:
        at = -(-at // align) * align
    elif x < 0.2:
        sections, megabytes = _SHIFTS[int(draw() * len(_SHIFTS))]
        at += int(live.section * sections) + megabytes * M
    return at, size


def _device_size(draw: Draw, live: Live, align: int) -> int:
    x = draw()
    if align >= G and x < 0.8:
        return align * (1 + int(draw() * 1.3))
    if x < 0.65:
        return live.section * _DAX_SECTIONS[int(draw() * len(_DAX_SECTIONS))]
    if x < 1 - RAW:
        return 2 * M * (1 + int(draw() * 160))
    return _ODD[int(draw() * len(_ODD))] if x < 0.998 else G * int(draw() * 64)


def block(draw: Draw, live: Live, at: int, size: int, online: bool) -> int:
    """Number in its range of a memory block that is online (or offline); sometimes of any block, or of none."""
    blocks = live.kernel.memory_blocks
    per = blocks.pages * live.kernel.arch.page
    first, last = at // per, -(-(at + size) // per)
    x = draw()
    if x < 1 - RAW:
        runs = [run for run in blocks.zone.runs(first, last) if (run[2] != MemoryBlocks.OFFLINE) is online]
        if runs:
            lo, hi, _ = runs[int(draw() * len(runs))]
            return (hi - 1 if draw() < 0.3 else lo + int(draw() * (hi - lo))) - first
    if x < 0.97:
        return int(draw() * (last - first))
    return last - first if x < 0.99 else raw_number(draw)


def subblocks(draw: Draw, live: Live, at: int, size: int, plugged: bool) -> tuple[int, int, int]:
    """Block of a range, first subblock and number of subblocks, plugged or not; sometimes any, or none."""
    blocks = live.kernel.memory_blocks
    page, unit = live.kernel.arch.page, subblock_pages(live.kernel)
    per = blocks.pages
    first, last = at // page // per, -(-(at + size) // page // per)
    block = first + int(draw() * (last - first))
    start, end = block * per, (block + 1) * per
    x = draw()
    if x < 1 - RAW:
        rows = blocks.unplugged.runs(start, end)
        if plugged:
            edges = [start, *(edge for row in rows for edge in row), end]
            rows = [(lo, hi) for lo, hi in zip(edges[::2], edges[1::2], strict=True) if lo < hi]
        if rows:
            lo, hi = rows[int(draw() * len(rows))]
            number, most = (lo - start) // unit, max(1, (hi - lo) // unit)
            skip = int(draw() * most)
            count = 1 if draw() < 0.6 else 1 + int(draw() * (most - skip))
            return block - first, number + skip, count
    if x < 0.98:
        return block - first, int(draw() * (per // unit + 1)), int(draw() * 4)
    return int(draw() * (last - first + 1)), raw_number(draw), raw_number(draw)


def device_block(draw: Draw, live: Live, device: Device, online: bool) -> int:
    """Number among its whole blocks of a device's memory block that is online (or offline); sometimes of any, or of
    none."""
    blocks = live.kernel.memory_blocks
    per = blocks.pages * live.kernel.arch.page
    numbers = [b for at, size in device.ranges for b in range(-(-at // per), min((at + size) // per, at // per + 64))]
    x = draw()
    if x < 1 - RAW:
        fitting = [
            i
            for i, block in enumerate(numbers)
            if (state := blocks.zone.get(block)) is not None and (state != MemoryBlocks.OFFLINE) is online
        ]
        if blocks.nr_hwpoison and draw() >= 0.5:  # which may go offline, and not come back
            fitting = [i for i in fitting if numbers[i] in blocks.nr_hwpoison] or fitting
        if fitting:
            return fitting[int(draw() * len(fitting))]
    return int(draw() * (len(numbers) + 1)) if x < 0.99 else raw_number(draw)


def frames(draw: Draw, live: Live, nid: int, movable: bool) -> int:
    """Pages for `pages alloc`: all that are free but a few, some, one block's worth, one more than there are."""
    x = draw()
    if x < 0.25:
        return 1 + int(draw() * 600)
    nodes = live.kernel.nodes
    if x < 1 - RAW and nid < len(nodes):
        free = 0
        for zone in nodes[nid].zones[: 4 if movable else 3]:
            free += zone.free_pages(live.kernel.arch.pmd_order)
        if x < 0.7:
            return max(0, free - _LEFT[int(draw() * len(_LEFT))])
        return int(free * draw())
    return 1 << int(draw() * 18) if x < 0.97 else raw_number(draw)


def nth(draw: Draw, live: Live, op: Op) -> int:
    """The allocation point of an operation to fail: an early one, any that such an operation of that size reached last
    time, the last, one more."""
    x = draw()
    last = live.last_points.get(points_of(op), 0)
    if x < 0.25 or not last:
        # The first few are the likeliest; the steps of a longer path are behind them.
        return 1 + int(draw() * (4 if draw() < 0.5 else 12))
    if x < 0.45:
        return 1 + int(draw() * min(last, 12))
    if x < 0.75:
        return 1 + int(draw() * last)
    if x < 1 - RAW:
        return last
    return last + 1 if x < 0.95 else 1 + raw_number(draw)


def times(draw: Draw) -> int:
    """How many points fail: mostly one; two and three, for what undoes or repeats something; or a row."""
    x = draw()
    return 1 if x < 0.75 else 2 if x < 0.87 else 3 if x < 0.93 else 1 << 1 + int(draw() * 10)
