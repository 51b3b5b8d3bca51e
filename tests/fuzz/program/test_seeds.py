"""The seed programs: canonical, explained, and using all of the language."""

from pathlib import Path

import pytest

from fuzz import program
from fuzz.program.operations import MACHINE, OPERATIONS, PAGE_SIZES

CORPUS = Path(__file__).resolve().parents[3] / "corpus"
SEEDS = sorted(CORPUS.glob("seeds/*.vmm"))


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_a_seed_is_canonical_and_says_where_it_comes_from(path: Path) -> None:
    seed = program.parse_file(path)
    assert program.format(seed) == path.read_text()
    assert program.repair(seed.machine, seed.ops) == seed.ops
    assert program.decode(program.encode(seed)) == seed.bare()
    starts = [line.split(":")[0] for line in seed.comments]
    assert starts[0] == "Origin"
    assert "Shows" in starts


def test_the_seeds_use_the_whole_language() -> None:
    seeds = [program.parse_file(path) for path in SEEDS]
    assert {op.name for seed in seeds for op in seed.ops} == set(OPERATIONS)
    for key in MACHINE:
        used = {getattr(seed.machine, key.name) for seed in seeds}
        assert used >= set(key.options)
    # A page size need not be used with each operation that takes one.
    choices = {
        ("" if option in PAGE_SIZES else operation.name, argument.name, option)
        for operation in OPERATIONS.values()
        for argument in operation.arguments
        for option in argument.options
    }
    used = {
        ("" if isinstance(value, int) and value in PAGE_SIZES else op.name, name, value)
        for seed in seeds
        for op in seed.ops
        for name, value in op.args.items()
        if not isinstance(value, tuple)
    }
    assert choices - used == set()
