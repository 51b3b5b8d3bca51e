"""Kernels with the unified framework on every architecture, sized by the geometry alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from candidate.framework import PROFILES, UnifiedFramework
from mm.altmap import Altmap
from mm.arch import ARCHES
from mm.boot import boot
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.mmzone import ZONE_DEVICE, Zone
from mm.pgmap import PgMap
from mm.pgtable import frame_at

G = 1 << 30
EVERY = sorted(ARCHES)
HVO = [key for key in EVERY if ARCHES[key].hvo]
DEDUP = [key for key in EVERY if ARCHES[key].dax_dedup]


def named(key: tuple[str, int]) -> str:
    return f"{key[0]}-{key[1] >> 10}K"


class ArchBench:
    """A booted kernel; pfns of an empty place far above its RAM, where every kind of unit begins."""

    def __init__(self, key: tuple[str, int], profile: str = "posted", **machine: object) -> None:
        requests = machine.pop("requests", [])
        assert isinstance(requests, list)
        machine.setdefault("ram", 4 * G)
        self.k = k = Kernel(
            Machine(arch=key[0], page=key[1], **machine),  # type: ignore[arg-type]
            lambda k: UnifiedFramework(k, profile),
        )
        self.arch = k.arch
        k.boot_requests += requests
        boot(k)
        assert isinstance(k.paths, UnifiedFramework)
        self.f = k.paths
        self.per = self.arch.pages_per_section
        self.sub = self.arch.pages_per_subsection
        self.leaf = self.arch.ptrs_per_pte * self.arch.spp
        """Pages that a PMD leaf describes."""
        self.far = -(-(1 << 43) // self.arch.page // self.leaf) * self.leaf
        self.section = self.far // self.per

    @property
    def total(self) -> int:
        """Sum of the two memmap counters."""
        return self.k.vmstat.nr_memmap + self.k.vmstat.nr_memmap_boot

    @property
    def device(self) -> Zone:
        return self.k.nodes[0].zones[ZONE_DEVICE]

    def free(self) -> int:
        """Free page frames."""
        return sum(z.free_pages(self.k.pages.block_order) for n in self.k.nodes for z in n.zones)

    def pgmap(self, pfn: int, nr: int, order: int, altmap: Altmap | None = None) -> PgMap:
        return PgMap([(pfn, pfn + nr)], order, altmap, 0, "generic")

    def add(self, pfn: int, nr: int, order: int | None = None, altmap: Altmap | None = None) -> int:
        """Add RAM, or with `order` a device; no failure waits."""
        pgmap = None if order is None else self.pgmap(pfn, nr, order, altmap)
        return self.f.sparse_add_section(0, pfn, nr, altmap, pgmap)

    def remove(self, pfn: int, nr: int, altmap: Altmap | None = None) -> None:
        self.f.sparse_remove_section(pfn, nr, altmap, None)

    def frames(self, pfn: int, nr: int) -> list[int | None]:
        """What each vmemmap page of a range maps."""
        spp = self.arch.spp
        slots = [(vpn, self.k.tables.get(vpn)) for vpn in range(pfn // spp, -(-(pfn + nr) // spp))]
        return [None if m is None else frame_at(m, vpn) for vpn, m in slots]

    def kinds(self, pfn: int, nr: int) -> set[str]:
        """How a range is mapped: forms of entries, and "none"."""
        spp = self.arch.spp
        lo, hi = pfn // spp, -(-(pfn + nr) // spp)
        found = {m.kind for _, _, m in self.k.tables.runs(lo, hi)}
        return found | {"none"} if self.k.tables.holes(lo, hi) else found

    def tables(self) -> list[int]:
        """Number of PTE, PMD and PUD tables."""
        return [sum(hi - lo for lo, hi, _ in level.items()) for level in self.k.tables.tables]


Make = Callable[..., ArchBench]


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def reserve(order: int, count: int) -> list[BootRequest]:
    return [BootRequest(order, count, None)]
