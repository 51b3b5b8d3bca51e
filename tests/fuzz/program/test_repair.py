"""Repair: what happens to operations whose handle, boot or machine is gone."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fuzz import program
from fuzz.program import Op, Program, parse, repair
from fuzz.program.strategies import machines, ops, programs
from mm.machine import Machine


def body(*lines: str, ram: str = "4G") -> Program:
    return parse("\n".join(["vmm 1", f"machine ram={ram}", *lines]))


@given(machines(), st.lists(ops(), max_size=20))
def test_any_operations_become_legal(machine: Machine, some: list[Op]) -> None:
    whole = Program(machine, repair(machine, some))
    assert parse(program.format(whole)) == whole
    assert repair(machine, whole.ops) == whole.ops


@given(programs(), st.randoms(use_true_random=False))
def test_legal_programs_are_unchanged_and_dropping_keeps_them_legal(one: Program, rng: Random) -> None:
    assert repair(one.machine, one.ops) == one.ops
    fewer = Program(one.machine, repair(one.machine, [op for op in one.ops if rng.random() < 0.5]))
    assert parse(program.format(fewer)) == fewer
    assert len(fewer.ops) <= len(one.ops) + 1


def test_users_of_a_dropped_handle_go_and_the_rest_is_renumbered() -> None:
    one = body(
        "boot",
        "p0 = pages alloc count=1",
        "p1 = pages alloc count=2",
        "pages free p0",
        "pages free p1",
    )
    left = repair(one.machine, (op for op in one.ops if op.result != "p0"))
    assert left == body("boot", "p0 = pages alloc count=2", "pages free p0").ops


def test_a_name_made_twice_means_the_latest() -> None:
    half = body("boot", "u0 = hugetlb map size=2M count=1", "hugetlb unmap u0").ops
    joined = repair(Machine(), half[:2] + half)
    assert (
        joined
        == body("boot", "u0 = hugetlb map size=2M count=1", "u1 = hugetlb map size=2M count=1", "hugetlb unmap u1").ops
    )


def test_a_handle_is_ended_once() -> None:
    one = body("boot", "u0 = hugetlb map size=2M count=1", "hugetlb unmap u0")
    assert repair(one.machine, one.ops + one.ops[-1:]) == one.ops


def test_an_operation_on_another_kind_is_dropped() -> None:
    assert repair(Machine(), [Op("boot"), Op("dax destroy", {"d": "ram0"})]) == (Op("boot"),)


def test_boot_memory_of_a_smaller_machine() -> None:
    one = body("boot", "memory offline ram1 block=3")
    assert len(Machine(ram=1 << 30).ram_ranges()) == 1
    assert repair(Machine(ram=1 << 30), one.ops) == body("boot", "memory offline ram0 block=3", ram="1G").ops


def test_there_is_one_boot_and_reserves_stand_before_it() -> None:
    reserve = parse("vmm 1\nmachine\nreserve size=1G count=1\nboot\n").ops[0]
    sysctl = body("boot", "sysctl hugetlb_optimize_vmemmap=on").ops[1]
    boot = Op("boot")
    assert repair(Machine(), []) == (boot,)
    assert repair(Machine(), [reserve, sysctl, boot, reserve]) == (reserve, boot, sysctl)
    assert repair(Machine(), [boot, boot, reserve, sysctl]) == (boot, sysctl)


def test_comments_go_with_their_operation() -> None:
    one = body("boot", "p0 = pages alloc count=1", "# why", "p1 = pages alloc count=2 # two")
    left = repair(one.machine, [one.ops[0], one.ops[2]])
    assert (left[1].result, left[1].comment, left[1].above) == ("p0", "two", ("why",))
