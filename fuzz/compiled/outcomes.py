"""What random programs do, a line for each: two versions of the models that should not differ print the same.

`python -m fuzz.compiled.outcomes PROGRAMS [SEED]`, before a change and after it; `python -m fuzz.compiled
fuzz.compiled.outcomes ...` for what is compiled. A line has the program's number, both sides' return values after each
operation, verdict, finding and clauses as a digest, and the end of the text of the program; since each operation is
drawn against the state that the ones before it left, one difference in a state shows in all that follows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

from fuzz.engines.uniform import Uniform
from fuzz.program.text import format as format_program

SEED: Final = 20261125


def outcomes(programs: int, seed: int) -> Iterator[str]:
    """The lines, over both profiles and with subsets of the operations too."""
    engines = [Uniform(seed, profile, swarm=swarm) for profile in ("posted", "merged") for swarm in (False, True)]
    for number in range(programs):
        program, outcome = engines[number % len(engines)].run(number)
        text = format_program(program)
        found = "" if outcome.finding is None else repr(outcome.finding)
        told = repr((text, outcome.rcs, found, sorted(outcome.clauses)))
        digest = blake2b(told.encode(), digest_size=8).hexdigest()
        yield f"{number} {digest} {outcome.verdict} {len(outcome.rcs)} {text.splitlines()[-1]}"


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3 or not all(word.isdigit() for word in sys.argv[1:]):
        sys.exit(f"usage: python -m fuzz.compiled.outcomes PROGRAMS [SEED], not {' '.join(sys.argv[1:])}")
    numbers = [int(word) for word in sys.argv[1:]]
    for line in outcomes(numbers[0], numbers[1] if len(numbers) > 1 else SEED):
        print(line)
