"""Faults in what an operation goes by: it finds another state than there was, and the state is put right behind it.

What a law has noted of the state before contradicts then what was done: pages come from the wrong end of a list, it was
another node's turn, another node gave the memory, a number was read that nobody had written. Each function makes the
state another one and returns what it did and how it is put right, or None where there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final, get_args

from fuzz.mutants.spoil import neighbour
from fuzz.mutants.spoil_whole import ram, turns, used_pool
from mm.kernel import Kernel
from mm.machine import OnlineType
from mm.runs import RunSet

Undo = Callable[[], object]
Misleader = Callable[[Kernel, Random], tuple[str, Undo] | None]


def _nothing() -> None:
    """It stays as it is."""


def wrong_end(k: Kernel, draw: Random) -> tuple[str, Undo] | None:
    """Free huge pages are taken from the tail of their list."""
    h = used_pool(k, draw)

    def turn() -> None:
        h.free[:] = [dict(reversed(free.items())) for free in h.free]

    turn()
    return f"hugetlb.{h.order}: the free lists are the wrong way round", turn


def another_turn(k: Kernel, draw: Random) -> tuple[str, Undo] | None:
    """It is another node's turn."""
    return None if len(k.nodes) == 1 else (turns(k, draw), _nothing)


def misread(k: Kernel, draw: Random) -> tuple[str, Undo] | None:
    """A number of a pool is read as its neighbour."""
    h = used_pool(k, draw)
    name = draw.choice(("resv", "nr_overcommit", "surplus", "surplus", "nr"))
    step, nid = draw.choice((-1, 1)), draw.randrange(len(h.nr))

    def add(n: int) -> None:
        if name in ("surplus", "nr"):
            getattr(h, name)[nid] += n
        else:
            setattr(h, name, getattr(h, name) + n)

    add(step)
    return f"hugetlb.{h.order}.{name}: {step:+}", lambda: add(-step)


def other_nodes(k: Kernel, draw: Random) -> tuple[str, Undo] | None:
    """Memory comes from the other node."""
    if len(k.nodes) == 1:
        return None
    k.nodes.reverse()
    return "the nodes are exchanged", k.nodes.reverse


def other_point(k: Kernel, draw: Random) -> tuple[str, Undo] | None:
    """Another allocation is to fail, or more or fewer of them."""
    faults = k.faults
    if not faults.nth:
        return None
    if draw.random() < 0.5:
        faults.nth = max(1, faults.nth + draw.choice((-1, 1)))
    else:
        faults.times = max(1, faults.times + draw.choice((-1, 1)))
    return f"{faults.times} are to fail from number {faults.nth} on", _nothing


def other_policy(k: Kernel, draw: Random) -> tuple[str, Undo] | None:
    """Memory that is added goes on line in another way than the command line says."""
    was = k.machine
    policy = draw.choice([one for one in get_args(OnlineType) if one != was.memhp_default_state])
    k.machine = replace(was, memhp_default_state=policy)
    return f"memhp_default_state={policy}", lambda: setattr(k, "machine", was)


def forgotten(k: Kernel, draw: Random) -> tuple[str, Undo] | None:
    """Nobody knows any more which resources are busy, or which subblocks are unplugged."""
    if draw.random() < 0.5:
        busy = k.iomem
        k.iomem = type(busy)()

        def join() -> None:
            for lo, hi, name in busy.items():
                k.iomem.set(lo, hi, name)

        return "no resource is busy", join
    blocks, gone = k.memory_blocks, k.memory_blocks.unplugged
    if not gone.starts:
        return None
    blocks.unplugged = RunSet()

    def join_gone() -> None:
        for lo, hi in gone.items():
            blocks.unplugged.add(lo, hi)

    return "no subblock is unplugged", join_gone


def sound(k: Kernel, draw: Random) -> tuple[str, Undo] | None:
    """A huge page is taken for a poisoned one, or the other way round."""
    h = used_pool(k, draw)
    if not h.folios:
        return None
    folio = h.folios[draw.choice(sorted(h.folios))]
    folio.hwpoison = not folio.hwpoison

    def back() -> None:
        folio.hwpoison = not folio.hwpoison

    return f"{folio!r} is {'poisoned' if folio.hwpoison else 'sound'}", back


def asked_for(k: Kernel, draw: Random) -> tuple[str, Undo] | None:
    """The command line asked for another number of huge pages, or for other areas."""
    requests, cma = k.boot_requests, k.hugetlb_cma
    if requests and draw.random() < 0.5:
        was = requests[:]
        i = draw.randrange(len(was))
        requests[i] = replace(was[i], count=neighbour(was[i].count, draw))
        return f"{was[i]} is {requests[i]}", _nothing
    if cma.size:
        cma.size += draw.choice((-1, 1)) << 30
    elif any(cma.size_in_node):
        cma.size_in_node[cma.size_in_node.index(max(cma.size_in_node))] += 1 << 30
    elif not cma.percent and not any(cma.percent_in_node):
        cma.size = draw.choice((1, 2)) << 30
    else:
        return None
    return f"hugetlb_cma={cma.size}, of the nodes {cma.size_in_node}", _nothing


def other_ram(k: Kernel, draw: Random) -> tuple[str, Undo] | None:
    """The machine has other RAM than its line says."""
    text = ram(k, draw)
    return None if text is None else (text, _nothing)


MISLED: Final[dict[str, tuple[Misleader, ...]]] = {
    "boot": (asked_for, asked_for, another_turn, other_ram, other_ram),
    "hugetlb": (wrong_end, wrong_end, another_turn, misread, misread, other_nodes, other_point, sound),
    "memory": (other_policy, forgotten, other_nodes, wrong_end, other_point, sound, misread),
    "subblock": (forgotten, other_point),
    "dax": (forgotten, other_policy, other_point),
    "pages": (other_nodes, other_point),
}
"""By the first word of an operation."""


def mislead(k: Kernel, operation: str, draw: Random) -> tuple[str, Undo] | None:
    """Make an operation's kernel go by what is not so; what was done, and how to put it right."""
    found = MISLED.get(operation.partition(" ")[0])
    return draw.choice(found)(k, draw) if found else None
