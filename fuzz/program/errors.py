"""The error of a wrong `.vmm` file."""

from __future__ import annotations

_SHOWN = 160
"""Longest part of a source line that an error prints."""


class ProgramError(ValueError):
    """A file is not a program: where, why, and what was expected there.

    `str()` gives `file:line:col: message`, then the line and a caret under the place.
    """

    def __init__(self, file: str, line: int, column: int, source: str, message: str, expected: str = "") -> None:
        super().__init__(file, line, column, source, message, expected)
        self.file = file
        self.line = line
        """Counted from 1; 0 where no line is to blame."""
        self.column = column
        """Counted from 1."""
        self.source = source
        """The line as it is in the file."""
        self.message = message
        self.expected = expected

    def __str__(self) -> str:
        text = f"{self.message}; expected {self.expected}" if self.expected else self.message
        if not self.line:
            return f"{self.file}: {text}"
        head = f"{self.file}:{self.line}:{self.column}: {text}"
        if not self.source.strip():
            return head
        start = max(0, self.column - 1 - _SHOWN // 2) if len(self.source) > _SHOWN else 0
        shown = "".join(c if c.isprintable() else " " for c in self.source[start : start + _SHOWN])
        return f"{head}\n  {shown}\n  {' ' * (self.column - 1 - start)}^"
