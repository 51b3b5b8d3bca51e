"""Known defects, put into one side of the running process at one spot, to prove that the fuzzer finds what it should.

The names are those of real bugs that Linux had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, NamedTuple

from mm.arch import STRUCT_PAGE


class Plant(NamedTuple):
    """One defect: a replacement for one function of one side."""

    title: str
    side: str
    module: str
    function: str
    replacement: Any


def _full_count(k: Any, pfn: int, nr: int, *rest: Any) -> int:
    """section_nr_vmemmap_pages as it was before the fix: blind to the optimization."""
    return -(-nr * STRUCT_PAGE // int(k.arch.page))


PLANTS: Final = {
    "ACC-2026-03": Plant(
        "device DAX memmap is counted as if it were not optimized",
        "reference",
        "reference.sparse_vmemmap",
        "section_nr_vmemmap_pages",
        _full_count,
    ),
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Run a block with a defect in place; None plants nothing."""
    if name is None:
        yield
        return
    plant = PLANTS[name]
    module = import_module(plant.module)
    original = getattr(module, plant.function)
    setattr(module, plant.function, plant.replacement)
    try:
        yield
    finally:
        setattr(module, plant.function, original)
