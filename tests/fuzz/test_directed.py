"""Faults planted for one mutant of the oracle: the probe tells where it differs, the search finds what it misses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from time import process_time

import pytest

from fuzz.execute import Lockstep
from fuzz.mutants import sites
from fuzz.mutants.directed import Directed, Verdict, compare
from fuzz.mutants.focus import FOCUS, leave_out_flush
from fuzz.mutants.planted import Fault, Source
from fuzz.mutants.probe import NAME, instrumented
from fuzz.mutants.sites import Mutant, function_of, mutants, plant
from fuzz.mutants.spoil import Spoiler
from fuzz.mutants.trials import POSTED, Kill, corpus_trials
from fuzz.oracle import sections
from fuzz.oracle.accounting import Accounting
from fuzz.program.text import parse
from mm.tlb import RecordingTlb
from tests.fuzz.test_planted import PROGRAM, suited

SHRINK = """vmm 1
machine arch=x86_64 page=4K ram=4G nodes=1
boot
hugetlb resize size=2M to=8
hugetlb resize size=2M to=2
"""
FAULTY = Source(POSTED, "shrink", parse(SHRINK))


def mutant_of(module: str, function: str, before: str, after: str) -> Mutant:
    """The first mutant that reads like this."""
    return next(m for m in mutants(module) if (m.function, m.before, m.after) == (function, before, after))


@contextmanager
def planted(mutant: Mutant) -> Iterator[Directed]:
    """Plant the mutant while the block runs, which gets the search for it."""
    function = function_of(mutant.module, mutant.function)
    original = function.__code__
    plant(mutant)
    try:
        yield Directed(mutant, original, 1)
    finally:
        function.__code__ = original
        function.__globals__.pop(NAME, None)


def busy() -> Lockstep:
    """A pair after an operation that fails, before the oracle has looked at it."""
    pair = Lockstep(PROGRAM.machine)
    for op in PROGRAM.ops[:-1]:
        pair.step(op)
    pair.oracle.before(PROGRAM.ops[-1].name, PROGRAM.ops[-1].args)
    for side in (pair.reference, pair.candidate):
        side.run(PROGRAM.ops[-1])
    return pair


def search(mutant: Mutant, sources: list[Source], seconds: float) -> tuple[Kill | None, Directed]:
    with planted(mutant) as directed:
        return directed.search(sources, [], process_time() + seconds), directed


@pytest.mark.parametrize(
    ("body", "args", "differs"),
    [
        ("x = a < b\n    return x", (1, 2), False),
        ("x = a < b\n    return x", (2, 2), True),
        ("return a == b", (2, 2), True),
        ("return a - b", (2, 2), False),
        ("if a < b:\n        return 1\n    return 2", (2, 2), True),
        ("x = 3 if a else 4\n    return x", (2, 2), True),
        ("b += a\n    return b", (0, 0), True),  # nobody looks at what a statement does
        ("x = max([a]) < next(iter([b]))\n    return x", (1, 2), True),  # nor calls what may change something again
    ],
)
def test_the_probe_tells_where_the_mutant_differs(
    body: str, args: tuple[int, int], differs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"def f(a, b):\n    {body}\n"
    space: dict[str, object] = {}
    exec(source, space)
    function = space["f"]
    monkeypatch.setattr("fuzz.mutants.probe.function_of", lambda module, name: function)
    plain = sites.mutated_code
    monkeypatch.setattr("fuzz.mutants.probe.mutated_code", lambda m, around=None: plain(m, source, around))
    mutant = next(mutants("m", source))
    code, probe = instrumented(mutant)
    assert function.__code__ is not code  # type: ignore[attr-defined]
    function.__code__ = code  # type: ignore[attr-defined]
    result = function(*args)  # type: ignore[operator]
    assert (probe.reached, probe.differed > 0) == (1, differs)
    function.__code__ = plain(mutant, source)  # type: ignore[attr-defined]
    assert function(*args) == result  # type: ignore[operator]


def test_a_weaker_oracle_misses_a_fault_that_is_planted_for_it() -> None:
    # The word of a section is compared where the other side's list alone says that it was touched.
    program = parse(
        "vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1\nboot\nm0 = memory add at=0x200000000 size=128M\n"
    )
    mutant = next(m for m in mutants(sections.__name__) if m.operator == "returned")
    kill, directed = search(mutant, [Source(POSTED, "add", program)], 20.0)
    assert kill is not None
    assert kill.by in ("planted", "signature")
    assert directed.doubles > 0


def test_a_mutant_of_what_a_model_records_is_held_against_equal_faults() -> None:
    test = "if self.flush_tlb_all_is_empty:"
    mutant = mutant_of("mm.tlb", "RecordingTlb.flush_tlb_kernel_range", test, test.replace("self", "not self"))
    name = "clause-unplug-by-single-pages (posted)"
    trial = next(trial for trial in corpus_trials() if trial.name == name)
    assert trial.program is not None
    kill, _ = search(mutant, [Source(trial.setting, name, trial.program)], 60.0)
    assert kill is not None
    assert kill.by in ("planted", "signature")


def test_an_equivalent_mutant_survives() -> None:
    # At first nothing is expected, which is met.
    mutant = mutant_of(Accounting.__module__, "Accounting.__init__", "False", "True")
    kill, directed = search(mutant, [FAULTY], 3.0)
    assert kill is None
    assert directed.doubles > 50


@pytest.mark.parametrize(
    "spoiler", dict.fromkeys(spoiler for found in FOCUS.values() for spoiler in found), ids=lambda s: s.__name__
)
def test_every_spoiler_of_a_focus_finds_something(spoiler: Spoiler) -> None:
    k = suited(busy(), spoiler).candidate.kernel
    assert any(spoiler(k, Random(seed)) for seed in range(4))


def test_a_flush_that_is_left_out_leaves_what_is_stale() -> None:
    texts = set()
    for seed in range(8):
        pair = Lockstep(FAULTY.program.machine)
        for op in FAULTY.program.ops[:-1]:
            pair.step(op)
        tlb = pair.candidate.kernel.tlb
        assert isinstance(tlb, RecordingTlb)
        ended = leave_out_flush(tlb, Random(seed))
        pair.candidate.run(FAULTY.program.ops[-1])
        text = ended()
        assert type(tlb) is RecordingTlb
        if text is not None:
            texts.add(text)
            assert tlb.stale or tlb.violations
    assert "flush 1, of all, is left out" in texts


def test_of_other_faults_nothing_is_said() -> None:
    fault = Fault(FAULTY, 1, (1,), "state", False, 0)
    seen, missed = Verdict("a signature", None, "a text"), Verdict(None, None, "a text")
    assert compare(seen, seen, fault) is None
    assert compare(seen, missed._replace(text="another"), fault) is None
    assert compare(Verdict(error="ValueError: "), missed, fault) is None
    assert compare(seen, Verdict(error="slow"), fault) is None
    for mine, by in (
        (missed, "planted"),
        (seen._replace(signature="another"), "signature"),
        (seen._replace(terminal="a-clause"), "clause"),
        (Verdict(error="ValueError: "), "crash"),
    ):
        kill = compare(seen, mine, fault)
        assert kill is not None
        assert kill.by == by
    kill = compare(missed, seen, fault)
    assert kill is not None
    assert kill.by == "planted"


def test_a_statement_is_marked_although_the_mutant_in_it_is_not_evaluated() -> None:
    source = "def f(a):\n    if a > 5:\n        return 1\n    elif a > 2:\n        return 3 if a == 4 else 7\n"
    mutant = next(m for m in mutants("m", source) if m.before == "7")
    calls: list[int] = []
    space: dict[str, object] = {"mark": lambda: calls.append(1)}
    exec(source, space)
    function = space["f"]
    mark = ast.Call(ast.Name("mark", ast.Load()), [], [])
    function.__code__ = sites.marked_code(mutant, mark, source)  # type: ignore[attr-defined]
    assert [(function(a), len(calls)) for a in (6, 1, 4, 3)] == [  # type: ignore[operator]
        *((1, 0), (None, 0), (3, 1), (7, 2)),
    ]
