"""What a long run shows on stderr while it works."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Final, TextIO

PLAIN_EVERY: Final = 5.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """The live line: redrawn in place on a terminal, a new line every few seconds elsewhere. It goes to stderr."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.quiet = quiet
        self.last = monotonic()
        self.width = 0

    def show(self, text: str) -> None:
        """Draw the line if it is time."""
        now = monotonic()
        if self.quiet or (not self.live and now - self.last < PLAIN_EVERY):
            return
        self.last = now
        if self.live:
            # Blanks wipe what a longer line left behind; no escape codes, so that any terminal will do.
            self.stream.write(f"\r{text:<{self.width}}")
            self.width = len(text)
        else:
            self.stream.write(f"{text}\n")
        self.stream.flush()

    def say(self, text: str) -> None:
        """A lasting line, above the live one."""
        if not self.quiet:
            self.clear()
            self.stream.write(f"{text}\n")
            self.stream.flush()

    def clear(self) -> None:
        """Wipe the live line."""
        if self.live and self.width:
            self.stream.write(f"\r{'':<{self.width}}\r")
            self.stream.flush()
            self.width = 0
