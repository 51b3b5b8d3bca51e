"""Laws of one side: a state that breaks one, and operations that say they did what they did not do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import fuzz.side
from candidate.framework import UnifiedFramework
from fuzz.execute import Lockstep, run_program
from fuzz.oracle import laws, roots, tlb
from fuzz.program.text import parse
from fuzz.side import Args, Side
from mm.errno import EBUSY, ENOMEM
from mm.kernel import MIGRATE_UNMOVABLE, Kernel
from mm.memory import MemoryBlocks
from mm.mmzone import SECTION_HAS_MEM_MAP, SECTION_IS_ONLINE, SECTION_TAINT_ZONE_DEVICE, Zone
from mm.page import Compound, Plain, SelfHosted
from mm.page_alloc import OWNER_PAGES, OWNER_RESERVED, Poisoned
from mm.pgtable import PMD_TABLE
from mm.tlb import RecordingTlb
from reference.paths import SeparatePaths

BUSY = """vmm 1
machine arch=x86_64 page=4K ram=4G nodes=2 memmap_on_memory=on
boot
hugetlb resize size=2M to=8
u0 = hugetlb map size=2M count=3
m0 = memory add at=0x200000000 size=256M memmap_on_memory=on
memory online m0 block=0 zone=movable
m1 = memory add at=0x220000000 size=256M node=1
memory online m1 block=0 zone=movable
subblock unplug m1 block=0 first=3 count=2
d0 = dax create at=0x300000000 size=256M align=2M
d1 = dax create at=0x340000000 size=256M align=2M altmap=on
p0 = pages alloc count=100 node=1 movable=on
memory hard_offline at=0x3000000
"""
"""Something of everything that the laws speak of."""


def after(text: str) -> Lockstep:
    """A pair after a program of which every operation succeeds."""
    program = parse(text)
    pair = Lockstep(program.machine)
    for op in program.ops:
        result = pair.step(op)
        assert result.rcs == (0, 0), op
        assert result.finding is None
    return pair


@pytest.fixture
def busy() -> Lockstep:
    """A pair in that state."""
    return after(BUSY)


def _zone(k: Kernel) -> Zone:
    return next(zone for node in k.nodes for zone in node.zones if zone.managed_pages)


def _split(k: Kernel) -> None:
    zone = next(zone for node in k.nodes for zone in node.zones if zone.blocks.starts)
    first = zone.blocks.starts[0]
    zone.blocks.remove(first, first + 1)
    zone.frags.starts.append(first << k.pages.block_order)  # as no function of the set leaves it
    zone.frags.ends.append((first + 1) << k.pages.block_order)
    zone.frags.total += 1 << k.pages.block_order


def _cut_run(k: Kernel) -> None:
    own = k.memmap.own
    own.starts.insert(1, own.starts[0] + 8)
    own.ends.insert(0, own.starts[0] + 8)
    own.vals.insert(0, own.vals[0])


def _other_zone(k: Kernel) -> None:
    zone = next(zone for node in k.nodes for zone in node.zones if zone.blocks.starts)
    other = next(z for node in k.nodes for z in node.zones if z.blocks.starts and z is not zone)
    first = zone.blocks.starts[0]
    zone.blocks.remove(first, first + 1)
    other.blocks.add(first, first + 1)


def _take_pageblock(k: Kernel) -> None:
    k.pageblocks.clear(16, 17)


def _offline(k: Kernel) -> None:
    block = next(lo for lo, _, state in k.memory_blocks.zone.items() if lo >= 64 and state != MemoryBlocks.OFFLINE)
    k.memory_blocks.zone.set(block, block + 1, MemoryBlocks.OFFLINE)


def _online(k: Kernel) -> None:
    block = next(lo for lo, _, state in k.memory_blocks.zone.items() if state == MemoryBlocks.OFFLINE)
    k.memory_blocks.zone.set(block, block + 1, (0, 3))


def _another_node(k: Kernel) -> None:
    block = next(lo for lo, _, state in k.memory_blocks.zone.items() if state == (1, 3))
    k.memory_blocks.nid.set(block, block + 1, 0)


def _no_root(k: Kernel) -> None:
    paths = k.paths
    if isinstance(paths, SeparatePaths):
        paths.section_roots.remove(0, 1)
    else:
        assert isinstance(paths, UnifiedFramework)
        paths.roots.remove(0)


TAMPERED: dict[str, tuple[Callable[[Kernel], object], str]] = {
    "managed": (lambda k: setattr(_zone(k), "managed_pages", 1), "zone.managed_pages"),
    "present": (lambda k: setattr(_zone(k), "present_pages", 1), "zone.present_pages"),
    "span": (lambda k: setattr(_zone(k), "end_pfn", 1), "zone.span"),
    "pieces": (_split, "free"),
    "count": (lambda k: setattr(_zone(k).blocks, "total", 1), "free"),
    "free in another zone": (_other_zone, "free"),
    "no table": (lambda k: k.tables.tables[PMD_TABLE].clear(*k.tables.tables[PMD_TABLE].items()[0][:2]), "page table"),
    "unmapped": (
        lambda k: k.tables.entries.clear(0x300000000 // 4096 // 64 + 7, 0x300000000 // 4096 // 64 + 8),
        "memory map",
    ),
    "isolated": (lambda k: setattr(k.pages, "isolated", (0, 512)), "isolated"),
    "offline": (_offline, "memory block"),
    "online": (_online, "memory block"),
    "node": (_another_node, "memory block"),
    "boot zone": (lambda k: k.memory_blocks.zone.set(4, 5, (0, 3)), "memory block"),
    "plugged": (lambda k: k.memory_blocks.unplugged.remove(*k.memory_blocks.unplugged.items()[0]), "memory block"),
    "no memory map": (lambda k: k.sections.clear_flags(96, 97, SECTION_HAS_MEM_MAP), "section"),
    "not online": (lambda k: k.sections.clear_flags(64, 65, SECTION_IS_ONLINE), "section"),
    "map of nothing": (lambda k: k.sections.set_flags(200, 201, SECTION_HAS_MEM_MAP), "section"),
    "device": (lambda k: k.iomem.clear(0x300000, 0x300001), "resource"),
    "block": (lambda k: k.iomem.clear(0x220000, 0x220001), "resource"),
    "struct pages": (lambda k: k.sections.subsections.remove(0x300000 // 512, 0x300000 // 512 + 1), "subsections"),
    "migratetype": (_take_pageblock, "pageblock"),
    "altmap": (lambda k: setattr(k.pgmaps[1].altmap, "alloc", 1 << 30), "altmap"),
    "altmap of nothing": (lambda k: k.memory_blocks.altmaps.update({999: k.pgmaps[1].altmap}), "altmap"),
    "holders": (lambda k: k.pages.holders.vals[0].pop(), "holders"),
    "poison": (lambda k: k.memory_blocks.nr_hwpoison.clear(), "nr_hwpoison"),
    "poison nowhere": (lambda k: k.pages.hwpoison.update({0x9000000: Poisoned.MARKED}), "hwpoison"),
    "reserved": (lambda k: setattr(k.hstates[9], "resv", 6), "hugetlb.9.resv"),
    "refcount": (lambda k: setattr(k.hstates[9].mapped[0][0], "refcount", 0), "hugetlb.9.mapped"),
    "free": (lambda k: setattr(next(iter(k.hstates[9].free[0].values())), "refcount", 1), "hugetlb.9.free"),
    "temporary": (lambda k: setattr(next(iter(k.hstates[9].free[0].values())), "temporary", True), "hugetlb.9.free"),
    "lost": (lambda k: k.hstates[9].free[0].popitem(), "hugetlb.9.folios"),
    "type": (lambda k: setattr(next(iter(k.hstates[9].folios.values())), "hugetlb", False), "hugetlb.9.folios"),
    "cut runs": (lambda k: k.iomem.ends.__setitem__(0, k.iomem.ends[0] + (1 << 40)), "iomem"),
    "two runs": (_cut_run, "memmap.own"),
    "empty run": (lambda k: k.pages.cma.starts.append(7) or k.pages.cma.ends.append(7), "cma"),
    "its own memmap": (lambda k: k.pages.claim(0x200000, 0x200001, OWNER_RESERVED), "selfhosted"),
    "no memmap": (lambda k: k.memory_blocks.altmaps.pop(64), "selfhosted"),
    "altmap elsewhere": (lambda k: setattr(k.memory_blocks.altmaps[64], "base_pfn", 1), "altmap"),
    "area": (lambda k: k.pages.cma.add(0x1000, 0x1200), "cma"),
    "cma pages": (lambda k: setattr(_zone(k), "cma_pages", 512), "cma"),
    "memory is gone": (lambda k: k.iomem.set(0x280000, 0x288000, "hotplug"), "resource"),
    "more RAM": (lambda k: k.iomem.set(0x280000, 0x288000, "ram"), "resource"),
    "poisoned, in use": (lambda k: k.pages.owners.set(0x3000, 0x3001, OWNER_PAGES), "hwpoison"),
    "another zone": (lambda k: k.memmap.own.set(0x80, 0x81, Plain(0, 1)), "content"),
    "raw": (lambda k: k.memmap.own.clear(0x80, 0x81), "content"),
    "small page in a pool": (lambda k: k.memmap.own.set(0x3200, 0x3240, Plain(0, 1)), "content"),
    "huge page in none": (lambda k: k.memmap.own.set(0x3800, 0x3A00, Compound(9, 0, 0, 1, "hugetlb")), "content"),
    "huge page of another order": (
        lambda k: k.memmap.own.set(0x3200, 0x3400, Compound(8, 0, 0, 1, "hugetlb")),
        "content",
    ),
    "selfhosted": (lambda k: k.memmap.own.set(0x80, 0x81, SelfHosted(0, 0)), "content"),
    "device of RAM": (lambda k: k.memmap.own.set(0x300000, 0x300040, Plain(0, 4)), "content"),
    "altmap of RAM": (lambda k: k.memmap.own.set(0x340002, 0x340003, Plain(0, 1)), "content"),
    "device of a node": (lambda k: setattr(k.pgmaps[0], "nid", 1), "content"),
    "device of an order": (lambda k: setattr(k.pgmaps[0], "vmemmap_shift", 10), "content"),
    "block of no node": (lambda k: k.memory_blocks.nid.set(999, 1000, 0), "memory block"),
    "device outside": (lambda k: setattr(k.nodes[0].zones[4], "end_pfn", 0x300000), "zone.span"),
    "unmovable": (lambda k: k.pageblocks.set(16, 17, MIGRATE_UNMOVABLE), "pageblock"),
    "section of no array": (_no_root, "section root"),
    "block with a reference": (lambda k: k.memory_blocks.memory_block_get(0), "memory block"),
    "top-level entry of init_mm only": (lambda k: k.tables.roots.remove(0, 1), "page table"),
    "top-level entry of a process only": (lambda k: k.tables.roots.add(1, 2), "page table"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_law_is_broken(busy: Lockstep, name: str) -> None:
    for side in (busy.reference, busy.candidate):
        assert laws.broken(side.kernel, "x") is None
        tamper, field = TAMPERED[name]
        tamper(side.kernel)
        found = laws.broken(side.kernel, "x")
        assert found is not None
        assert found.field == f"x: {field}"


@pytest.mark.parametrize("field", ["section node", "memory block's node"])
def test_nodes_are_compared(busy: Lockstep, field: str) -> None:
    k = busy.candidate.kernel
    runs = k.sections.nid if field == "section node" else k.memory_blocks.nid
    runs.set(runs.starts[0], runs.starts[0] + 1, 1)
    found = busy.finish()
    assert found is not None
    assert found.field == field


def test_equal_mistakes_on_both_sides_are_found_at_the_end(busy: Lockstep) -> None:
    for side in (busy.reference, busy.candidate):
        side.kernel.memory_blocks.nr_hwpoison.clear()
    found = busy.finish()
    assert found is not None
    assert found.field == "reference: nr_hwpoison"


BEFORE = """vmm 1
machine arch=x86_64 page=4K ram=4G nodes=1 memmap_on_memory=on
boot
"""
HOT = BEFORE + "m0 = memory add at=0x200000000 size=256M\n"
ONLINE = HOT + "memory online m0 block=0 zone=movable\n"
POOL = BEFORE + "hugetlb resize size=2M to=8\n"
KMEM = BEFORE + "d0 = dax create at=0x300000000 size=256M align=2M driver=kmem\n"

IDLE = {
    "memory add": BEFORE + "m0 = memory add at=0x200000000 size=256M",
    "memory online": HOT + "memory online m0 block=0 zone=movable",
    "memory offline": ONLINE + "memory offline m0 block=0",
    "memory remove": HOT + "memory remove m0",
    "memory unplug": ONLINE + "memory unplug m0",
    "subblock unplug": ONLINE + "subblock unplug m0 block=0 first=1 count=2",
    "subblock plug": ONLINE + "subblock unplug m0 block=0 first=1 count=2\nsubblock plug m0 block=0 first=1 count=2",
    "hugetlb resize": BEFORE + "hugetlb resize size=2M to=8",
    "hugetlb overcommit": BEFORE + "hugetlb overcommit size=2M to=8",
    "hugetlb flush": POOL
    + "hugetlb overcommit size=2M to=9\nu0 = hugetlb map size=2M count=9\nhugetlb unmap u0 flush=off\nhugetlb flush",
    "hugetlb unmap": POOL + "u0 = hugetlb map size=2M count=2\nhugetlb unmap u0",
    "memory soft_offline": BEFORE + "memory soft_offline at=0x3000000",
    "memory unpoison": BEFORE + "memory hard_offline at=0x3000000\nmemory unpoison at=0x3000000",
    "dax rebind": BEFORE + "d0 = dax create at=0x300000000 size=256M align=2M\ndax rebind d0 driver=none",
    "dax destroy": BEFORE + "d0 = dax create at=0x300000000 size=256M align=2M\ndax destroy d0",
    "dax set": BEFORE + "d0 = dax create at=0x300000000 size=256M align=2M\ndax set d0 memmap_on_memory=on",
    "dax state": KMEM + "dax state d0 state=unplugged",
    "dax online": KMEM + "dax online d0 block=0 zone=movable",
    "dax offline": KMEM + "dax online d0 block=0 zone=movable\ndax offline d0 block=0",
    "sysctl": BEFORE + "sysctl hugetlb_optimize_vmemmap=off",
    "pages free": BEFORE + "p0 = pages alloc count=10 node=0\npages free p0",
}
"""Programs whose last operation has an effect."""


@pytest.mark.parametrize("name", IDLE)
def test_an_operation_that_returns_0_and_does_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    program = parse(IDLE[name] + "\n")
    assert program.ops[-1].name == name
    sound = run_program(program)
    assert (sound.finding, sound.rcs[-1]) == (None, (0, 0))
    last = program.ops[-1].args
    entry = fuzz.side.ENTRIES[name]
    monkeypatch.setitem(
        fuzz.side.ENTRIES, name, lambda side, args, result: 0 if args is last else entry(side, args, result)
    )
    found = run_program(program).finding
    assert found is not None
    assert (found.field, found.operation) == ("reference: effect", name)


REFUSED = {
    "memory online": (HOT + "memory online m0 block=0 zone=movable", -22),
    "memory remove": (HOT + "memory remove m0", -16),
    "memory add": (BEFORE + "m0 = memory add at=0x200000000 size=256M", -17),
    "hugetlb dissolve": (BEFORE + "hugetlb dissolve at=0x3000000", -16),
    "hugetlb overcommit": (BEFORE + "hugetlb overcommit size=2M to=8", -2),
    "memory hard_offline": (BEFORE + "memory hard_offline at=0x3000000", -133),
    "dax state": (KMEM + "dax state d0 state=unplugged", -2),
    "dax set": (BEFORE + "d0 = dax create at=0x300000000 size=256M align=2M\ndax set d0 memmap_on_memory=on", -16),
}
"""Programs, and an errno that the last operation has no reason for."""


@pytest.mark.parametrize("name", REFUSED)
def test_an_errno_without_a_reason(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, errno = REFUSED[name]
    program = parse(text + "\n")
    last = program.ops[-1].args
    entry = fuzz.side.ENTRIES[name]
    monkeypatch.setitem(
        fuzz.side.ENTRIES, name, lambda side, args, result: errno if args is last else entry(side, args, result)
    )
    found = run_program(program).finding
    assert found is not None
    assert (found.field, found.drift) == ("reference: effect", str(errno))


def test_a_failure_that_leaves_something_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = fuzz.side.ENTRIES["memory add"]
    monkeypatch.setitem(fuzz.side.ENTRIES, "memory add", lambda side, args, result: entry(side, args, result) or -12)
    found = run_program(parse(HOT)).finding
    assert found is not None
    assert (found.field, found.drift) == ("reference: effect", "-12")


def test_an_operation_that_leaves_old_translations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restoring gives struct pages other frames; without a flush a CPU still has the shared tail page for them."""
    program = parse(POOL + "hugetlb resize size=2M to=0\n")
    pair = Lockstep(program.machine)
    for op in program.ops[:-1]:
        assert pair.step(op).finding is None
    monkeypatch.setattr(RecordingTlb, "flush_tlb_all", lambda self: None)
    found = pair.step(program.ops[-1]).finding
    assert found is not None
    assert (found.layer, found.field, found.drift) == ("frames", "reference: stale translation", "left")


def test_a_partly_restored_page_keeps_stale_translations(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/findings/0011: its program breaks the law on the candidate as merged, and is excused there only."""
    text = "vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\nhugetlb resize size=2M to=1\n"
    program = parse(text + "fail alloc nth=10 times=2\nhugetlb resize size=2M to=0\n")
    assert run_program(program, profile="merged", full_every=1).verdict == "explained"
    assert run_program(program, profile="posted", full_every=1).finding is None
    monkeypatch.setattr(tlb, "_partial", lambda k, vpn: False)
    found = run_program(program, profile="merged", full_every=1).finding
    assert found is not None
    assert (found.layer, found.field, found.drift) == ("frames", "candidate: stale translation", "left")
    assert "vmemmap page 0xc1" in found.detail


ANSWERS = {
    "memory online": (HOT + "memory online m0 block=0 zone=movable", -133),
    "memory offline": (ONLINE + "memory offline m0 block=0", -16),
    "memory remove": (HOT + "memory remove m0", -22),
    "memory unplug": (ONLINE + "memory unplug m0", -16),
    "memory add": (BEFORE + "m0 = memory add at=0x200000000 size=256M", -7),
    "subblock unplug": (ONLINE + "subblock unplug m0 block=0 first=1 count=2", -16),
    "subblock plug": (IDLE["subblock plug"], -22),
    "hugetlb resize": (BEFORE + "hugetlb resize size=2M to=8", -12),
    "hugetlb demote": (BEFORE + "hugetlb resize size=1G to=1\nhugetlb demote size=1G count=1", -2),
    "hugetlb map": (POOL + "u0 = hugetlb map size=2M count=8", -12),
    "hugetlb unmap": (IDLE["hugetlb unmap"], -19),
    "hugetlb flush": (BEFORE + "hugetlb flush", -12),
    "hugetlb dissolve": (POOL + "hugetlb dissolve at=0x100e00000", -2),
    "memory hard_offline": (BEFORE + "memory hard_offline at=0x3000000", -16),
    "memory soft_offline": (BEFORE + "memory soft_offline at=0x3000000", -5),
    "memory unpoison": (IDLE["memory unpoison"], -16),
    "dax create": (BEFORE + "d0 = dax create at=0x300000000 size=256M align=2M", -17),
    "dax destroy": (IDLE["dax destroy"], -19),
    "dax rebind": (IDLE["dax rebind"], -16),
    "dax set": (IDLE["dax set"], -16),
    "dax state": (KMEM + "dax state d0 state=offline", -16),
    "dax online": (KMEM + "dax online d0 block=0 zone=movable", -133),
    "dax offline": (IDLE["dax offline"], -16),
    "pages alloc": (BEFORE + "p0 = pages alloc count=10 node=0", -12),
    "pages contig": (BEFORE + "p0 = pages contig at=0x8000000 size=2M", -16),
    "pages free": (IDLE["pages free"], -19),
}
"""Programs, and an errno that the kernel gives elsewhere, but not in the state that the last operation finds."""


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("positive", [False, True])
def test_an_answer_that_the_state_does_not_allow(monkeypatch: pytest.MonkeyPatch, name: str, positive: bool) -> None:
    text, errno = ANSWERS[name]
    answer = 1 if positive else errno
    program = parse(text + "\n")
    last = program.ops[-1].args
    entry = fuzz.side.ENTRIES[name]
    monkeypatch.setitem(
        fuzz.side.ENTRIES, name, lambda side, args, result: answer if args is last else entry(side, args, result)
    )
    found = run_program(program).finding
    assert found is not None
    assert (found.field, found.operation) == ("reference: effect", name)


def _queue_one(side: Side, args: Args) -> None:
    side.kernel.hpage_freelist.append(next(iter(side.kernel.hstates[9].folios.values())))


def _more(field: str, order: int = 9) -> Callable[[Side, Args], None]:
    def change(side: Side, args: Args) -> None:
        h = side.kernel.hstates[order]
        setattr(h, field, getattr(h, field) + 1)

    return change


def _another_zone(side: Side, args: Args) -> None:
    block = side.handles["m0"].block(side.kernel.arch, 0)
    side.kernel.memory_blocks.put(block, block + 1, 0, (0, 3))


def _forget_mark(side: Side, args: Args) -> None:
    side.kernel.pages.hwpoison.clear()


def _count_one_more(side: Side, args: Args) -> None:
    counts = side.kernel.memory_blocks.nr_hwpoison
    for block in counts:
        counts[block] += 1


def _one_page_more(side: Side, args: Args) -> None:
    side.kernel.hstates[9].nr[0] += 1


AFTERWARDS: dict[str, tuple[str, Callable[[Side, Args], None]]] = {
    "boot": (BEFORE, lambda side, args: setattr(side.kernel.hugetlb_cma, "only", True)),
    "boot area": (BEFORE, lambda side, args: setattr(side.kernel.hugetlb_cma, "size", 1 << 30)),
    "boot zones of an area": (
        BEFORE.replace("boot", "reserve cma size=1G\nboot"),
        lambda side, args: setattr(side.kernel.hugetlb_cma.areas[0], "activated", False),
    ),
    "boot pool": (BEFORE, _one_page_more),
    "boot resv": (BEFORE, _more("resv")),
    "boot zones": (BEFORE, lambda side, args: setattr(_zone(side.kernel), "present_pages", 1)),
    "hugetlb overcommit": (POOL + "hugetlb overcommit size=2M to=8", _queue_one),
    "memory hard_offline": (BEFORE + "memory hard_offline at=0x1000000", _forget_mark),
    "hugetlb demote": (BEFORE + "hugetlb resize size=1G to=1\nhugetlb demote size=1G count=1", _one_page_more),
    "hugetlb unmap": (IDLE["hugetlb unmap"], _more("max_huge_pages")),
    "hugetlb unmap persistent": (IDLE["hugetlb unmap"], _one_page_more),
    "hugetlb dissolve": (POOL + "hugetlb dissolve at=0x100e00000", _more("max_huge_pages")),
    "memory online": (HOT + "memory online m0 block=0 zone=default", _another_zone),
    "memory soft_offline": (IDLE["memory soft_offline"], _forget_mark),
    "memory hard_offline again": (
        POOL + "fail alloc nth=2\nmemory hard_offline at=0x100e01000\nmemory hard_offline at=0x100e01000",
        _count_one_more,
    ),
    "memory soft_offline of a head": (
        POOL + "fail alloc nth=2\nmemory hard_offline at=0x100e01000\nmemory soft_offline at=0x100e00000",
        _count_one_more,
    ),
    "dax rebind": (
        BEFORE + "d0 = dax create at=0x300000000 size=256M align=2M\ndax rebind d0 driver=fsdev",
        lambda side, args: setattr(side.kernel.pgmaps[0], "type", "generic"),
    ),
    "injected failures": (
        BEFORE + "fail alloc nth=2 times=2\nhugetlb resize size=2M to=8",
        lambda side, args: setattr(side.kernel.faults, "failed", 3),
    ),
    "no injected failure": (
        BEFORE + "fail alloc nth=2\nhugetlb resize size=2M to=8",
        lambda side, args: setattr(side.kernel.faults, "fired", None),
    ),
}
"""Programs, and what is changed after the last operation: something that it must not do, or did."""


@pytest.mark.parametrize("name", AFTERWARDS)
def test_an_operation_that_does_something_else(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, change = AFTERWARDS[name]
    program = parse(text + "\n")
    last = program.ops[-1]
    entry = fuzz.side.ENTRIES[last.name]

    def tampered(side: Side, args: Args, result: str | None) -> int:
        rc = entry(side, args, result)
        if args is last.args:
            change(side, args)
        return rc

    assert run_program(program).finding is None
    monkeypatch.setitem(fuzz.side.ENTRIES, last.name, tampered)
    found = run_program(program).finding
    assert found is not None
    assert (found.field, found.operation) == ("reference: effect", last.name)


def test_a_range_of_movable_pages_is_refused_for_want_of_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # alloc_contig_range: what has moved leaves free frames, so that -EBUSY of test_pages_isolated has no reason.
    program = parse(BEFORE + "p0 = pages alloc count=4096 node=0 movable=on\n")
    pair = Lockstep(program.machine)
    for op in program.ops:
        pair.step(op)
    pfn, _ = max(pair.reference.handles["p0"], key=lambda extent: extent[1])
    contig = parse(BEFORE + f"p1 = pages contig at={-(-pfn >> 9) << 21:#x} size=2M\n").ops[-1]
    monkeypatch.setitem(fuzz.side.ENTRIES, "pages contig", lambda side, args, result: -EBUSY)
    found = pair.step(contig).finding
    assert found is not None
    assert found.field == "reference: effect"
    assert f"[-{ENOMEM}, 0]" in found.detail


@pytest.mark.parametrize("interleave", [0, 64 << 20])
def test_nodes_have_their_shares_of_ram(monkeypatch: pytest.MonkeyPatch, interleave: int) -> None:
    # The language: equal shares in address order, or turns of so many bytes.
    program = parse(BEFORE.replace("nodes=1", f"nodes=2 interleave={interleave >> 20}M" if interleave else "nodes=2"))
    assert run_program(program).finding is None
    ranges = program.machine.ram_ranges()
    node, lo, hi = ranges[-1]
    shifted = (*ranges[:-2], (ranges[-2][0], ranges[-2][1], ranges[-2][2] + 512), (node, lo + 512, hi))
    if interleave:
        assert {hi - lo for _, lo, hi in ranges} == {interleave >> 12}
    monkeypatch.setattr("mm.machine._ram_ranges", lambda *args: shifted)
    found = run_program(program).finding
    assert found is not None
    assert "in turns of" in found.detail


@pytest.mark.parametrize("before", ["", "fail alloc nth=1000\n"])
def test_allocation_points_are_compared(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    """By kind where they are traced, else how many there are."""
    program = parse(POOL.replace("hugetlb", f"{before}hugetlb"))
    assert run_program(program).finding is None
    entry = fuzz.side.ENTRIES["hugetlb resize"]

    def one_more(side: Side, args: Args, result: str | None) -> int:
        rc = entry(side, args, result)
        if side.kernel.paths.version == "v7.3":
            side.kernel.faults.grant("HEAD", 1)
        return rc

    monkeypatch.setitem(fuzz.side.ENTRIES, "hugetlb resize", one_more)
    found = run_program(program).finding
    assert found is not None
    assert (found.layer, found.field) == ("frames", "allocation points")


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_section_arrays_are_compared(busy: Lockstep, side: str) -> None:
    if side == "reference":
        paths = busy.reference.kernel.paths
        assert isinstance(paths, SeparatePaths)
        paths.section_roots.add(9, 10)
    else:
        framework = busy.candidate.kernel.paths
        assert isinstance(framework, UnifiedFramework)
        framework.roots.add(9)
    found = busy.finish()
    assert found is not None
    assert found.field == "section root"
    assert side in found.detail


@pytest.mark.parametrize(
    ("arch", "mine", "theirs"),
    [("x86_64", 256, 170), ("loongarch64", 256, 170), ("s390x", 256, 256), ("arm64", 256, 256)],
)
def test_section_arrays_have_their_size(arch: str, mine: int, theirs: int) -> None:
    """4096 bytes hold 256 structs of 16 bytes, or 170 of 24: with the order that the framework adds (include/linux/
    mmzone.h; unified-framework.md 3.1)."""
    program = parse(f"vmm 1\nmachine arch={arch} page=4K ram=1G nodes=1\nboot\n")
    pair = Lockstep(program.machine)
    for op in program.ops:
        pair.step(op)
    kernels = pair.reference.kernel, pair.candidate.kernel
    assert tuple(k.paths.section_root_arrays()[0] for k in kernels) == (mine, theirs)
    assert roots.differ(*kernels) is None
    framework = kernels[1].paths
    assert isinstance(framework, UnifiedFramework)
    framework.sections_per_root = 170 if theirs == 256 else 256
    found = roots.differ(*kernels)
    assert found is not None
    assert "candidate" in found.detail


def test_who_gets_no_block_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a block there are base pages (modify_pmd_table, arch/s390/mm/vmem.c): to give up then is not because of
    the failure, which hit the same allocation on both sides."""
    program = parse(
        "vmm 1\nmachine arch=s390x page=4K ram=1G nodes=1\nboot\n"
        "fail alloc nth=2\nd0 = dax create at=0x2a1000000 size=16M align=1M\n"
    )
    assert run_program(program).verdict == "ok"
    monkeypatch.setattr("candidate.arch.s390.vmemmap_pte_table_populate", lambda *a: False)
    found = run_program(program).finding
    assert found is not None
    assert (found.layer, found.outcomes) == ("returns", ("ok", "-12"))


def test_sections_that_a_device_has_in_part_are_tainted() -> None:
    """section_taint_zone_device (mm/memory_hotplug.c): 192M from a section's start end inside section 0x61."""
    program = parse(BEFORE + "d0 = dax create at=0x300000000 size=192M align=2M\n")
    pair = Lockstep(program.machine)
    for op in program.ops:
        pair.step(op)
    k = pair.reference.kernel
    assert laws.broken(k, "x") is None
    k.sections.clear_flags(0x61, 0x62, SECTION_TAINT_ZONE_DEVICE)
    found = laws.broken(k, "x")
    assert found is not None
    assert (found.field, found.drift) == ("x: section", "taint")
