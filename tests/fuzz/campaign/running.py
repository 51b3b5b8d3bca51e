"""Campaigns as processes: started, watched, killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def wait_for(what: Callable[[], Any], seconds: float = 90.0) -> Any:
    """What `what` gives, once it is something."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.05)
    return value


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in out.split()]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waited for yet has too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class Running:
    """A campaign in a process, new or gone on with."""

    def __init__(self, folder: Path, *args: str, environment: dict[str, str] | None = None) -> None:
        self.folder = folder / "campaign"
        self.reports = folder / "reports"
        self.log = folder / f"log{time.monotonic_ns()}"
        where = ["--resume"] if (self.folder / "campaign.json").exists() else ["--campaign"]
        words = [sys.executable, "-P", "-m", "fuzz.cli", "run", *where, str(self.folder)]
        words += ["--reports", str(self.reports), *args]
        env = {**os.environ, **(environment or {})}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH"))))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=env)

    def said(self) -> str:
        return self.log.read_text()

    def announced(self) -> list[str]:
        return re.findall(r"^finding: (.*)$", self.said(), re.MULTILINE)

    def of(self, module: str) -> list[int]:
        """Its children that run a module."""
        return [pid for pid in children(self.process.pid) if module in command(pid)]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def interrupt(self) -> int:
        """Ctrl-C, and its end."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self, seconds: float = 180.0) -> int:
        """Wait for its end; the exit code."""
        self.out, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode

    def close(self) -> None:
        """Kill what a failed test left."""
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def json(self) -> Any:
        return json.loads(self.out)
