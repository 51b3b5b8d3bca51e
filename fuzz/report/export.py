"""A program in other forms: a pytest file, a Python script, a shell script for a real machine, a trace in ITF.

ITF is Apalache's Informal Trace Format (docs/src/adr/015adr-trace.md there): states of named variables, big integers as
`{"#bigint": "..."}`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any, Final

from fuzz.program.arguments import format_size
from fuzz.program.model import Op, Program
from fuzz.program.text import format as format_program
from fuzz.program.text import format_op
from fuzz.trace import SideStep, trace


def to_pytest(program: Program) -> str:
    """A test that passes once the two sides agree."""
    return f'''"""The two models agree on this program. Needs vmemmap-fuzz."""

from fuzz.execute import run_program
from fuzz.program import parse

PROGRAM = {_literal(program)}


def test_models_agree():
    finding = run_program(parse(PROGRAM), full_every=1).finding
    assert finding is None, finding.signature
'''


def to_python(program: Program) -> str:
    """A script that runs the program and exits with 1 where the sides differ."""
    return f'''#!/usr/bin/env python3
"""Runs a program on both models. Needs vmemmap-fuzz."""

import sys

from fuzz.execute import run_program
from fuzz.program import parse

PROGRAM = {_literal(program)}

out = run_program(parse(PROGRAM), full_every=1)
print(out.finding.signature if out.finding else out.verdict)
sys.exit(1 if out.finding else 0)
'''


def _literal(program: Program) -> str:
    """The program as a Python string of one line a line."""
    lines = format_program(program).splitlines(keepends=True)
    return "(\n" + "".join(f"    {line!r}\n" for line in lines) + ")"


def to_itf(program: Program) -> str:
    """States before the first and after each operation: what was done, what both returned, all counters and frames."""
    told = trace(program)
    states: list[dict[str, Any]] = []
    for step in told.steps:
        sides = {name: _state(getattr(step, name)) for name in ("reference", "candidate")}
        states.append({"#meta": {"index": len(states)}, "operation": step.text, **sides})
    variables = ["operation", "reference", "candidate"]
    meta = {"format": "ITF", "description": told.machine}
    return json.dumps({"#meta": meta, "vars": variables, "states": states}, indent=1) + "\n"


def _state(side: SideStep) -> dict[str, Any]:
    counters = [[value.field, {"#bigint": str(value.value)}] for value in side.values]
    frames = [[owned.owner, {"#bigint": str(owned.frames)}] for owned in side.frames]
    return {"outcome": side.outcome, "counters": {"#map": counters}, "frames": {"#map": frames}}


# -- shell ----------------------------------------------------------------------------------------------------------

HUGEPAGES: Final = "/sys/kernel/mm/hugepages/hugepages-{kb}kB"
NODE: Final = "/sys/devices/system/node/node{node}/hugepages/hugepages-{kb}kB"


def to_shell(program: Program) -> str:
    """Commands for a real machine, as root; what a shell cannot do is a comment that says so."""
    lines = ["#!/bin/sh", "# As root, on a machine with the memory and devices that the program names.", "set -x"]
    for op in program.ops:
        lines.append(f"# {format_op(op)}")
        lines.append(_COMMANDS.get(op.name, _cannot)(op))
    return "\n".join(lines) + "\n"


def _cannot(op: Op) -> str:
    return f"# no command does this: {op.name}"


def _write(value: object, path: str) -> str:
    return f"echo {value} > {shlex.quote(path)}"


def _pool(op: Op, file: str, value: int) -> str:
    node, kb = op.args.get("node"), op.args["size"] >> 10
    folder = HUGEPAGES.format(kb=kb) if node is None else NODE.format(node=node, kb=kb)
    return _write(value, f"{folder}/{file}")


def _page(file: str) -> Callable[[Op], str]:
    return lambda op: _write(f"{op.args['at']:#x}", f"/sys/devices/system/memory/{file}")


def _dax(op: Op) -> str:
    if len(op.args["size"]) > 1 or op.args["driver"] != "devdax":
        return _cannot(op)
    place = "dev" if op.args["altmap"] else "mem"
    size, align = format_size(op.args["size"][0]), format_size(op.args["align"])
    return f"ndctl create-namespace --mode=devdax --size={size} --align={align} --map={place}"


def _cma(op: Op) -> str:
    node = "" if op.args["node"] is None else f"{op.args['node']}:"
    only = " hugetlb_cma_only=on" if op.args["only"] else ""
    return f"hugetlb_cma={node}{format_size(op.args['size'])}{only}"


_COMMANDS: Final[dict[str, Callable[[Op], str]]] = {
    "reserve": lambda op: (
        f"# kernel command line: hugepagesz={format_size(op.args['size'])} hugepages={op.args['count']}"
    ),
    "reserve cma": lambda op: f"# kernel command line: {_cma(op)}",
    "boot": lambda op: "uname -r",
    "hugetlb resize": lambda op: _pool(op, "nr_hugepages", op.args["to"]),
    "hugetlb overcommit": lambda op: _pool(op, "nr_overcommit_hugepages", op.args["to"]),
    "hugetlb demote": lambda op: _pool(op, "demote", op.args["count"]),
    "sysctl": lambda op: f"sysctl vm.hugetlb_optimize_vmemmap={int(op.args['hugetlb_optimize_vmemmap'])}",
    "memory hard_offline": _page("hard_offline_page"),
    "memory soft_offline": _page("soft_offline_page"),
    "dax create": _dax,
}

EXPORTS: Final[dict[str, Callable[[Program], str]]] = {
    "pytest": to_pytest,
    "python": to_python,
    "shell": to_shell,
    "itf": to_itf,
}
"""By the name of the form."""
