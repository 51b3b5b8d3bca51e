"""What trials say, in numbers."""

import pytest

from fuzz.races.summary import a12, restricted_mean, rows
from fuzz.races.trial import Mark, Trial


def trial(
    seed: int,
    *marks: float | None,
    operations: int | None = None,
    cap: float = 10.0,
    defect: str = "ACC-2026-03",
    signature: str | None = None,
) -> Trial:
    """A trial of a defect whose shortest known program has two operations; times to reach, trigger, detect."""
    reached, triggered, detected = (None if mark is None else Mark(int(mark * 100), mark) for mark in marks)
    programs, seconds = detected or (int(cap * 100), cap)
    more = {"signature": signature, "operations": operations}
    return Trial("guided", defect, seed, cap, programs, seconds, reached, triggered, detected, **more)  # type: ignore[arg-type]


def test_reached_triggered_and_detected_are_counted_separately() -> None:
    (row,) = rows([trial(0, 1, 2, 3), trial(1, 1, 2, None), trial(2, 4, None, None), trial(3, None, None, None)])
    assert (row.trials, row.reached, row.triggered, row.detected) == (4, 3, 2, 1)
    # (3 + 10 + 10 + 10) / 4: who did not get there counts with the cap.
    assert (row.seconds, row.slowest, row.programs) == (8.25, 10.0, 1000)
    assert not row.met


def test_the_target_is_every_trial_and_one_operation_more() -> None:
    def row(*sizes: int | None) -> bool:
        (one,) = rows([trial(seed, 1, 1, 1, operations=size) for seed, size in enumerate(sizes)])
        return one.met

    assert row(2, 3, 2)
    assert not row(2, 4, 2)
    assert row(None, None)


def test_where_the_operation_fails_another_program_is_the_shortest() -> None:
    """HVO-2024-39: three operations show it where all goes well, five where a page cannot be restored."""

    def row(outcomes: str, size: int) -> int | None:
        signature = f"mapping|level|hugetlb demote|{outcomes}|2M|pte>leaf"
        (one,) = rows([trial(0, 1, 1, 1, operations=size, defect="HVO-2024-39", signature=signature)])
        return one.longer

    assert (row("ok/ok", 4), row("ok/ok", 5)) == (0, 1)
    assert (row("-12/-12", 6), row("-12/-12", 7)) == (0, 1)
    assert row("-12/ok", 5) == 1


def test_a_trial_survives_json() -> None:
    for one in (trial(0, 1, 2, 3, operations=2), trial(1, 1, None, None)):
        assert Trial.from_json(one.to_json()) == one


def test_a12() -> None:
    assert a12([1, 2], [3, 4]) == 1.0
    assert a12([3, 4], [1, 2]) == 0.0
    assert a12([1, 2, 3], [1, 2, 3]) == 0.5
    # Of nine pairs: 1<2, 1<3, 1<9, 4<9 are wins, 9=9 is half a win (Vargha and Delaney 2000, equation 3).
    assert a12([1, 4, 9], [2, 3, 9]) == pytest.approx(4.5 / 9)


def test_restricted_mean_is_the_area_under_the_survival_curve() -> None:
    times = [0.5, 1.0, 1.0, 2.5, 7.0]
    cap = 4.0
    area, alive, before = 0.0, 1.0, 0.0
    for time in sorted(min(t, cap) for t in times):
        area += alive * (time - before)
        before = time
        alive -= 1 / len(times)
    assert restricted_mean(times, cap) == pytest.approx(area)
