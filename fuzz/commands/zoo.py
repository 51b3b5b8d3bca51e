"""`vmemmap-fuzz zoo`: the real bugs that can be planted, and how fast they are found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuzz.commands.common import (
    DEFAULT_ENGINE,
    DIFFERENT,
    SAME,
    EngineName,
    JsonOption,
    Profile,
    ProfileOption,
    SeedOption,
    app,
    defects_of,
    fail,
    guarded,
    name_of,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from fuzz.execute import Profile as ProfileName
    from fuzz.races.summary import Row
    from fuzz.races.trial import Key, Trial
    from fuzz.results import Journal


@app.command("zoo")
@guarded
def zoo_command(
    listing: Annotated[
        bool, typer.Option("--list", help="Print all bugs, and why some cannot be planted; look for none.")
    ] = False,
    defect: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,...", help="Which defects. Can be given again. Default: all that can be shown."),
    ] = None,
    engine: Annotated[
        list[EngineName] | None,
        typer.Option(help="Which engines. Can be given again. Default: that of `run`."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials of each defect and engine, with a seed each.")] = 30,
    seconds: Annotated[float, typer.Option(min=0.1, help="CPU time of a trial at most, of one core.")] = 60.0,
    workers: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    results: Annotated[
        Path | None,
        typer.Option(help="File for results (JSON lines); a run that finds its own goes on.", show_default=False),
    ] = None,
    minimize: Annotated[bool, typer.Option(help="Minimize what was found, once in each trial.")] = True,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="SVG", help="Draw the survival curves there (needs matplotlib).", show_default=False),
    ] = None,
    seed: SeedOption = 0,
    profile: ProfileOption = Profile.posted,
    as_json: JsonOption = False,
) -> None:
    """The zoo: real bugs of Linux, which --defect of other commands plants in one of the models.

    Without --list each of them is planted and looked for: how many trials reached it (the changed code ran), triggered
    it (it did something else than the original) and detected it (the oracle reports it), how long that took in programs
    and CPU seconds, and how long the minimized program is. Exit code 1: a defect was not detected in some trial.
    docs/zoo.md has a measurement, and says what exactly is counted.

    A bug of code that both models share lives in the side named here, or in that after an @: DAX-2026-20@reference.
    """
    if listing:
        _list(as_json)
        return
    from fuzz.races.run import header, journal, keys
    from fuzz.races.summary import rows

    engines = [name.value for name in dict.fromkeys(engine or [DEFAULT_ENGINE])]
    todo = keys(engines, _chosen(defect), trials, seed)
    if plot is not None:
        _can_plot(plot)
    try:
        log = journal(results, seconds, name_of(profile))
    except ValueError as error:
        raise fail(str(error)) from None
    try:
        interrupted = _run(todo, seconds, name_of(profile), workers, minimize, log)
    finally:
        log.close()
    done = [log.done[key] for key in todo if key in log.done]
    table = rows(done)
    if plot is not None and done:
        from fuzz.findings import put_text
        from fuzz.races.plot import survival_plot

        put_text(plot, survival_plot(done))
    if as_json:
        print_json(
            {
                **header(seconds, name_of(profile)),
                "interrupted": interrupted,
                "defects": [row.to_json() for row in table],
                "trials": [trial.to_json() for trial in done],
            }
        )
    else:
        _print(table, len(todo), done)
    if interrupted:
        raise typer.Exit(130)
    raise typer.Exit(SAME if all(row.detected == row.trials for row in table) else DIFFERENT)


def _chosen(names: list[str] | None) -> list[str]:
    """The defects that were asked for, by name."""
    from zoo import DEFECTS, name_of

    if names is None:
        return [d.id for d in DEFECTS.values() if d.program is not None]
    found = defects_of(",".join(names))
    for one in found:
        if one.program is None:
            raise fail(f"no program shows {one.id}: there is nothing to look for")
    return list(dict.fromkeys(name_of(one) for one in found))


def _can_plot(path: Path) -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise fail("--plot needs matplotlib (pip install 'vmemmap-fuzz[report]')")
    if not path.parent.is_dir():
        raise fail(f"{path}: there is no folder {path.parent}")


def _run(todo: list[Key], seconds: float, profile: ProfileName, workers: int, small: bool, log: Journal[Trial]) -> bool:
    """Run what is left; whether it was interrupted."""
    from fuzz.progress import Progress
    from fuzz.races.run import run_all

    progress = Progress()
    left = [key for key in todo if key not in log.done]
    if len(left) < len(todo):
        progress.say(f"{len(todo)} trials, {len(todo) - len(left)} of them done before")
    try:
        missed = 0
        for number, trial in enumerate(run_all(left, seconds, profile, workers=workers, small=small), 1):
            log.put(trial)
            missed += trial.detected is None
            what = f"{trial.defect} by {trial.engine}: "
            what += f"{trial.detected.seconds:.1f} s" if trial.detected else "not detected"
            progress.show(f"{number} of {len(left)} trials run, {missed} without detection; last: {what}")
    except KeyboardInterrupt:
        progress.say("interrupted; this is what was done until then")
        return True
    finally:
        progress.clear()
    return False


def _print(table: list[Row], trials: int, done: list[Trial]) -> None:
    several = len({row.engine for row in table}) > 1
    columns = ["defect", *(["engine"] if several else []), "reached", "triggered", "detected"]
    columns += ["programs", "mean s", "slowest s", "operations", "shortest"]
    lines = [
        [
            row.defect,
            *([row.engine] if several else []),
            *(f"{count}/{row.trials}" for count in (row.reached, row.triggered, row.detected)),
            f"{row.programs:,.0f}",
            f"{row.seconds:.2f}",
            f"{row.slowest:.2f}" if row.detected == row.trials else f"> {row.slowest:.0f}",
            "-" if row.operations is None else f"{row.median_operations:g}, at most {row.operations}",
            str(row.shortest),
        ]
        for row in table
    ]
    print_table(f"{len(done)} of {trials} trials", columns, lines, right=2 if several else 1, width=120)
    late = [row for row in table if row.detected < row.trials]
    long = [row for row in table if not row.small]
    for row in late:
        print(f"{row.defect}: {row.engine} did not detect it in {row.trials - row.detected} of {row.trials} trials")
    for row in long:
        print(f"{row.defect}: {row.longer} programs too long after minimizing, up to {row.operations} operations")


def _list(as_json: bool) -> None:
    from zoo import DEFECTS, NOT_MODELLED

    if as_json:
        modelled: list[dict[str, Any]] = [
            {
                "id": d.id,
                "modelled": True,
                "reason": None,
                "title": d.title,
                "side": d.side,
                "spot": d.spot,
                "layer": d.layer,
                "source": d.source,
                "mechanism": d.mechanism,
                "program": d.program,
                "failing": d.failing,
            }
            for d in DEFECTS.values()
        ]
        left_out = [{"id": n.id, "modelled": False, "reason": n.reason, "title": n.title} for n in NOT_MODELLED]
        print_json([*modelled, *left_out])
        return
    rows = [[d.id, d.side, d.layer, d.title] for d in DEFECTS.values()]
    print_table("can be planted", ["id", "side", "layer", "what goes wrong"], rows, 4, fold=3)
    print_table("cannot", ["id", "title", "why"], [[n.id, n.title, n.reason] for n in NOT_MODELLED], 3, fold=2)
