"""Bugs of code that the series does not touch (`mm`): they can be planted in either side, as `ID@reference` or
`ID@candidate`; in both at once no comparison would see them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mm.altmap import Altmap
from mm.arch import STRUCT_PAGE
from mm.dev_dax import DevDax, Driver, Range
from mm.direct_map import DirectMap
from mm.errno import EBUSY, EINVAL
from mm.folio import Folio
from mm.hstate import HState
from mm.hugetlb import enqueue_hugetlb_folio
from mm.kernel import Kernel
from mm.memblock import Memblock
from mm.pgmap import PgMap
from mm.pgtable import PUD_TABLE, VmemmapTables
from zoo.defect import Defect


def _published_too_early(
    original: Callable[[Kernel, DevDax, Driver], int], k: Kernel, device: DevDax, driver: Driver
) -> int:
    if device.pgmap is not None and device.static is None:
        return -EINVAL
    rc = original(k, device, driver)
    if rc and rc != -EBUSY and driver == "fsdev":
        device.pgmap = PgMap(device.ranges, 0, None, device.nid, "fsdax")
    return rc


def _reserve_for_the_largest(
    original: Callable[[Kernel, int, int, int], int | tuple[Range, Altmap]], k: Kernel, start: int, end: int, align: int
) -> int | tuple[Range, Altmap]:
    got = original(k, start, end, align)
    if isinstance(got, int):
        return got
    (first, last), altmap = got
    twice = -(-(end - start - altmap.reserve) * 2 * STRUCT_PAGE // k.arch.page)
    step = max(align, k.arch.pages_per_subsection)
    data = -(-(first + altmap.reserve + twice) // step) * step
    if data >= last:
        return got
    return (first, last), Altmap(first, last, altmap.reserve, data - first - altmap.reserve)


def _type_cleared_first(
    original: Callable[[HState, Folio, bool], None], h: HState, folio: Folio, adjust_surplus: bool
) -> None:
    original(h, folio, adjust_surplus)
    folio.hugetlb = False


def _type_survives(original: Callable[[Kernel, HState, Folio], None], k: Kernel, h: HState, folio: Folio) -> None:
    """Only a caller that has restored the folio itself comes here with a type and without the flag. The last reference
    then goes to free_huge_folio, and that puts the folio on a free list of a pool that has forgotten it.
    """
    if folio.hugetlb and not folio.vmemmap_optimized and not folio.raw_hwp_unreliable:
        enqueue_hugetlb_folio(h, folio)
    else:
        original(k, h, folio)


def _looked_at_too_early(original: Callable[[Kernel], None], k: Kernel) -> None:
    """The work item runs later."""


def _poisoned_too(
    original: Callable[[Kernel, HState, range, int], int], k: Kernel, src: HState, nodes: range, nr: int
) -> int:
    poisoned = [folio for free in src.free for folio in free.values() if folio.hwpoison]
    for folio in poisoned:
        folio.hwpoison = False
    rc = original(k, src, nodes, nr)
    for folio in poisoned:
        # The mark stays on the struct page of the head, which is that of the first piece.
        holder = src.folios.get(folio.pfn) or k.hstates[src.demote_order].folios.get(folio.pfn)
        if holder is not None:
            holder.hwpoison = True
    return rc


def _page_by_page(
    original: Callable[[Kernel, HState, range, int], int], k: Kernel, src: HState, nodes: range, nr: int
) -> int:
    return original(k, src, nodes, min(nr, 1))


def _marked_last(
    original: Callable[[Kernel, HState, list[Folio]], None], k: Kernel, h: HState, folios: list[Folio]
) -> None:
    for folio in folios:
        folio.hugetlb = False
    original(k, h, folios)
    for folio in folios:
        folio.hugetlb = True


def _init_mm_only(
    original: Callable[[VmemmapTables, int, int], None], tables: VmemmapTables, index: int, frame: int
) -> None:
    tables.tables[PUD_TABLE].set(index, index + 1, frame - index)


def _when_more_is_added(
    original: Callable[[VmemmapTables, int, int], None], tables: VmemmapTables, lo: int, hi: int
) -> None:
    """Of what is there, all but the tables of [lo, hi): their turn comes with the next that is populated elsewhere."""
    span = tables.spans[PUD_TABLE]
    if tables.roots is None or not tables.roots.total:
        original(tables, lo, hi)  # the end of the boot
        return
    original(tables, 0, lo - lo % span)
    original(tables, hi + -hi % span, 1 << 62)


def _kept(original: Callable[[Kernel, PgMap], None], k: Kernel, pgmap: PgMap) -> None:
    """fsdev had nothing that clears them."""


def _never_put(original: Callable[[Kernel, int, int], bool], k: Kernel, block: int, n: int) -> bool:
    found = original(k, block, n)
    k.memory_blocks.memory_block_get(block)
    return found


def _read_as_a_bool(original: Callable[[Kernel], str], k: Kernel) -> str:
    """param_get_bool looks at the first byte of an int: on s390, which is big-endian, that is 0. Else a bool is as good
    as the int, which is 1."""
    got = original(k)
    return "N" if got == "Y" and k.arch.name.startswith("s390") else got


def _limit_of_the_buddy_allocator(original: Callable[[Kernel, int], None], k: Kernel, order: int) -> None:
    original(k, order)
    if k.arch.name.startswith("ppc64") and order > k.arch.max_page_order:
        k.warn(f"WARN_ON(order > MAX_FOLIO_ORDER): a pool of order {order}")


def _never_less(original: Callable[[DirectMap, int, int], None], direct: DirectMap, order: int, count: int) -> None:
    if count > 0:
        original(direct, order, count)


def _traced(
    original: Callable[[Memblock, int, int, bool], None], memblock: Memblock, pfn: int, n: int, trace: bool
) -> None:
    """And nobody unregisters a frame that is freed, which is so in any kernel where free_bootmem_page is gone."""
    original(memblock, pfn, n, True)


def _from_pfn_0(original: Callable[[Kernel], int], k: Kernel) -> int:
    return 0


_MACHINE: Final = "vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\n"

PGMAP_DANGLES: Final = Defect(
    id="DAX-2026-20",
    switch="fsdev_pgmap_dangles",
    title="a device whose probe failed can never be bound again",
    side="candidate",
    source="dax/fsdev: don't leave a dangling dev_dax->pgmap on probe failure (Fixes d5406bd458b0)",
    mechanism="the page map is published before the last step that can fail",
    layer="returns",
    spot="mm.dax:dev_dax_probe",
    replacement=_published_too_early,
    program=f"{_MACHINE}d0 = dax create at=0x100000000 size=128M\nfail alloc nth=1\n"
    "dax rebind d0 driver=fsdev\ndax rebind d0 driver=fsdev\n",
)

LARGEST_STRUCT_PAGE: Final = Defect(
    id="NVD-2023-60",
    switch="max_struct_page_size",
    title="a namespace reserves twice the memory map it needs",
    side="candidate",
    source="nvdimm: Support sizeof(struct page) > MAX_STRUCT_PAGE_SIZE (Fixes 6e9f05dc66f9)",
    mechanism="the reservation goes by the largest struct page of any configuration, 128 bytes",
    layer="structpages",
    spot="mm.dax:nd_pfn_init",
    replacement=_reserve_for_the_largest,
    program=f"{_MACHINE}d0 = dax create at=0x100000000 size=256M altmap=on\n",
)

TYPE_CLEARED_EARLY: Final = Defect(
    id="HPG-2023-47",
    switch="type_cleared_early",
    title="a huge page loses its type before its vmemmap is restored",
    side="candidate",
    source="hugetlb: do not clear hugetlb dtor until allocating vmemmap (32c877191e02; Fixes ad2fa3717b74)",
    mechanism="remove_hugetlb_folio clears the type of optimized folios too: when the restore then fails, the page "
    "comes back as a surplus page",
    layer="returns",
    spot="mm.hugetlb:remove_hugetlb_folio",
    replacement=_type_cleared_first,
    program=f"{_MACHINE}hugetlb resize size=2M to=1\nfail alloc nth=1\nhugetlb dissolve at=0x3000000\n",
)

TYPE_SURVIVES: Final = Defect(
    id="HPG-2024-40",
    switch="type_survives",
    title="a dissolved huge page goes back to the pool that has given it up",
    side="candidate",
    source="mm/hugetlb: fix DEBUG_LOCKS_WARN_ON(1) when dissolve_free_hugetlb_folio() (52ccdde16b65; "
    "Fixes 32c877191e02)",
    mechanism="freeing clears the type only of a folio that is optimized, and dissolving has restored it by then",
    layer="structpages",
    spot="mm.hugetlb:update_and_free_hugetlb_folio",
    replacement=_type_survives,
    program=f"{_MACHINE}hugetlb resize size=2M to=1\nhugetlb dissolve at=0x3000000\n",
)

NOT_WAITED_FOR: Final = Defect(
    id="MHP-2025-33",
    switch="freed_not_waited_for",
    title="a range cannot be taken because of huge pages that are about to be freed",
    side="candidate",
    source="mm/hugetlb: wait for hugetlb folios to be freed (67bab13307c8; Fixes c77c0a8ac4c5, b65d4adbc0f0)",
    mechanism="whether all pages are free is looked at before the work item has freed what was moved away",
    layer="returns",
    spot="mm.hugetlb:wait_for_freed_hugetlb_folios",
    replacement=_looked_at_too_early,
    program=f"{_MACHINE}hugetlb resize size=2M to=1\nu0 = hugetlb map size=2M count=1\n"
    "p0 = pages contig at=0x3000000 size=2M\n",
)

POISONED_DEMOTED: Final = Defect(
    id="HPG-2022-63",
    switch="poisoned_demoted",
    title="a poisoned huge page is demoted, and another frame passes for the poisoned one",
    side="candidate",
    source="hugetlb: do not demote poisoned hugetlb pages (20220307215707.50916-1; Fixes 8531fc6f52f5)",
    mechanism="demotion does not ask whether a free page is poisoned; the mark stays on the head of the first piece",
    layer="returns",
    spot="mm.hugetlb_sysfs:demote_pool_huge_page",
    replacement=_poisoned_too,
    program="vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1\nboot\nhugetlb resize size=1G to=1\n"
    "fail alloc nth=2\nmemory hard_offline at=0x100000000\nhugetlb demote size=1G count=1\n",
)

DEMOTED_ONE_BY_ONE: Final = Defect(
    id="HVO-2024-39",
    switch="demoted_one_by_one",
    title="demotion gives up at the first page that cannot be restored",
    side="candidate",
    source="mm/hugetlb_vmemmap: batch HVO work when demoting (c0f398c3b2cf)",
    mechanism="pages are restored and cut one after the other instead of as a batch, which turns their order around",
    layer="accounting",
    spot="mm.hugetlb_sysfs:demote_pool_huge_page",
    replacement=_page_by_page,
    program="vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1 hugetlb_free_vmemmap=off\nboot\n"
    "hugetlb resize size=1G to=2\nhugetlb demote size=1G count=2\n",
    # Of two pages the first cannot be restored, and the other need not be.
    failing="vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1\nboot\nfail alloc nth=4 times=2\n"
    "hugetlb resize size=1G to=2\nfail alloc nth=1\nhugetlb demote size=1G count=2\n",
)

MARKED_LAST: Final = Defect(
    id="HPG-2023-48",
    switch="type_after_optimization",
    title="a huge page gets its type after its vmemmap is optimized",
    side="candidate",
    source="hugetlb: set hugetlb page flag before optimizing vmemmap (d8f5f7e445f0; Fixes f41f2ed43ca5)",
    mechanism="who poisons a page meanwhile does not know it for a huge page, and writes to a shared tail page",
    layer="returns",
    spot="mm.hugetlb:prep_and_add_allocated_folios",
    replacement=_marked_last,
    program=f"{_MACHINE}hugetlb resize size=2M to=1\n",
)

_FAR: Final = f"{_MACHINE}d0 = dax create at=0x200000000000 size=128M align=2M\n"
"""The second half of 64T: 512G of vmemmap lie under one top-level entry, which describe 32T."""

INIT_MM_ONLY: Final = Defect(
    id="PTS-2026-07",
    switch="compound_no_toplevel_sync",
    title="compound pages get a top-level entry that only init_mm has (x86)",
    side="reference",
    source="mm: introduce and use {pgd,p4d}_populate_kernel() (f2d2f9598ebb; Fixes 8d400913c231), and the title "
    "mm/sparse: fix missing architecture-specific page table sync for HVO DAX",
    mechanism="vmemmap_populate of x86 gives new entries to all page tables; vmemmap_populate_compound_pages, which is "
    "called in its place, does not",
    layer="returns",
    spot="mm.pgtable:VmemmapTables.p4d_populate_kernel",
    replacement=_init_mm_only,
    program=_FAR,
)

SYNCED_TOO_LATE: Final = Defect(
    id="X86-2025-29",
    switch="toplevel_sync_too_late",
    title="a new top-level entry reaches other page tables when struct pages are written already (x86)",
    side="candidate",
    source="x86/mm/64: define ARCH_PAGE_TABLE_SYNC_MASK and arch_sync_kernel_mappings() (6659d0279980; "
    "Fixes 8d400913c231)",
    mechanism="entries are synchronised after memory was added, not where they are made: the process that adds it "
    "faults when it initialises the memory map",
    layer="returns",
    spot="mm.pgtable:VmemmapTables.sync_global_pgds",
    replacement=_when_more_is_added,
    program=_FAR,
)

OPS_STAY: Final = Defect(
    id="DAX-2026-21",
    switch="fsdev_ops_stay",
    title="the page map of a device keeps the ops and the owner of fsdev when that is unbound",
    side="candidate",
    source="dax/fsdev: clear pgmap ops and owner on unbind (Fixes d5406bd458b0)",
    mechanism="a static device's page map outlives its drivers: a memory failure under the next one calls fsdev's "
    "handler",
    layer="returns",
    spot="mm.dax:fsdev_clear_pgmap_ops",
    replacement=_kept,
    program=f"{_MACHINE}d0 = dax create at=0x100000000 size=128M altmap=on driver=fsdev\ndax rebind d0 driver=none\n",
)

REFERENCE_LEAKS: Final = Defect(
    id="MHP-2026-15",
    switch="memory_block_reference_leaks",
    title="a memory block with a poisoned page is never released",
    side="candidate",
    source="drivers/base/memory: fix memory block reference leak in poison accounting (5edd3e94a2c6)",
    mechanism="the block is looked up, which takes a reference, and nobody gives it back",
    layer="accounting",
    spot="mm.memory_failure:memblk_nr_poison_add",
    replacement=_never_put,
    program=f"{_MACHINE}memory hard_offline at=0x3000000\n",
)

READ_AS_A_BOOL: Final = Defect(
    id="MHP-2024-43",
    switch="memmap_mode_as_bool",
    title="memmap_on_memory is on, and its parameter shows N (s390)",
    side="candidate",
    source="mm/memory_hotplug: fix memmap_on_memory sysfs value retrieval (11684134140b; Fixes 2d1f649c7c08)",
    mechanism="an int is stored, and read with param_get_bool",
    layer="returns",
    spot="mm.memmap_on_memory:get_memmap_mode",
    replacement=_read_as_a_bool,
    program="vmm 1\nmachine arch=s390x page=4K ram=1G nodes=1 memmap_on_memory=on\nboot\n",
)

BUDDY_LIMIT: Final = Defect(
    id="PPC-2025-34",
    switch="max_folio_order_of_buddy",
    title="the boot warns of huge pages above the folio order limit (powerpc)",
    side="candidate",
    source="mm: fix MAX_FOLIO_ORDER on powerpc configs with hugetlb (Fixes 7b4f21f5e038)",
    mechanism="the limit is that of the buddy allocator where CONFIG_ARCH_HAS_GIGANTIC_PAGE is not selected, which "
    "said that gigantic pages can be allocated at run time, not that there are any",
    layer="returns",
    spot="mm.hugetlb:hugetlb_add_hstate",
    replacement=_limit_of_the_buddy_allocator,
    program="vmm 1\nmachine arch=ppc64_radix page=64K ram=1G nodes=1\nboot\n",
)

NOT_COUNTED_DOWN: Final = Defect(
    id="PPC-2023-61",
    switch="direct_map_not_counted_down",
    title="DirectMap2M of /proc/meminfo grows with each device or memory that comes and goes (powerpc, radix)",
    side="candidate",
    source="powerpc/book3s64/mm: Fix DirectMap stats in /proc/meminfo (Fixes a2dc009afa9a)",
    mechanism="create_physical_mapping counts the pages that it makes, and remove_pagetable does not count those that "
    "it takes away",
    layer="accounting",
    spot="mm.direct_map:update_page_count",
    replacement=_never_less,
    program="vmm 1\nmachine arch=ppc64_radix page=64K ram=1G nodes=2\nboot\nmemory unplug ram1\n",
)

MEMMAP_TRACED: Final = Defect(
    id="BOOT-2023-57",
    switch="leak_detector_keeps_memmap",
    title="the leak detector keeps frames of the boot's memory map, whoever gets them",
    side="candidate",
    source="bootmem: remove the vmemmap pages from kmemleak in free_bootmem_page (028725e73375; Fixes f41f2ed43ca5)",
    mechanism="the memory map is an object of kmemleak like all that memblock gives, and who frees its pages does not "
    "unregister them; 7.3 registers none of it (MEMBLOCK_ALLOC_NOLEAKTRACE in memmap_alloc), so it takes both",
    layer="accounting",
    spot="mm.memblock:Memblock.prep_allocation",
    replacement=_traced,
    program=f"{_MACHINE}",
)

FROM_PFN_0: Final = Defect(
    id="RV-2024-44",
    switch="vmemmap_from_pfn_0",
    title="struct pages of RAM that begins high lie outside of the vmemmap (riscv64)",
    side="candidate",
    source="riscv: Sparse-Memory/vmemmap out-of-bounds fix (a11dd49dcb93; Fixes d95f1a542c3d)",
    mechanism="the vmemmap is as large as memory from the start of RAM on needs it, and begins with the struct page of "
    "pfn 0",
    layer="mapping",
    spot="mm.boot:vmemmap_start_pfn",
    replacement=_from_pfn_0,
    program="vmm 1\nmachine arch=riscv64 page=4K ram=1G nodes=1 base=128T\nboot\n",
)

SHARED: Final = (
    PGMAP_DANGLES,
    LARGEST_STRUCT_PAGE,
    TYPE_CLEARED_EARLY,
    TYPE_SURVIVES,
    NOT_WAITED_FOR,
    POISONED_DEMOTED,
    DEMOTED_ONE_BY_ONE,
    MARKED_LAST,
    INIT_MM_ONLY,
    SYNCED_TOO_LATE,
    OPS_STAY,
    REFERENCE_LEAKS,
    READ_AS_A_BOOL,
    BUDDY_LIMIT,
    NOT_COUNTED_DOWN,
    MEMMAP_TRACED,
    FROM_PFN_0,
)
