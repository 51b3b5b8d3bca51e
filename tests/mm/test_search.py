"""Binary search: mm/search.py as it is compiled, against the standard library."""

from __future__ import annotations

import bisect
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mm import search


@pytest.mark.parametrize("name", ["bisect_left", "bisect_right"])
def test_searches_as_the_standard_library_does(name: str) -> None:
    """The functions as they stand in the source, up to where interpreted code replaces them."""
    text, mark, _ = Path(search.__file__).read_text().partition("\nif hasattr(")
    assert mark
    there: dict[str, Any] = {}
    exec(compile(text, search.__file__, "exec"), there)
    ours, wanted = there[name], getattr(bisect, name)
    draw = Random(7)
    for _ in range(500):
        numbers = sorted({draw.randrange(40) for _ in range(draw.randrange(12))})
        x, lo = draw.randrange(-2, 42), draw.randrange(len(numbers) + 1)
        assert ours(numbers, x) == wanted(numbers, x), (numbers, x)
        assert ours(numbers, x, lo) == wanted(numbers, x, lo), (numbers, x, lo)


def test_interpreted_code_uses_the_one_in_c() -> None:
    assert search.bisect_left is bisect.bisect_left
    assert search.bisect_right is bisect.bisect_right
