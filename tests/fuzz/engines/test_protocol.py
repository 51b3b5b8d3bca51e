"""Statistics: counted, added, and carried as JSON."""

import json
from collections import Counter
from pathlib import Path

from fuzz.engines import NAMES, make
from fuzz.engines.handover import discovery_from_json, discovery_to_json, put
from fuzz.engines.protocol import Discovery, Statistics
from fuzz.oracle.finding import Finding
from fuzz.program.model import Op, Program, make_op
from mm.machine import Machine

FINDING = Finding("accounting", "nr_memmap", "dax create", ("ok", "ok"), "2M", "+", "two against one")
PROGRAM = Program(Machine(), (Op("boot"), make_op("dax create", "d0", at=(5 << 30,), size=(1 << 30,))))


def test_counting() -> None:
    statistics = Statistics()
    statistics.count(["boot", "memory add", "memory add"], [(0, 0), (-22, -22), (3, 4)])
    assert statistics.programs == 1
    assert statistics.operations == 3
    assert statistics.outcomes == Counter({("boot", "ok"): 1, ("memory add", "-22"): 1, ("memory add", "ok"): 1})
    assert statistics.kinds == 2


def test_adding() -> None:
    first, second = Statistics(1, 10, 0.5, 1, 0, clauses={"a"}), Statistics(2, 20, 1.5, 0, 1, clauses={"b"})
    second.outcomes["boot", "ok"] = 2
    first.add(second)
    assert first == Statistics(3, 30, 2.0, 1, 1, Counter({("boot", "ok"): 2}), {"a", "b"})


def test_statistics_through_json() -> None:
    statistics = Statistics(3, 30, 2.0, 1, 1, Counter({("boot", "ok"): 2, ("boot", "bug: x"): 1}), {"a", "b"})
    assert Statistics.from_json(json.loads(json.dumps(statistics.to_json()))) == statistics


def test_discovery_through_json() -> None:
    discovery = Discovery(PROGRAM, FINDING, "uniform")
    assert discovery_from_json(json.loads(json.dumps(discovery_to_json(discovery)))) == discovery


def test_a_file_is_put_whole(tmp_path: Path) -> None:
    put(tmp_path / "stats.json", {"a": 1})
    put(tmp_path / "stats.json", {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["stats.json"]
    assert json.loads((tmp_path / "stats.json").read_text()) == {"a": 2}


def test_every_name_makes_an_engine() -> None:
    for name in NAMES:
        engine = make(name, 1, "merged")
        assert engine.name == name.replace("swarm", "uniform")
        assert engine.statistics == Statistics()
