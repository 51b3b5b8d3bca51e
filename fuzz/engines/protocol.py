"""What an engine is: it makes programs, runs them on the pair, and hands over what differed.

An engine is driven in slices, so that one loop can run several, draw a live line and stop on Ctrl-C:

    engine.start()
    try:
        while engine.running and time is left:
            for discovery in engine.advance(0.25, programs_left): ...
    finally:
        engine.stop()

Duties: `advance` works for about the given seconds, runs at most the given number of programs, and returns each new
difference once; feedback (what to try next) is the engine's own matter; `statistics` is current after every `advance`.
`stop` leaves no process behind and may be called twice.

Engines share a corpus through `feed`, which offers programs that were worth keeping to whoever drives the engine. An
engine without feedback lets them go. The oracle and the minimizer are shared by construction: an engine runs programs
with `fuzz.execute`, and hands differences over as it met them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from fuzz.engines.statistics import Statistics
from fuzz.oracle.finding import Finding
from fuzz.program.model import Program


class EngineError(Exception):
    """An engine cannot start, or broke down: one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """A program on which the two models differ, as the engine found it: not verified, not minimized."""

    program: Program
    finding: Finding
    engine: str


class Engine(Protocol):
    """One source of programs; see the module's text for the duties."""

    name: str
    statistics: Statistics
    background: bool
    """Whether the work is done by another process, so that `advance` only waits and looks."""

    @property
    def running(self) -> bool:
        """Whether `advance` can still bring something."""

    def start(self) -> None:
        """Get ready; raises EngineError if this engine cannot work here."""

    def advance(self, seconds: float, programs: int | None = None) -> list[Discovery]:
        """Work for about `seconds`, on at most `programs` programs; what was found."""

    def feed(self, programs: Iterable[Program]) -> None:
        """Take programs of the shared corpus into account."""

    def stop(self) -> list[Discovery]:
        """End what `start` began; what was found since the last `advance`."""


class Memoryless:
    """The part of the protocol that is the same for engines in this process which learn nothing from what they ran."""

    background = False

    @property
    def running(self) -> bool:
        """It never runs out."""
        return True

    def start(self) -> None:
        """Nothing to prepare."""

    def feed(self, programs: Iterable[Program]) -> None:
        """Nothing to learn."""

    def stop(self) -> list[Discovery]:
        """Nothing to end."""
        return []
