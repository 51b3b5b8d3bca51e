"""`vmemmap-fuzz run` and `smoke`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuzz.commands.common import (
    DEFAULT_ENGINE,
    DIFFERENT,
    INTERNAL,
    PATIENCE,
    REPORTS,
    SAME,
    USAGE,
    DefectOption,
    EngineName,
    JsonOption,
    Profile,
    ProfileOption,
    Reference,
    ReferenceOption,
    ReportsOption,
    SeedOption,
    app,
    defects_of,
    fail,
    guarded,
    name_of,
    print_json,
    print_table,
    version_of,
    writable,
)

if TYPE_CHECKING:
    from fuzz.campaign.campaign import Summary
    from fuzz.engines.statistics import Statistics
    from fuzz.findings import Report


@app.command()
@guarded
def run(
    context: typer.Context,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="uniform: random programs drawn against the live state. swarm: the same, with a random subset of the "
            "operations in each. guided: continues, fails and mutates what did something new. libfuzzer: follows "
            "branch coverage. stateful: Hypothesis, slow. docs/engines.md has more."
        ),
    ] = DEFAULT_ENGINE,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after that long (60 if nothing is said).")] = None,
    programs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop after that many programs; with --seed, a run that can be repeated, by guided with one worker, "
            "by uniform and swarm with any number.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0 for one on each core.")] = 1,
    seed: SeedOption = 0,
    profile: ProfileOption = Profile.posted,
    reference: ReferenceOption = Reference.v7_3,
    defect: DefectOption = None,
    campaign: Annotated[
        Path | None,
        typer.Option(help="Folder for the campaign: corpus, findings, statistics.  [default: one below campaigns/]"),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with the campaign in this folder.", show_default=False)
    ] = None,
    reports: ReportsOption = REPORTS,
    hang: Annotated[
        float, typer.Option(min=1, help="Seconds without a new operation after which a worker counts as hung.")
    ] = 60.0,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Work on the machines of this Dask scheduler (docs/campaigns.md)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fuzz, for seconds or for weeks.

    Every finding is minimized, run again in a fresh process, and written to its own folder below --reports, as
    repro.vmm and finding.json. Ctrl-C (or SIGTERM) ends the run early: what was found is kept, the summary is printed,
    and the exit code is as if the time had been up. A campaign that was killed goes on with --resume.

    P(new) estimates the chance that the next program shows an operation, an outcome, a pair of them or a ledger clause
    that none has shown before: the share of programs that show something no other program does (Good-Turing).
    """
    from fuzz.campaign.settings import CampaignError, Settings
    from fuzz.campaign.start import Options, begin, new_folder
    from fuzz.campaign.start import resume as go_on
    from fuzz.progress import Progress

    if resume is not None:
        for name in ("engine", "seed", "profile", "reference", "defect", "campaign"):
            source = context.get_parameter_source(name)
            if source is not None and source.name != "DEFAULT":
                raise fail(f"--{name} cannot be given with --resume: the campaign has its own")
    defects_of(defect)
    writable(reports)
    if seconds is None and programs is None:
        seconds = 60.0
    options = Options(reports, seconds, programs, workers, PATIENCE, hang, dask)
    settings = Settings((engine.value,), seed, name_of(profile), defect, version_of(reference))
    folder = resume or campaign or new_folder()
    try:
        if resume is None:
            done = begin(folder, settings, options, Progress())
        else:
            settings = Settings.load(folder)
            done = go_on(folder, options, Progress())
    except CampaignError as error:
        raise fail(str(error)) from None
    if done.broken:
        for why in done.broken.values():
            print(f"error: {why}", file=sys.stderr)
        raise typer.Exit(USAGE if not done.statistics.programs else INTERNAL)
    if as_json:
        print_json(
            {
                "engine": "+".join(settings.engines),
                "seed": settings.seed,
                "profile": settings.profile,
                "reference": settings.reference,
                "campaign": str(folder),
                "interrupted": done.interrupted,
                **done.statistics.to_json(),
                "reports": [report_json(report) for report in done.reports],
                "quarantined": [report_json(report) for report in done.quarantined],
                "unwritten": [report_json(report) for report in done.unwritten],
            }
        )
    else:
        summary(done, reports)
        print(f"campaign: {folder}")
        advise()
    raise typer.Exit(DIFFERENT if done.diverged else SAME)


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


def summary(done: Summary, folder: Path) -> None:
    """What the engines did and found, as tables."""
    rows = [_engine_row(name, statistics) for name, statistics in done.engines.items()]
    if done.interrupted:
        print("interrupted; this is what was done until then")
    print_table(
        f"{done.seconds:.0f} s",
        ["engine", "programs", "operations", "ops/s", "kinds", "outcomes", "clauses", "findings"],
        rows,
        right=1,
    )
    for report in done.reports:
        seen = "" if report.confirmed else f", {report.seen}"
        size = f"{len(report.program.ops)} operations{seen}"
        print(f"finding: {report.finding.signature}\n  {report.finding.detail}")
        print(f"  {size}: {folder / report.name}\n")
    for report in done.quarantined:
        print(f"quarantined: {report.finding.signature}\n  {report.finding.detail}\n  {folder / report.name}\n")
    if not done.diverged:
        print("no unexplained difference")
    if done.unwritten:
        from fuzz.program.text import format as format_program

        print("These could not be written to the disk. Keep them:")
        for report in done.unwritten:
            print(f"\n# {report.finding.signature}\n{format_program(report.program)}")


def advise() -> None:
    """Say that `make compiled` would be of use, to a person at a terminal only."""
    from fuzz.compiled.build import advice

    text = advice() if sys.stderr.isatty() else None
    if text is not None:
        print(text, file=sys.stderr)


def _engine_row(name: str, statistics: Statistics) -> list[str]:
    speed = statistics.operations / statistics.seconds if statistics.seconds else 0.0
    numbers = (statistics.programs, statistics.operations, speed, statistics.kinds, len(statistics.outcomes))
    counted = [f"{number:,.0f}" for number in numbers]
    return [name, *counted, str(len(statistics.clauses)), str(statistics.findings)]


@app.command("smoke")
@guarded
def smoke_command(
    seconds: Annotated[
        float, typer.Option(min=0, help="How long to fuzz, after the corpus and the planted defects.")
    ] = 60.0,
    programs: Annotated[
        int | None,
        typer.Option(min=1, help="Fuzz with uniform for that many programs instead: equal seeds give equal results."),
    ] = None,
    seed: SeedOption = 0,
    profile: ProfileOption = Profile.posted,
    reference: ReferenceOption = Reference.v7_3,
    defect: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Plant these, not those whose turn it is.", show_default=False),
    ] = None,
    reports: ReportsOption = REPORTS,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML there.", show_default=False)] = None,
    sarif: Annotated[Path | None, typer.Option(help="Write SARIF there.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Check that everything works: replay the corpus, find planted defects, fuzz for a minute.

    The planted defects are bugs that Linux had (`zoo --list`): three of them, another three with each change of the
    sources or the corpus, the same on every machine. Each is put into its side, and must be found, minimized and
    reported before the real fuzzing starts; the reports go to `planted` below --reports and count as no finding; one
    that is not found is exit code 3. Then libfuzzer and uniform run at once. Where atheris is not
    installed, uniform runs alone. Where GITHUB_STEP_SUMMARY is set, a summary is added to the file it names.
    """
    from fuzz.ci import write_outputs
    from fuzz.progress import Progress
    from fuzz.smoke import smoke

    chosen = defects_of(defect)
    writable(reports)
    result = smoke(
        seconds,
        seed,
        name_of(profile),
        reports,
        Progress(),
        programs=programs,
        reference=version_of(reference),
        defects=chosen,
    )
    write_outputs(result, reports, junit, sarif)
    if as_json:
        print_json(result.to_json())
    else:
        summary(result.summary, reports)
        bad = sum(entry.bad for entry in result.replayed)
        print(f"corpus: {len(result.replayed)} programs, {bad} bad")
        for entry in result.replayed:
            if entry.bad:
                print(f"  {entry.path}: {entry.detail}")
        for plant in result.planted:
            print(f"planted defect {plant.defect}: {plant}")
        advise()
    if result.diverged:
        raise typer.Exit(DIFFERENT)
    raise typer.Exit(INTERNAL if result.broken else SAME)
