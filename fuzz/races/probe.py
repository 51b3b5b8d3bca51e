"""Reached and triggered: how far a program got towards a planted defect, as Magma counts it.

- *reached*: the changed code ran, that is, the replaced function was called for the defect's side.
- *triggered*: it did something else than the original would have done. That is asked exactly, of a twin: the program
  runs on two kernels of the defect's side in lock step, one with the defect and one without, and after each operation
  in which the changed code ran their return codes and all of their state are compared (`fuzz.oracle.canonical`, with
  frame numbers as they are).
- *detected*: the oracle reports a difference between the two models that is not there without the defect.

Up to the first operation that triggers it the twins are equal, so no other operation has to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from candidate.framework import UnifiedFramework
from fuzz.execute import Profile
from fuzz.oracle import canonical
from fuzz.program.model import Program
from fuzz.side import MakePaths, Side
from mm.kernel import Kernel
from reference.paths import SeparatePaths
from zoo import Defect, planted


class Probe:
    """A defect that notes when it is called; plant `defect`, and look at `reached`."""

    def __init__(self, defect: Defect) -> None:
        self.reached = False
        self.defect = replace(defect, replacement=self._call)
        self._replacement = defect.replacement

    def _call(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.reached = True
        return self._replacement(original, *args, **kwargs)


def triggers(program: Program, defect: Defect, profile: Profile) -> bool:
    """Whether the defect makes its side do something else in this program; to be asked where it is not planted."""
    make: MakePaths = SeparatePaths if defect.side == "reference" else lambda k: UnifiedFramework(k, profile)
    sound = Side(program.machine, make)  # made before the defect is planted: it has none
    probe = Probe(defect)
    with planted(probe.defect):
        ill = Side(program.machine, make)
        try:
            for op in program.ops:
                probe.reached = False
                rc = sound.run(op)
                if ill.run(op) != rc or (probe.reached and _state(ill.kernel) != _state(sound.kernel)):
                    return True
                if isinstance(rc, str):
                    return False
        finally:
            for side in (sound, ill):
                del side.kernel.paths  # the cycle, as in Lockstep.close
    return False


def _state(k: Kernel) -> Any:
    """With what the kernel has said: a warning may be all that a defect does."""
    return canonical.Side(k, pages=False).form(), k.vmstat.struct_pages_initialized, list(k.log)
