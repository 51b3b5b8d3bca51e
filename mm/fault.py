"""Allocation points and their failure by number (separate-paths.md 3.0; the kernel's counterpart is
lib/fault-inject.c).

An operation owns the sequence of allocation points it reaches. `fail alloc nth=K` arms the injector for the next
operation: the K-th point reached fails; every other point asks the allocator in earnest. Points that stand in a row
and only differ by position are taken at once, so that a failure in the middle of a 1 TiB device costs no loop.
"""

from __future__ import annotations


class FaultInjector:
    """Counts the allocation points of the operation in progress and fails the armed one."""

    __slots__ = ("armed", "fired", "nth", "points", "reached")

    def __init__(self) -> None:
        self.nth = 0
        """Number of the point to fail in the next operation, 0 for none."""
        self.armed = 0
        self.reached = 0
        """Points reached so far in the operation in progress."""
        self.fired: str | None = None
        """Kind of the point that was failed by injection, if any."""
        self.points: list[tuple[str, int]] | None = None
        """Trace of (kind, how many in a row) while tracing, else None."""

    def begin(self) -> None:
        """Start an operation: it consumes the armed number."""
        self.armed, self.nth = self.nth, 0
        self.reached = 0
        self.fired = None
        if self.points is not None:
            self.points = []

    def fails(self, kind: str) -> bool:
        """Pass one point; True when it must fail by injection."""
        self.reached += 1
        if self.points is not None:
            self.points.append((kind, 1))
        if self.reached == self.armed:
            self.fired = kind
            return True
        return False

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
            self.fired = kind
        self.reached += ok if ok == n else ok + 1
        if self.points is not None:
            self.points.append((kind, ok if ok == n else ok + 1))
        return ok
