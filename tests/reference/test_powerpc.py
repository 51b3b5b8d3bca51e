"""The vmemmap of powerpc: separate-paths.md 3.20, arch/powerpc/mm of Linux 7.3."""

import pytest

from mm.altmap import Altmap
from mm.page_alloc import OWNER_MEMMAP
from mm.pgtable import Leaf, Pte, Shared, frame_at
from tests.reference.arches import FAR, G, M, add, device, frames, kinds, owned, pages, refs, remove, tables, vpns

# -- powerpc, radix -------------------------------------------------------------------------------------------------


def test_radix_tables_come_from_the_running_cpu(on, tally):
    """vmemmap_pte_alloc: pte_alloc_kernel takes no node; frames of the memmap do."""
    k = on("ppc64_radix", 4, nodes=2)
    order = k.arch.pmd_order
    before = [sum(zone.free_pages(order) for zone in node.zones) for node in k.nodes]
    pgmap = device(k, FAR, 2 * M, 2 * M)
    assert k.paths.sparse_add_section(1, pages(k, FAR), pages(k, 2 * M), None, pgmap) == 0
    after = [sum(zone.free_pages(order) for zone in node.zones) for node in k.nodes]
    # A PTE and a PMD table; two frames.
    assert [a - b for a, b in zip(after, before, strict=True)] == [-2, -2]


@pytest.mark.parametrize(("kib", "leaf"), [(4, 128 * M), (64, 2 * G)])
def test_radix_rounds_down(on, trace, snapshot, kib, leaf):
    """3.20: without an altmap the start is rounded down to the PMD: one leaf for all sections around."""
    k = on("ppc64_radix", kib)
    empty = snapshot(k)
    section = 16 * M
    assert [p for p in trace(k, 0, lambda: add(k, FAR + leaf - section, section)) if p == "VMB"] == ["VMB"]
    assert kinds(k, FAR, leaf) == {"leaf"}
    assert trace(k, 0, lambda: add(k, FAR, section)) == ["USG"]
    assert owned(k, OWNER_MEMMAP) == k.arch.ptrs_per_pte
    # 64K: each of the two counts the page that it is a quarter of.
    assert k.vmstat.nr_memmap == 2 * -(-section // k.arch.page * 64 // k.arch.page)
    remove(k, FAR, section)
    assert kinds(k, FAR, leaf) == {"leaf"}
    remove(k, FAR + leaf - section, section)
    after = snapshot(k)
    assert {key: after[key] for key in ("counts", "entries", "owners")} == {
        key: empty[key] for key in ("counts", "entries", "owners")
    }


def test_radix_base_pages_round_down_too(on):
    """radix__vmemmap_populate: base pages instead of a leaf begin at the start of the PMD; freeing is exact."""
    k = on("ppc64_radix")
    add(k, FAR, 16 * M)
    remove(k, FAR, 16 * M)
    k.faults.nth = 3  # USG, PGT, VMB
    k.faults.begin()
    assert add(k, FAR + 112 * M, 16 * M) == 0
    assert k.faults.fired == "VMB"
    assert owned(k, OWNER_MEMMAP) == 8 * 64
    assert k.vmstat.nr_memmap == 64
    remove(k, FAR + 112 * M, 16 * M)
    assert owned(k, OWNER_MEMMAP) == 7 * 64
    assert k.vmstat.nr_memmap == 0
    # A section that comes into the rest needs nothing, and takes it away when it goes.
    assert add(k, FAR, 16 * M) == 0
    assert owned(k, OWNER_MEMMAP) == 7 * 64
    remove(k, FAR, 16 * M)
    assert owned(k, OWNER_MEMMAP) == 6 * 64


def test_radix_64k_page_is_shared_by_four_sections(on):
    """3.20: four 16M sections share one vmemmap page, which is counted four times and freed with the last."""
    k = on("ppc64_radix", 64)
    pgmap = device(k, FAR, G, G)
    assert add(k, FAR, G, None, pgmap) == 0
    # P4: N looks at compound pages, not at sections: 2 and nothing else.
    assert k.vmstat.nr_memmap == 2
    lo = vpns(k, FAR, G)[0]
    assert frame_at(k.tables.get(lo), lo) != frame_at(k.tables.get(lo + 1), lo + 1)
    for i in (1, 2, 3):
        remove(k, FAR + i * 16 * M, 16 * M, None, pgmap)
        assert k.tables.get(lo) is not None
    remove(k, FAR, 16 * M, None, pgmap)
    assert k.tables.get(lo) is None
    assert k.tables.get(lo + 1) is not None
    assert k.vmstat.nr_memmap == 0
    remove(k, FAR + 64 * M, G - 64 * M, None, pgmap)
    assert owned(k, OWNER_MEMMAP) == 0


def test_radix_offset_is_absolute(on):
    """3.20, Q14: a 1G device that begins 256M late: the first two pages of its first compound page lie before it."""
    k = on("ppc64_radix")
    start = FAR + 256 * M
    pgmap = device(k, start, G, G)
    assert add(k, start, G, None, pgmap) == 0
    head = vpns(k, FAR, G)[0]
    tail = frame_at(k.tables.get(head + 1), head + 1)
    assert k.tables.runs(head, head + 1024) != []
    assert [s for s, e, _ in k.tables.runs(head, head + 1024) for s in range(s, e)] == [head, head + 1]
    assert {frame_at(m, head + 1024) for _, _, m in k.tables.runs(head + 1024, head + 1025)} == {tail}
    # Two compound pages by the absolute offset, of which one lies in the range by N.
    assert owned(k, OWNER_MEMMAP) == 4
    assert k.vmstat.nr_memmap == 2
    assert refs(k) == [1 + 1024 - 2, 1 + 3072]
    # Freeing takes the range: the two pages before it are left.
    remove(k, start, G, None, pgmap)
    assert k.vmstat.nr_memmap == 0
    assert owned(k, OWNER_MEMMAP) == 2


def test_radix_leaf_in_the_way(on):
    """3.20: RAM beside the device in its compound page: the leaf is skipped, and other pages there are private."""
    k = on("ppc64_radix")
    add(k, FAR, 16 * M)
    before = owned(k, OWNER_MEMMAP)
    start = FAR + 16 * M
    pgmap = device(k, start, G, G)
    add(k, start, G, None, pgmap)
    lo = vpns(k, FAR, G)[0]
    assert isinstance(k.tables.get(lo + 64), Leaf)
    assert isinstance(k.tables.get(lo + 512), Pte)
    # 4096 - 512 private pages, then the head and the tail of the next compound page.
    assert owned(k, OWNER_MEMMAP) - before == 4096 - 512 + 2


def test_radix_tail_page_of_another_device(on):
    """3.20: the second page of the compound page may be there for a device of 2M pages, and is shared all the same."""
    k = on("ppc64_radix")
    small = device(k, FAR, 64 * M, 2 * M)
    add(k, FAR, 64 * M, None, small)
    start = FAR + 64 * M
    big = device(k, start, G, G)
    add(k, start, G, None, big)
    lo = vpns(k, FAR, G)[0]
    assert frame_at(k.tables.get(lo + 1), lo + 1) == frame_at(k.tables.get(lo + 256), lo + 256)
    assert isinstance(k.tables.get(lo + 256), Shared)
    # The tail page of the first 2M compound page: 7 PTEs there, 4096 - 256 of the big device.
    assert 7 + 4096 - 256 in refs(k)
    remove(k, FAR, 64 * M, None, small)
    remove(k, start, G, None, big)
    assert owned(k, OWNER_MEMMAP) == 0
    assert refs(k) == []


def test_radix_second_page_is_tried_again(on, trace):
    """3.20: no frame for the tail page is no failure: whoever comes to the third page makes it."""
    k = on("ppc64_radix")
    pgmap = device(k, FAR, 2 * M, 2 * M)
    points = trace(k, 0, lambda: add(k, FAR, 2 * M, None, pgmap))
    assert points[-2:] == ["VMF", "VMF"]
    remove(k, FAR, 2 * M, None, pgmap)
    # The root array stays.
    assert points[0] == "ROOT"
    again = trace(k, len(points) - 1, lambda: add(k, FAR, 2 * M, None, pgmap))
    assert again == [*points[1:], "VMF"]
    assert len(frames(k, FAR, 2 * M)) == 2
    assert refs(k) == [7]
    assert k.vmstat.nr_memmap == 2


def test_radix_altmap(on):
    """3.20, 2.3: with an altmap, leaves where PMD and device allow, base pages elsewhere, RAM when it is exhausted."""
    k = on("ppc64_radix")
    start, size = FAR + 16 * M, 256 * M
    altmap = Altmap(pages(k, start), pages(k, start + size), 0, 1024)
    assert add(k, start, size, altmap) == 0
    lo, hi = vpns(k, start, size)
    assert {m.kind for _, _, m in k.tables.runs(lo, hi)} == {"pte", "leaf"}
    # Seven sections before the next PMD: 7 * 64 base pages. Then a leaf, aligned by 64 frames; the altmap is used up.
    # The last section: a leaf would reach beyond the device, and its base pages come from RAM.
    assert (altmap.alloc, altmap.align) == (448 + 512, 64)
    assert owned(k, OWNER_MEMMAP) == 64
    assert k.vmstat.nr_memmap == 1024
    remove(k, start, size, altmap)
    assert altmap.alloc == 0
    assert owned(k, OWNER_MEMMAP) == 0


# -- powerpc, hash --------------------------------------------------------------------------------------------------


def test_hash_blocks(on, trace, snapshot):
    """arch/powerpc/mm/init_64.c: a 16M block of the vmemmap describes 16G; it goes with the last valid subsection."""
    k = on("ppc64_hash", 64)
    empty = snapshot(k)
    assert trace(k, 0, lambda: add(k, FAR + G, 16 * M)) == ["ROOT", "USG", "VMB"]
    assert trace(k, 0, lambda: add(k, FAR + 15 * G, 16 * M)) == ["USG"]
    assert trace(k, 0, lambda: add(k, FAR + 16 * G, 16 * M)) == ["USG", "VMB"]
    assert owned(k, OWNER_MEMMAP) == 2 * 256
    assert tables(k) == 0
    remove(k, FAR + G, 16 * M)
    assert owned(k, OWNER_MEMMAP) == 2 * 256
    remove(k, FAR + 15 * G, 16 * M)
    assert owned(k, OWNER_MEMMAP) == 256
    remove(k, FAR + 16 * G, 16 * M)
    assert snapshot(k) == empty


def test_hash_altmap(on):
    """__vmemmap_populate: from the altmap if the block lies in the device, else, or when that fails, from RAM."""
    k = on("ppc64_hash", 64)
    pfn, end = pages(k, FAR), pages(k, FAR + 16 * G)
    inside = Altmap(pfn, end, 0, 256)
    assert add(k, FAR, 16 * M, inside) == 0
    assert (inside.alloc, owned(k, OWNER_MEMMAP)) == (256, 0)
    remove(k, FAR, 16 * M, inside)
    assert inside.alloc == 0
    outside = Altmap(pfn, pages(k, FAR + G), 0, 256)
    assert add(k, FAR, 16 * M, outside) == 0
    assert (outside.alloc, owned(k, OWNER_MEMMAP)) == (0, 256)
    remove(k, FAR, 16 * M, outside)
    short = Altmap(pfn, end, 0, 255)
    assert add(k, FAR, 16 * M, short) == 0
    assert (short.alloc, owned(k, OWNER_MEMMAP)) == (0, 256)
