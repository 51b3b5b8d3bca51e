"""Files through which the libFuzzer process hands its results over; each appears whole, by rename.

- `stats.json`: `Statistics`, about twice a second.
- `finding-N.json`: a discovery.
- `coverage-N.json`: what `Coverage.drain` gave.
- `stop`: made by the parent, to ask for an end.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Final

from fuzz.engines.protocol import Discovery
from fuzz.oracle.finding import Finding
from fuzz.program.text import format as format_program
from fuzz.program.text import parse

STATS: Final = "stats.json"
STOP: Final = "stop"


def put(path: Path, data: dict[str, Any]) -> None:
    """Write JSON so that a reader sees all of it or nothing."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(data))
    part.replace(path)


def discovery_to_json(discovery: Discovery) -> dict[str, Any]:
    """A discovery as plain JSON values."""
    return {
        "program": format_program(discovery.program),
        "finding": dataclasses.asdict(discovery.finding),
        "engine": discovery.engine,
    }


def discovery_from_json(data: dict[str, Any]) -> Discovery:
    """The inverse of `discovery_to_json`."""
    found = data["finding"]
    found["outcomes"] = tuple(found["outcomes"])
    return Discovery(parse(data["program"]), Finding(**found), data["engine"])
