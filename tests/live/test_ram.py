"""Memory that goes back to a saved content."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from live.ram import Ram, data_ranges

PAGE = 4096
PAGES = 24

_WRITES = st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(1, 255)), max_size=12)


def put(ram: Ram, writes: list[tuple[int, int]]) -> None:
    """Fill pages of the second node, as the guest would, through the file."""
    for page, value in writes:
        os.pwrite(ram.fds[1], bytes([value]) * PAGE, page * PAGE)


@given(_WRITES, _WRITES)
def test_what_was_written_since_is_gone(saved: list[tuple[int, int]], since: list[tuple[int, int]]) -> None:
    then, now = Ram([PAGE, PAGES * PAGE]), Ram([PAGE, PAGES * PAGE])
    try:
        put(then, saved)
        put(now, since)
        os.pwrite(now.fds[0], b"x", 0)
        now.become(then)
        pages = dict(saved)
        expected = b"".join(bytes([pages.get(i, 0)]) * PAGE for i in range(PAGES))
        assert now.words[1].tobytes() == expected
        assert os.pread(now.fds[1], PAGES * PAGE, 0) == expected
        assert now.words[0].tobytes() == bytes(PAGE)
    finally:
        then.close()
        now.close()


def test_holes_stay_holes() -> None:
    then, now = Ram([PAGES * PAGE]), Ram([PAGES * PAGE])
    try:
        os.pwrite(then.fds[0], b"a", 5 * PAGE)
        for page in (0, 4, 5, 6, PAGES - 1):
            os.pwrite(now.fds[0], b"b", page * PAGE)
        now.become(then)
        assert data_ranges(now.fds[0]) == [(5 * PAGE, 6 * PAGE)]
    finally:
        then.close()
        now.close()


def test_the_host_cannot_write() -> None:
    ram = Ram([PAGE])
    try:
        with pytest.raises(TypeError):
            ram.words[0][0] = 1
    finally:
        ram.close()
