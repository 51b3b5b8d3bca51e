"""The ledger of intended differences, read from ledger.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fuzz.oracle.finding import Layer


@dataclass(frozen=True, slots=True)
class Clause:
    """One intended difference."""

    id: str
    promise: str
    source: str
    profiles: tuple[str, ...]
    layer: Layer
    rule: str
    """Function that computes what is expected."""
    expires: str
    finding: str = ""
    """The page about the defect, if this is an open finding and not an intended difference."""
    reference: str = ""
    """The older reference that it is about; empty where it holds whichever the reference is."""
    terminal: bool = False
    """It explains why the two sides part for good; the program ends there."""


@cache
def ledger() -> dict[str, Clause]:
    """All clauses by id."""
    text = resources.files("fuzz.oracle").joinpath("ledger.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text).items()
    return {name: Clause(id=name, **{**entry, "profiles": tuple(entry["profiles"])}) for name, entry in entries}


def clauses(profile: str, reference: str = "v7.3") -> frozenset[str]:
    """Ids of the clauses that hold in `profile` with that reference."""
    return frozenset(c.id for c in ledger().values() if profile in c.profiles and c.reference in ("", reference))
