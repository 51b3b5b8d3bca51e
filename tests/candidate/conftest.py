"""Kernels with the unified framework, and the invariants of unified-framework.md section 7."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

import pytest

from candidate.framework import PROFILES, UnifiedFramework
from candidate.vmemmap_optimization import section_nr_vmemmap_pages, vmemmap_optimizable_order
from mm.boot import boot
from mm.fault import FaultInjector
from mm.folio import Folio
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.mmzone import ZONE_DEVICE
from mm.page import Compound
from mm.page_alloc import (
    OWNER_ALTMAP,
    OWNER_HUGETLB,
    OWNER_MEMMAP,
    OWNER_MEMMAP_BOOT,
    OWNER_PGTABLE,
    OWNER_PGTABLE_BOOT,
    OWNER_SELFHOSTED,
    OWNER_TAIL,
    OWNER_TAIL_BOOT,
)
from mm.pgmap import PgMap
from mm.pgtable import Leaf, Pte, Shared, Strided, frame_at, writable

PPS = 32768
"""Pages per section."""
DAX = 6 << 18
"""A pfn at 6 GiB, above the RAM of every machine here."""


class Bench:
    """A booted kernel and the short cuts that tests take."""

    def __init__(self, profile: str, machine: Machine, requests: list[BootRequest]) -> None:
        self.profile = profile
        self.k = Kernel(machine, lambda k: UnifiedFramework(k, profile))
        self.k.boot_requests += requests
        boot(self.k)
        paths = self.k.paths
        assert isinstance(paths, UnifiedFramework)
        self.paths = paths

    @property
    def total(self) -> int:
        """Sum of the two memmap counters."""
        return self.k.vmstat.nr_memmap + self.k.vmstat.nr_memmap_boot

    def folios(self, order: int, count: int, nid: int = 0) -> list[Folio]:
        """Fresh huge pages, as the pool makes them before it optimizes them."""
        k = self.k
        out = []
        for _ in range(count):
            pfn = k.pages.alloc_block(order, nid, OWNER_HUGETLB, False)
            assert pfn is not None
            zone = k.pages.zone_of.get(pfn)
            assert zone is not None
            k.memmap.write(pfn, 1 << order, Compound(order, 0, zone.nid, zone.idx, "hugetlb"))
            out.append(Folio(pfn, order, zone, hugetlb=True))
        return out

    def optimize(self, folios: list[Folio]) -> None:
        self.k.faults.begin()
        self.paths.hugetlb_vmemmap_optimize_folios(self.k.hstates[folios[0].order], folios)

    def restore(self, folios: list[Folio]) -> int:
        self.k.faults.begin()
        return self.paths.hugetlb_vmemmap_restore_folios(self.k.hstates[folios[0].order], list(folios), [])

    def pgmap(self, start: int, nr: int, shift: int) -> PgMap:
        return PgMap([(start, start + nr)], shift, None, 0, "generic")

    def add(self, start: int, nr: int, pgmap: PgMap | None = None) -> int:
        """__add_pages without altmap: section by section, to the first error."""
        self.k.faults.begin()
        pfn = start
        while pfn < start + nr:
            stop = min(start + nr, (pfn // PPS + 1) * PPS)
            rc = self.paths.sparse_add_section(0, pfn, stop - pfn, None, pgmap)
            if rc:
                return rc
            pfn = stop
        return 0

    def remove(self, start: int, nr: int) -> None:
        pfn = start
        while pfn < start + nr:
            stop = min(start + nr, (pfn // PPS + 1) * PPS)
            self.paths.sparse_remove_section(pfn, stop - pfn, None, None)
            pfn = stop

    def slots(self, lo: int, hi: int) -> Iterator[tuple[int, int | None, bool]]:
        """(vmemmap page, frame or None, writable) of [lo, hi), in the plainest way."""
        for vpn in range(lo, hi):
            m = self.k.tables.get(vpn)
            yield (vpn, None, False) if m is None else (vpn, frame_at(m, vpn), writable(m, vpn))

    def frames_free(self) -> int:
        return sum(z.free_pages(self.k.pages.block_order) for n in self.k.nodes for z in n.zones)

    def check(self, folios: list[Folio] | None = None) -> None:
        """I1, I2, I4, I6 of section 7, the reference counts of shared tails, and NR_PAGETABLE."""
        k, paths = self.k, self.paths
        tails = {frame: key for key, frame in paths.zone_tails().items()}
        owned = dict.fromkeys((OWNER_MEMMAP, OWNER_MEMMAP_BOOT, OWNER_PGTABLE, OWNER_PGTABLE_BOOT), 0)
        owned[OWNER_TAIL] = owned[OWNER_TAIL_BOOT] = 0
        for lo, hi, owner in k.pages.owners.items():
            owned[owner] = owned.get(owner, 0) + hi - lo
        private = lent = 0  # lent: from an altmap
        dax: dict[int, int] = {}
        for lo, hi, m in k.tables.entries.items():
            if isinstance(m, Leaf | Pte):
                private += hi - lo
                use = None
                for s, e, owner in k.pages.owners.runs(lo + m.delta, hi + m.delta):
                    lent += (e - s) * (owner in (OWNER_ALTMAP, OWNER_SELFHOSTED))
            elif isinstance(m, Shared):
                use = (m.frame, hi - lo)
            else:
                assert isinstance(m, Strided)
                assert m.tail is not None
                rows = (hi - lo) // m.period
                private += rows * m.keep
                use = (m.tail, rows * (m.period - m.keep))
            if use:
                assert use[0] in tails, "a shared frame is a shared tail page"
                if tails[use[0]][0][1] == ZONE_DEVICE:
                    dax[use[0]] = dax.get(use[0], 0) + use[1]
        assert self.total == private, "I2"
        assert owned[OWNER_MEMMAP] + owned[OWNER_MEMMAP_BOOT] == private - lent, "I6: private frames"
        assert owned[OWNER_TAIL] + owned[OWNER_TAIL_BOOT] == len(tails), "I6: shared tails"
        tables = sum(hi - lo for level in k.tables.tables for lo, hi, _ in level.items())
        assert owned[OWNER_PGTABLE] + owned[OWNER_PGTABLE_BOOT] == tables, "I6: page tables"
        for frame in tails:
            assert k.pages.refs.get(frame, 1) == 1 + dax.get(frame, 0)
        for first, last, order in paths.orders.items():
            assert vmemmap_optimizable_order(paths, order)
            for section in range(first, last):
                n = section_nr_vmemmap_pages(paths, section * PPS, PPS)
                seen = list(self.slots(section * 512, (section + 1) * 512))
                assert sum(f not in tails for _, f, _ in seen) == n
                for vpn, frame, rw in seen:
                    if vpn * 64 % (1 << order) < 64:
                        assert frame not in tails, "I1: heads are private"
                        assert rw
                    else:
                        assert frame is not None
                        assert tails[frame][1] == order, "I1: tails are shared"
        for folio in folios or ():
            seen = list(self.slots(folio.pfn // 64, folio.end_pfn // 64))
            if folio.vmemmap_optimized:
                assert seen[0][1] not in tails, "I4"
                assert seen[0][2], "I4"
            else:
                assert not any(f in tails for _, f, _ in seen), "I4"
                assert all(w for _, _, w in seen)


class Hooks(FaultInjector):
    """Fails the points of kind PTEHOOK whose numbers (from 1) are in `bad`."""

    def __init__(self, bad: Container[int]) -> None:
        super().__init__()
        self.bad = bad
        self.passed = 0
        self.armed = self.nth = 1 << 60  # something waits: no short cuts

    def begin(self) -> None:
        self.armed = 1 << 60

    def room(self, n: int) -> int:
        return n

    def grant(self, kind: str, n: int) -> int:
        if kind != "PTEHOOK":
            return super().grant(kind, n)
        for i in range(n):
            self.passed += 1
            if self.passed in self.bad:
                return i
        return n


Make = Callable[..., Bench]


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _maker(profile: str) -> Make:
    def build(requests: list[BootRequest] | None = None, **machine: object) -> Bench:
        machine.setdefault("ram", 4 << 30)
        return Bench(profile, Machine(**machine), requests or [])  # type: ignore[arg-type]

    return build


@pytest.fixture
def make(profile: str) -> Make:
    """Boot a kernel, in either profile: make(requests=[...], ram=..., ...) with the keys of `Machine`."""
    return _maker(profile)


@pytest.fixture
def merged() -> Bench:
    """A kernel in profile merged, where page-table updates can fail."""
    return _maker("merged")()
