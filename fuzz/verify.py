"""Running a program again in a fresh process, so that nothing of a campaign's state is part of a finding.

`python -P -m fuzz.verify PROFILE DEFECT,... < program` prints {"signature": ..., "detail": ...}, with null for no
difference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from fuzz.engines.protocol import EngineError
from fuzz.execute import Profile
from fuzz.program.model import Program
from fuzz.program.text import format as format_program

ROOT: Final = Path(__file__).resolve().parent.parent
LIMIT: Final = 120.0
"""Seconds after which the other process counts as hung."""


def signature_in_fresh_process(program: Program, profile: Profile, plant: str | None = None) -> str | None:
    """The signature of what a new interpreter finds in a program, None for nothing."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fuzz.verify", profile, plant or ""],
            input=format_program(program),
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
            start_new_session=True,  # Ctrl-C is for the campaign, which then ends in good order
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"a program did not end within {LIMIT:.0f} seconds in a fresh process") from None
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise EngineError(f"re-running a program in a fresh process failed with status {done.returncode}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout)
    signature: str | None = answer["signature"]
    return signature


def main() -> None:
    """The fresh process."""
    from fuzz.execute import run_program
    from fuzz.program.text import parse
    from zoo import find, planted

    profile, plant = sys.argv[1:]
    with planted(*[find(name) for name in plant.split(",") if name]):
        program = parse(sys.stdin.read())
        # As the minimizer does: everything is compared after every operation.
        out = run_program(program, profile="merged" if profile == "merged" else "posted", full_every=1)
    finding = out.finding
    json.dump({"signature": finding and finding.signature, "detail": finding and finding.detail}, sys.stdout)


if __name__ == "__main__":
    main()
