"""What is special to riscv64, loongarch64, arm64 and s390: separate-paths.md 1.2, 3.17, arch/*/mm of Linux 7.3."""

from errno import ENOMEM, EPERM

import pytest

from mm.altmap import Altmap
from mm.memory_hotplug import add_memory, memory_block_offline, memory_block_online
from mm.page_alloc import OWNER_MEMMAP, KernelBug
from tests.reference.arches import FAR, G, M, add, device, kinds, owned, pages, remove, settled, vpns

# -- riscv64 --------------------------------------------------------------------------------------------------------


def test_riscv_part_of_a_section_is_a_leaf(on, trace):
    """1.2: frames of a partial section: PMD leaf; the next part of it finds the leaf there."""
    k = on("riscv64")
    add(k, FAR + 128 * M, 2 * M)
    assert trace(k, 0, lambda: add(k, FAR, 2 * M)) == ["USG", "VMB"]
    assert owned(k, OWNER_MEMMAP) == 2 * 512
    assert kinds(k, FAR, 128 * M) == {"leaf"}
    assert trace(k, 0, lambda: add(k, FAR + 2 * M, 2 * M)) == []
    assert k.vmstat.nr_memmap == 3 * 8


def test_riscv_removing_a_part_takes_the_leaf(on):
    """arch/riscv/mm/init.c:remove_pmd_mapping clears a leaf without asking how much of it the range covers."""
    k = on("riscv64")
    one, two = device(k, FAR, 64 * M, 4096), device(k, FAR + 64 * M, 64 * M, 4096)
    add(k, FAR, 64 * M, None, one)
    add(k, FAR + 64 * M, 64 * M, None, two)
    remove(k, FAR, 64 * M, None, one)
    assert kinds(k, FAR, 128 * M) == set()
    assert owned(k, OWNER_MEMMAP) == 0
    # The second device's struct pages are gone under it; removing it finds nothing.
    with pytest.raises(KernelBug, match="not mapped"):
        k.paths.memmap_init_zone_device(k.nodes[0].zones[4], pages(k, FAR + 64 * M), 16384, two)
    remove(k, FAR + 64 * M, 64 * M, None, two)
    assert k.vmstat.nr_memmap == 0


def test_riscv_altmap(on, snapshot):
    """2.3: riscv credits the altmap at both levels; 3.17: an exhausted one is -ENOMEM, and a part needs a block."""
    k = on("riscv64")
    before = snapshot(k)
    altmap = Altmap(pages(k, FAR), pages(k, FAR + 128 * M), 0, 512)
    assert add(k, FAR, 128 * M, altmap) == 0
    assert (altmap.alloc, k.vmstat.nr_memmap, owned(k, OWNER_MEMMAP)) == (512, 512, 0)
    remove(k, FAR, 128 * M, altmap)
    assert altmap.alloc == 0
    assert snapshot(k) == before
    short = Altmap(pages(k, FAR), pages(k, FAR + 64 * M), 0, 300)
    assert add(k, FAR, 64 * M, short) == -ENOMEM
    assert snapshot(k) == before
    # HVO in a leaf that the altmap gave is vetoed elsewhere; by force, its PTEs are credited too.
    altmap = Altmap(pages(k, FAR), pages(k, FAR + 128 * M), 0, 512)
    add(k, FAR, 128 * M, altmap)
    lo = vpns(k, FAR, 128 * M)[0]
    k.tables.split_leaf(lo // 512, k.pages.alloc_page(0, "pgtable"))
    remove(k, FAR, 128 * M, altmap)
    assert altmap.alloc == 0


# -- loongarch64 ----------------------------------------------------------------------------------------------------


def test_loongarch_failed_add(on, trace):
    """3.17 step 6 with an empty vmemmap_free: the counter is back (Q1), what was mapped before the failure stays."""
    k = on("loongarch64", 4)
    rc = []
    points = trace(k, 5, lambda: rc.append(add(k, FAR, 512 * M)))
    # The second of four blocks fails, and base pages stand in for it.
    assert points[:5] == ["ROOT", "USG", "PGT", "VMB", "VMB"]
    assert rc == [0]
    remove(k, FAR, 512 * M)
    far = FAR + (1 << 45)
    points = trace(k, 3, lambda: rc.append(add(k, far, 512 * M)))
    assert (points, rc[-1]) == (["ROOT", "USG", "PGT"], -ENOMEM)
    assert k.vmstat.nr_memmap == 0
    assert not k.sections.valid(pages(k, far))


@pytest.mark.parametrize(("kib", "leaf"), [(4, 128 * M), (16, 8 * G), (64, 512 * G)])
def test_loongarch_keeps_the_memmap(on, trace, kib, leaf):
    """1.2: one PMD leaf describes 128M, 8G or 512G; vmemmap_free is empty; the altmap is ignored."""
    k = on("loongarch64", kib)
    section = 512 * M
    altmap = Altmap(pages(k, FAR), pages(k, FAR + section), 0, 1 << 20)
    points = trace(k, 0, lambda: add(k, FAR, section, altmap))
    blocks = max(1, section // leaf)
    assert points.count("VMB") == blocks
    assert owned(k, OWNER_MEMMAP) == blocks * k.arch.ptrs_per_pte
    assert altmap.alloc == 0
    n = section // k.arch.page * 64 // k.arch.page
    assert k.vmstat.nr_memmap == n
    remove(k, FAR, section, altmap)
    assert k.vmstat.nr_memmap == 0
    assert kinds(k, FAR, section) == {"leaf"}
    # What comes next in the leaf's range finds it there.
    assert trace(k, 0, lambda: add(k, FAR, section)) == ["USG"]
    behind = trace(k, 0, lambda: add(k, FAR + section, section))
    assert behind == (["USG"] + ["VMB"] * 4 if kib == 4 else ["USG"])
    assert k.vmstat.nr_memmap == 2 * n


# -- arm64, s390 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kib", [4, 16, 64])
def test_arm64_altmap(on, snapshot, kib):
    """1.2, 3.17: base pages of a partial section honour the altmap, and so do the leaves of a whole one (4K only)."""
    k = on("arm64", kib)
    empty = snapshot(k)
    section = 1 << k.arch.section_shift
    full = k.arch.vmemmap_per_section
    part = -(-pages(k, 2 * M) * 64 // k.arch.page)
    altmap = Altmap(pages(k, FAR), pages(k, FAR + 2 * section), 0, 2 * full)
    assert add(k, FAR, section + 2 * M, altmap) == 0
    assert altmap.alloc == full + part
    assert owned(k, OWNER_MEMMAP) == 0
    assert kinds(k, FAR, section) == ({"leaf"} if kib == 4 else {"pte"})
    assert kinds(k, FAR + section, 2 * M) == {"pte"}
    remove(k, FAR, section + 2 * M, altmap)
    assert altmap.alloc == 0
    after, empty = settled(snapshot(k)), settled(empty)
    assert (after["counts"], after["entries"], after["owners"]) == (empty["counts"], empty["entries"], empty["owners"])
    short = Altmap(pages(k, FAR), pages(k, FAR + 2 * M), 0, part - 1)
    assert add(k, FAR, 2 * M, short) == -ENOMEM
    assert snapshot(k)["entries"] == empty["entries"]


@pytest.mark.parametrize(("kib", "start", "size", "mapped"), [(16, 2 * M, 4 * M, 1), (64, 32 * M, 64 * M, 1)])
def test_arm64_misses_the_last_page(on, kib, start, size, mapped):
    """mm/sparse-vmemmap.c:vmemmap_populate_range steps a page from where the range begins: a range that begins in
    the middle of a vmemmap page and ends in the next one has no struct pages there.
    """
    k = on("arm64", kib)
    lo, hi = vpns(k, FAR + start, size)
    assert hi - lo == 2
    with pytest.raises(KernelBug, match="written but not mapped"):
        add(k, FAR + start, size)
    assert sum(e - s for s, e, _ in k.tables.runs(lo, hi)) == mapped


def test_arm64_16k_page_of_two_devices(on):
    """2M of 16K pages have half a vmemmap page: counted by each, and taken away by the first that goes."""
    k = on("arm64", 16)
    one, two = device(k, FAR, 2 * M, 16384), device(k, FAR + 2 * M, 2 * M, 16384)
    add(k, FAR, 2 * M, None, one)
    add(k, FAR + 2 * M, 2 * M, None, two)
    assert (k.vmstat.nr_memmap, owned(k, OWNER_MEMMAP)) == (2, 1)
    remove(k, FAR, 2 * M, None, one)
    assert (k.vmstat.nr_memmap, owned(k, OWNER_MEMMAP)) == (1, 0)
    remove(k, FAR + 2 * M, 2 * M, None, two)
    assert (k.vmstat.nr_memmap, owned(k, OWNER_MEMMAP)) == (0, 0)


def test_s390_segments(on, trace, snapshot):
    """1.2: a segment of 1M describes 64M: two for a section, one for a part of it, gone when all of it is unused."""
    k = on("s390x")
    empty = snapshot(k)
    assert [p for p in trace(k, 0, lambda: add(k, FAR, 128 * M)) if p == "VMB"] == ["VMB"] * 2
    assert owned(k, OWNER_MEMMAP) == 512
    remove(k, FAR, 128 * M)
    assert trace(k, 0, lambda: add(k, FAR + 2 * M, 2 * M))[-1] == "VMB"
    assert trace(k, 0, lambda: add(k, FAR + 62 * M, 4 * M))[-1] == "VMB"
    assert owned(k, OWNER_MEMMAP) == 512
    assert k.vmstat.nr_memmap == 8 + 16
    remove(k, FAR + 2 * M, 2 * M)
    assert owned(k, OWNER_MEMMAP) == 512
    remove(k, FAR + 62 * M, 4 * M)
    assert owned(k, OWNER_MEMMAP) == 0
    after = snapshot(k)
    assert (after["counts"], after["entries"]) == (empty["counts"], empty["entries"])


def test_s390_base_pages(on):
    """arch/s390/mm/vmem.c:modify_pmd_table: no block: a table of 256 entries, from the altmap too if there is one."""
    k = on("s390x")
    add(k, FAR + 128 * M, 128 * M)
    k.faults.nth = 2
    k.faults.begin()
    assert add(k, FAR, 128 * M) == 0
    assert k.faults.fired == "VMB"
    assert sum(e - s for s, e, _ in k.tables.tables[0].items()) == 1
    # vmem_pte_alloc runs the constructor.
    assert k.vmstat.nr_page_table_pages == 1
    assert kinds(k, FAR, 64 * M) == {"pte"}
    assert kinds(k, FAR + 64 * M, 64 * M) == {"leaf"}
    remove(k, FAR, 128 * M)
    assert k.vmstat.nr_page_table_pages == 0
    altmap = Altmap(pages(k, FAR), pages(k, FAR + 128 * M), 100, 512)
    k.faults.begin()
    assert add(k, FAR, 128 * M, altmap) == -ENOMEM
    assert altmap.alloc == 0
    altmap = Altmap(pages(k, FAR), pages(k, FAR + 64 * M), 0, 255)
    assert add(k, FAR, 16 * M, altmap) == 0
    assert (altmap.alloc, kinds(k, FAR, 16 * M)) == (64, {"pte"})
    remove(k, FAR, 16 * M, altmap)
    assert altmap.alloc == 0


@pytest.mark.parametrize("kib", [4, 16, 64])
def test_arm64_boot_memory_stays(on, snapshot, kib):
    """arch/arm64/mm/mmu.c:prevent_memory_remove_notifier says NOTIFY_BAD for early sections, which is -EPERM."""
    k = on("arm64", kib)
    block = pages(k, 4 * G) // k.memory_blocks.pages
    before = snapshot(k)
    assert memory_block_offline(k, block) == -EPERM
    assert snapshot(k) == before
    added = pages(k, 8 * G)
    assert add_memory(k, 0, added, k.memory_blocks.pages, False) == 0
    assert memory_block_online(k, added // k.memory_blocks.pages, "movable") == 0
    assert memory_block_offline(k, added // k.memory_blocks.pages) == 0
