"""Prints a dictionary for libFuzzer: the records of the operations in some programs, each once."""

from __future__ import annotations

import sys
from pathlib import Path

from fuzz.campaign.corpus import files_below
from fuzz.program.codec import WIDTH, encode
from fuzz.program.text import parse_file


def main() -> None:
    """Print it for the files and folders on the command line."""
    words: dict[bytes, str] = {}
    for path in files_below(map(Path, sys.argv[1:]), "*.vmm"):
        data = encode(parse_file(path))
        for start in range(WIDTH, len(data), WIDTH):
            words.setdefault(data[start : start + WIDTH], path.stem)
    for i, (word, where) in enumerate(words.items()):
        escaped = "".join(f"\\x{byte:02x}" for byte in word)
        print(f'# {where}\nrecord{i}="{escaped}"')


if __name__ == "__main__":
    main()
