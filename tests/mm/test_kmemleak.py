"""What the leak detector is told of the boot's memory: memblock_prep_allocation, memmap_alloc, memblock_phys_free of
Linux 7.3 (mm/memblock.c, mm/mm_init.c)."""

from collections.abc import Callable

import pytest

from candidate.framework import UnifiedFramework
from fuzz.execute import Lockstep
from fuzz.program.text import parse
from fuzz.side import Side
from mm.kernel import Kernel, gigantic_folios
from mm.memblock import Memblock
from reference.paths import SeparatePaths

G = (1 << 30) // 4096


def kernels(text: str) -> list[Kernel]:
    """The kernel of each side after a program that succeeds."""
    program = parse(text)
    out = []
    for made in (SeparatePaths, lambda k: UnifiedFramework(k, "posted")):
        side = Side(program.machine, made)
        assert [side.run(op) for op in program.ops] == [0] * len(program.ops)
        out.append(side.kernel)
    return out


def test_only_what_asks_for_it() -> None:
    memblock = Memblock(1)
    memblock.add(0, 0, 4096)
    assert memblock.alloc(0, 1, 1) == 4095
    assert memblock.alloc_many(0, 3, 512) == [(2048, 1536)]
    assert memblock.kmemleak.items() == []
    assert memblock.alloc(0, 512, 512, kmemleak_trace=True) == 1536
    assert memblock.alloc_range(0, 256, 256, 0, 1024) == 768
    assert memblock.kmemleak.items() == [(768, 1024), (1536, 2048)]
    memblock.release(1536, 1600, 0)
    assert memblock.kmemleak.items() == [(768, 1024), (1600, 2048)]


@pytest.mark.parametrize("arch", ["x86_64", "riscv64", "s390x", "arm64", "ppc64_radix", "loongarch64"])
def test_the_memory_map_is_not_known(arch: str) -> None:
    for k in kernels(f"vmm 1\nmachine arch={arch} page=4K ram=1G nodes=2\nboot\n"):
        assert k.memblock.kmemleak.items() == []


@pytest.mark.parametrize("hvo", ["on", "off"])
def test_gigantic_pages(hvo: str) -> None:
    """memblock_alloc_hugetlb. Nobody unregisters one that the pool gives up; 2M pages come from the buddy allocator."""
    text = (
        f"vmm 1\nmachine arch=x86_64 page=4K ram=6G nodes=1 hugetlb_free_vmemmap={hvo}\nreserve size=1G count=2\n"
        "reserve size=2M count=4\nboot\n"
    )
    for k in kernels(text):
        places = sorted((folio.pfn, folio.end_pfn) for folio in gigantic_folios(k))
        assert sum(end - pfn for pfn, end in places) == 2 * G
        assert [(pfn, end) for pfn, end in places if not k.memblock.kmemleak.covers(pfn, end)] == []
        assert k.memblock.kmemleak.total == 2 * G
    for k in kernels(text + "hugetlb resize size=1G to=0\n"):
        assert not list(gigantic_folios(k))
        assert k.memblock.kmemleak.total == 2 * G


def test_areas() -> None:
    """cma_alloc_mem; pages that are taken out of an area before it is active are known with it."""
    for reserve in ("", "reserve size=1G count=1\n"):
        text = f"vmm 1\nmachine arch=x86_64 page=4K ram=8G nodes=1\nreserve cma size=2G\n{reserve}boot\n"
        for k in kernels(text):
            (cmr,) = k.cma.areas[0].ranges
            assert k.memblock.kmemleak.items() == [(cmr.base_pfn, cmr.base_pfn + 2 * G)]


@pytest.mark.parametrize(
    "tamper", [lambda runs: runs.add(7, 8), lambda runs: runs.remove(runs.starts[0], runs.ends[0])]
)
def test_it_is_compared(tamper: Callable[[object], None]) -> None:
    program = parse("vmm 1\nmachine arch=x86_64 page=4K ram=6G nodes=1\nreserve size=1G count=2\nboot\n")
    pair = Lockstep(program.machine)
    for op in program.ops:
        assert pair.step(op).finding is None
    tamper(pair.candidate.kernel.memblock.kmemleak)
    found = pair.finish()
    assert found is not None
    assert (found.layer, found.field) == ("accounting", "kmemleak")


@pytest.mark.parametrize("extra", [-1, 1])
def test_the_boot_is_held_against_it(monkeypatch: pytest.MonkeyPatch, extra: int) -> None:
    """Both sides alike: a frame more or less than each allocation has."""
    original = Memblock.prep_allocation
    monkeypatch.setattr(Memblock, "prep_allocation", lambda self, pfn, n, trace: original(self, pfn, n + extra, trace))
    program = parse("vmm 1\nmachine arch=x86_64 page=4K ram=6G nodes=1\nreserve size=1G count=1\nboot\n")
    pair = Lockstep(program.machine)
    findings = [pair.step(op).finding for op in program.ops]
    assert findings[-1] is not None
    assert findings[-1].field == "reference: effect"
    assert "leak detector" in findings[-1].detail
