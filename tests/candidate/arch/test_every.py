"""What holds on every architecture; numbers from the geometry (separate-paths.md 1.1, 1.2) and unified-framework.md 3.7
(n of a section that is not optimized: its struct pages, in whole vmemmap pages)."""

from random import Random

import pytest

from candidate import section_rows, sparse_vmemmap
from candidate.vmemmap_optimization import section_set_compound_order_range
from mm.altmap import Altmap
from mm.errno import ENOENT
from mm.folio import Folio
from mm.mmzone import ZONE_DEVICE, ZONE_NORMAL
from mm.page import POISON, Compound, Plain
from mm.page_alloc import OWNER_MEMMAP, OWNER_MEMMAP_BOOT, OWNER_RESERVED, pages_alloc
from mm.pgmap import PgMap
from mm.pgtable import frame_at
from tests.candidate.arch.conftest import DEDUP, EVERY, HVO, ArchBench, named

every = pytest.mark.parametrize("key", EVERY, ids=named)


def owned(k, *owners):
    return sum(hi - lo for lo, hi, owner in k.pages.owners.items() if owner in owners)


def leaf_frames(b, pfns):
    """Frames of the leaves that describe `pfns` pages from a boundary on."""
    return -(-pfns // b.leaf) * b.arch.ptrs_per_pte


@every
@pytest.mark.parametrize("deferred", [False, True])
def test_boot(key, deferred):
    """1.2: which unit maps boot memory; 3.6: each struct page of a present section is written once, in the zone of its
    RAM."""
    b = ArchBench(key, deferred_init=deferred)
    k, arch = b.k, b.arch
    sections = k.sections.flags.items()
    present = sum(hi - lo for lo, hi, _ in sections)
    assert k.vmstat.nr_memmap_boot == present * arch.vmemmap_per_section
    assert k.vmstat.nr_memmap == 0
    assert k.vmstat.struct_pages_initialized == present * b.per
    pages = key[0] == "arm64" and key[1] > 4096
    for lo, hi, _ in sections:
        assert b.kinds(lo * b.per, (hi - lo) * b.per) == {"pte" if pages else "leaf"}
        for s, e, content in k.memmap.view(lo * b.per // arch.spp * arch.spp, hi * b.per):
            first, last = max(s, lo * b.per), min(e, hi * b.per)
            if first < last:
                assert isinstance(content, Plain)
                zone = k.pages.zone_of.get(first)
                assert zone is None or zone.key == content[:2]
    mapped = sum(hi - lo for lo, hi, _ in k.tables.entries.items())
    assert owned(k, OWNER_MEMMAP_BOOT) == mapped
    if key[0] != "ppc64_hash":
        assert (b.tables()[0] > 0) == pages
        assert b.tables()[1] > 0
    else:
        assert b.tables() == [0, 0, 0]
    assert b.f.zone_tails() == {}
    assert b.f.orders.items() == []


@every
@pytest.mark.parametrize("units", [1, 3])
def test_add_then_remove(key, units):
    """n(section) for each section, whatever the leaf covers; poison (3.6); removal takes all back, but on loongarch."""
    b = ArchBench(key)
    k = b.k
    before = (b.total, b.free(), k.tables.entries.items(), b.tables(), k.sections.flags.items())
    nr = units * b.per
    frames = owned(k, OWNER_MEMMAP)
    assert b.add(b.far, nr) == 0
    assert b.total - before[0] == units * b.arch.vmemmap_per_section
    assert "none" not in b.kinds(b.far, nr)
    assert k.memmap.content(b.far) == k.memmap.content(b.far + nr - 1) == POISON
    leaves = not (key[0] == "arm64" and key[1] > 4096)
    assert owned(k, OWNER_MEMMAP) - frames == (leaf_frames(b, nr) if leaves else nr // b.arch.spp)
    b.remove(b.far, nr)
    assert b.total == before[0]
    assert k.sections.flags.items() == before[4]
    if key[0] == "loongarch64":
        assert "none" not in b.kinds(b.far, nr)
        free = b.free()
        assert b.add(b.far, nr) == 0
        assert b.free() == free
    else:
        assert (b.total, b.free(), k.tables.entries.items(), b.tables(), k.sections.flags.items()) == before
    assert k.log == []


@every
def test_no_altmap_is_ever_optimized(key):
    """4: a device with an altmap has order 0 and initialises all struct pages."""
    b = ArchBench(key)
    nr = max(b.leaf, b.per)
    altmap = Altmap(b.far, b.far + nr, 0, nr // b.arch.spp + b.arch.ptrs_per_pte)
    order = b.arch.pud_shift - b.arch.page_shift
    assert b.add(b.far, nr, order, altmap) == 0
    assert b.f.orders.items() == []
    assert b.f.zone_tails() == {}
    mine = key[0] not in ("loongarch64",)
    assert altmap.alloc == (nr // b.arch.spp if mine else 0)
    assert b.k.vmstat.nr_memmap == nr // b.per * b.arch.vmemmap_per_section
    b.remove(b.far, nr, altmap)
    assert altmap.alloc == 0


@pytest.mark.parametrize("key", [k for k in EVERY if k not in HVO], ids=named)
def test_hugetlb_is_inert_without_hvo(key, profile):
    """6: nothing selects HVO: no sysctl, no order at boot, no point reached, no frame moved, the knob on or off."""
    b = ArchBench(key, profile)
    k = b.k
    assert b.f.hugetlb_optimize_vmemmap_sysctl(True) == -ENOENT
    for h in k.hstates.values():
        assert not b.f.hugetlb_vmemmap_optimizable(h)
        zone = k.nodes[0].zones[ZONE_NORMAL]
        folio = Folio(b.far, h.order, zone, hugetlb=True)
        free = b.free()
        k.faults.points = []
        k.faults.begin()
        b.f.hugetlb_vmemmap_optimize_folios(h, [folio])
        b.f.hugetlb_vmemmap_optimize_folio(h, folio)
        assert k.faults.points == []
        assert not folio.vmemmap_optimized
        assert b.f.hugetlb_vmemmap_restore_folio(h, folio) == 0
        assert b.f.hugetlb_vmemmap_restore_folios(h, [folio], []) == 0
        assert b.free() == free
    assert b.f.zone_tails() == {}


@pytest.mark.parametrize("key", [k for k in EVERY if k not in DEDUP], ids=named)
def test_dax_is_inert_without_dedup(key, profile):
    """6: a device's compound pages are full: order 0, no T, every struct page written."""
    b = ArchBench(key, profile)
    order = b.arch.pmd_shift - b.arch.page_shift
    nr = max(b.per, 1 << order)
    assert b.add(b.far, nr, order) == 0
    assert b.f.orders.items() == []
    assert b.f.zone_tails() == {}
    assert b.k.pages.refs == {}
    done = b.k.vmstat.struct_pages_initialized
    b.f.memmap_init_zone_device(b.device, b.far, nr, b.pgmap(b.far, nr, order))
    assert b.k.vmstat.struct_pages_initialized - done == nr
    assert b.k.memmap.content(b.far + nr - 1) == Compound(order, 0, 0, ZONE_DEVICE, "devdax")


@pytest.mark.parametrize("key", DEDUP, ids=named)
@pytest.mark.parametrize("size", [1 << 21, 1 << 30])
def test_dax_with_dedup(key, size, profile):
    """3.4, 3.7, 4: one private page for each compound page, all others T; S struct pages written. Compound pages with
    one vmemmap page or less stay as they are (4.1: 2M with 64K pages)."""
    b = ArchBench(key, profile)
    k, arch = b.k, b.arch
    order = size.bit_length() - 1 - arch.page_shift
    nr = 2 << 30 >> arch.page_shift
    before, free = b.total, b.free()
    assert b.add(b.far, nr, order) == 0
    done = k.vmstat.struct_pages_initialized
    b.f.memmap_init_zone_device(b.device, b.far, nr, b.pgmap(b.far, nr, order))
    written = k.vmstat.struct_pages_initialized - done
    frames = b.frames(b.far, nr)
    v = arch.vmemmap_pages(order)
    compounds = nr >> order
    if v < 2:
        assert b.total - before == nr // b.per * arch.vmemmap_per_section
        assert written == nr
        assert b.f.orders.items() == []
    else:
        tail = b.f.zone_tails()[b.device.key, order]
        assert [i for i, frame in enumerate(frames) if frame != tail] == list(range(0, len(frames), v))
        assert len(set(frames)) == compounds + 1
        assert b.total - before == compounds
        assert written == compounds * arch.spp
        assert k.pages.refs == {tail: 1 + compounds * (v - 1)}
        writable = {
            m.tail_rw if m.kind == "strided" else m.rw
            for _, _, m in k.tables.runs(b.far // arch.spp, (b.far + nr) // arch.spp)
            if m.kind in ("strided", "shared")
        }
        assert writable == {profile == "merged"}
    b.remove(b.far, nr)
    assert b.total == before
    assert k.pages.refs == {}
    assert b.free() == free - len(b.f.zone_tails())


def state(b, lo, hi):
    """All that a row of sections and the loop over them must leave equal, up to the numbers of frames."""
    k, f = b.k, b.f
    count: dict[str, int] = {}
    for s, e, owner in k.pages.owners.items():
        count[owner] = count.get(owner, 0) + e - s
    first: dict[int, int] = {}
    shape = []
    for s, e, m in k.tables.runs(lo // b.arch.spp, hi // b.arch.spp):
        for vpn in [v for v in range(s, e) if v % 64 in (0, 1, 8, 63) or v % b.arch.ptrs_per_pte < 64]:
            frame = frame_at(m, vpn)
            shape.append((vpn, m.kind == "leaf", k.pages.owners.get(frame), first.setdefault(frame, vpn)))
    return {
        "counters": [getattr(k.vmstat, name) for name in k.vmstat.__slots__],
        "owned": count,
        "free": b.free(),
        "holes": k.tables.holes(lo // b.arch.spp, hi // b.arch.spp),
        "mapping": shape,
        "tables": [[(s, e) for s, e in _spans(level)] for level in k.tables.tables],
        "sections": [getattr(k.sections, name).items() for name in ("flags", "nid", "usage", "subsections")],
        "orders": f.orders.items(),
        "roots": f.roots,
        "refs": {key: k.pages.refs.get(frame, 1) for key, frame in f.zone_tails().items()},
        "unused": f.page_unused.items(),
        "contents": _joined(k.memmap.view(lo, hi)),
        "reached": (k.faults.reached, k.faults.fired),
        "log": k.log,
    }


def _spans(level):
    out = []
    for s, e, _ in level.items():
        if out and out[-1][1] == s:
            out[-1] = (out[-1][0], e)
        else:
            out.append((s, e))
    return out


def _joined(rows):
    out = []
    for s, e, content in rows:
        if out and out[-1][1] == s and out[-1][2] == content:
            out[-1] = (out[-1][0], e, content)
        else:
            out.append((s, e, content))
    return out


@every
@pytest.mark.parametrize("seed", range(24))
def test_row_is_the_loop(key, seed):
    """Random ranges, states, altmaps, and injected failures; then removals of the range."""
    pair = []
    for way in ("loop", "row"):
        b = ArchBench(key, ("posted", "merged")[seed % 2])
        pair.append(b)
        rng = Random(seed)
        k, per = b.k, b.per
        unit = max(per, b.arch.spp)
        if rng.random() < 0.3:
            assert b.add(b.far + 2 * unit, unit, rng.choice((None, 0, b.arch.pud_shift - b.arch.page_shift))) == 0
        if rng.random() < 0.3:
            keep = rng.choice((0, 1, 8, 300, 3000))
            assert not isinstance(pages_alloc(k, 0, b.free() - keep, False), int)
        order = rng.choice((None, 0, b.arch.pmd_shift - b.arch.page_shift, b.arch.pud_shift - b.arch.page_shift))
        start = b.far + rng.choice((0, 0, per, 3 * unit, max(b.leaf, per)))
        nr = rng.choice(
            (per, 2 * per, 5 * unit, min(2 * max(b.leaf, per), 64 * unit), min(max(b.leaf, per), 32 * unit) + per)
        )
        altmap = None
        if rng.random() < 0.3 and order is not None:
            altmap = Altmap(start, start + nr, 2, nr // b.arch.spp * rng.choice((1, 2)))
        pgmap = None if order is None else PgMap([(start, start + nr)], order, altmap, 0, "generic")
        k.faults.nth = rng.choice((0, 0, 0, 1, 2, 3, 7, rng.randrange(1, 300)))
        k.faults.begin()
        if way == "row":
            rc = section_rows.sparse_add_section(b.f, 0, start, nr, altmap, pgmap)
        else:
            rc = _loop(sparse_vmemmap.add_section, b, start, nr, 0, altmap, pgmap)
        pair_altmap = altmap and (altmap.alloc, altmap.align)
        if way == "loop":
            expected = rc, pair_altmap
        else:
            assert (rc, pair_altmap) == expected
    lo, hi = b.far - 64 * b.arch.spp, b.far + 4 * b.leaf
    _same(pair, lo, hi)
    if rc == 0:
        for b, remove in zip(pair, ("loop", "row"), strict=True):
            if remove == "row":
                b.remove(start, nr, altmap)
            else:
                for pfn in range(start, start + nr, b.per):
                    sparse_vmemmap.remove_section(b.f, pfn, b.per, altmap)
        _same(pair, lo, hi)


def _loop(add, b, start, nr, nid, altmap, pgmap):
    for pfn in range(start, start + nr, b.per):
        rc = add(b.f, nid, pfn, b.per, altmap, pgmap)
        if rc:
            return rc
    return 0


def _same(pair, lo, hi):
    left, right = (state(b, lo, hi) for b in pair)
    for what, value in left.items():
        assert value == right[what], what


@every
def test_part_of_an_ordinary_section(key):
    """3.7: ceil(nr * 64 / PAGE) for the part; adding and removing it leaves the counters as they were."""
    b = ArchBench(key)
    before = b.total
    assert b.add(b.far, 2 * b.sub) == 0
    assert b.total - before == -(-2 * b.sub * 64 // b.arch.page)
    assert "none" not in b.kinds(b.far, 2 * b.sub)
    b.remove(b.far, 2 * b.sub)
    assert b.total == before
    assert b.k.sections.word(b.section) == 0


def test_order_range_is_ignored_for_parts():
    """5.13 f on any geometry: a range that is not whole sections gets no order, and nobody says so."""
    for key in EVERY:
        b = ArchBench(key)
        section_set_compound_order_range(b.f, b.far, b.per // 2, b.f.min_order)
        assert b.f.orders.items() == []
        assert b.k.log == []


def test_mem_section_roots():
    """UNCONFIRMED sizes: 24 bytes with the order (170 sections a 4K page), 16 without (256)."""
    assert ArchBench(("x86_64", 4096)).f.sections_per_root == 170
    assert ArchBench(("arm64", 4096)).f.sections_per_root == 256
    assert ArchBench(("ppc64_radix", 65536)).f.sections_per_root == 2730
    assert ArchBench(("ppc64_hash", 65536)).f.sections_per_root == 2730


@every
@pytest.mark.parametrize("interleave", [2 << 20, 256 << 20])
def test_boot_on_nodes_that_take_turns(key, interleave):
    """The image may lie in the memory of several nodes; each frame of RAM is free or owned, and each struct page of a
    present section written once."""
    b = ArchBench(key, ram=1154 << 20, nodes=2, interleave=interleave, hole=64 << 20)
    k = b.k
    ram = sum(end - start for _, start, end in k.machine.ram_ranges())
    assert b.free() + sum(hi - lo for lo, hi, _ in k.pages.owners.items()) == ram
    base = k.machine.ram_ranges()[0][1]
    for first, last in b.arch.image:
        lo, hi = (base + (byte >> b.arch.page_shift) for byte in (first, last))
        assert k.pages.owners.runs(lo, hi) == [(lo, hi, OWNER_RESERVED)]
        assert k.pages.free_count(lo, hi) == 0
    present = sum(hi - lo for lo, hi, _ in k.sections.flags.items())
    assert k.vmstat.nr_memmap_boot == present * b.arch.vmemmap_per_section
    assert k.vmstat.struct_pages_initialized == present * b.per
