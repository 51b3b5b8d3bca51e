"""`vmemmap-fuzz live`: the models against a real kernel, and two real kernels against each other."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from fuzz.findings import Report, check_writable, write
from live.conform import conform, cpus, run_files
from live.diff import diff
from live.errors import LiveError
from live.install import LINE, Kit, cache_folder, make_kit, offered
from live.packages import Apt
from live.tally import UNSEEN, Tally
from zoo import DEFECTS, find, planted

app = typer.Typer(
    help="Run programs on a real Linux kernel under QEMU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

F = TypeVar("F", bound=Callable[..., Any])


class Accel(StrEnum):
    """How the guest's CPU is made."""

    auto = "auto"
    tcg = "tcg"
    kvm = "kvm"


KERNEL = "A kernel image, or a version such as 7.3 or 6.12.113 to fetch from the Debian archive."
KernelOption = Annotated[str, typer.Option(help=KERNEL)]
ModulesOption = Annotated[
    Path | None, typer.Option(help="Module tree of a kernel given as an image (lib/modules/RELEASE).")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Program i depends on the seed and i.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Emulators side by side; 0: one for each CPU.")]
AccelOption = Annotated[Accel, typer.Option(help="auto: KVM if the machine has it, else emulation.")]
ReportsOption = Annotated[Path, typer.Option(help="Folder for findings, one folder each.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def guarded(command: F) -> F:
    """A guest that cannot be had is one sentence and exit code 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except LiveError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None

    return run  # type: ignore[return-value]


class Progress:
    """A line on stderr for each piece of work that is done."""

    def __init__(self) -> None:
        self.begin = time.monotonic()

    def __call__(self, total: Tally) -> None:
        """Tell how far it is."""
        found = len(total.disagreements)
        seconds = time.monotonic() - self.begin
        text = f"  {seconds:5.0f} s: {total.programs} programs, {total.operations} operations, {found} disagreements"
        typer.echo(text, err=True)


def _kit(kernel: str, modules: Path | None, accel: Accel) -> Kit:
    return make_kit(kernel, modules, accel=accel.value, say=lambda text: typer.echo(f"  {text}", err=True))


def _table(total: Tally) -> None:
    for title, rows in (("programs on machines with", total.machines), ("operations", total.cases)):
        typer.echo(f"{title}:")
        for name, number in sorted(rows.items()):
            typer.echo(f"  {number:7} {name}")
    typer.echo("seconds of all workers:")
    for rows in (total.seconds, total.parts):
        for name, seconds in rows.most_common():
            typer.echo(f"  {float(seconds):9.1f} {'of run: ' if rows is total.parts else ''}{name}")
    for name, times in total.explained.most_common():
        typer.echo(f"known deviation of the kernel, in {times} programs: {name}")
    for reason, times in total.refused.most_common():
        typer.echo(f"not done {times} times: {reason}")
    for what in UNSEEN:
        typer.echo(f"not seen: {what}")


def _report(total: Tally, reports: Path, engine: str, plant: str | None = None) -> None:
    if total.disagreements:
        check_writable(reports)
    for one, _ in total.kinds():
        report = Report(one.finding, one.program, one.original, engine, one.repeats, one.minimal)
        write(report, reports / "live", "posted", plant)


def _finish(total: Tally, title: str, facts: dict[str, Any], as_json: bool) -> None:
    """Print what was found, and leave with the exit code that says so."""
    if as_json:
        typer.echo(json.dumps({**facts, **total.to_json()}, indent=1))
    else:
        counts = f"{total.programs} programs, {total.operations} operations, {len(total.disagreements)} unexplained"
        typer.echo(f"{title}: {counts}")
        for name, why in facts.get("not_run", {}).items():
            typer.echo(f"not run: {name}: {why}")
        _table(total)
        for found, times in total.kinds():
            typer.echo(f"\nin {times} programs: {found.text()}")
    raise typer.Exit(1 if total.disagreements else 0)


@app.command("conform")
@guarded
def conform_command(
    programs: Annotated[int, typer.Option(min=1, help="How many random programs.")] = 40,
    seed: SeedOption = 0,
    kernel: KernelOption = LINE,
    modules: ModulesOption = None,
    workers: WorkersOption = 0,
    accel: AccelOption = Accel.auto,
    plant: Annotated[
        str | None, typer.Option(help="Put a known defect into the model, such as ACC-2026-03, to see it found.")
    ] = None,
    reports: ReportsOption = Path("reports"),
    as_json: JsonOption = False,
) -> None:
    """The reference model against a running kernel, program after program."""
    if plant is not None and plant not in DEFECTS:
        raise LiveError(f"there is no defect {plant}; known: {', '.join(sorted(DEFECTS))}")
    kit = _kit(kernel, modules, accel)
    with planted(*([find(plant)] if plant else [])):
        total = conform(kit, programs, seed, workers or cpus(), Progress())
    _report(total, reports, "live conform", plant)
    _finish(total, f"Linux {kit.version}", {"kernel": kit.version, "seed": seed, "accel": kit.accel}, as_json)


@app.command("run")
@guarded
def run_command(
    files: Annotated[list[Path], typer.Argument(help="Programs; a folder stands for the programs in it.")],
    kernel: KernelOption = LINE,
    modules: ModulesOption = None,
    workers: WorkersOption = 0,
    accel: AccelOption = Accel.auto,
    reports: ReportsOption = Path("reports"),
    as_json: JsonOption = False,
) -> None:
    """Programs from files on a running kernel, beside the reference model."""
    paths = _paths(files)
    kit = _kit(kernel, modules, accel)
    total, skipped = run_files(kit, paths, workers or cpus(), Progress())
    _report(total, reports, "live run")
    _finish(total, f"Linux {kit.version}", {"kernel": kit.version, "not_run": skipped}, as_json)


def _paths(files: list[Path]) -> list[Path]:
    return [p for f in files for p in (sorted(f.rglob("*.vmm")) if f.is_dir() else [f])]


@app.command("diff")
@guarded
def diff_command(
    a: KernelOption,
    b: KernelOption,
    modules_a: Annotated[Path | None, typer.Option(help="Module tree of image A.")] = None,
    modules_b: Annotated[Path | None, typer.Option(help="Module tree of image B.")] = None,
    programs: Annotated[int, typer.Option(min=0, help="How many random programs.")] = 40,
    corpus: Annotated[
        list[Path] | None, typer.Option(help="Programs to run as well; a folder stands for the programs in it.")
    ] = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 0,
    accel: AccelOption = Accel.auto,
    reports: ReportsOption = Path("reports"),
    as_json: JsonOption = False,
) -> None:
    """Two running kernels against each other, with no model in between."""
    paths = _paths(corpus or [])
    kits = _kit(a, modules_a, accel), _kit(b, modules_b, accel)
    total, skipped = diff(*kits, programs, seed, paths, workers or cpus(), Progress())
    _report(total, reports, "live diff")
    names = [k.version for k in kits]
    _finish(total, " against ".join(names), {"kernels": names, "seed": seed, "not_run": skipped}, as_json)


@app.command("kernels")
@guarded
def kernels_command(
    prefix: Annotated[str, typer.Argument(help="Only this line, such as 6.12.")] = "",
) -> None:
    """The kernels that the Debian archive offers."""
    for name, version in offered(Apt(cache_folder() / "apt"), prefix):
        typer.echo(f"{version:28} {name}")
