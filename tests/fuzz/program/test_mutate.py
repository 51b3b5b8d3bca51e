"""Mutants are legal, different, decided by the generator alone, and not far away."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fuzz import program
from fuzz.program import Op, Program, Scope, crossover, decode, mutate, parse, random_op
from fuzz.program.arguments import LIMIT
from fuzz.program.mutate import MAX_OPS, near
from fuzz.program.operations import AFTER_BOOT, OPERATIONS
from fuzz.program.strategies import programs
from mm.machine import Machine

EMPTY = Program(Machine(), (Op("boot"),))


@given(programs(), st.integers(0, 2**32))
def test_mutants_are_legal_and_different(one: Program, seed: int) -> None:
    mutant = mutate(one, Random(seed))
    assert parse(program.format(mutant)) == mutant
    assert mutant == mutate(one, Random(seed))
    for _ in range(20):
        mutant = mutate(mutant, Random(seed))
    assert parse(program.format(mutant)) == mutant


@given(programs(), programs(), st.integers(0, 2**32))
def test_crossovers_are_legal(first: Program, second: Program, seed: int) -> None:
    child = crossover(first, second, Random(seed))
    assert parse(program.format(child)) == child
    assert child == crossover(first, second, Random(seed))
    assert child.machine in (first.machine, second.machine)


def test_a_mutation_changes_something() -> None:
    rng = Random(3)
    one = decode(rng.randbytes(400))
    same = sum(mutate(one, rng) == one for _ in range(1000))
    assert same < 10  # two steps may undo each other


def test_mutation_reaches_every_operation_and_every_machine_key() -> None:
    rng = Random(5)
    one = EMPTY
    names: set[str] = set()
    machines: set[Machine] = set()
    for step in range(5000):
        one = mutate(one, rng) if step % 100 else EMPTY
        names |= {op.name for op in one.ops}
        machines.add(one.machine)
    assert names == set(OPERATIONS)
    assert {machine.nodes for machine in machines} == {1, 2}
    assert {machine.memmap_on_memory for machine in machines} == {"off", "on", "force"}
    assert {machine.deferred_init for machine in machines} == {True, False}
    assert len({machine.ram for machine in machines}) > 5


def test_most_operations_survive_a_mutation() -> None:
    rng = Random(11)
    one = decode(rng.randbytes(12 * 31))
    kept = [len(set(one.ops) & set(mutate(one, rng).ops)) for _ in range(300)]
    assert sum(kept) / len(kept) > 0.7 * len(set(one.ops))


def test_crossover_takes_from_both() -> None:
    first = parse("vmm 1\nmachine\nboot\n" + "hugetlb resize size=2M to=1\n" * 5)
    second = parse("vmm 1\nmachine\nboot\n" + "p0 = pages alloc count=1\npages free p0\n")
    children = [crossover(first, second, Random(seed)) for seed in range(200)]
    mixed = [child for child in children if {"hugetlb resize", "pages free"} <= {op.name for op in child.ops}]
    assert len(mixed) > 10


def test_programs_stop_growing() -> None:
    rng = Random(2)
    long = decode(rng.randbytes(12 * (MAX_OPS + 200)))
    assert len(mutate(long, rng).ops) <= len(long.ops)
    half = decode(rng.randbytes(12 * (MAX_OPS - 2)))
    assert max(len(crossover(half, half, rng).ops) for _ in range(50)) <= MAX_OPS + 1


def test_random_operations_fit_their_point() -> None:
    rng = Random(1)
    scope = Scope(Machine())
    assert {random_op(scope, rng).name for _ in range(50)} == {"reserve", "reserve cma"}
    scope.advance(Op("boot"))
    names = {random_op(scope, rng).name for _ in range(2000)}
    # No device, mapping or allocation is live, so nothing is done to one.
    needing = {op.name for op in OPERATIONS.values() if op.handle is not None and op.handle.name != "m"}
    assert names == {op.name for op in OPERATIONS.values() if op.when == AFTER_BOOT} - needing


def test_mutants_carry_no_comments() -> None:
    one = parse("vmm 1\n# why\nmachine\nboot # now\npages_of_mine = pages alloc count=1\n# end\n")
    for seed in range(50):
        assert "#" not in program.format(mutate(one, Random(seed)))
        assert "#" not in program.format(crossover(one, one, Random(seed)))


def test_the_largest_node_has_no_neighbour_beyond_it() -> None:
    node = next(argument for argument in OPERATIONS["hugetlb resize"].arguments if argument.name == "node")
    found = {near(node, LIMIT - 1, Random(seed)) for seed in range(40)}
    assert max(value for value in found if value is not None) == LIMIT - 1
