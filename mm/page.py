"""struct page contents, read and written through the vmemmap mapping as the hardware does (include/linux/mm_types.h).

Contents are classes, not words: enough to tell whether a struct page is initialised, for which zone, and as what. They
are kept per struct page where the vmemmap page is private, and per frame where it is shared: a write through a
writable alias changes every alias, a write through a read-only one is a fault, and so is one to an unmapped page.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from mm.page_alloc import KernelBug
from mm.pgtable import Mapping, Shared, Strided, VmemmapTables
from mm.runs import RunMap
from mm.vmstat import Vmstat


class Raw(NamedTuple):
    """Never written since the memory was allocated."""

    kind: Literal["raw"] = "raw"


class Poison(NamedTuple):
    """page_init_poison: hot-added and not yet initialised."""

    kind: Literal["poison"] = "poison"


class Plain(NamedTuple):
    """An initialised base page of a zone, in no compound page."""

    nid: int
    zone: int
    use: str = ""
    """"fsdax" for a device page of MEMORY_DEVICE_FS_DAX, whose reference count is 0; other device pages have 1."""
    kind: Literal["plain"] = "plain"


class Compound(NamedTuple):
    """Pages of compound pages of `order`, whose heads lie at pfn % 2^order == phase: head and tails as
    prep_compound_page left them."""

    order: int
    phase: int
    nid: int
    zone: int
    use: str
    """"hugetlb", or "devdax": MEMORY_DEVICE_GENERIC, whose heads have a reference count of 1."""
    kind: Literal["compound"] = "compound"


class Tail(NamedTuple):
    """Tails as the shared tail page of (zone, order) holds them, or copied from it."""

    order: int
    nid: int
    zone: int
    reserved: bool = False
    """PG_reserved is set (candidate, ZONE_DEVICE)."""
    kind: Literal["tail"] = "tail"


class SelfHosted(NamedTuple):
    """A page that holds part of its own block's memmap (PageVmemmapSelfHosted)."""

    nid: int
    zone: int
    kind: Literal["selfhosted"] = "selfhosted"


Content = Raw | Poison | Plain | Compound | Tail | SelfHosted

RAW = Raw()
POISON = Poison()


class Row(NamedTuple):
    """What is seen through a `Strided` mapping with a separate tail frame: kept pages show `kept`, the others
    `tail`."""

    period: int
    """In struct pages."""
    keep: int
    """In struct pages."""
    phase: int
    """pfn of a period's start, modulo period."""
    kept: Content
    tail: Content
    kind: Literal["row"] = "row"


class MemMap:
    """All struct pages. Ranges are pfns; `n` counts struct pages and must be whole vmemmap pages where the mapping is
    shared."""

    __slots__ = ("arch", "frames", "own", "tables", "touched", "vmstat")

    def __init__(self, tables: VmemmapTables, vmstat: Vmstat) -> None:
        self.tables = tables
        self.vmstat = vmstat
        self.arch = tables.arch
        self.own: RunMap[Content] = RunMap()
        """pfn -> content where the vmemmap page is private; a gap in mapped memory is Raw."""
        self.frames: dict[int, Content] = {}
        """Shared frame -> content of each of its struct pages."""
        self.touched: list[tuple[int, int]] = []
        """Ranges of pfns written since the oracle last looked."""

    def init(self, pfn: int, n: int, content: Content) -> None:
        """Write struct pages as initialisation code does; counted in `struct_pages_initialized`."""
        self.vmstat.struct_pages_initialized += n
        if self.tables.roots is not None:
            self.tables.access(self.arch.vpn(pfn), self.arch.vpn_end(pfn + n))
        self.write(pfn, n, content)

    def write(self, pfn: int, n: int, content: Content) -> None:
        """Write `content` to the struct pages of [pfn, pfn + n) through the mapping."""
        arch = self.arch
        end = pfn + n
        done, last = arch.vpn(pfn), arch.vpn_end(end)
        runs = self.tables.entries.runs(done, last)
        for vlo, vhi, m in runs:
            if vlo != done or (m.kind != "leaf" and m.kind != "pte"):
                break
            done = vhi
        if done == last:  # private all over: one write
            self.own.set(pfn, end, content)
            self.touched.append((pfn, end))
            return
        done = pfn
        for vlo, vhi, m in runs:
            lo, hi = max(arch.pfn(vlo), pfn), min(arch.pfn(vhi), end)
            if lo != done:
                break
            if m.kind == "shared" or m.kind == "strided":
                self._write_shared(m, lo, hi, content)
            else:
                self.own.set(lo, hi, content)
            done = hi
        self.touched.append((pfn, end))
        if done != end:
            raise KernelBug(f"page fault: struct page of pfn {done:#x} is written but not mapped")

    def _write_shared(self, m: Mapping, lo: int, hi: int, content: Content) -> None:
        if isinstance(m, Shared):
            if not m.rw:
                raise KernelBug(
                    f"page fault: struct page of pfn {lo:#x} is written through a read-only shared tail page"
                )
            self.frames[m.frame] = content
            return
        if not isinstance(m, Strided):
            raise AssertionError(m)
        spp, as_pages = self.arch.spp, self.arch.pfn
        period, keep, phase = as_pages(m.period), as_pages(m.keep), as_pages(m.phase)
        if m.tail is None:
            # The last kept page shows at every tail slot: a write to one alias is a write to all of them.
            if (lo - phase) % period == 0 and (hi - phase) % period == 0:
                self.own.set(lo, hi, content)
                return
            while lo < hi:
                start = lo - (lo - phase) % period
                stop = min(hi, start + period)
                alias = start + keep - spp
                if lo < alias:
                    self.own.set(lo, min(stop, alias), content)
                if stop > alias:
                    self.own.set(alias, start + period, content)
                lo = stop
            return
        if (lo - phase) % period + hi - lo > keep:
            if not m.tail_rw:
                raise KernelBug(
                    f"page fault: struct page of pfn {lo:#x} is written through a read-only shared tail page"
                )
            self.frames[m.tail] = content
        self.own.set(lo, hi, content)

    def init_heads(self, pfn: int, end: int, stride: int, n: int, content: Content) -> None:
        """Initialise the first `n` struct pages of each compound of `stride` pages in [pfn, end), all with `content`.

        One call for a whole row, so that a 1 TiB device costs no loop over its compound pages. Raises KernelBug where
        a struct page is not mapped or read-only.
        """
        compounds = (end - pfn) // stride
        self.vmstat.struct_pages_initialized += n * compounds
        arch, spp = self.arch, self.arch.spp
        first, last = arch.vpn(pfn), arch.vpn_end(end)
        if self.tables.roots is not None:
            self.tables.access(first, last)
        done = pfn
        for vlo, vhi, m in self.tables.runs(first, last):
            lo, hi = max(arch.pfn(vlo), pfn), min(arch.pfn(vhi), end)
            if lo != done:
                break
            done = hi
            if (
                isinstance(m, Strided)
                and m.period * spp == stride
                and (pfn - m.phase * spp) % stride == 0
                and (n == m.keep * spp or n == stride)
                and (m.tail is None or n <= m.keep * spp)
            ):
                self.own.set(lo, hi, content)
                self.touched.append((lo, hi))
                continue
            at = lo - (lo - pfn) % stride
            if n == stride:
                self.write(lo, hi - lo, content)
                continue
            while at < hi:
                s, e = max(at, lo), min(at + n, hi)
                if s < e:
                    self.write(s, e - s, content)
                at += stride
        if done != end:
            raise KernelBug(f"page fault: struct page of pfn {done:#x} is initialised but not mapped")

    def forget(self, pfn: int, n: int) -> None:
        """The vmemmap pages of [pfn, pfn + n) are unmapped or get fresh frames: what was stored for them is gone."""
        self.own.clear(pfn, pfn + n)
        self.touched.append((pfn, pfn + n))

    def content(self, pfn: int) -> Content | None:
        """What a read of the struct page of `pfn` shows; None when it is not mapped."""
        vpn = self.arch.vpn(pfn)
        m = self.tables.get(vpn)
        if m is None:
            return None
        if isinstance(m, Shared):
            return self.frames.get(m.frame, RAW)
        if isinstance(m, Strided) and m.tail is not None and (vpn - m.phase) % m.period >= m.keep:
            return self.frames.get(m.tail, RAW)
        got = self.own.get(pfn)
        return RAW if got is None else got

    def view(self, lo: int, hi: int) -> list[tuple[int, int, Content | Row]]:
        """What is seen at [lo, hi), as runs of pfns; unmapped parts are left out. lo and hi are the first pages of
        vmemmap pages.
        """
        arch = self.arch
        out: list[tuple[int, int, Content | Row]] = []
        own = self.own.runs(lo, hi)
        last = len(own)
        i = 0
        for vlo, vhi, m in self.tables.entries.runs(arch.vpn(lo), arch.vpn_end(hi)):
            s, e = arch.pfn(vlo), arch.pfn(vhi)
            if m.kind == "shared":
                out.append((s, e, self.frames.get(m.frame, RAW)))
                continue
            row = m if m.kind == "strided" and m.tail is not None else None
            done = s
            while i < last and own[i][0] < e:
                rlo, rhi, c = own[i]
                if rhi > done:
                    if done < rlo:
                        out.append((done, rlo, RAW if row is None else self._row(row, RAW)))
                        done = rlo
                    stop = rhi if rhi < e else e
                    out.append((done, stop, c if row is None else self._row(row, c)))
                    done = stop
                if rhi > e:
                    break  # the next mapping shows the rest of it
                i += 1
            if done < e:
                out.append((done, e, RAW if row is None else self._row(row, RAW)))
        return out

    def _row(self, m: Strided, kept: Content) -> Row:
        assert m.tail is not None
        pfn = self.arch.pfn
        return Row(pfn(m.period), pfn(m.keep), pfn(m.phase), kept, self.frames.get(m.tail, RAW))
