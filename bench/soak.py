"""A campaign under fire: kill -9 of one of its processes, chosen by chance, every few seconds; then what was lost?

The campaign fuzzes models with every defect of the zoo, so that there is something to announce all the time. Victims
are workers, minimizers and the campaign itself, which then goes on by `--resume`. At the end all of this must hold:

- each finding that was ever announced has its record, its report and its line in the journal;
- each file of corpus and findings holds what its name says, and no process is left over;
- the index is sound and has every program and every record;
- no program is quarantined: nothing but kills ended a process.

Prints a table; exit code 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Final

from rich.console import Console
from rich.table import Table

from fuzz.findings import slug
from fuzz.store.files import Store
from fuzz.store.journal import Journal
from zoo import DEFECTS

ROOT: Final = Path(__file__).resolve().parents[1]
ORPHANS: Final = 10.0
"""Seconds after which nothing may be left of a killed campaign."""
ANNOUNCED: Final = re.compile(r"^(?:finding|quarantined): (.*\|.*)$", re.MULTILINE)


def processes(parent: int) -> list[tuple[int, str]]:
    """Children of a process, each with what it is."""
    out = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                words = (entry / "cmdline").read_bytes()
                sort = "worker" if b"fuzz.campaign.worker" in words else "minimizer" if b".helper" in words else "other"
                out.append((int(entry.name), sort))
    return out


class Soak:
    """One campaign, and those who shoot at it."""

    def __init__(self, folder: Path, workers: int, engine: str, seed: int) -> None:
        self.folder = folder
        self.campaign = folder / "campaign"
        self.reports = folder / "reports"
        self.workers = workers
        self.engine = engine
        self.random = Random(seed)
        self.killed: Counter[str] = Counter()
        self.restarts = 0
        self.problems: list[str] = []
        self.leftover = 0
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Begin, or go on."""
        words = [sys.executable, "-P", "-m", "fuzz.cli", "run", "--seconds", "1000000", "--workers", str(self.workers)]
        if (self.campaign / "campaign.json").exists():
            words += ["--resume", str(self.campaign)]
        else:
            words += ["--campaign", str(self.campaign), "--defect", ",".join(DEFECTS), "--engine", self.engine]
        words += ["--reports", str(self.reports)]
        self.before = self.lines()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path})

    def lines(self) -> int:
        """Lines of statistics written so far."""
        return len(list(Journal(self.campaign / "statistics.jsonl").lines()))

    def announced(self) -> set[str]:
        """Everything that was ever announced."""
        return set(ANNOUNCED.findall((self.folder / "log").read_text(errors="replace")))

    def shoot(self) -> None:
        """Kill one process."""
        if self.process.poll() is not None:
            self.problems.append(f"the campaign ended by itself with status {self.process.returncode}")
            self.process = self.start()
            return
        children = processes(self.process.pid)
        sorts = sorted({sort for _, sort in children if sort != "other"} | {"campaign"})
        sort = self.random.choice(sorts)
        self.killed[sort] += 1
        if sort != "campaign":
            pid = self.random.choice([pid for pid, of in children if of == sort])
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return
        self.process.kill()
        self.process.wait()
        # One that was just being started finds out when it has read what to do.
        end = monotonic() + ORPHANS
        while monotonic() < end and any(self.alive(pid) for pid, _ in children):
            sleep(0.1)
        self.leftover += sum(self.alive(pid) for pid, _ in children)
        self.check()
        self.process = self.start()
        self.restarts += 1

    @staticmethod
    def alive(pid: int) -> bool:
        """Whether a process is there and no zombie."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def check(self) -> None:
        """Is everything that was announced on disk?"""
        store = Store(self.campaign)
        kept = {record["signature"] for record in store.records().values()}
        journal = {event.get("signature") for event in Journal(self.campaign / "events.jsonl").lines()}
        for signature in self.announced():
            folder = self.reports / slug(signature)
            if signature not in kept:
                self.problems.append(f"no record of {signature}")
            if signature not in journal:
                self.problems.append(f"not in the journal: {signature}")
            try:
                if json.loads((folder / "finding.json").read_text())["signature"] != signature:
                    self.problems.append(f"another report in the folder of {signature}")
                (folder / "repro.vmm").read_bytes()
            except (OSError, ValueError) as error:
                self.problems.append(f"no report of {signature}: {error}")
        self.problems += [f"corrupt: {entry.path.name}: {entry.why}" for entry in store.corrupt]

    def end(self) -> dict[str, str]:
        """Let it finish, and look at everything."""
        # It has made good what the last kill left undone once it writes statistics of its own.
        end = monotonic() + 120
        while self.process.poll() is None and monotonic() < end and self.lines() == self.before:
            sleep(0.5)
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(300)
        self.check()
        store = Store(self.campaign)
        programs = {digest for digest, _ in store.programs()}
        records = store.records()
        self.problems += [f"corrupt: {entry.path.name}: {entry.why}" for entry in store.corrupt]
        with sqlite3.connect(self.campaign / "campaign.db") as db:
            if db.execute("pragma quick_check").fetchone() != ("ok",):
                self.problems.append("the index is not sound")
            indexed = {name for (name,) in db.execute("select program from programs")}
            rows = {name for (name,) in db.execute("select record from findings")}
        if indexed - programs or records.keys() != rows:
            self.problems.append("the index has what the files have not")
        if programs - indexed:
            self.problems.append(f"{len(programs - indexed)} programs are not in the index")
        quarantined = [record["signature"] for record in records.values() if record["stage"] == "quarantine"]
        self.problems += [f"quarantined without cause: {signature}" for signature in quarantined]
        state = json.loads((self.campaign / "state.json").read_text())
        return {
            "programs run": f"{state['statistics']['programs']:,}",
            "operations run": f"{state['statistics']['operations']:,}",
            "worker processes": f"{state['launches']:,}",
            "killed workers": f"{self.killed['worker']:,}",
            "killed minimizers": f"{self.killed['minimizer']:,}",
            "killed campaigns": f"{self.killed['campaign']:,}",
            "processes left over after it": f"{self.leftover:,}",
            "corpus": f"{len(programs):,}",
            "announced": f"{len(self.announced()):,}",
            "lost or wrong": f"{len(self.problems):,}",
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long; 600 for the real thing")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two kills, on average")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", default="uniform")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vmemmap-fuzz-soak-") as folder:
        soak = Soak(Path(folder), options.workers, options.engine, options.seed)
        end = monotonic() + options.seconds
        while monotonic() < end:
            sleep(min(soak.random.uniform(0.0, 2 * options.every), max(0.0, end - monotonic())))
            soak.shoot()
        numbers = soak.end()
    if options.json:
        print(json.dumps({**numbers, "problems": soak.problems}, indent=2))
    else:
        table = Table("", "", title=f"soak: {options.seconds:.0f} s", title_justify="left", show_header=False)
        for name, number in numbers.items():
            table.add_row(name, number)
        Console().print(table)
        for problem in soak.problems:
            print(problem)
    raise SystemExit(1 if soak.problems or soak.leftover else 0)


if __name__ == "__main__":
    main()
