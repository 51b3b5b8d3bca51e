"""Coverage: features, folding of several processes' counts, and the estimate against a known distribution."""

import json
from random import Random

import pytest

from fuzz.coverage import OFTEN, Coverage, features
from fuzz.engines.uniform import Uniform
from fuzz.execute import RunOutcome
from fuzz.program.model import Op, Program, make_op
from mm.machine import Machine

BOOT = Op("boot")
MAP = make_op("hugetlb map", "u0", size=2 << 20, count=1)


def run(*rcs: tuple[int | str, int | str], clauses: tuple[str, ...] = ()) -> tuple[Program, RunOutcome]:
    program = Program(Machine(), (BOOT, *[MAP] * (len(rcs) - 1)))
    return program, RunOutcome("ok", None, len(rcs), set(clauses), list(rcs))


def test_features_name_operations_outcomes_pairs_and_clauses() -> None:
    assert features(*run((0, 0), (-12, -12), (3, 5), (-2, -22), clauses=("boot-order",))) == {
        "clause boot-order",
        "x86_64: boot ok",
        "x86_64: hugetlb map -12",
        "x86_64: hugetlb map ok",
        "x86_64: hugetlb map -2/-22",
        "boot ok > hugetlb map -12",
        "hugetlb map -12 > hugetlb map ok",
        "hugetlb map ok > hugetlb map -2/-22",
    }


def test_only_what_is_new_is_kept() -> None:
    coverage = Coverage()
    assert coverage.observe(*run((0, 0), (1, 1)))
    assert not coverage.observe(*run((0, 0), (7, 7)))
    assert coverage.observe(*run((0, 0), (-12, -12)))
    drained = coverage.drain()
    assert drained["programs"] == 3
    assert len(drained["fresh"]) == 2
    assert drained["owners"]["x86_64: boot ok"] == OFTEN
    assert drained["owners"]["x86_64: hugetlb map -12"] == "3"
    assert coverage.drain() == {"programs": 0, "owners": {}, "fresh": []}


def test_the_chance_is_the_share_of_programs_with_a_feature_of_their_own() -> None:
    coverage = Coverage()
    assert coverage.chance == 1.0
    for rc in (1, 1, 1, -12, -2):  # programs four and five each hold two features that no other holds
        coverage.observe(*run((0, 0), (rc, rc)))
    assert coverage.singletons == 4
    assert coverage.chance == pytest.approx(2 / 5)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_folding_does_not_depend_on_who_ran_what(workers: int) -> None:
    whole = Coverage()
    parts = [Coverage() for _ in range(workers)]
    folded = Coverage()
    engine = Uniform(4)
    random = Random(workers)
    kept = []
    for number in range(120):
        program, outcome = engine.run(number)
        whole.observe(program, outcome)
        part = random.randrange(workers)
        parts[part].observe(program, outcome)
        if random.random() < 0.2:
            kept += folded.merge(json.loads(json.dumps(parts[part].drain())), str(part))
    for i, part_ in enumerate(parts):
        kept += folded.merge(json.loads(json.dumps(part_.drain())), str(i))
    assert folded.programs == whole.programs == 120
    assert folded.owners.keys() == whole.owners.keys()
    assert {f for f, o in folded.owners.items() if o} == {f for f, o in whole.owners.items() if o}
    assert folded.chance == whole.chance
    # What is kept shows everything that was seen.
    assert set().union(*(set(fresh["features"]) for fresh in kept)) == set(whole.owners)


def test_what_an_engine_elsewhere_drained_is_drained_again() -> None:
    child, here, folded = Coverage(), Coverage(), Coverage()
    for rc in (1, 1, -12):
        child.observe(*run((0, 0), (rc, rc)))
        here.take(child.drain())
    folded.merge(here.drain(), "w")
    assert folded.programs == 3
    assert folded.chance == pytest.approx(1 / 3)
    assert folded.owners.keys() == child.owners.keys()


def test_through_json() -> None:
    coverage = Coverage()
    coverage.observe(*run((0, 0), (1, 1)))
    again = Coverage.from_json(json.loads(json.dumps(coverage.to_json())))
    assert again.owners == coverage.owners
    assert again.chance == coverage.chance
    assert again.drain()["programs"] == 0


def test_the_estimate_is_right_for_a_known_distribution() -> None:
    """Species k of 400 shows with probability p_k in each program, independently: the expected number of new species in
    the next program is the sum of p_k over those unseen, and the chance of one is 1 - prod(1 - p_k)."""
    random = Random(1)
    odds = [0.3 / (k + 1) for k in range(400)]
    estimated = true = 0.0
    for _ in range(30):
        coverage = Coverage()
        seen: set[int] = set()
        for i in range(200):
            shown = {k for k, p in enumerate(odds) if random.random() < p}
            seen |= shown
            owners = {str(k): str(i) for k in shown}
            coverage.merge({"programs": 1, "owners": owners, "fresh": []}, str(i))
        unseen = 1.0
        for k, p in enumerate(odds):
            if k not in seen:
                unseen *= 1 - p
        estimated += coverage.chance
        true += 1 - unseen
    assert 0.85 < estimated / true < 1.15
