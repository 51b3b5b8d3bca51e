"""The reference model against counters that were measured on Linux 7.3.4: huge pages.

Each test names its row of the table of observed numbers: changes of nr_memmap (mm), nr_memmap_boot (mb) and free pages,
and of the vmemmap pages that are mapped read-only (RO).
"""

from typing import NamedTuple

import pytest

from mm.boot import boot
from mm.errno import EBUSY, ENOMEM
from mm.hugetlb import dissolve_free_hugetlb_folio, hugetlb_map, hugetlb_unmap
from mm.hugetlb_sysfs import demote_store, nr_hugepages_store, nr_overcommit_hugepages_store
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.memory_hotplug import add_memory, memory_block_offline, memory_block_online, remove_memory
from mm.pgtable import Shared, Strided
from reference.paths import SeparatePaths

M2, G1 = 9, 18
M = 256
"""Pages of a mebibyte."""
BLOCK = 128 * M


class Reading(NamedTuple):
    mm: int
    mb: int
    ro: int
    free: int

    def __sub__(self, other):
        return Reading(*(a - b for a, b in zip(self, other, strict=True)))


def start(*requests, **machine):
    k = Kernel(Machine(**machine), SeparatePaths)
    k.boot_requests += requests
    assert boot(k) == 0
    return k


def read(k):
    ro = 0
    for lo, hi, m in k.tables.entries.items():
        if isinstance(m, Shared) and not m.rw:
            ro += hi - lo
        elif isinstance(m, Strided) and m.tail is not None and not m.tail_rw:
            ro += (hi - lo) // m.period * (m.period - m.keep)
    return Reading(k.vmstat.nr_memmap, k.vmstat.nr_memmap_boot, ro, sum(node_free(k, n.nid) for n in k.nodes))


def node_free(k, nid):
    return sum(zone.free_pages(k.arch.pmd_order) for zone in k.nodes[nid].zones)


def managed(k):
    return sum(zone.managed_pages for node in k.nodes for zone in node.zones)


def resize(k, order, to, nid=None):
    """The change that a write to nr_hugepages makes."""
    before = read(k)
    k.faults.begin()
    assert nr_hugepages_store(k, order, to, nid) == 0
    assert sum(k.hstates[order].nr) == to
    return read(k) - before


def pool(k, order):
    """[total, free, reserved, surplus], as the table writes a pool."""
    h = k.hstates[order]
    return [sum(h.nr), sum(len(free) for free in h.free), h.resv, sum(h.surplus)]


def test_first_ever_in_zone_then_more():
    k = start()
    assert resize(k, M2, 1)[:3] == (1, -8, 7)
    assert resize(k, M2, 11)[:3] == (10, -80, 70)
    # 11->10 restores one page; 10->266 takes it again: 255*(+1,-8) + 1*(-7)
    assert resize(k, M2, 10)[:3] == (7, 0, -7)
    assert resize(k, M2, 266)[:3] == (248, -2040, 1792)
    assert resize(k, M2, 0)[:3] == (1862, 0, -1862)


def test_10_pages_up_and_down_in_steady_state():
    k = start()
    resize(k, M2, 10)
    resize(k, M2, 0)
    assert resize(k, M2, 10) == (-70, 0, 70, -512 * 10 + 70)
    assert resize(k, M2, 0) == (70, 0, -70, 512 * 10 - 70)


def test_10_with_the_switch_off_then_10_with_it_on():
    k = start()
    resize(k, M2, 20)
    resize(k, M2, 0)
    assert k.paths.hugetlb_optimize_vmemmap_sysctl(False) == 0
    assert resize(k, M2, 10)[:3] == (0, 0, 0)
    assert k.paths.hugetlb_optimize_vmemmap_sysctl(True) == 0
    assert resize(k, M2, 20)[:3] == (-70, 0, 70)
    assert k.paths.hugetlb_optimize_vmemmap_sysctl(False) == 0
    assert resize(k, M2, 0)[:3] == (70, 0, -70)  # restoring does not ask the switch


def test_surplus_by_mmap():
    k = start()
    resize(k, M2, 6)
    resize(k, M2, 0)
    assert nr_overcommit_hugepages_store(k, M2, 4) == 0
    before = read(k)
    mapped = []
    assert hugetlb_map(k, M2, 2, None, mapped) == 0
    assert (read(k) - before)[:3] == (-14, 0, 14)
    assert pool(k, M2) == [2, 0, 0, 2]
    # mmap 4 over the limit: all rolled back
    held = read(k)
    assert hugetlb_map(k, M2, 4, None, []) == -ENOMEM
    assert read(k)[:3] == held[:3]
    assert pool(k, M2) == [2, 0, 0, 2]
    hugetlb_unmap(k, M2, mapped)
    assert read(k) == before


def test_nr_0_while_4_are_mapped():
    k = start()
    resize(k, M2, 4)
    mapped = []
    assert hugetlb_map(k, M2, 4, None, mapped) == 0
    before = read(k)
    assert nr_hugepages_store(k, M2, 0, None) == 0
    assert pool(k, M2) == [4, 0, 0, 4]
    assert nr_hugepages_store(k, M2, 3, None) == 0
    assert pool(k, M2) == [4, 0, 0, 1]
    assert read(k) == before


def test_1g_boot_pages():
    k = start(BootRequest(G1, 2, None), ram=6 << 30)
    off = start(BootRequest(G1, 2, None), ram=6 << 30, hugetlb_free_vmemmap=False)
    assert (off.vmstat.nr_memmap_boot, k.vmstat.nr_memmap_boot) == (24576, 16386)
    assert read(k).ro == 8190
    # MemTotal of the two boots, 1525206 and 1517033 pages: 8190 frames less, a tail and 16 page tables more.
    assert managed(k) - managed(off) == 1525206 - 1517033 == 8190 - 1 - 16
    # free boot 1G: exact
    assert resize(k, G1, 1) == (4095, 0, -4095, 258049)
    assert resize(k, G1, 0) == (4095, 0, -4095, 258049)


def test_runtime_1g_where_a_boot_page_was():
    """The only free gigabyte is that of the boot page; its head frame is replaced."""
    k = start(BootRequest(G1, 2, None), ram=3 << 30)
    assert resize(k, G1, 1) == (4095, 0, -4095, 258049)
    assert resize(k, G1, 2) == (-4094, -1, 4095, -258049)


def test_runtime_1g_in_untouched_memmap():
    k = start(ram=6 << 30)
    resize(k, G1, 1)  # the tail frame is there from now on
    leaves = 512 * 8
    assert resize(k, G1, 2) == (1, -leaves, 4095, -262144 + 4095 - 8)


@pytest.mark.parametrize("boot_page", [False, True])
def test_demote(boot_page):
    k = start(*[BootRequest(G1, 1, None)] * boot_page, ram=6 << 30)
    if not boot_page:
        resize(k, G1, 1)
    before = read(k)
    assert before.ro == 4095
    assert demote_store(k, G1, 1, None) == 0
    change = read(k) - before
    assert change[:2] == ((512, -1) if boot_page else (511, 0))
    assert read(k).ro == 3584
    assert pool(k, M2) == [512, 512, 0, 0]
    if not boot_page:
        assert change.free == -512  # 511 more heads are kept, and the tail frame of order 9


def test_surplus_1g_by_mmap():
    k = start(ram=6 << 30)
    resize(k, G1, 1)
    resize(k, G1, 0)
    assert nr_overcommit_hugepages_store(k, G1, 1) == 0
    before = read(k)
    assert hugetlb_map(k, G1, 1, None, []) == 0
    assert read(k) - before == (-4095, 0, 4095, -258049)  # as the run-time page
    assert pool(k, G1) == [1, 0, 0, 1]


def test_two_nodes():
    k = start(nodes=2)
    assert resize(k, M2, 8)[:3] == (8, -64, 56)
    assert k.hstates[M2].nr == [4, 4]
    tails = set()
    for _, _, m in k.tables.entries.items():
        tails.update({m.frame} if isinstance(m, Shared) else {m.tail} if isinstance(m, Strided) else ())
    assert sorted(k.pages.zone_of.get(tail).nid for tail in tails if tail is not None) == [0, 1]


def test_40_hugepages_on_a_hot_added_node():
    k = start(nodes=2)
    top = 6 << 18
    assert add_memory(k, 1, top, BLOCK, False) == 0
    assert memory_block_online(k, top // BLOCK, "online_movable") == 0
    before, own = read(k), node_free(k, 1)
    assert nr_hugepages_store(k, M2, 40, 1) == 0
    movable = [pfn for pfn in k.hstates[M2].folios if pfn >= top]
    assert len(movable) == 40
    assert (read(k) - before)[:3] == (-280, 0, 280)
    # The tail frame is the node's, the table of the split leaf is not.
    assert node_free(k, 1) - own == -20201
    own = node_free(k, 1)
    assert nr_hugepages_store(k, M2, 0, 1) == 0
    assert node_free(k, 1) - own == 20200


def test_free_optimized_page_that_is_dissolved():
    """Rows "poison/offline a free HVO page": +504, less the poisoned page itself, which the model does not take."""
    k = start()
    resize(k, M2, 2)
    before = read(k)
    assert dissolve_free_hugetlb_folio(k, min(k.hstates[M2].folios)) == 0
    assert read(k) - before == (7, 0, -7, 504 + 1)
    assert pool(k, M2) == [1, 1, 0, 0]


def test_hugepages_50_at_boot():
    without = start()
    k = start(BootRequest(M2, 50, None))
    assert read(k)[:3] == (50, without.vmstat.nr_memmap_boot - 400, 350)


def test_kmem_1g_whose_first_block_is_trimmed():
    k = start()
    top = 6 << 18
    before = read(k)
    assert add_memory(k, 0, top + BLOCK, 7 * BLOCK, False) == 0
    assert (read(k) - before)[:3] == (3584, 0, 0)
    # unbinding with a block online leaves it all
    assert memory_block_online(k, top // BLOCK + 1, "online_movable") == 0
    held = read(k)
    assert remove_memory(k, top + BLOCK, 7 * BLOCK) == -EBUSY
    assert read(k) == held
    assert memory_block_offline(k, top // BLOCK + 1) == 0
    assert remove_memory(k, top + BLOCK, 7 * BLOCK) == 0
    assert read(k) == before
