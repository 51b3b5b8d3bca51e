"""Campaigns on a Dask cluster: scheduler and workers on the loopback, one worker killed every few seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from fuzz.campaign.machines import PROGRAMS
from fuzz.store.files import Store
from tests.fuzz.campaign.running import ROOT, Running, wait_for

pytest.importorskip("distributed", reason="distributed is not installed")

Start = Callable[..., Running]


class Cluster:
    """Processes on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        words = ["dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-jupyter"]
        self.scheduler = self.process(*words, "--scheduler-file", str(self.file))
        self.address = str(wait_for(self.read)["address"])
        self.workers: list[subprocess.Popen[bytes]] = []

    def read(self) -> dict[str, str] | None:
        try:
            data: dict[str, str] = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return None
        return data

    def process(self, module: str, *words: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "dask.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *words],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def grow(self) -> None:
        words = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--death-timeout", "60"]
        self.workers.append(self.process("dask_worker", self.address, *words, "--local-directory", str(self.folder)))

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    for _ in range(2):
        made.grow()
    yield made
    made.close()


def test_lost_workers_cost_slices_and_no_result_counts_twice(cluster: Cluster, campaign: Start) -> None:
    """3 slices' worth of programs for each of 2 places, and kills all along: the sum is exact."""
    total = 3 * PROGRAMS
    running = campaign("--programs", str(total), "--workers", "2", "--seed", "4", "--dask", cluster.address, "--json")
    random = Random(5)
    killed = 0
    end = time.monotonic() + 12
    while time.monotonic() < end and running.process.poll() is None:
        time.sleep(random.uniform(2.0, 4.0))
        victim = cluster.workers.pop(random.randrange(len(cluster.workers)))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        killed += 1
        cluster.grow()
    running.end(400)
    data = running.json()
    assert killed >= 2
    assert data["programs"] == total, running.said()
    assert data["quarantined"] == []
    # All that any program showed is in the corpus: the same programs run here keep the same features.
    state = json.loads((running.folder / "state.json").read_text())
    assert state["coverage"]["programs"] == total
    assert Store(running.folder).digests()


def test_findings_come_back(cluster: Cluster, campaign: Start) -> None:
    running = campaign("--programs", "60", "--workers", "2", "--dask", cluster.address, "--defect", "ACC-2026-03")
    assert running.end() == 1
    assert any(signature.startswith("accounting|nr_memmap|dax create") for signature in running.announced())


def test_no_scheduler_is_one_line(campaign: Start) -> None:
    running = campaign("--seconds", "5", "--dask", "tcp://127.0.0.1:1")
    assert running.end() == 2
    assert "error: no Dask scheduler answers at tcp://127.0.0.1:1" in running.said()
    assert "Traceback" not in running.said()
