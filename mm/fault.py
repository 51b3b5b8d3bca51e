"""Allocation points and their failure by number (separate-paths.md 3.0; the kernel's counterpart is
lib/fault-inject.c).

An operation owns the sequence of allocation points it reaches. `fail alloc nth=K times=N` arms the injector for the
next operation: N points in a row fail, of which the K-th point reached is the first; every other point asks the
allocator in earnest. Points that stand in a row and only differ by position are taken at once, so that a failure in the
middle of a 1 TiB device costs no loop.
"""

from __future__ import annotations


class FaultInjector:
    """Counts the allocation points of the operation in progress and fails the armed ones."""

    __slots__ = ("armed", "failed", "fired", "first", "last", "nth", "points", "reached", "times")

    def __init__(self) -> None:
        self.nth = 0
        """Number of the first point to fail in the next operation, 0 for none."""
        self.times = 1
        """How many points fail there."""
        self.first = 0
        """Number of the first point to fail in the operation in progress, 0 for none."""
        self.last = 0
        """Number of the last one."""
        self.armed = 0
        """Number of the next one; not above `reached` if none is left."""
        self.reached = 0
        """Points reached so far in the operation in progress."""
        self.fired: str | None = None
        """Kind of the first point that was failed by injection, if any."""
        self.failed = 0
        """How many were."""
        self.points: list[tuple[str, int]] | None = None
        """Trace of (kind, how many in a row) while tracing, else None."""

    def begin(self) -> None:
        """Start an operation: it consumes the armed number."""
        self.armed = self.first = self.nth
        self.last = self.first and self.first + self.times - 1
        self.nth, self.times = 0, 1
        self.reached = self.failed = 0
        self.fired = None
        if self.points is not None:
            self.points = []

    def fails(self, kind: str) -> bool:
        """Pass one point; True when it must fail by injection."""
        self.reached += 1
        if self.points is not None:
            self.points.append((kind, 1))
        if self.reached == self.armed:
            self._fail(kind)
            return True
        return False

    def _fail(self, kind: str) -> None:
        self.failed += 1
        if self.fired is None:
            self.fired = kind
        if self.armed < self.last:
            self.armed += 1

    def room(self, n: int) -> int:
        """How many of the next `n` points would succeed; passes none. For callers that learn only from the allocator
        how many points they reach: they take at most that many, `grant` what they got, and pass one more point if they
        wanted more."""
        return min(n, self.armed - self.reached - 1) if self.armed > self.reached else n

    def grant(self, kind: str, n: int) -> int:
        """Pass up to `n` points of one kind in a row; returns how many succeed (less than n: the next one failed)."""
        ok = n
        if self.reached < self.armed <= self.reached + n:
            ok = self.armed - self.reached - 1
            self._fail(kind)
        passed = ok if ok == n else ok + 1
        self.reached += passed
        if self.points is not None:
            self.points.append((kind, passed))
        return ok
