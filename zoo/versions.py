"""The reference as it was: Linux 7.3, or an older version with the bugs that it still had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from reference.paths import SeparatePaths
from zoo import reference as old
from zoo.defect import Defect
from zoo.mechanism import planted

Version = Literal["v7.3", "v7.0-base"]

V7_0_BASE: Final = (
    old.ACCT_UNDERFLOW_ON_POPULATE_FAIL,
    old.EARLY_FINAL_REMOVE_PARTIAL_COUNT,
    old.PREHVO_WRPROTECT_RANGE,
    old.ROLLBACK_DESTROYS_HEAD,
    old.BLOCK_CREATE_FAIL_NO_ALTMAP,
    old.DAX_FULL_COUNT,
    old.PAGEBLOCK_FIRST_ONLY,
    old.EARLY_SECTION_SHORT_INIT,
    old.PPC_ADDR_PFN,
    old.BOOT_POPULATE_DROP,
)
"""What separate-paths.md section 5 calls FIXED, as far as it can be modelled."""

PROFILES: Final[dict[Version, tuple[Defect, ...]]] = {"v7.3": (), "v7.0-base": V7_0_BASE}
"""Which defects the reference has in each version."""


def version(name: str) -> Version:
    """The version with this name; ValueError names those that there are."""
    for known in PROFILES:
        if known == name:
            return known
    raise ValueError(f"no reference {name!r}; there are {', '.join(PROFILES)}")


@contextmanager
def reference_version(name: Version, *defects: Defect) -> Iterator[None]:
    """Run a block in which the reference is that of version `name`, and kernels that are made have `defects` besides.

    Unlike with `planted(*PROFILES[name])` the side says which version it is, and the oracle knows what to expect of
    it.
    """
    before = SeparatePaths.version
    SeparatePaths.version = name
    try:
        with planted(*PROFILES[name], *defects):
            yield
    finally:
        SeparatePaths.version = before
