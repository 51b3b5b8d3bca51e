"""Device DAX (drivers/dax/device.c, drivers/dax/bus.c, Linux 7.3).

Two kinds of devices. A dynamic one (dax_hmem) has any number of ranges, and its memory map lies in RAM. A static one
(dax_pmem on a namespace made with `ndctl create-namespace -m devdax -M dev`) has one range, whose start holds an info
block and its memory map.

Left out: regions, seeds and resizing; pmem namespaces whose memory map lies in RAM; character devices and faults.
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.arch import STRUCT_PAGE
from mm.errno import EBUSY, EINVAL, ENXIO
from mm.kernel import Kernel
from mm.memremap import memremap_pages, memunmap_pages
from mm.pgmap import PgMap
from mm.resource import release_region, request_region

INFO_BLOCK = 8 << 10
"""Bytes at the start of a namespace for its info block (SZ_8K, drivers/nvdimm/pfn_devs.c)."""

LEAST_NAMESPACE = 16 << 20
"""Bytes (SZ_16M)."""

Range = tuple[int, int]


def dax_align_valid(k: Kernel, align: int) -> bool:
    """dax_align_valid (drivers/dax/dax-private.h): P9."""
    arch = k.arch
    return align in (arch.page, 1 << arch.pmd_shift) or (arch.pud_thp and align == 1 << arch.pud_shift)


def memremap_compat_align(k: Kernel) -> int:
    """memremap_compat_align (mm/memremap.c): the granularity of devices, in pages."""
    return k.arch.pages_per_subsection


def nd_pfn_init(k: Kernel, start: int, end: int, align: int) -> int | tuple[Range, Altmap]:
    """nd_pfn_init, __nvdimm_setup_pfn (drivers/nvdimm/pfn_devs.c) in PFN_MODE_PMEM: range and altmap of a namespace.

    Data starts at a multiple of the alignment (at least a subsection) after info block and memory map, and ends at
    one; what is left over at the end is not used. `align` is in pages. A namespace must have 16M before anything may
    claim it (nd_namespace_store, drivers/nvdimm/claim.c).
    """
    compat = memremap_compat_align(k)
    if end - start < LEAST_NAMESPACE // k.arch.page:
        return -ENXIO
    if start % compat:
        return -EINVAL
    align = max(align, compat)
    reserve = -(-INFO_BLOCK // k.arch.page)
    memmap = -(-(end - start - reserve) * STRUCT_PAGE // k.arch.page)
    data = -(-(start + reserve + memmap) // align) * align
    if end // align * align < start:
        # end_trunc is larger than the size, and the test for an empty device compares with their unsigned difference.
        # It passes; then __dax_pmem_probe cannot reserve a metadata area that reaches beyond the namespace.
        return -EBUSY
    end = end // align * align
    if data >= end:
        return -ENXIO
    return (start, end), Altmap(start, end, reserve, data - start - reserve)


def dev_dax_probe(k: Kernel, ranges: list[Range], align: int, altmap: bool, nid: int) -> int | PgMap:
    """dev_dax_probe (drivers/dax/device.c, 7.3) of a new device of `ranges` (pfn, end pfn): its page map or an errno.

    `align` is in bytes. Empty ranges do not exist. `altmap` makes a static device.
    """
    ranges = [r for r in ranges if r[0] < r[1]]
    if not ranges:
        return -ENXIO  # dax_bus_probe
    if not dax_align_valid(k, align):
        return -EINVAL
    align //= k.arch.page
    granule = max(align, memremap_compat_align(k))
    if not altmap and any((end - start) % granule for start, end in ranges):
        return -EINVAL  # dev_dax_validate_align; the data of a namespace has been cut to whole pages
    storage = None
    if altmap:
        if len(ranges) > 1:
            return -EINVAL
        static = nd_pfn_init(k, *ranges[0], align)
        if isinstance(static, int):
            return static
        ranges, storage = [static[0]], static[1]
    for i, (start, end) in enumerate(ranges):
        if not request_region(k, start, end, "dax"):
            _release(k, ranges[:i])
            return -EBUSY
    pgmap = PgMap(ranges, align.bit_length() - 1, storage, nid, "generic")
    rc = memremap_pages(k, pgmap)
    if rc:
        _release(k, ranges)
        return rc
    k.pgmaps.append(pgmap)
    return pgmap


def dev_dax_remove(k: Kernel, pgmap: PgMap) -> None:
    """Unbind and remove the device (devm_memremap_pages_release, mm/memremap.c, 7.3)."""
    memunmap_pages(k, pgmap)
    k.pgmaps.remove(pgmap)
    _release(k, pgmap.ranges)


def _release(k: Kernel, ranges: list[Range]) -> None:
    for start, end in ranges:
        release_region(k, start, end)
