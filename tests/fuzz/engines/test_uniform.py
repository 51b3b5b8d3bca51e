"""The uniform engine: repeatable by seed, shareable by number."""

from fuzz.engines.uniform import Uniform
from fuzz.generate.operations import ALL, swarm
from fuzz.generate.weights import WEIGHTS
from fuzz.program.model import Program


def programs(engine: Uniform, count: int) -> list[Program]:
    return [engine.run(number)[0] for number in range(count)]


def test_equal_seeds_make_equal_programs() -> None:
    assert programs(Uniform(7), 25) == programs(Uniform(7), 25)


def test_other_seeds_make_other_programs() -> None:
    assert programs(Uniform(7), 5) != programs(Uniform(8), 5)


def test_a_program_does_not_depend_on_the_ones_before_it() -> None:
    engine = Uniform(3)
    later = engine.run(20)[0]
    assert programs(engine, 21)[20] == later


def test_equal_seeds_find_the_same() -> None:
    first, second = Uniform(11), Uniform(11)
    assert first.advance(600.0, 40) == second.advance(600.0, 40)
    first.statistics.seconds = second.statistics.seconds = 0.0
    assert first.statistics == second.statistics


def test_workers_share_a_seed() -> None:
    whole = Uniform(5)
    halves = [Uniform(5, first=first, stride=2) for first in (0, 1)]
    whole.advance(600.0, 20)
    for half in halves:
        half.advance(600.0, 10)
    halves[0].statistics.add(halves[1].statistics)
    assert halves[0].statistics.outcomes == whole.statistics.outcomes


def test_slices_end_at_the_number_of_programs() -> None:
    engine = Uniform(0)
    engine.advance(600.0, 3)
    engine.advance(600.0, 2)
    assert engine.statistics.programs == 5
    assert engine.number == 5


def test_a_slice_runs_at_least_one_program() -> None:
    engine = Uniform(0)
    engine.advance(0.0)
    assert engine.statistics.programs == 1


def test_swarm_takes_a_subset_by_weight() -> None:
    values = iter([0.0, 0.9] * len(WEIGHTS))
    chosen = swarm(lambda: next(values))
    names = list(WEIGHTS)[::2]
    assert len(chosen) == sum(WEIGHTS[name] for name in names)
    assert set(chosen) < set(ALL)


def test_a_swarm_of_nothing_is_everything() -> None:
    assert swarm(lambda: 0.99) == ALL


def test_swarm_programs_differ_from_plain_ones() -> None:
    assert programs(Uniform(2, swarm=True), 5) != programs(Uniform(2), 5)
