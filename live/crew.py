"""Programs spread over worker processes, each with one stage at a time.

A worker takes the programs of one machine in pieces, so that it boots seldom. It dies with the process that made it,
and its emulators with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final, NamedTuple

from fuzz.lifeline import die_with_parent
from live.errors import LiveError
from live.generate import Profile
from live.minimal import smallest
from live.recorder import Recorder
from live.runner import Item, MakeStage, Runner, Stage
from live.tally import Tally

CHUNK: Final = 20
"""Programs that a worker runs before it asks for more."""

Progress = Callable[[Tally], None]


class Task(NamedTuple):
    """Programs of one machine."""

    profile: Profile
    items: tuple[Item, ...]


def pieces(tasks: Iterable[Task], chunk: int = CHUNK) -> list[Task]:
    """The same programs in pieces of at most `chunk`."""
    return [Task(t.profile, t.items[at : at + chunk]) for t in tasks for at in range(0, len(t.items), chunk)]


Order = tuple[Task, frozenset[str]]
"""A task, and the signatures that somebody has minimized."""


class Worker:
    """What one worker process does; `work` is its life."""

    def __init__(self, make: MakeStage, seed: int, recorder: Recorder | None = None) -> None:
        self.make = make
        self.seed = seed
        self.recorder = recorder
        self.stage: Stage | None = None
        self.profile: Profile | None = None
        self.known: set[str] = set()
        """Signatures that have been minimized already; only the first of a kind is worth that."""

    def work(self, task: Task) -> Tally:
        """Run a task."""
        tally = Tally()
        if self.stage is None or self.profile != task.profile:
            if self.stage is not None:
                self.stage.close()
            self.stage = None
            begin = time.perf_counter()
            self.stage, self.profile = self.make(task.profile), task.profile
            tally.spend("boot", time.perf_counter() - begin)
        runner = Runner(task.profile, self.stage, tally, self.seed, self.recorder)
        for item in task.items:
            found = runner.item(item)
            if found is None:
                continue
            signature = found.finding.signature
            if signature not in self.known:
                self.known.add(signature)
                begin = time.perf_counter()
                found = smallest(found, task.profile, self.stage, self.make)
                tally.spend("minimize", time.perf_counter() - begin)
            tally.disagreements.append(found)
        return tally


def _worker(make: MakeStage, seed: int, recorder: Recorder | None, orders: Connection, parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker(make, seed, recorder)
    while True:
        order: Order | None = orders.recv()
        if order is None:
            break
        task, known = order
        worker.known |= known
        try:
            orders.send(worker.work(task))
        except LiveError as error:
            orders.send(error)
            break
        except Exception:
            orders.send(RuntimeError(f"in a worker:\n{traceback.format_exc()}"))
            break


def run_crew(
    make: MakeStage,
    tasks: list[Task],
    seed: int,
    workers: int,
    progress: Progress | None = None,
    recorder: Recorder | None = None,
) -> Tally:
    """Run all tasks; what was done and found. An interrupt (Ctrl-C) ends it early with what there is so far."""
    todo = list(tasks)
    total = Tally()
    context = multiprocessing.get_context("fork")
    busy: dict[Connection, Profile | None] = {}
    processes: list[BaseProcess] = []
    try:
        for _ in range(min(workers, len(todo))):
            mine, its = context.Pipe()
            process: BaseProcess = context.Process(
                target=_worker, args=(make, seed, recorder, its, os.getpid()), daemon=True
            )
            process.start()
            its.close()
            processes.append(process)
            busy[mine] = None
            _order(mine, todo, busy)
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                try:
                    got = connection.recv()
                except EOFError as error:
                    raise RuntimeError("a worker ended without a word") from error
                if isinstance(got, Exception):
                    raise got
                total.add(got)
                known = frozenset(found.finding.signature for found in total.disagreements)
                if progress is not None:
                    progress(total)
                _order(connection, todo, busy, known)
    except KeyboardInterrupt:
        total.refused["interrupted before all programs were run"] += 1
    finally:
        for process in processes:
            if busy:
                process.kill()
            process.join()
    return total


def _order(
    connection: Connection,
    todo: list[Task],
    busy: dict[Connection, Profile | None],
    known: frozenset[str] = frozenset(),
) -> None:
    """Give a worker its next piece, of the machine it has booted if possible, or let it go."""
    if not todo:
        connection.send(None)
        del busy[connection]
        return
    others = {profile for other, profile in busy.items() if other is not connection}
    task = next((t for t in todo if t.profile == busy[connection]), None) or next(
        (t for t in todo if t.profile not in others), todo[0]
    )
    todo.remove(task)
    busy[connection] = task.profile
    connection.send((task, known))
