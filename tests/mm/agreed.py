"""Programs that both models agree on."""

from fuzz.execute import Lockstep
from fuzz.program.text import parse


def agreed(machine: str, rest: str) -> tuple[Lockstep, list[object]]:
    """A pair after the boot of a machine and the rest of a program, and what it returned; nothing may differ."""
    program = parse(f"vmm 1\nmachine {machine}\nboot\n{rest}")
    pair = Lockstep(program.machine)
    results = [pair.step(op) for op in program.ops]
    assert not any(result.finding for result in results)
    assert pair.finish() is None
    return pair, [result.rcs[0] for result in results]
