"""Lines of JSON that are only ever added: what happened, and the statistics over time.

A process killed in the middle of a line leaves a torn one; it is passed over when the file is read, and the next writer
begins a line of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """One file of lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, entry: dict[str, Any], *, sync: bool = False) -> None:
        """Add a line; raises OSError. What a failed write left behind is a torn line like any other."""
        data = json.dumps(entry).encode() + b"\n"
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            end = os.lseek(file, 0, os.SEEK_END)
            if end and os.pread(file, 1, end - 1) != b"\n":
                data = b"\n" + data
            written = os.write(file, data)
            if written != len(data):
                raise OSError(28, "No space left on device", str(self.path))  # a short write is how a full disk begins
            if sync:
                os.fsync(file)
        finally:
            os.close(file)

    def lines(self) -> Iterator[dict[str, Any]]:
        """The whole lines, in order."""
        try:
            with self.path.open("rb") as file:
                for line in file:
                    try:
                        entry = json.loads(line)
                    except ValueError:
                        continue
                    if isinstance(entry, dict):
                        yield entry
        except FileNotFoundError:
            return
