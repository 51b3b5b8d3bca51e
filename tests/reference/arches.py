"""What the tests of single architectures have in common: devices, adding and removing by section, how it looks then."""

from mm.arch import ARCHES
from mm.pgmap import PgMap
from mm.pgtable import frame_at

M, G = 1 << 20, 1 << 30
ALL = sorted(ARCHES)
FAR = 1 << 42
"""4T, where nothing is: a multiple of what any leaf describes."""


def pages(k, size):
    return size // k.arch.page


def device(k, start, size, align, altmap=None):
    shift = pages(k, align).bit_length() - 1
    return PgMap([(pages(k, start), pages(k, start + size))], shift, altmap, 0, "generic")


def add(k, start, size, altmap=None, pgmap=None):
    """Section by section, as __add_pages cuts a range."""
    at, end, per = pages(k, start), pages(k, start + size), k.arch.pages_per_section
    while at < end:
        stop = min(end, at - at % per + per)
        rc = k.paths.sparse_add_section(0, at, stop - at, altmap, pgmap)
        if rc:
            return rc
        at = stop
    return 0


def remove(k, start, size, altmap=None, pgmap=None):
    at, end, per = pages(k, start), pages(k, start + size), k.arch.pages_per_section
    while at < end:
        stop = min(end, at - at % per + per)
        k.paths.sparse_remove_section(at, stop - at, altmap, pgmap)
        at = stop


def owned(k, *owners):
    return sum(hi - lo for lo, hi, o in k.pages.owners.items() if o in owners)


def tables(k):
    return sum(hi - lo for level in k.tables.tables for lo, hi, _ in level.items())


def vpns(k, start, size):
    spp = k.arch.spp
    return pages(k, start) // spp, -(-pages(k, start + size) // spp)


def kinds(k, start, size):
    return {m.kind for _, _, m in k.tables.runs(*vpns(k, start, size))}


def frames(k, start, size):
    """Different frames behind the memmap of a range."""
    lo, hi = vpns(k, start, size)
    return {frame_at(m, vpn) for s, e, m in k.tables.runs(lo, hi) for vpn in range(s, e)}


def settled(state):
    """A snapshot without NR_PAGETABLE, which drifts on some architectures (test_page_table_counter)."""
    return {**state, "counts": state["counts"]._replace(pagetable=0)}


def refs(k):
    return sorted(k.pages.refs.values())
