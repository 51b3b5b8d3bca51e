"""Few recorded programs that show what many show.

What a step shows: an operation with its result, on which kind of machine, in which state of the
pools and blocks, and what it changed. A chosen program ends after the last step that shows something for which it was
chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from fuzz import program as language
from fuzz.campaign.corpus import cover
from fuzz.program.model import Op, Program
from live.answers import SUFFIX, Answer, Answers, digest, format_answers
from live.pagetable import Entry, Leaf
from live.recorded import Recorded
from live.snapshot import Pool, Snapshot
from live.tally import case

V = TypeVar("V")


def choose(recorded: list[Recorded]) -> list[Recorded]:
    """The chosen ones, in the given order, cut after what they are there for."""
    shown = {r.path.stem: list(features(r)) for r in recorded}
    sets = {name: set().union(*steps) for name, steps in shown.items()}
    kept = cover(sets, {name: len(steps) for name, steps in shown.items()})
    out = []
    left = set().union(*sets.values())
    for r in recorded:
        name = r.path.stem
        if name in kept:
            new = [bool(step & left) for step in shown[name]]
            left -= sets[name]
            if any(new):
                out.append(cut(r, len(new) - new[::-1].index(True)))
    return out


def cut(recorded: Recorded, steps: int) -> Recorded:
    """The program up to the operation of its step number `steps`, counted from 1, the boot."""
    program, answers = recorded.program, recorded.answers
    if steps >= len(answers.steps):
        return recorded
    last = answers.steps[steps - 1].at
    program = Program(program.machine, program.ops[: last + 1])
    made = f"{answers.made}, cut behind operation {last}"
    return Recorded(recorded.path, program, Answers(answers.kernel, made, digest(program), answers.steps[:steps]))


def write(recorded: Recorded, folder: Path) -> int:
    """Write a program and its answers; bytes."""
    texts = {".vmm": language.format(recorded.program), SUFFIX: format_answers(recorded.answers)}
    for suffix, text in texts.items():
        (folder / recorded.path.name).with_suffix(suffix).write_text(text, encoding="utf-8")
    return sum(len(text.encode()) for text in texts.values())


# -- what a step shows ------------------------------------------------------------------------------------------------


def features(recorded: Recorded) -> Iterator[set[str]]:
    """What each step shows."""
    program, steps = recorded.program, recorded.answers.steps
    machine = program.machine
    kind = f"{machine.nodes} {machine.memmap_on_memory} {'hvo' if machine.hugetlb_free_vmemmap else 'no hvo'}"
    boot = " ".join(sorted({str(op.args["size"]) + op.name for op in program.ops[: steps[0].at]}))
    yield {f"boot {kind} {boot} {machine.ram}"}
    hvo = machine.hugetlb_free_vmemmap
    for was, now in pairwise(steps):
        op = program.ops[now.at]
        what = f"{case(op, machine)} {_result(op, now)}{' deviates' if now.deviation else ''}"
        changed = " ".join(_changed(was.seen, now.seen))
        yield {
            f"{what} on {kind}",
            f"{what} in {_state(op, was.seen)}",
            f"{what} changes {changed}{' hvo' if hvo else ''}",
            *(f"{what}: {word}" for word in _arguments(op)),
        }
        if op.name == "sysctl" and not now.returned:
            hvo = bool(op.args["hugetlb_optimize_vmemmap"])


def _result(op: Op, now: Answer) -> str:
    return str(now.returned) if now.returned < 0 else "ok"


def _arguments(op: Op) -> Iterator[str]:
    """What of the arguments matters beyond sizes."""
    yield f"node {op.args.get('node') is not None}"
    if op.name == "dax create":
        yield f"{len(op.args['at'])} ranges {op.args['driver']}"
    if op.name == "dax rebind":
        yield op.args["driver"]
    if op.name == "dax state":
        yield op.args["state"]


def _state(op: Op, seen: Snapshot) -> str:
    """Of an operation on a pool: whether this has pages free, in use, surplus or reserved; else which blocks there
    are.
    """
    if "hugetlb" in op.name:
        pool = seen.pools[18 if op.args.get("size") == 1 << 30 or op.name == "hugetlb demote" else 9]
        return "".join(letter for letter, there in _pool(pool) if there)
    return ",".join(sorted({state for state in seen.blocks.values() if state in ("offline", "Movable")}))


def _pool(pool: Pool) -> list[tuple[str, bool]]:
    nr, free, surplus = _sums(pool)
    return [("f", free > 0), ("u", nr > free), ("s", surplus > 0), ("r", pool.resv > 0), ("o", pool.overcommit > 0)]


def _changed(was: Snapshot, now: Snapshot) -> Iterator[str]:
    """Signs of what counters did, and how sections changed."""
    for name in ("nr_memmap", "nr_memmap_boot", "nr_page_table_pages", "managed"):
        yield _sign(getattr(now, name) - getattr(was, name))
    for order, pool in now.pools.items():
        before = was.pools[order]
        yield "".join(
            _sign(sum(getattr(pool, name)) - sum(getattr(before, name))) for name in ("nr", "free", "surplus")
        )
    yield ",".join(sorted({f"{_form(a)}>{_form(b)}" for a, b in _moves(was.mapping, now.mapping)}))
    yield ",".join(sorted({f"{a}>{b}" for a, b in _moves(was.blocks, now.blocks)}))


def _moves(was: dict[int, V], now: dict[int, V]) -> Iterator[tuple[V | None, V | None]]:
    for key in was.keys() | now.keys():
        a, b = was.get(key), now.get(key)
        if a != b:
            yield a, b


def _sums(pool: Pool) -> tuple[int, int, int]:
    return sum(pool.nr), sum(pool.free), sum(pool.surplus)


def _sign(by: int) -> str:
    return "+" if by > 0 else "-" if by < 0 else "0"


def _form(entry: Entry | None) -> str:
    return "none" if entry is None else "leaf" if isinstance(entry, Leaf) else "table"
