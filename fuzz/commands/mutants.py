"""`vmemmap-fuzz mutants`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuzz.commands.common import (
    DIFFERENT,
    SAME,
    JsonOption,
    SeedOption,
    app,
    fail,
    guarded,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from fuzz.mutants.budget import Budget
    from fuzz.mutants.run import Result


@app.command()
@guarded
def mutants(
    module: Annotated[
        list[str] | None,
        typer.Option(help="Package or module to mutate: mm, fuzz.oracle.rules, ... Can be given again. Default: all."),
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="So many, chosen by the seed; all if absent.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="CPU time that a mutant has to survive.")] = 30.0,
    workers: Annotated[int, typer.Option(min=1, help="Mutants at a time.")] = 1,
    results: Annotated[
        Path | None,
        typer.Option(help="File for results (JSON lines); a run that finds its own goes on.", show_default=False),
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Plant small faults in the models and the oracle, and count how many a short smoke notices.

    Each mutant (one comparison, constant, operator, negation, statement, result or pair of arguments changed) gets a
    process of its own, which replays the corpus, looks for the bugs of the zoo and runs random programs. Before that
    the same is done without a mutant: if corpus or zoo show anything then, nothing is run and the exit code is 1.
    Survivors are for people to look at: docs/mutants.md.
    """
    from fuzz.mutants.budget import Budget
    from fuzz.mutants.run import choose, fill_panel
    from fuzz.mutants.run import journal as results_file
    from fuzz.progress import Progress

    budget = Budget.load(seconds, seed)
    try:
        chosen = choose(tuple(module) if module else _packages(), sample, seed)
        journal = results_file(results, budget)
    except ValueError as error:
        raise fail(str(error)) from None
    progress = Progress()
    left = [mutant for mutant in chosen if mutant.id not in journal.done]
    try:
        if left:
            progress.say(f"{len(chosen)} mutants, {len(left)} to run; first the smoke without any")
            if kill := budget.baseline():
                print(f"without a mutant, {kill.where} shows: {kill.by}: {kill.what}")
                raise typer.Exit(DIFFERENT)
            for name, found in budget.unclean.items():
                progress.say(f"left out, for it shows something without a mutant: {name}: {found.what}")
            if any(mutant.package == "fuzz.oracle" for mutant in left):
                progress.say(f"{budget.programs} random programs recorded; now a panel of faults in the models")
                fill_panel(budget, workers)
                progress.say(f"{len(budget.panel.members)} faults that the oracle must see")
        _run(budget, left, workers, journal, progress)
    except KeyboardInterrupt:
        progress.say("interrupted; this is what was done until then")
    finally:
        journal.close()
    progress.clear()
    done = [journal.done[mutant.id] for mutant in chosen if mutant.id in journal.done]
    if as_json:
        print_json(_document(budget, chosen, done))
    else:
        _print(chosen, done)
    raise typer.Exit(SAME)


def _packages() -> tuple[str, ...]:
    from fuzz.mutants.sites import PACKAGES

    return PACKAGES


def _run(budget: Budget, left: list[Any], workers: int, journal: Any, progress: Any) -> None:
    from fuzz.mutants.run import run_all

    survived = 0
    for number, result in enumerate(run_all(budget, left, workers), 1):
        journal.put(result)
        survived += result.status == "survived"
        progress.show(f"{number} of {len(left)} mutants run, {survived} survived; last: {result.mutant.id}")


def _document(budget: Budget, chosen: list[Any], done: list[Result]) -> dict[str, Any]:
    from fuzz.mutants.run import header, score

    return {
        **header(budget),
        "programs": budget.programs,
        "left_out": {name: kill.what for name, kill in budget.unclean.items()},
        "panel": len(budget.panel.members),
        "chosen": len(chosen),
        "score": score(done),
        "results": [result.to_json() for result in done],
    }


def _print(chosen: list[Any], done: list[Result]) -> None:
    from fuzz.mutants.run import score

    rows = [
        [
            row["package"],
            *(str(row[name]) for name in ("mutants", "killed", "survived", "unreached")),
            f"{row['score']:.1%}",
            "{:.1%} .. {:.1%}".format(*row["interval"]),
            "-" if row["median_seconds"] is None else f"{row['median_seconds']:.1f}",
        ]
        for row in score(done)
    ]
    columns = ["package", "mutants", "killed", "survived", "not reached", "score", "95 % interval", "median s"]
    print_table(f"{len(done)} of {len(chosen)} mutants", columns, rows, right=1)
    for result in done:
        if result.status == "survived":
            mutant = result.mutant
            note = "" if result.reached else "  (never run)"
            print(f"survived {mutant.id}, line {mutant.line}, {mutant.operator}{note}")
            print(f"    {mutant.before}  ->  {mutant.after}")
