"""Bytes: every string is a program, every program is a string."""

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import example, given
from hypothesis import strategies as st

from fuzz import program
from fuzz.program import Program, decode, encode, parse
from fuzz.program.codec import EXTENSION, RESERVE, WIDTH
from fuzz.program.operations import AFTER_BOOT, OPERATIONS
from fuzz.program.strategies import programs
from mm.machine import Machine


@given(st.binary(max_size=40 * WIDTH))
@example(b"")
@example(b"\xff" * 40)
@example(bytes([EXTENSION]) * 5 * WIDTH)
@example(bytes(WIDTH) + bytes([RESERVE]) * 4 * WIDTH)
def test_any_bytes_are_a_legal_program(data: bytes) -> None:
    one = decode(data)
    assert parse(program.format(one)) == one
    assert decode(encode(one)) == one


@given(programs())
def test_no_program_is_lost(one: Program) -> None:
    assert decode(encode(one)) == one


def test_comments_and_names_are_not_carried() -> None:
    text = "vmm 1\n# why\nmachine\nboot # now\n{0} = pages alloc count=1\npages free {0}\n# end\n"
    assert decode(encode(parse(text.format("some")))) == parse(text.format("p0")).bare()


def test_more_handles_than_a_byte_counts() -> None:
    lines = ["vmm 1", "machine", "boot", *(f"p{i} = pages alloc count=1" for i in range(300)), "pages free p290"]
    one = parse("\n".join(lines))
    assert decode(encode(one)) == one


def test_empty_bytes_are_the_default_machine() -> None:
    assert decode(b"") == parse("vmm 1\nmachine\nboot\n")
    assert decode(b"").machine == Machine()


@given(programs(max_ops=10), st.data())
def test_operations_are_records(one: Program, data: st.DataObject) -> None:
    """Appending the records of one operation appends that operation, whatever stands before."""
    encoded = encode(one)
    assert len(encoded) % WIDTH == 0
    longer = replace(one, ops=(*one.ops, *parse("vmm 1\nmachine\nboot\nhugetlb demote size=1G count=3\n").ops[1:]))
    assert encode(longer)[: len(encoded)] == encoded
    assert len(encode(longer)) == len(encoded) + WIDTH


def test_random_bytes_are_plausible() -> None:
    """Random bytes reach every operation often, mostly with live handles and addresses where something is."""
    rng = Random(7)
    ops = [op for _ in range(300) for op in decode(rng.randbytes(40 * WIDTH)).ops]
    names = Counter(op.name for op in ops)
    assert set(names) == set(OPERATIONS)
    assert all(names[name] >= len(ops) / 100 for name, op in OPERATIONS.items() if op.when == AFTER_BOOT)
    adds = [op for op in ops if op.name == "memory add"]
    aligned = [op for op in adds if not op.args["at"] % (128 << 20) and not op.args["size"] % (128 << 20)]
    assert len(aligned) > len(adds) / 4
    creates = [op for op in ops if op.name == "dax create"]
    assert any(len(op.args["at"]) > 1 for op in creates)
