"""Programs from files on a real kernel, beside the reference model: the seeds, or a repro."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fuzz.program.model import Op, Program
from fuzz.program.text import parse_file
from live.conform import Disagreement, Runner, Tally, make_template
from live.generate import Profile
from live.guest import Template
from live.install import Kit
from live.layout import boot_ops, reserves_unsupported, unsupported
from live.pair import Pair


def why_not(program: Program) -> str | None:
    """Why a program's machine cannot be emulated, or None."""
    return unsupported(program.machine) or reserves_unsupported(boot_ops(program))


def run_files(kit: Kit, paths: list[Path]) -> tuple[Tally, dict[str, str]]:
    """Run each file; machines that are equal are booted once. Second: file -> why it was not run."""
    tally, skipped = Tally(), {}
    todo: dict[Profile, list[Program]] = {}
    for path in paths:
        program = parse_file(path).bare()
        why = why_not(program)
        if why is None:
            todo.setdefault(Profile(program.machine, boot_ops(program)), []).append(program)
        else:
            skipped[path.name] = why
    for profile, programs in todo.items():
        template = make_template(kit, profile)
        try:
            for program in programs:
                found = run_program(profile, template, program, tally)
                if found is not None:
                    tally.disagreements.append(found)
        finally:
            template.close()
    return tally, skipped


def run_program(profile: Profile, template: Template, program: Program, tally: Tally) -> Disagreement | None:
    """Run one program; operations that cannot be done live are left out on both sides, and counted."""
    runner = Runner(profile, template, tally)
    ops = program.ops[len(profile.reserves) + 1 :]

    def following(pair: Pair) -> Iterator[Op]:
        for op in ops:
            why = pair.refusal(op)
            if why is None:
                yield op
            else:
                tally.refused[why] += 1

    found = runner.run(following)
    return None if found is None else runner.minimize(found)
