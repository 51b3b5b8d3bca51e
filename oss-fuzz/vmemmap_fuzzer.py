"""libFuzzer's target for OSS-Fuzz and ClusterFuzzLite: bytes are a program, a finding is an exception.

VMEMMAP_FUZZ_DEFECT names defects of the zoo to plant, to see that the whole chain reports them.
"""

from __future__ import annotations

import os
import sys

import atheris

with atheris.instrument_imports(include=["mm", "reference", "candidate"]):
    import fuzz.execute  # noqa: F401

from fuzz.campaign.slices import defects
from fuzz.engines.libfuzzer_child import combiner, mutator
from fuzz.generate.program import run_affordable
from fuzz.program.codec import decode
from fuzz.program.text import format as format_program
from zoo import planted


class FindingError(Exception):
    """The models differ."""


def one_input(data: bytes) -> None:
    """Run one program on both models."""
    program, outcome = run_affordable(decode(data), "posted")
    if outcome.finding is not None:
        told = f"{outcome.finding.signature}\n{outcome.finding.detail}\n\n{format_program(program)}"
        raise FindingError(told)


def main() -> None:
    """Fuzz."""
    with planted(*defects(os.environ.get("VMEMMAP_FUZZ_DEFECT"))):
        atheris.Setup(sys.argv, one_input, custom_mutator=mutator, custom_crossover=combiner)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
