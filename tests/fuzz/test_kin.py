"""Which findings name the same bug."""

from dataclasses import replace

import pytest

from fuzz.execute import run_program
from fuzz.kin import hidden, kin
from fuzz.minimize import minimize
from fuzz.oracle.finding import Finding
from fuzz.program import Program, parse
from zoo import find, planted


def finding(field: str, drift: str, outcomes: tuple[str, str] = ("-12", "-12")) -> Finding:
    return Finding("accounting", field, "dax create", outcomes, "", drift, "")


def test_kin_of_answers() -> None:
    """The law of an answer says of one side what the comparison says of the two."""
    rc = Finding("returns", "rc", "hugetlb dissolve", ("-12", "ok"), "", "changed", "")
    effect = Finding("returns", "candidate: effect", "hugetlb dissolve", ("-12", "ok"), "", "ok", "")
    other = Finding("returns", "candidate: effect", "hugetlb dissolve", ("ok", "ok"), "", "ok", "")
    assert kin(effect, rc)
    assert kin(rc, effect)
    assert not kin(rc, other)
    assert not kin(effect, other)


@pytest.mark.parametrize(
    ("target", "found", "same"),
    [
        (finding("reference: n", "-"), finding("n", "+"), True),  # the reference has less, so the candidate has more
        (finding("reference: n", "-"), finding("n", "-"), False),
        (finding("candidate: n", "-"), finding("n", "-"), True),
        (finding("candidate: n", "-"), finding("n", "+"), False),
        (finding("reference: n", "-", ("-12", "ok")), finding("reference: n", "-"), True),  # what the other side did
        (finding("reference: n", "-", ("ok", "-12")), finding("reference: n", "-"), False),
        (finding("reference: n", "-"), finding("other", "+"), False),
        (finding("n", "+"), finding("reference: n", "-"), False),
        (finding("n", "+"), finding("n", "+", ("ok", "ok")), False),
        (finding("bug", "died", ("bug: a", "-12")), finding("bug", "died", ("bug: a", "ok")), True),
        (finding("bug", "died", ("bug: a", "-12")), finding("bug", "died", ("bug: b", "-12")), False),
        (finding("bug", "died", ("bug: a", "-12")), finding("bug", "died", ("-12", "bug: a")), False),
    ],
)
def test_kin(target: Finding, found: Finding, same: bool) -> None:
    assert kin(target, found) is same


def test_kin_of_entries() -> None:
    """Two operations that come to one function, alloc_contig_range, and two that do not."""

    def at(operation: str, drift: str = "changed") -> Finding:
        return Finding("returns", "rc", operation, ("ok", "-16"), "", drift, "")

    assert kin(at("subblock unplug"), at("pages contig"))
    assert not kin(at("subblock unplug"), at("pages contig", "died"))
    assert not kin(at("subblock unplug"), at("memory offline"))


def test_kin_of_refusals() -> None:
    """With which errno both sides refuse does not matter; that one succeeds, or that they differ, does."""
    refused = finding("n", "+", ("-16", "-16"))
    assert kin(refused, finding("n", "+"))
    assert not kin(refused, finding("n", "+", ("ok", "ok")))
    assert not kin(refused, finding("n", "+", ("-16", "-12")))
    answer = Finding("returns", "candidate: effect", "memory offline", ("-12", "-12"), "", "-12", "")
    assert not kin(answer, replace(answer, outcomes=("-16", "-16")))


MEMORY_SHORT = parse(
    "vmm 1\nmachine arch=x86_64 page=4K ram=6G nodes=1\nboot\np0 = pages alloc count=237571\n"
    "d0 = dax create at=0x80000000 size=128M\nhugetlb overcommit size=1G to=3\npages free p0\ndax destroy d0\n"
    "fail alloc nth=5\nu0 = hugetlb map size=1G count=3\n"
)
"""The device's memmap takes what was there; after that the frames of the sides lie elsewhere (placement-fork)."""

PLENTY = parse(
    "vmm 1\nmachine arch=x86_64 page=4K ram=6G nodes=1\nboot\nhugetlb overcommit size=1G to=3\n"
    "fail alloc nth=5\nu0 = hugetlb map size=1G count=3\n"
)


def test_an_invariant_that_is_broken_behind_what_the_comparison_says() -> None:
    """Frames that the reference loses (HVO-2026-08): where the sides have parted only its invariant can speak."""
    with planted(find("HVO-2026-08")):
        target = run_program(MEMORY_SHORT, full_every=1).finding
        found = run_program(PLENTY, full_every=1).finding
        assert target is not None
        assert found is not None
        assert (target.field, found.layer) == ("reference: memmap", "mapping")
        assert not kin(target, found)
        assert hidden(target, found, PLENTY, "posted")
        assert not hidden(replace(target, field="candidate: memmap"), found, PLENTY, "posted")
        assert not hidden(replace(target, operation="hugetlb unmap"), found, PLENTY, "posted")
        assert not hidden(replace(target, drift="extra"), found, PLENTY, "posted")
        small = minimize(MEMORY_SHORT)
    assert len(small.program.ops) == 4
    assert not hidden(target, found, PLENTY, "posted")  # without the defect nothing is lost


def left_whole(first: int) -> Program:
    """A demotion of two 1G pages of which one cannot be restored; `first`: the point that fails, like the one behind
    it, when they are made."""
    return parse(
        f"vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1\nboot\nfail alloc nth={first} times=2\n"
        "hugetlb resize size=1G to=2\nfail alloc nth=1\nhugetlb demote size=1G count=2\n"
    )


TWO_NODES = parse(
    "vmm 1\nmachine arch=x86_64 page=4K ram=131184M nodes=2\nboot\nhugetlb resize size=1G to=2 node=1\n"
    "hugetlb dissolve at=0x1100000000\nsysctl hugetlb_optimize_vmemmap=off\nhugetlb resize size=1G to=2\n"
    "sysctl hugetlb_optimize_vmemmap=on\nhugetlb resize size=1G to=4\nfail alloc nth=1\n"
    "hugetlb demote size=1G count=2 node=1\n"
)


def test_a_page_that_is_mapped_wrongly_behind_the_first_one() -> None:
    """HVO-2024-39 leaves a page whole. Where its vmemmap was split before it could not be optimized, its pieces should
    share a tail page, as they should in the long program; where a leaf maps it, they should not."""
    split, leaf = left_whole(5), left_whole(4)
    with planted(find("HVO-2024-39")):
        target, found, other = (run_program(program, full_every=1).finding for program in (TWO_NODES, split, leaf))
        assert target is not None
        assert found is not None
        assert other is not None
        assert (target.field, found.field, other.field) == ("sharing", "owner", "level")
        assert hidden(target, found, split, "posted")
        assert not hidden(target, other, leaf, "posted")
        assert not hidden(replace(target, outcomes=("ok", "ok")), found, split, "posted")
