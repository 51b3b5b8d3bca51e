"""All defects by name, and what cannot be planted."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from zoo import candidate, reference, shared
from zoo.defect import Defect, NotModelled, Side
from zoo.versions import V7_0_BASE

DEFECTS: Final[dict[str, Defect]] = {
    defect.id: defect for defect in (*V7_0_BASE, *reference.OLDER, *candidate.CANDIDATE, *shared.SHARED)
}
"""By id."""

SIDES: Final[tuple[Side, ...]] = ("reference", "candidate")

_BY_SWITCH: Final = {defect.switch: defect for defect in DEFECTS.values()}

NOT_MODELLED: Final = (
    NotModelled(
        "HVO-2025-26",
        "order of loads in PFN walkers",
        "it takes two operations that overlap, and operations are atomic here",
    ),
    NotModelled(
        "HVO-2024-38",
        "PFN walkers write to read-only tails",
        "it takes two operations that overlap, and operations are atomic here",
    ),
    NotModelled(
        "HPG-2024-41",
        "poison between two steps of freeing",
        "it takes two operations that overlap, and operations are atomic here",
    ),
    NotModelled(
        "HPG-2024-42",
        "deadlock of memory failure with HVO",
        "locks are not modelled",
    ),
    NotModelled(
        "RV-2024-46",
        "no flush after vmemmap is populated",
        "invalid translations that a CPU caches are not modelled",
    ),
    NotModelled(
        "HVO-2023-51",
        "two splits of one PMD",
        "it takes two operations that overlap, and operations are atomic here",
    ),
    NotModelled(
        "MHP-2023-59",
        "missing mem_hotplug_lock",
        "it takes two operations that overlap, and operations are atomic here",
    ),
    NotModelled(
        "SPARSE-2023-69",
        "use of a freed usage map",
        "it takes two operations that overlap, and operations are atomic here",
    ),
    NotModelled(
        "boot_refcount_registry",
        "boot memmap frames had reference count 2 and could be freed by HVO only when registered",
        "reference counts of boot memmap frames are not modelled; their count changed nothing but that",
    ),
)


def name_of(defect: Defect) -> str:
    """The name by which `find` gives this very defect."""
    return defect.id if defect.side == DEFECTS[defect.id].side else f"{defect.id}@{defect.side}"


def find(name: str) -> Defect:
    """The defect with this id or switch, of shared code also as `ID@side`; ValueError names those that there are."""
    name, _, side = name.partition("@")
    defect = DEFECTS.get(name) or _BY_SWITCH.get(name)
    if defect is None:
        raise ValueError(f"no defect {name!r}; there are {', '.join(sorted(DEFECTS))}")
    for known in SIDES:
        if side == known:
            if side != defect.side and not defect.spot.startswith("mm."):
                raise ValueError(f"defect {name!r} lives in the {defect.side}")
            return replace(defect, side=known)
    if side:
        raise ValueError(f"no side {side!r}; write {name}@reference or {name}@candidate")
    return defect
