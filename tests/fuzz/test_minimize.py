"""Minimization: what is kept, what is dropped, and that the result is 1-minimal."""

from __future__ import annotations

import random
from typing import Any

import pytest

from candidate.framework import UnifiedFramework
from fuzz.adapt import adapted
from fuzz.adapt import run as side_after
from fuzz.execute import RunOutcome, run_program
from fuzz.kin import kin
from fuzz.minimize import (
    Minimized,
    Minimizer,
    OutOfBudget,
    complexity,
    minimize,
    simpler,
    simpler_machines,
    simpler_ops,
)
from fuzz.oracle.finding import Finding
from fuzz.program import OPERATIONS, Op, Program, make_op, parse
from fuzz.program.arguments import G, M
from fuzz.program.operations import MACHINE
from fuzz.program.repair import repair
from fuzz.program.text import format as text
from fuzz.resynthesis import Resynthesis
from fuzz.side import Side
from mm.machine import Machine
from mm.page_alloc import OWNER_RESERVED
from zoo import find, planted


class Miscounts(UnifiedFramework):
    """A candidate that counts one page too many for each section of a device, but only if HVO is off."""

    def sparse_add_section(self, nid: int, pfn: int, nr: int, altmap: Any, pgmap: Any) -> int:
        rc = super().sparse_add_section(nid, pfn, nr, altmap, pgmap)
        if pgmap is not None and rc == 0 and not self.vmemmap_optimize_enabled:
            self.k.vmstat.nr_memmap += 1
        return rc


def run(program: Program) -> RunOutcome:
    return run_program(program, full_every=1, make_candidate=Miscounts)


NOISE = """vmm 1
machine arch=x86_64 page=4K ram=6G nodes=2 deferred_init=off
reserve size=1G count=1 node=1
boot
hugetlb resize size=2M to=37
u0 = hugetlb map size=2M count=5 node=0
m0 = memory add at=0x240000000 size=256M node=1
memory online m0 block=1 zone=movable
p0 = pages alloc count=1234 node=1
sysctl hugetlb_optimize_vmemmap=on
hugetlb dissolve at=0x40200000
sysctl hugetlb_optimize_vmemmap=off
d0 = dax create at=0x280000000 size=128M align=2M altmap=on
hugetlb unmap u0
fail alloc nth=1000
d1 = dax create at=0x2c0000000,0x340000000 size=384M,1G node=1
hugetlb resize size=2M to=0
"""


def test_a_noisy_program_becomes_its_core() -> None:
    got = minimize(parse(NOISE), run=run)
    # With the parameter off at boot the sysctl is not needed.
    assert text(got.program).splitlines()[1:3] == [
        "machine arch=x86_64 page=4K ram=512M nodes=1 hugetlb_free_vmemmap=off",
        "boot",
    ]
    assert [op.name for op in got.program.ops] == ["boot", "dax create"]
    last = got.program.ops[-1]
    assert len(last.args["at"]) == 1
    assert last.args["node"] == 0
    assert got.one_minimal
    assert got.executions < 600


def test_the_signature_stays() -> None:
    before = run(parse(NOISE)).finding
    got = minimize(parse(NOISE), run=run)
    assert before is not None
    assert got.finding.signature == before.signature
    again = run(got.program).finding
    assert again == got.finding


def test_it_is_deterministic() -> None:
    assert minimize(parse(NOISE), run=run) == minimize(parse(NOISE), run=run)


def test_the_budget_bounds_the_executions_and_is_admitted() -> None:
    got = minimize(parse(NOISE), run=run, budget=10)
    assert got.executions == 10
    assert not got.one_minimal
    assert run(got.program).finding is not None


def test_a_program_without_finding_is_refused() -> None:
    with pytest.raises(ValueError, match="no finding"):
        minimize(parse("vmm 1\nmachine arch=x86_64 page=4K ram=512M nodes=1\nboot\n"))


def predicate_run(holds: Any) -> Any:
    """A run without kernels: the finding is there if `holds` says so of the operations."""

    def fake(program: Program) -> RunOutcome:
        finding = None
        if holds(program):
            finding = Finding("returns", "rc", "x", ("ok", "ok"), "", "changed", "")
        return RunOutcome("finding" if finding else "ok", finding, len(program.ops))

    return fake


def is_one_minimal(got: Minimized, holds: Any) -> bool:
    program = got.program
    smaller = [program.ops[:i] + program.ops[i + 1 :] for i in range(len(program.ops))]
    smaller += [
        (*program.ops[:i], op, *program.ops[i + 1 :]) for i, old in enumerate(program.ops) for op in simpler_ops(old)
    ]
    for ops in smaller:
        fixed = repair(program.machine, ops)
        if fixed != program.ops and holds(Program(program.machine, fixed)):
            return False
    return not any(holds(Program(machine, program.ops)) for machine in simpler_machines(program.machine))


def random_op(rng: random.Random, i: int) -> Op:
    kind = rng.randrange(4)
    if kind == 0:
        node = rng.choice((None, 1))
        return make_op("hugetlb resize", size=rng.choice((2 * M, G)), to=rng.randrange(100), node=node)
    if kind == 1:
        return make_op("dax create", f"d{i}", at=(rng.randrange(1 << 35),), size=(rng.randrange(1, 64) * 2 * M,))
    if kind == 2:
        return make_op("pages alloc", f"p{i}", count=rng.randrange(1, 5000))
    return make_op("fail alloc", nth=rng.randrange(1, 50))


@pytest.mark.parametrize("seed", range(20))
def test_results_are_one_minimal(seed: int) -> None:
    """Against random conditions on which operations there must be, and with what arguments."""
    rng = random.Random(seed)
    ops = [make_op("boot"), *(random_op(rng, i) for i in range(30))]
    least = rng.randrange(1, 60)

    def holds(program: Program) -> bool:
        resize = [op for op in program.ops if op.name == "hugetlb resize" and op.args["to"] >= least]
        alloc = [op for op in program.ops if op.name == "pages alloc"]
        return bool(resize) and len(alloc) >= 2 and alloc[-1].args["count"] > 0

    program = Program(Machine(ram=6 * G, nodes=2), repair(Machine(ram=6 * G, nodes=2), ops))
    if not holds(program):
        pytest.skip("the condition does not hold to begin with")
    got = minimize(program, run=predicate_run(holds))
    assert got.one_minimal
    assert is_one_minimal(got, holds)
    assert len(got.program.ops) == 4
    assert got.program.machine == Machine(ram=512 * M)


def test_two_operations_that_are_only_needed_together_go_together() -> None:
    """Dropping either alone loses the finding, dropping both keeps it."""

    def holds(program: Program) -> bool:
        names = [op.name for op in program.ops]
        return names.count("sysctl") % 2 == 0 and "hugetlb resize" in names

    program = parse(
        "vmm 1\nmachine arch=x86_64 page=4K ram=512M nodes=1\nboot\nsysctl hugetlb_optimize_vmemmap=off\n"
        "pages alloc count=1\nsysctl hugetlb_optimize_vmemmap=on\nhugetlb resize size=2M to=0\n".replace(
            "pages alloc", "p0 = pages alloc"
        )
    )
    got = minimize(program, run=predicate_run(holds))
    assert [op.name for op in got.program.ops] == ["boot", "hugetlb resize"]


def test_what_is_proposed_is_simpler_and_legal() -> None:
    """Each proposal is smaller in a well-founded order, so that the search ends."""
    rng = random.Random(5)
    arguments = [a for operation in OPERATIONS.values() for a in operation.arguments] + list(MACHINE)
    for argument in arguments:
        for _ in range(50):
            value: Any = argument.clamp(rng.randrange(1 << rng.randrange(1, 45)))
            if argument.options:
                value = rng.choice(argument.options)
            elif argument.name in ("at", "size") and argument.type.value.endswith("list"):
                value = (value, value + 2 * M)
            elif argument.type.value == "handle":
                value = "m0"
            for other in simpler(argument, value):
                assert other != value
                if isinstance(value, int) and not isinstance(value, bool):
                    assert complexity(other) < complexity(value) or other < value
                    if not argument.choices and other is not None:
                        assert argument.clamp(other) == other


def test_related_keeps_the_handles_of_the_last_operation() -> None:
    program = parse(
        "vmm 1\nmachine arch=x86_64 page=4K ram=512M nodes=1\nboot\nm0 = memory add at=0x40000000 size=128M\n"
        "m1 = memory add at=0x80000000 size=128M\nmemory online m0 block=0\nmemory online m1 block=0\n"
        "memory offline m1 block=0\n"
    )
    tried: list[Program] = []

    def fake(candidate: Program) -> RunOutcome:
        tried.append(candidate)
        return predicate_run(lambda p: p.ops[-1].name == "memory offline")(candidate)  # type: ignore[no-any-return]

    Minimizer(program, fake, 100).related()
    assert text(tried[-1]).splitlines()[3:] == [
        "m0 = memory add at=0x80000000 size=128M",
        "memory online m0 block=0",
        "memory offline m0 block=0",
    ]


@pytest.mark.parametrize(
    ("defect", "machine", "operations"),
    [
        (
            "ACC-2026-01",
            "arch=x86_64 page=4K ram=2G nodes=1 memhp_default_state=online",
            (
                "m0 = memory add at=0x80000000 size=1G\np0 = pages alloc count=739167\nhugetlb resize size=2M to=51\n"
                "d0 = dax create at=0xc0000000 size=128M align=4K driver=kmem\n"
            ),
        ),
        (
            # What runs out of memory is the operation before the one that shows it.
            "DAX-2026-20",
            "arch=x86_64 page=4K ram=640M nodes=1 memhp_default_state=online",
            (
                "m0 = memory add at=0x40000000 size=128M\np0 = pages alloc count=184261\n"
                "d0 = dax create at=0x50000000 size=128M\nd1 = dax create at=0x80000000 size=14M align=4K\n"
                "dax rebind d0 driver=fsdev\ndax rebind d0 driver=devdax\n"
            ),
        ),
    ],
)
def test_a_failure_stands_in_for_memory_that_runs_out(defect: str, machine: str, operations: str) -> None:
    """The rest of the program only uses memory up; the zoo's shortest program has an injected failure instead."""
    program = parse(f"vmm 1\nmachine {machine}\nboot\n{operations}")
    with planted(find(defect)):
        small = minimize(program)
    assert [op.name for op in small.program.ops].count("fail alloc") == 1
    assert len(small.program.ops) == len(parse(find(defect).program or "").ops)


def test_a_budget_that_ends_while_a_failure_stands_in_leaves_nothing_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    program = parse(
        "vmm 1\nmachine arch=x86_64 page=4K ram=2G nodes=1 memhp_default_state=online\nboot\n"
        "m0 = memory add at=0x80000000 size=1G\np0 = pages alloc count=739167\nhugetlb resize size=2M to=51\n"
        "d0 = dax create at=0xc0000000 size=128M align=4K driver=kmem\n"
    )
    tried: list[int] = []

    def related(minimizer: Minimizer) -> None:
        tried.append(len(minimizer.ops))
        raise OutOfBudget

    monkeypatch.setattr(Minimizer, "related", related)
    with planted(find("ACC-2026-01")):
        minimizer = Minimizer(program, run_program, 1000)
        with pytest.raises(OutOfBudget):
            minimizer.armed()
    assert tried == [len(program.ops) + 1]
    assert minimizer.ops == program.ops


@pytest.mark.parametrize(
    ("defect", "machine", "operations", "most"),
    [
        (
            # The address follows the huge page, which is elsewhere without the memory that was added.
            "HPG-2023-47",
            "arch=x86_64 page=4K ram=512M nodes=1",
            (
                "boot\nm0 = memory add at=0x50000000 size=128M\nmemory online m0 block=0\nhugetlb resize size=2M to=1\n"
                "fail alloc nth=1\nhugetlb dissolve at=0x50000000\n"
            ),
            4,
        ),
        (
            # The number follows the split: a first one was done by the resizing.
            "HVO-2026-08",
            "arch=x86_64 page=4K ram=4G nodes=1",
            (
                "boot\nhugetlb resize size=2M to=1\nhugetlb overcommit size=1G to=1\nhugetlb resize size=2M to=0\n"
                "fail alloc nth=4\nu0 = hugetlb map size=1G count=2\n"
            ),
            4,
        ),
        (
            # An invariant of the reference says what the comparison says of a failure that both sides have.
            "ACC-2026-01",
            "arch=x86_64 page=4K ram=2072M nodes=1",
            (
                "boot\nm0 = memory add at=0xc0000000 size=128M\np0 = pages alloc count=511188\n"
                "p1 = pages alloc count=623\n"
                "p2 = pages alloc count=347\nd0 = dax create at=0x90000000 size=88M align=4K\n"
            ),
            3,
        ),
        (
            # A surplus page by overcommit, and a failure in place of memory that is used up.
            "ACC-2024-35",
            "arch=loongarch64 page=64K ram=4G nodes=1",
            (
                "reserve size=512M count=6\nboot\nu0 = hugetlb map size=512M count=6\np0 = pages alloc count=7712\n"
                "hugetlb resize size=512M to=0\nhugetlb unmap u0\n"
            ),
            5,
        ),
        (
            # Memory runs out in two operations: in both of them allocations fail instead.
            "HPG-2022-63",
            "arch=x86_64 page=4K ram=2870M nodes=1",
            (
                "boot\nm0 = memory add at=0x80000000 size=256M\nmemory online m0 block=1\nhugetlb resize size=1G to=1\n"
                "memory online m0 block=0\np0 = pages alloc count=517125 movable=on\n"
                "memory hard_offline at=0x40000000\nhugetlb demote size=1G count=2\n"
            ),
            6,
        ),
        (
            # A map that gets less than it asks for gives pages back by itself.
            "ACC-2024-35",
            "arch=x86_64 page=4K ram=512M nodes=1",
            (
                "boot\nhugetlb overcommit size=2M to=1\nu0 = hugetlb map size=2M count=1\nhugetlb unmap u0 flush=off\n"
                "fail alloc nth=2\nu1 = hugetlb map size=1G count=1\n"
            ),
            4,
        ),
    ],
)
def test_what_stands_for_something_follows_it(defect: str, machine: str, operations: str, most: int) -> None:
    """Where an operation cannot be dropped as it is, it can with another number or another way to the same state."""
    program = parse(f"vmm 1\nmachine {machine}\n{operations}")
    with planted(find(defect)):
        before = run_program(program, full_every=1).finding
        small = minimize(program)
    assert before is not None
    assert len(small.program.ops) == most
    assert kin(before, small.finding)


@pytest.mark.parametrize(
    ("defect", "machine", "operations", "most"),
    [
        (
            # Boot memory in place of memory that is added and set online.
            "HPG-2024-40",
            "arch=x86_64 page=4K ram=512M nodes=1",
            (
                "boot\nm0 = memory add at=0x20000000 size=128M\nmemory online m0 block=0\nhugetlb resize size=2M to=1\n"
                "memory offline m0 block=0\n"
            ),
            3,
        ),
        (
            # Memory that goes online by itself, where it has to be that of a device.
            "HPG-2024-40",
            "arch=x86_64 page=4K ram=512M nodes=1",
            (
                "boot\nd0 = dax create at=0x20000000 size=128M align=4K driver=kmem\ndax online d0 block=0\n"
                "hugetlb resize size=2M to=1\ndax offline d0 block=0\n"
            ),
            4,
        ),
        (
            # A map gives back what an earlier map of a page of the pool had to be unmapped for.
            "ACC-2024-35",
            "arch=x86_64 page=4K ram=512M nodes=1",
            (
                "boot\nhugetlb resize size=2M to=1\nu0 = hugetlb map size=2M count=1\nfail alloc nth=3\n"
                "p0 = pages contig at=0x3000000 size=2M\nhugetlb unmap u0 flush=off\nfail alloc nth=2\n"
                "u1 = hugetlb map size=2M count=2\n"
            ),
            4,
        ),
        (
            # Memory runs out in the operation before the last.
            "DAX-2026-20",
            "arch=x86_64 page=4K ram=2816M nodes=1",
            (
                "reserve size=1G count=1\nboot\nhugetlb resize size=1G to=0\np0 = pages alloc count=700406\n"
                "d0 = dax create at=0x80000000 size=128M\ndax rebind d0 driver=fsdev\npages free p0\n"
                "dax rebind d0 driver=fsdev\n"
            ),
            5,
        ),
        (
            # It runs out in an operation that does not answer -ENOMEM: the poisoned page is still in the pool (-EBUSY).
            "HPG-2022-63",
            "arch=x86_64 page=4K ram=2816M nodes=1",
            (
                "boot\nhugetlb resize size=2M to=8\nhugetlb resize size=1G to=1\np0 = pages alloc count=434732\n"
                "memory hard_offline at=0x40000000\npages free p0\nhugetlb demote size=1G count=1\n"
            ),
            5,
        ),
        (
            # And of an operation that is to fail before the last one, which fails as well.
            "HPG-2022-63",
            "arch=x86_64 page=4K ram=2816M nodes=1",
            (
                "boot\nhugetlb overcommit size=1G to=1\nu0 = hugetlb map size=1G count=1\nfail alloc nth=2\n"
                "memory hard_offline at=0x40000000\nfail alloc nth=1\nhugetlb demote size=1G count=1\n"
            ),
            6,
        ),
        (
            # One page of two is not optimized: not by the sysctl, but for a failure in an operation that succeeds.
            "HVO-2024-39",
            "arch=x86_64 page=4K ram=4G nodes=1",
            (
                "boot\nsysctl hugetlb_optimize_vmemmap=off\nhugetlb resize size=1G to=1\n"
                "sysctl hugetlb_optimize_vmemmap=on\nhugetlb resize size=1G to=2\nfail alloc nth=1\n"
                "hugetlb demote size=1G count=2\n"
            ),
            5,
        ),
        (
            # Both rebindings run out of memory.
            "DAX-2026-20",
            "arch=x86_64 page=4K ram=1054M nodes=1 memhp_default_state=online_kernel hole=128M",
            (
                "boot\np0 = pages alloc count=40505\nd0 = dax create at=0x80000000,0xe0000000 size=128M,128M align=4K "
                "driver=kmem\nm0 = memory add at=0x200000000 size=128M\np1 = pages alloc count=276422\n"
                "d1 = dax create at=0x90000000 size=1G align=1G\nd2 = dax create at=0x100000000 size=768M align=4K\n"
                "dax rebind d1 driver=fsdev\ndax rebind d1 driver=fsdev\n"
            ),
            6,
        ),
        (
            # Memory that runs out for want of other pages, which one allocation can take.
            "PPC-2023-56",
            "arch=ppc64_radix page=64K ram=5200M nodes=1 memmap_on_memory=force",
            (
                "reserve size=2M count=8\nboot\nhugetlb resize size=1G to=2\np0 = pages alloc count=49556\n"
                "p1 = pages alloc count=8\nm0 = memory add at=0x200000000 size=512M memmap_on_memory=on\n"
            ),
            3,
        ),
        (
            # The law of an answer speaks where the ledger lets one side fail, the comparison where it does not.
            "HPG-2023-47",
            "arch=x86_64 page=4K ram=5G nodes=1",
            (
                "reserve size=1G count=1\nboot\nm0 = memory add at=0x80000000 size=128M\n"
                "memory online m0 block=0 zone=kernel\np0 = pages alloc count=1052654\n"
                "d0 = dax create at=0x208000000 size=128M\nhugetlb dissolve at=0x180000000\n"
            ),
            4,
        ),
    ],
)
def test_short_programs_are_written_anew(defect: str, machine: str, operations: str, most: int) -> None:
    """Programs that stayed long, since they are 1-minimal: two changes at once are needed."""
    program = parse(f"vmm 1\nmachine {machine}\n{operations}")
    with planted(find(defect)):
        before = run_program(program, full_every=1).finding
        small = minimize(program)
        again = run_program(small.program, full_every=1).finding
    assert before is not None
    assert len(small.program.ops) == most
    assert again == small.finding
    assert kin(before, small.finding)
    assert small.one_minimal


def resynthesis() -> Resynthesis:
    program = parse(
        "vmm 1\nmachine arch=x86_64 page=4K ram=512M nodes=1\nboot\nhugetlb resize size=2M to=3\n"
        "u0 = hugetlb map size=2M count=2\nm0 = memory add at=0x40000000 size=128M\nhugetlb unmap u0\n"
        "fail alloc nth=1\nhugetlb dissolve at=0x3000000\n"
    )
    outcome = Finding("returns", "rc", "hugetlb dissolve", ("-12", "ok"), "", "changed", "")
    return Resynthesis(program.machine, program.ops, outcome, early=False)


def test_what_is_written_anew_is_shorter_and_answers_as_the_finding_says() -> None:
    with planted(find("HPG-2023-47")):
        found = list(resynthesis().proposals())
        assert found == list(resynthesis().proposals())
        assert found
        for machine, ops in found:
            ops = repair(machine, ops)
            assert len(ops) < 7
            assert ops[-1].name == "hugetlb dissolve"
            assert run_program(Program(machine, ops)).rcs[-1] == (-12, 0)
    assert not list(resynthesis().proposals())  # without the defect nothing is dissolved where an allocation fails


def test_writing_anew_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each choice of operations costs so many runs of one side, and the few that one more look at a prefix takes."""
    ran = 0

    def counted(machine: Machine, *what: Any) -> Side:
        nonlocal ran
        ran += 1
        return side_after(machine, *what)

    monkeypatch.setattr("fuzz.resynthesis.run", counted)
    list(resynthesis().proposals())
    unbounded, ran = ran, 0
    monkeypatch.setattr("fuzz.resynthesis.RUNS", 40)
    monkeypatch.setattr("fuzz.resynthesis.MORE_RUNS", 2)
    list(resynthesis().proposals())
    assert ran <= 4 * (80 + 8) < unbounded


def test_a_failure_of_a_used_page_can_be_one_of_the_kernel() -> None:
    """The huge page that was poisoned is gone with what made it: a frame of the kernel's image is in use without any
    operation. `hugetlb dissolve` is not for such a frame."""
    machine = parse(NOISE).machine
    boot, poison, dissolve = parse(
        "vmm 1\nmachine arch=x86_64 page=4K ram=1G nodes=1\nboot\nmemory hard_offline at=0x8000000\n"
        "hugetlb dissolve at=0x8000000"
    ).ops
    owners = side_after(machine, (boot,)).kernel.pages.owners
    tried = [ops[-1].args["at"] >> 12 for ops in adapted(machine, (boot, poison), None)]
    assert [owners.get(pfn) for pfn in tried] == [OWNER_RESERVED]
    assert not list(adapted(machine, (boot, dissolve), None))
