"""What a campaign is (`campaign.json`), and where it stands (`state.json`).

Both are written by rename, so a kill leaves the old or the new one. `state.json` is a checkpoint of a few seconds ago;
what it holds can be lost: totals begin with the last line of the statistics then, the estimate of what is new from
nothing, and programs and findings are files of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from fuzz.coverage import Coverage
from fuzz.engines.statistics import Statistics
from fuzz.execute import Profile
from fuzz.store.files import put
from zoo import Version

SETTINGS: Final = "campaign.json"
STATE: Final = "state.json"
LOCK: Final = "lock"
EVENTS: Final = "events.jsonl"
STATISTICS: Final = "statistics.jsonl"
METRICS: Final = "metrics.prom"
VERSION: Final = 1


class CampaignError(Exception):
    """The campaign's folder cannot be used: one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What stays the same over all runs of a campaign."""

    engines: tuple[str, ...] = ("uniform",)
    """One for each worker, in turn."""
    seed: int = 0
    profile: Profile = "posted"
    defect: str | None = None
    reference: Version = "v7.3"

    def planted(self) -> dict[str, str | None]:
        """What a job says of the two sides (`fuzz.campaign.helper`)."""
        return {"profile": self.profile, "defect": self.defect, "reference": self.reference}

    def save(self, folder: Path) -> None:
        """Write `campaign.json`."""
        put(folder / SETTINGS, (json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n").encode(), sync=True)

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Read `campaign.json`."""
        path = folder / SETTINGS
        try:
            data = json.loads(path.read_text())
            if data.pop("version") != VERSION:
                raise CampaignError(f"{path}: another version of this program made it")
            return cls(**{**data, "engines": tuple(data["engines"])})
        except FileNotFoundError:
            raise CampaignError(f"{folder} is no campaign: there is no {SETTINGS}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise CampaignError(f"{path} is not what a campaign writes: {error}") from None


@dataclass(slots=True)
class State:
    """Where it stands."""

    run: int = 0
    """Runs begun."""
    launches: int = 0
    """Worker processes started, over all runs."""
    seconds: float = 0.0
    deaths: int = 0
    statistics: Statistics = field(default_factory=Statistics)
    coverage: Coverage = field(default_factory=Coverage)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "version": VERSION,
            "run": self.run,
            "launches": self.launches,
            "seconds": round(self.seconds, 3),
            "deaths": self.deaths,
            "statistics": self.statistics.to_json(),
            "coverage": self.coverage.to_json(),
        }

    def save(self, folder: Path) -> None:
        """Write the checkpoint."""
        put(folder / STATE, json.dumps(self.to_json()).encode())

    @classmethod
    def load(cls, folder: Path) -> State:
        """Read it; raises CampaignError where it is not there or not legible."""
        try:
            data = json.loads((folder / STATE).read_bytes())
            return cls(
                data["run"],
                data["launches"],
                data["seconds"],
                data["deaths"],
                Statistics.from_json(data["statistics"]),
                Coverage.from_json(data["coverage"]),
            )
        except FileNotFoundError:
            raise CampaignError("there is none") from None
        except (ValueError, KeyError, TypeError) as error:
            raise CampaignError(f"it is not legible ({error})") from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from running the same campaign; the kernel lets go when this process ends, however it does."""
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            who = os.pread(file, 20, 0).decode(errors="replace").strip()
            raise CampaignError(f"{folder} is being run by process {who or 'unknown'}") from None
        # Not being able to write the number is no reason not to run.
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)
