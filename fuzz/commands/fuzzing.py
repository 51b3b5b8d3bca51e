"""`vmemmap-fuzz run` and `smoke`."""

from __future__ import annotations

import enum
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuzz.commands.common import (
    DIFFERENT,
    INTERNAL,
    PATIENCE,
    REPORTS,
    SAME,
    USAGE,
    JsonOption,
    Profile,
    ProfileOption,
    ReportsOption,
    SeedOption,
    app,
    guarded,
    name_of,
    print_json,
    print_table,
    writable,
)

if TYPE_CHECKING:
    from fuzz.engines.protocol import Statistics
    from fuzz.findings import Report
    from fuzz.session import Session


class EngineName(enum.StrEnum):
    """`fuzz.engines.NAMES`, for the parser."""

    uniform = "uniform"
    swarm = "swarm"
    guided = "guided"
    libfuzzer = "libfuzzer"
    stateful = "stateful"


@app.command()
@guarded
def run(
    engine: Annotated[
        EngineName,
        typer.Option(
            help="uniform: random programs drawn against the live state. swarm: the same, with a random subset of the "
            "operations in each. guided: continues and mutates what did something new. libfuzzer: follows branch "
            "coverage. stateful: Hypothesis, slow."
        ),
    ] = EngineName.uniform,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after that long (60 if nothing is said).")] = None,
    programs: Annotated[
        int | None, typer.Option(min=1, help="Stop after that many programs; with --seed, a run that can be repeated.")
    ] = None,
    seed: SeedOption = 0,
    profile: ProfileOption = Profile.posted,
    reports: ReportsOption = REPORTS,
    as_json: JsonOption = False,
) -> None:
    """Fuzz with one engine.

    Every finding is minimized, run again in a fresh process, and written to its own folder below --reports, as
    repro.vmm and finding.json. Ctrl-C ends the run early: what was found is kept, the summary is printed, and the exit
    code is as if the time had been up.
    """
    from fuzz.engines import make
    from fuzz.findings import Reporter
    from fuzz.session import Progress, Session

    writable(reports)
    if seconds is None and programs is None:
        seconds = 60.0
    chosen = make(engine.value, seed, name_of(profile))
    # A clock in the minimizer would make a run that is to be repeated differ.
    patience = PATIENCE if programs is None else None
    session = Session([chosen], Reporter(reports, name_of(profile), patience=patience), Progress())
    found = session.run(seconds, programs)
    if session.broken:
        print(f"error: {session.broken[chosen.name]}", file=sys.stderr)
        raise typer.Exit(USAGE if not chosen.statistics.programs else INTERNAL)
    if as_json:
        print_json(
            {
                "engine": chosen.name,
                "seed": seed,
                "profile": profile.value,
                "interrupted": session.interrupted,
                **chosen.statistics.to_json(),
                "reports": [report_json(report) for report in found],
            }
        )
    else:
        summary(session, found)
    raise typer.Exit(DIFFERENT if found else SAME)


def report_json(report: Report) -> dict[str, Any]:
    """A report as plain JSON values."""
    return {
        "signature": report.finding.signature,
        "detail": report.finding.detail,
        "folder": report.name,
        "engine": report.engine,
        "operations": len(report.program.ops),
        "confirmed": report.confirmed,
    }


def summary(session: Session, found: list[Report]) -> None:
    """What the engines did and found, as tables."""
    rows = [
        _engine_row(engine.name, engine.statistics) for engine in session.engines if engine.name not in session.broken
    ]
    if session.interrupted:
        print("interrupted; this is what was done until then")
    print_table(
        f"{session.seconds:.0f} s",
        ["engine", "programs", "operations", "ops/s", "kinds", "outcomes", "clauses", "findings"],
        rows,
        right=1,
    )
    for report in found:
        seen = "" if report.confirmed else ", NOT seen again in a fresh process"
        size = f"{len(report.program.ops)} operations{seen}"
        print(f"finding: {report.finding.signature}\n  {report.finding.detail}")
        print(f"  {size}: {session.reporter.folder / report.name}\n")
    if not found:
        print("no unexplained difference")


def _engine_row(name: str, statistics: Statistics) -> list[str]:
    speed = statistics.operations / statistics.seconds if statistics.seconds else 0.0
    numbers = (statistics.programs, statistics.operations, speed, statistics.kinds, len(statistics.outcomes))
    counted = [f"{number:,.0f}" for number in numbers]
    return [name, *counted, str(len(statistics.clauses)), str(statistics.findings)]


@app.command("smoke")
@guarded
def smoke_command(
    seconds: Annotated[
        float, typer.Option(min=0, help="How long to fuzz, after the corpus and the planted defect.")
    ] = 60.0,
    seed: SeedOption = 0,
    profile: ProfileOption = Profile.posted,
    reports: ReportsOption = REPORTS,
    as_json: JsonOption = False,
) -> None:
    """Check that everything works: replay the corpus, find a planted defect, fuzz for a minute.

    The planted defect is one that Linux had (ACC-2026-03: device DAX memmap counted as if it were not optimized). It is
    put into the reference, and must be found, minimized and reported before the real fuzzing starts; its report goes to
    `planted` below --reports and counts as no finding. Then libfuzzer and uniform run at once. Where atheris is not
    installed, uniform runs alone.
    """
    from fuzz.session import Progress
    from fuzz.smoke import PLANT, smoke

    writable(reports)
    result = smoke(seconds, seed, name_of(profile), reports, Progress())
    if as_json:
        print_json(result.to_json())
    else:
        assert result.session is not None
        summary(result.session, result.reports)
        bad = sum(entry.verdict in ("finding", "error") for entry in result.replayed)
        print(f"corpus: {len(result.replayed)} programs, {bad} bad")
        for entry in result.replayed:
            if entry.verdict in ("finding", "error"):
                print(f"  {entry.path}: {entry.detail}")
        if result.planted is None:
            print(f"planted defect {PLANT}: not found")
        else:
            size = len(result.planted.program.ops)
            print(f"planted defect {PLANT}: found in program {result.planted_programs}, minimized to {size} operations")
    if result.diverged:
        raise typer.Exit(DIFFERENT)
    raise typer.Exit(INTERNAL if result.broken else SAME)
