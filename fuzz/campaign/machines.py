"""Slices of fuzzing on many machines, by Dask.

A slice is a task: a worker process (`fuzz.campaign.pool.Local`, with all its watching) that works for some seconds and
hands over what it has. Programs of the corpus go in with it. A machine that is lost costs the slices it was at: Dask
runs them again elsewhere, and only the results that arrive count, each once. This side folds them in; it alone writes
files.

Every machine needs this project installed, of the same version.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from random import Random
from time import monotonic
from typing import Any, Final

from fuzz.campaign.pool import HANG, LEARNED, NUMBERED, Died, Event, Got, Local, Said, derived
from fuzz.campaign.settings import CampaignError
from fuzz.campaign.slices import Task

SLICE: Final = 10.0
"""Seconds of one slice: long against starting a process, short against what may be lost with a machine."""
PROGRAMS: Final = 1000
"""Programs of one slice, where they are counted."""
INPUT: Final = 64
"""Programs of the corpus that go with a slice for an engine that learns."""
AGAIN: Final = 5
"""Times that a slice is submitted which Dask has given up, each after four lost machines, before it is let go."""
CONNECT: Final = 5.0


def slice_of(task: Task, seconds: float | None, corpus: list[str], hang: float, name: str) -> list[Event]:
    """One slice, where it is worked on: what came of it."""
    pool = Local([task], hang=hang)
    pool.feed(corpus, "")
    events: list[Event] = []
    end = float("inf") if seconds is None else monotonic() + seconds
    try:
        events += pool.start()
        while not pool.done and monotonic() < end:
            events += pool.poll(0.2)
    finally:
        events += pool.stop()
    return [
        replace(event, source=f"{name}.{event.source}") if isinstance(event, Got | Died) else event for event in events
    ]


class Machines:
    """As many slices at once as there are tasks, each followed by the next of its kind."""

    def __init__(
        self,
        address: str,
        tasks: list[Task],
        *,
        run: int,
        launches: int = 0,
        seconds: float | None = None,
        hang: float = HANG,
    ) -> None:
        self.run = run
        self.launches = launches
        self.hang = hang
        self.end = None if seconds is None else monotonic() + seconds
        self.corpus: deque[str] = deque(maxlen=LEARNED)
        self.client = connect(address)
        self.given_up = False
        self.last_words = ""
        self._tasks = tasks
        self._random = Random(f"{run} {launches}")
        self._slices: dict[Any, tuple[int, Task, int]] = {}
        """Future -> place, what it does, how often it was given up."""
        self._left: dict[int, Task] = {}
        """Of each place, what is not submitted yet, where programs are counted."""

    @property
    def size(self) -> int:
        return len(self._slices)

    @property
    def done(self) -> bool:
        return not self._slices

    def start(self) -> list[Event]:
        for place, task in enumerate(self._tasks):
            if task.programs is not None:
                self._left[place] = task
            self._next(place)
        return []

    def _next(self, place: int) -> None:
        """Submit the next slice of a place, if there is one."""
        task = self._tasks[place]
        if task.programs is None:
            seed = derived(task.seed, self.run, self.launches) if self.launches >= len(self._tasks) else task.seed
            self._submit(place, replace(task, seed=seed), 0)
            return
        left = self._left.pop(place, None)
        if left is None or not left.programs:
            return
        now = min(PROGRAMS, left.programs)
        more = replace(left, programs=left.programs - now, first=left.first + now * left.stride)
        if left.engine not in NUMBERED:
            more = replace(more, seed=derived(left.seed, self.run, self.launches + 1))
        self._left[place] = more
        self._submit(place, replace(left, programs=now), 0)

    def _submit(self, place: int, task: Task, times: int) -> None:
        self.launches += 1
        corpus: list[str] = []
        if task.engine not in NUMBERED and self.corpus:
            corpus = self._random.sample(list(self.corpus), min(INPUT, len(self.corpus)))
        seconds = None if task.programs is not None else SLICE
        if seconds is not None and self.end is not None:
            seconds = max(0.5, min(seconds, self.end - monotonic()))
        future = self.client.submit(slice_of, task, seconds, corpus, self.hang, f"s{self.launches}", pure=False)
        self._slices[future] = place, task, times

    def feed(self, programs: Iterable[str], source: str) -> None:
        self.corpus.extend(programs)

    def poll(self, timeout: float) -> list[Event]:
        events = self._gather(timeout)
        if self.client.status not in ("running", "connecting"):
            self.given_up, self.last_words = True, "the connection to the Dask scheduler is lost"
            self._slices.clear()
            events.append(Said(self.last_words))
        return events

    def _gather(self, timeout: float, *, more: bool = True) -> list[Event]:
        """Results of the slices that have ended; their places get new ones."""
        from distributed import wait

        events: list[Event] = []
        try:
            with self.client.as_current():
                ended = wait(list(self._slices), timeout, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            return events
        for future in ended:
            place, task, times = self._slices.pop(future)
            if future.status == "finished":
                events += future.result()
                if more:
                    self._next(place)
                continue
            why = str(future.exception()) if future.status == "error" else future.status
            events.append(Said(f"a slice was given up by the cluster: {why.partition(chr(10))[0]}"))
            if more and times + 1 < AGAIN:
                self._submit(place, task, times + 1)
            elif more:
                events.append(Said(f"this slice is let go after {AGAIN} times: {task}"))
                self._next(place)
        return events

    def stop(self) -> list[Event]:
        """Wait for the slices that are being worked on, and close the connection."""
        events: list[Event] = []
        end = monotonic() + SLICE + 5.0
        running = (
            {key for keys in self.client.processing().values() for key in keys}
            if self.client.status == "running"
            else set()
        )
        waiting = [future for future in self._slices if future.key not in running]
        self.client.cancel(waiting)
        for future in waiting:
            del self._slices[future]
        while self._slices and monotonic() < end:
            events += self._gather(0.5, more=False)
        self.client.close(timeout=2)
        return events


def connect(address: str) -> Any:
    """A client of the scheduler; raises CampaignError."""
    try:
        from distributed import Client
    except ImportError:
        raise CampaignError("--dask needs the package distributed: pip install 'vmemmap-fuzz[dask]'") from None
    try:
        return Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CampaignError(f"no Dask scheduler answers at {address}: {error}".partition("\n")[0]) from None
