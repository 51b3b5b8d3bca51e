"""The reference model against counters that were measured on Linux 7.3.4: hotplug, memmap_on_memory and device DAX.

Each test names its row of the table of observed numbers: changes of nr_memmap (mm), nr_memmap_boot (mb) and free
pages, and how the memory map is mapped.
"""

from typing import NamedTuple

import pytest

from mm.boot import boot
from mm.dax import create_dev_dax, unregister_dev_dax
from mm.dev_dax import DevDax
from mm.errno import EBUSY, EINVAL
from mm.hugetlb_sysfs import nr_hugepages_store
from mm.kernel import Kernel
from mm.machine import Machine
from mm.memory_hotplug import add_memory, memory_block_offline, memory_block_online, remove_memory
from mm.page_alloc import pages_alloc
from mm.pgtable import Leaf, Pte, Shared, Strided, private_frames
from reference.paths import SeparatePaths

M = 256
"""Pages of a mebibyte."""
G = 1024 * M
BLOCK = 128 * M
TOP = 6 * G
"""First pfn after 4G of RAM."""
SIZES = {"4K": 4 << 10, "2M": 2 << 20, "1G": 1 << 30}


class Reading(NamedTuple):
    mm: int
    mb: int
    free: int

    def since(self, other):
        return Reading(*(a - b for a, b in zip(self, other, strict=True)))


class Mapping(NamedTuple):
    pmd: int
    """PMD leaves."""
    pte: int
    ro: int
    """PTEs that are read-only."""
    frames: int
    """Distinct frames behind the PTEs."""


def start(**machine):
    k = Kernel(Machine(**machine), SeparatePaths)
    assert boot(k) == 0
    k.faults.begin()
    return k


def read(k):
    free = sum(zone.free_pages(k.arch.pmd_order) for node in k.nodes for zone in node.zones)
    return Reading(k.vmstat.nr_memmap, k.vmstat.nr_memmap_boot, free)


def mapping(k, pfn, end):
    """How the memmap of [pfn, end) is mapped, as a walk of the page tables sees it."""
    pmd = pte = ro = 0
    frames = set()
    for lo, hi, m in k.tables.runs(pfn // 64, end // 64):
        if isinstance(m, Leaf):
            pmd += (hi - lo) // 512
            continue
        pte += hi - lo
        frames.update(f for frame, n in private_frames(m, lo, hi) for f in range(frame, frame + n))
        if isinstance(m, Shared):
            frames.add(m.frame)
            ro += 0 if m.rw else hi - lo
        elif isinstance(m, Strided) and m.tail is not None:
            frames.add(m.tail)
            ro += 0 if m.tail_rw else (hi - lo) // m.period * (m.period - m.keep)
        else:
            assert isinstance(m, Pte | Strided)
    return Mapping(pmd, pte, ro, len(frames))


def probe(k, ranges, align="2M", altmap=False):
    device = create_dev_dax(k, ranges, SIZES[align], altmap, 0)
    assert isinstance(device, DevDax)
    return device


# -- DIMMs ----------------------------------------------------------------------------------------------------------


def test_dimm_512m_plug_offline():
    k = start()
    before = read(k)
    assert add_memory(k, 0, TOP, 512 * M, False) == 0
    assert read(k).since(before) == (2048, 0, -2048)
    assert mapping(k, TOP, TOP + 512 * M) == (4, 0, 0, 0)
    # unplug: back to before, memory exact
    assert remove_memory(k, TOP, 512 * M) == 0
    assert read(k) == before
    assert mapping(k, TOP, TOP + 512 * M) == (0, 0, 0, 0)


@pytest.mark.parametrize("mode", ["on", "force"])
def test_same_with_memmap_on_memory(mode):
    k = start(memmap_on_memory=mode)
    before = read(k)
    assert add_memory(k, 0, TOP, 512 * M, True) == 0
    assert read(k).since(before) == (2048, 0, 0)
    assert mapping(k, TOP, TOP + 512 * M) == (4, 0, 0, 0)
    for vpn, end, leaf in k.tables.runs(TOP // 64, (TOP + 512 * M) // 64):
        assert isinstance(leaf, Leaf)
        assert TOP <= vpn + leaf.delta < end + leaf.delta <= TOP + 512 * M
    assert remove_memory(k, TOP, 512 * M) == 0
    assert read(k) == before


@pytest.mark.parametrize(("mode", "pages", "kilobytes"), [("off", 32768, 131072), ("on", 32256, 129024)])
def test_online_movable_block(mode, pages, kilobytes):
    k = start(memmap_on_memory=mode)
    assert add_memory(k, 0, TOP, BLOCK, True) == 0
    before = read(k)
    managed = sum(zone.managed_pages for zone in k.nodes[0].zones)
    assert memory_block_online(k, TOP // BLOCK, "online_movable") == 0
    assert read(k).since(before) == (0, 0, pages)
    assert (sum(zone.managed_pages for zone in k.nodes[0].zones) - managed) * 4 == kilobytes
    assert memory_block_offline(k, TOP // BLOCK) == 0
    assert read(k) == before


def test_40_hugepages_on_self_hosted_memory():
    k = start(memmap_on_memory="on")
    assert add_memory(k, 0, TOP, BLOCK, True) == 0
    assert memory_block_online(k, TOP // BLOCK, "online_movable") == 0
    assert nr_hugepages_store(k, 9, 1, 0) == 0  # the zone's tail frame is there from now on
    assert nr_hugepages_store(k, 9, 0, 0) == 0
    before = read(k)
    assert nr_hugepages_store(k, 9, 40, 0) == 0
    assert all(pfn >= TOP for pfn in k.hstates[9].folios)
    assert read(k).since(before) == (0, 0, -20480)
    assert mapping(k, TOP, TOP + BLOCK) == (1, 0, 0, 0)


def test_offline_block_holding_6_free_hvo_pages():
    k = start()
    assert add_memory(k, 0, TOP, BLOCK, False) == 0
    assert memory_block_online(k, TOP // BLOCK, "online_movable") == 0
    assert nr_hugepages_store(k, 9, 6, 0) == 0
    assert mapping(k, TOP, TOP + BLOCK).ro == 42
    before = read(k)
    assert memory_block_offline(k, TOP // BLOCK) == 0
    change = read(k).since(before)
    assert (change.mm, change.mb) == (42, 0)
    assert mapping(k, TOP, TOP + BLOCK) == (0, 512, 0, 512)
    assert sum(k.hstates[9].nr) == 0
    # unplug (PMD leaves + 1 split table): back to before
    assert remove_memory(k, TOP, BLOCK) == 0
    assert read(k).mm == 0


def test_offline_again_and_online_kernel_block_with_slab():
    k = start()
    assert add_memory(k, 0, TOP, BLOCK, False) == 0
    block = TOP // BLOCK
    assert memory_block_offline(k, block) == -EINVAL
    assert memory_block_online(k, block, "online_kernel") == 0
    assert not isinstance(pages_alloc(k, 0, 1, movable=False), int)
    holder = next(lo // BLOCK for lo, _, owner in k.pages.owners.items() if owner == "pages")
    before = read(k)
    assert memory_block_offline(k, holder) == -EBUSY
    assert read(k) == before


# -- device DAX -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("align", "mm", "free", "maps"),
    [
        ("2M", 3072, -3072 - 24, (0, 12288, 0, 3072)),
        ("1G", 6, -6 - 24, (0, 12288, 0, 6)),
        ("4K", 12288, -12288, (24, 0, 0, 0)),
    ],
)
def test_devdax_3g_map_mem(align, mm, free, maps):
    k = start()
    before = read(k)
    device = probe(k, [(TOP, TOP + 3 * G)], align)
    assert read(k).since(before) == (mm, 0, free)
    assert mapping(k, TOP, TOP + 3 * G) == maps
    unregister_dev_dax(k, device)
    assert read(k) == before
    assert mapping(k, TOP, TOP + 3 * G) == (0, 0, 0, 0)


@pytest.mark.parametrize("align", ["2M", "1G", "4K"])
def test_devdax_3g_map_dev(align):
    k = start()
    before = read(k)
    device = probe(k, [(TOP, TOP + 3 * G)], align, altmap=True)
    assert read(k).since(before) == (12288, 0, 0)
    assert mapping(k, TOP, TOP + 3 * G) == (24, 0, 0, 0)
    for vpn, end, leaf in k.tables.runs(TOP // 64, (TOP + 3 * G) // 64):
        assert isinstance(leaf, Leaf)
        assert TOP <= vpn + leaf.delta < end + leaf.delta <= TOP + device.pgmap.altmap.offset()
    unregister_dev_dax(k, device)
    assert read(k) == before


@pytest.mark.parametrize("first", [0, 1])
def test_two_pmem_regions_sharing_one_section(first):
    k = start()
    before = read(k)
    a = probe(k, [(TOP, TOP + 64 * M)])
    assert read(k).mm - before.mm == 64
    b = probe(k, [(TOP + 64 * M, TOP + 256 * M)])
    assert read(k).mm - before.mm == 64 + 192
    assert mapping(k, TOP, TOP + 256 * M) == (0, 1024, 0, 256)
    table = TOP // 64 // 512
    unregister_dev_dax(k, (a, b)[first])
    assert k.tables.tables[0].get(table) is not None
    unregister_dev_dax(k, (b, a)[first])
    assert k.tables.tables[0].get(table) is None
    assert read(k) == before


def test_pmem_starting_mid_section_after_ram():
    k = start(ram=(1 << 30) + (64 << 20))
    before = read(k)
    end_of_ram = G + 64 * M
    device = probe(k, [(end_of_ram, end_of_ram + 64 * M + 7 * BLOCK)])
    assert read(k).since(before)[:2] == (896, 0)
    assert mapping(k, G, G + BLOCK) == (1, 0, 0, 0)  # the boot section keeps its PMD leaf
    assert mapping(k, G + BLOCK, G + 8 * BLOCK) == (0, 7 * 512, 0, 896)
    # HVO in its RAM half works
    assert nr_hugepages_store(k, 9, 1, None) == 0
    assert read(k).since(before)[:2] == (896 + 1, -8)
    assert nr_hugepages_store(k, 9, 0, None) == 0
    unregister_dev_dax(k, device)
    assert read(k).since(before)[:2] == (8, -8)


@pytest.mark.parametrize(
    "sizes",
    [(512, 512, 512), (256, 256, 256), (66,), (130,)],
    ids=["512M x3", "768M over two holes", "66M", "130M"],
)
def test_dax_hmem(sizes):
    k = start()
    before = read(k)
    at = TOP
    ranges = []
    for size in sizes:
        ranges.append((at, at + size * M))
        at += (size + 512) * M
    device = probe(k, ranges)
    # 2 per 2M, and a table for each section that is touched
    sections = sum(-(-size // 128) for size in sizes)
    assert read(k).since(before) == (sum(sizes), 0, -sum(sizes) - sections)
    assert mapping(k, TOP, at) == (0, 4 * sum(sizes), 0, sum(sizes))
    unregister_dev_dax(k, device)
    assert read(k) == before
