"""A mutant and the sound function, by turns in one process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Final, TypeVar

from fuzz.mutants.panel import MODELS, forget
from fuzz.mutants.sites import Mutant, function_of, mutated_code

SLOW: Final = 2.0
"""CPU seconds after which a program is given up: a spoiled kernel may run in circles, which tells nothing about the
oracle."""
T = TypeVar("T")


class _SlowError(BaseException):
    """Not caught by what calls a model's own errors an outcome."""


class Turns:
    """Runs things with the one or the other. The mutant is planted before, and when it is over."""

    def __init__(self, mutant: Mutant, original: CodeType) -> None:
        self.mutant = mutant
        self.original = original
        self.mutated = mutated_code(mutant)
        self.function = function_of(mutant.module, mutant.function)
        self.forgets = mutant.module.partition(".")[0] in MODELS
        """Whether caches of the models may know results of the mutant."""

    @contextmanager
    def taken(self) -> Iterator[None]:
        """While the block runs, what takes too long is given up."""
        signal.signal(signal.SIGPROF, _slow)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            self.become(self.mutated)

    def become(self, code: CodeType) -> None:
        """From now on the function runs this."""
        if self.function.__code__ is not code:
            self.function.__code__ = code
            function_of(self.mutant.module, self.mutant.function)  # with its own cache empty
            if self.forgets:
                forget()

    def run(self, code: CodeType, work: Callable[[], T]) -> T | None:
        """Do something with this code of the function; None if it takes too long."""
        self.become(code)
        signal.setitimer(signal.ITIMER_PROF, SLOW)
        try:
            return work()
        except _SlowError:
            return None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


def _slow(_signal: int, _frame: object) -> None:
    raise _SlowError
