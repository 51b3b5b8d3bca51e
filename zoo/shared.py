"""Bugs of code that the series does not touch (`mm`): they can be planted in either side, as `ID@reference` or
`ID@candidate`; in both at once no comparison would see them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mm.altmap import Altmap
from mm.arch import STRUCT_PAGE
from mm.dev_dax import DevDax, Driver, Range
from mm.errno import EBUSY, EINVAL
from mm.folio import Folio
from mm.hstate import HState
from mm.kernel import Kernel
from mm.pgmap import PgMap
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

SHARED: Final = (PGMAP_DANGLES, LARGEST_STRUCT_PAGE, TYPE_CLEARED_EARLY)
