"""Which code populates and frees the vmemmap on which architecture (Linux 7.3; separate-paths.md 1.2).

The kernel decides when it is built, by the functions that arch/ defines; here a table of modules does. A module is
asked for its function at each call, so that whoever replaces a function of a module replaces it here.
"""

from __future__ import annotations

from typing import Protocol

from mm.altmap import Altmap
from mm.kernel import Kernel
from mm.pgmap import PgMap
from reference import (
    arm64_mmu,
    hash_vmemmap,
    loongarch_init,
    populate,
    radix_pgtable,
    riscv_init,
    s390_vmem,
    x86_pgtable,
)


class VmemmapArch(Protocol):
    """What an architecture brings. Ranges are in vmemmap pages."""

    def vmemmap_populate(self, k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
        """A private memmap for [lo, hi); 0 or -ENOMEM."""

    def vmemmap_free(self, k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
        """Take it away again."""


VMEMMAP_ARCHES: dict[str, VmemmapArch] = {
    "x86_64": x86_pgtable,
    "riscv64": riscv_init,
    "loongarch64": loongarch_init,
    "ppc64_radix": radix_pgtable,
    "ppc64_hash": hash_vmemmap,
    "arm64": arm64_mmu,
    "s390x": s390_vmem,
}


def vmemmap_range(k: Kernel, pfn: int, nr: int) -> tuple[int, int]:
    """The vmemmap pages that the code of the architecture goes through for [pfn, pfn + nr).

    Base pages are mapped from the first struct page on in steps of a page, without rounding: where subsections are less
    than a page (16K, 64K) and the range begins inside one, a page at its end is missed. arm64 has base pages only, and
    loongarch64 where there is no block for a leaf. A leaf is whole, and a section lies under one: nothing is missed.
    """
    arch = k.arch
    lo = arch.vpn(pfn)
    if arch.name in ("arm64", "loongarch64"):
        return lo, lo + arch.vpn_end(nr)
    return lo, arch.vpn_end(pfn + nr)


def vmemmap_populate(k: Kernel, lo: int, hi: int, nid: int, altmap: Altmap | None) -> int:
    """vmemmap_populate of the architecture: 0 or -ENOMEM."""
    return VMEMMAP_ARCHES[k.arch.name].vmemmap_populate(k, lo, hi, nid, altmap)


def vmemmap_populate_boot(k: Kernel, lo: int, hi: int, nid: int) -> int:
    """vmemmap_populate for a row of boot sections: 0 or -ENOMEM."""
    arch = k.arch
    code = VMEMMAP_ARCHES[arch.name]
    if arch.name == "arm64" and not arm64_mmu.leaves(k):
        return code.vmemmap_populate(k, lo, hi, nid, None)
    levels = () if arch.name == "ppc64_hash" else populate.upper_tables(k)
    if arch.name == "s390x":
        nid = len(k.nodes) - 1
    return populate.populate_boot_sections(k, lo, hi, nid, code.vmemmap_populate, levels)


def vmemmap_populate_compound_pages(k: Kernel, start_pfn: int, lo: int, hi: int, nid: int, pgmap: PgMap) -> int:
    """vmemmap_populate_compound_pages, which powerpc replaces by its own: 0 or -ENOMEM."""
    if k.arch.name == "ppc64_radix":
        return radix_pgtable.vmemmap_populate_compound_pages(k, start_pfn, lo, hi, nid, pgmap)
    return populate.vmemmap_populate_compound_pages(k, start_pfn, lo, hi, nid, pgmap)


def vmemmap_free(k: Kernel, lo: int, hi: int, altmap: Altmap | None) -> None:
    """vmemmap_free of the architecture."""
    VMEMMAP_ARCHES[k.arch.name].vmemmap_free(k, lo, hi, altmap)
