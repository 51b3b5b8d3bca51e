"""Commands that ask what was reached and what held: `vmemmap-fuzz sweep`, `coverage` and `promises`."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuzz.commands.common import (
    DIFFERENT,
    PATIENCE,
    SAME,
    DefectOption,
    FileArgument,
    JsonOption,
    Profile,
    ProfileOption,
    Reference,
    ReferenceOption,
    SeedOption,
    app,
    defects_of,
    fail,
    guarded,
    name_of,
    print_json,
    print_table,
    read,
    version_of,
    writable,
)

if TYPE_CHECKING:
    from fuzz.surface import Cell, Surface
    from fuzz.sweep import Swept


@app.command("sweep")
@guarded
def sweep_command(
    file: FileArgument,
    everything: Annotated[
        bool, typer.Option("--all", help="Try every point, also the thousands that only differ by position.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for a program of each difference that is found.")
    ] = None,
    profile: ProfileOption = Profile.posted,
    reference: ReferenceOption = Reference.v7_3,
    defect: DefectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fail each allocation of a program in turn, one run each, and print which allocations there are.

    For each operation: the allocation points that either side reaches, by kind, and what came of failing them. Of many
    points in a row that only differ by position, eight are tried.
    """
    from fuzz.findings import put_text, slug
    from fuzz.program.text import format as format_program
    from fuzz.program.text import format_op
    from fuzz.sweep import sweep, with_fault
    from zoo import reference_version

    program = read(file)
    chosen = defects_of(defect)
    if output is not None:
        writable(output)
    rows = []
    with reference_version(version_of(reference), *chosen):
        for swept in sweep(program, name_of(profile), everything=everything):
            rows.append(swept)
            if sys.stderr.isatty():
                print(f"  operation {swept.index} of {len(program.ops)}", end="\r", file=sys.stderr)
            if output is not None:
                for signature, nth in swept.findings.items():
                    put_text(output / f"{slug(signature)}.vmm", format_program(with_fault(program, swept.index, nth)))
    if as_json:
        print_json(
            {
                "file": str(file),
                "profile": profile.value,
                "reference": reference.value,
                "planted_defect": defect,
                "operations": [row.to_json() for row in rows],
            }
        )
    else:
        if defect:
            print(f"planted: {defect}")
        for row in rows:
            print(f"{row.index:3}  {format_op(row.op)}")
            print(f"     reaches {_counts(row.reference)}")
            if row.candidate != row.reference:
                print(f"     the candidate {_counts(row.candidate)}")
            print(f"     tried {row.tried} of {row.points}: {_counts(row.verdicts)}")
            for signature, nth in row.findings.items():
                print(f"     FINDING with 'fail alloc nth={nth}' in front: {signature}")
        print(_sentence(rows))
    raise typer.Exit(DIFFERENT if any(row.findings for row in rows) else SAME)


def _labels(names: list[str] | None) -> list[str]:
    """The architectures that were asked for, all if none was."""
    from fuzz.surface import LABELS

    if not names:
        return list(LABELS)
    out = [label for label in LABELS if label in names or label.partition("/")[0] in names]
    for name in names:
        if not any(name in (label, label.partition("/")[0]) for label in LABELS):
            raise fail(f"--arch {name}: no such architecture; expected one of {', '.join(LABELS)}")
    return out


@app.command()
@guarded
def coverage(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="Programs that run first.", show_default=False)
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to run random programs, all architectures.")] = 60.0,
    arch: Annotated[
        list[str] | None, typer.Option(help="Only this one: x86_64, arm64/16K, ... Can be given again.")
    ] = None,
    seed: SeedOption = 0,
    profile: ProfileOption = Profile.posted,
    reference: ReferenceOption = Reference.v7_3,
    as_json: JsonOption = False,
) -> None:
    """Print which outcomes of which operations were reached on which architecture.

    Random programs run on every architecture. What the specifications call reachable (fuzz/surface.toml names the
    place) and was not reached is marked EMPTY: the generator has a hole, or the time was too short. An unexplained
    difference comes with its architecture and a program, minimized. Ctrl-C (or SIGTERM) ends the run early: what was
    reached until then is printed.
    """
    from fuzz.execute import run_program
    from fuzz.lifeline import sigterm_interrupts
    from fuzz.progress import Progress
    from fuzz.surface import Surface, explore
    from zoo import reference_version

    labels = _labels(arch)
    programs = [read(path) for path in files or []]
    surface = Surface()
    progress = Progress()
    with reference_version(version_of(reference)), sigterm_interrupts():
        try:
            for program in programs:
                surface.record(program, run_program(program, profile=name_of(profile)))
            for _ in explore(surface, seconds, seed, name_of(profile), labels):
                progress.show(
                    f"{surface.programs} programs, {surface.operations:,} operations, "
                    f"{len(surface.empty_on(labels))} cells empty, findings: {len(surface.findings)}"
                )
            for found in surface.minimize(name_of(profile), PATIENCE):
                progress.show(f"minimized: {found.finding.signature} on {found.arch}")
        except KeyboardInterrupt:
            progress.say("interrupted; this is what was reached until then")
    progress.clear()
    if as_json:
        print_json(
            {
                "seed": seed,
                "profile": profile.value,
                "reference": reference.value,
                "architectures": labels,
                **surface.to_json(labels),
            }
        )
    else:
        _print_surface(surface, labels)
    raise typer.Exit(DIFFERENT if surface.findings else SAME)


def _print_surface(surface: Surface, labels: list[str]) -> None:
    from fuzz.program.text import format as format_program
    from fuzz.surface import Cell, known, reachable

    wanted, table = reachable(), known()
    outcomes = {(cell.operation, cell.outcome): None for cell in (*table, *surface.unexpected)}
    rows = []
    for operation, outcome in outcomes:
        cells = [Cell(operation, outcome, label) for label in labels]
        if any(cell in table or surface.cells[cell] for cell in cells):
            rows.append([operation, outcome, *(_cell(surface, cell) for cell in cells)])
    print_table("", ["operation", "outcome", *labels], rows, right=2, width=36 + 10 * len(labels))
    empty, unexpected = surface.empty_on(labels), [cell for cell in surface.unexpected if cell.arch in labels]
    count = sum(cell.arch in labels for cell in wanted)
    print(f"{surface.programs:,} programs, {surface.operations:,} operations")
    print(f"{count - len(empty)} of {count} reachable cells reached, {len(empty)} empty")
    for cell in empty:
        print(f"  EMPTY {cell.operation}: {cell.outcome} on {cell.arch} ({wanted[cell]})")
    for cell in surface.rare_on(labels):
        print(f"  not reached {cell.operation}: {cell.outcome} on {cell.arch} ({table[cell].rare})")
    for cell in unexpected:
        print(f"  not in fuzz/surface.toml: {cell.operation}: {cell.outcome} on {cell.arch}")
    for _, found in sorted(surface.findings.items()):
        print(f"\nfinding: {found.finding.signature} on {found.arch}\n  {found.finding.detail}")
        print(textwrap.indent(format_program(found.program), "  "), end="")


def _cell(surface: Surface, cell: Cell) -> str:
    from fuzz.surface import known, reachable

    count = surface.cells[cell]
    if count:
        return str(count) if count < 10_000 else f"{count // 1000}k"
    return "EMPTY" if cell in reachable() else "rare" if cell in known() else "-"


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(numbers.items())) or "none"


def _sentence(rows: list[Swept]) -> str:
    if not rows:
        return "no operation of this program allocates that has no `fail alloc` of its own"
    tried, points = sum(row.tried for row in rows), sum(row.points for row in rows)
    kinds = sorted({kind for row in rows for kind in (*row.reference, *row.candidate)})
    found = len({signature for row in rows for signature in row.findings})
    summary = f"{tried} of {points} points failed in turn, of kinds {' '.join(kinds)}"
    return f"{summary}: {found or 'no'} unexplained differences"


@app.command("promises")
@guarded
def promises_command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE...]", help="Programs; the seeds and regressions if none is given.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which promises of the series' cover letter hold, for the series as posted and as merged.

    Each promise is a property that programs exercise; one that none of them exercised is said to be so.
    """
    from fuzz.promises import examine
    from fuzz.smoke import CORPUS

    paths = files or sorted(path for folder in CORPUS for path in folder.rglob("*.vmm"))
    programs = [(str(path if files else path.name), read(path)) for path in paths]
    found = {profile.value: examine(programs, name_of(profile)) for profile in Profile}
    if as_json:
        print_json({name: [record.to_json() for record in records] for name, records in found.items()})
        return
    for name, records in found.items():
        print(f"{name}:")
        for record in records:
            times = f"{record.held} times" if not record.broken else f"{record.broken} of {record.held + record.broken}"
            print(
                f"  {record.verdict:13}  {record.promise.id} ({times}; {', '.join(sorted(record.arches)) or 'nowhere'})"
            )
            print(f"                 {record.sentence}")
