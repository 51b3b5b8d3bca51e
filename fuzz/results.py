"""Results that survive any end: a file of JSON lines, appended to as they come, from which a run goes on.

The first line is a header that says what the results depend on. A run that finds its own header leaves out what is
there; one that finds another does not touch the file. A line that was cut by a kill is taken back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = ("mm", "reference", "candidate", "fuzz", "live", "zoo", "corpus")

T = TypeVar("T")


def sources() -> str:
    """A digest of this checkout's code and corpus."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".toml", ".vmm", ".answers"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Journal(Generic[T]):
    """The results file, or none; `done` has what is in it, by key."""

    def __init__(
        self,
        path: Path | None,
        head: dict[str, Any],
        load: Callable[[dict[str, Any]], T],
        dump: Callable[[T], dict[str, Any]],
        key: Callable[[T], Any],
    ) -> None:
        """ValueError if the file holds results of something else."""
        self.done: dict[Any, T] = {}
        self._dump, self._key = dump, key
        self._file = None
        if path is None:
            return
        if path.exists() and path.stat().st_size:
            lines = path.read_text(encoding="utf-8").split("\n")
            cut = lines.pop()  # empty, unless the writer was killed within a line
            try:
                first, *rest = (json.loads(line) for line in lines)
                same = first == head
                results = [load(entry) for entry in rest] if same else []
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: no results of this command: {error}") from None
            if not same:
                raise ValueError(
                    f"{path}: results of another checkout or budget: expected the first line to be {json.dumps(head)}"
                )
            self.done = {key(result): result for result in results}
            if cut:
                with path.open("r+b") as file:
                    file.truncate(path.stat().st_size - len(cut.encode()))
        self._file = path.open("a", encoding="utf-8", buffering=1)
        if not self._file.tell():
            self._file.write(json.dumps(head) + "\n")

    def put(self, result: T) -> None:
        """Note one result."""
        self.done[self._key(result)] = result
        if self._file is not None:
            self._file.write(json.dumps(self._dump(result)) + "\n")

    def close(self) -> None:
        """No more results."""
        if self._file is not None:
            self._file.close()
