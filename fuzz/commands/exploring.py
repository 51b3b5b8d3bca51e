"""`vmemmap-fuzz explore`."""

from __future__ import annotations

import enum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from fuzz.commands.common import (
    DIFFERENT,
    INTERNAL,
    REPORTS,
    SAME,
    JsonOption,
    Profile,
    ProfileOption,
    Reference,
    ReferenceOption,
    ReportsOption,
    app,
    guarded,
    name_of,
    print_json,
    print_table,
    version_of,
    writable,
)

if TYPE_CHECKING:
    from fuzz.engines.explore import Explore
    from fuzz.execute import Profile as ProfileName
    from fuzz.findings import Report
    from zoo import Version

SLICE: Final = 0.5
"""Seconds between two looks at the clock."""


class UniverseName(enum.StrEnum):
    """`fuzz.engines.universe.UNIVERSES`, for the parser."""

    all = "all"
    pool = "pool"
    memory = "memory"
    devices = "devices"


@app.command()
@guarded
def explore(
    max_ops: Annotated[int, typer.Option(min=1, help="Operations of the longest programs, after the boot.")] = 3,
    universe: Annotated[
        UniverseName,
        typer.Option(
            help="The operations to combine, on a machine of 512M. all: everything below at once, about 40 operations "
            "in each state. pool: 2M huge pages. memory: two hot-added sections. devices: device DAX. In each of them "
            "allocations fail by injection."
        ),
    ] = UniverseName.all,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after that long; the claim is then about shorter programs.")
    ] = None,
    profile: ProfileOption = Profile.posted,
    reference: ReferenceOption = Reference.v7_3,
    reports: ReportsOption = REPORTS,
    as_json: JsonOption = False,
) -> None:
    """Run every program of up to --max-ops operations over a small universe.

    The search is breadth first, and programs that lead to the same state are continued once, so the first program that
    shows a difference is a shortest one. What it ends with is a claim about all programs of that length, and a list of
    what the claim does not cover. A search that never saw what it was to see (a huge page optimized, a device removed,
    an injected failure, ...) claims nothing, and its exit code is 3.

    Depth 3 of `all` takes some 10 seconds, each further operation some 12 times as long.
    """
    from fuzz.engines.explore import Explore
    from fuzz.engines.universe import UNIVERSES
    from zoo import reference_version

    writable(reports)
    search = Explore(name_of(profile), UNIVERSES[universe.value], max_ops)
    version = version_of(reference)
    with reference_version(version):
        found = _search(search, name_of(profile), version, reports, seconds)
    if as_json:
        print_json({**search.to_json(), "reference": version, "findings": [_finding(report) for report in found]})
    else:
        _print(search, found, reports)
    if search.findings:
        raise typer.Exit(DIFFERENT)
    raise typer.Exit(INTERNAL if search.vacuous else SAME)


def _search(
    search: Explore, profile: ProfileName, reference: Version, reports: Path, seconds: float | None
) -> list[Report]:
    """Run the search to its end or the end of the time; Ctrl-C ends it in good order."""
    from fuzz.campaign.helper import settle
    from fuzz.findings import write
    from fuzz.progress import Progress

    found: dict[str, Report] = {}
    progress = Progress()
    end = float("inf") if seconds is None else monotonic() + seconds
    begin = monotonic()
    try:
        while search.running and (now := monotonic()) < end:
            for discovery in search.advance(min(SLICE, end - now)):
                report = settle(discovery, profile, reference=reference)
                write(report, reports, profile, reference=reference)
                if found.setdefault(report.finding.signature, report) is report:
                    progress.say(f"finding: {report.finding.signature}")
            progress.show(
                f"{now - begin:4.0f} s  {search.depth} operations done  {search.states:,} states  "
                f"{search.transitions:,} transitions  findings: {len(search.findings)}"
            )
    except KeyboardInterrupt:
        progress.say("interrupted; this is what was done until then")
    progress.clear()
    return list(found.values())


def _finding(report: Report) -> dict[str, Any]:
    from fuzz.program.text import format as format_program

    return {
        "signature": report.finding.signature,
        "detail": report.finding.detail,
        "folder": report.name,
        "operations": report.original,
        "program": format_program(report.program),
    }


def _print(search: Explore, found: list[Report], reports: Path) -> None:
    numbers = (search.depth, search.states, search.transitions, search.merged, len(search.findings))
    print_table(
        f"{search.statistics.seconds:.0f} s, universe {search.universe.name}, profile {search.profile}",
        ["depth", "states", "transitions", "merged", "findings"],
        [[f"{number:,}" for number in numbers]],
        right=0,
    )
    seen = [[name, f"{times:,}"] for name, times in search.sometimes.items()]
    print_table("", ["sometimes", "transitions"], seen, right=1)
    for report in found:
        print(f"finding: {report.finding.signature}\n  {report.finding.detail}\n  {reports / report.name}\n")
    print("not covered:")
    for line in search.not_covered():
        print(f"- {line}")
    print(f"\n{search.claim}")
