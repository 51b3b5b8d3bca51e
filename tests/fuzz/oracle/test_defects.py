"""No ledger clause is so wide that a defect under it survives: small defects planted in the candidate are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from candidate.framework import UnifiedFramework
from candidate.vmemmap_optimization import vmemmap_shared_tail_page
from fuzz import side as sides
from fuzz.execute import RunOutcome, run_program
from fuzz.oracle.ledger import ledger
from fuzz.program import parse
from mm.errno import E2BIG, EAGAIN, EBUSY, EEXIST, EINVAL, ENOMEM, EPERM
from mm.kernel import MIGRATE_UNMOVABLE, Kernel
from mm.memory_failure import unpoison_memory
from mm.mmzone import SECTION_IS_VMEMMAP_PREINIT, ZONE_DEVICE, ZONE_DMA, ZONE_NORMAL
from mm.page import POISON, Plain, Tail
from mm.page_alloc import OWNER_MEMMAP, KernelBug
from mm.pgtable import Pte, Shared, Strided
from reference.paths import SeparatePaths
from zoo import Version, reference_version

SMALL = "machine arch=x86_64 page=4K ram=512M nodes=1"
DEFAULT = "machine arch=x86_64 page=4K ram=4G nodes=1"

DAX_2M = f"{DEFAULT}\nboot\nd0 = dax create at=0x180000000 size=256M"
DAX_1G = f"{DEFAULT}\nboot\nd0 = dax create at=0x180000000 size=3G align=1G"
DAX_PARTIAL = f"{DEFAULT}\nboot\nd0 = dax create at=0x180200000 size=256M"
DAX_GONE = f"{DAX_2M}\ndax destroy d0"
DAX_LEFT = f"{SMALL}\nboot\nfail alloc nth=6\nd0 = dax create at=0x40000000 size=1G align=1G"
"""The second section fails, the first one stays (Q12)."""
DAX_LEFT_PART = f"{DAX_LEFT}\nd1 = dax create at=0x40000000 size=64M"
DAX_FAULT = f"{SMALL}\nboot\nfail alloc nth=68\nd0 = dax create at=0x20000000 size=128M"
"""The 68th point: the 64th and last VMF of the candidate lies before it, the 128th of the reference behind it."""
DAX_FAULTS = f"{SMALL}\nboot\nfail alloc nth=68 times=3\nd0 = dax create at=0x20000000 size=128M"
"""The same with the two points behind it, of which the reference reaches none: it has given up."""
PLACEMENT_CMA = (
    "machine arch=x86_64 page=4K ram=4G nodes=1\nreserve cma size=2G\nboot\n"
    "d0 = dax create at=0x200000000 size=128M align=4K driver=kmem\ndax online d0 block=0 zone=default\n"
    "p0 = pages alloc count=1017\nd1 = dax create at=0x80000000 size=1G\nhugetlb resize size=2M to=1\n"
    "hugetlb resize size=2M to=61"
)
"""The zone's ordinary pageblocks run out, on one side first; what follows are those of the area."""
RADIX_PAGES = (
    "machine arch=ppc64_radix page=64K ram=512M nodes=1\nboot\n"
    "d0 = dax create at=0x80000000 size=16M align=64K altmap=on\nm0 = memory add at=0xc0000000 size=256M\n"
    "dax destroy d0\nd1 = dax create at=0x80000000 size=1G align=1G"
)
RISCV_MOVED = "machine arch=riscv64 page=4K ram=2068M nodes=1\nreserve size=1G count=1\nreserve size=2M count=2\nboot"
ALTMAP_FAULT = (
    "machine arch=ppc64_radix page=4K ram=2816M nodes=1\nboot\nfail alloc nth=3\n"
    "d0 = dax create at=0x100000000 size=16M align=4K altmap=on"
)
"""The reference has a new root of sections to allocate, so that the candidate's third point is a page of the altmap."""
SPILL = (
    "machine arch=x86_64 page=4K ram=6200M nodes=1\nboot\nd0 = dax create at=0x80000000 size=2M\n"
    "p0 = pages alloc count=1163335"
)
MEMORY = (
    "machine arch=x86_64 page=4K ram=4732M nodes=2\nboot\nd0 = dax create at=0x14f80800000 size=128M node=1\n"
    "p0 = pages alloc count=596057 node=1 movable=on"
)
PLACEMENT = (
    "machine arch=x86_64 page=4K ram=5166M nodes=1\nboot\nhugetlb resize size=1G to=3\n"
    "d0 = dax create at=0x1c2e00000,0x80000000 size=128M,2M align=4K\nd1 = dax create at=0x200000000 size=48M\n"
    "hugetlb resize size=1G to=0\nd2 = dax create at=0x240000000 size=16M align=4K\np0 = pages alloc count=1287713\n"
    "hugetlb resize size=2M to=2"
)
BOOT_1G = "machine arch=x86_64 page=4K ram=4G nodes=1 deferred_init=off\nreserve size=1G count=1\nboot"
BOOT_ORDER = "machine arch=x86_64 page=4K ram=3074M nodes=2\nreserve size=1G count=1\nboot"
INTERLEAVED = "machine arch=x86_64 page=4K ram=4G nodes=2 interleave=1G\nreserve size=1G count=1\nboot"
UNALIGNED_1G = "machine arch=x86_64 page=4K ram=512M nodes=1\nboot\nd0 = dax create at=0x27000000 size=1G align=1G"
SURPLUS = (
    "machine arch=x86_64 page=4K ram=3G nodes=1\nboot\nhugetlb resize size=1G to=1\np0 = pages alloc count=503286\n"
    "hugetlb resize size=1G to=0\npages free p0\nhugetlb demote size=1G count=1"
)
POISON_FORK = (
    "machine arch=x86_64 page=4K ram=2816M nodes=1\nboot\nd0 = dax create at=0x80000000 size=128M\n"
    "hugetlb resize size=1G to=1\ndax destroy d0\np0 = pages alloc count=442802\np1 = pages alloc count=2 movable=on\n"
    "memory soft_offline at=0x3c0000"
)
POOL = f"{DEFAULT}\nboot\nhugetlb resize size=2M to=4"

HISTORY = {
    path.stem: path.read_text(encoding="utf-8").removeprefix("vmm 1\n").rstrip("\n")
    for path in (Path(__file__).resolve().parents[3] / "corpus" / "history").glob("*.vmm")
}
"""What each fix of an older reference is about, by the clause's id without `history-`."""

Tamper = Callable[[UnifiedFramework, tuple[Any, ...], Any], Any]


def run(text: str, tamper: tuple[str, Tamper] | None = None, reference: Version = "v7.3") -> RunOutcome:
    """Run a program; `tamper` acts after each call of one method of the candidate and may return another result."""
    with reference_version(reference):
        return run_with(text, tamper)


def run_with(text: str, tamper: tuple[str, Tamper] | None) -> RunOutcome:
    """The same with the reference as it is."""
    program = parse(f"vmm 1\n{text}\n")
    if tamper is None:
        return run_program(program, full_every=1)
    method, act = tamper

    def broken(self: UnifiedFramework, *args: Any) -> Any:
        try:
            result = getattr(UnifiedFramework, method)(self, *args)
        except KernelBug:
            act(self, args, None)
            raise
        other = act(self, args, result)
        return result if other is None else other

    planted = type("Planted", (UnifiedFramework,), {method: broken})
    return run_program(program, full_every=1, make_candidate=planted)


# -- defects --------------------------------------------------------------------------------------------------------


def vpns(k: Kernel, args: tuple[Any, ...]) -> tuple[int, int]:
    """Vmemmap pages of the section that is added."""
    return args[1] // k.arch.spp, (args[1] + args[2]) // k.arch.spp


MISSED_PAGE = "machine arch=arm64 page=16K ram=512M nodes=1\nboot\nd0 = dax create at=0x200000 size=64M align=16K"
SHARED_LOST = (
    "machine arch=arm64 page=16K ram=512M nodes=1\nboot\nd0 = dax create at=0x147e00000 size=2M align=16K\n"
    "d1 = dax create at=0x140000000 size=126M align=16K altmap=on\ndax destroy d1"
)
SHARED_FREED = (
    "machine arch=arm64 page=64K ram=512M nodes=1\nboot\n"
    "d0 = dax create at=0x100000000 size=130M align=64K altmap=on\n"
    "d1 = dax create at=0x108200000 size=62M align=64K\ndax destroy d1"
)
SHARED_LEAF_FREED = (
    "machine arch=s390x page=4K ram=512M nodes=1\nboot\nd0 = dax create at=0x80000000 size=34M align=4K altmap=on\n"
    "d1 = dax create at=0x82200000 size=30M align=4K\ndax destroy d0\ndax destroy d1"
)
SHARED_REBOUND = (
    "machine arch=arm64 page=16K ram=512M nodes=1\nboot\nd0 = dax create at=0x23fe00000 size=128M align=16K\n"
    "d1 = dax create at=0x247e00000 size=16M align=16K altmap=on\ndax rebind d1 driver=fsdev"
)
LEFT_BEHIND = (
    "machine arch=riscv64 page=4K ram=512M nodes=1 memhp_default_state=online_kernel\nboot\n"
    "d0 = dax create at=0x13fe00000 size=128M align=4K altmap=on\n"
    "d1 = dax create at=0x140000000 size=128M align=4K driver=kmem"
)
LEFT_UNDER = (
    "machine arch=riscv64 page=4K ram=512M nodes=1\nboot\n"
    "d0 = dax create at=0x14fe00000 size=131068K align=4K altmap=on\n"
    "d1 = dax create at=0x150000000 size=128M align=4K altmap=on"
)
MISSED_LOONGARCH = (
    "machine arch=loongarch64 page=64K ram=512M nodes=1\nboot\nd0 = dax create at=0x21000000 size=114M align=64K"
)


RISCV_LEAF = (
    "machine arch=riscv64 page=4K ram=512M nodes=1\nboot\nd0 = dax create at=0xc0000000 size=2M align=4K\n"
    "d1 = dax create at=0xc0200000 size=2M"
)
STALE = "candidate: stale translation"
REMOVED = (
    "machine arch=x86_64 page=4K ram=1G nodes=1\nboot\nm0 = memory add at=0x140000000 size=128M\nmemory remove m0\n"
    "hugetlb resize size=2M to=2"
)


OFFLINED = (
    "machine arch=x86_64 page=4K ram=1G nodes=1\nboot\nm0 = memory add at=0x140000000 size=128M\nmemory remove m0\n"
    "m1 = memory add at=0x140000000 size=128M\nmemory online m1 block=0 zone=movable\nhugetlb resize size=2M to=32\n"
    "memory offline m1 block=0"
)
"""Going offline changes sections too, and dissolves huge pages, which are optimized."""


def freed_while_stale(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    """As if the last flush had been forgotten."""
    f.k.tlb.violations.append("frame 0x1000 is freed while a translation of vmemmap pages 0x1..0x8 is stale")


RISCV_BOOT = "machine arch=riscv64 page=4K ram=4G nodes=1\nreserve size=1G count=2\nboot"
RISCV_PARTIAL = "machine arch=riscv64 page=4K ram=1G nodes=1\nboot\nd0 = dax create at=0x100000000 size=130M"
RADIX_LEAF = (
    "machine arch=ppc64_radix page=4K ram=512M nodes=1\nboot\nd0 = dax create at=0x40000000 size=16M align=4K\n"
    "d1 = dax create at=0x41000000 size=144M"
)


def count_boot_page_more(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    f.k.vmstat.nr_memmap_boot += 1


def dies_at_boot(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    raise KernelBug("panic: no memmap")


def writable_tail(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    for s, e, m in f.k.tables.runs(*vpns(f.k, args)):
        if isinstance(m, Strided):
            f.k.tables.set(s, e, m._replace(tail_rw=True))
        elif isinstance(m, Shared):
            f.k.tables.set(s, e, Shared(m.frame, True))


def second_private_page(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    k = f.k
    lo, _ = vpns(k, args)
    m = k.tables.get(lo + 1)
    tail = m.tail if isinstance(m, Strided) else m.frame if isinstance(m, Shared) else None
    frame = k.pages.alloc_page(0, OWNER_MEMMAP)
    assert tail is not None
    assert frame is not None
    k.tables.set(lo + 1, lo + 2, Pte(frame - lo - 1, True))
    k.pages.put_refs(tail, 1)


def tail_of_another_zone(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    k = f.k
    for s, e, m in k.tables.runs(*vpns(k, args)):
        if isinstance(m, Strided):
            order = (m.period * k.arch.spp).bit_length() - 1
            wrong = vmemmap_shared_tail_page(f, order, k.nodes[0].zones[ZONE_NORMAL])
            k.tables.set(s, e, m._replace(tail=wrong))


def share_partial_section(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    lo, _ = vpns(f.k, args)
    tail = vmemmap_shared_tail_page(f, 9, f.k.nodes[0].zones[ZONE_DEVICE])
    assert tail is not None
    f.k.tables.set(lo + 1, lo + 2, Shared(tail, False))


def count_one_more(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    f.k.vmstat.nr_memmap += 1


def uncount_as_the_reference(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    """As if the candidate had the bug too."""
    f.k.vmstat.nr_memmap -= 512


def count_in_full(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    """As if the candidate had the bug too: 512 instead of 64."""
    f.k.vmstat.nr_memmap += 512 - 64


def forget_to_uncount(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    f.k.vmstat.nr_memmap += args[1] >> 9


def count_one_piece_more(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    """Only where 2M pages are optimized: in SURPLUS, by the demotion."""
    if args[0].order == 9:
        f.k.vmstat.nr_memmap += 1


def leak(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    f.k.pages.alloc_page(0, OWNER_MEMMAP)


def manage_one_more(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    f.k.nodes[1].zones[1].managed_pages += 1


def head_from_dma(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    """The first kept frame of a section comes from the wrong zone; free pages are as many."""
    k = f.k
    lo, _ = vpns(k, args)
    m = k.tables.get(lo)
    assert isinstance(m, Strided)
    old = m.kept_frame(lo)
    ((frame, _),) = k.pages.alloc_bulk(1, 0, OWNER_MEMMAP, zones=(ZONE_DMA,))
    assert m.tail is not None
    k.tables.set(lo, lo + 1, Pte(frame - lo, True))
    k.tables.set(lo + 1, lo + m.period, Shared(m.tail, False))
    k.pages.free(old, 1)


def tail_not_reserved(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    for frame, content in f.k.memmap.frames.items():
        f.k.memmap.frames[frame] = content._replace(reserved=False)  # type: ignore[call-arg]


def head_left_raw(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    f.k.memmap.forget(args[1], 64)


def stale_pageblock(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    f.k.set_pageblocks(args[1] + 512, args[1] + 1024, MIGRATE_UNMOVABLE)


def poison_kept_pages(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    if f.k.sections.valid(args[1]):  # the first section is kept when a later one fails
        f.k.memmap.own.set(args[1], args[1] + 64, POISON)


def no_poison(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    f.k.memmap.forget(args[1], args[2])


def drop_tail_frame(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    """The shared frame is freed with its last user, as it was before the framework."""
    for name, frame in f.zone_tails().items():
        if name[0][1] == ZONE_DEVICE and not f.k.pages.refs.get(frame):
            f.k.pages.free(frame, 1)
            del f.k.memmap.frames[frame]
            f.tails.clear()


def lost_reference(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
    frame = next(iter(f.zone_tails().values()))
    f.k.pages.put_refs(frame, 1)


def initialise_one_more(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    f.k.vmstat.struct_pages_initialized += 1


def keep_preinit(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    for lo, _, word in f.k.sections.flags.items():
        if not word & SECTION_IS_VMEMMAP_PREINIT:
            f.k.sections.set_flags(lo, lo + 1, SECTION_IS_VMEMMAP_PREINIT)
            return


def say_exist(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> Any:
    return -EEXIST if rc not in (0, -ENOMEM) else None


def pretend_failure(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> Any:
    """-ENOMEM where no allocation failed."""
    return -ENOMEM


def say_invalid(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> Any:
    return -EINVAL


def ro_head(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    k = f.k
    for folio in args[1]:
        lo = folio.pfn // k.arch.spp
        m = k.tables.get(lo)
        assert isinstance(m, Pte | Strided)
        k.tables.set(lo, lo + 1, Pte(m.delta, False) if isinstance(m, Pte) else m._replace(rw=False))


def mark_not_optimized(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    args[1][0].vmemmap_optimized = False


def tail_overwritten(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    for frame in f.k.memmap.frames:
        f.k.memmap.frames[frame] = Plain(0, 2)


def head_only(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    """As if the candidate had the bug too: the pageblock of the second GiB's head is movable, those behind it not."""
    lo = args[1] + (1 << 18) >> 9
    f.k.pageblocks.clear(lo + 1, lo + 512)


def one_block_left_out(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    f.k.pageblocks.clear((args[1] >> 9) + 7, (args[1] >> 9) + 8)


def left_poisoned(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    """As if the candidate had the bug too."""
    f.k.memmap.own.set(args[1] + 128, args[1] + 512, POISON)


def last_left_poisoned(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    f.k.memmap.own.set(args[1] + 511, args[1] + 512, POISON)


def boot_page_writable(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    """As if the candidate had the bug too: protection ends after 64 vmemmap pages."""
    (folio,) = f.k.hstates[18].folios.values()
    lo = folio.pfn // 64
    for s, e, m in f.k.tables.runs(lo + 64, lo + 4096):
        assert isinstance(m, Shared)
        f.k.tables.set(s, e, Shared(m.frame, True))


def protected_page_writable(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    """Of the part that the reference protects too."""
    (folio,) = f.k.hstates[18].folios.values()
    lo = folio.pfn // 64
    m = f.k.tables.get(lo + 63)
    assert isinstance(m, Shared)
    f.k.tables.set(lo + 63, lo + 64, Shared(m.frame, True))


def head_becomes_tail(f: UnifiedFramework, args: tuple[Any, ...], result: Any) -> None:
    """As if the candidate had the bug too."""
    folio = args[1]
    f.k.memmap.own.set(folio.pfn, folio.pfn + 64, Tail(18, folio.nid, folio.zone.idx))


@dataclass(frozen=True)
class Defect:
    """A planted defect: under which clause, in which program, and the layer that must show it."""

    clause: str
    program: str
    method: str
    tamper: Tamper
    layer: str
    field: str


ADD, REMOVE, DEVICE = "sparse_add_section", "sparse_remove_section", "memmap_init_zone_device"
LATE, OPTIMIZE = "page_alloc_init_late", "hugetlb_vmemmap_optimize_folios"
RESTORE = "hugetlb_vmemmap_restore_folio"
OPTIMIZE_ONE = "hugetlb_vmemmap_optimize_folio"


def historic(patch: str, method: str, tamper: Tamper, layer: str, field: str) -> Defect:
    """A defect under the clause of a patch that the older reference lacks."""
    return Defect(f"history-{patch}", HISTORY[patch], method, tamper, layer, field)


DEFECTS = (
    Defect("hot-remove-frees-before-flush", REMOVED, OPTIMIZE, freed_while_stale, "frames", STALE),
    Defect("hot-remove-frees-before-flush", OFFLINED, RESTORE, freed_while_stale, "frames", STALE),
    Defect("riscv-compound-under-leaf", RISCV_LEAF, LATE, dies_at_boot, "returns", "bug"),
    Defect("boot-preoptimized", RISCV_BOOT, LATE, count_boot_page_more, "mapping", "owner"),
    Defect("boot-preoptimized", RISCV_BOOT, LATE, leak, "mapping", "owner"),
    Defect("boot-preoptimized", RISCV_MOVED, LATE, leak, "mapping", "owner"),
    Defect("boot-preoptimized", RISCV_MOVED, LATE, count_boot_page_more, "mapping", "owner"),
    Defect("dax-partial-section-leaf", RISCV_PARTIAL, ADD, writable_tail, "mapping", "protection"),
    Defect("dax-partial-section-leaf", RISCV_PARTIAL, ADD, pretend_failure, "returns", "rc"),
    Defect("dax-partial-section-leaf", RISCV_PARTIAL, DEVICE, head_left_raw, "mapping", "level"),
    Defect("radix-leaf-under-compounds", RADIX_PAGES, ADD, say_invalid, "returns", "rc"),
    Defect("radix-leaf-under-compounds", RADIX_LEAF, ADD, writable_tail, "mapping", "protection"),
    Defect("arm64-missed-vmemmap-page", MISSED_PAGE, LATE, dies_at_boot, "returns", "bug"),
    Defect("arm64-shared-vmemmap-page", SHARED_LOST, REMOVE, leak, "accounting", "free pages"),
    Defect("arm64-shared-vmemmap-page", SHARED_FREED, LATE, dies_at_boot, "returns", "bug"),
    Defect("arm64-shared-vmemmap-page", SHARED_LEAF_FREED, REMOVE, dies_at_boot, "returns", "bug"),
    Defect("arm64-shared-vmemmap-page", SHARED_REBOUND, REMOVE, leak, "accounting", "free pages"),
    Defect("altmap-left-behind", LEFT_BEHIND, ADD, leak, "accounting", "free pages"),
    Defect("altmap-left-behind", LEFT_BEHIND, LATE, dies_at_boot, "returns", "bug"),
    Defect("altmap-left-behind", LEFT_UNDER, ADD, leak, "accounting", "free pages"),
    Defect("arm64-missed-vmemmap-page", MISSED_LOONGARCH, LATE, dies_at_boot, "returns", "bug"),
    Defect("prehvo-interleaved-node", INTERLEAVED, "mm_core_init_early", dies_at_boot, "returns", "bug"),
    Defect("dax-tail-read-only", DAX_2M, ADD, writable_tail, "mapping", "protection"),
    Defect("dax-tail-read-only", DAX_1G, ADD, writable_tail, "mapping", "protection"),
    Defect("dax-one-private-page", DAX_2M, ADD, second_private_page, "mapping", "sharing"),
    Defect("dax-one-private-page", DAX_1G, ADD, second_private_page, "mapping", "sharing"),
    Defect("dax-one-private-page", DAX_2M, ADD, tail_of_another_zone, "mapping", "shared frame"),
    Defect("dax-whole-sections", DAX_PARTIAL, DEVICE, share_partial_section, "mapping", "sharing"),
    Defect("dax-nr-memmap", DAX_2M, ADD, count_one_more, "accounting", "nr_memmap"),
    Defect("dax-nr-memmap", DAX_PARTIAL, ADD, count_one_more, "accounting", "nr_memmap"),
    Defect("dax-nr-memmap", DAX_GONE, REMOVE, forget_to_uncount, "accounting", "nr_memmap"),
    Defect("dax-free-pages", DAX_1G, ADD, leak, "accounting", "free pages"),
    Defect("dax-free-pages", DAX_GONE, REMOVE, leak, "accounting", "free pages"),
    Defect("dax-free-pages-zone", DAX_2M, ADD, head_from_dma, "accounting", "zone0.0.free"),
    Defect("dax-free-pages-zone", SPILL, ADD, leak, "accounting", "free pages"),
    Defect("dax-tail-content", DAX_2M, DEVICE, tail_not_reserved, "structpages", "content"),
    Defect("dax-tail-content", DAX_2M, DEVICE, tail_overwritten, "structpages", "content"),
    Defect("dax-tail-content", DAX_1G, DEVICE, head_left_raw, "structpages", "content"),
    Defect("dax-tail-content", DAX_2M, DEVICE, stale_pageblock, "structpages", "pageblock"),
    Defect("dax-no-poison", DAX_LEFT, ADD, poison_kept_pages, "structpages", "content"),
    Defect(
        "dax-no-poison",
        f"{DEFAULT}\nboot\nm0 = memory add at=0x180000000 size=128M",
        ADD,
        no_poison,
        "structpages",
        "content",
    ),
    Defect("dax-shared-tail-frame", DAX_GONE, REMOVE, drop_tail_frame, "accounting", "free pages"),
    Defect("dax-shared-tail-frame", DAX_2M, ADD, lost_reference, "frames", "candidate: references"),
    Defect(
        "dax-struct-pages-initialized", DAX_2M, DEVICE, initialise_one_more, "accounting", "struct_pages_initialized"
    ),
    Defect("dax-partial-add-unsupported", DAX_LEFT_PART, ADD, say_exist, "returns", "rc"),
    Defect("boot-initialized", BOOT_1G, LATE, initialise_one_more, "accounting", "struct_pages_initialized"),
    Defect("section-preinit", BOOT_1G, LATE, keep_preinit, "structpages", "section"),
    Defect("fault-fork", DAX_FAULT, ADD, pretend_failure, "mapping", "present"),
    Defect("fault-fork", DAX_FAULT, ADD, say_invalid, "returns", "rc"),
    Defect("fault-fork", ALTMAP_FAULT, ADD, say_invalid, "returns", "rc"),
    Defect("fault-fork", DAX_FAULTS, ADD, say_invalid, "returns", "rc"),
    Defect("memory-fork", MEMORY, ADD, leak, "accounting", "free pages"),
    Defect("memory-fork", f"{MEMORY}\ndax destroy d0", ADD, say_invalid, "returns", "rc"),
    Defect("placement-fork", POISON_FORK, OPTIMIZE, mark_not_optimized, "accounting", "hugetlb.18.vmemmap_optimized"),
    Defect("placement-fork", PLACEMENT, OPTIMIZE, mark_not_optimized, "accounting", "hugetlb.18.vmemmap_optimized"),
    Defect("placement-fork", PLACEMENT_CMA, OPTIMIZE, mark_not_optimized, "accounting", "hugetlb.9.vmemmap_optimized"),
    Defect("boot-order", BOOT_ORDER, LATE, leak, "accounting", "free pages"),
    Defect("boot-order", BOOT_ORDER, LATE, manage_one_more, "accounting", "zone1.1.managed"),
    Defect("dax-1g-unaligned-start", UNALIGNED_1G, ADD, say_invalid, "returns", "rc"),
    Defect("surplus-above-nr", SURPLUS, OPTIMIZE, count_one_piece_more, "accounting", "nr_memmap"),
    historic("vmemmap-accounting-underflow", ADD, count_one_more, "accounting", "nr_memmap"),
    historic("vmemmap-accounting-underflow", ADD, uncount_as_the_reference, "accounting", "nr_memmap"),
    historic("altmap-in-error-path", REMOVE, count_one_more, "accounting", "candidate: nr_memmap"),
    historic("altmap-in-error-path", REMOVE, leak, "frames", "candidate: memmap"),
    historic("altmap-in-error-path", ADD, say_invalid, "returns", "bug"),
    historic("dax-vmemmap-accounting", ADD, count_one_more, "accounting", "nr_memmap"),
    historic("dax-vmemmap-accounting", ADD, count_in_full, "accounting", "nr_memmap"),
    historic("zone-device-pageblocks", DEVICE, head_only, "structpages", "pageblock"),
    historic("zone-device-pageblocks", DEVICE, one_block_left_out, "structpages", "pageblock"),
    historic("zone-device-pageblocks", DEVICE, stale_pageblock, "structpages", "pageblock"),
    historic("zone-device-struct-pages", DEVICE, left_poisoned, "structpages", "content"),
    historic("zone-device-struct-pages", DEVICE, last_left_poisoned, "structpages", "content"),
    historic("zone-device-struct-pages", DEVICE, initialise_one_more, "accounting", "struct_pages_initialized"),
    historic("prehvo-protection", LATE, boot_page_writable, "mapping", "protection"),
    historic("prehvo-protection", LATE, protected_page_writable, "mapping", "protection"),
    historic("rollback-of-head", OPTIMIZE_ONE, head_becomes_tail, "structpages", "content"),
    historic("rollback-of-head", OPTIMIZE_ONE, leak, "accounting", "free pages"),
    historic("rollback-of-head", OPTIMIZE_ONE, count_one_more, "accounting", "nr_memmap"),
    historic("boot-populate-drop", "mm_core_init_early", dies_at_boot, "returns", "bug"),
    historic("powerpc-addr-pfn", ADD, count_one_more, "accounting", "nr_memmap"),
    historic("powerpc-addr-pfn", ADD, writable_tail, "mapping", "protection"),
    historic("powerpc-addr-pfn", ADD, second_private_page, "mapping", "sharing"),
    Defect("", POOL, OPTIMIZE, ro_head, "mapping", "protection"),
    Defect("", POOL, OPTIMIZE, mark_not_optimized, "accounting", "hugetlb.9.vmemmap_optimized"),
    Defect("", POOL, OPTIMIZE, count_one_more, "accounting", "nr_memmap"),
)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: f"{d.clause or 'no clause'}: {d.tamper.__name__}")
def test_planted_defect_is_found(defect: Defect) -> None:
    clause = ledger().get(defect.clause)
    reference: Version = "v7.0-base" if clause is not None and clause.reference else "v7.3"
    clean = run(defect.program, reference=reference)
    assert clean.verdict != "finding", clean.finding
    if defect.clause and defect.tamper not in (no_poison, head_from_dma):
        assert defect.clause in clean.clauses
    out = run(defect.program, (defect.method, defect.tamper), reference)
    assert out.finding is not None
    assert (out.finding.layer, out.finding.field) == (defect.layer, defect.field), out.finding.detail


def test_every_clause_has_a_planted_defect() -> None:
    assert {d.clause for d in DEFECTS} - {""} == set(ledger())


def test_a_fork_does_not_hide_a_broken_invariant() -> None:
    """Two kernels that part for good are still looked at one by one."""

    def leak_on_failure(f: UnifiedFramework, args: tuple[Any, ...], rc: Any) -> None:
        f.k.pages.alloc_page(0, OWNER_MEMMAP)

    assert run(DAX_FAULT).verdict == "explained"
    out = run(DAX_FAULT, (ADD, leak_on_failure))
    assert out.finding is not None
    assert (out.finding.layer, out.finding.field) == ("frames", "candidate: memmap")


# -- forks: a clause explains where two sides part by the program's state, and nothing else ---


REGRESSIONS = Path(__file__).resolve().parents[3] / "corpus" / "regressions"

Answer = Callable[[sides.Side], int | None]
"""What a side answers instead of running an operation; None: it runs it."""


def of_candidate(rc: int, short: int = 0) -> Answer:
    """The candidate does nothing and answers `rc`; `short` allocations of its got less than they asked for."""

    def answer(side: sides.Side) -> int | None:
        if not isinstance(side.kernel.paths, UnifiedFramework):
            return None
        side.kernel.pages.short += short
        return rc

    return answer


def reference_lacks(side: sides.Side) -> int:
    """The reference says that it has no memory, the candidate that it got some; neither did anything."""
    if isinstance(side.kernel.paths, UnifiedFramework):
        return 0
    side.kernel.pages.short += 1
    return -ENOMEM


def reference_has_it(side: sides.Side) -> int:
    """The candidate says that it has no memory, the reference that it got some; neither did anything."""
    if isinstance(side.kernel.paths, SeparatePaths):
        return 0
    side.kernel.pages.short += 1
    return -ENOMEM


@dataclass(frozen=True)
class Fork:
    """A program of corpus/regressions, the clause that explains its end, its last operation, and a wrong answer."""

    program: str
    clause: str
    operation: str
    answer: Answer


FORKS = (
    # Whether kernel zones have less: the reference's have more, only ZONE_MOVABLE of the candidate makes up for it.
    Fork("pages-of-kernel-zones", "memory-fork", "pages alloc", reference_lacks),
    # One side found a block for the memmap: that is no reason for another errno, nor for a failure without a failed
    # allocation.
    Fork("clause-memmap-block-of-one-side", "memory-fork", "memory add", of_candidate(-EINVAL)),
    Fork("clause-memmap-block-of-one-side", "memory-fork", "memory add", of_candidate(-ENOMEM)),
    Fork("clause-memmap-table-of-one-side", "memory-fork", "memory add", of_candidate(0)),
    Fork("clause-kmem-block-of-one-side", "memory-fork", "dax state", of_candidate(-EINVAL)),
    Fork("clause-kmem-block-of-one-side", "memory-fork", "dax state", of_candidate(-EBUSY)),
    # A huge page in the way found no block on one side: that is no reason for another errno, nor for one on both sides.
    Fork("clause-unplug-without-block", "memory-fork", "subblock unplug", of_candidate(-EINVAL)),
    Fork("clause-unplug-without-block", "memory-fork", "subblock unplug", of_candidate(-EBUSY)),
    # A block that only one side came to is no reason for another errno, nor is a zone that has less on one side.
    Fork("clause-unplug-got-further", "memory-fork", "memory unplug", of_candidate(-EPERM)),
    Fork("clause-unplug-got-further", "memory-fork", "memory unplug", of_candidate(-EAGAIN)),
    Fork("clause-map-with-less-of-one-zone", "memory-fork", "hugetlb map", of_candidate(-EINVAL)),
    # Single pages decide how many blocks are left: that is no reason for another errno.
    Fork("clause-unplug-by-single-pages", "memory-fork", "memory unplug", of_candidate(-EPERM)),
    # A page table that one side has made is no reason for another errno.
    Fork("clause-table-of-one-side", "fault-fork", "dax create", of_candidate(-EINVAL)),
    Fork("clause-table-that-one-side-made", "fault-fork", "dax create", of_candidate(-EINVAL)),
    Fork("clause-table-that-one-side-made", "fault-fork", "dax create", of_candidate(0)),
    # Pages of programs are in the way on one side: it must have lacked room for them.
    Fork("clause-moved-pages-of-one-side", "placement-fork", "memory offline", of_candidate(-EBUSY)),
    # A frame in the way is no reason for another errno.
    Fork("clause-restored-frame-in-the-way", "placement-fork", "memory offline", of_candidate(-EINVAL)),
    # What moves out of a subblock finds room: for one that does not, memory must be short.
    Fork("clause-moved-to-another-zone", "dax-free-pages-zone", "subblock unplug", of_candidate(-EBUSY)),
    # A failure that powerpc ignores, a page from RAM and a second page that stays are no reason for other errnos.
    Fork("ppc64-second-page-stays", "fault-fork", "dax create", of_candidate(-EINVAL)),
    Fork("ppc64-second-page-stays", "fault-fork", "dax create", of_candidate(-ENOMEM)),
    Fork("ppc64-ignored-failure-meets-memory", "fault-fork", "dax create", of_candidate(-EINVAL)),
    Fork("clause-memory-add-meets-what-was-left", "memory-fork", "memory add", of_candidate(-E2BIG)),
    Fork("clause-kmem-meets-what-was-left", "memory-fork", "dax create", of_candidate(-E2BIG)),
    # The candidate has more pages that are not of CMA: it does not run out alone.
    Fork("clause-pages-not-of-cma", "memory-fork", "pages alloc", reference_has_it),
    # A huge page that has nowhere to move on one side is no reason for another errno where it has.
    Fork("clause-memory-soft-offline-moves", "memory-fork", "memory soft_offline", of_candidate(-EINVAL)),
    # An altmap that is too small and memory that runs out are no reason for other errnos.
    Fork("clause-memory-or-altmap", "memory-fork", "dax create", of_candidate(-EINVAL)),
    Fork("clause-altmap-page-from-ram", "fault-fork", "dax create", of_candidate(-ENOMEM)),
    # A root that fails in place of a section's usage map is no reason for another errno.
    Fork("clause-root-or-usage", "fault-fork", "memory add", of_candidate(-EINVAL)),
    Fork("clause-root-or-usage", "fault-fork", "memory add", of_candidate(0)),
    # A tail page more is no reason for another errno, nor for one without a failed allocation.
    Fork("clause-tail-page-of-another-zone", "fault-fork", "pages contig", of_candidate(-EINVAL)),
    Fork("clause-tail-page-of-another-zone", "fault-fork", "pages contig", of_candidate(-EBUSY)),
    Fork("clause-table-of-another-place", "fault-fork", "hugetlb map", of_candidate(-EINVAL)),
    # Another pageblock is no reason for another errno.
    Fork("clause-moved-behind-a-single-frame", "placement-fork", "dax state", of_candidate(-EINVAL)),
    Fork("clause-broken-by-its-own-restore", "placement-fork", "hugetlb resize", of_candidate(-EINVAL)),
    # A failure that meets another piece is no reason for another errno.
    Fork("clause-dax-failures-in-other-pieces", "fault-fork", "dax create", of_candidate(-EINVAL)),
)


@pytest.mark.parametrize("fork", FORKS, ids=lambda f: f"{f.program}-{f.operation}")
def test_a_wrong_answer_where_two_sides_part_is_found(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    program = parse((REGRESSIONS / f"{fork.program}.vmm").read_text(encoding="utf-8"))
    clean = run_program(program, full_every=1)
    assert program.ops[-1].name == fork.operation
    assert clean.verdict != "finding"
    assert fork.clause in clean.clauses
    entry, last = sides.ENTRIES[fork.operation], program.ops[-1]

    def planted(side: sides.Side, args: dict[str, Any], result: str | None) -> int:
        rc = fork.answer(side) if args == last.args else None
        return entry(side, args, result) if rc is None else rc

    monkeypatch.setitem(sides.ENTRIES, fork.operation, planted)
    out = run_program(program, full_every=1)
    assert out.finding is not None
    assert (out.finding.layer, out.finding.operation) == ("returns", fork.operation)


@pytest.mark.parametrize("name", ["clause-dax-failures-in-other-pieces", "clause-table-of-one-side"])
def test_a_side_that_does_without_allocations_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fault-fork: one that is done has passed the points that the other passed until its failure."""
    program = parse((REGRESSIONS / f"{name}.vmm").read_text(encoding="utf-8"))
    entry, last = sides.ENTRIES["dax create"], program.ops[-1]

    def planted(side: sides.Side, args: dict[str, Any], result: str | None) -> int:
        faults = side.kernel.faults
        if args != last.args or not isinstance(side.kernel.paths, UnifiedFramework):
            return entry(side, args, result)
        faults.armed = 0
        rc = entry(side, args, result)
        if faults.points is not None:
            faults.points.clear()
        return rc

    monkeypatch.setitem(sides.ENTRIES, "dax create", planted)
    out = run_program(program, full_every=1)
    assert out.finding is not None
    assert (out.finding.layer, out.finding.operation) == ("returns", "dax create")


def test_a_panic_over_a_frame_of_the_same_user_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """placement-fork lets one side die over a frame only where the sides use it for different things."""

    def unpoison(side: sides.Side, args: dict[str, Any], result: str | None) -> int:
        if isinstance(side.kernel.paths, UnifiedFramework):
            raise KernelBug("panic: planted")
        return unpoison_memory(side.kernel, args["at"] >> side.page_shift)

    monkeypatch.setitem(sides.ENTRIES, "memory unpoison", unpoison)
    out = run(f"{SMALL}\nboot\nmemory hard_offline at=0x2000000\nmemory unpoison at=0x2000000")
    assert out.finding is not None
    assert (out.finding.layer, out.finding.field) == ("returns", "bug")
