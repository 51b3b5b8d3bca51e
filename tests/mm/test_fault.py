"""Allocation points: by number, several, in rows, and room without passing any."""

from hypothesis import given
from hypothesis import strategies as st

from mm.fault import FaultInjector


def armed(nth: int, before: int = 0, times: int = 1) -> FaultInjector:
    faults = FaultInjector()
    faults.points = []
    faults.nth, faults.times = nth, times
    faults.begin()
    for _ in range(before):
        faults.fails("A")
    return faults


@given(st.integers(0, 12), st.integers(0, 5), st.integers(0, 8), st.integers(1, 4))
def test_a_row_is_the_same_as_single_points(nth: int, before: int, n: int, times: int) -> None:
    row, single = armed(nth, before, times), armed(nth, before, times)
    room = row.room(n)
    granted = row.grant("B", n)
    ok = 0
    for _ in range(n):
        if single.fails("B"):
            break
        ok += 1
    assert room == granted == ok
    assert (row.reached, row.fired, row.failed) == (single.reached, single.fired, single.failed)
    flat = [kind for kind, count in row.points or [] for _ in range(count)]
    assert flat == [kind for kind, _ in single.points or []]


def test_an_operation_uses_the_number_up() -> None:
    faults = armed(2)
    assert [faults.fails("A") for _ in range(3)] == [False, True, False]
    assert (faults.fired, faults.failed) == ("A", 1)
    faults.begin()
    assert not any(faults.fails("A") for _ in range(5))
    assert (faults.fired, faults.failed) == (None, 0)


def test_several_in_a_row() -> None:
    """The 3rd point and the two behind it, whatever they are; then nothing is armed any more."""
    faults = armed(3, times=3)
    assert [faults.fails("A") for _ in range(3)] == [False, False, True]
    assert faults.armed > faults.reached
    assert faults.grant("B", 4) == 0
    assert faults.fails("C")
    assert faults.armed <= faults.reached
    assert faults.room(9) == faults.grant("B", 9) == 9
    assert (faults.fired, faults.failed) == ("A", 3)
    faults.begin()
    assert faults.grant("A", 9) == 9
