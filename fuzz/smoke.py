"""`vmemmap-fuzz smoke`: is this checkout able to find bugs, and does it find one?

Three parts. The corpus is replayed, and held against what a real kernel answered. Known defects are planted, one after
the other, and each must be found, minimized and reported within `PLANT_PROGRAMS` programs: a fuzzer that finds nothing
must first show that it would. Which ones follows from the sources (`rotation`). Then both models are fuzzed as they
are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, Final

from fuzz.answers import check
from fuzz.campaign import start
from fuzz.campaign.campaign import Summary
from fuzz.campaign.helper import settle
from fuzz.campaign.settings import Settings
from fuzz.campaign.start import Options
from fuzz.engines import DEFAULT, make
from fuzz.engines.statistics import Statistics
from fuzz.execute import Profile, run_program
from fuzz.findings import Report, write
from fuzz.program.errors import ProgramError
from fuzz.program.text import parse_file
from fuzz.progress import Progress
from fuzz.races.trial import hunt
from fuzz.results import sources
from live.answers import SUFFIX, AnswersError
from live.recorded import FOLDER, load, programs
from zoo import DEFECTS, Defect, Version, name_of, planted, reference_version

ROOT: Final = Path(__file__).resolve().parent.parent
HISTORY: Final = ROOT / "corpus" / "history"
"""Programs that show what an older reference did; against 7.3 they show nothing."""
CORPUS: Final = (ROOT / "corpus" / "seeds", ROOT / "corpus" / "regressions", FOLDER)
PLANTED: Final = 3
"""Defects that one smoke plants."""
PLANT_PROGRAMS: Final = 12_000
"""Programs in which the default engine must have found each: some times the slowest of the trials of docs/zoo.md."""
PATIENCE: Final = 6.0
"""Seconds for minimizing one finding: this is a check, `vmemmap-fuzz minimize` has all the time it needs."""
PLANTED_REPORTS: Final = "planted"
"""Folder, below the reports, of the reports that are no findings: what the planted defect gave."""


@dataclass(slots=True)
class Replayed:
    """One program of the corpus."""

    path: Path
    verdict: str
    """"ok", "explained", "finding", or "error" where the file is no program or holds no answers."""
    detail: str = ""
    reference: Version = "v7.3"

    @property
    def bad(self) -> bool:
        """Whether somebody has to look at it."""
        return self.verdict in ("finding", "error")


@dataclass(slots=True)
class Planted:
    """One planted defect."""

    defect: str
    report: Report | None
    """What it gave; None if it was not found."""
    programs: int
    """Until it was found, or in all."""

    def __str__(self) -> str:
        """What became of it."""
        if self.report is None:
            return f"not found in {self.programs} programs"
        return f"found in program {self.programs}, minimized to {len(self.report.program.ops)} operations"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "defect": self.defect,
            "found": self.report is not None,
            "programs": self.programs,
            "operations_minimized": len(self.report.program.ops) if self.report else None,
        }


@dataclass(slots=True)
class SmokeResult:
    """What the three parts gave."""

    replayed: list[Replayed] = field(default_factory=list)
    planted: list[Planted] = field(default_factory=list)
    summary: Summary = field(default_factory=lambda: Summary(Statistics(), {}, [], [], 0.0))
    seconds: float = 0.0

    @property
    def diverged(self) -> bool:
        """Whether the models differ, the planted defects apart."""
        return self.summary.diverged or any(entry.verdict == "finding" for entry in self.replayed)

    @property
    def broken(self) -> bool:
        """Whether the tool itself failed: a planted defect not found, a corpus file that is no program."""
        return any(one.report is None for one in self.planted) or any(
            entry.verdict == "error" for entry in self.replayed
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "replayed": [
                {
                    "file": str(entry.path),
                    "reference": entry.reference,
                    "verdict": entry.verdict,
                    "detail": entry.detail,
                }
                for entry in self.replayed
            ],
            "planted": [one.to_json() for one in self.planted],
            "engines": {name: statistics.to_json() for name, statistics in self.summary.engines.items()},
            "unavailable": self.summary.broken,
            "findings": [
                {"signature": report.finding.signature, "folder": report.name}
                for report in (*self.summary.reports, *self.summary.quarantined)
            ],
            "interrupted": self.summary.interrupted,
            "seconds": round(self.seconds, 1),
        }


def smoke(
    seconds: float,
    seed: int,
    profile: Profile,
    reports: Path,
    progress: Progress,
    *,
    programs: int | None = None,
    reference: Version = "v7.3",
    defects: Sequence[Defect] = (),
) -> SmokeResult:
    """Run all three parts; KeyboardInterrupt in the last one ends it early. `defects` are planted, or those of the
    rotation if there are none.

    With a number of programs instead of a time, everything in the result but the times follows from the seed.
    """
    begin = monotonic()
    result = SmokeResult()
    result.replayed = replay_corpus(profile, progress, reference)
    for defect in defects or rotation():
        result.planted.append(find_planted(defect, seed, profile, reports, progress))
    if programs is None:
        settings = Settings(("libfuzzer", "uniform"), seed, profile, None, reference)
        options = Options(reports, seconds, workers=2, patience=PATIENCE)
        how_long = f"{seconds:.0f} s"
    else:
        settings = Settings(("uniform",), seed, profile, None, reference)
        options = Options(reports, programs=programs, workers=min(2, os.cpu_count() or 1))
        how_long = f"{programs} programs"
    progress.say(f"fuzzing for {how_long}: {' and '.join(settings.engines)}")
    with tempfile.TemporaryDirectory(prefix="vmemmap-fuzz-smoke-") as folder:
        result.summary = start.begin(Path(folder), settings, options, progress)
    result.seconds = monotonic() - begin
    return result


def replay_corpus(profile: Profile, progress: Progress, reference: Version = "v7.3") -> list[Replayed]:
    """Run every program of the corpus; those of corpus/history against 7.3 and against the reference they are about."""
    paths = sorted(path for folder in CORPUS for path in folder.rglob("*.vmm"))
    out = [replay(path, profile, reference) for path in paths]
    paths += sorted(HISTORY.glob("*.vmm"))
    versions: tuple[Version, ...] = "v7.3", "v7.0-base"
    out += [replay(path, profile, version) for path in paths[len(out) :] for version in versions]
    recorded = programs([FOLDER]) if reference == "v7.3" else []
    out += [replay_answers(path, profile) for path in recorded]
    bad = [entry for entry in out if entry.bad]
    progress.say(f"corpus: {len(paths)} programs replayed, {len(bad)} with a difference or an error")
    progress.say(f"  {len(recorded)} of them against what a real kernel answered, too")
    for entry in bad:
        progress.say(f"  {entry.path}: {entry.detail}")
    return out


def replay(path: Path, profile: Profile, reference: Version) -> Replayed:
    """Run one file."""
    try:
        with reference_version(reference):
            out = run_program(parse_file(path), profile=profile)
    except ProgramError as error:
        return Replayed(path, "error", str(error), reference)
    return Replayed(path, out.verdict, out.finding.signature if out.finding else "", reference)


def replay_answers(path: Path, profile: Profile) -> Replayed:
    """Hold both models against what a real kernel answered to one program."""
    answers = path.with_suffix(SUFFIX)
    try:
        wrong = check(load(path), profile).wrong
    except (ProgramError, AnswersError) as error:
        return Replayed(answers, "error", str(error))
    if wrong is None:
        return Replayed(answers, "ok")
    side, finding = wrong
    return Replayed(answers, "finding", f"{side} and Linux: {finding.detail}")


def rotation(digest: str | None = None) -> list[Defect]:
    """The defects that these sources plant: another few with each change of code or corpus, the same on any machine."""
    known = [defect for defect in DEFECTS.values() if defect.program is not None]
    return Random(digest or sources()).sample(known, PLANTED)


def find_planted(plant: Defect, seed: int, profile: Profile, reports: Path, progress: Progress) -> Planted:
    """Plant a defect and let the default engine find it."""
    name = name_of(plant)
    engine = make(DEFAULT, seed, profile)
    found = hunt(engine, plant, profile, programs=PLANT_PROGRAMS).found
    programs = engine.statistics.programs
    if found is None:
        progress.say(f"planted {name} in the {plant.side}: NOT found in {programs} programs")
        return Planted(name, None, programs)
    with planted(plant):
        report = settle(found, profile, name)
    write(report, reports / PLANTED_REPORTS, profile, name)
    progress.say(
        f"planted {name} in the {plant.side} ({plant.title}): found in program {programs}, "
        f"minimized from {report.original} to {len(report.program.ops)} operations"
    )
    return Planted(name, report, programs)
