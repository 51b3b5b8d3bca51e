"""The registry and docs/language.md say the same."""

from dataclasses import fields
from pathlib import Path

import pytest

from fuzz import program
from fuzz.program.arguments import Type, format_value
from fuzz.program.codec import WIDTH, encode
from fuzz.program.operations import BEFORE_BOOT, KINDS, MACHINE, MAKERS, OPERATIONS
from mm.machine import Machine

LANGUAGE = (Path(__file__).resolve().parents[3] / "docs" / "language.md").read_text()


def table(section: str) -> list[str]:
    """The rows of the table in a section, without its head."""
    lines = LANGUAGE.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines()
    return [line for line in lines if line.startswith("|")][2:]


def test_the_documented_operations_are_the_registered_ones() -> None:
    assert table("Operations") == [operation.row() for operation in OPERATIONS.values()]


def test_the_documented_machine_is_the_registered_one() -> None:
    documented = [row.split(" | ")[:3] for row in table("Machine")]
    assert documented == [[f"| {key.name}", key.values(), format_value(key, key.default)] for key in MACHINE]


def test_the_machine_keys_are_the_fields_of_machine() -> None:
    assert [(key.name, key.default) for key in MACHINE] == [(f.name, f.default) for f in fields(Machine)]


def test_the_documented_example_is_canonical() -> None:
    example = LANGUAGE.split("```\n")[1]
    assert program.format(program.parse(example)) == example


def test_a_handle_is_the_first_argument_and_named_by_its_kind() -> None:
    handles = [
        (position, argument.name)
        for operation in OPERATIONS.values()
        for position, argument in enumerate(operation.arguments)
        if argument.type is Type.HANDLE
    ]
    assert {position for position, _ in handles} == {0}
    assert {kind for _, kind in handles} == set(KINDS) == set(MAKERS)


def test_lists_of_ranges_come_in_pairs() -> None:
    for operation in OPERATIONS.values():
        starts = [a.name for a in operation.arguments if a.type is Type.ADDRESSES]
        assert [a.along for a in operation.arguments if a.type is Type.SIZES] == starts


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("boot", "boot"),
        ("memory online", "memory online m block=I [zone=kernel|movable|default]"),
        ("hugetlb map", "u = hugetlb map size=2M|1G|1M|16M|32M|512M|2G count=N [node=K]"),
        ("sysctl", "sysctl hugetlb_optimize_vmemmap=on|off"),
    ],
)
def test_usage(name: str, usage: str) -> None:
    assert OPERATIONS[name].usage() == usage


def test_make_op_fills_in_defaults_in_the_order_of_the_registry() -> None:
    op = program.make_op("pages alloc", "p0", movable=True, count=3)
    assert list(op.args.items()) == [("count", 3), ("node", 0), ("movable", True)]
    with pytest.raises(TypeError, match="pages alloc needs count"):
        program.make_op("pages alloc", "p0")
    with pytest.raises(TypeError, match="pages free has no argument count"):
        program.make_op("pages free", p="p0", count=1)


def test_every_operation_has_a_record() -> None:
    """The slots of each operation fit, and each is found again under its code."""
    for operation in OPERATIONS.values():
        texts = {
            "u": "u0 = hugetlb map size=2M count=1\n",
            "d": "d0 = dax create at=8G size=1G\n",
            "p": "p0 = pages alloc count=1\n",
            "m": "m0 = memory add at=8G size=128M\n",
        }
        values = {
            "count": "3",
            "to": "3",
            "nth": "3",
            "block": "3",
            "at": "5G",
            "hugetlb_optimize_vmemmap": "off",
            "memmap_on_memory": "off",
            "first": "3",
            "state": "unplugged",
            "driver": "kmem",
        }
        words = [operation.name]
        for argument in operation.arguments:
            if argument.type is Type.HANDLE:
                words.append(f"{argument.name}0")
            elif argument.required:
                words.append(f"{argument.name}={'1G' if argument.name == 'size' else values[argument.name]}")
        line = " ".join(words)
        if operation.makes:
            line = f"{operation.makes}0 = {line}"
        before = texts[operation.handle.name] if operation.handle else ""
        body = "boot\n" if operation.name == "boot" else f"boot\n{before}{line}\n"
        if operation.when == BEFORE_BOOT:
            body = f"{line}\nboot\n"
        one = program.parse(f"vmm 1\nmachine\n{body}")
        assert program.decode(encode(one)) == one
        assert len(encode(one)) % WIDTH == 0
