"""The pair as a Hypothesis state machine."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from fuzz.engines.stateful import DRAWS, PairMachine, Stateful, draws
from fuzz.execute import Lockstep
from fuzz.generate.live import Live
from fuzz.generate.operations import MAKERS
from fuzz.generate.weights import WEIGHTS, choose_machine
from fuzz.program.model import Op
from mm.machine import Machine


def test_draws_come_from_the_bytes_and_end_in_zeros() -> None:
    draw = draws(bytes((0x80, 0, 0xFF, 0xFF)))
    assert [draw(), draw(), draw()] == [0.5, 65535 / 65536, 0.0]


def test_zeros_are_the_plainest_machine() -> None:
    assert choose_machine(lambda: 0.0) == Machine()


def test_zeros_make_an_operation_of_each_kind() -> None:
    pair = Lockstep(Machine())
    live = Live(pair.reference.kernel)
    pair.step(Op("boot"))
    for name in WEIGHTS:
        used = 0

        def zero() -> float:
            nonlocal used
            used += 1
            return 0.0

        MAKERS[name](zero, live)
        assert used <= DRAWS


def test_the_pair_agrees() -> None:
    run_state_machine_as_test(
        PairMachine,
        settings=settings(max_examples=15, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )


def test_as_an_engine() -> None:
    engine = Stateful(1)
    found = engine.advance(60.0, 5)
    assert engine.statistics.programs >= 5
    assert engine.statistics.operations > 50
    assert len(found) == engine.statistics.findings
