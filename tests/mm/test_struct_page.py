"""Struct pages that cross the borders of vmemmap pages: CONFIG_KFENCE on loongarch64 with 4K pages (Linux 7.3).

sizeof(struct page) is 64, and 8 more with WANT_PAGE_VIRTUAL, rounded up to 16 by HAVE_ALIGNED_STRUCT_PAGE: 80.
"""

import pytest

from fuzz.execute import Lockstep
from fuzz.oracle.effects import answers, huge
from fuzz.oracle.finding import Finding
from fuzz.program.text import parse
from fuzz.report.case import place
from fuzz.report.strips import bands
from fuzz.trace import trace
from mm.arch import ARCHES, Arch
from mm.errno import EINVAL, ENOENT
from mm.machine import Machine
from mm.page import RAW, Plain
from mm.pgtable import PMD_TABLE, Leaf, Pte
from tests.mm.agreed import agreed

K, M, G = 1 << 10, 1 << 20, 1 << 30
SIZE = 80
WIDE = Machine(arch="loongarch64", kfence=True).geometry()


def run(rest: str = "", page: str = "4K", kfence: str = "on") -> tuple[Lockstep, list[object]]:
    """A pair after a program that the models agree on, and what it returned."""
    return agreed(f"arch=loongarch64 page={page} ram=1G nodes=1 kfence={kfence}", rest)


def test_geometry() -> None:
    """512M of pages are 10M of struct pages, five PMD leaves; 2M are 40K."""
    assert (WIDE.struct_page, WIDE.spp) == (SIZE, 0)
    assert WIDE.vmemmap_per_section == 512 * M // (4 * K) * SIZE // (4 * K) == 5 * WIDE.ptrs_per_pte
    assert (
        WIDE.vpn(WIDE.pages_per_subsection) == WIDE.vmemmap_pages(WIDE.pmd_order) == 2 * M // (4 * K) * SIZE // (4 * K)
    )


@pytest.mark.parametrize("key", ARCHES)
def test_elsewhere_it_has_no_effect(key: tuple[str, int]) -> None:
    name, page = key
    arch = Machine(arch=name, page=page, kfence=True).geometry()
    assert (arch is ARCHES[key]) is (key != ("loongarch64", 4 * K))
    assert ARCHES[key].struct_page == 64


@pytest.mark.parametrize("arch", [WIDE, *ARCHES.values()])
def test_pages_and_vmemmap_pages(arch: Arch) -> None:
    """By the bytes that struct pages have: [pfn * size, pfn * size + size)."""
    size, page = arch.struct_page, arch.page
    for pfn in [*range(1100), 1 << 34, (1 << 34) + 1]:
        assert arch.vpn(pfn) * page <= pfn * size < (arch.vpn(pfn) + 1) * page
        assert (arch.vpn_end(pfn) - 1) * page < pfn * size <= arch.vpn_end(pfn) * page
        first = arch.pfn(pfn)  # of the vmemmap page with this number
        assert (first - 1) * size < pfn * page <= first * size
        if arch.spp:
            assert (arch.vpn(pfn), arch.vpn_end(pfn), first) == (pfn // arch.spp, -(-pfn // arch.spp), pfn * arch.spp)


def test_nothing_is_optimized() -> None:
    """hugetlb_vmemmap_optimizable: sizeof(struct page) is no power of two. So there is no sysctl either, and each side
    keeps the leaves of the boot: RAM is in 3 sections (256M at 0, 768M from 2G on)."""
    for kfence, answer in (("on", -ENOENT), ("off", 0)):
        pair, rcs = run("hugetlb resize size=2M to=4\nsysctl hugetlb_optimize_vmemmap=on\n", kfence=kfence)
        assert rcs == [0, 0, answer]
        for side in (pair.reference, pair.candidate):
            k = side.kernel
            folios = list(k.hstates[9].folios.values())
            assert [folio.vmemmap_optimized for folio in folios] == [kfence == "off"] * 4
            if kfence == "on":
                assert all(isinstance(m, Leaf) for _, _, m in k.tables.entries.items())
                assert k.vmstat.nr_memmap_boot == 3 * WIDE.vmemmap_per_section
                assert sum(e - s for s, e, _ in k.tables.entries.items()) == 3 * WIDE.vmemmap_per_section


def test_what_devices_and_memory_count() -> None:
    """ceil(n * sizeof(struct page) / PAGE_SIZE), in leaves; there is no room for the memory map on a namespace
    (MAX_STRUCT_PAGE_SIZE, drivers/nvdimm/pfn_devs.c)."""
    pair, rcs = run(
        "m0 = memory add at=0x200000000 size=1G\n"
        "d0 = dax create at=0x280000000 size=64M\n"
        "d1 = dax create at=0x300000000 size=512M altmap=on\n"
        "memory remove m0\n"
    )
    assert rcs == [0, 0, 0, -EINVAL, 0]
    for side in (pair.reference, pair.candidate):
        k = side.kernel
        assert k.vmstat.nr_memmap == 64 * M // (4 * K) * SIZE // (4 * K)
        first = 0x280000000 // (4 * K) * SIZE // (4 * K)
        assert k.tables.holes(first, first + WIDE.ptrs_per_pte) == []  # a whole leaf, for 16384 of 26214.4 pages
        assert k.tables.get(first + WIDE.ptrs_per_pte) is None


def test_what_is_seen_where_vmemmap_pages_lie_apart() -> None:
    """A struct page is in the vmemmap page in which it begins, and is there if that is mapped."""
    k = run()[0].reference.kernel
    first = 1 << 30
    vpn = WIDE.vpn(first)
    for n in range(4):
        k.tables.set(vpn + n, vpn + n + 1, Pte(1000 - 2 * n, True))
    here = Plain(0, 3)
    k.memmap.write(first + 50, 100, here)
    # 51.2 struct pages in each.
    edges = [first, first + 52, first + 103, first + 154, first + 205]
    seen = k.memmap.view(first, edges[-1])
    assert [(s - first, e - first) for s, e, content in seen if content is here] == [(50, 52), (52, 103), (103, 150)]
    assert [(s, e) for s, e, content in seen if content is RAW] == [
        (first, first + 50),
        (first + 150, edges[3]),
        (edges[3], edges[4]),
    ]
    assert [k.memmap.content(pfn) is here for pfn in (first + 49, first + 50, first + 149, first + 150)] == [
        False,
        True,
        True,
        False,
    ]
    assert k.memmap.content(edges[-1]) is None


def test_page_tables_that_end_within_a_section() -> None:
    """A PMD table maps 1G of struct pages, of 102.4 sections: one begins with those of 2T, and the section that begins
    51G behind needs two. So 4G from 2T + 50G on do."""
    pair, rcs = run("d0 = dax create at=0x20c80000000 size=4G\n")
    assert rcs == [0, 0]
    first = 0x20C80000000 // (4 * K) * SIZE
    last = first + 4 * G // (4 * K) * SIZE
    assert (first // G, (last - 1) // G) == (40, 41)
    for side in (pair.reference, pair.candidate):
        tables = side.kernel.tables
        assert tables.holes(first // (4 * K), last // (4 * K)) == []
        assert tables.missing_tables(PMD_TABLE, first // (4 * K), last // (4 * K)) == []


def test_what_the_oracle_knows() -> None:
    """Of a side alone: the switch is not there, and neither is a device with its memory map on itself."""
    args = {"at": [0x300000000], "size": [512 * M], "align": 2 * M, "driver": "devdax", "node": 0, "altmap": True}
    for kfence in ("on", "off"):
        side = run(kfence=kfence)[0].reference
        said = huge.switched(side, {"hugetlb_optimize_vmemmap": True}, 0, None, None)
        assert said == ("no huge pages can be optimized" if kfence == "on" else None)
        allowed = answers.created(side, args)
        assert allowed is not None
        assert (allowed == {-EINVAL}) is (kfence == "on")


def test_what_a_report_says() -> None:
    """Half of a section, and the address at which it begins; the vmemmap page of a struct page that a finding names."""
    line = "machine arch=loongarch64 page=4K ram=1G nodes=1 kfence=on"
    told = trace(parse(f"vmm 1\n{line}\nboot\n"))
    per = WIDE.vmemmap_per_section
    (band,) = bands(told, ((per, per + per // 2),), 1)
    assert band.label.endswith(f"{per // 2:,} pages, of 256M at {512 * M:#x}")
    found = Finding(
        "structpages", "content", "boot", ("ok", "ok"), "", "", f"struct page of pfn {512 * M // (4 * K):#x}: ..."
    )
    assert place(found, told) == per
