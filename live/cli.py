"""`vmemmap-fuzz live`: the models against a real kernel, and two real kernels against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from live.conform import Tally, conform
from live.diff import diff
from live.files import run_files
from live.install import LINE, Kit, Unavailable, cache_folder, make_kit, offered
from live.packages import Apt, PackageError

app = typer.Typer(
    help="Run programs on a real Linux kernel under QEMU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

KERNEL = "A kernel image, or a version such as 7.3 or 6.12.113 to fetch from the Debian archive."


def _kit(kernel: str, modules: Path | None) -> Kit:
    try:
        return make_kit(kernel, modules)
    except Unavailable as error:
        typer.echo(f"live: {error}", err=True)
        raise typer.Exit(3) from error


def _progress(quiet: bool, total: Tally) -> None:
    if not quiet:
        found = len(total.disagreements)
        typer.echo(f"  {total.programs} programs, {total.operations} operations, {found} disagreements", err=True)


def _table(total: Tally) -> None:
    for what, seconds in total.seconds.most_common():
        typer.echo(f"  {what:10} {float(seconds):8.1f} s")
    for reason, times in total.refused.most_common():
        typer.echo(f"  not done {times} times: {reason}")
    for name, times in total.explained.most_common():
        typer.echo(f"  known deviation of the kernel, in {times} programs: {name}")


@app.command("conform")
def conform_command(
    programs: Annotated[int, typer.Option(min=1, help="How many random programs.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Program i depends on the seed and i.")] = 0,
    kernel: Annotated[str, typer.Option(help=KERNEL)] = LINE,
    modules: Annotated[Path | None, typer.Option(help="Module tree of a kernel given as an image.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Emulators side by side; 0: one for each CPU.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """The reference model against a running kernel, program after program."""
    kit = _kit(kernel, modules)
    total = conform(kit, programs, seed, workers or None, lambda t: _progress(as_json, t))
    unexplained = [found.to_json() for found in total.disagreements]
    if as_json:
        out = {
            "kernel": kit.version,
            "programs": total.programs,
            "operations": total.operations,
            "unexplained": len(unexplained),
            "disagreements": unexplained,
            "explained": dict(total.explained),
            "refused": dict(total.refused),
            "seconds": {name: round(float(s), 1) for name, s in total.seconds.items()},
        }
        typer.echo(json.dumps(out, indent=1))
    else:
        counts = f"{total.programs} programs, {total.operations} operations"
        typer.echo(f"Linux {kit.version}: {counts}, {len(unexplained)} unexplained")
        _table(total)
        for row in unexplained:
            typer.echo(f"\n{row['detail']}\n{row['triage']}\n{row['program']}")
    raise typer.Exit(1 if unexplained else 0)


@app.command("run")
def run_command(
    files: Annotated[list[Path], typer.Argument(help="Programs; a folder stands for the programs in it.")],
    kernel: Annotated[str, typer.Option(help=KERNEL)] = LINE,
    modules: Annotated[Path | None, typer.Option(help="Module tree of a kernel given as an image.")] = None,
) -> None:
    """Programs from files on a running kernel, beside the reference model."""
    kit = _kit(kernel, modules)
    paths = [p for f in files for p in (sorted(f.glob("*.vmm")) if f.is_dir() else [f])]
    total, skipped = run_files(kit, paths)
    counts = f"{total.programs} programs, {total.operations} operations"
    typer.echo(f"Linux {kit.version}: {counts}, {len(total.disagreements)} unexplained")
    for name, why in skipped.items():
        typer.echo(f"  not run: {name}: {why}")
    _table(total)
    for found in total.disagreements:
        row = found.to_json()
        typer.echo(f"\n{row['detail']}\n{row['triage']}\n{row['program']}")
    raise typer.Exit(1 if total.disagreements else 0)


@app.command("diff")
def diff_command(
    a: Annotated[str, typer.Option(help=KERNEL)],
    b: Annotated[str, typer.Option(help=KERNEL)],
    modules_a: Annotated[Path | None, typer.Option(help="Module tree of image A.")] = None,
    modules_b: Annotated[Path | None, typer.Option(help="Module tree of image B.")] = None,
    programs: Annotated[int, typer.Option(min=1, help="How many random programs.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Program i depends on the seed and i.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Two running kernels against each other, with no model in between."""
    kits = _kit(a, modules_a), _kit(b, modules_b)
    total = diff(*kits, programs, seed)
    unexplained = [found.to_json() for found in total.disagreements]
    if as_json:
        out = {
            "kernels": [k.version for k in kits],
            "programs": total.programs,
            "operations": total.operations,
            "unexplained": len(unexplained),
            "disagreements": unexplained,
        }
        typer.echo(json.dumps(out, indent=1))
    else:
        names = " against ".join(k.version for k in kits)
        typer.echo(f"{names}: {total.programs} programs, {total.operations} operations, {len(unexplained)} differences")
        _table(total)
        for row in unexplained:
            typer.echo(f"\n{row['detail']}\n{row['program']}")
    raise typer.Exit(1 if unexplained else 0)


@app.command("kernels")
def kernels_command(
    prefix: Annotated[str, typer.Argument(help="Only this line, such as 6.12.")] = "",
) -> None:
    """The kernels that the Debian archive offers."""
    try:
        rows = offered(Apt(cache_folder() / "apt"), prefix)
    except PackageError as error:
        typer.echo(f"live: {error}", err=True)
        raise typer.Exit(3) from error
    for name, version in rows:
        typer.echo(f"{version:28} {name}")
