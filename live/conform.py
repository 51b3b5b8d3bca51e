"""The reference model against a real kernel, program after program, several emulators side by side.

Program number i of a seed depends on the seed, i and what the kernel does, on nothing else. Each worker is a process
with one guest at a time; it takes a machine, boots it once, and runs its share of programs, each from the saved state.
A disagreement is minimized on the spot, by running shorter programs on the same guest.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from random import Random
from typing import Any

from fuzz import program as language
from fuzz.oracle.finding import Difference
from fuzz.program.model import Op, Program
from live.generate import PROFILES, Draw, Profile
from live.guest import Template
from live.install import Kit
from live.layout import layout
from live.pair import BOOT, Pair, Step
from live.qemu import Hardware, die_with_parent

LENGTH = 20
"""Operations of a random program."""
TRIES = 8
"""Refused operations in a row before another one is tried for good."""
CHUNK = 20
"""Programs that a worker runs before it asks for more."""


@dataclass(slots=True)
class Disagreement:
    """A program after which model and kernel differ."""

    program: Program
    difference: Difference
    operation: str
    minimal: bool = False

    @property
    def signature(self) -> str:
        """Equal for programs that show the same thing."""
        d = self.difference
        return "|".join((d.layer, d.field, self.operation, d.drift))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        d = self.difference
        return {
            "signature": self.signature,
            "layer": d.layer,
            "field": d.field,
            "operation": self.operation,
            "detail": d.detail,
            "minimal": self.minimal,
            "triage": "open: compare with the kernel's source which of the two is right",
            "program": language.format(self.program),
        }


@dataclass(slots=True)
class Tally:
    """What was done."""

    programs: int = 0
    operations: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """Operation and errno -> how often."""
    refused: Counter[str] = field(default_factory=Counter)
    """Reason -> operations that were drawn but not done."""
    explained: Counter[str] = field(default_factory=Counter)
    """Known deviation of the kernel -> programs that showed it."""
    disagreements: list[Disagreement] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)
    """Where the time went: boot, reset, run, minimize."""

    def add(self, other: Tally) -> None:
        """Add another worker's numbers."""
        self.programs += other.programs
        self.operations += other.operations
        for name in ("kinds", "errors", "refused", "explained", "seconds"):
            getattr(self, name).update(getattr(other, name))
        self.disagreements += other.disagreements


def make_template(kit: Kit, profile: Profile) -> Template:
    """Boot a profile's machine."""
    plan = layout(profile.machine, profile.reserves)
    hardware = Hardware(kit.emulator, kit.vmlinuz, kit.initrd, plan.append, plan.nodes, kit.accel)
    return Template(hardware, plan)


# -- one program ----------------------------------------------------------------------------------------------------


class Runner:
    """Runs programs of one profile on one template."""

    def __init__(self, profile: Profile, template: Template, tally: Tally, known: set[str] | None = None) -> None:
        self.profile = profile
        self.template = template
        self.tally = tally
        self.known = set() if known is None else known
        """Signatures that have been minimized already."""

    def program(self, ops: list[Op]) -> Program:
        """The profile's machine with these operations."""
        return Program(self.profile.machine, (*self.profile.reserves, BOOT, *ops))

    def random_program(self, random: Random) -> Disagreement | None:
        """Generate and run one program."""
        draw = Draw(random, self.profile.machine)

        def following(pair: Pair) -> Iterator[Op]:
            for _ in range(LENGTH):
                for _ in range(TRIES):
                    op = draw.next(pair.names, pair.seen)
                    why = pair.refusal(op)
                    if why is None:
                        yield op
                        break
                    self.tally.refused[why] += 1

        return self.run(following)

    def run(self, following: Callable[[Pair], Iterator[Op]], count: bool = True) -> Disagreement | None:
        """Run what `following` yields, up to the first difference."""
        begin = time.perf_counter()
        pair = Pair(self.profile.machine, self.profile.reserves, self.template)
        begun = time.perf_counter()
        done: list[Op] = []
        try:
            found = pair.boot_difference()
            operation = "boot"
            if found is None:
                for op in following(pair):
                    step = pair.step(op)
                    if step.refused is not None:
                        continue
                    done.append(op)
                    if count:
                        self._count(op, step)
                    if step.difference is not None:
                        found, operation = step.difference, op.name
                    if found is not None or step.ended:
                        break
        finally:
            if count:
                self.tally.programs += 1
                self.tally.explained.update(pair.comparison.explained)
                self.tally.seconds["reset"] += begun - begin  # type: ignore[assignment]
                self.tally.seconds["run"] += time.perf_counter() - begun  # type: ignore[assignment]
            pair.close()
        return None if found is None else Disagreement(self.program(done), found, operation)

    def minimize(self, found: Disagreement) -> Disagreement:
        """Leave out operations while the same thing is seen; the result is 1-minimal. Only the first of a kind is
        worth that.
        """
        if found.signature in self.known:
            return found
        begin = time.perf_counter()
        best = found
        start = len(self.profile.reserves) + 1
        at = len(best.program.ops) - 2
        passes = 0
        while at >= start:
            ops = [*best.program.ops[start:at], *best.program.ops[at + 1 :]]
            got = self.run(lambda pair, ops=ops: iter(ops), count=False)  # type: ignore[misc]
            if got is not None and got.signature == found.signature:
                best = got
                passes += 1
            at = min(at, len(best.program.ops) - 1) - 1
            if at < start and passes:
                at, passes = len(best.program.ops) - 2, 0
        best.minimal = True
        self.tally.seconds["minimize"] += time.perf_counter() - begin  # type: ignore[assignment]
        return best

    def _count(self, op: Op, step: Step) -> None:
        self.tally.operations += 1
        self.tally.kinds[op.name] += 1
        if isinstance(step.kernel, int) and step.kernel < 0:
            self.tally.errors[f"{op.name} {step.kernel}"] += 1


# -- workers --------------------------------------------------------------------------------------------------------

Task = tuple[int, int, int]
"""Profile number, first program number, end."""


def tasks(programs: int, profiles: int) -> list[Task]:
    """Programs 0 to `programs` - 1, an equal share for each profile, in pieces."""
    out = []
    for number in range(profiles):
        lo, hi = programs * number // profiles, programs * (number + 1) // profiles
        out += [(number, at, min(at + CHUNK, hi)) for at in range(lo, hi, CHUNK)]
    return out


def _worker(kit: Kit, seed: int, orders: Connection, parent: int) -> None:
    die_with_parent(parent)
    template, current = None, -1
    known: set[str] = set()
    while True:
        task: Task | None = orders.recv()
        if task is None:
            break
        number, first, end = task
        tally = Tally()
        profile = PROFILES[number]
        if template is None or current != number:
            if template is not None:
                template.close()
            begin = time.perf_counter()
            template, current = make_template(kit, profile), number
            tally.seconds["boot"] += time.perf_counter() - begin  # type: ignore[assignment]
        runner = Runner(profile, template, tally, known)
        for i in range(first, end):
            found = runner.random_program(Random(seed << 32 | i))
            if found is not None:
                tally.disagreements.append(runner.minimize(found))
                known.add(found.signature)
        orders.send(tally)


def conform(
    kit: Kit, programs: int, seed: int, workers: int | None = None, progress: Callable[[Tally], None] | None = None
) -> Tally:
    """Run `programs` random programs; what was found."""
    todo = tasks(programs, min(len(PROFILES), max(1, programs // 5)))
    workers = min(workers or max(1, os.cpu_count() or 1), len(todo))
    context = multiprocessing.get_context("fork")
    total = Tally()
    busy: dict[Connection, int] = {}
    processes = []
    for _ in range(workers):
        mine, its = context.Pipe()
        process = context.Process(target=_worker, args=(kit, seed, its, os.getpid()), daemon=True)
        process.start()
        its.close()
        processes.append(process)
        busy[mine] = -1
        _order(mine, todo, busy)
    while busy:
        for connection in wait(list(busy)):
            assert isinstance(connection, Connection)
            try:
                total.add(connection.recv())
            except EOFError as error:
                raise RuntimeError("a worker died") from error
            if progress is not None:
                progress(total)
            _order(connection, todo, busy)
    for process in processes:
        process.join()
    return total


def _order(connection: Connection, todo: list[Task], busy: dict[Connection, int]) -> None:
    """Give a worker its next piece, of the machine it has booted if possible, or let it go."""
    if not todo:
        connection.send(None)
        del busy[connection]
        return
    others = {number for other, number in busy.items() if other is not connection}
    task = next((t for t in todo if t[0] == busy[connection]), None) or next(
        (t for t in todo if t[0] not in others), todo[0]
    )
    todo.remove(task)
    busy[connection] = task[0]
    connection.send(task)
