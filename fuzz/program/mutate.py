"""Structure-aware mutation and crossover of programs.

Both give a legal program for every legal program, decided by nothing but the `random.Random` that is passed in. They
drop comments: what a comment says of a program is not true of its mutants. New operations are drawn through the byte
codec, so what is a plausible operation at some point of a program is defined once, there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import accumulate
from random import Random
from typing import Any, Final

from fuzz.program.arguments import LIMIT, LISTS, Argument, G, K, M, Type
from fuzz.program.codec import RESERVE, RESERVES, WIDTH, decode_op, even
from fuzz.program.model import Op, Program, make_op
from fuzz.program.operations import BOOT, MACHINE, OPERATIONS
from fuzz.program.repair import repair
from fuzz.program.scope import SECTION, Scope
from mm.machine import Machine

FAULT: Final = "fail alloc"
MAX_OPS: Final = 400
"""A mutant does not grow beyond this."""

_STEPS: Final = (SECTION, SECTION, 2 * M, 4 * K, G, 64 * M)
_RUN: Final = 6
"""The longest run of operations that is deleted or repeated at once."""


def mutate(program: Program, rng: Random) -> Program:
    """A program some small steps away from this one."""
    bare = program.bare()
    machine, ops = bare.machine, bare.ops
    while True:
        mutator = rng.choices(_MUTATORS, cum_weights=_WEIGHTS)[0]
        edited = list(ops)
        changed = mutator(machine, edited, rng)
        body = repair(changed, edited)
        # Mostly one step: small steps are what a search climbs by. A step that changed nothing does not count.
        if (body != ops or changed != machine) and len(body) <= max(MAX_OPS, len(ops)):
            machine, ops = changed, body
            if rng.random() < 0.75:
                return Program(machine, ops, version=program.version)


def crossover(first: Program, second: Program, rng: Random) -> Program:
    """A run of the second program's operations inside the first, on the machine of one of them."""
    machine = first.machine if rng.random() < 0.75 else second.machine
    ours, theirs = list(first.bare().ops), second.bare().ops
    begin = rng.randrange(_after_boot(theirs), len(theirs) + 1)
    end = rng.randrange(begin, len(theirs) + 1)
    start = rng.randrange(_after_boot(ours), len(ours) + 1)
    stop = start if rng.random() < 0.5 else rng.randrange(start, len(ours) + 1)
    ours[start:stop] = theirs[begin:end]
    return Program(machine, repair(machine, ours[:MAX_OPS]))


def random_op(scope: Scope, rng: Random) -> Op:
    """A plausible operation for a point of a program: a line of the command line before the boot, anything else behind
    it.
    """
    record = rng.randbytes(WIDTH)
    if not scope.booted:
        record = bytes((RESERVE + rng.randrange(len(RESERVES)),)) + record[1:]
    elif record[0] >= RESERVE:
        record = bytes((record[0] - RESERVE,)) + record[1:]
    return decode_op(record, scope)


# The mutators edit the list and return the machine. They may leave anything behind that `repair` mends.


def _insert(machine: Machine, ops: list[Op], rng: Random) -> Machine:
    position = rng.randrange(len(ops) + 1)
    ops.insert(position, random_op(_scope(machine, ops, position), rng))
    return machine


def _delete(machine: Machine, ops: list[Op], rng: Random) -> Machine:
    position = rng.randrange(len(ops))
    count = 1 if rng.random() < 0.7 else rng.randrange(2, _RUN)
    ops[position : position + count] = [op for op in ops[position : position + count] if op.name == BOOT]
    return machine


def _repeat(machine: Machine, ops: list[Op], rng: Random) -> Machine:
    """Splice a run of the program's own operations in again somewhere."""
    after = _after_boot(ops)
    start = rng.randrange(after, len(ops) + 1)
    run = ops[start : start + rng.randrange(1, _RUN)]
    position = rng.randrange(after, len(ops) + 1)
    ops[position:position] = run
    return machine


def _swap(machine: Machine, ops: list[Op], rng: Random) -> Machine:
    after = _after_boot(ops)
    if len(ops) - after >= 2:
        first, second = rng.randrange(after, len(ops)), rng.randrange(after, len(ops))
        ops[first], ops[second] = ops[second], ops[first]
    return machine


def _retarget(machine: Machine, ops: list[Op], rng: Random) -> Machine:
    """Let an operation use another live handle."""
    users = [index for index, op in enumerate(ops) if _HANDLES[op.name]]
    if users:
        index = rng.choice(users)
        op, kind = ops[index], _HANDLES[ops[index].name]
        handle = rng.choice(_scope(machine, ops, index).live[kind])
        ops[index] = Op(op.name, {**op.args, kind: handle}, op.result)
    return machine


def _perturb(machine: Machine, ops: list[Op], rng: Random) -> Machine:
    """Move one argument to a nearby or a boundary value."""
    able = [index for index, op in enumerate(ops) if _TUNABLE[op.name]]
    if able:
        index = rng.choice(able)
        op = ops[index]
        argument = rng.choice(_TUNABLE[op.name])
        args = dict(op.args)
        if argument.type in LISTS:
            _perturb_lists(argument, op, args, rng)
        else:
            args[argument.name] = near(argument, args[argument.name], rng)
        ops[index] = Op(op.name, args, op.result)
    return machine


def _perturb_lists(argument: Argument, op: Op, args: dict[str, Any], rng: Random) -> None:
    """Move, add or drop an entry of a list, and keep the lists of the operation equally long."""
    entries = args[argument.name]
    position = rng.randrange(len(entries))
    choice = rng.random()
    if choice < 0.15 and len(entries) > 1:
        for other in OPERATIONS[op.name].arguments:
            if other.type in LISTS:
                args[other.name] = args[other.name][:position] + args[other.name][position + 1 :]
    elif choice < 0.3:
        args[argument.name] = (*entries, near(argument, entries[-1], rng))
        for other in OPERATIONS[op.name].arguments:
            if other.along:
                args[other.along], args[other.name] = even(args[other.along], args[other.name])
    else:
        moved = near(argument, entries[position], rng)
        args[argument.name] = (*entries[:position], moved, *entries[position + 1 :])


def _fault(machine: Machine, ops: list[Op], rng: Random) -> Machine:
    """Add a fault before some operation, or move one."""
    faults = [index for index, op in enumerate(ops) if op.name == FAULT]
    if faults and rng.random() < 0.5:
        fault = ops.pop(rng.choice(faults))
    else:
        fault = make_op(FAULT, nth=1 + int(rng.expovariate(0.3)))
    after = _after_boot(ops)
    ops.insert(rng.randrange(after, max(len(ops), after + 1)), fault)
    return machine


def _machine(machine: Machine, ops: list[Op], rng: Random) -> Machine:
    key = rng.choice([key for key in MACHINE if len(key.options) != 1])
    return Machine.coerced(**{**asdict(machine), key.name: near(key, getattr(machine, key.name), rng)})


def near(argument: Argument, value: Any, rng: Random) -> Any:
    """Another value of an argument, or of an entry of a list: an option, or a number near this one or a boundary."""
    options = argument.options
    if options:
        return rng.choice([option for option in options if option != value] or options)
    if argument.type is Type.NODE:
        return rng.choice((0, 1, argument.default, value if value is None else min(value + 1, LIMIT - 1)))
    choice = rng.randrange(10)
    if choice == 0:
        return argument.minimum
    if choice == 1:
        return argument.clamp(value * 2)
    if choice == 2:
        return argument.clamp(value // 2)
    if choice < 5 and argument.menu:
        return rng.choice(argument.menu)
    step = 1 if argument.type is Type.COUNT else rng.choice(_STEPS)
    return argument.clamp(value + rng.choice((1, -1)) * step)


def _scope(machine: Machine, ops: list[Op], position: int) -> Scope:
    scope = Scope(machine)
    for op in ops[:position]:
        scope.advance(op)
    return scope


def _after_boot(ops: list[Op] | tuple[Op, ...]) -> int:
    """Position of the first operation behind the boot."""
    return next(index for index, op in enumerate(ops) if op.name == BOOT) + 1


_Mutator = Callable[[Machine, list[Op], Random], Machine]
_TABLE: Final[dict[_Mutator, int]] = {
    _insert: 30,
    _perturb: 26,
    _delete: 12,
    _retarget: 8,
    _swap: 8,
    _repeat: 7,
    _fault: 6,
    _machine: 3,
}
_MUTATORS: Final = tuple(_TABLE)
_WEIGHTS: Final = tuple(accumulate(_TABLE.values()))
_HANDLES: Final = {op.name: op.handle.name if op.handle else "" for op in OPERATIONS.values()}
_TUNABLE: Final = {
    op.name: tuple(a for a in op.arguments if a.type is not Type.HANDLE and len(a.options) != 1)
    for op in OPERATIONS.values()
}
