"""`vmemmap-fuzz smoke`: is this checkout able to find bugs, and does it find one?

Three parts. The corpus is replayed. A known defect is planted in one model, and must be found, minimized and reported
within `PLANT_PROGRAMS` programs: a fuzzer that finds nothing must first show that it would. Then both models are fuzzed
as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

from fuzz.engines import make
from fuzz.execute import Profile, run_program
from fuzz.findings import Report, Reporter
from fuzz.program.errors import ProgramError
from fuzz.program.text import parse_file
from fuzz.session import Progress, Session
from zoo import find, planted

ROOT: Final = Path(__file__).resolve().parent.parent
CORPUS: Final = (ROOT / "corpus" / "seeds", ROOT / "corpus" / "regressions")
PLANT: Final = "ACC-2026-03"
PLANT_PROGRAMS: Final = 400
PATIENCE: Final = 6.0
"""Seconds for minimizing one finding: this is a check, `vmemmap-fuzz minimize` has all the time it needs."""
PLANTED_REPORTS: Final = "planted"
"""Folder, below the reports, of the reports that are no findings: what the planted defect gave."""


@dataclass(slots=True)
class Replayed:
    """One program of the corpus."""

    path: Path
    verdict: str
    """"ok", "explained", "finding", or "error" where the file is no program."""
    detail: str = ""


@dataclass(slots=True)
class SmokeResult:
    """What the three parts gave."""

    replayed: list[Replayed] = field(default_factory=list)
    planted: Report | None = None
    planted_programs: int = 0
    session: Session | None = None
    reports: list[Report] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def diverged(self) -> bool:
        """Whether the models differ, the planted defect apart."""
        return bool(self.reports) or any(entry.verdict == "finding" for entry in self.replayed)

    @property
    def broken(self) -> bool:
        """Whether the tool itself failed: a planted defect not found, a corpus file that is no program."""
        return self.planted is None or any(entry.verdict == "error" for entry in self.replayed)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        assert self.session is not None
        return {
            "replayed": [
                {"file": str(entry.path), "verdict": entry.verdict, "detail": entry.detail} for entry in self.replayed
            ],
            "planted": {
                "defect": PLANT,
                "found": self.planted is not None,
                "programs": self.planted_programs,
                "operations_minimized": len(self.planted.program.ops) if self.planted else None,
            },
            "engines": {engine.name: engine.statistics.to_json() for engine in self.session.engines},
            "unavailable": self.session.broken,
            "findings": [{"signature": report.finding.signature, "folder": report.name} for report in self.reports],
            "interrupted": self.session.interrupted,
            "seconds": round(self.seconds, 1),
        }


def smoke(seconds: float, seed: int, profile: Profile, reports: Path, progress: Progress) -> SmokeResult:
    """Run all three parts; KeyboardInterrupt in the last one ends it early."""
    begin = monotonic()
    result = SmokeResult()
    result.replayed = replay_corpus(profile, progress)
    result.planted = find_planted(seed, profile, reports, progress, result)
    engines = [make("libfuzzer", seed, profile), make("uniform", seed, profile)]
    result.session = Session(engines, Reporter(reports, profile, patience=PATIENCE), progress)
    progress.say(f"fuzzing for {seconds:.0f} s: {' and '.join(engine.name for engine in engines)}")
    result.reports = result.session.run(seconds, None)
    result.seconds = monotonic() - begin
    return result


def replay_corpus(profile: Profile, progress: Progress) -> list[Replayed]:
    """Run every program of the corpus."""
    paths = sorted(path for folder in CORPUS for path in folder.rglob("*.vmm"))
    out = [replay(path, profile) for path in paths]
    bad = [entry for entry in out if entry.verdict in ("finding", "error")]
    progress.say(f"corpus: {len(paths)} programs replayed, {len(bad)} with a difference or an error")
    for entry in bad:
        progress.say(f"  {entry.path}: {entry.detail}")
    return out


def replay(path: Path, profile: Profile) -> Replayed:
    """Run one file."""
    try:
        out = run_program(parse_file(path), profile=profile)
    except ProgramError as error:
        return Replayed(path, "error", str(error))
    return Replayed(path, out.verdict, out.finding.signature if out.finding else "")


def find_planted(seed: int, profile: Profile, reports: Path, progress: Progress, result: SmokeResult) -> Report | None:
    """Plant the known defect and let the uniform engine find it; the report it made."""
    plant = find(PLANT)
    reporter = Reporter(reports / PLANTED_REPORTS, profile, PLANT)
    engine = make("uniform", seed, profile)
    report = None
    while report is None and engine.statistics.programs < PLANT_PROGRAMS:
        with planted(plant):
            discoveries = engine.advance(60.0, 1)
        for discovery in discoveries:
            # The models may really differ too: this is the defect iff the same program is clean without it.
            if run_program(discovery.program, profile=profile).finding is None:
                with planted(plant):
                    report = reporter.report(discovery)
    result.planted_programs = engine.statistics.programs
    if report is None:
        progress.say(f"planted {PLANT} in the {plant.side}: NOT found in {PLANT_PROGRAMS} programs")
    else:
        progress.say(
            f"planted {PLANT} in the {plant.side} ({plant.title}): found in program {engine.statistics.programs}, "
            f"minimized from {report.original} to {len(report.program.ops)} operations"
        )
    return report
