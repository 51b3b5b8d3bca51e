"""Allocation points: by number, in rows, and room without passing any."""

from hypothesis import given
from hypothesis import strategies as st

from mm.fault import FaultInjector


def armed(nth: int, before: int = 0) -> FaultInjector:
    faults = FaultInjector()
    faults.points = []
    faults.nth = nth
    faults.begin()
    for _ in range(before):
        faults.fails("A")
    return faults


@given(st.integers(0, 12), st.integers(0, 5), st.integers(0, 8))
def test_a_row_is_the_same_as_single_points(nth: int, before: int, n: int) -> None:
    row, single = armed(nth, before), armed(nth, before)
    room = row.room(n)
    granted = row.grant("B", n)
    ok = 0
    for _ in range(n):
        if single.fails("B"):
            break
        ok += 1
    assert room == granted == ok
    assert (row.reached, row.fired) == (single.reached, single.fired)
    flat = [kind for kind, count in row.points or [] for _ in range(count)]
    assert flat == [kind for kind, _ in single.points or []]


def test_an_operation_uses_the_number_up() -> None:
    faults = armed(2)
    assert [faults.fails("A") for _ in range(3)] == [False, True, False]
    assert faults.fired == "A"
    faults.begin()
    assert not any(faults.fails("A") for _ in range(5))
    assert faults.fired is None
