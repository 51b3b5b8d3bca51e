"""Commands that ask how much of the surface was reached: `vmemmap-fuzz sweep`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuzz.commands.common import (
    DIFFERENT,
    SAME,
    FileArgument,
    JsonOption,
    Profile,
    ProfileOption,
    app,
    guarded,
    name_of,
    print_json,
    read,
    writable,
)

if TYPE_CHECKING:
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

    program = read(file)
    if output is not None:
        writable(output)
    rows = []
    for swept in sweep(program, name_of(profile), everything=everything):
        rows.append(swept)
        if sys.stderr.isatty():
            print(f"  operation {swept.index} of {len(program.ops)}", end="\r", file=sys.stderr)
        if output is not None:
            for signature, nth in swept.findings.items():
                put_text(output / f"{slug(signature)}.vmm", format_program(with_fault(program, swept.index, nth)))
    if as_json:
        print_json({"file": str(file), "profile": profile.value, "operations": [row.to_json() for row in rows]})
    else:
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


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(numbers.items())) or "none"


def _sentence(rows: list[Swept]) -> str:
    if not rows:
        return "no operation of this program allocates"
    tried, points = sum(row.tried for row in rows), sum(row.points for row in rows)
    kinds = sorted({kind for row in rows for kind in (*row.reference, *row.candidate)})
    found = len({signature for row in rows for signature in row.findings})
    summary = f"{tried} of {points} points failed in turn, of kinds {' '.join(kinds)}"
    return f"{summary}: {found or 'no'} unexplained differences"
