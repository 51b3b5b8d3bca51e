"""The reference model beside a kernel's answers, whether these come from a guest or from a file."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from fuzz.oracle.finding import Difference, Outcome
from fuzz.program.model import Op
from fuzz.side import Side
from live.compare import BOOT_TAIL_REFCOUNT, Comparison
from live.mirror import model_snapshot
from live.placement import tell, told
from live.snapshot import Snapshot
from mm.kernel import Kernel
from mm.machine import Machine
from mm.vmemmap import VmemmapPaths
from reference.paths import SeparatePaths

DAX_REUSE_THROUGH_LEAF = "dax-reuse-through-leaf"
"""Linux 7.3: compound_section_tail_page takes the PMD leaf of a boot section for a page table. See docs/live.md."""

LINE: Final = "7.3"
"""The kernel that the reference models."""
BOOT = Op("boot")
MakePaths = Callable[[Kernel], VmemmapPaths]


class Beside:
    """A model that is told where the kernel put its huge pages, and compared with what the kernel shows."""

    def __init__(
        self, machine: Machine, reserves: tuple[Op, ...], first: Snapshot, make_paths: MakePaths = SeparatePaths
    ) -> None:
        self.model = Side(machine, told(make_paths))
        for op in reserves:
            self.model.run(op)
        tell(self.model.kernel, Snapshot(), first)
        self.booted = self.model.run(BOOT)
        self.comparison = Comparison(self.model.kernel, first)
        self.seen = first

    def opening(self) -> Difference | None:
        """What differs right after the boot; there, the boot counter is compared as it is."""
        found = self.comparison.difference("boot", self.booted, 0, self.seen)
        if found is None:
            mine, its = self.model.kernel.vmstat.nr_memmap_boot, self.seen.nr_memmap_boot
            if mine != its:
                text = f"nr_memmap_boot after boot: {mine} in the model, {its} in the kernel"
                found = Difference("accounting", "nr_memmap_boot", "+" if its > mine else "-", text)
        return found

    def run(self, op: Op, seen: Snapshot) -> Outcome:
        """Do on the model what the kernel did between the last snapshot and this one."""
        tell(self.model.kernel, self.seen, seen)
        self.seen = seen
        return self.model.run(op)

    def compare(self, op: Op, mine: Outcome, its: int) -> Difference | None:
        """The first difference after an operation."""
        return self.comparison.difference(op.name, mine, its, self.seen)

    def deviation(self, op: Op, mine: Outcome, its: int) -> str:
        """The known deviation of the kernel by which its state and the model's part here, if that is what this is."""
        if its == 0 and isinstance(mine, str) and "compound_section_tail_page" in mine:
            return DAX_REUSE_THROUGH_LEAF
        if op.name in ("memory hard_offline", "memory soft_offline") and (mine, its) == (0, -errno.EBUSY):
            if self.comparison.boot_tail(op.args["at"] >> 12):
                return BOOT_TAIL_REFCOUNT
        return ""

    def state(self) -> Snapshot:
        """The model's state as a guest would show it."""
        return model_snapshot(self.model.kernel)
