"""The command line, `vmemmap-fuzz`.

Exit codes: 0 no difference, 1 a difference, 2 usage or input, 3 an error of this program.

Modules that a command needs are imported by that command: `--help` and `fmt` need neither the models nor an engine.
"""

from __future__ import annotations

import enum
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from fuzz.engines.protocol import Statistics
    from fuzz.execute import Profile as ProfileName
    from fuzz.findings import Report
    from fuzz.program.model import Program
    from fuzz.session import Session

SAME, DIFFERENT, USAGE, INTERNAL = 0, 1, 2, 3

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="""Differential fuzzing of two models of Linux's vmemmap optimization.

    The reference is Linux 7.3, with its separate paths for HugeTLB and device DAX; the candidate is the unified
    framework. Both run the same programs of hotplug, allocation and optimization operations. Every difference that the
    ledger of intended differences does not explain is a finding.

    Programs are text files, `.vmm`; docs/language.md describes them.

    Exit codes: 0 no difference, 1 a difference, 2 wrong usage or input, 3 an error of this program.""",
    rich_markup_mode=None,
)

F = TypeVar("F", bound=Callable[..., Any])


class Profile(enum.StrEnum):
    """Which form of the framework the candidate models."""

    posted = "posted"
    merged = "merged"


class EngineName(enum.StrEnum):
    """`fuzz.engines.NAMES`, for the parser."""

    uniform = "uniform"
    swarm = "swarm"
    guided = "guided"
    libfuzzer = "libfuzzer"
    stateful = "stateful"


ProfileOption = Annotated[
    Profile,
    typer.Option(help="What the candidate models: the series as posted, or what was merged."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the random choices; equal seeds make equal programs.")]
ReportsOption = Annotated[Path, typer.Option(help="Folder for findings, one folder each.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A .vmm program.", show_default=False)]

REPORTS: Final = Path("reports")
PATIENCE: Final = 20.0
"""Seconds that a timed run spends on minimizing one finding."""


def guarded(command: F) -> F:
    """Turn errors into exit codes: a clear message for what the user can mend, a traceback for what is our fault."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from fuzz.program.errors import ProgramError

        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except ProgramError as error:
            raise fail(str(error)) from None
        except BrokenPipeError:
            # The reader has gone (`| head`). Python would complain once more when it closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(SAME) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except OSError as error:
            raise fail(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None
        except Exception:
            traceback.print_exc()
            print("vmemmap-fuzz: this is an error of vmemmap-fuzz itself", file=sys.stderr)
            raise typer.Exit(INTERNAL) from None

    return run  # type: ignore[return-value]  # the same call, by functools.wraps


def fail(message: str) -> typer.Exit:
    """Complain about the input; the exit to raise."""
    print(f"error: {message}", file=sys.stderr)
    return typer.Exit(USAGE)


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(data, indent=2))


def print_table(title: str, columns: list[str], rows: list[list[str]], right: int, fold: int = -1) -> None:
    """A table on stdout; columns from number `right` on hold numbers, and column `fold` gives way if it is too wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i >= right else "left", no_wrap=i != fold, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    # A file or a pipe has no width: 100 columns hold every table of numbers.
    console = console if console.is_terminal else Console(highlight=False, markup=False, width=100)
    console.print(table)


def writable(folder: Path) -> Path:
    """The reports folder, made and tried out before any work is done."""
    from fuzz.findings import check_writable

    try:
        check_writable(folder)
    except OSError as error:
        raise fail(f"cannot write reports to {folder}: {error.strerror}") from None
    return folder


def name_of(profile: Profile) -> ProfileName:
    """The profile as the models call it."""
    return "merged" if profile is Profile.merged else "posted"


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


@app.command()
@guarded
def replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".vmm programs.", show_default=False)],
    profile: ProfileOption = Profile.posted,
    as_json: JsonOption = False,
) -> None:
    """Run programs and say for each whether the models agree.

    "explained" means that the ledger explains a difference after which the two cannot be compared any more, and the
    program ended there.
    """
    from fuzz.execute import run_program

    programs = [(path, read(path)) for path in files]
    rows: list[dict[str, Any]] = []
    for path, program in programs:
        out = run_program(program, profile=name_of(profile))
        rows.append(
            {
                "file": str(path),
                "verdict": out.verdict,
                "operations": out.ops_executed,
                "clauses": sorted(out.clauses),
                "signature": out.finding.signature if out.finding else None,
                "detail": out.finding.detail if out.finding else None,
            }
        )
    if as_json:
        print_json(rows)
    else:
        table = [[row["file"], row["verdict"], row["signature"] or "", str(row["operations"])] for row in rows]
        print_table("", ["file", "verdict", "signature", "operations"], table, right=3, fold=2)
    raise typer.Exit(DIFFERENT if any(row["verdict"] == "finding" for row in rows) else SAME)


@app.command()
@guarded
def minimize(
    file: FileArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the program there, not to stdout.")
    ] = None,
    profile: ProfileOption = Profile.posted,
    as_json: JsonOption = False,
) -> None:
    """Make a program that shows a difference as small as it gets while it shows the same difference.

    Exit code 0 means that the program shows no difference, and there is nothing to minimize.
    """
    from fuzz.findings import put_text
    from fuzz.minimize import minimize as shrink
    from fuzz.program.text import format as format_program

    program = read(file)
    try:
        small = shrink(program, profile=name_of(profile))
    except ValueError:
        if as_json:
            print_json({"file": str(file), "signature": None, "operations": len(program.ops), "program": None})
        else:
            print(f"{file}: the models agree, there is nothing to minimize", file=sys.stderr)
        raise typer.Exit(SAME) from None
    text = format_program(small.program)
    if output is not None:
        put_text(output, text)
    if as_json:
        print_json(
            {
                "file": str(file),
                "signature": small.finding.signature,
                "operations": len(program.ops),
                "operations_minimized": len(small.program.ops),
                "one_minimal": small.one_minimal,
                "program": text,
            }
        )
    elif output is None:
        print(text, end="")
    sure = "" if small.one_minimal else " (stopped early: more may be possible)"
    before, after = len(program.ops), len(small.program.ops)
    print(f"{before} operations, {after} after minimizing{sure}: {small.finding.signature}", file=sys.stderr)
    raise typer.Exit(DIFFERENT)


@app.command()
@guarded
def fmt(
    file: FileArgument,
    write: Annotated[bool, typer.Option("--write", "-w", help="Change the file instead of printing.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Print nothing; exit 1 if the file is not canonical.")] = False,
) -> None:
    """Print a program in the one canonical form, comments kept."""
    from fuzz.findings import put_text
    from fuzz.program.text import format as format_program

    text = format_program(read(file))
    same = file.read_text() == text
    if check:
        raise typer.Exit(SAME if same else DIFFERENT)
    if not write:
        print(text, end="")
    elif not same:
        put_text(file, text)


@app.command("explain")
@guarded
def explain_command(file: FileArgument, profile: ProfileOption = Profile.posted, as_json: JsonOption = False) -> None:
    """Tell what each operation of a program did on both sides: return codes, counters, mapping of the vmemmap.

    The first difference that the ledger does not explain is marked, and ends the story. A folder of a finding holds the
    program to explain, repro.vmm.
    """
    from fuzz.render import render
    from fuzz.trace import trace

    told = trace(read(file), name_of(profile))
    if as_json:
        print_json(told.to_json())
    else:
        print(render(told), end="")
    raise typer.Exit(DIFFERENT if told.finding else SAME)


def read(path: Path) -> Program:
    """The program in a file."""
    from fuzz.program.text import parse_file

    return parse_file(path)


@app.command(
    "live",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
def live_command(context: typer.Context) -> None:
    """Run programs on a real Linux kernel under QEMU: conform, run, diff, kernels (docs/live.md)."""
    from live.cli import app as live  # a quarter of a second that the other commands need not wait for

    live(args=context.args, prog_name="vmemmap-fuzz live")


def main() -> None:
    """Entry point."""
    app(prog_name="vmemmap-fuzz")


if __name__ == "__main__":
    main()
