"""Guest memory as memfds that the emulator maps and the host reads, and the way back to what was in them.

Going back to a saved content writes the saved pages over those that are there and gives away what has been touched
since. The files live through all lives of a machine: to have their pages and mappings made anew for each would cost
more than the copy.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Sequence
from typing import Final

PUNCH_HOLE: Final = 1 | 2
"""FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE (include/uapi/linux/falloc.h)."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def data_ranges(fd: int) -> list[tuple[int, int]]:
    """Where a sparse file holds data, as (start, end) in bytes."""
    out = []
    end = 0
    # ENXIO: nothing but a hole from there on.
    with contextlib.suppress(OSError):
        while True:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
            out.append((start, end))
    return out


def punch(fd: int, start: int, end: int) -> None:
    """Turn a range of a file into a hole, which reads as zeros."""
    if _LIBC.fallocate(fd, PUNCH_HOLE, start, end - start):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Ram:
    """The memory of a machine, one file a node."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.fds = [os.memfd_create(f"ram{i}") for i in range(len(self.sizes))]
        for fd, size in zip(self.fds, self.sizes, strict=True):
            os.ftruncate(fd, size)
        self._maps = [mmap.mmap(fd, size) for fd, size in zip(self.fds, self.sizes, strict=True)]
        self.words = [memoryview(m).toreadonly().cast("Q") for m in self._maps]
        """Guest memory of each node, as 64-bit words."""

    def become(self, other: Ram) -> None:
        """Take over the content of another memory of equal sizes. Nobody may be writing to either."""
        for fd, mine, source, its, size in zip(self.fds, self._maps, other.fds, other._maps, self.sizes, strict=True):
            kept = data_ranges(source)
            with memoryview(its) as data:
                for start, end in kept:
                    mine[start:end] = data[start:end]
            edges = [0, *(edge for span in kept for edge in span), size]
            holes = list(zip(edges[::2], edges[1::2], strict=True))
            for start, end in _touched(data_ranges(fd), holes):
                punch(fd, start, end)

    def close(self) -> None:
        """Give the memory back."""
        for words in self.words:
            words.release()
        for m in self._maps:
            # Somebody who still holds a view of guest memory keeps it alive; it goes with the last view.
            with contextlib.suppress(BufferError):
                m.close()
        for fd in self.fds:
            os.close(fd)
        self.fds, self.words, self._maps = [], [], []


def _touched(data: list[tuple[int, int]], holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of holes that hold data by now; both lists are sorted."""
    out = []
    i = 0
    for start, end in holes:
        while i < len(data) and data[i][1] <= start:
            i += 1
        at = i
        while at < len(data) and data[at][0] < end:
            out.append((max(start, data[at][0]), min(end, data[at][1])))
            at += 1
    return out
