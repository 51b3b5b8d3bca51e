"""Work done in forked processes, one for each task: whatever becomes of it, the others go on.

A child starts from the memory of this process, so nothing is loaded twice; it gives its answer as JSON, and ends with
this process even if that is killed.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import wait
from time import monotonic
from typing import Any, Generic, TypeVar

from fuzz.lifeline import die_with_parent

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """How a task ended."""

    task: T
    answer: Any
    """None if the process gave none."""
    signal: int
    """That ended the process, or 0."""
    seconds: float
    """CPU time of the process."""


@dataclass(slots=True)
class _Child(Generic[T]):
    task: T
    pid: int
    pipe: Any
    """File object: the answer as JSON, or nothing where the process died."""
    begun: float


def each(tasks: Iterable[T], work: Callable[[T], Any], workers: int, patience: float) -> Generator[Ended[T]]:
    """The tasks as they end, `workers` at a time; one that takes `patience` seconds of wall-clock time is killed.

    The processes end with the generator.
    """
    left = list(tasks)[::-1]
    running: dict[int, _Child[T]] = {}
    gc.freeze()  # pages that no child has to copy
    try:
        while left or running:
            while left and len(running) < workers:
                child = _start(left.pop(), work)
                running[child.pipe.fileno()] = child
            ready = wait([child.pipe for child in running.values()], timeout=1.0)
            late = monotonic() - patience
            for child in list(running.values()):
                if child.pipe not in ready and child.begun > late:
                    continue
                if child.pipe not in ready:
                    os.kill(child.pid, signal.SIGKILL)
                del running[child.pipe.fileno()]
                yield _end(child)
    finally:
        for child in running.values():
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.pipe.close()


def _start(task: T, work: Callable[[T], Any]) -> _Child[T]:
    read, write = os.pipe()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
            die_with_parent(parent)
            with os.fdopen(write, "wb") as file:
                file.write(json.dumps(work(task)).encode())
        finally:
            os._exit(0)
    os.close(write)
    return _Child(task, pid, os.fdopen(read, "rb"), monotonic())


def _end(child: _Child[T]) -> Ended[T]:
    data = child.pipe.read()
    child.pipe.close()
    _, status, usage = os.wait4(child.pid, 0)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    answer = json.loads(data) if data else None
    return Ended(child.task, answer, number, usage.ru_utime + usage.ru_stime)
