"""`vmemmap-fuzz corpus`: stats, merge, minimize, import, export, pack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuzz.commands.common import JsonOption, app, fail, guarded, print_json, print_table

if TYPE_CHECKING:
    from fuzz.store.files import Store

corpus = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode=None,
    help="""What campaigns keep: count, merge, minimize, import, export and pack it.

    DIR is the folder of a campaign, or any folder with a `corpus` in it. Files that are not what their name says are
    set aside in DIR/corrupt, and named.""",
)
app.add_typer(corpus, name="corpus")

DirArgument = Annotated[Path, typer.Argument(metavar="DIR", show_default=False)]
RawOption = Annotated[bool, typer.Option("--bytes", help="Inputs of libFuzzer instead of .vmm text.")]


@contextmanager
def store_in(folder: Path, *, change: bool = False, make: bool = False) -> Iterator[Store]:
    """The store in a folder, nobody else writing to it if it is to be changed; what is corrupt is told at the end."""
    from fuzz.campaign.corpus import opened
    from fuzz.campaign.settings import CampaignError, locked

    try:
        store = opened(folder, make=make)
        if change:
            with locked(folder):
                yield store
        else:
            yield store
    except CampaignError as error:
        raise fail(str(error)) from None
    for entry in store.corrupt:
        typer.echo(f"corrupt: {entry.path}: {entry.why}", err=True)


@corpus.command("stats")
@guarded
def stats_command(folder: DirArgument, as_json: JsonOption = False) -> None:
    """Count programs and findings."""
    from fuzz.campaign.corpus import stats

    with store_in(folder) as store:
        numbers = stats(store)
    if as_json:
        print_json(numbers)
        return
    rows = []
    for name, value in numbers.items():
        if isinstance(value, dict):
            rows += [[f"{name}: {key}", f"{count:,}"] for key, count in value.items()]
        else:
            rows.append([name, f"{value:,}"])
    print_table(str(folder), ["", ""], rows, right=1)


@corpus.command("merge")
@guarded
def merge_command(
    folder: DirArgument,
    sources: Annotated[list[Path], typer.Argument(metavar="FROM...", help="Folders, or packs.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Take programs and findings over from other folders and packs into DIR, which is made if need be."""
    from fuzz.campaign.corpus import merge

    rows = []
    with store_in(folder, change=True, make=True) as store:
        for source in sources:
            programs, records = merge(store, source)
            rows.append({"from": str(source), "programs": programs, "records": records})
    if as_json:
        print_json(rows)
    else:
        table = [[str(row["from"]), str(row["programs"]), str(row["records"])] for row in rows]
        print_table("", ["from", "new programs", "new records"], table, right=1)


@corpus.command("minimize")
@guarded
def minimize_command(folder: DirArgument, as_json: JsonOption = False) -> None:
    """Remove programs that show nothing which others do not show: the same coverage from few, short programs.

    Every program is run to see what it shows; docs/campaigns.md says what is counted. Programs that cannot be run
    stay.
    """
    from fuzz.campaign.corpus import minimize, settings_of
    from fuzz.progress import Progress

    progress = Progress()
    with store_in(folder, change=True) as store:
        chosen = minimize(store, settings_of(folder), lambda done: progress.show(f"{done} programs run"))
    progress.clear()
    if as_json:
        print_json(asdict(chosen))
    else:
        print_table(
            str(folder),
            ["", "programs", "operations", "features"],
            [
                ["before", f"{chosen.before:,}", f"{chosen.operations_before:,}", f"{chosen.features:,}"],
                ["after", f"{chosen.after:,}", f"{chosen.operations_after:,}", f"{chosen.features:,}"],
            ],
            right=1,
        )


@corpus.command("import")
@guarded
def import_command(
    folder: DirArgument,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files and folders.", show_default=False)],
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take programs into DIR, which is made if need be: .vmm files, those in folders too. All or nothing."""
    from fuzz.campaign.corpus import import_files

    with store_in(folder, change=True, make=True) as store:
        new, read = import_files(store, files, raw=raw)
    print_json({"files": read, "new": new}) if as_json else print(f"{new} new programs from {read} files")


@corpus.command("export")
@guarded
def export_command(
    folder: DirArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder, made if need be.", show_default=False)],
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the programs as files of one folder."""
    from fuzz.campaign.corpus import export

    with store_in(folder) as store:
        count = export(store, out, raw=raw)
    print_json({"programs": count}) if as_json else print(f"{count} programs")


@corpus.command("pack")
@guarded
def pack_command(
    folder: DirArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", show_default=False)],
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write programs and findings into one zip file, for `merge` elsewhere; with --bytes a seed corpus for libFuzzer.

    Equal corpora make equal files.
    """
    from fuzz.campaign.corpus import pack

    with store_in(folder) as store:
        count = pack(store, file, raw=raw)
    print_json({"programs": count, "bytes": file.stat().st_size}) if as_json else print(f"{count} programs: {file}")
