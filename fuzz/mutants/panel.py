"""Faults that the oracle must see: mutants of the models, each with a program that shows it.

A weaker oracle gives no difference by itself: nobody notices it but by a fault that it no longer sees. The zoo is a
few dozen of these; the panel is some hundred mutants of the models, and some thousand faults that are planted into one
operation of a program (`fuzz.mutants.planted`). They are chosen by the seed, and few of them show the same thing.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import CodeType
from typing import Final

from fuzz.mutants.planted import Fault, Seen
from fuzz.mutants.sites import Mutant, function_of, modules, mutants, mutated_code
from fuzz.mutants.trials import Kill, Trial

MODELS: Final = ("reference", "candidate", "mm")
ALIKE: Final = 3
"""Mutants of the panel that show the same signature."""
PLANTED_ALIKE: Final = 2
"""Planted faults that do, and of which the same sentence is said."""


@dataclass(frozen=True, slots=True)
class Member:
    """A fault in a model."""

    mutant: Mutant
    code: CodeType
    trial: Trial
    """With the one program that shows it."""
    signature: str

    def look(self, seed: int) -> Kill | None:
        """Whether it is no longer seen, or seen as something else."""
        with spoiled(self.mutant, self.code):
            finding = next(self.trial.runs(seed))[2].finding
        if finding is None:
            return Kill("panel", f"{self.mutant.id} is not found", self.trial.name)
        if finding.signature != self.signature:
            return Kill("signature", f"{self.signature} is now {finding.signature}", self.trial.name)
        return None


def candidates(seed: int) -> list[Mutant]:
    """Mutants of the models, in the order in which they are tried."""
    found = [mutant for module in modules(MODELS) for mutant in mutants(module) if not mutant.records]
    Random(seed + 1).shuffle(found)
    return found


class Panel:
    """The faults that were found so far."""

    def __init__(self) -> None:
        self.members: list[Member | Seen] = []
        self._alike: Counter[str] = Counter()
        self._planted_alike: Counter[tuple[str, str]] = Counter()

    def offer(self, mutant: Mutant, kill: Kill, trials: dict[str, Trial], seed: int) -> None:
        """Take a fault that was found, if few show the same, and if it is found here as well."""
        trial, _, program = kill.where.partition(": ")
        if trial not in trials or self._alike[kill.what] >= ALIKE:
            return
        member = Member(mutant, mutated_code(mutant), trials[trial].only(program), kill.what)
        if member.look(seed) is None:
            self.members.append(member)
            self._alike[kill.what] += 1

    def plant(self, fault: Fault, signature: str, text: str, sentence: str) -> None:
        """Take a planted fault, if few show the same."""
        if self._planted_alike[signature, sentence] < PLANTED_ALIKE:
            self._planted_alike[signature, sentence] += 1
            self.members.append(Seen(fault, text, signature))


@contextmanager
def spoiled(mutant: Mutant, code: CodeType) -> Iterator[None]:
    """While the block runs, the function is the mutant."""
    function = function_of(mutant.module, mutant.function)
    was = function.__code__
    forget()
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = was
        forget()


def forget() -> None:
    """Empty the caches of the models: what they know is from other code."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in MODELS:
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
