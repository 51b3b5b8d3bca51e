"""The process that libFuzzer runs in: `python -P -m fuzz.engines.libfuzzer_child FOLDER PROFILE SEED PROGRAMS`.

Only the models are instrumented: coverage of the oracle or of Python's library would lead the search astray. Beside
their branches libFuzzer is shown what the pair did (`fuzz.engines.novelty`), as counters. The process ends itself with
`os._exit` from inside the target, because libFuzzer gives control back to nobody; before that, everything is on disk.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random
from time import monotonic
from typing import Final

import atheris

with atheris.instrument_imports(include=["mm", "reference", "candidate"]):
    import fuzz.execute  # noqa: F401

from fuzz.engines.counters import StateCounters
from fuzz.engines.handover import STATS, STOP, discovery_to_json, put
from fuzz.engines.novelty import Watch
from fuzz.engines.protocol import Discovery
from fuzz.engines.statistics import Statistics
from fuzz.execute import Profile
from fuzz.generate.program import run_affordable
from fuzz.lifeline import die_with_parent
from fuzz.program.codec import WIDTH, decode, encode
from fuzz.program.mutate import crossover, mutate
from fuzz.trail import open_inherited

MOST_OPS: Final = 80
TICK: Final = 0.4
"""Seconds between two looks at the clock, the parent and the stop file."""
PER_SIGNATURE: Final = 2
"""Programs that are handed over for one finding: the second one may be smaller."""
BYTE_MUTATIONS: Final = 0.15
"""Share of mutations that are libFuzzer's own: they reach encodings that no program of the mutators has."""


class Target:
    """Runs inputs, keeps the books."""

    def __init__(self, folder: Path, profile: Profile, programs: int) -> None:
        self.folder = folder
        self.profile = profile
        self.left = programs or -1
        self.statistics = Statistics()
        self.drained = 0
        self.counters = StateCounters()
        self.handed: dict[str, int] = {}
        self.number = 0
        self.parent = os.getppid()
        self.begin = monotonic()
        self.next_tick = self.begin + TICK

    def __call__(self, data: bytes) -> None:
        """One input of libFuzzer."""
        watch = Watch()
        program, outcome = run_affordable(decode(data), self.profile, observer=watch)
        self.counters(watch.features)
        self.statistics.record(program, outcome)
        if outcome.finding is not None:
            self.hand_over(Discovery(program, outcome.finding, "libfuzzer"))
        self.left -= 1
        now = monotonic()
        if now >= self.next_tick or not self.left:
            self.next_tick = now + TICK
            self.tick(now)

    def hand_over(self, discovery: Discovery) -> None:
        """Write a discovery, unless its like has been written already."""
        signature = discovery.finding.signature
        times = self.handed.get(signature, 0)
        if times < PER_SIGNATURE:
            self.handed[signature] = times + 1
            put(self.folder / f"finding-{self.number}.json", discovery_to_json(discovery))
            self.number += 1

    def tick(self, now: float) -> None:
        """Write the numbers; end if asked to, if enough is done, or if the parent is gone."""
        self.statistics.seconds = now - self.begin
        put(self.folder / STATS, self.statistics.to_json())
        put(self.folder / f"coverage-{self.drained}.json", self.statistics.coverage.drain())
        self.drained += 1
        if not self.left or (self.folder / STOP).exists() or os.getppid() != self.parent:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def mutator(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's mutation, on programs."""
    rng = Random(seed)
    if rng.random() < BYTE_MUTATIONS:
        return bytes(atheris.Mutate(data, max_size))
    return encode(mutate(decode(data), rng))[:max_size]


def combiner(data1: bytes, data2: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's crossover, on programs."""
    return encode(crossover(decode(data1), decode(data2), Random(seed)))[:max_size]


def main() -> None:
    """Fuzz until `Target.tick` ends the process."""
    folder, profile, seed, programs = sys.argv[1:]
    die_with_parent(os.getppid())
    open_inherited()
    target = Target(Path(folder), "merged" if profile == "merged" else "posted", int(programs))
    # libFuzzer starts itself anew for some of its flags, through a shell, by what argv[0] says.
    argv = [f"{sys.executable} -P -m fuzz.engines.libfuzzer_child"]
    argv += [f"-max_len={WIDTH * (MOST_OPS + 1)}", "-len_control=0", f"-seed={int(seed) % (1 << 31) or 1}"]
    argv += ["-timeout=60", "-rss_limit_mb=4096", f"-artifact_prefix={folder}/", "-print_final_stats=0"]
    atheris.Setup([*argv, f"{folder}/corpus"], target, custom_mutator=mutator, custom_crossover=combiner)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
