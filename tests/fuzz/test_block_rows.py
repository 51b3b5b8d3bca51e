"""Memory blocks that go online and offline in rows, against the kernel's way: one by one (mm.memory_online)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.engines.explore import canonical_pair
from fuzz.execute import Lockstep
from fuzz.generate.afford import MANY_BLOCKS, affordable, crowded
from fuzz.generate.operations import table
from fuzz.generate.program import run_generated
from fuzz.oracle.finding import Outcome
from fuzz.program.model import Op, Program
from mm import memory_online
from mm.errno import EBUSY
from mm.kernel import Kernel
from mm.machine import Machine

M, G, T = 1 << 20, 1 << 30, 1 << 40
MACHINES = [
    Machine(ram=2 * G),
    Machine(ram=6 * G, memhp_default_state="online"),
    Machine(ram=5 * G, nodes=2, memhp_default_state="online_movable"),
    Machine(ram=3 * G, nodes=2, interleave=192 * M, memmap_on_memory="force"),
    Machine(ram=4672 * M, hole=66 * M, memmap_on_memory="on", memhp_default_state="online_kernel"),
    Machine(arch="arm64", ram=4 * G, memhp_default_state="online"),
    Machine(arch="ppc64_radix", page=65536, ram=4 * G),
]
TABLE = table(
    [
        *("memory add", "memory online", "memory offline", "memory remove", "subblock unplug", "subblock plug"),
        *("dax create", "dax rebind", "dax set", "dax state", "dax online", "dax offline", "fail alloc"),
        *("pages alloc", "pages free", "hugetlb resize", "hugetlb map", "memory hard_offline", "memory unpoison"),
        *("memory unplug",),
    ]
)
UNPLUG = table(["memory unplug", "dax state"])


def trace(program: Program) -> list[Any]:
    """What a program does, operation by operation."""
    pair = Lockstep(program.machine, full_every=1)
    out: list[Any] = []
    for op in program.ops:
        result = pair.step(op)
        out.append((result.rcs, result.finding, result.terminal))
        for k in (pair.reference.kernel, pair.candidate.kernel):
            per = k.memory_blocks.pages
            tried = {pfn for lo, hi in k.memory_blocks.tried for pfn in range(lo // per * per, hi, per)}
            out.append((k.log.copy(), k.faults.reached, k.faults.failed, k.faults.fired, sorted(tried)))
            out.append((k.vmstat.struct_pages_initialized, k.pages.short, k.pages.spilled))
            k.memory_blocks.tried.clear()
        if pair.over:
            break
        out.append(canonical_pair(pair, pages=False))
    return out


@given(st.integers(0, 1 << 32), st.sampled_from(MACHINES))
@settings(max_examples=30)
def test_rows_do_what_single_blocks_do(seed: int, machine: Machine) -> None:
    program, _ = run_generated(Random(seed).random, "posted", TABLE + UNPLUG * (len(TABLE) // 3), machine)
    rows = trace(program)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_online_alike", "_offline_alike"):
            patch.setattr(memory_online, name, lambda k, first, last: first)
        assert trace(program) == rows


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The rows that go online and offline on either side."""
    seen: list[tuple[str, int, int]] = []
    for name in ("_online_row", "_offline_row"):
        row = getattr(memory_online, name)

        def watched(k: Kernel, first: int, last: int, *more: Any, name: str = name, row: Any = row) -> Any:
            seen.append((name, first, last))
            return row(k, first, last, *more)

        monkeypatch.setattr(memory_online, name, watched)
    return seen


def test_a_machine_of_16_TiB_is_a_few_rows(rows: list[tuple[str, int, int]]) -> None:
    """The boot memmap at the high end stays (has_unmovable_pages): what went offline before it comes back."""
    pair = Lockstep(Machine(ram=16 * T))
    pair.step(Op("boot"))
    was = pair.reference.kernel.memory_blocks.zone.items()
    rcs: tuple[Outcome, Outcome] = pair.step(Op("memory unplug", {"m": "ram1"})).rcs
    assert rcs == (-EBUSY, -EBUSY)
    assert pair.reference.kernel.memory_blocks.zone.items() == was
    off = [(first, last) for name, first, last in rows if name == "_offline_row"]
    # 16T less 2G begin at 4G; the memmap of 16T is 256G, 1/64 of it.
    assert sum(last - first for first, last in off) > 2 * 128000
    assert len(rows) < 40


def test_crowded_memory_is_not_unplugged() -> None:
    """Each block in use is emptied by itself, and what was in it goes to one that is emptied later."""
    pair = Lockstep(Machine(ram=T))
    pair.step(Op("boot"))
    unplug = Op("memory unplug", {"m": "ram1"})
    kernel = pair.reference.kernel
    memory = pair.reference.handles["ram1"]
    lo, hi = memory.start_pfn, memory.start_pfn + memory.nr
    assert affordable(unplug, pair.reference) is unplug
    pages = (MANY_BLOCKS + 1) * kernel.memory_blocks.pages
    assert pair.step(Op("pages alloc", {"count": pages, "node": 0, "movable": True}, "p0")).rcs == (0, 0)
    assert crowded(kernel, lo, hi)
    assert affordable(unplug, pair.reference) == Op("memory offline", {"m": "ram1", "block": 0})
    assert not crowded(kernel, lo, lo + MANY_BLOCKS * kernel.memory_blocks.pages)
