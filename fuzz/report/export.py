"""A program in other forms: a pytest file, a Python script, commands for a real machine, a live run, a trace in ITF.

ITF is Apalache's Informal Trace Format (docs/src/adr/015adr-trace.md there): states of named variables, big integers as
`{"#bigint": "..."}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from fuzz.execute import Profile
from fuzz.program.model import Program
from fuzz.program.real import WITHOUT_INTERFACE
from fuzz.program.text import format as format_program
from fuzz.report.shell import to_shell
from fuzz.trace import SideStep, trace
from zoo import Version


def to_pytest(program: Program, profile: Profile = "posted", reference: Version = "v7.3") -> str:
    """A test that passes once the two sides agree."""
    more, call = _run(profile, reference)
    return f'''"""The two models agree on this program. Needs vmemmap-fuzz."""

from fuzz.execute import run_program
from fuzz.program import parse
{more}
PROGRAM = {_literal(program)}


def test_models_agree():
{_indented(call)}
    assert out.finding is None, out.finding.signature
'''


def to_python(program: Program, profile: Profile = "posted", reference: Version = "v7.3") -> str:
    """A script that runs the program and exits with 1 where the sides differ."""
    more, call = _run(profile, reference)
    return f'''#!/usr/bin/env python3
"""Runs a program on both models. Needs vmemmap-fuzz."""

import sys

from fuzz.execute import run_program
from fuzz.program import parse
{more}
PROGRAM = {_literal(program)}

{call}
print(out.finding.signature if out.finding else out.verdict)
sys.exit(1 if out.finding else 0)
'''


def _run(profile: Profile, reference: Version) -> tuple[str, str]:
    """One more import, if need be, and the lines that run PROGRAM and call what came of it `out`."""
    call = f"out = run_program(parse(PROGRAM), profile={profile!r}, full_every=1)"
    if reference == "v7.3":
        return "", call
    return "from zoo import reference_version\n", f"with reference_version({reference!r}):\n    {call}"


def _indented(lines: str) -> str:
    return "\n".join(f"    {line}" for line in lines.splitlines())


def _literal(program: Program) -> str:
    """The program as a Python string of one line a line."""
    lines = format_program(program).splitlines(keepends=True)
    return "(\n" + "".join(f"    {line!r}\n" for line in lines) + ")"


def to_itf(program: Program, profile: Profile = "posted", reference: Version = "v7.3") -> str:
    """States before the first and after each operation: what was done, what both returned, all counters and frames.

    The program is run here: the caller sees to it that the reference is `reference`.
    """
    told = trace(program, profile)
    states: list[dict[str, Any]] = []
    for step in told.steps:
        sides = {name: _state(getattr(step, name)) for name in ("reference", "candidate")}
        states.append({"#meta": {"index": len(states)}, "operation": step.text, **sides})
    variables = ["operation", "reference", "candidate"]
    meta = {"format": "ITF", "description": f"{told.machine}; reference: {reference}, candidate: {profile}"}
    return json.dumps({"#meta": meta, "vars": variables, "states": states}, indent=1) + "\n"


def _state(side: SideStep) -> dict[str, Any]:
    counters = [[value.field, {"#bigint": str(value.value)}] for value in side.values]
    frames = [[owned.owner, {"#bigint": str(owned.frames)}] for owned in side.frames]
    return {"outcome": side.outcome, "counters": {"#map": counters}, "frames": {"#map": frames}}


def to_live(program: Program) -> str:
    """The program for `vmemmap-fuzz live run`, with a comment above what its guest will not do."""
    machine = program.machine
    head = ["To be run with: vmemmap-fuzz live run THIS_FILE"]
    if (machine.arch, machine.page) != ("x86_64", 4096):
        head.append(f"Not done live: the guest is x86_64 with pages of 4K, this is {machine.arch}.")
    ops = []
    for op in program.ops:
        why = WITHOUT_INTERFACE.get(op.name)
        if op.name == "hugetlb unmap" and not op.args["flush"]:
            why = WITHOUT_INTERFACE["hugetlb flush"]
        if op.name == "fail alloc":
            why = "only on a kernel with fault injection (--kernel, docs/live.md), and one failure a program line"
        ops.append(op.changed(op.args, above=(*op.above, f"# not done live: {why}")) if why else op)
    left = sum(op.name in WITHOUT_INTERFACE for op in program.ops)
    if left:
        head.append(f"{left} of {len(ops)} operations have no counterpart there; the others are run.")
    return format_program(
        replace(program, ops=tuple(ops), comments=(*(f"# {line}" for line in head), *program.comments))
    )


EXPORTS: Final[dict[str, Callable[[Program, Profile, Version], str]]] = {
    "pytest": to_pytest,
    "python": to_python,
    "shell": lambda program, profile, reference: to_shell(program),
    "live": lambda program, profile, reference: to_live(program),
    "itf": to_itf,
}
"""By the name of the form."""
