"""Two real kernels against each other, with no model in between: what a backport must not change.

Both guests boot the same machine and run the same program, drawn against the first one's state. Two kernels put huge
pages in different places, so their mappings are compared by what does not depend on place: how many huge pages of each
size are optimized, how many read-only pages and shared frames the memmap has, how it is mapped in the region, where
addresses are the program's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random
from typing import Any, Final

from fuzz.oracle.finding import Difference
from fuzz.program.model import Op, Program
from live.agent import GuestDied
from live.conform import LENGTH, TRIES, Disagreement, Tally, make_template
from live.generate import PROFILES, Draw, Profile
from live.guest import Guest, Template
from live.install import Kit
from live.observe import Snapshot
from live.pagetable import SECTION_PFNS, Leaf, decode
from live.pair import BOOT
from live.translate import CHANGES_BLOCKS, Names, UnexpectedRefusal, perform, refusal

FREE_STEP: Final = 64
"""Pages by which the free memory of two kernels may part in one operation; they allocate for themselves too."""


class Life:
    """One kernel's half of a program."""

    def __init__(self, profile: Profile, template: Template) -> None:
        self.guest: Guest = template.start()
        self.names = Names(profile.machine, template.layout.region, template.namespaces)
        self.first = self.seen = template.first

    def step(self, op: Op) -> int | str:
        """Do an operation and look; what it returned, or how the guest ended."""
        try:
            rc: int | str = perform(op, self.guest, self.names)
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


def diff(a: Kit, b: Kit, programs: int, seed: int) -> Tally:
    """Run `programs` random programs on both kernels."""
    tally = Tally()
    number = min(len(PROFILES), max(1, programs // 5))
    known: set[str] = set()
    for i, profile in enumerate(PROFILES[:number]):
        begin = time.perf_counter()
        templates = make_template(a, profile), make_template(b, profile)
        tally.seconds["boot"] += time.perf_counter() - begin  # type: ignore[assignment]
        for at in range(programs * i // number, programs * (i + 1) // number):
            draw = Draw(Random(seed << 32 | at), profile.machine)
            found = _run(profile, templates, _drawn(draw, tally), tally)
            if found is not None:
                if found.signature not in known:
                    known.add(found.signature)
                    found = _minimize(profile, templates, found)
                tally.disagreements.append(found)
        for template in templates:
            template.close()
    return tally


Source = Any
"""A function from the first kernel's life to its next operation, None at the end."""


def _drawn(draw: Draw, tally: Tally) -> Source:
    left = iter(range(LENGTH))

    def following(life: Life) -> Op | None:
        if next(left, None) is None:
            return None
        for _ in range(TRIES):
            op = draw.next(life.names, life.seen)
            why = refusal(op, life.guest, life.names, life.seen)
            if why is None:
                return op
            tally.refused[why] += 1
        return None

    return following


def _run(
    profile: Profile, templates: tuple[Template, Template], following: Source, tally: Tally | None
) -> Disagreement | None:
    lives = [Life(profile, template) for template in templates]
    done: list[Op] = []
    try:
        while (op := following(lives[0])) is not None:
            # Addresses of huge pages are the first kernel's; the second has none there.
            if op.name == "hugetlb dissolve" or refusal(op, lives[1].guest, lives[1].names, lives[1].seen):
                continue
            rcs = lives[0].step(op), lives[1].step(op)
            done.append(op)
            if tally is not None:
                tally.operations += 1
                tally.kinds[op.name] += 1
            found = first_difference(lives[0], lives[1], rcs)
            if found is not None:
                program = Program(profile.machine, (*profile.reserves, BOOT, *done))
                return Disagreement(program, found, op.name)
    finally:
        if tally is not None:
            tally.programs += 1
        for life in lives:
            life.guest.close()
    return None


def _minimize(profile: Profile, templates: tuple[Template, Template], found: Disagreement) -> Disagreement:
    start = len(profile.reserves) + 1
    best, at = found, len(found.program.ops) - 2
    while at >= start:
        rest: Iterator[Op] = iter([*best.program.ops[start:at], *best.program.ops[at + 1 :]])
        got = _run(profile, templates, lambda life, rest=rest: next(rest, None), None)
        if got is not None and got.signature == found.signature:
            best = got
        at = min(at, len(best.program.ops) - 1) - 1
    return best
