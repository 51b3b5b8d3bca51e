"""Text: every spelling is read, one is written, nothing is lost."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz import program
from fuzz.program import Op, Program, make_op
from fuzz.program.arguments import G, M
from fuzz.program.strategies import comments, programs
from mm.machine import Machine

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True).filter(lambda name: not name.startswith("ram"))


@given(programs())
@example(Program(Machine(), (Op("boot"),)))
def test_parse_reads_what_format_writes(one: Program) -> None:
    text = program.format(one)
    assert program.parse(text) == one
    assert program.parse(text.encode()) == one
    assert program.format(program.parse(text)) == text


@given(programs(max_ops=5), st.data())
def test_comments_and_names_are_kept(one: Program, data: st.DataObject) -> None:
    def some() -> tuple[str, ...]:
        return tuple(data.draw(st.lists(comments(), max_size=2)))

    made = [op.result for op in one.ops if op.result]
    names = dict(
        zip(made, data.draw(st.lists(NAMES, min_size=len(made), max_size=len(made), unique=True)), strict=True)
    )
    ops = tuple(
        Op(
            op.name,
            {key: names.get(value, value) if isinstance(value, str) else value for key, value in op.args.items()},
            names[op.result] if op.result else None,
            data.draw(comments()),
            some(),
        )
        for op in one.ops
    )
    dressed = replace(one, ops=ops, comments=some(), footer=some())
    assert program.parse(program.format(dressed)) == dressed
    assert replace(dressed.bare(), ops=program.repair(one.machine, dressed.bare().ops)) == one


def test_spellings() -> None:
    loose = (
        "vmm 1 # by hand\r\n\r\n#about\n\tmachine   nodes=1 ram=0x100000000 # four\n"
        "boot#now\n  m0 =  memory add node=0 size=1024K at=5G\n"
        "hugetlb resize to=0x10 node=none size=2048K\n#\n# the end"
    )
    assert program.format(program.parse(loose)) == (
        "vmm 1\n# by hand\n# about\n# four\nmachine arch=x86_64 page=4K ram=4G nodes=1\n"
        "boot  # now\nm0 = memory add at=0x140000000 size=1M\n"
        "hugetlb resize size=2M to=16\n#\n# the end\n"
    )


def test_a_byte_order_mark_is_ignored() -> None:
    assert program.parse(b"\xef\xbb\xbfvmm 1\nmachine\nboot\n") == Program(Machine(), (Op("boot"),))


def test_keys_of_the_machine_that_differ_are_written() -> None:
    machine = Machine(ram=4160 * M, nodes=2, deferred_init=False, memmap_on_memory="force")
    text = program.format(Program(machine, (Op("boot"),)))
    assert text == (
        "vmm 1\nmachine arch=x86_64 page=4K ram=4160M nodes=2 deferred_init=off memmap_on_memory=force\nboot\n"
    )


def test_arguments_hold_python_values() -> None:
    text = (
        "vmm 1\nmachine\nreserve size=1G count=2\nboot\nd0 = dax create at=8G,0x300000000 size=1G,2M\ndax destroy d0\n"
    )
    reserve, _, create, destroy = program.parse(text).ops
    assert reserve == make_op("reserve", size=G, count=2, node=None)
    assert create == make_op("dax create", "d0", at=(8 * G, 12 * G), size=(G, 2 * M), align=2 * M, altmap=False, node=0)
    assert destroy.args == {"d": "d0"}
    assert hash(create) == hash(make_op("dax create", "d0", at=(8 * G, 12 * G), size=(G, 2 * M)))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1, "1"),
        (4096, "4K"),
        (1025, "1025"),
        (1536 * M, "1536M"),
        (1 << 44, "16T"),
        (2**63 - 1, str(2**63 - 1)),
    ],
)
def test_canonical_sizes(size: int, text: str) -> None:
    line = program.format_op(make_op("memory add", "m0", at=0, size=size))
    assert line == f"m0 = memory add at=0x0 size={text}"
