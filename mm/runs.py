"""Runs: maps and sets over integers whose cost follows the number of runs, not the number of integers.

A 1G page has 4096 vmemmap pages and a 16T machine four billion page frames, but both are a handful of runs. `RunMap`
keeps maximal runs of equal values; a value must therefore mean the same at every position of its run (store a
difference to the position, not a position). `RunSet` is the same for membership.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from mm.search import bisect_left, bisect_right

V = TypeVar("V")


class RunMap(Generic[V]):
    """Integer -> value as maximal half-open runs [lo, hi) of equal values; positions without a value are gaps."""

    __slots__ = ("ends", "starts", "vals")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.vals: list[V] = []

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.starts)

    def get(self, x: int) -> V | None:
        """Value at `x`, or None in a gap."""
        i = bisect_right(self.starts, x) - 1
        if i >= 0 and x < self.ends[i]:
            return self.vals[i]
        return None

    def run(self, x: int) -> tuple[int, int, V] | None:
        """The maximal run that holds `x`, or None in a gap."""
        i = bisect_right(self.starts, x) - 1
        if i >= 0 and x < self.ends[i]:
            return self.starts[i], self.ends[i], self.vals[i]
        return None

    def runs(self, lo: int, hi: int) -> list[tuple[int, int, V]]:
        """The runs that meet [lo, hi), clipped to it, ascending; gaps are left out."""
        starts, ends, vals = self.starts, self.ends, self.vals
        i = bisect_right(ends, lo)
        n = len(starts)
        if i == n or lo >= hi:
            return []
        s, e = starts[i], ends[i]
        if s <= lo and hi <= e:
            return [(lo, hi, vals[i])]
        out: list[tuple[int, int, V]] = []
        while s < hi:
            out.append((s if s > lo else lo, e if e < hi else hi, vals[i]))
            i += 1
            if i == n:
                break
            s, e = starts[i], ends[i]
        return out

    def overlaps(self, lo: int, hi: int) -> bool:
        """Whether any position of [lo, hi) has a value."""
        i = bisect_right(self.ends, lo)
        return i < len(self.starts) and self.starts[i] < hi

    def next(self, x: int) -> int | None:
        """The first position from `x` on that has a value."""
        i = bisect_right(self.ends, x)
        return max(x, self.starts[i]) if i < len(self.starts) else None

    def items(self) -> list[tuple[int, int, V]]:
        """All runs, ascending."""
        starts, ends, vals = self.starts, self.ends, self.vals
        return [(starts[i], ends[i], vals[i]) for i in range(len(starts))]

    def set(self, lo: int, hi: int, val: V) -> None:
        """Give every position of [lo, hi) the value `val`, merging with equal neighbours."""
        if lo >= hi:
            return
        starts, ends, vals = self.starts, self.ends, self.vals
        if not ends or lo > ends[-1]:
            starts.append(lo)
            ends.append(hi)
            vals.append(val)
            return
        i = bisect_left(ends, lo)  # first run that ends at or after lo: touches or overlaps
        j = bisect_right(starts, hi, i)  # one past the last run that starts at or before hi
        # A neighbour that only touches and differs stays as it is.
        if i < j and ends[i] == lo and vals[i] != val:
            i += 1
        if i < j and starts[j - 1] == hi and vals[j - 1] != val:
            j -= 1
        if i == j:
            starts.insert(i, lo)
            ends.insert(i, hi)
            vals.insert(i, val)
            return
        s, left = starts[i], vals[i]
        e, right = ends[j - 1], vals[j - 1]
        before = s < lo and left != val
        after = e > hi and right != val
        if s < lo and not before:
            lo = s
        if e > hi and not after:
            hi = e
        if j - i == 1:  # most often; one by one this costs less than slices do
            if before:
                starts.insert(i + 1, lo)
                ends.insert(i, lo)
                vals.insert(i + 1, val)
                if after:
                    starts.insert(i + 2, hi)
                    ends.insert(i + 1, hi)
                    vals.insert(i + 2, right)
                else:
                    ends[i + 1] = hi
            elif after:
                starts[i] = hi
                starts.insert(i, lo)
                ends.insert(i, hi)
                vals.insert(i, val)
            else:
                starts[i], ends[i], vals[i] = lo, hi, val
        elif before:
            if after:
                starts[i:j] = s, lo, hi
                ends[i:j] = lo, hi, e
                vals[i:j] = left, val, right
            else:
                starts[i:j] = s, lo
                ends[i:j] = lo, hi
                vals[i:j] = left, val
        elif after:
            starts[i:j] = lo, hi
            ends[i:j] = hi, e
            vals[i:j] = val, right
        else:
            starts[i:j] = (lo,)
            ends[i:j] = (hi,)
            vals[i:j] = (val,)

    def clear(self, lo: int, hi: int) -> None:
        """Make [lo, hi) a gap."""
        if lo >= hi:
            return
        starts, ends, vals = self.starts, self.ends, self.vals
        i = bisect_right(ends, lo)  # first run that ends after lo
        j = bisect_left(starts, hi)  # one past the last run that starts before hi
        if i >= j:
            return
        s, e = starts[i], ends[j - 1]
        if j - i == 1:
            if s < lo:
                if e > hi:
                    starts.insert(i + 1, hi)
                    ends.insert(i, lo)
                    vals.insert(i, vals[i])
                else:
                    ends[i] = lo
            elif e > hi:
                starts[i] = hi
            else:
                del starts[i], ends[i], vals[i]
            return
        if s < lo:
            ends[i] = lo
            i += 1
        if e > hi:
            j -= 1
            starts[j] = hi
        del starts[i:j], ends[i:j], vals[i:j]

    def replace(self, bounds: list[int], vals: list[V]) -> None:
        """`set(bounds[i], bounds[i + 1], vals[i])` for every i, in one go; bounds rise, and neighbours differ."""
        lo, hi = bounds[0], bounds[-1]
        starts, ends, old = self.starts, self.ends, self.vals
        i = bisect_left(ends, lo)
        j = bisect_right(starts, hi, i)
        new_starts, new_ends, new_vals = bounds[:-1], bounds[1:], vals.copy()
        right = (ends[j - 1], old[j - 1]) if i < j and ends[j - 1] > hi else None
        if i < j and starts[i] < lo:
            if old[i] == vals[0]:
                new_starts[0] = starts[i]
            else:
                new_starts.insert(0, starts[i])
                new_ends.insert(0, lo)
                new_vals.insert(0, old[i])
        if right is not None:
            if right[1] == vals[-1]:
                new_ends[-1] = right[0]
            else:
                new_starts.append(hi)
                new_ends.append(right[0])
                new_vals.append(right[1])
        starts[i:j], ends[i:j], old[i:j] = new_starts, new_ends, new_vals

    def copy(self) -> RunMap[V]:
        """An independent copy (values are shared)."""
        new: RunMap[V] = RunMap.__new__(RunMap)
        new.starts, new.ends, new.vals = self.starts.copy(), self.ends.copy(), self.vals.copy()
        return new


class RunSet:
    """A set of integers as maximal half-open runs [lo, hi); `total` is its size."""

    __slots__ = ("ends", "starts", "total")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.total = 0

    def __contains__(self, x: int) -> bool:
        i = bisect_right(self.starts, x) - 1
        return i >= 0 and x < self.ends[i]

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.starts)

    def covers(self, lo: int, hi: int) -> bool:
        """Whether all of [lo, hi) is in the set."""
        i = bisect_right(self.starts, lo) - 1
        return i >= 0 and hi <= self.ends[i]

    def overlaps(self, lo: int, hi: int) -> bool:
        """Whether any of [lo, hi) is in the set."""
        i = bisect_right(self.ends, lo)
        return i < len(self.starts) and self.starts[i] < hi

    def runs(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """The runs that meet [lo, hi), clipped, ascending."""
        starts, ends = self.starts, self.ends
        i = bisect_right(ends, lo)
        if i == len(starts) or lo >= hi:
            return []
        s, e = starts[i], ends[i]
        if s >= hi:
            return []
        if e >= hi:
            return [(s if s > lo else lo, hi)]
        j = bisect_left(starts, hi, i)
        out = list(zip(starts[i:j], ends[i:j], strict=True))
        if s < lo:
            out[0] = lo, e
        if out[-1][1] > hi:
            out[-1] = out[-1][0], hi
        return out

    def next(self, x: int) -> int | None:
        """The first member from `x` on."""
        i = bisect_right(self.ends, x)
        return max(x, self.starts[i]) if i < len(self.starts) else None

    def items(self) -> list[tuple[int, int]]:
        """All runs, ascending."""
        starts, ends = self.starts, self.ends
        return [(starts[i], ends[i]) for i in range(len(starts))]

    def count(self, lo: int, hi: int) -> int:
        """How many members lie in [lo, hi)."""
        return sum([e - s for s, e in self.runs(lo, hi)])

    def add(self, lo: int, hi: int) -> tuple[int, int]:
        """Add [lo, hi); returns the maximal run that now holds it."""
        if lo >= hi:
            return lo, hi
        starts, ends = self.starts, self.ends
        i = bisect_left(ends, lo)
        j = bisect_right(starts, hi, i)
        if i == j:
            starts.insert(i, lo)
            ends.insert(i, hi)
            self.total += hi - lo
            return lo, hi
        if starts[i] < lo:
            lo = starts[i]
        if ends[j - 1] > hi:
            hi = ends[j - 1]
        if j - i == 1:
            self.total += hi - lo - ends[i] + starts[i]
            starts[i], ends[i] = lo, hi
        else:
            self.total += hi - lo - sum(ends[i:j]) + sum(starts[i:j])
            starts[i:j] = (lo,)
            ends[i:j] = (hi,)
        return lo, hi

    def remove(self, lo: int, hi: int) -> None:
        """Remove [lo, hi) (whatever part of it is in the set)."""
        if lo >= hi:
            return
        starts, ends = self.starts, self.ends
        i = bisect_right(ends, lo)
        j = bisect_left(starts, hi, i)
        if i >= j:
            return
        s, e = starts[i], ends[j - 1]
        if j - i == 1:
            if s < lo:
                if e > hi:
                    self.total -= hi - lo
                    starts.insert(i + 1, hi)
                    ends.insert(i, lo)
                else:
                    self.total -= e - lo
                    ends[i] = lo
            elif e > hi:
                self.total -= hi - s
                starts[i] = hi
            else:
                self.total -= e - s
                del starts[i], ends[i]
            return
        self.total -= sum(ends[i:j]) - sum(starts[i:j]) - max(lo - s, 0) - max(e - hi, 0)
        if s < lo:
            ends[i] = lo
            i += 1
        if e > hi:
            j -= 1
            starts[j] = hi
        del starts[i:j], ends[i:j]

    def pop_front(self, i: int, upto: int) -> None:
        """Remove the members of run number `i` below `upto`, which lies in the run or is its end."""
        self.total -= upto - self.starts[i]
        if upto == self.ends[i]:
            del self.starts[i], self.ends[i]
        else:
            self.starts[i] = upto

    def copy(self) -> RunSet:
        """An independent copy."""
        new = RunSet.__new__(RunSet)
        new.starts, new.ends, new.total = self.starts.copy(), self.ends.copy(), self.total
        return new
