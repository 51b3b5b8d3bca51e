"""RunMap against a dict, RunSet against a set."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mm.runs import RunMap, RunSet

SPACE = 24
RANGES = st.tuples(st.integers(0, SPACE), st.integers(0, SPACE))
WRITES = st.lists(st.tuples(RANGES, st.sampled_from(["a", "b", "c", None])), max_size=30)


def filled(writes: list[tuple[tuple[int, int], str | None]]) -> tuple[RunMap[str], dict[int, str]]:
    """A RunMap and its model after `writes`; None clears."""
    runs: RunMap[str] = RunMap()
    model: dict[int, str] = {}
    for (lo, hi), value in writes:
        if value is None:
            runs.clear(lo, hi)
        else:
            runs.set(lo, hi, value)
        for x in range(lo, hi):
            if value is None:
                model.pop(x, None)
            else:
                model[x] = value
    return runs, model


@given(WRITES)
def test_map_holds_what_was_written(writes: list[tuple[tuple[int, int], str | None]]) -> None:
    runs, model = filled(writes)
    assert {x: v for lo, hi, v in runs.items() for x in range(lo, hi)} == model
    for x in range(-1, SPACE + 1):
        assert runs.get(x) == model.get(x)
        assert runs.overlaps(x, x + 3) == any(y in model for y in range(x, x + 3))


@given(WRITES, st.integers(0, SPACE))
def test_next_is_the_first_from_there_on(writes: list[tuple[tuple[int, int], str | None]], x: int) -> None:
    runs, model = filled(writes)
    members = RunSet()
    for y in model:
        members.add(y, y + 1)
    assert runs.next(x) == members.next(x) == min((y for y in model if y >= x), default=None)


@given(WRITES)
def test_map_runs_are_maximal(writes: list[tuple[tuple[int, int], str | None]]) -> None:
    items = filled(writes)[0].items()
    assert all(lo < hi for lo, hi, _ in items)
    for (_, end, left), (start, _, right) in itertools.pairwise(items):
        assert end < start or (end == start and left != right)


@given(WRITES, RANGES)
def test_map_runs_of_a_range_are_clipped(
    writes: list[tuple[tuple[int, int], str | None]], window: tuple[int, int]
) -> None:
    runs, model = filled(writes)
    lo, hi = sorted(window)
    got = {x: v for s, e, v in runs.runs(lo, hi) for x in range(s, e)}
    assert got == {x: v for x, v in model.items() if lo <= x < hi}


@given(WRITES, st.integers(0, SPACE))
def test_map_run_is_the_whole_run(writes: list[tuple[tuple[int, int], str | None]], x: int) -> None:
    runs, _ = filled(writes)
    assert runs.run(x) == next((item for item in runs.items() if item[0] <= x < item[1]), None)


@given(WRITES, st.integers(0, SPACE), st.lists(st.tuples(st.integers(1, 4), st.sampled_from("abc")), min_size=1))
def test_map_replace_is_set_for_every_run(
    writes: list[tuple[tuple[int, int], str | None]], at: int, pieces: list[tuple[int, str]]
) -> None:
    runs, _ = filled(writes)
    one_by_one = runs.copy()
    bounds = [at]
    vals: list[str] = []
    for length, value in pieces:
        one_by_one.set(bounds[-1], bounds[-1] + length, value)
        if vals and vals[-1] == value:
            bounds[-1] += length
        else:
            bounds.append(bounds[-1] + length)
            vals.append(value)
    runs.replace(bounds, vals)
    assert runs.items() == one_by_one.items()


@given(WRITES, WRITES)
def test_map_copy_is_independent(
    writes: list[tuple[tuple[int, int], str | None]], more: list[tuple[tuple[int, int], str | None]]
) -> None:
    runs, _ = filled(writes)
    before = runs.items()
    copy = runs.copy()
    for (lo, hi), value in more:
        if value is None:
            copy.clear(lo, hi)
        else:
            copy.set(lo, hi, value)
    assert runs.items() == before


EDITS = st.lists(st.tuples(RANGES, st.booleans()), max_size=30)


def members(edits: list[tuple[tuple[int, int], bool]]) -> tuple[RunSet, set[int]]:
    """A RunSet and its model after `edits`; False removes."""
    runs, model = RunSet(), set[int]()
    for (lo, hi), add in edits:
        if add:
            runs.add(lo, hi)
            model |= set(range(lo, hi))
        else:
            runs.remove(lo, hi)
            model -= set(range(lo, hi))
    return runs, model


@given(EDITS)
def test_set_holds_its_members(edits: list[tuple[tuple[int, int], bool]]) -> None:
    runs, model = members(edits)
    items = runs.items()
    assert {x for lo, hi in items for x in range(lo, hi)} == model
    assert runs.total == len(model)
    assert [x for x in range(-1, SPACE + 1) if x in runs] == sorted(model)
    assert all(lo < hi for lo, hi in items)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(items))


@given(EDITS, RANGES)
def test_set_queries(edits: list[tuple[tuple[int, int], bool]], window: tuple[int, int]) -> None:
    runs, model = members(edits)
    lo, hi = sorted(window)
    inside = {x for x in model if lo <= x < hi}
    assert {x for s, e in runs.runs(lo, hi) for x in range(s, e)} == inside
    assert runs.count(lo, hi) == len(inside)
    if lo < hi:
        assert runs.overlaps(lo, hi) == bool(inside)
        assert runs.covers(lo, hi) == (len(inside) == hi - lo)


@given(EDITS, RANGES)
def test_set_add_returns_the_merged_run(edits: list[tuple[tuple[int, int], bool]], new: tuple[int, int]) -> None:
    runs, _ = members(edits)
    lo, hi = new
    if lo < hi:
        assert runs.add(lo, hi) == next(item for item in runs.items() if item[0] <= lo < item[1])


@given(EDITS)
def test_set_copy_is_independent(edits: list[tuple[tuple[int, int], bool]]) -> None:
    runs, model = members(edits)
    copy = runs.copy()
    copy.add(0, SPACE)
    copy.remove(3, SPACE - 3)
    assert runs.total == len(model)
    assert {x for lo, hi in runs.items() for x in range(lo, hi)} == model
