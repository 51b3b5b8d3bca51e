"""Worker processes on this machine: started, heard, watched, replaced.

A worker that dies or hangs is replaced, and the campaign is told what it was doing. One that cannot even begin, again
and again, is given up. The kernel kills workers whose parent is gone (`fuzz.lifeline`).
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, Protocol

from fuzz import compiled
from fuzz.campaign.helper import MEMORY, contents, environment, memory_file
from fuzz.campaign.settings import Settings
from fuzz.campaign.slices import Result, Task
from fuzz.program.model import Program
from fuzz.program.text import format_machine
from fuzz.trail import pulse, read

HANG: Final = 60.0
"""Seconds without a new operation after which a worker counts as hung."""
SLOW: Final = 10.0
"""Seconds without a new operation after which the user is told."""
GRACE: Final = 15.0
"""Seconds that workers get to end by themselves; one that is at the same operation all that time counts as hung."""
FRUITLESS: Final = 5
"""Deaths in a row without a single result after which a place is given up."""
LEARNED: Final = 2000
"""Programs that are kept ready for a worker that begins."""
NUMBERED: Final = ("uniform", "swarm")
"""Engines whose programs have numbers, so that workers can take every n-th. They do not learn."""
CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Got:
    """A result."""

    source: str
    result: Result


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone."""

    source: str
    kind: str
    """"death" or "hang"."""
    how: str
    program: Program | None
    """What it was running."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An engine cannot work here."""

    engine: str
    why: str


@dataclass(frozen=True, slots=True)
class Said:
    """Something for the user to know."""

    text: str


Event = Got | Died | Broken | Said


class Pool(Protocol):
    """Where slices are worked on."""

    @property
    def size(self) -> int:
        """Workers that are at work now."""

    @property
    def done(self) -> bool:
        """Nothing is left to do, or nobody to do it."""

    def start(self) -> list[Event]:
        """Begin."""

    def poll(self, timeout: float) -> list[Event]:
        """What has come, after at most that many seconds of waiting."""

    def feed(self, programs: Iterable[str], source: str) -> None:
        """Offer programs that one worker found to the others."""

    def stop(self) -> list[Event]:
        """End everything; what came last."""


@dataclass(slots=True)
class Worker:
    """One process."""

    place: int
    source: str
    task: Task
    process: subprocess.Popen[bytes]
    trail: int
    errors: int
    rest: bytearray = field(default_factory=bytearray)
    results: int = 0
    done: bool = False
    programs: int = 0
    """Of its task, reported so far."""
    pulse: tuple[int, int] = (0, 0)
    alive: float = field(default_factory=monotonic)
    """When it was last seen to get on."""
    slow: tuple[int, int] = (0, 0)
    """Where it was when the user was told that it is slow."""
    unsent: bytearray = field(default_factory=bytearray)

    @property
    def trail_path(self) -> Path:
        """Its trail, by a name that other processes can open too."""
        return Path(f"/proc/{os.getpid()}/fd/{self.trail}")


class Local:
    """`tasks[i]` is worked on by place i; a replacement goes on with a task of its own, from `again`."""

    def __init__(
        self, tasks: list[Task], *, run: int = 1, launches: int = 0, hang: float = HANG, memory: int = MEMORY
    ) -> None:
        self.tasks = tasks
        self.launches = launches
        """Processes started so far: each has a number of its own, over all runs of a campaign."""
        self.run = run
        self.hang = hang
        self.memory = memory
        self.workers: dict[int, Worker] = {}
        self.fruitless = [0] * len(tasks)
        self.last_words = ""
        self.corpus: deque[str] = deque(maxlen=LEARNED)
        """For workers that begin."""
        self._selector = selectors.DefaultSelector()

    @property
    def size(self) -> int:
        return len(self.workers)

    @property
    def done(self) -> bool:
        return not self.workers

    @property
    def given_up(self) -> bool:
        """Whether no place is left that can work."""
        return all(count >= FRUITLESS for count in self.fruitless)

    def start(self) -> list[Event]:
        for place, task in enumerate(self.tasks):
            self._launch(place, task)
        if compiled.available() and any(map(compilable, self.tasks)):
            return [Said("searching with the compiled models; what differs is run again on the sources")]
        return []

    def _launch(self, place: int, task: Task) -> None:
        self.launches += 1
        trail, errors = memory_file(), memory_file()
        through = ["fuzz.compiled"] if compilable(task) else []
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *through, "fuzz.campaign.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(),
            start_new_session=True,
        )
        worker = Worker(place, f"w{self.launches}", task, process, trail, errors)
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self.workers[place] = worker
        # libFuzzer runs in a child of the worker and has memory limits of its own.
        memory = 0 if task.engine == "libfuzzer" else self.memory
        start = {"parent": os.getpid(), "trail": str(worker.trail_path), "memory": memory, "task": task.to_json()}
        self._send(worker, start)
        if self.corpus and task.engine not in NUMBERED:
            self._send(worker, {"corpus": list(self.corpus)})

    def _send(self, worker: Worker, order: dict[str, Any]) -> None:
        worker.unsent += json.dumps(order).encode() + b"\n"
        self._push(worker)

    def _push(self, worker: Worker) -> None:
        """Write as much of what is to be sent as the pipe takes."""
        assert worker.process.stdin is not None
        try:
            while worker.unsent:
                del worker.unsent[: os.write(worker.process.stdin.fileno(), worker.unsent[:CHUNK])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            worker.unsent.clear()  # it died, and will be seen to have

    def feed(self, programs: Iterable[str], source: str) -> None:
        order = {"corpus": list(programs)}
        self.corpus.extend(order["corpus"])
        for worker in self.workers.values():
            # One that does not keep up gets no more than it can read.
            if worker.source != source and worker.task.engine not in NUMBERED and len(worker.unsent) < CHUNK:
                self._send(worker, order)

    def poll(self, timeout: float) -> list[Event]:
        events: list[Event] = []
        for key, _ in self._selector.select(timeout):
            events += self._hear(key.data)
        for worker in list(self.workers.values()):
            self._push(worker)
            events += self._look(worker)
        return events

    def _hear(self, worker: Worker) -> list[Event]:
        """Whole lines that a worker wrote; at the end of them, its end."""
        assert worker.process.stdout is not None
        ended = False
        try:
            while data := os.read(worker.process.stdout.fileno(), CHUNK):
                worker.rest += data
            ended = True
        except BlockingIOError:
            pass
        *lines, rest = bytes(worker.rest).split(b"\n")
        worker.rest = bytearray(rest)
        events: list[Event] = []
        for line in lines:
            worker.alive = monotonic()
            worker.results += 1
            try:
                result = json.loads(line)
            except ValueError:
                events.append(Said(f"worker {worker.source} wrote a line that is not JSON"))
                continue
            if "broken" in result:
                worker.done = True
                self.fruitless[worker.place] = FRUITLESS
                self.last_words = result["broken"]
                events.append(Broken(worker.task.engine, result["broken"]))
                continue
            worker.done = worker.done or result["last"]
            worker.programs = result["statistics"]["programs"]
            self.fruitless[worker.place] = 0
            events.append(Got(worker.source, result))
        return events + (self._ended(worker) if ended else [])

    def _ended(self, worker: Worker, kind: str = "death") -> list[Event]:
        """A worker's pipe is closed: it is done, or it died."""
        if self.workers.get(worker.place) is not worker:
            return []
        try:
            worker.process.wait(1.0)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        status = worker.process.returncode
        words = contents(worker.errors).decode(errors="replace").strip().rpartition("\n")[2]
        program = read(worker.trail_path) if not worker.done else None
        self._forget(worker)
        if worker.done:
            return []
        if kind == "hang":
            how = _no_operation(self.hang)
        elif status < 0:
            how = f"killed by signal {-status}"
        else:
            how = f"status {status}: {words}" if words else f"status {status}"
        self.last_words = words or how
        if not worker.results:
            self.fruitless[worker.place] += 1
        events: list[Event] = [Died(worker.source, kind, how, program)]
        if self.fruitless[worker.place] < FRUITLESS:
            self._launch(worker.place, self.again(worker))
        else:
            events.append(Said(f"place {worker.place} is given up: {FRUITLESS} workers died before they had a result"))
        return events

    def again(self, worker: Worker) -> Task:
        """What the replacement of a worker does: other programs than the dead one, or the rest of them."""
        task = worker.task
        if task.programs is None:
            other = derived(task.seed, self.run, self.launches)
            return Task(task.engine, other, task.profile, task.defect, task.reference)
        # The one it was at is lost to this count; it is tried again elsewhere.
        done = min(worker.programs + 1, task.programs)
        return Task(
            task.engine,
            task.seed if task.engine in NUMBERED else derived(task.seed, self.run, self.launches),
            task.profile,
            task.defect,
            task.reference,
            task.programs - done,
            task.first + done * task.stride,
            task.stride,
        )

    def _look(self, worker: Worker) -> list[Event]:
        """Whether a worker gets on."""
        now = monotonic()
        at = pulse(worker.trail_path)
        if at != worker.pulse:
            worker.pulse, worker.alive = at, now
        if now - worker.alive < self.hang or (at == (0, 0) and now - worker.alive < 2 * self.hang):
            return self._slow(worker, now)
        worker.process.kill()
        return self._ended(worker, "hang")

    def _slow(self, worker: Worker, now: float) -> list[Event]:
        """Says once of an operation that it takes long."""
        if now - worker.alive < SLOW or worker.slow == worker.pulse:
            return []
        program = read(worker.trail_path)
        if program is None or not program.ops:
            return []
        worker.slow = worker.pulse
        at = f"operation {len(program.ops)} of a program, {program.ops[-1].name}, on {format_machine(program.machine)}"
        return [Said(f"worker {worker.source} has been at one operation for {now - worker.alive:.0f} s: {at}")]

    def _forget(self, worker: Worker) -> None:
        assert worker.process.stdin is not None
        assert worker.process.stdout is not None
        self._selector.unregister(worker.process.stdout)
        worker.process.stdin.close()
        worker.process.stdout.close()
        os.close(worker.trail)
        os.close(worker.errors)
        del self.workers[worker.place]

    def stop(self) -> list[Event]:
        events: list[Event] = []
        begin = monotonic()
        for worker in self.workers.values():
            self._send(worker, {"stop": True})
            worker.done = True  # its end is no death any more
        while self.workers and monotonic() < begin + GRACE:
            for key, _ in self._selector.select(0.05):
                events += self._hear(key.data)
            for worker in self.workers.values():
                self._push(worker)
                at = pulse(worker.trail_path)
                if at != worker.pulse:
                    worker.pulse, worker.alive = at, monotonic()
        for worker in list(self.workers.values()):
            stuck = worker.alive <= begin and worker.pulse != (0, 0)
            program = read(worker.trail_path) if stuck else None
            os.killpg(worker.process.pid, signal.SIGKILL)
            sleep(0)
            events += self._hear(worker)
            events += self._ended(worker)
            if stuck:
                events.append(Died(worker.source, "hang", _no_operation(GRACE), program))
        return events


def _no_operation(seconds: float) -> str:
    return f"no operation in {seconds:.0f} s"


def compilable(task: Task) -> bool:
    """Whether a task can do with compiled models: defects, those of an older reference too, and the counters of
    libFuzzer are planted in the sources."""
    return task.defect is None and task.reference == "v7.3" and task.engine != "libfuzzer"


def derived(seed: int, run: int, launch: int) -> int:
    """A seed for one launch in one run of a campaign, far from all others."""
    name = f"{seed} {run} {launch}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:7], "big")


def tasks(settings: Settings, *, workers: int, run: int = 1, programs: int | None = None) -> list[Task]:
    """What the workers of a run do: programs of one seed in turn, `programs` of them together.

    The first run of a campaign has the seed as it is, so that what it does can be repeated; later ones have others.
    """
    engines, seed = settings.engines, settings.seed
    own = seed if run == 1 else derived(seed, run, 0)
    out = []
    for i in range(workers):
        engine = engines[i % len(engines)]
        mine = own if engine in NUMBERED or i < len(engines) else derived(own, run, i)
        share = None if programs is None else len(range(i, programs, workers))
        if share != 0:
            out.append(Task(engine, mine, settings.profile, settings.defect, settings.reference, share, i, workers))
    return out
