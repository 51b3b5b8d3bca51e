"""Campaigns in one folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz.campaign.running import Running


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts campaigns, all in the same folder: the first makes it, the next go on."""
    started: list[Running] = []

    def start(*args: str, environment: dict[str, str] | None = None) -> Running:
        started.append(Running(tmp_path, *args, environment=environment))
        return started[-1]

    yield start
    for running in started:
        running.close()
