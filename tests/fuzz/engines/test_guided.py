"""The novelty search: repeatable, capped, and drawn to what is rare."""

import pytest

from fuzz.engines import guided
from fuzz.engines.guided import Entry, Guided
from fuzz.engines.novelty import Watch, bucket, drift
from fuzz.engines.uniform import Uniform
from fuzz.execute import Lockstep, StepResult, run_program
from fuzz.program.model import Op, Program
from fuzz.program.repair import repair
from fuzz.program.text import parse
from zoo import find, planted

POOL = parse("vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1\nboot\nhugetlb resize size=2M to=2\n")
DAX = parse("vmm 1\nmachine arch=x86_64 page=4K ram=4G nodes=1\nboot\nd0 = dax create at=0x180000000 size=256M\n")


def features(program: Program) -> dict[tuple[object, ...], int]:
    watch = Watch()
    run_program(program, observer=watch)
    return watch.features


def test_buckets() -> None:
    assert [bucket(n) for n in (-5, 0, 1, 2, 4, 5, 1000)] == [-1, 0, 1, 2, 2, 3, 3]
    assert [drift(10, n) for n in (10, 11, 17, 18, 9)] == [0, 1, 1, 2, -1]


def test_equal_programs_have_equal_features_and_others_have_others() -> None:
    assert features(POOL) == features(POOL)
    only = features(DAX).keys() - features(POOL).keys()
    assert ("clause", "dax-nr-memmap", "dax create") in only
    assert ("outcome", "dax create", "ok", "ok") in only


def test_the_pair_of_abstract_states_tells_the_sides_apart() -> None:
    states = [feature[1:] for feature in features(DAX) if feature[0] == "states"]
    # DAX has a shared tail frame of its own in the candidate only (unified-framework.md 3.4).
    assert any(mine != its for mine, its in states)
    assert all(mine == its for mine, its in (f[1:] for f in features(POOL) if f[0] == "states"))


def test_equal_seeds_make_equal_runs() -> None:
    first, second = Guided(11), Guided(11)
    assert first.advance(600.0, 30) == second.advance(600.0, 30)
    assert [entry.program for entry in first.corpus] == [entry.program for entry in second.corpus]
    first.statistics.seconds = second.statistics.seconds = 0.0
    assert first.statistics == second.statistics
    assert Guided(12).next()[0] != Guided(11).next()[0]


def test_slices_do_not_change_what_is_run() -> None:
    whole, sliced = Guided(5), Guided(5)
    whole.advance(600.0, 30)
    for _ in range(10):
        sliced.advance(600.0, 3)
    assert whole.statistics.outcomes == sliced.statistics.outcomes


def test_entries_are_legal_and_show_what_they_are_kept_for() -> None:
    engine = Guided(3)
    engine.advance(600.0, 40)
    assert len(engine.corpus) > 10
    for entry in engine.corpus:
        assert repair(entry.program.machine, entry.program.ops) == entry.program.ops
        assert max(entry.features.values()) == len(entry.program.ops) - 1
        assert entry.features.keys() <= features(entry.program).keys()


def test_the_corpus_is_capped_and_common_entries_go() -> None:
    engine = Guided(4, cap=15)
    engine.advance(600.0, 40)
    assert len(engine.corpus) == 15
    whole = Guided(4)
    whole.advance(600.0, 40)
    rarest = [sum(engine._rarity(entry) for entry in engine.corpus) / 15, 0.0]
    rarest[1] = sum(whole._rarity(entry) for entry in whole.corpus) / len(whole.corpus)
    assert rarest[0] <= rarest[1]


def test_the_rare_is_picked_more_often_than_the_common() -> None:
    engine = Guided(6)
    engine.corpus = [Entry(POOL, {("common", i): 1}, [0, 1]) for i in range(30)] + [Entry(DAX, {("rare",): 1}, [0, 1])]
    engine.counts.update({("common", i): 1000 for i in range(30)})
    engine.counts["rare",] = 1
    picked = sum(engine._pick().program is DAX for _ in range(300))
    # Among 8 of 31 with return, the rare one is there with probability 1 - (30/31)**8 = 0.23; by chance it were 0.03.
    assert 40 < picked < 100


def test_what_it_is_fed_is_run_first_and_kept_if_new() -> None:
    engine = Guided(1)
    engine.feed([DAX, DAX])
    assert engine.next()[0].ops == DAX.ops
    assert engine.next()[0].ops == DAX.ops
    assert [entry.program for entry in engine.corpus] == [DAX]
    assert engine.next()[0].ops != DAX.ops


def test_an_operation_is_made_to_fail_where_it_allocates() -> None:
    engine = Guided(1)
    engine.feed([DAX])
    engine.next()
    (entry,) = engine.corpus
    # Two sections of a device with 2M pages: far more than a dozen points, none in the boot's row.
    assert entry.points[-1] > 12
    made = [engine._failing(entry) for _ in range(100)]
    assert all(prefix is not None and prefix[-1] == DAX.ops[-1] and prefix[-3:-2] == DAX.ops[:1] for prefix in made)
    numbers = {prefix[-2].args["nth"] for prefix in made if prefix is not None}
    assert min(numbers) == 1
    assert 12 < max(numbers) <= entry.points[-1]
    # The early ones are tried evenly, whatever chance says.
    early = [engine.tried["dax create", (256 << 20,), nth] for nth in range(1, 13)]
    assert min(early) >= 2
    assert max(early) - min(early) <= 2
    engine.corpus = [Entry(POOL, entry.features, [0, 0])]
    assert engine._failing(engine.corpus[0]) is None


def test_a_planted_defect_is_found() -> None:
    engine = Guided(1)
    found = []
    with planted(find("ACC-2026-03")):
        while not found and engine.statistics.programs < 200:
            found = [d for d in engine.advance(60.0, 10) if d.finding.field == "nr_memmap"]
    assert found


CHAIN = ("sysctl", "pages alloc") * 4
"""Operations that must follow each other directly; the deeper, the rarer, and no branch of a model knows."""


class Chain(Watch):
    """Reports nothing but how far the program has come in the chain."""

    __slots__ = ("at", "number")

    def __init__(self) -> None:
        super().__init__()
        self.at = self.number = 0

    def __call__(self, pair: Lockstep, op: Op, result: StepResult) -> None:
        self.at = self.at + 1 if op.name == CHAIN[self.at % len(CHAIN)] else int(op.name == CHAIN[0])
        self.features.setdefault(("depth", self.at), self.number)
        self.points.append(0)
        self.number += 1


def test_feedback_climbs_where_chance_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided, "Watch", Chain)
    engine = Guided(2)
    engine.advance(600.0, 500)
    deepest = max(depth for _, depth in engine.counts)
    by_chance = 0
    uniform = Uniform(2)
    for number in range(500):
        watch = Chain()
        run_program(uniform.run(number)[0], observer=watch)
        by_chance = max(by_chance, *(depth for _, depth in watch.features))
    # A step succeeds with probability 1/20 to 1/30: twenty thousand operations get to three or four by chance.
    assert by_chance < 6 <= deepest
