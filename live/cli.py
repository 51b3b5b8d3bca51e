"""`vmemmap-fuzz live`: the models against a real kernel, and two real kernels against each other."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from fuzz.answers import check_all
from fuzz.findings import Report, check_writable
from fuzz.findings import write as write_report
from fuzz.program.errors import ProgramError
from live.beside import LINE
from live.conform import conform, cpus, run_files
from live.diff import diff
from live.errors import LiveError
from live.install import Kit, cache_folder, make_kit, offered
from live.packages import Apt
from live.recorded import FOLDER, load, programs
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


class ProfileName(StrEnum):
    """Which text of the series the candidate follows."""

    posted = "posted"
    merged = "merged"


KERNEL = "A kernel image, or a version such as 7.3 or 6.12.113 to fetch from the Debian archive."
KernelOption = Annotated[str, typer.Option(help=KERNEL)]
ModulesOption = Annotated[
    Path | None, typer.Option(help="Module tree of a kernel given as an image (lib/modules/RELEASE).")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Program i depends on the seed and i.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Emulators side by side; 0: one for each CPU.")]
AccelOption = Annotated[Accel, typer.Option(help="auto: KVM if the machine has it, else emulation.")]
ReportsOption = Annotated[Path, typer.Option(help="Folder for findings, one folder each.")]
RecordOption = Annotated[
    Path | None,
    typer.Option(help="Keep programs and what the kernel said in this folder (live replay).", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def guarded(command: F) -> F:
    """A guest that cannot be had is one sentence and exit code 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (LiveError, ProgramError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            typer.echo(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}", err=True)
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
        write_report(report, reports / "live", "posted", plant)


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
    record: RecordOption = None,
    reports: ReportsOption = Path("reports"),
    as_json: JsonOption = False,
) -> None:
    """The reference model against a running kernel, program after program."""
    if plant is not None and plant not in DEFECTS:
        raise LiveError(f"there is no defect {plant}; known: {', '.join(sorted(DEFECTS))}")
    kit = _kit(kernel, modules, accel)
    with planted(*([find(plant)] if plant else [])):
        total = conform(kit, programs, seed, workers or cpus(), Progress(), record)
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
    record: RecordOption = None,
    reports: ReportsOption = Path("reports"),
    as_json: JsonOption = False,
) -> None:
    """Programs from files on a running kernel, beside the reference model."""
    paths = _paths(files)
    kit = _kit(kernel, modules, accel)
    total, skipped = run_files(kit, paths, workers or cpus(), Progress(), record)
    _report(total, reports, "live run")
    _finish(total, f"Linux {kit.version}", {"kernel": kit.version, "not_run": skipped}, as_json)


@app.command("replay")
@guarded
def replay_command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Programs with answers; a folder stands for those in it.  [default: corpus/live]"),
    ] = None,
    profile: Annotated[ProfileName, typer.Option(help="Of the candidate.")] = ProfileName.posted,
    as_json: JsonOption = False,
) -> None:
    """Both models against what a kernel said when --record was given; no kernel and no emulator is needed.

    The reference must agree in everything; the candidate up to the first operation at which a clause of the ledger lets
    it differ.
    """
    begin = time.process_time()
    results = list(check_all(files or [FOLDER], profile.value))
    wrong = [(one, *one.wrong) for one in results if one.wrong is not None]
    facts = {
        "programs": len(results),
        "operations": sum(one.reference.operations for one in results),
        "operations_of_candidate": sum(one.candidate.operations for one in results),
        "seconds": round(time.process_time() - begin, 2),
        "explained": dict(Counter(name for one in results for name in one.reference.explained)),
        "differences": [
            {"file": str(one.path), "side": side, "signature": found.signature, "detail": found.detail}
            for one, side, found in wrong
        ],
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    else:
        counts = f"{facts['programs']} programs, {facts['operations']} operations of the reference"
        counts += f", {facts['operations_of_candidate']} of the candidate"
        typer.echo(f"{counts}: {len(wrong)} differences, {facts['seconds']} s")
        for one, side, found in wrong:
            typer.echo(f"{one.path}: {side}: {found.operation}: {found.detail}")
    raise typer.Exit(1 if wrong else 0)


@app.command("choose")
@guarded
def choose_command(
    folder: Annotated[Path, typer.Argument(metavar="FROM", help="Programs with answers.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder, made if need be.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Copy the fewest recorded programs that show what all show, each as long as it has to be."""
    from live.choose import choose, write

    recorded = [load(path) for path in programs([folder])]
    chosen = choose(recorded)
    out.mkdir(parents=True, exist_ok=True)
    size = sum(write(one, out) for one in chosen)
    operations = sum(len(one.answers.steps) - 1 for one in chosen)
    facts = {"from": len(recorded), "programs": len(chosen), "operations": operations, "bytes": size}
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        typer.echo(f"{len(chosen)} of {len(recorded)} programs, {operations} operations, {size} bytes")


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
