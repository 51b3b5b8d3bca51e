"""Device DAX (drivers/dax/{bus,device,fsdev}.c, Linux 7.3).

Two kinds of devices. A dynamic one (dax_hmem) has any number of ranges, and its memory map lies in RAM. A static one
(dax_pmem on a namespace made with `ndctl create-namespace -m devdax -M dev`) has one range, whose start holds an info
block and its memory map.

Each driver of the bus can be bound to either kind: device_dax and fsdev give the range struct pages, kmem (`mm.kmem`)
makes it system RAM.

Left out: regions, seeds and resizing; pmem namespaces whose memory map lies in RAM; character devices and faults.
"""

from __future__ import annotations

from mm.altmap import Altmap
from mm.dev_dax import DevDax, Driver, Range
from mm.errno import EBUSY, EINVAL, ENXIO, EOPNOTSUPP
from mm.kernel import Kernel
from mm.kmem import dev_dax_kmem_probe, dev_dax_kmem_remove
from mm.memmap_on_memory import mhp_supports_memmap_on_memory
from mm.memremap import memremap_pages, memunmap_pages
from mm.pgmap import PgMap
from mm.resource import release_region, request_region

INFO_BLOCK = 8 << 10
"""Bytes at the start of a namespace for its info block (SZ_8K, drivers/nvdimm/pfn_devs.c)."""

LEAST_NAMESPACE = 16 << 20
"""Bytes (SZ_16M)."""

MAX_STRUCT_PAGE_SIZE = 64
"""Bytes (drivers/nvdimm/nd.h)."""


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
    if k.arch.struct_page > MAX_STRUCT_PAGE_SIZE:
        return -EINVAL  # without nd_pmem.page_struct_override
    memmap = -(-(end - start - reserve) * k.arch.struct_page // k.arch.page)
    data = -(-(start + reserve + memmap) // align) * align
    if end // align * align < start:
        # end_trunc is larger than the size, and the test for an empty device compares with their unsigned difference.
        # It passes; then __dax_pmem_probe cannot reserve a metadata area that reaches beyond the namespace.
        return -EBUSY
    end = end // align * align
    if data >= end:
        return -ENXIO
    return (start, end), Altmap(start, end, reserve, data - start - reserve)


def devm_create_dev_dax(k: Kernel, ranges: list[Range], align: int, altmap: bool, nid: int) -> int | DevDax:
    """devm_create_dev_dax (drivers/dax/bus.c), for `altmap` __dax_pmem_probe (drivers/dax/pmem.c, 7.3): a device of
    `ranges` (pfn, end pfn) without a driver, or an errno.

    `align` is in bytes. Empty ranges do not exist. `altmap` makes a static device, whose metadata area is reserved as
    long as it lives.
    """
    ranges = [r for r in ranges if r[0] < r[1]]
    if not ranges:
        return -ENXIO  # dax_bus_probe
    if not dax_align_valid(k, align):
        return -EINVAL
    align //= k.arch.page
    granule = max(align, memremap_compat_align(k))
    if not altmap:
        if any((end - start) % granule for start, end in ranges):
            return -EINVAL  # dev_dax_validate_align; the data of a namespace has been cut to whole pages
        return DevDax(ranges, align, None, nid)
    if len(ranges) > 1:
        return -EINVAL
    laid_out = nd_pfn_init(k, *ranges[0], align)
    if isinstance(laid_out, int):
        return laid_out
    (start, end), storage = laid_out
    data = start + storage.offset()
    if not request_region(k, start, data, "dax"):
        return -EBUSY
    return DevDax([(data, end)], align, PgMap([(start, end)], 0, storage, nid, "generic"), nid)


def create_dev_dax(
    k: Kernel, ranges: list[Range], align: int, altmap: bool, nid: int, driver: Driver = "devdax"
) -> int | DevDax:
    """A new device with a driver; an errno, and no device, if either fails."""
    device = devm_create_dev_dax(k, ranges, align, altmap, nid)
    if isinstance(device, int):
        return device
    rc = dax_bus_probe(k, device, driver)
    if rc:
        unregister_dev_dax(k, device)
        return rc
    return device


def dax_bus_probe(k: Kernel, device: DevDax, driver: Driver) -> int:
    """dax_bus_probe (drivers/dax/bus.c, 7.3) of a device without driver; 0, or an errno and still none."""
    if driver == "none":
        return 0
    rc = dev_dax_kmem_probe(k, device) if driver == "kmem" else dev_dax_probe(k, device, driver)
    if not rc:
        device.driver = driver
    return rc


def dax_bus_remove(k: Kernel, device: DevDax) -> None:
    """dax_bus_remove (drivers/dax/bus.c, 7.3): unbinding, which cannot fail."""
    if device.driver == "kmem":
        dev_dax_kmem_remove(k, device)
    elif device.driver != "none":
        dev_dax_remove(k, device)
    device.driver = "none"


def dev_dax_probe(k: Kernel, device: DevDax, driver: Driver) -> int:
    """dev_dax_probe (drivers/dax/device.c), fsdev_dax_probe (drivers/dax/fsdev.c, 7.3); 0 or an errno.

    fsdev leaves all pages single; what it clears of compound pages afterwards (fsdev_clear_folio_state) is never there,
    because each binding initialises the struct pages anew. Where memremap_pages fails, a static device's page map keeps
    fsdev's ops: the action that clears them is added later (docs/findings/0012).
    """
    for i, (start, end) in enumerate(device.ranges):
        if not request_region(k, start, end, "dax"):
            _release(k, device.ranges[:i])
            return -EBUSY
    pgmap = device.static or PgMap(device.ranges, 0, None, device.nid, "")
    if driver == "fsdev":
        pgmap.type = "fsdax"
        pgmap.ops = "fsdev"
        pgmap.vmemmap_shift = 0
    else:
        pgmap.type = "generic"
        pgmap.vmemmap_shift = device.align.bit_length() - 1
    rc = memremap_pages(k, pgmap)
    if rc:
        _release(k, device.ranges)
        return rc
    device.pgmap = pgmap
    k.pgmaps.append(pgmap)
    return 0


def dev_dax_remove(k: Kernel, device: DevDax) -> None:
    """Release of what dev_dax_probe got, the last first (devm_memremap_pages_release, mm/memremap.c, 7.3)."""
    pgmap, device.pgmap = device.pgmap, None
    if pgmap is not None:
        if device.driver == "fsdev":
            fsdev_clear_pgmap_ops(k, pgmap)
        memunmap_pages(k, pgmap)
        k.pgmaps.remove(pgmap)
        _release(k, device.ranges)


def fsdev_clear_pgmap_ops(k: Kernel, pgmap: PgMap) -> None:
    """fsdev_clear_pgmap_ops (drivers/dax/fsdev.c, 7.3): whoever is bound next has no ops of fsdev."""
    pgmap.ops = ""


def unregister_dev_dax(k: Kernel, device: DevDax) -> None:
    """unregister_dev_dax (drivers/dax/bus.c, 7.3): unbind and delete; a static device gives its metadata area back."""
    dax_bus_remove(k, device)
    if device.static is not None and device.static.altmap is not None:
        start = device.static.ranges[0][0]
        release_region(k, start, start + device.static.altmap.offset())


def memmap_on_memory_store(k: Kernel, device: DevDax, value: bool) -> int:
    """memmap_on_memory_store (drivers/dax/bus.c, 7.3); 0 or an errno."""
    if value and not mhp_supports_memmap_on_memory(k):
        return -EOPNOTSUPP
    if device.memmap_on_memory != value and device.driver == "kmem":
        return -EBUSY
    device.memmap_on_memory = value
    return 0


def _release(k: Kernel, ranges: list[Range]) -> None:
    for start, end in ranges:
        release_region(k, start, end)
