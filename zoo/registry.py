"""All defects by name, the profiles made of them, and what cannot be planted."""

from __future__ import annotations

from typing import Final

from zoo import reference
from zoo.defect import Defect, NotModelled

V7_0_BASE: Final = (
    reference.ACCT_UNDERFLOW_ON_POPULATE_FAIL,
    reference.EARLY_FINAL_REMOVE_PARTIAL_COUNT,
    reference.PREHVO_WRPROTECT_RANGE,
    reference.ROLLBACK_DESTROYS_HEAD,
    reference.BLOCK_CREATE_FAIL_NO_ALTMAP,
    reference.DAX_FULL_COUNT,
    reference.PAGEBLOCK_FIRST_ONLY,
    reference.EARLY_SECTION_SHORT_INIT,
    reference.PPC_ADDR_PFN,
    reference.BOOT_POPULATE_DROP,
)
"""What separate-paths.md section 5 calls FIXED, as far as it can be modelled."""

PROFILES: Final[dict[str, tuple[Defect, ...]]] = {"v7.3": (), "v7.0-base": V7_0_BASE}
"""The reference as it was: which defects it has."""

DEFECTS: Final[dict[str, Defect]] = {defect.id: defect for defect in V7_0_BASE}
"""By id."""

_BY_SWITCH: Final = {defect.switch: defect for defect in DEFECTS.values()}

NOT_MODELLED: Final = (
    NotModelled(
        "compound_no_toplevel_sync",
        "population did not propagate new top-level entries to other page tables (x86)",
        "there is one page table, that of init_mm",
    ),
    NotModelled(
        "boot_refcount_registry",
        "boot memmap frames had reference count 2 and could be freed by HVO only when registered",
        "reference counts of boot memmap frames are not modelled; their count changed nothing but that",
    ),
)


def find(name: str) -> Defect:
    """The defect with this id or switch; ValueError names those that there are."""
    defect = DEFECTS.get(name) or _BY_SWITCH.get(name)
    if defect is None:
        raise ValueError(f"no defect {name!r}; there are {', '.join(sorted(DEFECTS))}")
    return defect
