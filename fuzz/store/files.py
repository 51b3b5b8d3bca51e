"""Content-addressed files: programs of the corpus, records of findings.

    corpus/ab/abcd....vmm     a program in canonical text, named by its SHA-256
    findings/abcd....json     a record, named by the SHA-256 of its text
    corrupt/                  files whose content is not what their name says

A record is never changed. A finding goes through stages, each a record of its own:

    found       what an engine handed over: `program`, `finding`, `engine`
    report      the same, minimized and run again: names its `found` record in `of`
    quarantine  a program that ended or hung the process it ran in, twice: `kind` is "death" or "hang"

So a `found` record without a `report` is work that is left to do, whoever wrote it, and whenever.

Nothing is deleted, and equal content has equal names: `merge` copies what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fuzz.program.errors import ProgramError
from fuzz.program.model import Program
from fuzz.program.text import format as format_program
from fuzz.program.text import parse

PART: Final = ".part-"
"""Prefix of a file that is being written."""

FOUND: Final = "found"
REPORT: Final = "report"
QUARANTINE: Final = "quarantine"

Record = dict[str, Any]


def put(path: Path, data: bytes, *, sync: bool = False, beside: Path | None = None) -> None:
    """Write a file so that it is there whole or not at all; with `sync`, so that it also survives a power cut.

    `beside`: the folder of the same file system that it is written in first, if not its own.
    """
    part = (beside or path.parent) / f"{PART}{os.getpid()}-{path.name}"
    try:
        with part.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if sync:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def whole(paths: Iterable[Path]) -> list[Path]:
    """Files in order, without those that another process is writing, or was writing when it was killed."""
    return sorted(path for path in paths if not path.name.startswith(PART))


def digest_of(text: str) -> str:
    """The name of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Corrupt:
    """A file that does not hold what its name says, and where it was put."""

    path: Path
    why: str


class Store:
    """The corpus and the findings below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.corpus = root / "corpus"
        self.findings = root / "findings"
        self.corrupt: list[Corrupt] = []
        """Files found to be corrupt, and set aside, so far."""

    def make(self) -> None:
        """Make the folders; remove what was being written when a process was killed."""
        self.corpus.mkdir(parents=True, exist_ok=True)
        self.findings.mkdir(exist_ok=True)
        for part in (*self.corpus.rglob(f"{PART}*"), *self.findings.glob(f"{PART}*")):
            part.unlink(missing_ok=True)

    # -- programs ---------------------------------------------------------------------------------------------------

    def path_of(self, digest: str) -> Path:
        """Where a program lies."""
        return self.corpus / digest[:2] / f"{digest}.vmm"

    def add_program(self, program: Program | str) -> tuple[str, bool]:
        """Keep a program, given as such or as canonical text; its name, and whether it was new."""
        text = program if isinstance(program, str) else format_program(program.bare())
        digest = digest_of(text)
        path = self.path_of(digest)
        if path.exists():
            return digest, False
        # Made in one folder and moved: ext4 spreads folders over the disk, and to make a file in one that holds few
        # takes three times as long as to make it where the last one was made.
        try:
            put(path, text.encode(), beside=self.corpus)
        except FileNotFoundError:  # the first of its folder
            path.parent.mkdir(parents=True, exist_ok=True)
            put(path, text.encode(), beside=self.corpus)
        return digest, True

    def digests(self) -> set[str]:
        """Names of all programs, unread."""
        return {path.stem for path in whole(self.corpus.rglob("*.vmm"))}

    def programs(self) -> Iterator[tuple[str, str]]:
        """Name and text of every program, by name; a corrupt file is set aside and not given."""
        for path in whole(self.corpus.rglob("*.vmm")):
            text = self._read(path)
            if text is not None:
                yield path.stem, text

    def remove_program(self, digest: str) -> None:
        """Drop a program that others stand for."""
        self.path_of(digest).unlink(missing_ok=True)

    # -- findings ---------------------------------------------------------------------------------------------------

    def add_record(self, record: Record) -> str:
        """Keep a record for good, power cuts included; its name."""
        text = json.dumps(record, sort_keys=True, indent=1) + "\n"
        digest = digest_of(text)
        path = self.findings / f"{digest}.json"
        if not path.exists():
            put(path, text.encode(), sync=True)
        return digest

    def records(self) -> dict[str, Record]:
        """All records by name; a corrupt file is set aside and not given."""
        out: dict[str, Record] = {}
        for path in whole(self.findings.glob("*.json")):
            text = self._read(path)
            if text is not None:
                out[path.stem] = json.loads(text)
        return out

    # -- both -------------------------------------------------------------------------------------------------------

    def _read(self, path: Path) -> str | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None  # somebody tidied up meanwhile
        except OSError as error:
            self.corrupt.append(Corrupt(path, f"cannot be read: {error.strerror}"))
            return None
        if hashlib.sha256(data).hexdigest() == path.stem:
            return data.decode()
        self.set_aside(path, f"{len(data)} bytes that are not those its name stands for")
        return None

    def set_aside(self, path: Path, why: str) -> None:
        """Move a file that is no good out of the way, for whoever wants to look at it."""
        place = self.root / "corrupt" / path.name
        try:
            place.parent.mkdir(exist_ok=True)
            path.replace(place)
        except OSError:
            place = path
        self.corrupt.append(Corrupt(place, why))

    def merge(self, other: Store) -> tuple[int, int]:
        """Take over what another store has and this one has not: numbers of programs and records."""
        programs = sum(self.add_program(text)[1] for _, text in other.programs())
        mine = {path.stem for path in whole(self.findings.glob("*.json"))}
        theirs = other.records()
        for digest, record in theirs.items():
            if digest not in mine:
                self.add_record(record)
        return programs, len(theirs.keys() - mine)


def canonical(data: bytes, name: str) -> Program:
    """A program from somebody else's file, comments dropped; raises ProgramError, which names the file."""
    try:
        return parse(data, name).bare()
    except UnicodeDecodeError:
        raise ProgramError(name, 0, 0, "", "this is no text", "a .vmm program") from None


def pending(records: dict[str, Record]) -> dict[str, Record]:
    """`found` records that no report stands for yet, by name."""
    done = {record.get("of") for record in records.values() if record["stage"] == REPORT}
    return {name: record for name, record in records.items() if record["stage"] == FOUND and name not in done}
