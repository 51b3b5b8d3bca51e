"""The reference model and a real kernel, stepped together through one program."""

from __future__ import annotations

from dataclasses import dataclass

from fuzz.execute import Side
from fuzz.oracle.finding import Difference, Outcome
from fuzz.program.model import Op
from live.agent import GuestDied
from live.compare import Comparison
from live.guest import Guest, Template
from live.observe import Snapshot
from live.pagetable import FRAME, PTRS, Leaf, decode
from live.placement import tell, told
from live.translate import CHANGES_BLOCKS, Names, UnexpectedRefusal, perform, refusal
from mm.machine import Machine
from reference.paths import SeparatePaths

BOOT = Op("boot")
DAX_REUSE_THROUGH_LEAF = "dax-reuse-through-leaf"
"""Linux 7.3: compound_section_tail_page takes the PMD leaf of a boot section for a page table. See docs/live.md."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one operation did."""

    refused: str | None
    """Why it was done on neither side."""
    model: Outcome = 0
    kernel: Outcome = 0
    difference: Difference | None = None
    ended: bool = False
    """A known deviation of the kernel has left its state undefined; the program ends here."""


class Pair:
    """One life of a guest and a model beside it. `close` ends both."""

    def __init__(self, machine: Machine, reserves: tuple[Op, ...], template: Template) -> None:
        self.template = template
        self.model = Side(machine, told(SeparatePaths))
        self.names = Names(machine, template.layout.region, template.namespaces)
        for op in reserves:
            self.model.run(op)
        tell(self.model.kernel, Snapshot(), template.first)
        self.booted = self.model.run(BOOT)
        self.comparison = Comparison(self.model.kernel, template.first)
        self.seen = template.first
        self.guest: Guest = template.start()

    def boot_difference(self) -> Difference | None:
        """What differs right after the boot; there, the boot counter is compared as it is."""
        found = self.comparison.difference("boot", self.booted, 0, self.seen)
        if found is not None:
            return found
        mine, its = self.model.kernel.vmstat.nr_memmap_boot, self.seen.nr_memmap_boot
        if mine == its:
            return None
        text = f"nr_memmap_boot after boot: {mine} in the model, {its} in the kernel"
        return Difference("accounting", "nr_memmap_boot", "+" if its > mine else "-", text)

    def refusal(self, op: Op) -> str | None:
        """Why an operation cannot be done live in this state."""
        return refusal(op, self.guest, self.names, self.seen)

    def step(self, op: Op) -> Step:
        """Do one operation on the kernel, then on the model, and compare."""
        why = self.refusal(op)
        if why is not None:
            return Step(why)
        died = None
        try:
            rc: Outcome = perform(op, self.guest, self.names)
            seen = self.guest.look(op.name in CHANGES_BLOCKS)
        except GuestDied as error:
            died = f"bug: {error}"
        except UnexpectedRefusal as error:
            return Step(None, 0, 0, Difference("returns", "setup", "changed", str(error)))
        if died is not None:
            return Step(None, self.model.run(op), died, Difference("returns", "rc", "changed", self.epitaph(died)))
        tell(self.model.kernel, self.seen, seen)
        before, mine = self.seen, self.model.run(op)
        self.seen = seen
        if rc == 0 and isinstance(mine, str) and "compound_section_tail_page" in mine and self._through_leaf(before):
            self.comparison.explained.add(DAX_REUSE_THROUGH_LEAF)
            return Step(None, mine, rc, None, ended=True)
        return Step(None, mine, rc, self.comparison.difference(op.name, mine, rc, seen))

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
