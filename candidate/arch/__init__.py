"""The architectures' part of the vmemmap, one module each (arch/*/mm).

Only powerpc's was touched by the series; the others are here because generic code that was touched runs in them.
"""

from __future__ import annotations

from candidate.arch import arm64, loongarch, powerpc_hash, powerpc_radix, riscv, s390, x86
from candidate.arch.vmemmap import ArchVmemmap
from mm.arch import Arch

_BY_NAME = {
    "x86_64": x86.VMEMMAP,
    "riscv64": riscv.VMEMMAP,
    "loongarch64": loongarch.VMEMMAP,
    "ppc64_radix": powerpc_radix.VMEMMAP,
    "ppc64_hash": powerpc_hash.VMEMMAP,
    "s390x": s390.VMEMMAP,
}


def arch_vmemmap(arch: Arch) -> ArchVmemmap:
    """The functions for `arch`; arm64 has two sets, by page size."""
    if arch.name == "arm64":
        return arm64.VMEMMAP_4K if arch.page_shift == 12 else arm64.VMEMMAP_LARGE
    return _BY_NAME[arch.name]
