"""The process that runs an engine: `python -P -m fuzz.campaign.worker`.

Lines of JSON on stdin: first what to do (`Start`), then {"corpus": [texts]} to learn from and {"stop": true}. Lines on
stdout: results of slices. It ends when it is told to, when its task is done, or when nobody is at the other end.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from pathlib import Path
from typing import Any, Final

from fuzz.campaign.slices import Task, Work, defects
from fuzz.engines.protocol import EngineError
from fuzz.lifeline import die_with_parent
from fuzz.trail import open_trail
from zoo import reference_version

SLICE: Final = 0.5
"""Seconds between two results."""
READ: Final = 1 << 20


class Orders:
    """What the other end says, read without waiting for it."""

    def __init__(self) -> None:
        self._rest = b""

    def first(self) -> dict[str, Any]:
        """Wait for the first line."""
        while b"\n" not in self._rest:
            self._read()
        return self._lines()[0]

    def more(self) -> list[dict[str, Any]]:
        """Lines that have come since."""
        while select.select([0], [], [], 0)[0]:
            self._read()
        return self._lines()

    def _read(self) -> None:
        data = os.read(0, READ)
        if not data:
            os._exit(0)  # the campaign is gone
        self._rest += data

    def _lines(self) -> list[dict[str, Any]]:
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]


def emit(data: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


def work(orders: Orders, task: Task) -> None:
    """Slices, until the end."""
    try:
        job = Work(task)
        stopped = False
        while not stopped:
            for order in orders.more():
                if order.get("stop"):
                    stopped = True
                job.learn(order.get("corpus", ()))
            if not stopped:
                emit(job.step(SLICE))
                stopped = job.done
        emit(job.stop())
    except EngineError as error:
        emit({"engine": task.engine, "broken": str(error)})


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the campaign
    orders = Orders()
    start = orders.first()
    die_with_parent(int(start["parent"]))
    if start.get("memory"):
        resource.setrlimit(resource.RLIMIT_AS, (start["memory"], start["memory"]))
    if start.get("trail"):
        open_trail(Path(start["trail"]))
    task = Task.from_json(start["task"])
    with reference_version(task.reference, *defects(task.defect)):
        work(orders, task)


if __name__ == "__main__":
    main()
