"""Commands on program files: `vmemmap-fuzz replay`, `minimize`, `fmt`, `explain`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fuzz.commands.common import (
    DIFFERENT,
    SAME,
    DefectOption,
    FileArgument,
    JsonOption,
    Profile,
    ProfileOption,
    Reference,
    ReferenceOption,
    app,
    defects_of,
    guarded,
    name_of,
    print_json,
    print_table,
    read,
    version_of,
)


@app.command()
@guarded
def replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".vmm programs.", show_default=False)],
    profile: ProfileOption = Profile.posted,
    reference: ReferenceOption = Reference.v7_3,
    defect: DefectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run programs and say for each whether the models agree.

    "explained" means that the ledger explains a difference after which the two cannot be compared any more, and the
    program ended there. With an older --reference, the clauses of its bugs that a
    program shows are printed below the table.
    """
    from fuzz.execute import run_program
    from fuzz.oracle.ledger import ledger
    from zoo import reference_version

    chosen = defects_of(defect)
    programs = [(path, read(path)) for path in files]
    rows: list[dict[str, Any]] = []
    for path, program in programs:
        with reference_version(version_of(reference), *chosen):
            out = run_program(program, profile=name_of(profile))
        rows.append(
            {
                "file": str(path),
                "planted_defect": defect,
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
        title = f"planted: {defect}" if defect else ""
        table = [[row["file"], row["verdict"], row["signature"] or "", str(row["operations"])] for row in rows]
        print_table(title, ["file", "verdict", "signature", "operations"], table, right=3, fold=2)
        for row in rows:
            old = [name for name in row["clauses"] if ledger()[name].reference]
            if old:
                print(f"{row['file']}: {', '.join(old)}")
    raise typer.Exit(DIFFERENT if any(row["verdict"] == "finding" for row in rows) else SAME)


@app.command()
@guarded
def minimize(
    file: FileArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the program there, not to stdout.")
    ] = None,
    profile: ProfileOption = Profile.posted,
    reference: ReferenceOption = Reference.v7_3,
    defect: DefectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a program that shows a difference as small as it gets while it shows the same difference.

    Exit code 0 means that the program shows no difference, and there is nothing to minimize.
    """
    from fuzz.findings import put_text
    from fuzz.minimize import minimize as shrink
    from fuzz.program.text import format as format_program
    from zoo import reference_version

    program = read(file)
    chosen = defects_of(defect)
    try:
        with reference_version(version_of(reference), *chosen):
            small = shrink(program, profile=name_of(profile))
    except ValueError:
        if as_json:
            print_json(
                {
                    "file": str(file),
                    "planted_defect": defect,
                    "signature": None,
                    "operations": len(program.ops),
                    "program": None,
                }
            )
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
                "planted_defect": defect,
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
    sure += f", {defect} planted" if defect else ""
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


@app.command("boot-cost")
@guarded
def boot_cost_command(
    file: FileArgument,
    profile: ProfileOption = Profile.posted,
    reference: ReferenceOption = Reference.v7_3,
    as_json: JsonOption = False,
) -> None:
    """Count the struct pages that each side initialises when it boots a program's machine, and its boot memmap.

    Only the machine and the reserve lines of the program matter. Exit code 1: a side does not survive its boot.
    """
    from dataclasses import asdict

    from fuzz.boot_cost import boot_cost
    from zoo import reference_version

    with reference_version(version_of(reference)):
        costs = boot_cost(read(file), name_of(profile))
    mine, theirs = costs
    dead = [cost for cost in costs if isinstance(cost.outcome, str)]
    saved = 0 if dead else mine.struct_pages_initialized - theirs.struct_pages_initialized
    if as_json:
        print_json({"sides": [asdict(cost) for cost in costs], "struct_pages_saved": None if dead else saved})
    else:
        columns = ["side", "struct pages initialised", "of RAM pages", "boot memmap", "1G and larger", "optimized"]
        rows = []
        for c in costs:
            numbers = c.struct_pages_initialized, c.ram_pages, c.nr_memmap_boot, c.boot_huge_pages, c.optimized
            rows.append([c.side, *(f"{number:,}" for number in numbers)])
        print_table("", columns, rows, 1)
        for cost in dead:
            print(f"{cost.side}: {cost.outcome}")
        if not dead:
            more = "fewer" if saved >= 0 else "more"
            print(f"The candidate initialises {abs(saved):,} struct pages {more}.")
    raise typer.Exit(DIFFERENT if dead else SAME)
