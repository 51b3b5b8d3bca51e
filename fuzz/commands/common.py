"""What the commands share: the application, exit codes, options, errors, and how results are printed."""

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

from fuzz.engines import DEFAULT

if TYPE_CHECKING:
    from fuzz.execute import Profile as ProfileName
    from fuzz.program.model import Program
    from zoo import Defect, Version

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


class Reference(enum.StrEnum):
    """Which kernel the reference models."""

    v7_3 = "v7.3"
    v7_0_base = "v7.0-base"


class EngineName(enum.StrEnum):
    """`fuzz.engines.NAMES`, for the parser."""

    uniform = "uniform"
    swarm = "swarm"
    guided = "guided"
    libfuzzer = "libfuzzer"
    stateful = "stateful"


DEFAULT_ENGINE: Final = EngineName(DEFAULT)
"""That of `run`, and of what measures it."""

ProfileOption = Annotated[
    Profile,
    typer.Option(help="What the candidate models: the series as posted, or what was merged."),
]
ReferenceOption = Annotated[
    Reference,
    typer.Option(
        help="What the reference models: Linux 7.3, or v7.0-base, which also has the bugs that were mended at the head "
        "of the series (docs/history.md)."
    ),
]
DefectOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Plant known defects, each in its side (`zoo --list`).",
        show_default=False,
    ),
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


def print_table(
    title: str, columns: list[str], rows: list[list[str]], right: int, fold: int = -1, width: int = 100
) -> None:
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
    # A file or a pipe has no width.
    console = console if console.is_terminal else Console(highlight=False, markup=False, width=width)
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


def version_of(reference: Reference) -> Version:
    """The reference as the zoo calls it."""
    from zoo import version

    return version(reference.value)


def defects_of(names: str | None) -> list[Defect]:
    """The defects that --defect names."""
    from fuzz.campaign.slices import defects

    try:
        return defects(names)
    except ValueError as error:
        raise fail(str(error)) from None


def read(path: Path) -> Program:
    """The program in a file."""
    from fuzz.program.text import parse_file

    return parse_file(path)
