"""Binary search in ascending lists of integers: `bisect`, called by compiled code like any function of its own."""

from __future__ import annotations

import bisect


def bisect_left(a: list[int], x: int, lo: int = 0) -> int:
    """The first index from `lo` on of a number that is not below `x`, or the length."""
    hi = len(a)
    while lo < hi:
        mid = (lo + hi) >> 1
        if a[mid] < x:
            lo = mid + 1
        else:
            hi = mid
    return lo


def bisect_right(a: list[int], x: int, lo: int = 0) -> int:
    """The first index from `lo` on of a number above `x`, or the length."""
    hi = len(a)
    while lo < hi:
        mid = (lo + hi) >> 1
        if x < a[mid]:
            hi = mid
        else:
            lo = mid + 1
    return lo


if hasattr(bisect_left, "__code__"):  # interpreted: the same in C is quicker
    globals().update(bisect_left=bisect.bisect_left, bisect_right=bisect.bisect_right)
