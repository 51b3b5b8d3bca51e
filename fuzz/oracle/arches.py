"""Where two sides part on architectures other than x86-64, as the series makes them part there.

The rules of `fuzz.oracle.rules` are exact about x86-64. Elsewhere a PMD leaf can reach beyond what it was populated
for, and boot huge pages are optimized in another place; what follows from that is not carried along, the program ends
there.
Each rule still demands that the sides differ by what the architecture's code explains, and by nothing else.
"""

from __future__ import annotations

from fuzz.oracle.finding import NO_MEMMAP, UNMAPPED, Outcome
from fuzz.oracle.pieces import by_section, shares_tails
from mm.errno import ENOMEM
from mm.kernel import Kernel, gigantic_folios
from mm.page_alloc import OWNER_PGTABLE
from mm.pgmap import PgMap
from mm.pgtable import PTE_TABLE, Leaf, Pte
from mm.runs import RunSet

Spans = list[tuple[int, int]]


def blank(ref: Kernel, cand: Kernel, pgmap: PgMap) -> bool:
    """Whether a device that begins where a compound page does may have struct pages that nobody initialises: it has
    `leaf_spans`, or powerpc went on without the second page of a compound page, and shares what comes behind it.
    """
    return bool(leaf_spans(ref, cand, pgmap)[0]) or (ref.arch.compounds_by_pfn and ref.faults.fired == "VMF")


def leaf_spans(ref: Kernel, cand: Kernel, pgmap: PgMap) -> tuple[Spans, bool]:
    """Vmemmap pages, in whole PMDs, in which a device that shares tails has them in no base pages of its own: under its
    partial sections, and where a leaf was before, or on powerpc base pages, which it keeps. And whether such a thing
    lies under a whole section, on either side.
    """
    arch = ref.arch
    if not arch.tails_beside_leaves or not shares_tails(arch, pgmap.vmemmap_shift, pgmap.altmap is not None):
        return [], False
    ptrs, spp = arch.ptrs_per_pte, arch.spp
    spans: set[tuple[int, int]] = set()
    under = False
    pieces = [piece for start, end in pgmap.ranges for piece in by_section(ref, start, end, start, end)]
    for lo, hi, whole in pieces:
        for pmd in range(lo // spp // ptrs, -(-hi // spp // ptrs)):
            a, b = max(lo // spp, pmd * ptrs), min(-(-hi // spp), (pmd + 1) * ptrs)
            leaf = any(isinstance(m, Leaf) for k in (ref, cand) for _, _, m in k.tables.runs(a, b))
            leaf |= whole and arch.compounds_by_pfn and _kept_tails(cand, a, b, 1 << pgmap.vmemmap_shift)
            if leaf or (not whole and arch.vmemmap_rounds_down):
                spans.add((pmd * ptrs, (pmd + 1) * ptrs))
            under |= leaf and whole
    return sorted(spans), under


def has_reason(rc: int, k: Kernel, lack: int, refused: tuple[int, ...]) -> bool:
    """Whether a side can have failed with `rc`: an allocation failed or got less (`lack` of them), or it has met
    memory, for which it is `refused`."""
    return rc in refused or (rc == -ENOMEM and (k.faults.fired is not None or lack != 0))


def answers_differ(
    rcs: tuple[int, int], sides: tuple[Kernel, Kernel], short: tuple[int, int], refused: tuple[int, ...]
) -> bool:
    """Whether a side has failed in a way that has no reason in it; `short`: how many allocations got less, by side."""
    for rc, other, k, lack in zip(rcs, rcs[::-1], sides, short, strict=True):
        if rc < 0 and rc != other and not has_reason(rc, k, lack, refused):
            return True
    return False


def _kept_tails(cand: Kernel, lo: int, hi: int, compound: int) -> bool:
    """Whether base pages of [lo, hi), other than the first of each compound page, were there before the operation and
    map frames of their own.
    """
    spp = cand.arch.spp
    before = RunSet()
    for s, e, m in cand.tables.runs(lo, hi):
        if isinstance(m, Pte):
            before.add(s, e)
    for s, e in cand.tables.touched:
        before.remove(s, e)
    return any(vpn * spp % compound for s, e in before.items() for vpn in range(s, e))


def preoptimized_boot(ref: Kernel, cand: Kernel) -> bool:
    """Whether boot differs as it must where only the framework optimizes gigantic pages before their memmap is made.

    For each such page the reference has a head copy and 8 split leaves (V / 512 in general) from the buddy allocator,
    the candidate one private page and as many tables from memblock. So ordinary boot pages may lie elsewhere, under
    other leaves and in other zones; nothing else may differ in number.
    """
    arch = ref.arch
    if not arch.hvo or arch.prehvo:
        return False
    heads = [{folio.pfn for folio in gigantic_folios(k) if folio.vmemmap_optimized} for k in (ref, cand)]
    if not heads[0] or heads[0] != heads[1] or any(h.nr != cand.hstates[i].nr for i, h in ref.hstates.items()):
        return False
    n = len(heads[0])
    order = max(ref.hstates)
    splits = n * (arch.vmemmap_pages(order) // arch.ptrs_per_pte)
    v, w = ref.vmstat, cand.vmstat
    free = [_free_pages(k) for k in (ref, cand)]
    moved = w.nr_memmap - v.nr_memmap, w.nr_memmap_boot - v.nr_memmap_boot
    own = [_tables_of_ordinary(k) for k in (ref, cand)]
    tables = v.nr_page_table_pages - own[0] - (w.nr_page_table_pages - own[1])
    left = [f + t + len(k.paths.zone_tails()) for f, t, k in zip(free, own, (ref, cand), strict=True)]
    return moved == (-n, n) and tables == splits and left[0] == left[1]


def starved_boot(ref: Kernel, cand: Kernel, rcs: tuple[Outcome, Outcome], past: bool) -> bool:
    """Whether only the framework can boot, as the memory map of the gigantic pages needs more than it has left. The
    `past` (v7.0-base) drops sections without a memory map, and dies of a struct page of one."""
    mine, theirs = rcs
    if not ref.arch.hvo or ref.arch.prehvo or theirs != 0 or not isinstance(mine, str):
        return False
    if not mine.startswith(NO_MEMMAP) and not (past and UNMAPPED.match(mine)):
        return False
    pages = sum([ref.arch.vmemmap_pages(f.order) - 1 for f in gigantic_folios(cand) if f.vmemmap_optimized])
    return _free_pages(cand) < pages


def _free_pages(k: Kernel) -> int:
    return sum(zone.free_pages(k.arch.pmd_order) for node in k.nodes for zone in node.zones)


def _tables_of_ordinary(k: Kernel) -> int:
    """PTE tables from the buddy allocator over the memmap of ordinary huge pages."""
    span = k.arch.ptrs_per_pte * k.arch.spp
    folios = [f for h in k.hstates.values() if not h.gigantic for f in h.folios.values()]
    pmds = {pmd for f in folios for pmd in range(f.pfn // span, -(-f.end_pfn // span))}
    tables = k.tables.tables[PTE_TABLE]
    frames = [pmd + delta for pmd in pmds if (delta := tables.get(pmd)) is not None]
    return sum(k.pages.owners.get(frame) == OWNER_PGTABLE for frame in frames)
