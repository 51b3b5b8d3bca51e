"""Work on one program that may kill or hang the process doing it, in a process of its own.

`python -P -m fuzz.campaign.helper` reads a job from stdin and writes the answer to stdout, one JSON document each:

    {"do": "check", "program", "profile", "defect", "reference"} run it, everything compared after every operation:
                                                                 `finding` and `signature`, null for none
    {"do": "minimize", "program", ..., "patience": seconds}      `program`, `finding`, `signature`, `one_minimal`;
                                                                 `finding` null if there is none
    {"do": "page", "program", ...}                               `page`, the finding as HTML
    {"do": "features", "programs": [...], ...}                   `features` of each, as `Coverage` names them
    {"do": "claims", "programs": [...], ..., "booted": program}  `promises`, how each fared (fuzz/promises.py), and
                                                                 `boot`, what booting costs (fuzz/boot_cost.py)
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from fuzz.campaign.slices import defects
from fuzz.coverage import features
from fuzz.engines.protocol import Discovery
from fuzz.execute import Profile, run_program
from fuzz.findings import Report, minimized
from fuzz.lifeline import die_with_parent
from fuzz.oracle.finding import Finding
from fuzz.program.text import format as format_program
from fuzz.program.text import parse
from fuzz.store.files import digest_of
from zoo import Version, reference_version

ROOT: Final = Path(__file__).resolve().parents[2]
LIMIT: Final = 60.0
"""Seconds after which a program counts as hung."""
MEMORY: Final = 4 << 30
"""Bytes of address space that running programs may take."""

Answer = dict[str, Any]


def environment() -> dict[str, str]:
    """For a process that imports this project."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def memory_file() -> int:
    """A file with no disk behind it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vmemmap-fuzz")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def contents(file: int) -> bytes:
    """All that is in a file."""
    return os.pread(file, os.fstat(file).st_size, 0)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a helper ended: an answer, or what became of it."""

    answer: Answer | None
    how: str = ""
    """"hang", "killed by signal 9", "status 1: last line of its complaint"."""


class Helper:
    """One helper process, asked now and then whether it is done."""

    def __init__(self, job: dict[str, Any], limit: float = LIMIT) -> None:
        self.job = job
        self.deadline = monotonic() + limit
        source, self._out, self._err = memory_file(), memory_file(), memory_file()
        os.pwrite(source, json.dumps({**job, "parent": os.getpid()}).encode(), 0)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fuzz.campaign.helper"],
            stdin=source,
            stdout=self._out,
            stderr=self._err,
            env=environment(),
            start_new_session=True,
        )
        os.close(source)

    def poll(self) -> Ended | None:
        """How it ended, None while it works."""
        status = self.process.poll()
        if status is None:
            if monotonic() < self.deadline:
                return None
            self.process.kill()
            self.process.wait()
            return self._close(Ended(None, "hang"))
        if status < 0:
            return self._close(Ended(None, f"killed by signal {-status}"))
        complaint = contents(self._err).decode(errors="replace").strip().rpartition("\n")[2]
        if status:
            return self._close(Ended(None, f"status {status}: {complaint}"))
        try:
            return self._close(Ended(json.loads(contents(self._out))))
        except ValueError:
            return self._close(Ended(None, "an answer that is not JSON"))

    def wait(self) -> Ended:
        """How it ended, when it has."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(max(0.0, self.deadline - monotonic()))
            ended = self.poll()
            if ended is not None:
                return ended

    def stop(self) -> None:
        """End it now."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._close(Ended(None))

    def _close(self, ended: Ended) -> Ended:
        for file in (self._out, self._err):
            os.close(file)
        return ended


def finding_from_json(data: dict[str, Any]) -> Finding:
    """The inverse of `dataclasses.asdict` for a finding."""
    return Finding(**{**data, "outcomes": tuple(data["outcomes"])})


def settle(discovery: Discovery, profile: Profile, defect: str | None = None, reference: Version = "v7.3") -> Report:
    """A discovery minimized in this process and run again in another; for what is too short to be a campaign.

    `defect` names what is planted in this process, and `reference` its reference, for the other one.
    """
    original = len(discovery.program.ops)
    small = minimized(discovery.program, profile)
    if small is None:
        return Report(discovery.finding, discovery.program, original, discovery.engine)
    job = {"do": "check", "program": format_program(small.program), "profile": profile, "defect": defect}
    job["reference"] = reference
    again = Helper(job).wait().answer
    confirmed = again is not None and again["signature"] == small.finding.signature
    page = Helper({**job, "do": "page"}).wait().answer
    html = page["page"] if page is not None else ""
    return Report(small.finding, small.program, original, discovery.engine, confirmed, small.one_minimal, html)


# -- in the process -------------------------------------------------------------------------------------------------


def answer(job: dict[str, Any]) -> Answer:
    """Do a job."""
    profile = job["profile"]
    if job["do"] == "features":
        programs = [parse(text) for text in job["programs"]]
        return {"features": [sorted(features(p, run_program(p, profile=profile))) for p in programs]}
    if job["do"] == "claims":
        from fuzz.boot_cost import boot_cost
        from fuzz.promises import examine

        boot = [asdict(cost) for cost in boot_cost(parse(job["booted"]), profile)]
        named = ((f"program {digest_of(text)[:12]}", parse(text)) for text in job["programs"])
        return {"promises": [record.to_json() for record in examine(named, profile)], "boot": boot}
    program = parse(job["program"])
    if job["do"] == "check":
        finding = run_program(program, profile=profile, full_every=1).finding
        return {"finding": finding and asdict(finding), "signature": finding and finding.signature}
    if job["do"] == "page":
        from fuzz.report.page import page_of  # other jobs need no templates

        return {"page": page_of(program, profile, job["defect"])}
    small = minimized(program, profile, job["patience"])
    if small is None:
        return {"finding": None, "signature": None}
    return {
        "program": format_program(small.program),
        "finding": asdict(small.finding),
        "signature": small.finding.signature,
        "one_minimal": small.one_minimal,
    }


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = json.load(sys.stdin)
    die_with_parent(int(job["parent"]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with reference_version(job["reference"], *defects(job["defect"])):
        json.dump(answer(job), sys.stdout)


if __name__ == "__main__":
    main()
