"""Keeping what a kernel said: a program and its answers, two files of one name, in a folder.

Worker processes write side by side; names are theirs alone. The answers are there before the program is, each in one
piece, so that whoever finds a program finds its answers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from fuzz import program as language
from fuzz.program.model import Program
from live.answers import SUFFIX, Answer, Answers, digest, format_answers, parse_answers
from live.errors import LiveError
from live.pagetable import decode
from live.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Recorder:
    """Where answers go, and what is said about how they were made."""

    folder: Path
    made: str
    """The command, such as `live conform --seed 7`."""
    accel: str
    names: dict[str, str] = field(default_factory=dict)
    """Digest of a program from a file -> name of that file."""

    def prepare(self) -> None:
        """Make the folder. LiveError if nothing can be written there."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LiveError(f"{self.folder}: {error.strerror}") from None
        if not os.access(self.folder, os.W_OK):
            raise LiveError(f"{self.folder}: nothing can be written there")

    def keep(self, name: str, program: Program, release: str, answers: list[Answer]) -> None:
        """Write down what a kernel said after the boot and after the operations that it answered."""
        if any(op.name == "fail alloc" for op in program.ops):
            return  # which allocation failed is a number of the model's, and the kernel was told another
        program = Program(program.machine, program.ops[: answers[-1].at + 1])
        made = f"{self.made} (program {name}, {self.accel})"
        text = format_answers(Answers(release, made, digest(program), tuple(answers)))
        lost = _lost(answers, parse_answers(text).steps)
        if lost is not None:
            raise RuntimeError(f"the answers to program {name} cannot be written down: step {lost}")
        self._write(f"{name}{SUFFIX}", text)
        self._write(f"{name}.vmm", language.format(program))

    def _write(self, name: str, text: str) -> None:
        part = self.folder / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(self.folder / name)


def _lost(said: list[Answer], kept: tuple[Answer, ...]) -> int | None:
    """The first step that is not the same in the text."""
    for mine, its in zip(said, kept, strict=True):
        if (mine.at, mine.name, mine.returned, mine.deviation) != its[:3] + its[4:] or _plain(mine.seen) != _plain(
            its.seen
        ):
            return mine.at
    return None


def _plain(seen: Snapshot) -> tuple[object, ...]:
    """What a snapshot says, without the bits of page table entries that nobody looks at."""
    mapping = {section: decode(e) if isinstance(e, bytes) else e for section, e in seen.mapping.items()}
    numbers = (seen.nr_memmap, seen.nr_memmap_boot, seen.nr_page_table_pages, seen.managed, seen.poisoned, seen.free)
    log = [line.strip() for line in seen.complaints]
    return *numbers, seen.pools, seen.blocks, seen.folios, mapping, log
