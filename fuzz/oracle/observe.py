"""Observation of one kernel."""

from __future__ import annotations

from fuzz.oracle.finding import Difference
from mm.kernel import Kernel


def counters(k: Kernel) -> list[tuple[str, int]]:
    v = k.vmstat
    out = [
        ("nr_memmap", v.nr_memmap),
        ("nr_memmap_boot", v.nr_memmap_boot),
        ("nr_page_table_pages", v.nr_page_table_pages),
    ]
    for h in k.hstates.values():
        out.append((f"hugetlb.{h.order}", sum(h.nr)))
    return out


def first_difference(a: list[tuple[str, int]], b: list[tuple[str, int]]) -> Difference | None:
    for (name, x), (_, y) in zip(a, b, strict=True):
        if x != y:
            return Difference("accounting", name, "+" if y > x else "-", f"{name}: {x} against {y}")
    return None
