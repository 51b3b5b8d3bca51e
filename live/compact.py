"""Page table entries and huge pages as short words, and back: what a recorded answer is made of.

Entries of a section are those of `live.pagetable.decode`: frame * 2 + writable, -1 where nothing is mapped.

  w1a0        one entry: frame 0x1a0, writable (r: read-only)
  w1a0-1a7    consecutive frames, up or down
  r99*7       seven entries of one frame
  -*64        nothing, 64 times
  h1a0-1b7:99 for each of the frames: the frame, writable, and then seven times 0x99, read-only
  p1a0-1a4    for every second frame (0x1a0, 0x1a2, 0x1a4): the frame, and then seven times the next one, all writable

Huge pages are numbered by their size (pfn >> order) and come in the order of the lists that they hang on.

  fo0:104-127,130   free, optimized, reference count 0: pages 104 to 127, then 130
  u-1:7             in use, not optimized, reference count 1
  foc0:4            from a CMA area
  |                 another list begins
  >1f400            the last page is followed by this pfn, which is no huge page
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from live.folios import HugeFolio, list_order

TAILS: Final = 7
"""Shared vmemmap pages of an optimized 2M page, behind the one that it keeps."""
MOST: Final = 1 << 20
"""Entries or pages that one word may stand for; a section has 512."""

_ENTRY: Final = re.compile(
    r"([wr])([0-9a-f]+)(?:-([0-9a-f]+)|\*(\d+))?|-(?:\*(\d+))?"
    r"|h([0-9a-f]+)(?:-([0-9a-f]+))?:([0-9a-f]+)|p([0-9a-f]+)(?:-([0-9a-f]+))?"
)
_PAGES: Final = re.compile(r"([fu])([o-])(c?)(\d+):((?:\d+(?:-\d+)?)(?:,\d+(?:-\d+)?)*)")

Unit = tuple[str, int, int]
"""(what, frame or first page, what goes with it); units of one kind and companion form ranges of frames."""


def pack_entries(entries: Sequence[int]) -> str:
    """Entries as words."""
    return " ".join(_joined(_units([(pte, len(list(same))) for pte, same in groupby(entries)])))


def _units(runs: list[tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
    """Runs of equal entries: (kind, frame, times or tail)."""
    at = 0
    while at < len(runs):
        pte, n = runs[at]
        if at + 1 < len(runs) and n == 1 and pte >= 0 and pte & 1:
            tail, times = runs[at + 1]
            if times == TAILS and tail >= 0 and (not tail & 1 or tail == pte + 2):
                yield ("p", pte >> 1, 1) if tail & 1 else ("h", pte >> 1, tail >> 1)
                at += 2
                continue
        yield ("-" if pte < 0 else "w" if pte & 1 else "r"), pte >> 1, n
        at += 1


def _joined(units: Iterable[Unit]) -> Iterator[str]:
    """Words for units, those in a row as one."""
    row: list[Unit] = []
    for unit in units:
        if row and not _follows(row, unit):
            yield _word(row)
            row = []
        row.append(unit)
    if row:
        yield _word(row)


def _follows(row: list[Unit], unit: Unit) -> bool:
    kind, frame, with_it = row[-1]
    if kind == "-" or (kind, with_it) != (unit[0], unit[2]) or (kind != "h" and with_it != 1):
        return False
    step = unit[1] - frame
    return abs(step) == (2 if kind == "p" else 1) and (len(row) == 1 or step == frame - row[-2][1])


def _word(row: list[Unit]) -> str:
    kind, first, with_it = row[0]
    if kind == "-":
        return f"-*{with_it}"
    text = f"{kind}{first:x}" if len(row) == 1 else f"{kind}{first:x}-{row[-1][1]:x}"
    if kind == "h":
        return f"{text}:{with_it:x}"
    return f"{text}*{with_it}" if with_it > 1 else text


def unpack_entries(words: list[str]) -> list[int]:
    """The entries. ValueError for a word that is none."""
    out: list[int] = []
    for word in words:
        found = _ENTRY.fullmatch(word)
        if found is None:
            raise ValueError(f"{word!r} is no page table entry; expected one like w1a0-1a7, r99*7, -*64 or h1a0-1b7:99")
        kind, first, last, times, absent, head, to, tail, pair, end = found.groups()
        if head is not None:
            shared = [int(tail, 16) * 2] * TAILS
            for frame in _between(int(head, 16), int(to or head, 16)):
                out.append(frame * 2 + 1)
                out += shared
        elif pair is not None:
            for frame in _between(int(pair, 16), int(end or pair, 16))[::2]:
                out += [frame * 2 + 1, *[frame * 2 + 3] * TAILS]
        elif kind is None:
            out += [-1] * min(int(absent or 1), MOST)
        elif times is not None:
            out += [int(first, 16) * 2 + (kind == "w")] * min(int(times), MOST)
        else:
            out += [frame * 2 + (kind == "w") for frame in _between(int(first, 16), int(last or first, 16))]
    return out


def _between(first: int, last: int) -> range:
    """From `first` to `last`, both included."""
    if abs(last - first) >= MOST:
        raise ValueError(f"{first:x}-{last:x} is too long a range")
    return range(first, last + 1) if first <= last else range(first, last - 1, -1)


def pack_folios(folios: dict[int, HugeFolio], order: int) -> str:
    """The huge pages of one order as words."""
    mine = {pfn: folio for pfn, folio in folios.items() if folio.order == order}
    return " | ".join(" ".join(_list_words([mine[pfn] for pfn in row], mine)) for row in list_order(mine))


def _list_words(row: list[HugeFolio], mine: dict[int, HugeFolio]) -> Iterator[str]:
    for (free, optimized, cma, count), same in groupby(row, lambda f: (f.free, f.optimized, f.cma, f.refcount)):
        flags = f"{'f' if free else 'u'}{'o' if optimized else '-'}{'c' if cma else ''}{count}"
        yield f"{flags}:{','.join(_ranges([f.pfn >> f.order for f in same]))}"
    after = row[-1].next
    if after is not None:
        yield f">{after:x}"


def _ranges(numbers: list[int]) -> Iterator[str]:
    """Numbers in this order, those that follow one another up or down as a range."""
    at = 0
    while at < len(numbers):
        end = at + 1
        step = numbers[end] - numbers[at] if end < len(numbers) else 0
        if abs(step) == 1:
            while end + 1 < len(numbers) and numbers[end + 1] - numbers[end] == step:
                end += 1
            yield f"{numbers[at]}-{numbers[end]}"
            at = end + 1
        else:
            yield str(numbers[at])
            at = end


def unpack_folios(words: list[str], order: int) -> dict[int, HugeFolio]:
    """The huge pages. ValueError for a word that is none."""
    out: dict[int, HugeFolio] = {}
    row: list[HugeFolio] = []

    def end(after: int | None) -> None:
        for folio, follower in zip(row, [*(f.pfn for f in row[1:]), after], strict=False):
            out[folio.pfn] = folio._replace(next=follower)
        row.clear()

    for word in words:
        if word == "|":
            end(None)
        elif re.fullmatch(r">[0-9a-f]+", word) and row:
            end(int(word[1:], 16))
        elif found := _PAGES.fullmatch(word):
            use, optimized, cma, count, ranges = found.groups()
            like = HugeFolio(0, order, optimized == "o", use == "f", int(count), None, bool(cma))
            for text in ranges.split(","):
                first, _, last = text.partition("-")
                row += [like._replace(pfn=n << order) for n in _between(int(first), int(last or first))]
        else:
            raise ValueError(f"{word!r} is no huge page; expected words such as fo0:104-127,130 or u-1:7")
    end(None)
    return out
