"""One trial: an engine with a seed, a defect, and a cap of CPU time.

The clock is the CPU time of making, running and comparing programs with the defect planted, on one core. What is done
to judge a program (whether it is clean without the defect, whether it triggers it) and the minimization are not part
of it; nor is the planting.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from time import process_time
from typing import Any, Final, NamedTuple

from fuzz.campaign.slices import Task
from fuzz.engines import make
from fuzz.engines.libfuzzer import LibFuzzer
from fuzz.engines.protocol import Discovery, Engine
from fuzz.engines.statistics import Statistics
from fuzz.execute import Profile, RunOutcome, run_program
from fuzz.minimize import minimize
from fuzz.program.model import Program
from fuzz.program.text import format as format_program
from fuzz.races.probe import Probe, triggers
from zoo import Defect, find, planted

SLICE: Final = 0.1
"""Seconds between two looks at a process of libFuzzer."""


class Mark(NamedTuple):
    """When something was first seen."""

    programs: int
    """Programs run until then, that one included."""
    seconds: float
    """CPU seconds until then."""


class Key(NamedTuple):
    """Which trial it is."""

    engine: str
    defect: str
    seed: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What it gave. A program that detects triggers, and one that triggers reaches."""

    engine: str
    defect: str
    seed: int
    cap: float
    programs: int
    """Run in all."""
    seconds: float
    """CPU seconds until it was detected, or the cap."""
    reached: Mark | None
    triggered: Mark | None
    detected: Mark | None
    signature: str | None = None
    operations: int | None = None
    """Of the program that detected it, minimized, if that was asked for."""
    program: str | None = None
    """That program."""

    @property
    def key(self) -> Key:
        """Which trial it is."""
        return Key(self.engine, self.defect, self.seed)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        """The inverse of `to_json`; marks are lists there."""
        marks = {name: data[name] and Mark(*data[name]) for name in ("reached", "triggered", "detected")}
        return cls(**{**data, **marks})


def race(key: Key, cap: float, profile: Profile = "posted", *, small: bool = False) -> Trial:
    """Run one trial; `small`: and minimize what it found, if it is found too with everything compared."""
    trial, found = (_elsewhere if key.engine == "libfuzzer" else _here)(key, cap, profile)
    if found is None or not small:
        return trial
    with planted(find(key.defect)):
        if run_program(found.program, profile=profile, full_every=1).finding is None:
            return trial  # with everything compared, a clause of the ledger ends it before
        result = minimize(found.program, profile=profile)
    text = format_program(result.program)
    more = {"signature": result.finding.signature, "operations": len(result.program.ops), "program": text}
    return Trial.from_json({**trial.to_json(), **more})


def due(discoveries: Iterable[Discovery], profile: Profile) -> Discovery | None:
    """The first that is due to what was planted, asked where nothing is: its program is clean then."""
    return next((d for d in discoveries if run_program(d.program, profile=profile).finding is None), None)


class Noting(Statistics):
    """Statistics that remember the last program."""

    __slots__ = ("last",)
    last: Program

    def record(self, program: Program, outcome: RunOutcome) -> None:
        """Count one program that was run."""
        self.last = program
        Statistics.record(self, program, outcome)


@dataclass(slots=True)
class Hunt:
    """What came of looking for a defect."""

    seconds: float = 0.0
    reached: Mark | None = None
    triggered: Mark | None = None
    found: Discovery | None = None


def hunt(
    engine: Engine,
    defect: Defect,
    profile: Profile,
    *,
    seconds: float = inf,
    programs: float = inf,
    marks: bool = False,
) -> Hunt:
    """Let an engine of this process look for a defect until it has found it, or CPU time or programs are used up.

    `marks`: see when it is first reached and triggered, too.
    """
    out = Hunt()
    noting = engine.statistics = Noting()
    probe = Probe(defect)
    while out.found is None and out.seconds < seconds and noting.programs < programs:
        discoveries: list[Discovery] = []
        probe.reached = False
        ask = marks and out.triggered is None
        with planted(probe.defect):
            begin = process_time() - out.seconds
            while not discoveries and out.seconds < seconds and noting.programs < programs:
                discoveries = engine.advance(0.0, 1)
                out.seconds = process_time() - begin
                if ask and probe.reached:
                    break
        out.found = due(discoveries, profile)
        if ask and probe.reached:
            mark = Mark(noting.programs, out.seconds)
            out.reached = out.reached or mark
            if out.found is not None or triggers(noting.last, defect, profile):
                out.triggered = mark
    return out


def _here(key: Key, cap: float, profile: Profile) -> tuple[Trial, Discovery | None]:
    engine: Engine = make(key.engine, key.seed, profile)
    out = hunt(engine, find(key.defect), profile, seconds=cap, marks=True)
    programs = engine.statistics.programs
    if out.found is None or out.seconds > cap:  # the last program may end behind the cap
        return Trial(*key, cap, programs, cap, out.reached, out.triggered, None), None
    detected = Mark(programs, out.seconds)
    return Trial(*key, cap, programs, out.seconds, out.reached, out.triggered, detected), out.found


def _elsewhere(key: Key, cap: float, profile: Profile) -> tuple[Trial, Discovery | None]:
    """libFuzzer, in its process; what its programs reach without showing it is not seen from here."""
    engine = Task(key.engine, key.seed, profile, key.defect).make()
    assert isinstance(engine, LibFuzzer)
    begin = process_time()
    engine.start()
    own = process_time() - begin  # the generated programs that its corpus begins with
    spent = own
    found = None
    try:
        while found is None and spent < cap:
            found = due(engine.advance(SLICE), profile)
            spent = own + cpu(engine)
    finally:
        engine.stop()
    programs = engine.statistics.programs
    detected = Mark(programs, min(spent, cap)) if found is not None else None
    return Trial(*key, cap, programs, min(spent, cap), detected, detected, detected), found


def cpu(engine: LibFuzzer) -> float:
    """CPU seconds of libFuzzer's process so far (proc_pid_stat(5): utime, stime)."""
    if engine.child is None:
        return 0.0
    try:
        fields = Path(f"/proc/{engine.child.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
