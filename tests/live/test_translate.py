"""Which operations are left out, and why: said before anything is done."""

from typing import cast

import pytest

from fuzz.program.model import make_op
from live.folios import HugeFolio
from live.guest import Guest
from live.names import Names
from live.snapshot import Pool, Snapshot
from live.translate import refusal
from mm.machine import Machine

M, G = 1 << 20, 1 << 30
REGION = (G, G)
NAMESPACES = ((2 * G, 194 * M), (3 * G, 3 * G))


class Idle:
    """A guest that is never asked anything: it has a device to give, and no fault injection."""

    idle = ("dax0.0",)
    faults = None
    fsdev = False


class Failing(Idle):
    """One that can fail allocations."""

    faults = {}  # noqa: RUF012


def why(name: str, guest: type[Idle] = Idle, **args: object) -> str | None:
    pools = {order: Pool([0], [0], [0], 0, 0) for order in (9, 18)}
    seen = Snapshot(free=[200_000], pools=pools, blocks={0: "Normal"})
    names = Names(Machine(ram=G), REGION, NAMESPACES)
    return refusal(make_op(name, **args), cast(Guest, guest()), names, seen)


@pytest.mark.parametrize(
    ("name", "args", "part"),
    [
        ("hugetlb overcommit", {"size": 64 << 10, "to": 1}, "no huge pages of that size"),
        ("hugetlb resize", {"size": 2 * M, "to": 1, "node": 1}, "no such node"),
        ("hugetlb resize", {"size": 2 * M, "to": 400}, "without memory"),
        ("fail alloc", {"nth": 1}, "CONFIG_FAIL_PAGE_ALLOC"),
        ("pages alloc", {"count": 1}, "no interface"),
        ("memory add", {"at": 4 * G, "size": 128 * M}, "only 0x40000000"),
        ("memory add", {"at": G, "size": 2 * M}, "trims"),
        ("dax create", {"at": (G,), "size": (130 * M,), "altmap": True}, "one of the machine's namespaces"),
        ("dax create", {"at": (2 * G,), "size": (194 * M,), "align": G}, "loses one to its info block"),
        ("dax create", {"at": (G,), "size": (128 * M,), "driver": "fsdev"}, "no fsdev driver"),
        ("hugetlb dissolve", {"at": 0}, "not huge"),
        ("memory hard_offline", {"at": 0}, "the guest's own pages"),
        ("memory unpoison", {"at": 0}, "the guest's own pages"),
    ],
)
def test_left_out_with_a_reason(name: str, args: dict[str, object], part: str) -> None:
    reason = why(name, **args)
    assert reason is not None
    assert part in reason


def test_the_kernel_fails_one_allocation_by_number() -> None:
    assert why("fail alloc", Failing, nth=3) is None
    assert "fails one" in str(why("fail alloc", Failing, nth=3, times=2))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("hugetlb resize", {"size": 2 * M, "to": 100}),
        ("memory add", {"at": G, "size": 128 * M}),
        ("memory hard_offline", {"at": G}),
        ("memory soft_offline", {"at": G}),
        ("memory unpoison", {"at": G}),
        ("dax create", {"at": (G,), "size": (130 * M,)}),
        ("dax create", {"at": (2 * G,), "size": (194 * M,), "altmap": True, "align": G}),
        ("dax create", {"at": (3 * G,), "size": (3 * G,), "align": G}),
    ],
)
def test_done(name: str, args: dict[str, object]) -> None:
    assert why(name, **args) is None


def poisoning(pool: Pool, free: bool, refcount: int, optimized: bool = True, order: int = 9) -> str | None:
    """Why a page in a huge page of 2M (or 1G) is not poisoned."""
    pools = {9: Pool([0], [0], [0], 0, 0), 18: Pool([0], [0], [0], 0, 0)} | {order: pool}
    folios = {0: HugeFolio(0, order, optimized, free, refcount, None)}
    seen = Snapshot(free=[200_000], pools=pools, blocks={0: "Normal"}, folios=folios)
    names = Names(Machine(ram=G), REGION, NAMESPACES)
    return refusal(make_op("memory hard_offline", at=511 << 12), cast(Guest, Idle()), names, seen)


def test_poison_where_the_outcome_is_certain() -> None:
    assert poisoning(Pool([1], [1], [0], 0, 0), True, 0) is None
    assert poisoning(Pool([1], [1], [0], 0, 0), True, 0, order=18) is None
    assert poisoning(Pool([1], [0], [0], 0, 0), False, 1) is None
    assert poisoning(Pool([1], [0], [1], 0, 1), False, 1, optimized=False) is None
    assert "race" in str(poisoning(Pool([1], [0], [1], 0, 1), False, 1))
    assert "reserved" in str(poisoning(Pool([2], [2], [0], 1, 0), True, 0))
    assert "counted wrongly" in str(poisoning(Pool([1], [1], [0], 0, 0), True, 1))
    assert "gigabyte" in str(poisoning(Pool([1], [0], [0], 0, 0), False, 1, order=18))
