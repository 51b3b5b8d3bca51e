"""Making the guest's kernel fail one allocation, where it was built for that (lib/fault-inject.c).

`fail alloc nth=K` means the K-th allocation point of the next operation, in the model's order of points. The kernel
counts by itself, in /proc/self/fail-nth, the page allocations of one task below functions of one address range. So the
model tells first which point that is, on a copy: the n-th one of an *area*, which is one file of the kernel. The kernel
fails that one. Then the real model runs with the number that the same point has, now that the kernel has shown where it
put things.

Points outside the two areas (slab objects, huge pages themselves) are not injected: `AREAS` says which are.
"""

from __future__ import annotations

import copy
from typing import Final, NamedTuple

from fuzz.program.model import Op
from fuzz.side import Side
from live.agent import Agent
from live.placement import Wanted, want

AREAS: Final = {
    **dict.fromkeys(("VMF", "VMB", "PGT", "PTBL"), "vmemmap_alloc_block"),
    **dict.fromkeys(("HEAD", "TAIL", "SPLIT", "RES"), "hugetlb_vmemmap_optimize_folio"),
}
"""Kind of point -> a function of the file that it is in: mm/sparse-vmemmap.c, mm/hugetlb_vmemmap.c."""
NEEDED: Final = (
    "needs a kernel with CONFIG_FAIL_PAGE_ALLOC, CONFIG_FAULT_INJECTION_DEBUG_FS and"
    " CONFIG_FAULT_INJECTION_STACKTRACE_FILTER"
)
ONCE: Final = "the kernel's fault injection by number fails one allocation, not several in a row"
NEARBY: Final = 12
"""How far the number of a point may move."""
RETRIES: Final = "soft offline tries again when dissolving fails"
EXPECTED: Final = "add_pages"
"""add_pages (arch/x86/mm/init_64.c) warns of every failure of __add_pages; an injected one is none of the kernel's."""
BEYOND: Final = "the kernel's fault injection is not used for points of kind {}"

NTH: Final = "/proc/self/fail-nth"
_PAGES: Final = "/sys/kernel/debug/fail_page_alloc"
_SLAB: Final = "/sys/kernel/debug/failslab"
_NEAR: Final = 4
"""A file's functions lie together, with fewer others than this between those that are named after the vmemmap."""

Ranges = dict[str, tuple[int, int]]
"""Area -> its addresses."""


class Target(NamedTuple):
    """One point, as the kernel finds it."""

    area: str
    number: int


def prepare(agent: Agent) -> Ranges | None:
    """Set fault injection up; None when the kernel has none."""
    there, filtered, symbols = agent.read((NTH, f"{_PAGES}/require-start", "/proc/kallsyms"))
    if isinstance(there, int) or isinstance(filtered, int) or isinstance(symbols, int):
        return None
    settings = {"ignore-gfp-wait": "N", "min-order": "0", "probability": "0", "verbose": "0", "stacktrace-depth": "32"}
    rcs = agent.steps((f"{_PAGES}/{name}", value) for name, value in settings.items())
    if rcs[-1] < 0:
        return None
    # Slab objects count in the same number, unless only marked caches do.
    agent.write(f"{_SLAB}/cache-filter", "Y")
    return ranges(symbols.decode())


def ranges(kallsyms: str) -> Ranges:
    """The addresses of the areas' files: around the function named, as far as its neighbours are of the vmemmap too."""
    rows = [line.split() for line in kallsyms.splitlines()]
    text = sorted((int(row[0], 16), row[2]) for row in rows if len(row) == 3 and row[1] in "tT")
    where = {name: address for address, name in text}
    out = {}
    for area in set(AREAS.values()):
        if area not in where:
            continue
        first = last = text.index((where[area], area))
        while (more := _nearest(text, range(first - 1, first - 1 - _NEAR, -1))) is not None:
            first = more
        while (more := _nearest(text, range(last + 1, last + 1 + _NEAR))) is not None:
            last = more
        out[area] = text[first][0], text[min(last + 1, len(text) - 1)][0]
    return out


def _nearest(text: list[tuple[int, str]], where: range) -> int | None:
    return next((i for i in where if 0 <= i < len(text) and "vmemmap" in text[i][1]), None)


def arm(agent: Agent, areas: Ranges, target: Target) -> None:
    """Fail that point of what this guest's agent does next."""
    lo, hi = areas[target.area]
    agent.steps(
        [
            (f"{_PAGES}/require-start", str(lo)),
            (f"{_PAGES}/require-end", str(hi)),
            (NTH, str(target.number)),
        ]
    )


def disarm(agent: Agent) -> bool:
    """Stop; whether the point was reached."""
    (left,) = agent.read((NTH,))
    agent.write(NTH, "0")
    return isinstance(left, bytes) and int(left) == 0


# -- the model's points ---------------------------------------------------------------------------------------------


def points(model: Side, op: Op, wanted: Wanted | None, nth: int) -> list[tuple[str, int]]:
    """The points that an operation reaches up to the nth, which fails, as (kind, how many in a row), on a copy of the
    model; huge pages go where they are wanted, or anywhere.
    """
    trial = copy.deepcopy(model)
    faults = trial.kernel.faults
    faults.points = []
    faults.nth = nth
    want(trial.kernel, wanted)
    trial.run(op)
    row, left = [], nth
    for kind, n in faults.points:
        row.append((kind, min(n, left)))
        left -= row[-1][1]
    return row


def target(row: list[tuple[str, int]], nth: int) -> Target | str | None:
    """What the nth point is: a target, the kind that cannot be one, or None when there are fewer points."""
    passed = dict.fromkeys(AREAS.values(), 0)
    for kind, n in row:
        area = AREAS.get(kind)
        if nth <= n:
            return kind if area is None else Target(area, passed[area] + nth)
        nth -= n
        if area is not None:
            passed[area] += n
    return None


def number(model: Side, op: Op, wanted: Wanted, aim: Target, nth: int) -> int:
    """The number of a target among the points of the operation as the kernel did it: `nth`, or one near it where
    placement changed what came before; 0 if there is none.
    """
    for k in sorted(range(max(1, nth - NEARBY), nth + NEARBY), key=lambda k: abs(k - nth)):
        if target(points(model, op, wanted, k), k) == aim:
            return k
    return 0
