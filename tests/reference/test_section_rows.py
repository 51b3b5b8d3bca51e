"""Rows of sections against the loop that the kernel runs: same points, same counts, same mapping."""

from errno import ENOMEM

import pytest

from mm.altmap import Altmap
from mm.pgmap import PgMap
from mm.pgtable import frame_at
from mm.runs import RunMap

SECTION, GIB = 32768, 1 << 18
FAR = 0x1000000000 >> 12


def loop_add(k, start, n, altmap, pgmap):
    for pfn in range(start, start + n, SECTION):
        rc = k.paths.sparse_add_section(0, pfn, SECTION, altmap, pgmap)
        if rc:
            return rc
    return 0


def row_add(k, start, n, altmap, pgmap):
    return k.paths.sparse_add_section(0, start, n, altmap, pgmap)


def shape(k, start, n):
    """Mapping up to renaming: for each vmemmap page how many share its frame, and the first of them."""
    first: dict[int, int] = {}
    return [
        (vpn, m.kind == "leaf", first.setdefault(frame_at(m, vpn), vpn))
        for s, e, m in k.tables.runs(start // 64, (start + n) // 64)
        for vpn in range(s, e)
    ]


def state(k, tally, start, n):
    return (
        tally(k),
        shape(k, start, n),
        [k.pages.free_set(zone).items() for zone in k.nodes[0].zones],
        [table.items() and sum(e - s for s, e, _ in table.items()) for table in k.tables.tables],
        k.sections.flags.items(),
        k.sections.usage.items(),
        k.sections.subsections.items(),
        k.paths.section_roots.items(),
        contents(k, start, n),
    )


def contents(k, start, n):
    """What the struct pages show, neighbours joined."""
    out: RunMap = RunMap()
    for lo, hi, content in k.memmap.view(start, start + n):
        out.set(lo, hi, content)
    return out.items()


CASES = {
    "ram": (FAR, 9 * SECTION, 0, False),
    "dax 2M": (FAR, 9 * SECTION, 9, False),
    "dax 1G": (FAR, 2 * GIB, 18, False),
    "dax 1G late": (FAR + SECTION, GIB, 18, False),
    "altmap": (FAR, 9 * SECTION, 9, True),
    "over a root and a PMD table": (2 * FAR - 3 * SECTION, 6 * SECTION, 9, False),
}


def run(make, add, trace, start, n, shift, with_altmap, nth):
    k = make()
    altmap = Altmap(start, start + n, 0, n // 64) if with_altmap else None
    pgmap = PgMap([(start, start + n)], shift, altmap, 0, "generic")
    rc: list[int] = []
    points = trace(k, nth, lambda: rc.append(add(k, start, n, altmap, pgmap)))
    return k, rc[0], points, altmap, pgmap


@pytest.mark.parametrize("case", sorted(CASES))
def test_row_and_loop(boot_kernel, trace, tally, snapshot, checked, case):
    start, n, shift, with_altmap = CASES[case]
    loop, rc_loop, points_loop, _, _ = run(boot_kernel, loop_add, trace, start, n, shift, with_altmap, 0)
    row, rc_row, points_row, altmap, pgmap = run(boot_kernel, row_add, trace, start, n, shift, with_altmap, 0)
    assert rc_loop == rc_row == 0
    assert sorted(points_loop) == sorted(points_row)
    assert state(loop, tally, start, n) == state(row, tally, start, n)
    if not with_altmap:
        checked(loop, [])
        checked(row, [])
    empty = snapshot(boot_kernel())
    row.paths.sparse_remove_section(start, n, altmap, pgmap)
    assert snapshot(row) == empty


@pytest.mark.parametrize("case", ["ram", "dax 1G", "over a root and a PMD table"])
def test_sweep(boot_kernel, trace, tally, case):
    """Every point of the range failed in turn: the row gives the loop's result; sections before it stay."""
    start, n, shift, with_altmap = CASES[case]
    _, _, points, _, _ = run(boot_kernel, loop_add, trace, start, n, shift, with_altmap, 0)
    picked = [i for i in range(1, len(points) + 1) if i < 3 or points[i - 1] != "VMF" or points[i - 2] != "VMF"]
    for nth in picked:
        loop, rc_loop, points_loop, _, _ = run(boot_kernel, loop_add, trace, start, n, shift, with_altmap, nth)
        row, rc_row, points_row, _, _ = run(boot_kernel, row_add, trace, start, n, shift, with_altmap, nth)
        assert rc_loop == rc_row == (0 if points[nth - 1] == "VMB" else -ENOMEM)
        assert sorted(points_loop) == sorted(points_row)
        assert state(loop, tally, start, n) == state(row, tally, start, n)


@pytest.mark.parametrize("free", [0, 1, 700, 1400])
def test_short_of_memory(boot_kernel, tally, snapshot, free):
    results = []
    for add in (loop_add, row_add):
        k = boot_kernel()
        got = k.pages.alloc_bulk(1 << 30, 0, "pages")
        if free:
            k.pages.free(max(got, key=lambda extent: extent[1])[0], free)
        pgmap = PgMap([(FAR, FAR + 9 * SECTION)], 9, None, 0, "generic")
        results.append((add(k, FAR, 9 * SECTION, None, pgmap), state(k, tally, FAR, 9 * SECTION)))
    assert results[0] == results[1]
    assert results[0][0] == (-ENOMEM if free < 9 * 129 + 1 else 0)


def test_remove_over_what_is_missing(boot_kernel, tally):
    """Removal of a range of which a section is not there: warned about, the others go."""
    k = boot_kernel()
    before = tally(k)
    row_add(k, FAR, 4 * SECTION, None, None)
    k.paths.sparse_remove_section(FAR + SECTION, SECTION, None, None)
    k.paths.sparse_remove_section(FAR, 4 * SECTION, None, None)
    assert len(k.log) == 1
    assert tally(k) == before
