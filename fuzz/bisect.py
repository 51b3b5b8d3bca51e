"""Which commit of the models changed what a program shows: each revision is run from a work tree of its own.

The program goes through `replay` of the revision itself, under the interpreter at hand. A revision that cannot run it,
being older than an operation, say, is passed over, as `git bisect skip` does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

LIMIT: Final = 300.0
"""Seconds that one revision may take."""
AGREES: Final = "no difference"


class BisectError(Exception):
    """It cannot be done: one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Bisected:
    """The first commit that shows what the bad revision shows."""

    commit: str
    subject: str
    good: str
    """What the good revision shows: a signature, or that there is no difference."""
    bad: str
    skipped: tuple[str, ...]
    """Commits just before it that could not be run, any of which may be to blame instead."""


class Sides(NamedTuple):
    """What the two sides model."""

    profile: str = "posted"
    reference: str = "v7.3"

    def options(self) -> list[str]:
        """For `replay`; revisions that know one reference have no option for it."""
        other = [] if self.reference == "v7.3" else ["--reference", self.reference]
        return ["--profile", self.profile, *other]


def git(repository: Path, *words: str) -> str:
    """What git says; raises BisectError with its complaint."""
    out = subprocess.run(["git", "-C", repository, *words], capture_output=True, text=True, check=False)
    if out.returncode:
        raise BisectError(f"git {words[0]}: {out.stderr.strip()}")
    return out.stdout.strip()


def shows(repository: Path, commit: str, program: Path, sides: Sides) -> str | None:
    """The signature that a revision gives the program, or that it agrees; None if it cannot run it."""
    with tempfile.TemporaryDirectory(prefix="vmemmap-fuzz-bisect-") as folder:
        tree = Path(folder) / "tree"
        git(repository, "worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            out = subprocess.run(
                [sys.executable, "-P", "-m", "fuzz.cli", "replay", "--json", *sides.options(), str(program)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(tree)},
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
            if out.returncode not in (0, 1):
                return None
            return json.loads(out.stdout)[0]["signature"] or AGREES
        except (subprocess.TimeoutExpired, ValueError, LookupError):
            return None
        finally:
            git(repository, "worktree", "remove", "--force", str(tree))


def bisect(
    repository: Path, good: str, bad: str, program: Path, sides: Sides, say: Callable[[str], None] = lambda _: None
) -> Bisected:
    """Search between two revisions that show different things; raises BisectError if they do not."""
    ends = []
    for revision in (good, bad):
        commit = git(repository, "rev-parse", "--verify", f"{revision}^{{commit}}")
        shown = shows(repository, commit, program, sides)
        if shown is None:
            raise BisectError(f"{revision} cannot run {program}")
        say(f"{revision}: {shown}")
        ends.append((commit, shown))
    (first, was), (last, now) = ends
    if was == now:
        raise BisectError(f"both revisions show the same: {now}")
    line = git(repository, "rev-list", "--reverse", "--first-parent", f"{first}..{last}").split()
    if git(repository, "merge-base", first, last) != first:
        raise BisectError(f"{good} is no ancestor of {bad}")
    low, high = -1, len(line) - 1
    skipped: set[int] = set()
    while True:
        open_ones = [i for i in range(low + 1, high) if i not in skipped]
        if not open_ones:
            break
        middle = open_ones[len(open_ones) // 2]
        shown = shows(repository, line[middle], program, sides)
        say(f"{line[middle][:12]}: {shown or 'cannot run it, passed over'}")
        if shown is None:
            skipped.add(middle)
        elif shown == now:
            high = middle
        else:
            low = middle
    subject = git(repository, "log", "-1", "--format=%s", line[high])
    return Bisected(line[high], subject, was, now, tuple(line[i] for i in range(low + 1, high)))
