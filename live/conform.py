"""The reference model against a real kernel, program after program, several emulators side by side.

Program number i of a seed depends on the seed, i and what the kernel does, on nothing else. Each worker is a process
with one guest at a time; it takes a machine, boots it once, and runs its share of programs, each from the saved state.
A disagreement is minimized on the spot.
"""

from __future__ import annotations

import os
from pathlib import Path

from fuzz.program.model import Program
from fuzz.program.text import parse_file
from live.answers import digest
from live.beside import MakePaths
from live.crew import Progress, Task, pieces, run_crew
from live.generate import PROFILES, Profile
from live.guest import Template
from live.install import Kit
from live.layout import boot_ops, layout, why_not
from live.pair import Pair
from live.qemu import Hardware
from live.recorder import Recorder
from live.runner import MakeStage, Match
from live.tally import Tally
from reference.paths import SeparatePaths


def make_template(kit: Kit, profile: Profile) -> Template:
    """Boot a profile's machine."""
    plan = layout(profile.machine, profile.reserves)
    hardware = Hardware(kit.emulator, kit.vmlinuz, kit.initrd, plan.append, plan.nodes, kit.accel)
    return Template(hardware, plan)


class ModelStage:
    """A booted machine; every life of it has a model beside it."""

    def __init__(self, kit: Kit, profile: Profile, make_paths: MakePaths = SeparatePaths) -> None:
        self.profile = profile
        self.make_paths = make_paths
        self.template = make_template(kit, profile)

    def begin(self) -> Match:
        """A new life."""
        return Pair(self.profile, self.template, self.make_paths)

    def close(self) -> None:
        """Forget the machine."""
        self.template.close()


def beside_model(kit: Kit, make_paths: MakePaths = SeparatePaths) -> MakeStage:
    """Makes stages on which this kernel and the model are compared."""
    return lambda profile: ModelStage(kit, profile, make_paths)


def cpus() -> int:
    """How many emulators run side by side."""
    return max(1, len(os.sched_getaffinity(0)))


def conform(
    kit: Kit,
    programs: int,
    seed: int,
    workers: int | None = None,
    progress: Progress | None = None,
    record: Path | None = None,
) -> Tally:
    """Run `programs` random programs; what was found. What the kernel said is kept in the folder `record`."""
    recorder = _recorder(record, f"live conform --programs {programs} --seed {seed}", kit)
    return run_crew(beside_model(kit), random_tasks(programs), seed, workers or cpus(), progress, recorder)


def _recorder(folder: Path | None, made: str, kit: Kit, names: dict[str, str] | None = None) -> Recorder | None:
    if folder is None:
        return None
    recorder = Recorder(folder, made, kit.accel, names or {})
    recorder.prepare()
    return recorder


def random_tasks(programs: int) -> list[Task]:
    """Programs 0 to `programs` - 1, an equal share for each profile."""
    n = min(len(PROFILES), max(1, programs // 5))
    shares = [range(programs * i // n, programs * (i + 1) // n) for i in range(n)]
    return pieces(Task(profile, tuple(share)) for profile, share in zip(PROFILES, shares, strict=False))


def file_tasks(paths: list[Path]) -> tuple[list[Task], dict[str, str]]:
    """Programs from files, those with equal machines together. Second: file -> why it cannot be run."""
    todo: dict[Profile, list[Program]] = {}
    skipped: dict[str, str] = {}
    for path in paths:
        program = parse_file(path).bare()
        why = why_not(program)
        if why is None:
            todo.setdefault(Profile(program.machine, boot_ops(program)), []).append(program)
        else:
            skipped[path.name] = why
    return pieces(Task(profile, tuple(items)) for profile, items in todo.items()), skipped


def run_files(
    kit: Kit,
    paths: list[Path],
    workers: int | None = None,
    progress: Progress | None = None,
    record: Path | None = None,
) -> tuple[Tally, dict[str, str]]:
    """Run each file. Second: file -> why it was not run. What the kernel said is kept in the folder `record`."""
    tasks, skipped = file_tasks(paths)
    names = {digest(parse_file(path)): path.stem for path in paths} if record else {}
    recorder = _recorder(record, "live run", kit, names)
    return run_crew(beside_model(kit), tasks, 0, workers or cpus(), progress, recorder), skipped
