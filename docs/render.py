"""Writes docs/command-line.md from the program's own help; a test compares the two. Run it after changing an option."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("command-line.md")
COMMANDS = (
    *(
        (name,)
        for name in (
            "run",
            "explore",
            "smoke",
            "replay",
            "minimize",
            "fmt",
            "explain",
            "export",
            "bisect",
            "serve",
            "report",
            "boot-cost",
            "sweep",
            "coverage",
            "promises",
            "zoo",
            "mutants",
        )
    ),
    *(("corpus", name) for name in ("stats", "merge", "minimize", "import", "export", "pack")),
    *(("live", name) for name in ("conform", "run", "diff", "kernels")),
)


def help_of(*command: str) -> str:
    """The help text of a command, 100 columns wide."""
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    words = [sys.executable, "-m", "fuzz.cli", *command, "--help"]
    out = subprocess.run(words, capture_output=True, text=True, check=True, env=environment, cwd=PAGE.parent.parent)
    return "\n".join(line.rstrip() for line in out.stdout.strip().splitlines())


def page() -> str:
    """The whole page."""
    parts = [
        "# Command line",
        "Written by `docs/render.py` from the program's own help; a test keeps the two equal.",
        f"## vmemmap-fuzz\n\n```\n{help_of()}\n```",
    ]
    parts += [f"## vmemmap-fuzz {' '.join(command)}\n\n```\n{help_of(*command)}\n```" for command in COMMANDS]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
