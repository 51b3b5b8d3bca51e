"""A campaign from a user's options."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fuzz.campaign.campaign import Campaign, Summary
from fuzz.campaign.pool import HANG, Local, Pool, tasks
from fuzz.campaign.settings import SETTINGS, CampaignError, Settings, locked
from fuzz.findings import check_writable
from fuzz.lifeline import sigterm_interrupts
from fuzz.progress import Progress

FOLDER: Final = Path("campaigns")


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ from one run of a campaign to the next."""

    reports: Path
    seconds: float | None = None
    programs: int | None = None
    workers: int = 1
    """0 for one for each core."""
    patience: float | None = None
    """Seconds for minimizing one finding in a timed run; a run that ends after a number of programs takes what it
    takes, since a clock would make equal runs differ."""
    hang: float = HANG
    dask: str | None = None
    """Address of a Dask scheduler, to work there and not here."""


def new_folder() -> Path:
    """Where a campaign goes that was given no folder: by the time, and unlike any other's."""
    return FOLDER / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}"


def begin(folder: Path, settings: Settings, options: Options, progress: Progress) -> Summary:
    """A new campaign; raises CampaignError where there is one already."""
    if (folder / SETTINGS).exists():
        raise CampaignError(f"{folder} is a campaign already: --resume {folder} goes on with it")
    folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)
    with locked(folder):
        settings.save(folder)
        return _run(folder, settings, options, progress)


def resume(folder: Path, options: Options, progress: Progress) -> Summary:
    """Go on with a campaign; raises CampaignError if it is none, or is being run."""
    settings = Settings.load(folder)
    with locked(folder):
        return _run(folder, settings, options, progress)


def _run(folder: Path, settings: Settings, options: Options, progress: Progress) -> Summary:
    with sigterm_interrupts():
        return _campaign(folder, settings, options, progress)


def _campaign(folder: Path, settings: Settings, options: Options, progress: Progress) -> Summary:
    counted = options.programs is not None
    campaign = Campaign(
        folder,
        settings,
        options.reports,
        progress,
        patience=None if counted else options.patience,
        hold=counted,
    )

    def make_pool(run: int, launches: int) -> Pool:
        workers = options.workers or os.cpu_count() or 1
        made = tasks(settings, workers=workers, run=run, programs=options.programs)
        if options.dask is not None:
            from fuzz.campaign.machines import Machines

            return Machines(options.dask, made, run=run, launches=launches, seconds=options.seconds, hang=options.hang)
        return Local(made, run=run, launches=launches, hang=options.hang)

    return campaign.run(make_pool, options.seconds)
