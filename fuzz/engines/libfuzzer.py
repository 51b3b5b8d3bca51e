"""libFuzzer, through atheris: follows branch coverage of both models into code that chance does not reach.

It must have a process of its own: libFuzzer ends the process it runs in, and a second campaign in one process is
impossible. The child is `fuzz.engines.libfuzzer_child`, started with the interpreter's absolute path; results come over
in files (`fuzz.engines.handover`). libFuzzer's seed does not make a run repeatable (counters are numbered anew in each
process), so what it finds is kept as a program.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Final

from fuzz.engines.handover import STATS, STOP, discovery_from_json
from fuzz.engines.protocol import Discovery, EngineError
from fuzz.engines.statistics import Statistics
from fuzz.execute import Profile
from fuzz.generate.program import run_generated
from fuzz.program.codec import encode
from fuzz.program.model import Program

ROOT: Final = Path(__file__).resolve().parents[2]
GRACE: Final = 10.0
"""Seconds that the child gets to end by itself; one program can take a while under instrumentation."""
SEEDS: Final = 64
"""Programs of the uniform generator that the corpus begins with."""
POLL: Final = 0.05


def unavailable() -> str | None:
    """Why this engine cannot work here, in one line, or None."""
    if importlib.util.find_spec("atheris") is None:
        version = ".".join(platform.python_version_tuple()[:2])
        where = f"Python {version} on {sys.platform} {platform.machine()}"
        return f"atheris is not installed (there are wheels for Linux on x86_64 only; this is {where})"
    return None


class LibFuzzer:
    """The parent's side: start the child, read what it hands over, stop it."""

    name = "libfuzzer"
    background = True

    def __init__(self, seed: int, profile: Profile = "posted", *, seeds: list[Path] | None = None) -> None:
        self.statistics = Statistics()
        self.seed = seed
        self.profile = profile
        self.seeds = seeds or []
        """`.vmm` files that the corpus begins with, besides generated programs."""
        self.module = "fuzz.engines.libfuzzer_child"
        """What the child runs."""
        self.environment: dict[str, str] = {}
        """What it finds in its environment besides."""
        self.folder: Path | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.seen = 0
        self.drained = 0
        self.fed = 0

    @property
    def running(self) -> bool:
        """Whether the child is alive."""
        return self.child is not None and self.child.poll() is None

    def start(self) -> None:
        """Make the corpus and start the child."""
        reason = unavailable()
        if reason is not None:
            raise EngineError(reason)
        self.folder = folder = Path(tempfile.mkdtemp(prefix="vmemmap-fuzz-"))
        corpus = folder / "corpus"
        corpus.mkdir()
        self._fill(corpus)

    def _fill(self, corpus: Path) -> None:
        from fuzz.program.text import parse_file

        for i, path in enumerate(self.seeds):
            (corpus / f"file{i}").write_bytes(encode(parse_file(path)))
        random = Random(self.seed)
        for i in range(SEEDS):
            program, _ = run_generated(random.random, self.profile)
            (corpus / f"generated{i}").write_bytes(encode(program))

    def feed(self, programs: Iterable[Program]) -> None:
        """Put programs into the corpus; libFuzzer looks there for new files about once a second."""
        assert self.folder is not None
        for program in programs:
            # By rename, from outside: libFuzzer must not read half a file.
            part = self.folder / "feeding"
            part.write_bytes(encode(program))
            part.replace(self.folder / "corpus" / f"fed{self.fed}")
            self.fed += 1

    def _launch(self, programs: int | None) -> None:
        assert self.folder is not None
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-P", "-m", self.module]
        command += [str(self.folder), self.profile, str(self.seed), str(programs or 0)]
        log = (self.folder / "log").open("wb")
        with log:
            # A session of its own: Ctrl-C is for the parent, which ends the child in good order.
            self.child = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **self.environment, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def advance(self, seconds: float, programs: int | None = None) -> list[Discovery]:
        """Wait that long, or until the child has ended; then read what is new."""
        if self.child is None:
            self._launch(programs)
        assert self.child is not None
        end = monotonic() + seconds
        while self.running and monotonic() < end:
            sleep(min(POLL, max(0.0, end - monotonic())))
        found = self._read()
        code = self.child.poll()
        if code is not None and code != 0:
            raise EngineError(f"the libFuzzer process ended with status {code}: {self._complaint()}")
        return found

    def _read(self) -> list[Discovery]:
        assert self.folder is not None
        stats = self.folder / STATS
        if stats.exists():
            coverage = self.statistics.coverage
            self.statistics = Statistics.from_json(json.loads(stats.read_text()))
            self.statistics.coverage = coverage
        while (path := self.folder / f"coverage-{self.drained}.json").exists():
            self.statistics.coverage.take(json.loads(path.read_text()))
            path.unlink()
            self.drained += 1
        found = []
        while (path := self.folder / f"finding-{self.seen}.json").exists():
            found.append(discovery_from_json(json.loads(path.read_text())))
            self.seen += 1
        return found

    def _complaint(self) -> str:
        """The last lines of the child's log; a hang or a crash leaves its input beside it."""
        assert self.folder is not None
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        artifacts = sorted(
            path.name for pattern in ("crash-*", "timeout-*", "oom-*") for path in self.folder.glob(pattern)
        )
        told = " / ".join(line.strip() for line in lines[-3:])
        return f"{told} (input: {', '.join(artifacts)})" if artifacts else told

    def stop(self) -> list[Discovery]:
        """End the child, read what it left, remove its folder."""
        if self.child is not None and self.folder is not None and self.running:
            (self.folder / STOP).touch()
            try:
                self.child.wait(GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait()
        if self.folder is None:
            return []
        found = self._read()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = None
        return found
