"""Two real kernels against each other, with no model in between: what a backport must not change.

Both guests boot the same machine and run the same program, drawn against the first one's state. Two kernels put huge
pages in different places, so their mappings are compared by what does not depend on place: how many huge pages of each
size are optimized, how many read-only pages and shared frames the memmap has, how it is mapped in the region, where
addresses are the program's.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from fuzz.oracle.finding import Difference
from fuzz.program.model import Op
from live.agent import GuestDied
from live.answers import Answer
from live.conform import cpus, file_tasks, make_template
from live.crew import Progress, Task, pieces, run_crew
from live.faults import AREAS, Target, arm, disarm
from live.generate import PROFILES, Profile
from live.guest import Guest, Template
from live.install import Kit
from live.names import Names
from live.pagetable import SECTION_PFNS, Leaf, decode
from live.runner import Engine, Item, MakeStage, Match, Step
from live.snapshot import Snapshot
from live.tally import Tally
from live.translate import CHANGES_BLOCKS, UnexpectedRefusal, perform, refusal
from live.triage import triage

FREE_STEP: Final = 64
"""Pages by which the free memory of two kernels may part in one operation; they allocate for themselves too."""


class Life:
    """One kernel's half of a program."""

    def __init__(self, profile: Profile, template: Template) -> None:
        self.guest: Guest = template.start()
        self.names = Names(profile.machine, template.layout.region, template.namespaces)
        self.first = self.seen = template.first

    def step(self, op: Op, target: Target | None = None) -> int | str:
        """Do an operation, with an allocation that fails, and look; what it returned, or how the guest ended."""
        guest = self.guest
        try:
            if target is not None and guest.faults:
                arm(guest.agent, guest.faults, target)
            rc: int | str = perform(op, guest, self.names)
            if target is not None and guest.faults:
                disarm(guest.agent)
            self.seen = self.guest.look(op.name in CHANGES_BLOCKS)
        except GuestDied as error:
            return f"bug: {error}"
        except UnexpectedRefusal as error:
            return f"setup: {error}"
        return rc


def summary(life: Life) -> dict[str, Any]:
    """What two kernels must have in common, by name."""
    seen, first = life.seen, life.first
    out: dict[str, Any] = {
        "nr_memmap + nr_memmap_boot": memmap(seen) - memmap(first),
        "MemTotal less boot pages given back": seen.managed
        - first.managed
        + seen.nr_memmap_boot
        - first.nr_memmap_boot,
    }
    for order, pool in seen.pools.items():
        size = "1G" if order == 18 else "2M"
        out[f"{size} pool"] = (pool.nr, pool.free, pool.surplus, pool.resv, pool.overcommit)
        out[f"{size} pages optimized"] = sum(f.optimized for f in seen.folios.values() if f.order == order)
    region = range(life.names.region[0] // 4096 // SECTION_PFNS, sum(life.names.region) // 4096 // SECTION_PFNS + 1)
    out["memory blocks"] = {b: state for b, state in seen.blocks.items() if b in region}
    plugged = set(out["memory blocks"])
    out["memmap of devices"] = {s: shape(seen, s) for s in region if s in seen.mapping and s not in plugged}
    return out


def memmap(seen: Snapshot) -> int:
    """Private memmap frames; how they divide into boot and later ones depends on placement."""
    return seen.nr_memmap + seen.nr_memmap_boot


def shape(seen: Snapshot, section: int) -> tuple[str, ...]:
    """How a section's memmap is mapped, frames by order of first use."""
    entry = seen.mapping[section]
    if isinstance(entry, Leaf):
        return ("leaf",)
    names: dict[int, int] = {}
    return tuple(
        "-" if pte < 0 else f"{names.setdefault(pte >> 1, len(names))}{'w' if pte & 1 else 'r'}"
        for pte in decode(entry)
    )


def first_difference(a: Life, b: Life, rcs: tuple[int | str, int | str]) -> Difference | None:
    """Where the two part after an operation."""
    if rcs[0] != rcs[1]:
        return Difference("returns", "rc", "changed", f"kernel A returned {rcs[0]}, kernel B {rcs[1]}")
    for name, life in (("A", a), ("B", b)):
        if life.seen.complaints:
            return Difference(
                "returns", f"log {name}", "changed", f"kernel {name} says: {life.seen.complaints[0].strip()}"
            )
    mine, its = summary(a), summary(b)
    for name, value in mine.items():
        if value != its[name]:
            return Difference(
                "accounting", name, "changed", f"{name}: {value} with kernel A, {its[name]} with kernel B"
            )
    for nid, (x, y) in enumerate(zip(_free(a), _free(b), strict=True)):
        if abs(x - y) > FREE_STEP:
            return Difference(
                "accounting", f"node{nid}.free", "changed", f"free pages since boot: {x:+} with A, {y:+} with B"
            )
    return None


def _free(life: Life) -> list[int]:
    return [now - then for now, then in zip(life.seen.free, life.first.free, strict=True)]


class Versus:
    """One life of both guests."""

    def __init__(self, profile: Profile, templates: tuple[Template, Template]) -> None:
        self.lives = Life(profile, templates[0]), Life(profile, templates[1])
        self.explained: set[str] = set()
        self.spent = {"guests": 0.0, "compare": 0.0}
        self.left_out: Counter[str] = Counter()
        self.faults = all(life.guest.faults for life in self.lives)
        self.release = ""
        self.answers: list[Answer] = []
        self.nth = 0
        """Number of the allocation that the next operation fails, in the area that it works in."""

    @property
    def names(self) -> Names:
        """Those of the first guest; the second has the same."""
        return self.lives[0].names

    @property
    def seen(self) -> Snapshot:
        """The first guest's state, which programs are drawn against."""
        return self.lives[0].seen

    def opening(self) -> Step:
        """The two guests right after the boot."""
        return self._step("boot", (0, 0))

    def refusal(self, op: Op) -> str | None:
        """Why an operation cannot be done on one of the two."""
        if op.name == "hugetlb dissolve":
            return "the two kernels' huge pages are at different addresses"
        return next((why for one in self.lives if (why := refusal(op, one.guest, one.names, one.seen))), None)

    def step(self, op: Op) -> Step:
        """Do an operation on both and compare."""
        if op.name == "fail alloc":
            self.nth = op.args["nth"]
            return Step((0, 0))
        begin = time.perf_counter()
        nth, self.nth = self.nth, 0
        area = AREAS["HEAD" if op.name.startswith(("hugetlb", "memory offline")) else "VMF"]
        target = Target(area, nth) if nth else None
        rcs = self.lives[0].step(op, target), self.lives[1].step(op, target)
        done = time.perf_counter()
        step = self._step(op.name, rcs)
        self.spent["guests"] += done - begin
        self.spent["compare"] += time.perf_counter() - done
        return step

    def _step(self, operation: str, rcs: tuple[int | str, int | str]) -> Step:
        a, b = self.lives
        found = first_difference(a, b, rcs)
        if found is None:
            return Step(rcs)
        states = (a.first, a.seen), (b.first, b.seen)
        return Step(rcs, found, triage(operation, found, rcs, states, ("kernel A", "kernel B")))

    def close(self) -> None:
        """End both guests."""
        for life in self.lives:
            life.guest.close()


class KernelStage:
    """The same machine, booted with two kernels."""

    def __init__(self, kits: tuple[Kit, Kit], profile: Profile) -> None:
        self.profile = profile
        self.templates = make_template(kits[0], profile), make_template(kits[1], profile)

    def begin(self) -> Match:
        """A new life of both."""
        return Versus(self.profile, self.templates)

    def close(self) -> None:
        """Forget the machines."""
        for template in self.templates:
            template.close()


def two_kernels(a: Kit, b: Kit) -> MakeStage:
    """Makes stages on which two kernels are compared."""
    return lambda profile: KernelStage((a, b), profile)


def diff_tasks(programs: int) -> list[Task]:
    """Random programs, an equal share for each profile; every other one by the engines' generator."""
    n = min(len(PROFILES), max(1, programs // 5))
    tasks = []
    for i, profile in enumerate(PROFILES[:n]):
        share = range(programs * i // n, programs * (i + 1) // n)
        items: tuple[Item, ...] = tuple(Engine(number) if number % 2 else number for number in share)
        tasks.append(Task(profile, items))
    return pieces(tasks)


def diff(
    a: Kit, b: Kit, programs: int, seed: int, corpus: list[Path], workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[Tally, dict[str, str]]:  # fmt: skip
    """Run `programs` random programs and those of the corpus on both kernels. Second: file -> why it was not run."""
    tasks, skipped = file_tasks(corpus)
    return run_crew(two_kernels(a, b), tasks + diff_tasks(programs), seed, workers or cpus(), progress), skipped
