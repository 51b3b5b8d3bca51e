"""The reference model and a real kernel, stepped together through one program."""

from __future__ import annotations

import time
from collections import Counter

from fuzz.oracle.finding import Difference, Outcome
from fuzz.program.model import Op
from live.agent import GuestDied
from live.answers import Answer
from live.beside import DAX_REUSE_THROUGH_LEAF, Beside, MakePaths
from live.faults import BEYOND, EXPECTED, RETRIES, Target, arm, disarm, number, points, target
from live.generate import Profile
from live.guest import Guest, Template
from live.names import Names
from live.pagetable import FRAME, PTRS, Leaf, decode
from live.placement import new_folios
from live.runner import Step
from live.snapshot import Snapshot
from live.translate import CHANGES_BLOCKS, UnexpectedRefusal, perform, refusal
from live.triage import triage
from reference.paths import SeparatePaths


class Pair:
    """One life of a guest and a model beside it."""

    def __init__(self, profile: Profile, template: Template, make_paths: MakePaths = SeparatePaths) -> None:
        self.beside = Beside(profile.machine, profile.reserves, template.first, make_paths)
        self.model = self.beside.model
        self.names = Names(profile.machine, template.layout.region, template.namespaces)
        self.spent = {"guest": 0.0, "look": 0.0, "model": 0.0, "compare": 0.0}
        self.left_out: Counter[str] = Counter()
        self.nth = 0
        """Number of the allocation point that the next operation fails."""
        self.explained = self.beside.comparison.explained
        self.first = self.beside.state()
        self.started = template.first
        self.release = template.release
        self.answers = [Answer(len(profile.reserves), "boot", 0, template.first)]
        """What the kernel said so far."""
        self.faults = template.faults is not None
        self.guest: Guest = template.start()

    @property
    def seen(self) -> Snapshot:
        """What the kernel showed last."""
        return self.beside.seen

    def opening(self) -> Step:
        """What differs right after the boot."""
        return self._step("boot", (self.beside.booted, 0), self.beside.opening())

    def refusal(self, op: Op) -> str | None:
        """Why an operation cannot be done live in this state."""
        return refusal(op, self.guest, self.names, self.seen)

    def step(self, op: Op) -> Step:
        """Do one operation on the kernel, then on the model, and compare."""
        if op.name == "fail alloc":
            self.nth = op.args["nth"]
            return Step((0, 0))
        times = [time.perf_counter()]
        nth, self.nth = self.nth, 0
        aim = self._target(op, nth)
        try:
            rc = perform(op, self.guest, self.names)
            fired = aim is not None and disarm(self.guest.agent)
            times.append(time.perf_counter())
            seen = self.guest.look(op.name in CHANGES_BLOCKS)
        except GuestDied as error:
            died = f"bug: {error}"
            outcomes = self.model.run(op), died
            found = Difference("returns", "rc", "changed", f"the model returned {outcomes[0]}; {self.epitaph(died)}")
            return self._step(op.name, outcomes, found, dead=True)
        except UnexpectedRefusal as error:
            return self._step(op.name, (0, 0), Difference("returns", "setup", "changed", str(error)), dead=True)
        times.append(time.perf_counter())
        if fired and aim is not None:
            seen.complaints = [line for line in seen.complaints if EXPECTED not in line]
            self.model.kernel.faults.nth = number(self.model, op, new_folios(self.seen, seen), aim, nth)
        before, mine = self.seen, self.beside.run(op, seen)
        answer = Answer(self.answers[-1].at + 1, op.name, rc, seen)
        times.append(time.perf_counter())
        deviation = self.beside.deviation(op, mine, rc)
        if deviation and (deviation != DAX_REUSE_THROUGH_LEAF or self._through_leaf(before)):
            self.explained.add(deviation)
            self.answers.append(answer._replace(deviation=deviation))
            return Step((mine, rc), ended=True)
        self.answers.append(answer)
        step = self._step(op.name, (mine, rc), self.beside.compare(op, mine, rc))
        times.append(time.perf_counter())
        for name, begin, end in zip(self.spent, times, times[1:], strict=False):
            self.spent[name] += end - begin
        return step

    def _target(self, op: Op, nth: int) -> Target | None:
        """Arm the guest for the allocation that this operation is to fail."""
        areas = self.guest.faults
        if not nth or areas is None:
            return None
        if op.name == "hugetlb dissolve":
            self.left_out[RETRIES] += 1
            return None
        found = target(points(self.model, op, None, nth), nth)
        if isinstance(found, str):
            self.left_out[BEYOND.format(found)] += 1
            return None
        if found is not None:
            arm(self.guest.agent, areas, found)
        return found

    def _step(
        self, operation: str, outcomes: tuple[Outcome, Outcome], found: Difference | None, dead: bool = False
    ) -> Step:
        if found is None:
            return Step(outcomes)
        states = None
        if not dead:
            states = (self.first, self.beside.state()), (self.started, self.seen)
        return Step(outcomes, found, triage(operation, found, outcomes, states))

    def _through_leaf(self, before: Snapshot) -> bool:
        """Whether the new memmap is what the kernel makes of a word of a leaf's memory that it takes for a PTE."""
        mapping = self.seen.mapping
        new = sorted(mapping.keys() - before.mapping.keys())
        leaf = mapping.get(new[0] - 1) if new else None
        if not isinstance(leaf, Leaf):
            return False
        word = self.guest.observer.memory.words((leaf.frame << 12) + 8 * (PTRS - 1), 1)[0]
        tables = [entry for section in new if isinstance(entry := mapping[section], bytes)]
        frames = {pte >> 1 for table in tables for pte in decode(table) if pte >= 0}
        return frames == {(word & FRAME) >> 12}

    def epitaph(self, died: str) -> str:
        """How the guest died, with what it printed last."""
        said = [line for line in self.guest.qemu.console().splitlines() if line.strip()]
        return f"{died}; it printed: {' / '.join(said[-3:]) or 'nothing'}"

    def close(self) -> None:
        """End the guest."""
        self.guest.close()
