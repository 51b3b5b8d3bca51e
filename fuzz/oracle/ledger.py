"""The ledger of intended differences, read from ledger.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from fuzz.oracle.finding import LAYERS, Layer

PROFILES: Final = ("posted", "merged")
REFERENCES: Final = ("v7.3", "v7.0-base")


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
    """All clauses by id. A malformed file is a ValueError that names the clause."""
    text = resources.files("fuzz.oracle").joinpath("ledger.toml").read_text(encoding="utf-8")
    out = {}
    for name, entry in tomllib.loads(text).items():
        try:
            clause = Clause(id=name, **{**entry, "profiles": tuple(entry["profiles"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"ledger.toml, clause {name}: {error}") from error
        if clause.layer not in LAYERS:
            raise ValueError(f"ledger.toml, clause {name}: no layer {clause.layer!r}")
        unknown = set(clause.profiles) - set(PROFILES)
        if unknown or not clause.profiles:
            raise ValueError(f"ledger.toml, clause {name}: profiles {sorted(unknown) or 'are missing'}")
        if clause.reference not in ("", *REFERENCES):
            raise ValueError(f"ledger.toml, clause {name}: no reference {clause.reference!r}")
        out[name] = clause
    return out


def clauses(profile: str, reference: str = "v7.3") -> frozenset[str]:
    """Ids of the clauses that hold in `profile` with that reference."""
    return frozenset(c.id for c in ledger().values() if profile in c.profiles and c.reference in ("", reference))
