"""Programs run on both models: handles, faults, deaths, outcomes."""

from __future__ import annotations

from errno import ENOENT

import pytest

from candidate.framework import UnifiedFramework
from fuzz.execute import Lockstep, RunOutcome, run_program
from fuzz.program import OPERATIONS, make_op, parse
from fuzz.side import ENTRIES, Side
from mm.errno import EBUSY, EINVAL, ENODEV
from mm.kernel import Kernel
from mm.machine import Machine
from mm.mmzone import Zone
from mm.page_alloc import KernelBug
from reference.paths import SeparatePaths

MACHINE = "machine arch=x86_64 page=4K ram=1G nodes=1"


def run(*lines: str, machine: str = MACHINE, **options: object) -> RunOutcome:
    text = "\n".join(["vmm 1", machine, *lines]) + "\n"
    return run_program(parse(text), full_every=1, **options)  # type: ignore[arg-type]


def test_every_operation_of_the_language_has_an_entry() -> None:
    assert list(ENTRIES) == list(OPERATIONS)


def test_a_program_without_difference_is_ok() -> None:
    out = run("boot", "hugetlb resize size=2M to=4", "hugetlb resize size=2M to=0")
    assert (out.verdict, out.finding, out.ops_executed) == ("ok", None, 3)
    assert out.rcs == [(0, 0)] * 3


def test_a_refused_handle_stays_usable() -> None:
    out = run(
        "boot",
        "m0 = memory add at=0x1 size=128M",
        "memory online m0 block=0",
        "memory offline m0 block=0",
        "memory remove m0",
        "d0 = dax create at=0x80000000 size=3M",
        "dax destroy d0",
        "u0 = hugetlb map size=1G count=1",
        "hugetlb unmap u0",
        "p0 = pages alloc count=4000000",
        "pages free p0",
    )
    assert out.verdict == "ok"
    rcs = [rc for rc, _ in out.rcs]
    assert rcs[1] == rcs[5] == -EINVAL
    assert [rcs[i] for i in (2, 3, 4, 6, 8, 10)] == [-ENODEV] * 6


def test_a_removed_range_is_gone_and_a_busy_one_is_not() -> None:
    out = run(
        "boot",
        "m0 = memory add at=0x80000000 size=256M",
        "memory online m0 block=1",
        "memory remove m0",
        "memory offline m0 block=1",
        "memory remove m0",
        "memory remove m0",
    )
    assert [rc for rc, _ in out.rcs] == [0, 0, 0, -EBUSY, 0, 0, -ENODEV]


def test_blocks_outside_the_range_do_not_exist() -> None:
    out = run(
        "boot", "m0 = memory add at=0x80000000 size=128M", "memory online m0 block=1", "memory offline ram0 block=8"
    )
    assert [rc for rc, _ in out.rcs] == [0, 0, -ENODEV, -ENODEV]


def test_a_node_that_the_machine_does_not_have_is_invalid() -> None:
    out = run("boot", "hugetlb resize size=2M to=1 node=3", "p0 = pages alloc count=1 node=1")
    assert [rc for rc, _ in out.rcs] == [0, -EINVAL, -EINVAL]


def test_ranges_must_be_whole_pages() -> None:
    out = run("boot", "d0 = dax create at=0x80000800 size=2M", "d1 = dax create at=0x80000000 size=2049")
    assert [rc for rc, _ in out.rcs] == [0, -EINVAL, -EINVAL]


def test_a_fault_is_for_the_next_operation_only() -> None:
    pair = Lockstep(Machine(ram=1 << 30), full_every=1)
    for op in (
        make_op("boot"),
        make_op("fail alloc", nth=1),
        make_op("memory add", "m0", at=1 << 31, size=1 << 27),
        make_op("memory add", "m1", at=1 << 31, size=1 << 27),
    ):
        result = pair.step(op)
        assert result.finding is None
    assert result.rcs == (0, 0)
    assert "m0" not in pair.reference.handles
    assert "m1" in pair.reference.handles


def test_sysctl_without_an_optimizable_size_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (SeparatePaths, UnifiedFramework):
        monkeypatch.setattr(cls, "hugetlb_vmemmap_optimizable", lambda self, h: False)
    out = run("boot", "sysctl hugetlb_optimize_vmemmap=on")
    assert out.rcs[1] == (-ENOENT, -ENOENT)


class Dies(UnifiedFramework):
    """A candidate that dies when memory goes online."""

    def memmap_init_range(self, zone: Zone, pfn: int, nr: int) -> None:
        raise KernelBug(f"page fault at {pfn:#x}")


class Crashes(UnifiedFramework):
    """A candidate with a mistake in Python."""

    def memmap_init_range(self, zone: Zone, pfn: int, nr: int) -> None:
        raise ZeroDivisionError


ONLINE = ("boot", "m0 = memory add at=0x80000000 size=128M", "memory online m0 block=0", "hugetlb resize size=2M to=1")


@pytest.mark.parametrize(("side", "field"), [(Dies, "bug"), (Crashes, "crash")])
def test_death_of_one_side_is_a_finding_and_ends_the_program(side: type[UnifiedFramework], field: str) -> None:
    out = run(*ONLINE, make_candidate=side)
    assert out.verdict == "finding"
    assert out.finding is not None
    assert (out.finding.layer, out.finding.field, out.finding.operation) == ("returns", field, "memory online")
    assert out.ops_executed == 3


def test_the_same_mistake_on_both_sides_is_a_finding() -> None:
    out = run(*ONLINE, make_reference=Dies, make_candidate=Dies)
    assert out.verdict == "finding"


def test_the_same_panic_on_both_sides_ends_the_program_quietly() -> None:
    def panics(k: Kernel) -> UnifiedFramework:
        paths = UnifiedFramework(k)

        def panic() -> None:
            raise KernelBug("panic: no memory")

        paths.mm_core_init_early = panic  # type: ignore[method-assign]
        return paths

    out = run(*ONLINE, make_reference=panics, make_candidate=panics)
    assert (out.verdict, out.ops_executed) == ("ok", 1)
    assert out.rcs[0] == ("bug: panic: no memory",) * 2


def test_boot_ram_handles_are_there_from_the_start() -> None:
    side = Side(Machine(ram=4 << 30, nodes=2), SeparatePaths)
    # 2G below the hole for node 0, 2G above it for node 1.
    assert {name: (m.start_pfn, m.nr) for name, m in side.handles.items()} == {
        "ram0": (0, 1 << 19),
        "ram1": (1 << 20, 1 << 19),
    }


def test_an_observer_sees_every_step() -> None:
    seen = []
    program = parse(f"vmm 1\n{MACHINE}\nboot\nsysctl hugetlb_optimize_vmemmap=off\n")
    run_program(program, observer=lambda pair, op, result: seen.append((op.name, result.rcs, pair.steps)))
    assert seen == [("boot", (0, 0), 1), ("sysctl", (0, 0), 2)]
