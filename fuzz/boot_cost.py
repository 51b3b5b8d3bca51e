"""What booting costs each side: struct pages that are initialised, and the memmap that is left.

The benefit that the series claims for boot is a number here: struct pages behind the shared tail page of a boot huge
page are not written by memmap_init (unified-framework.md 3.6). The clock of a model says nothing about a kernel's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from candidate.framework import UnifiedFramework
from fuzz.execute import Profile
from fuzz.oracle.finding import Outcome
from fuzz.program.model import Program
from fuzz.program.operations import BOOT
from fuzz.side import Side
from mm.kernel import Kernel, gigantic_folios
from mm.vmemmap import VmemmapPaths
from reference.paths import SeparatePaths


@dataclass(frozen=True, slots=True)
class BootCost:
    """One side's boot. Numbers are 0 if it did not survive."""

    side: str
    outcome: Outcome
    ram_pages: int
    """Base pages of boot RAM."""
    struct_pages_initialized: int
    """Writes of a struct page by initialisation code; one that is initialised twice counts twice."""
    nr_memmap_boot: int
    """Frames of the boot memmap that are counted, in base pages."""
    boot_huge_pages: int
    """Gigantic pages in the pools."""
    optimized: int
    """Of those, how many have an optimized vmemmap."""


def boot_cost(program: Program, profile: Profile = "posted") -> tuple[BootCost, BootCost]:
    """Boot a program's machine, with its reserve lines, on both sides: reference, candidate."""
    return (
        _boot(program, "reference", SeparatePaths),
        _boot(program, "candidate", lambda k: UnifiedFramework(k, profile)),
    )


def _boot(program: Program, name: str, make: Callable[[Kernel], VmemmapPaths]) -> BootCost:
    side = Side(program.machine, make)
    ram = sum(hi - lo for _, lo, hi in program.machine.ram_ranges())
    outcome: Outcome = 0
    for op in program.ops:
        outcome = side.run(op)
        if op.name == BOOT:
            break
    if isinstance(outcome, str):
        return BootCost(name, outcome, ram, 0, 0, 0, 0)
    kernel = side.kernel
    folios = list(gigantic_folios(kernel))
    stat = kernel.vmstat
    optimized = sum(folio.vmemmap_optimized for folio in folios)
    return BootCost(name, outcome, ram, stat.struct_pages_initialized, stat.nr_memmap_boot, len(folios), optimized)
