"""What the laws read, and what several of them ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mm.arch import Arch
from mm.kernel import Kernel

Args = dict[str, Any]
Before = Any
"""What a law wants to know of the state before the operation."""


class SideLike(Protocol):
    """What laws read of a side."""

    kernel: Kernel
    handles: dict[str, Any]

    def order(self, size: int) -> int: ...


class OpLike(Protocol):
    """What laws read of an operation."""

    @property
    def name(self) -> str: ...
    @property
    def args(self) -> Args: ...
    @property
    def result(self) -> str | None: ...


Look = Callable[[SideLike, Args], Before]
Law = Callable[[SideLike, Args, int, Before, str | None], str | None]


def states_of(k: Kernel, lo: int, hi: int) -> list[tuple[int, int, Any]]:
    """The blocks that meet frames [lo, hi), and their states."""
    per = k.memory_blocks.pages
    return k.memory_blocks.zone.runs(lo // per, -(-hi // per))


def subsections_of(k: Kernel, lo: int, hi: int) -> tuple[int, int]:
    """The subsections that meet frames [lo, hi)."""
    per = k.arch.pages_per_subsection
    return lo // per, -(-hi // per)


def self_hosted(k: Kernel, first: int, last: int) -> bool | None:
    """Whether all memory blocks of [first, last) hold their own memmap, or none does; None for some of them."""
    hosted = sum([first <= block < last for block in k.memory_blocks.altmaps])
    return None if 0 < hosted < last - first else hosted > 0


def dax_aligns(arch: Arch) -> list[int]:
    """Alignments of devices that page table entries have, in bytes (dax_align_valid, drivers/dax/dax-private.h)."""
    shifts = [arch.page_shift, arch.pmd_shift, *([arch.pud_shift] if arch.pud_thp else [])]
    return [1 << shift for shift in shifts]
