"""What the tests of the dashboard look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fuzz.program.model import Program


@dataclass(frozen=True)
class Made:
    """A campaign with one finding."""

    folder: Path
    reports: Path
    record: str
    signature: str
    program: Program
