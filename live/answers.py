"""Recorded answers: what a real kernel said after each operation of a program, as text beside the program.

    vmm-answers 1
    kernel 7.3.4+deb14-amd64
    made live conform --seed 7 (program 12, tcg)
    program 0123456789abcdef
    step 1 returned 0: boot
    counters nr_memmap=0 nr_memmap_boot=16384 ...
    ...
    step 2 returned 0: hugetlb resize
    pool 2M nr=3 free=3
    end

A step tells only what differs from the step before. `live.compact` has the words for page tables and huge pages; frame
numbers are the kernel's. The program is named by a digest of its canonical text, so that answers never meet another
program than theirs.
"""

from __future__ import annotations

import array
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from fuzz import program as language
from fuzz.program.model import Program
from live.compact import pack_entries, pack_folios, unpack_entries, unpack_folios
from live.errors import LiveError
from live.pagetable import PTRS, Entry, Leaf, decode
from live.snapshot import Pool, Snapshot

FORMAT: Final = 1
SUFFIX: Final = ".answers"
HEAD: Final = ("vmm-answers", "kernel", "made", "program")
"""First words of the lines before the first step, in order."""
SIZES: Final = {9: "2M", 18: "1G"}
ORDERS: Final = {size: order for order, size in SIZES.items()}
COUNTERS: Final = ("nr_memmap", "nr_memmap_boot", "nr_page_table_pages", "managed", "poisoned")
POOL_LISTS: Final = ("nr", "free", "surplus")
POOL_NUMBERS: Final = ("resv", "overcommit")


class AnswersError(LiveError):
    """A file holds no usable answers: file, line, what is wrong."""


class Answer(NamedTuple):
    """What the kernel said after one operation."""

    at: int
    """Number of the operation in the program, from 0."""
    name: str
    returned: int
    seen: Snapshot
    deviation: str = ""
    """A known deviation of the kernel that has left its state undefined; the program ends here."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to one program, those right after the boot first."""

    kernel: str
    """Release, as uname says it."""
    made: str
    """How to make them again."""
    program: str
    """Digest of the program."""
    steps: tuple[Answer, ...]


def digest(program: Program) -> str:
    """Names a program, comments apart."""
    return hashlib.sha256(language.format(program.bare()).encode()).hexdigest()[:16]


# -- writing ----------------------------------------------------------------------------------------------------------


def format_answers(answers: Answers) -> str:
    """The text."""
    lines = [f"vmm-answers {FORMAT}", f"kernel {answers.kernel}", f"made {answers.made}", f"program {answers.program}"]
    before = Snapshot()
    for step in answers.steps:
        lines.append(f"step {step.at} returned {step.returned}: {step.name}")
        lines += _changes(before, step.seen)
        if step.deviation:
            lines.append(f"deviation {step.deviation}")
        before = step.seen
    return "\n".join([*lines, "end"]) + "\n"


def _changes(was: Snapshot, now: Snapshot) -> Iterator[str]:
    changed = [f"{name}={getattr(now, name)}" for name in COUNTERS if getattr(now, name) != getattr(was, name)]
    if changed:
        yield f"counters {' '.join(changed)}"
    if now.free != was.free:
        yield f"free {_numbers(now.free)}"
    for order, size in SIZES.items():
        if order in now.pools and (words := _pool(was.pools.get(order), now.pools[order])):
            yield f"pool {size} {words}"
    for order, size in SIZES.items():
        pages = pack_folios(now.folios, order)
        if pages != pack_folios(was.folios, order):
            yield f"pages {size} {pages}".rstrip()
    yield from _blocks(was.blocks, now.blocks)
    yield from _mapping(was.mapping, now.mapping)
    yield from (f"log {line.strip()}" for line in now.complaints)


def _numbers(values: list[int]) -> str:
    return ",".join(map(str, values))


def _pool(was: Pool | None, now: Pool) -> str:
    lists = [(name, _numbers(getattr(now, name)), was and _numbers(getattr(was, name))) for name in POOL_LISTS]
    numbers = [(name, str(getattr(now, name)), was and str(getattr(was, name))) for name in POOL_NUMBERS]
    return " ".join(f"{name}={new}" for name, new, old in (*lists, *numbers) if new != old)


def _blocks(was: dict[int, str], now: dict[int, str]) -> Iterator[str]:
    changed = [(b, now.get(b, "gone")) for b in sorted(was.keys() | now.keys()) if was.get(b) != now.get(b)]
    for first, last, state in _rows(changed):
        yield f"block {_range(first, last)} {state}"


def _rows(items: list[tuple[int, str]]) -> Iterator[tuple[int, int, str]]:
    """Equal values of neighbours as (first, last, value)."""
    at = 0
    while at < len(items):
        end = at
        while end + 1 < len(items) and items[end + 1] == (items[end][0] + 1, items[at][1]):
            end += 1
        yield items[at][0], items[end][0], items[at][1]
        at = end + 1


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _mapping(was: dict[int, Entry], now: dict[int, Entry]) -> Iterator[str]:
    rows: list[tuple[int, str]] = []
    leaves: list[tuple[int, Leaf]] = []
    for section in sorted(was.keys() | now.keys()):
        old, new = was.get(section), now.get(section)
        if old == new:
            continue
        if new is None:
            rows.append((section, "none"))
        elif isinstance(new, Leaf):
            leaves.append((section, new))
        else:
            rows += [(section, text) for text in _patches(decode(old) if isinstance(old, bytes) else None, decode(new))]
    yield from _leaves(leaves)
    for first, last, text in _rows(rows):
        yield f"map {_range(first, last)} {text}"


def _leaves(leaves: list[tuple[int, Leaf]]) -> Iterator[str]:
    """Lines for leaves, neighbours with neighbouring frames together."""
    while leaves:
        (first, leaf), n = leaves[0], 1
        step = leaves[1][1].frame - leaf.frame if len(leaves) > 1 else 0
        if abs(step) == PTRS:
            while n < len(leaves) and leaves[n] == (first + n, Leaf(leaf.frame + n * step, leaf.writable)):
                n += 1
        last = leaves[n - 1]
        frames = f"{leaf.frame:x}" if n == 1 else f"{leaf.frame:x}-{last[1].frame:x}"
        yield f"map {_range(first, last[0])} leaf{'' if leaf.writable else '-ro'} {frames}"
        leaves = leaves[n:]


def _patches(was: tuple[int, ...] | None, now: tuple[int, ...]) -> Iterator[str]:
    """What changed in a table; all of it if it was none."""
    if was is None:
        yield f"0 {pack_entries(now)}"
        return
    at = 0
    while at < PTRS:
        if was[at] == now[at]:
            at += 1
            continue
        end = at + 1
        while end < PTRS and was[end] != now[end]:
            end += 1
        yield f"{at} {pack_entries(now[at:end])}"
        at = end


# -- reading ----------------------------------------------------------------------------------------------------------


def read_answers(path: Path, program: Program | None = None, kernel: str = "") -> Answers:
    """The answers in a file. AnswersError, which names file and line, for one that holds none, or not those of this
    program and of a kernel of this line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise AnswersError(f"{path}: no text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise AnswersError(f"{path}: {error.strerror}") from None
    return parse_answers(text, str(path), program, kernel)


def parse_answers(text: str, file: str = "<answers>", program: Program | None = None, kernel: str = "") -> Answers:
    """The answers in a text; AnswersError names `file` and the line."""
    reader = _Reader(program, kernel)
    number = 1
    try:
        for line in text.splitlines():
            reader.line(line)
            number += 1
        if not reader.ended:
            raise ValueError("the file is cut off; expected a line `end`")
    except ValueError as error:
        raise AnswersError(f"{file}:{number}: {error}") from None
    head = reader.head
    return Answers(head["kernel"], head["made"], head["program"], tuple(reader.steps))


class _Reader:
    """Reads line after line."""

    def __init__(self, program: Program | None, kernel: str) -> None:
        self.program = program
        self.kernel = kernel
        self.head: dict[str, str] = {}
        self.steps: list[Answer] = []
        self.ended = False
        self._tables: dict[int, list[int]] = {}
        """Decoded tables of the last snapshot, by section."""
        self._lines: dict[str, Callable[[Snapshot, list[str]], None]] = {
            "counters": self._counters,
            "free": self._free,
            "pool": self._pool,
            "pages": self._pages,
            "block": self._block,
            "map": self._map,
        }

    def line(self, line: str) -> None:
        """Take a line. ValueError if it does not belong there."""
        word, _, rest = line.partition(" ")
        if self.ended:
            raise ValueError("nothing may follow the line `end`")
        if len(self.head) < len(HEAD):
            self._heading(word, rest)
        elif word == "step":
            self._step(rest)
        elif word == "end" and not rest and self.steps:
            self._end()
        elif not self.steps:
            raise ValueError(f"{word!r} before the first step")
        elif word == "log":
            self.steps[-1].seen.complaints.append(rest)
        elif word == "deviation":
            self.steps[-1] = self.steps[-1]._replace(deviation=rest)
        elif word in self._lines:
            self._lines[word](self.steps[-1].seen, rest.split())
        else:
            raise ValueError(f"{word!r} is no answer; expected {', '.join(self._lines)}, log, deviation, step or end")

    def _end(self) -> None:
        if self.program is not None and self.steps[-1].at + 1 != len(self.program.ops):
            raise ValueError(f"no answer to operation {self.steps[-1].at + 1} of {len(self.program.ops)}")
        self.ended = True

    def _heading(self, word: str, rest: str) -> None:
        wanted = HEAD[len(self.head)]
        if word != wanted or not rest:
            raise ValueError(f"expected a line `{wanted} ...`")
        if word == "vmm-answers" and rest != str(FORMAT):
            newer = f", which is newer than this program ({FORMAT})" if rest.isdecimal() else ""
            raise ValueError(f"answers of format {rest}{newer}; expected format {FORMAT}")
        if word == "kernel" and self.kernel and rest.split(".")[:2] != self.kernel.split("."):
            raise ValueError(f"answers of Linux {rest}; the reference models Linux {self.kernel}")
        if word == "program" and self.program is not None and rest != digest(self.program):
            raise ValueError(f"answers to program {rest}, but the program is {digest(self.program)}: it was changed")
        self.head[word] = rest

    def _step(self, rest: str) -> None:
        words, colon, name = rest.partition(": ")
        at, returned, rc = words.split() if words.count(" ") == 2 else ("", "", "")
        if returned != "returned" or not colon:
            raise ValueError("expected `step NUMBER returned NUMBER: OPERATION`")
        was = self.steps[-1].seen if self.steps else Snapshot()
        if self.steps and int(at) != self.steps[-1].at + 1:
            raise ValueError(f"step {at} after step {self.steps[-1].at}")
        if self.program is not None:
            ops = self.program.ops
            wanted = ops[int(at)].name if int(at) < len(ops) else "nothing"
            if wanted != name:
                raise ValueError(f"operation {at} of the program is {wanted}, not {name}")
        self.steps.append(Answer(int(at), name, int(rc), replace(was, complaints=[])))

    def _counters(self, seen: Snapshot, words: list[str]) -> None:
        for word in words:
            name, _, value = word.partition("=")
            if name not in COUNTERS:
                raise ValueError(f"{name!r} is no counter; expected {', '.join(COUNTERS)}")
            setattr(seen, name, int(value))

    def _free(self, seen: Snapshot, words: list[str]) -> None:
        seen.free = _list(words[0] if len(words) == 1 else "")

    def _pool(self, seen: Snapshot, words: list[str]) -> None:
        order = _order(words)
        pool = replace(seen.pools.get(order, Pool([], [], [], 0, 0)))
        for word in words[1:]:
            name, _, value = word.partition("=")
            if name in POOL_LISTS:
                setattr(pool, name, _list(value))
            elif name in POOL_NUMBERS:
                setattr(pool, name, int(value))
            else:
                raise ValueError(f"{name!r} is no counter of a pool; expected {', '.join(POOL_LISTS + POOL_NUMBERS)}")
        seen.pools = {**seen.pools, order: pool}

    def _pages(self, seen: Snapshot, words: list[str]) -> None:
        order = _order(words)
        others = {pfn: folio for pfn, folio in seen.folios.items() if folio.order != order}
        seen.folios = dict(sorted({**others, **unpack_folios(words[1:], order)}.items()))

    def _block(self, seen: Snapshot, words: list[str]) -> None:
        if len(words) < 2:
            raise ValueError("expected `block NUMBER STATE`")
        blocks, state = dict(seen.blocks), " ".join(words[1:])
        for block in _span(words[0]):
            if state == "gone":
                blocks.pop(block, None)
            else:
                blocks[block] = state
        seen.blocks = dict(sorted(blocks.items()))

    def _map(self, seen: Snapshot, words: list[str]) -> None:
        if len(words) < 2:
            raise ValueError("expected `map SECTION none`, `map SECTION leaf FRAME` or `map SECTION PLACE ENTRY...`")
        mapping = dict(seen.mapping)
        span, what = _span(words[0]), words[1]
        if what == "none":
            for section in span:
                mapping.pop(section, None)
                self._tables.pop(section, None)
        elif what in ("leaf", "leaf-ro"):
            first, _, last = (words[2] if len(words) == 3 else "").partition("-")
            frame, step = int(first, 16), -PTRS if int(last or first, 16) < int(first, 16) else PTRS
            if int(last or first, 16) != frame + step * (len(span) - 1):
                raise ValueError(f"{words[2]} does not give frames of {len(span)} leaves of {PTRS} each")
            for i, section in enumerate(span):
                mapping[section] = Leaf(frame + i * step, what == "leaf")
                self._tables.pop(section, None)
        else:
            entries, at = unpack_entries(words[2:]), int(what)
            for section in span:
                mapping[section] = self._patched(section, at, entries)
        seen.mapping = dict(sorted(mapping.items()))

    def _patched(self, section: int, at: int, entries: list[int]) -> bytes:
        """The table of a section with some entries changed; a section without one must get all of them."""
        was = self._tables.get(section)
        if at < 0 or at + len(entries) > PTRS or (was is None and len(entries) != PTRS):
            raise ValueError(f"{len(entries)} entries from {at} on do not make a table of {PTRS}")
        table = entries if was is None else [*was[:at], *entries, *was[at + len(entries) :]]
        self._tables[section] = table
        return array.array("Q", [0 if pte < 0 else (pte >> 1) << 12 | (pte & 1) << 1 | 1 for pte in table]).tobytes()


def _order(words: list[str]) -> int:
    if not words or words[0] not in ORDERS:
        raise ValueError(f"expected a size of huge pages: {' or '.join(ORDERS)}")
    return ORDERS[words[0]]


def _list(text: str) -> list[int]:
    return [int(value) for value in text.split(",")]


def _span(text: str) -> range:
    first, _, last = text.partition("-")
    span = range(int(first), int(last or first) + 1)
    if len(span) > 1 << 20:
        raise ValueError(f"{text} is too long a range")
    return span
