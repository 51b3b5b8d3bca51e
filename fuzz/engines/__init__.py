"""Engines: sources of programs behind one protocol, `fuzz.engines.protocol`.

`uniform` draws programs against the live state of the reference and is the default; `guided` is a novelty search on
top of the same generator; `libfuzzer` follows branch coverage, in a process of its own; `stateful` is Hypothesis' view
of the same pair. `explore` is exhaustive where the others sample; it has a command of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fuzz.engines.protocol import Engine
    from fuzz.execute import Profile

NAMES: Final = ("uniform", "swarm", "guided", "libfuzzer", "stateful")
"""What `make` knows: `swarm` is `uniform` with a random subset of the operations in each program."""

DEFAULT: Final = "uniform"
"""The engine of `run` where none is named, and of all that checks whether bugs are found (docs/decisions/0008)."""


def make(name: str, seed: int, profile: Profile) -> Engine:
    """An engine by name, imported only now: one run needs one of them."""
    if name == "libfuzzer":
        from fuzz.engines.libfuzzer import LibFuzzer

        return LibFuzzer(seed, profile)
    if name == "guided":
        from fuzz.engines.guided import Guided

        return Guided(seed, profile)
    if name == "stateful":
        from fuzz.engines.stateful import Stateful

        return Stateful(seed, profile)
    from fuzz.engines.uniform import Uniform

    return Uniform(seed, profile, swarm=name == "swarm")
