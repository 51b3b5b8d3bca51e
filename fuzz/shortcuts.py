"""Other ways to the same state with fewer operations, which cutting does not come upon.

What the command line, another argument or another operation does as well: proposals for the minimizer, each shorter
than the program it is made from. Whether one shows the same is for the minimizer to find out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from fuzz.adapt import Ops
from fuzz.program.arguments import G, M
from fuzz.program.model import Op, make_op
from fuzz.program.operations import DAX, MEMORY, OPERATIONS
from mm.machine import Machine

Proposal = tuple[Machine, Ops]

BY_ITSELF: Final = ("online", "online_movable")
"""States in which added memory may begin, so that nothing has to set it online."""
ONLINE: Final = ("memory online", "dax online")
RAM: Final = 4 * G
"""Boot memory that has room for what was added."""
CONTIG: Final = "pages contig"
SAME_FUNCTION: Final = (
    {CONTIG, "subblock unplug"},
    {"dax create", "dax rebind"},
    {"memory add", "dax rebind"},
    {"memory add", "dax create"},
)
"""Operations that come to the same function of the kernel: alloc_contig_range, dax_bus_probe, add_memory_resource."""
PROBE: Final = ("dax create", "dax rebind")


def shortcuts(machine: Machine, ops: Ops) -> Iterator[Proposal]:
    """Shorter programs that may show the same."""
    for proposals in (_by_itself, _parameter, _boot_memory):
        yield from proposals(machine, ops)
    for rewritten in (_driver, _surplus, _excess, _last_probe, _last_contig):
        for shorter in rewritten(machine, ops):
            yield machine, shorter


# -- the command line -----------------------------------------------------------------------------------------------


def _by_itself(machine: Machine, ops: Ops) -> Iterator[Proposal]:
    """Memory that goes online by itself, in place of operations that set it online."""
    rest = tuple(op for op in ops if op.name not in ONLINE)
    if len(rest) < len(ops):
        for state in BY_ITSELF:
            yield replace(machine, memhp_default_state=state), rest


def _parameter(machine: Machine, ops: Ops) -> Iterator[Proposal]:
    """HVO that is off from the boot on, in place of the first operation that turns it off."""
    at = next((i for i, op in enumerate(ops) if op.name == "sysctl"), None)
    if at is not None and not ops[at].args["hugetlb_optimize_vmemmap"] and machine.hugetlb_free_vmemmap:
        yield replace(machine, hugetlb_free_vmemmap=False), (*ops[:at], *ops[at + 1 :])


def _boot_memory(machine: Machine, ops: Ops) -> Iterator[Proposal]:
    """More boot memory in place of memory that is added."""
    rest = tuple(op for op in ops if OPERATIONS[op.name].makes not in (MEMORY, DAX))
    if len(rest) < len(ops) and machine.ram < RAM:
        yield replace(machine, ram=RAM), rest


# -- arguments ------------------------------------------------------------------------------------------------------


def _driver(machine: Machine, ops: Ops) -> Iterator[Ops]:
    """A device that has from the beginning the driver that it gets later."""
    for i, op in enumerate(ops):
        if op.name == "dax rebind" and op.args["driver"] != "none":
            for j in range(i):
                if ops[j].result == op.args[DAX]:
                    created = _changed(ops[j], driver=op.args["driver"])
                    yield (*ops[:j], created, *ops[j + 1 : i], *ops[i + 1 :])


def _surplus(machine: Machine, ops: Ops) -> Iterator[Ops]:
    """Pages on demand in place of pages of the pool, where growing it, mapping and shrinking it only makes some."""
    grown = ("reserve", "hugetlb resize")
    sizes = {op.args["size"]: op.args.get("to", 1) for op in ops if op.name in grown}
    for size, to in sizes.items():
        rest = [op for op in ops if op.args.get("size") != size or op.name not in grown]
        at = next((i for i, op in enumerate(rest) if op.name == "hugetlb map" and op.args["size"] == size), None)
        if at is not None and len(rest) + 1 < len(ops):
            yield (*rest[:at], make_op("hugetlb overcommit", size=size, to=max(1, to)), *rest[at:])


def _excess(machine: Machine, ops: Ops) -> Iterator[Ops]:
    """A map that asks for a page more than an earlier one got: it gives all of them back, as an unmapping would."""
    last = ops[-1]
    for i, op in enumerate(ops[:-1]):
        if op.name == last.name == "hugetlb map":
            more = op.changed({**op.args, "count": op.args["count"] + 1}, result=last.result)
            yield (*ops[:i], *ops[i + 1 : -1], more)


# -- another operation that comes to the same function of the kernel ------------------------------------------------


def _last_probe(machine: Machine, ops: Ops) -> Iterator[Ops]:
    """What a device is bound to later, it is bound to when it is made (dax_bus_probe); and memory that the kmem driver
    adds is added without a device (add_memory_resource)."""
    last = ops[-1]
    if last.name not in PROBE:
        return
    made = next((op for op in ops if op.result is not None and op.result == last.args.get(DAX)), last)
    driver = last.args["driver"]
    rest = tuple(op for op in ops[:-1] if op is not made)
    if made is not last:
        yield (*rest, _changed(made, driver=driver))
    if driver == "kmem":
        own = any(op.name == "dax set" and op.args["memmap_on_memory"] for op in ops)
        for at, size in zip(made.args["at"], made.args["size"], strict=True):
            added = make_op("memory add", "m0", at=at, size=size, node=made.args["node"], memmap_on_memory=own)
            alone = tuple(op for op in rest if op.args.get(DAX) != made.result)
            if len(alone) < len(ops) - 1:
                yield (*alone, added)


def _last_contig(machine: Machine, ops: Ops) -> Iterator[Ops]:
    """Frames of boot memory that are taken (alloc_contig_range), in place of a subblock of memory that is added."""
    last = ops[-1]
    if last.name == "subblock unplug":
        memory = last.args[MEMORY]
        rest = tuple(op for op in ops[:-1] if op.result != memory and op.args.get(MEMORY) != memory)
        _, start, end = machine.ram_ranges()[0]
        middle = (start + end) // 2 * machine.page // (128 * M) * (128 * M)
        if len(rest) < len(ops) - 1:
            yield (*rest, make_op(CONTIG, "p0", at=middle, size=2 * M))


def _changed(op: Op, **args: Any) -> Op:
    return op.changed({**op.args, **args})
