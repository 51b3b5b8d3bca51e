"""The promises of the cover letter as properties: which of them a program exercised, and whether they held.

A promise is about the candidate; the reference is there where it promises *more* than before. A property looks at both
kernels after an operation and says None where the operation is none of its business. Vacuity is told apart: a promise
that no program exercised is neither held nor broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from fuzz.execute import Lockstep, Profile, StepResult, run_program
from fuzz.oracle.pieces import REF_KEEP, shares_tails
from fuzz.program.model import Op, Program
from mm.kernel import Kernel, gigantic_folios
from mm.page_alloc import OWNER_MEMMAP_BOOT
from mm.pgmap import PgMap
from mm.pgtable import Shared, Strided, frame_at


class Seen(NamedTuple):
    """One operation on both sides, for a property."""

    reference: Kernel
    candidate: Kernel
    op: Op
    saved: int
    """By how many pages the operation raised nr_memmap_pages less on the candidate."""
    device: PgMap | None
    """The candidate's page map that the operation made, if it made one."""


Property = Callable[[Seen], bool | None]


class Promise(NamedTuple):
    """One promise; `broken` is what a report says where it does not hold."""

    id: str
    sentence: str
    source: str
    holds: Property
    broken: str


def _whole(k: Kernel, device: PgMap | None) -> bool:
    """Whether a device shares tails and is a row of whole compound pages and whole sections that have no memmap yet."""
    if device is None or not shares_tails(k.arch, device.vmemmap_shift, device.altmap is not None):
        return False
    unit = max(1 << device.vmemmap_shift, k.arch.pages_per_section)
    return not any(start % unit or end % unit for start, end in device.ranges)


def _tail_slots(k: Kernel, device: PgMap) -> list[tuple[int, bool]]:
    """(frame, writable) of the shared tail mappings of a device."""
    arch = k.arch
    out: list[tuple[int, bool]] = []
    for start, end in device.ranges:
        for lo, hi, m in k.tables.runs(arch.vpn(start), arch.vpn_end(end)):
            if isinstance(m, Shared):
                out.append((m.frame, m.rw))
            elif isinstance(m, Strided):
                out.append((frame_at(m, lo + (m.phase - lo - 1) % m.period), m.tail_rw))
            del hi
    return out


def one_more_page(seen: Seen) -> bool | None:
    """One page less for each compound page than the two that the reference keeps."""
    device = seen.device
    if seen.op.name != "dax create" or device is None or not _whole(seen.candidate, device):
        return None
    compounds = sum(end - start for start, end in device.ranges) >> device.vmemmap_shift
    return seen.saved == (REF_KEEP - 1) * compounds


def tails_read_only(seen: Seen) -> bool | None:
    """No shared tail of a device is mapped writable."""
    slots = [] if seen.device is None else _tail_slots(seen.candidate, seen.device)
    return None if not slots else not any(rw for _, rw in slots)


def tails_not_initialized(seen: Seen) -> bool | None:
    """Boot writes S struct pages of each optimized boot page instead of 2^order, where none is left to later."""
    ref, cand = seen.reference, seen.candidate
    folios = [folio for folio in gigantic_folios(cand) if folio.vmemmap_optimized]
    if seen.op.name != "boot" or ref.machine.deferred_init or not folios:
        return None
    skipped = len(folios) * ((1 << max(cand.hstates)) - cand.arch.spp)
    return ref.vmstat.struct_pages_initialized - cand.vmstat.struct_pages_initialized == skipped


def boot_preoptimized(seen: Seen) -> bool | None:
    """The memmap of a boot gigantic page is made optimized: its private page comes from memblock, uncopied."""
    cand = seen.candidate
    if seen.op.name != "boot" or not cand.arch.hvo or not cand.machine.hugetlb_free_vmemmap:
        return None
    folios = list(gigantic_folios(cand))
    if not folios:
        return None
    heads = [(f.pfn // cand.arch.spp, cand.tables.get(f.pfn // cand.arch.spp)) for f in folios]
    owners = [None if m is None else cand.pages.owners.get(frame_at(m, vpn)) for vpn, m in heads]
    return all(f.vmemmap_optimized for f in folios) and all(owner == OWNER_MEMMAP_BOOT for owner in owners)


def one_framework(seen: Seen) -> bool | None:
    """Devices and huge pages take their tails from one place: zone and order name the frame."""
    cand = seen.candidate
    slots = [] if seen.device is None else _tail_slots(cand, seen.device)
    if not slots or not any(f.vmemmap_optimized for h in cand.hstates.values() for f in h.folios.values()):
        return None
    tails = set(cand.paths.zone_tails().values())
    return all(frame in tails for frame, _ in slots)


PROMISES: Final = (
    Promise(
        "dax-one-page-more",
        "device DAX saves one page more for each compound page: 4 KiB for each 2 MiB",
        "cover letter; unified-framework.md 4, formula V-2 -> V-1",
        one_more_page,
        "a device took as many memmap pages as before, or saved another number",
    ),
    Promise(
        "dax-tails-read-only",
        "the shared tail pages of device DAX are mapped read-only",
        "cover letter; unified-framework.md 1.7, 4 row 'DAX tail protection'",
        tails_read_only,
        "the shared tail pages of device DAX are mapped read-write: a stray write to one tail struct page changes all",
    ),
    Promise(
        "hvo-tails-not-initialized",
        "memmap_init skips the struct pages of boot huge pages that are optimized away",
        "cover letter; unified-framework.md 3.6",
        tails_not_initialized,
        "boot writes struct pages that are only aliases of the shared tail page",
    ),
    Promise(
        "boot-preoptimized-everywhere",
        "boot gigantic pages are optimized before their memmap is made, on every architecture with HVO",
        "cover letter; unified-framework.md 1.4 patches 10 and 11",
        boot_preoptimized,
        "a boot gigantic page got its whole memmap first, or none of the optimization",
    ),
    Promise(
        "one-framework",
        "HugeTLB and device DAX share tails by one mechanism, named by zone and order",
        "cover letter; unified-framework.md 3.3",
        one_framework,
        "a device's shared tail page is none of those that the zones know",
    ),
)


@dataclass(slots=True)
class Record:
    """How a promise fared."""

    promise: Promise
    held: int = 0
    broken: int = 0
    where: str = ""
    """The first operation that broke it."""
    arches: set[str] = field(default_factory=set)

    @property
    def verdict(self) -> str:
        """ "held", "broken" or "not exercised"."""
        return "broken" if self.broken else "held" if self.held else "not exercised"

    @property
    def sentence(self) -> str:
        """What a report says."""
        if self.broken:
            return f"{self.promise.broken} (first seen in {self.where})"
        return self.promise.sentence

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "id": self.promise.id,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "source": self.promise.source,
            "held": self.held,
            "broken": self.broken,
            "architectures": sorted(self.arches),
        }


def examine(programs: Iterable[tuple[str, Program]], profile: Profile) -> list[Record]:
    """Run named programs and tell how each promise fared with a candidate of this profile."""
    records = [Record(promise) for promise in PROMISES]
    for name, program in programs:
        watch = _Watch(name, records)
        run_program(program, profile=profile, full_every=0, observer=watch)
    return records


class _Watch:
    """The observer of one program."""

    def __init__(self, name: str, records: list[Record]) -> None:
        self.name = name
        self.records = records
        self.memmap = 0, 0
        self.devices: list[PgMap] = []
        self.number = 0

    def __call__(self, pair: Lockstep, op: Op, result: StepResult) -> None:
        ref, cand = pair.reference.kernel, pair.candidate.kernel
        self.number += 1
        now = ref.vmstat.nr_memmap, cand.vmstat.nr_memmap
        saved = (now[0] - self.memmap[0]) - (now[1] - self.memmap[1])
        new = [pgmap for pgmap in cand.pgmaps if not any(pgmap is old for old in self.devices)]
        self.memmap, self.devices = now, list(cand.pgmaps)
        if result.rcs != (0, 0):
            return
        seen = Seen(ref, cand, op, saved, new[0] if len(new) == 1 else None)
        for record in self.records:
            verdict = record.promise.holds(seen)
            if verdict is None:
                continue
            record.arches.add(cand.machine.arch)
            if verdict:
                record.held += 1
            else:
                record.broken += 1
                record.where = record.where or f"{self.name}, operation {self.number}"
