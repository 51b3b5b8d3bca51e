"""`vmemmap-fuzz corpus`: what it keeps, drops and says."""

import json
import zipfile
from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner, Result

from fuzz.campaign.corpus import cover
from fuzz.campaign.settings import locked
from fuzz.cli import app
from fuzz.coverage import features
from fuzz.engines.uniform import Uniform
from fuzz.execute import run_program
from fuzz.program.codec import encode
from fuzz.program.model import Program
from fuzz.program.text import format as format_program
from fuzz.program.text import parse
from fuzz.store.files import Store

ROOT = Path(__file__).resolve().parents[3]
SEEDS = ROOT / "corpus" / "seeds"
N = len(list(SEEDS.glob("*.vmm")))
FOUND = {
    "stage": "found",
    "signature": "a|b",
    "finding": {"detail": "", "layer": "returns", "operation": "boot"},
    "program": "vmm 1\nmachine\nboot\n",
    "engine": "uniform",
    "profile": "posted",
    "confirmed": False,
    "one_minimal": False,
}


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["corpus", *[str(arg) for arg in args]])


def told(*args: str | Path) -> object:
    result = call(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus of all seeds."""
    assert told("import", tmp_path / "c", SEEDS) == {"files": N, "new": N}
    return tmp_path / "c"


def test_stats(folder: Path) -> None:
    store = Store(folder)
    store.add_record(FOUND)
    lengths = sorted(len(parse(text).ops) for _, text in store.programs())
    numbers = told("stats", folder)
    assert isinstance(numbers, dict)
    assert numbers["programs"] == len(lengths) == N
    assert (numbers["shortest"], numbers["longest"], numbers["operations"]) == (lengths[0], lengths[-1], sum(lengths))
    assert numbers["findings"] == {"pending": 1}
    assert sum(numbers["architectures"].values()) == N
    assert "programs" in call("stats", folder).stdout


def test_import_is_idempotent_and_all_or_nothing(folder: Path, tmp_path: Path) -> None:
    assert told("import", folder, SEEDS) == {"files": N, "new": 0}
    (tmp_path / "new").mkdir()
    program, _ = Uniform(1).run(0)
    (tmp_path / "new" / "a.vmm").write_text(format_program(program))
    (tmp_path / "new" / "b.vmm").write_text("vmm 1\nmachine\nboo\n")
    result = call("import", folder, tmp_path / "new")
    assert result.exit_code == 2
    assert "b.vmm:3:1" in result.stderr
    assert len(Store(folder).digests()) == N


def test_export_and_import_of_bytes(folder: Path, tmp_path: Path) -> None:
    assert told("export", folder, tmp_path / "raw", "--bytes") == {"programs": N}
    assert told("import", tmp_path / "again", tmp_path / "raw", "--bytes") == {"files": N, "new": N}
    # Bytes do not carry the names of handles: the programs are the same up to those.
    one = sorted(encode(parse(text)) for _, text in Store(folder).programs())
    two = sorted(encode(parse(text)) for _, text in Store(tmp_path / "again").programs())
    assert one == two
    assert told("export", folder, tmp_path / "flat") == {"programs": N}
    assert {path.stem for path in (tmp_path / "flat").iterdir()} == Store(folder).digests()


def test_packs_are_equal_for_equal_corpora_and_merge_back(folder: Path, tmp_path: Path) -> None:
    Store(folder).add_record(FOUND)
    for name in ("one.zip", "two.zip"):
        call("pack", folder, tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    merged = told("merge", tmp_path / "merged", tmp_path / "one.zip", folder)
    assert merged == [
        {"from": str(tmp_path / "one.zip"), "programs": N, "records": 1},
        {"from": str(folder), "programs": 0, "records": 0},
    ]
    assert Store(tmp_path / "merged").digests() == Store(folder).digests()
    call("pack", folder, tmp_path / "seeds.zip", "--bytes")
    with zipfile.ZipFile(tmp_path / "seeds.zip") as pack:
        assert len(pack.namelist()) == N


def test_minimize_keeps_the_coverage(folder: Path) -> None:
    def shown(programs: list[Program]) -> set[str]:
        return set().union(*(features(program, run_program(program)) for program in programs))

    store = Store(folder)
    for number in range(20):
        store.add_program(Uniform(2).run(number)[0])
    # One that shows nothing of its own: the beginning of another.
    whole = parse(next(text for _, text in store.programs()))
    store.add_program(Program(whole.machine, whole.ops[:3]))
    before = [parse(text) for _, text in store.programs()]
    numbers = told("minimize", folder)
    after = [parse(text) for _, text in store.programs()]
    assert shown(after) == shown(before)
    assert isinstance(numbers, dict)
    assert (numbers["before"], numbers["after"]) == (len(before), len(after))
    assert len(after) < len(before)
    assert numbers["features"] == len(shown(before))
    again = told("minimize", folder)
    assert isinstance(again, dict)
    assert again["after"] == len(after)


def test_a_cover_has_everything_and_nothing_superfluous() -> None:
    random = Random(3)
    near = 0
    for _ in range(60):
        sets = {str(i): {str(random.randrange(9)) for _ in range(random.randrange(1, 5))} for i in range(9)}
        lengths = {name: random.randrange(1, 50) for name in sets}
        kept = cover(sets, lengths)
        everything = set().union(*sets.values())
        assert set().union(*(sets[name] for name in kept)) == everything
        for name in kept:
            assert set().union(*(sets[other] for other in kept - {name})) != everything
        least = next(
            n
            for n in range(1, 10)
            if any(set().union(*(sets[s] for s in c)) == everything for c in combinations(sets, n))
        )
        near += len(kept) == least
    assert near >= 45  # greedy is not exact, but nearly so on small families


def test_a_corrupt_program_is_named_and_set_aside(folder: Path) -> None:
    victim = min(folder.glob("corpus/*/*.vmm"))
    victim.write_text("torn")
    result = call("stats", folder, "--json")
    assert json.loads(result.stdout)["programs"] == N - 1
    assert f"corrupt: {folder / 'corrupt' / victim.name}" in result.stderr


def test_wrong_folders(tmp_path: Path, folder: Path) -> None:
    result = call("stats", tmp_path / "none")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'none'} is no corpus")
    (tmp_path / "text").write_text("hello")
    assert "neither a folder nor a pack" in call("merge", folder, tmp_path / "text").stderr
    with locked(folder):
        assert "is being run by process" in call("minimize", folder).stderr
