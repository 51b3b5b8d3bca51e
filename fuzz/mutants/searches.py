"""Small exhaustive searches (`fuzz.engines.explore`), which alone run the canonical form of a pair.

A form that is too coarse merges states that differ, one that is too fine goes on with states that are equal: either way
the search counts other states.
"""

from __future__ import annotations

from typing import Final

from fuzz.engines.explore import Explore
from fuzz.engines.universe import UNIVERSES

SEARCHES: Final = {"explore all": 2, "explore pool": 3, "explore memory": 2, "explore devices": 2}
"""Universe -> operations after the boot."""


def counts(name: str) -> tuple[int, ...]:
    """States, transitions that led to known ones, all transitions, and findings of a search."""
    search = Explore(universe=UNIVERSES[name.removeprefix("explore ")], max_ops=SEARCHES[name])
    while search.running:
        search.advance(60.0)
    return search.states, search.merged, search.transitions, len(search.findings)
