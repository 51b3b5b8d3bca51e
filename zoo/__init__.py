"""Real bugs of Linux as named defects, each put into one side at one spot, for as long as a block runs.

    with planted(find("ACC-2026-01")):
        run_program(...)            # the reference has the defect, the candidate has not

`mechanism` plants, `defect` says what a defect is, `reference` holds those of the separate paths, `registry` finds them
by name, and `versions` knows the sets that make an older reference.
"""

from zoo.defect import Defect
from zoo.mechanism import planted
from zoo.registry import DEFECTS, NOT_MODELLED, find, name_of
from zoo.versions import PROFILES, Version, reference_version, version

__all__ = [
    "DEFECTS",
    "NOT_MODELLED",
    "PROFILES",
    "Defect",
    "Version",
    "find",
    "name_of",
    "planted",
    "reference_version",
    "version",
]
