"""Planted faults, with which mutants of the oracle are judged: each is what it says, and the sound oracle sees it."""

from __future__ import annotations

from random import Random

import pytest

from fuzz.execute import Lockstep
from fuzz.mutants import searches
from fuzz.mutants.misled import MISLED, Misleader
from fuzz.mutants.panel import PLANTED_ALIKE, Panel
from fuzz.mutants.planted import Fault, Faults, Source, answer_off, argument_off, sentence
from fuzz.mutants.spoil import SPOILERS, Spoiler, neighbour
from fuzz.mutants.spoil_books import BOOKS
from fuzz.mutants.spoil_devices import DEVICES
from fuzz.mutants.spoil_whole import OF_OPERATIONS, WHOLE
from fuzz.mutants.trials import POSTED, corpus_trials
from fuzz.oracle.finding import Finding
from fuzz.program.model import make_op
from fuzz.program.text import parse
from mm.page_alloc import Poisoned
from mm.pgtable import Pte

BUSY = """vmm 1
machine arch=x86_64 page=4K ram=4G nodes=2 memmap_on_memory=on
reserve cma size=1G node=1
boot
hugetlb resize size=2M to=8
u0 = hugetlb map size=2M count=3
hugetlb overcommit size=2M to=9
u1 = hugetlb map size=2M count=6
hugetlb unmap u1 flush=off
m0 = memory add at=0x200000000 size=256M memmap_on_memory=on
memory online m0 block=0 zone=movable
m1 = memory add at=0x220000000 size=256M node=1
memory online m1 block=0 zone=movable
subblock unplug m1 block=0 first=3 count=2
d1 = dax create at=0x340000000 size=256M align=2M altmap=on
p0 = pages alloc count=100 node=1 movable=on
memory hard_offline at=0x3000000
memory offline m0 block=0
fail alloc nth=900
d0 = dax create at=0x300000000 size=256M align=2M
"""
"""Something of everything that can be spoiled."""
PROGRAM = parse(BUSY)


@pytest.fixture
def busy() -> Lockstep:
    """A pair after the last operation, before the oracle has looked at it."""
    pair = Lockstep(PROGRAM.machine)
    for op in PROGRAM.ops[:-1]:
        result = pair.step(op)
        assert (result.rcs, result.finding) == ((0, 0), None), op
    pair.oracle.before(PROGRAM.ops[-1].name, PROGRAM.ops[-1].args)
    for side in (pair.reference, pair.candidate):
        assert side.run(PROGRAM.ops[-1]) == 0
    return pair


def suited(pair: Lockstep, spoiler: Spoiler) -> Lockstep:
    """`pair`, in a state in which the spoiler finds something, or another one."""
    if spoiler.__name__ == "tried":  # set by operations that make memory go
        pair.candidate.kernel.memory_blocks.tried.append((0, 512))
    elsewhere = {"direct_map": "ppc64_radix", "outside": "riscv64"}  # what this machine's kernel does not keep
    if spoiler.__name__ not in elsewhere:
        return pair
    program = parse(f"vmm 1\nmachine arch={elsewhere[spoiler.__name__]} page=4K ram=1G nodes=1\nboot\n")
    other = Lockstep(program.machine)
    assert other.step(program.ops[0]).finding is None
    return other


@pytest.mark.parametrize(
    "spoiler", dict.fromkeys((*SPOILERS, *BOOKS, *WHOLE, *DEVICES)), ids=lambda spoiler: spoiler.__name__
)
def test_every_spoiler_finds_something_and_says_what(busy: Lockstep, spoiler: Spoiler) -> None:
    k = suited(busy, spoiler).candidate.kernel
    assert any(spoiler(k, Random(seed)) for seed in range(4))


@pytest.mark.parametrize("spoiler", dict.fromkeys(DEVICES), ids=lambda spoiler: spoiler.__name__)
def test_devices_are_spoiled_where_struct_pages_cross_the_borders_of_vmemmap_pages(spoiler: Spoiler) -> None:
    machine = "machine arch=loongarch64 page=4K ram=1G nodes=1 kfence=on"
    program = parse(f"vmm 1\n{machine}\nboot\nd0 = dax create at=0x100000000 size=512M align=2M\n")
    pair = Lockstep(program.machine)
    for op in program.ops:
        assert pair.step(op).rcs == (0, 0)
    said = [spoiler(pair.candidate.kernel, Random(seed)) for seed in range(100)]
    assert sum(text is not None for text in said) > 50


@pytest.mark.parametrize(
    "misleader", dict.fromkeys(one for found in MISLED.values() for one in found), ids=lambda one: one.__name__
)
def test_whoever_misleads_changes_something_and_puts_it_right(busy: Lockstep, misleader: Misleader) -> None:
    k = busy.candidate.kernel
    k.faults.nth = 3

    def known() -> str:
        pools = [
            (h.resv, h.nr_overcommit, h.surplus, h.nr, [list(free) for free in h.free]) for h in k.hstates.values()
        ]
        sound = [folio.hwpoison for h in k.hstates.values() for folio in h.folios.values()]
        state = k.machine, [node.nid for node in k.nodes], k.iomem.items(), k.memory_blocks.unplugged.items()
        return repr((pools, sound, state))

    before = known()
    done = 0
    for seed in range(4):
        found = misleader(k, Random(seed))
        if found is not None:
            done += 1
            found[1]()
            assert known() == before, found[0]
    assert done


def test_every_operation_has_faults_that_are_whole() -> None:
    assert {op.name.partition(" ")[0] for op in PROGRAM.ops} <= OF_OPERATIONS.keys()


POOL = parse("""vmm 1
machine arch=x86_64 page=4K ram=4G nodes=2
boot
hugetlb resize size=2M to=12
u0 = hugetlb map size=2M count=2 node=0
hugetlb resize size=2M to=5
p0 = pages alloc count=10 node=1
p1 = pages alloc count=10 node=1 movable=on
""")


@pytest.mark.parametrize(
    ("at", "kind", "said"),
    [
        (2, "misled", "at the heads are"),
        (1, "whole", "nodes took turns from node 0 on"),
        (1, "whole", "turn to lose a page now"),
        (3, "misled", "nodes took turns from node 0 on"),
        (3, "misled", "not lost those at the head"),
        (4, "misled", "are of <node 0"),
        (2, "whole", "at the heads are"),
        (3, "whole", "is at the head of node 0"),
        (3, "whole", "turn to give a page now"),
        (5, "whole", "are of <node"),
    ],
)
def test_what_both_sides_do_alike_is_seen_by_a_law(at: int, kind: str, said: str) -> None:
    faults = [Fault(Source(POSTED, "pool", POOL), at, (0, 1), kind, False, seed) for seed in range(60)]
    findings = [finding for finding, _ in (fault.run() for fault in faults) if finding is not None]
    assert findings
    assert any(said in sentence(finding) or said in finding.detail for finding in findings)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, {False}),
        (7, {6, 8}),
        ((1, 2), {(0, 2), (2, 2), (1, 1), (1, 3)}),
        (Pte(5, True), {Pte(4, True), Pte(6, True), Pte(5, False)}),
    ],
)
def test_neighbours(value: object, expected: set[object]) -> None:
    assert {neighbour(value, Random(seed)) for seed in range(60)} == expected


def test_the_neighbour_of_a_word_is_another_one() -> None:
    assert all(neighbour(word, Random(1)) is not word for word in Poisoned)


def test_answers_and_arguments_are_others() -> None:
    assert all(answer_off(-12, Random(seed)) != -12 for seed in range(5))
    op = make_op("memory add", "m0", at=1 << 32, size=1 << 28, node=0)
    for seed in range(20):
        found = argument_off(op, Random(seed), 12)
        assert found is not None
        name, other = found
        assert {key for key in op.args if op.args[key] != other.args[key]} <= {name}


def fault(at: int, sides: tuple[int, ...], kind: str, seed: int) -> Fault:
    return Fault(Source(POSTED, "busy", PROGRAM), at, sides, kind, False, seed)


@pytest.mark.parametrize(("sides", "kind"), [((1,), "answer"), ((0,), "answer"), ((1,), "idle"), ((0,), "idle")])
def test_what_is_answered_or_left_undone_is_seen(sides: tuple[int, ...], kind: str) -> None:
    at = next(i for i, op in enumerate(PROGRAM.ops) if op.name == "memory online")
    for seed in range(10):
        finding, text = fault(at, sides, kind, seed).run()
        assert text
        assert finding is not None, text


@pytest.mark.parametrize(
    ("sides", "kind"),
    [((1,), "state"), ((0,), "state"), ((0, 1), "state"), ((0, 1), "books"), ((1,), "mimic"), ((0, 1), "handle")],
)
def test_what_is_spoiled_is_seen_more_often_than_not(sides: tuple[int, ...], kind: str) -> None:
    done = [fault(len(PROGRAM.ops) - 1, sides, kind, seed).run() for seed in range(60)]
    seen = [finding for finding, text in done if text]
    assert seen
    assert sum(finding is not None for finding in seen) > len(seen) / 3


def test_equal_numbers_are_equal_faults_and_every_operation_has_its_turn() -> None:
    sources = [Source(t.setting, t.name, t.program) for t in corpus_trials() if t.program is not None]
    faults, again = Faults(sources, 5), Faults(sources, 5)
    chosen = [faults[number] for number in range(400)]
    assert chosen == [again[number] for number in range(400)]
    names = {one.source.program.ops[one.at].name for one in chosen}
    assert names == set(faults.operations) > {"boot", "dax create", "hugetlb demote", "subblock plug"}


def test_the_panel_takes_few_that_show_the_same() -> None:
    panel = Panel()
    for seed in range(PLANTED_ALIKE + 3):
        panel.plant(fault(1, (1,), "idle", seed), "a signature", "a text", "a sentence")
    assert len(panel.members) == PLANTED_ALIKE
    panel.plant(fault(1, (1,), "idle", 0), "a signature", "a text", "another sentence")
    assert len(panel.members) == PLANTED_ALIKE + 1


def test_a_sentence_is_told_by_its_words() -> None:
    found = [Finding("returns", "f", "boot", ("ok", "ok"), "", "ok", detail) for detail in ("0x10 of -3", "0x2 of 71")]
    assert {sentence(one) for one in found} == {"# of #"}


def test_answers_have_their_turn_alike() -> None:
    """One program of a hundred gets an errno: a quarter of the faults of that operation are planted there."""
    rare = Source(POSTED, "refused", parse(f"{BUSY}memory remove m0\n"), ("ok",) * len(PROGRAM.ops) + ("-16",))
    plain = Source(POSTED, "removed", rare.program, ("ok",) * len(rare.program.ops))
    faults = Faults([plain] * 99 + [rare], 5)
    chosen = [one for one in (faults[n] for n in range(3000)) if one.source.program.ops[one.at].name == "memory remove"]
    refused = sum(one.source.name == "refused" for one in chosen)
    assert len(chosen) > 60
    assert 0.1 < refused / len(chosen) < 0.5


def test_a_member_notices_when_it_is_not_seen_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    at = next(i for i, op in enumerate(PROGRAM.ops) if op.name == "memory online")
    found = ((one, *one.run()) for one in (fault(at, (0, 1), "idle", seed) for seed in range(20)))
    one, finding, text = next(found_one for found_one in found if found_one[1] is not None)
    assert finding is not None
    assert text is not None
    panel = Panel()
    panel.plant(one, finding.signature, text, sentence(finding))
    (member,) = panel.members
    assert member.look(0) is None
    monkeypatch.setattr("fuzz.oracle.effects.effect.Effect.missing", lambda *args: None)
    monkeypatch.setattr("fuzz.oracle.laws.LAWS", ())
    kill = member.look(0)
    assert kill is not None
    assert (kill.by, text in kill.what) == ("planted", True)


def test_a_search_counts_other_states_if_the_form_is_too_coarse_or_too_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(searches.SEARCHES, "explore memory", 2)
    sound = searches.counts("explore memory")
    monkeypatch.setattr("fuzz.engines.explore.canonical", lambda oracle, handles, pages=True: b"one")
    assert searches.counts("explore memory")[0] < sound[0]
    forms = iter(range(1000))
    monkeypatch.setattr("fuzz.engines.explore.canonical", lambda oracle, handles, pages=True: b"%d" % next(forms))
    assert searches.counts("explore memory")[0] > sound[0]
