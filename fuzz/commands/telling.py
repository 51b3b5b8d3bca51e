"""Commands that tell about one program: `vmemmap-fuzz explain`, `export`, `bisect`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

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
    fail,
    guarded,
    name_of,
    print_json,
    read,
    version_of,
)


@app.command("explain")
@guarded
def explain_command(
    file: FileArgument,
    profile: ProfileOption = Profile.posted,
    reference: ReferenceOption = Reference.v7_3,
    defect: DefectOption = None,
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a page for a browser there.", show_default=False)
    ] = None,
    mail: Annotated[
        bool, typer.Option("--mail", help="Print the text of a mail to linux-mm, 72 columns, instead.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what each operation of a program did on both sides: return codes, counters, mapping of the vmemmap.

    The first difference that the ledger does not explain is marked, and ends the story. A folder of a finding holds the
    program to explain, repro.vmm, and its page, report.html: one file that needs nothing else, with a picture of the
    vmemmap after each step, the contradiction in words, and the single edits that make it vanish.
    """
    from fuzz.findings import put_text
    from fuzz.render import render
    from fuzz.trace import trace
    from zoo import reference_version

    program = read(file)
    with reference_version(version_of(reference), *defects_of(defect)):
        if html is not None or mail:
            from fuzz.report.case import examine
            from fuzz.report.mail import mail as letter
            from fuzz.report.page import html as page

            case = examine(program, name_of(profile), defect)
            told = case.trace
            if html is not None:
                put_text(html, page(case))
            if mail and not as_json:
                print(letter(case), end="")
        else:
            told = trace(program, name_of(profile))
    if as_json:
        print_json({"planted_defect": defect, **told.to_json()})
    elif html is None and not mail:
        if defect:
            print(f"planted: {defect}\n")
        print(render(told), end="")
    raise typer.Exit(DIFFERENT if told.finding else SAME)


class Form(enum.StrEnum):
    """`fuzz.report.export.EXPORTS`, for the parser."""

    pytest = "pytest"
    python = "python"
    shell = "shell"
    live = "live"
    itf = "itf"


@app.command("export")
@guarded
def export_command(
    file: FileArgument,
    to: Annotated[
        Form,
        typer.Option(
            help="pytest: a test that passes once the models agree. python: a script. shell: commands for a real "
            "machine. live: a file for vmemmap-fuzz live run, with what it cannot do. itf: a trace as JSON, in "
            "Apalache's Informal Trace Format.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it there, not to stdout.", show_default=False)
    ] = None,
    profile: ProfileOption = Profile.posted,
    reference: ReferenceOption = Reference.v7_3,
    defect: DefectOption = None,
) -> None:
    """Write a program in another form.

    The candidate's profile and an older reference are written into tests and scripts; a defect shows in the trace only.
    """
    from fuzz.campaign.slices import defects
    from fuzz.findings import put_text
    from fuzz.report.export import EXPORTS
    from zoo import reference_version

    program = read(file)
    try:
        chosen = defects(defect)
    except ValueError as error:
        raise fail(str(error)) from None
    if chosen and to is not Form.itf:
        raise fail(f"--defect: {to.value} does not run the program here, only itf does")
    version = version_of(reference)
    if reference is not Reference.v7_3 and to in (Form.shell, Form.live):
        raise fail(f"--reference: {to.value} is for a real kernel, which is what it is")
    with reference_version(version, *chosen):
        text = EXPORTS[to.value](program, name_of(profile), version)
    if output is None:
        print(text, end="")
    else:
        put_text(output, text)


@app.command("bisect")
@guarded
def bisect_command(
    file: FileArgument,
    good: Annotated[str, typer.Option(metavar="REV", help="An older revision.", show_default=False)],
    bad: Annotated[str, typer.Option(metavar="REV", help="A newer one that shows something else.")] = "HEAD",
    profile: ProfileOption = Profile.posted,
    reference: ReferenceOption = Reference.v7_3,
    as_json: JsonOption = False,
) -> None:
    """Find the commit of the models that introduced, changed or mended a difference.

    To be run in a clone of this project. Each revision runs the program from a work tree of its own in a temporary
    folder; one that cannot is passed over.
    """
    import sys
    from dataclasses import asdict

    from fuzz.bisect import BisectError, Sides, bisect

    read(file)
    try:
        sides = Sides(profile.value, reference.value)
        found = bisect(Path.cwd(), good, bad, file.resolve(), sides, lambda text: print(text, file=sys.stderr))
    except BisectError as error:
        raise fail(str(error)) from None
    if as_json:
        print_json(asdict(found))
    else:
        print(f"{found.commit} {found.subject}\n  before: {found.good}\n  since:  {found.bad}")
        for commit in found.skipped:
            print(f"  could not be run, may be to blame instead: {commit}")
