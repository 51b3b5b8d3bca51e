"""Kernels to test on, and an audit of what must hold after any operation (invariants of separate-paths.md 6)."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest

from mm.boot import boot
from mm.folio import Folio
from mm.kernel import BootRequest, Kernel
from mm.machine import Machine
from mm.page import Compound
from mm.page_alloc import (
    OWNER_HUGETLB,
    OWNER_MEMMAP,
    OWNER_MEMMAP_BOOT,
    OWNER_PGTABLE,
    OWNER_PGTABLE_BOOT,
    OWNER_TAIL,
    OWNER_TAIL_BOOT,
)
from mm.pgtable import Strided, frame_at, private_frames, shared_uses, writable
from reference.paths import SeparatePaths

GIB = 1 << 18
"""Pages of 1G."""


def booted(*requests: BootRequest, **machine: object) -> Kernel:
    """A kernel with the given machine, booted."""
    k = Kernel(Machine(**machine), SeparatePaths)  # type: ignore[arg-type]
    k.boot_requests += requests
    boot(k)
    return k


def new_folios(k: Kernel, order: int, n: int) -> list[Folio]:
    """`n` fresh huge pages as pool growth lists them: the one allocated last comes first."""
    out: list[Folio] = []
    for _ in range(n):
        pfn = k.pages.alloc_block(order, 0, OWNER_HUGETLB, True)
        assert pfn is not None
        zone = k.pages.zone_of.get(pfn)
        assert zone is not None
        folio = Folio(pfn, order, zone)
        folio.hugetlb = True
        k.memmap.init(pfn, 1 << order, Compound(order, 0, zone.nid, zone.idx, "hugetlb"))
        out.insert(0, folio)
    return out


class Counts(NamedTuple):
    """Counters that the tables of separate-paths.md and live-linux.md speak of."""

    memmap: int
    boot: int
    pagetable: int
    managed: int
    free: int

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(*(a - b for a, b in zip(self, other, strict=True)))


def counts(k: Kernel) -> Counts:
    v = k.vmstat
    zones = [zone for node in k.nodes for zone in node.zones]
    return Counts(
        v.nr_memmap,
        v.nr_memmap_boot,
        v.nr_page_table_pages,
        sum(zone.managed_pages for zone in zones),
        sum(zone.free_pages(k.arch.pmd_order) for zone in zones),
    )


def picture(k: Kernel) -> dict[str, object]:
    """The whole state that an undone operation must leave as it was, frame numbers included."""
    return {
        "counts": counts(k),
        "entries": k.tables.entries.items(),
        "tables": [t.items() for t in k.tables.tables],
        "owners": k.pages.owners.items(),
        "refs": dict(k.pages.refs),
        "free": [k.pages.free_set(zone).items() for node in k.nodes for zone in node.zones],
        "flags": k.sections.flags.items(),
        "usage": k.sections.usage.items(),
        "subsections": k.sections.subsections.items(),
        "own": k.memmap.own.items(),
        "frames": dict(k.memmap.frames),
    }


def audit(k: Kernel, folios: list[Folio], extra_private: int = 0) -> None:
    """I1, I3, I4, I9, I11, I15 and the conservation of frames; `extra_private` is what altmaps add to NR_MEMMAP."""
    private: list[tuple[int, int]] = []
    uses: Counter[int] = Counter()
    implicit: set[int] = set()
    for lo, hi, m in k.tables.entries.items():
        private += private_frames(m, lo, hi)
        shared = shared_uses(m, lo, hi)
        if shared is not None:
            uses[shared[0]] += shared[1]
        if isinstance(m, Strided) and m.tail is None:
            implicit.update(
                f for frame, n in private_frames(m, lo, hi) for f in range(frame + m.keep - 1, frame + n, m.keep)
            )
    # No frame backs two private pages, or a private and a shared one.
    private.sort()
    ends = [frame + n for frame, n in private]
    assert all(end <= frame for end, (frame, _) in zip(ends, private[1:], strict=False))
    assert not any(frame <= f < frame + n for f in uses for frame, n in private)
    # I12, Q10: zone tails live on, and their frames are theirs alone.
    tails = set(k.paths.zone_tails().values())
    owned = Counter[str]()
    for lo, hi, owner in k.pages.owners.items():
        owned[owner] += hi - lo
    assert owned[OWNER_TAIL] + owned[OWNER_TAIL_BOOT] == len(tails)
    # Conservation: every memmap frame is mapped, every mapped frame is owned; nothing leaks.
    dax_tails = set(uses) - tails
    backing = sum(n for _, n in private) + len(dax_tails)
    assert owned[OWNER_MEMMAP] + owned[OWNER_MEMMAP_BOOT] == backing - extra_private
    for frame, n in private:
        if not extra_private:
            owners = {owner for _, _, owner in k.pages.owners.runs(frame, frame + n)}
            assert owners <= {OWNER_MEMMAP, OWNER_MEMMAP_BOOT}
    # I3 (no early section is ever removed here).
    assert k.vmstat.nr_memmap + k.vmstat.nr_memmap_boot == backing
    # I4: references of device tail frames are their PTEs; zone tails are not counted.
    assert {f: n for f, n in uses.items() if f not in tails and n > 1} == k.pages.refs
    # Page tables: exactly those that are needed.
    used_tables = sum(hi - lo for t in k.tables.tables for lo, hi, _ in t.items())
    assert owned[OWNER_PGTABLE] + owned[OWNER_PGTABLE_BOOT] == used_tables
    # I1.
    spp = k.arch.spp
    for folio in folios:
        lo = folio.pfn // spp
        hi = lo + k.arch.vmemmap_pages(folio.order)
        tail = k.paths.zone_tails().get((folio.zone.key, folio.order))
        for s, e, m in k.tables.runs(lo, hi):
            for vpn in range(s, e):
                shows_tail = frame_at(m, vpn) == tail
                assert shows_tail == (folio.vmemmap_optimized and vpn != lo)
                assert writable(m, vpn) != shows_tail
        head = k.memmap.content(folio.pfn)
        assert head == Compound(folio.order, 0, folio.nid, folio.zone.idx, "hugetlb")
    # Every frame of RAM is free or owned, none both.
    for node in k.nodes:
        for zone in node.zones:
            free = k.pages.free_set(zone)
            for lo, hi in free.items():
                assert not k.pages.owners.runs(lo, hi)
    total = sum(hi - lo for lo, hi, _ in k.pages.zone_of.items())
    in_ram = sum(e - s for lo, hi, _ in k.pages.zone_of.items() for s, e, _ in k.pages.owners.runs(lo, hi))
    assert counts(k).free + in_ram == total


Audit = Callable[..., None]


@pytest.fixture
def checked() -> Audit:
    return audit


@pytest.fixture
def boot_kernel() -> Callable[..., Kernel]:
    return booted


@pytest.fixture
def on() -> Callable[..., Kernel]:
    """A booted kernel by architecture and page size in KiB."""
    return lambda name, kib=4, **machine: booted(arch=name, page=kib << 10, **machine)


@pytest.fixture
def fresh() -> Callable[[Kernel, int, int], list[Folio]]:
    return new_folios


@pytest.fixture
def tally() -> Callable[[Kernel], Counts]:
    return counts


@pytest.fixture
def snapshot() -> Callable[[Kernel], dict[str, object]]:
    return picture


def traced(k: Kernel, nth: int, operation: Callable[[], object]) -> list[str]:
    """Run one operation with its nth allocation point failed (0: none); the kinds of the points it reached."""
    k.faults.nth = nth
    k.faults.points = []
    k.faults.begin()
    operation()
    points = [kind for kind, n in k.faults.points for _ in range(n)]
    k.faults.points = None
    assert len(points) == k.faults.reached
    # The next operation is not to be failed by a number that this one did not reach.
    k.faults.begin()
    return points


@pytest.fixture
def trace() -> Callable[[Kernel, int, Callable[[], object]], list[str]]:
    return traced
