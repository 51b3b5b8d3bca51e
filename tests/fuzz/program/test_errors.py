"""What a wrong file is told: the exact text, place and caret."""

from pathlib import Path

import pytest

from fuzz.program import ProgramError, parse, parse_file
from fuzz.program.text import MAX_BYTES

HEAD = "vmm 1\nmachine ram=4G\nboot\n"


def told(text: str | bytes) -> str:
    """What the error says, without the name of the file."""
    with pytest.raises(ProgramError) as caught:
        parse(text, "f")
    return str(caught.value).removeprefix("f:").strip()


def wrong(line: str) -> str:
    """What is said of one line behind a good head: column, message, and the column of the caret must agree."""
    with pytest.raises(ProgramError) as caught:
        parse(HEAD + line + "\nhugetlb resize size=2M to=0\n", "f")
    error = caught.value
    number = 4 + line.count("\n")
    assert error.line == number
    head, shown, caret = str(error).split("\n")
    assert shown == "  " + line.split("\n")[-1]
    assert caret.index("^") - 2 == error.column - 1
    return head.removeprefix(f"f:{number}:")


def test_the_whole_message() -> None:
    with pytest.raises(ProgramError) as caught:
        parse(HEAD + "hugetlb resize size=2M too=16  # grow\n", "repro.vmm")
    assert str(caught.value) == (
        "repro.vmm:4:24: hugetlb resize has no argument 'too', did you mean 'to'?\n"
        "  hugetlb resize size=2M too=16  # grow\n"
        "                         ^"
    )
    error = caught.value
    assert (error.file, error.line, error.column) == ("repro.vmm", 4, 24)
    assert error.source == "hugetlb resize size=2M too=16  # grow"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hugetlb rezise size=2M to=3", "1: unknown operation 'hugetlb rezise', did you mean 'hugetlb resize'?"),
        ("hugepages resize size=2M to=3", "1: unknown operation 'hugepages', did you mean 'hugetlb resize'?"),
        ("systcl hugetlb_optimize_vmemmap=on", "1: unknown operation 'systcl', did you mean 'sysctl'?"),
        ("dax size=1G", "1: unknown operation 'dax', did you mean 'dax set'?"),
        ("d0 =", "5: the operation is missing; expected 'd0 = operation ...'"),
        ("d0=dax create at=8G size=1G", "1: the '=' of a result stands between spaces; expected 'd0 = dax ...'"),
        ("vmm 1", "1: a second version line; expected an operation"),
        ("machine ram=4G", "1: a second machine line; expected operations from here on"),
        ("boot", "1: a second boot, the first one is in line 3; expected one boot"),
        ("reserve size=1G count=1", "1: reserve after boot; expected reserve before line 3"),
        ("boot now", "1: a second boot, the first one is in line 3; expected one boot"),
    ],
)
def test_operations(line: str, said: str) -> None:
    assert wrong(line) == said


def test_an_unlike_operation_gets_the_list() -> None:
    assert wrong("zzz").startswith("1: unknown operation 'zzz'; expected one of reserve, reserve cma, boot, ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "hugetlb resize size=2M",
            "23: hugetlb resize needs to=; expected 'hugetlb resize size=2M|1G|1M|16M|32M|512M|2G to=N [node=K]'",
        ),
        ("hugetlb resize size=2M size=1G to=3", "24: size is given twice"),
        ("hugetlb resize size=4M to=3", "21: size cannot be 4M; expected one of 2M, 1G, 1M, 16M, 32M, 512M, 2G"),
        (
            "hugetlb resize size=2MB to=3",
            "21: unknown unit 'MB' in size=2MB; expected M (units are K, M, G and T, in capitals)",
        ),
        ("hugetlb resize size=2x to=3", "21: unknown unit 'x' in size=2x; expected K, M, G or T"),
        (
            "hugetlb resize size=2M to=16K",
            "27: to is a number of huge pages and takes no unit, not 'K'; expected a number from 0 up",
        ),
        ("hugetlb resize size=2M to=-1", "27: to cannot be '-1'; expected a number from 0 up"),
        ("hugetlb resize size=2M to=", "27: to is missing its value; expected a number from 0 up"),
        ("hugetlb resize size=2M to 3", "24: unexpected 'to'; expected an argument, as name=value"),
        ("hugetlb resize size=2M to=3 =4", "29: '=' without a name before it; expected name=value, without spaces"),
        (
            "hugetlb resize size=2M to=3 node=all",
            "34: node cannot be 'all'; expected a number from 0 up, or none",
        ),
        (
            "p0 = pages alloc count=1 node=none",
            "31: node cannot be 'none'; expected a number from 0 up",
        ),
        (
            "hugetlb dissolve at=9223372036854775808",
            "21: at=9223372036854775808 is too big; expected a number below 2**63",
        ),
        (
            "hugetlb dissolve at=0x8000000000000000",
            "21: at=0x8000000000000000 is too big; expected a number below 2**63",
        ),
        ("hugetlb dissolve at=8388608T", "21: at=8388608T is too big; expected a number below 2**63"),
        (
            "sysctl hugetlb_optimize_vmemmap=1",
            "33: hugetlb_optimize_vmemmap='1' is neither on nor off; expected on or off",
        ),
        ("memory online ram0 block=0 zone=dma", "33: zone cannot be 'dma'; expected one of kernel, movable, default"),
        ("fail alloc nth=0", "16: nth cannot be 0; expected a number from 1 up"),
        (
            "d0 = dax create at=8G,9G size=1G",
            "26: size has 1 entry, at has 2; expected as many of one as of the other",
        ),
        (
            "d0 = dax create at=8G, size=1G",
            "20: at is missing its value; expected addresses such as 0x140000000,0x180000000",
        ),
        ("hugetlb resize hugetlb=1", "16: hugetlb resize has no argument 'hugetlb'; expected size, to, node"),
    ],
)
def test_arguments(line: str, said: str) -> None:
    assert wrong(line) == said


@pytest.mark.parametrize("digits", ["9" * 10_000, "0x" + "f" * 10_000])
def test_a_number_of_ten_thousand_digits(digits: str) -> None:
    with pytest.raises(ProgramError, match="is too big"):
        parse(f"{HEAD}hugetlb dissolve at={digits}\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("memory online m0 block=0", "15: 'm0' is not made before this line, did you mean 'ram0'?"),
        ("memory online x9 block=0", "15: 'x9' is not made before this line (here: ram0, ram1)"),
        ("dax destroy d0", "13: 'd0' is not made before this line, and there is no DAX device here"),
        ("dax destroy ram0", "13: ram0 is a memory range, and there is no DAX device here; expected a DAX device"),
        ("dax destroy D0", "13: 'D0' is not a handle; expected a DAX device, a name such as d0"),
        ("dax destroy d=d0", "13: a handle is written without d=; expected 'dax destroy d0'"),
        (
            "dax destroy",
            "12: dax destroy needs a DAX device, and there is no DAX device here; expected 'dax destroy d'",
        ),
        (
            "memory offline block=1",
            "23: memory offline needs a memory range (here: ram0, ram1); expected 'memory offline m block=I'",
        ),
        ("memory remove ram0 ram1", "20: unexpected 'ram1'; expected the end of the line"),
        (
            "dax create at=8G size=1G",
            (
                "1: dax create makes a handle, which needs a name; expected 'd = dax create at=ADDR[,ADDR…] "
                "size=SIZE[,SIZE…] [align=4K|2M|1G|16K|64K|1M|16M|32M|512M] [altmap=on|off] [node=K] "
                "[driver=devdax|fsdev|kmem]'"
            ),
        ),
        (
            "h0 = sysctl hugetlb_optimize_vmemmap=on",
            "1: sysctl makes no handle; expected 'sysctl hugetlb_optimize_vmemmap=on|off'",
        ),
        (
            "D0 = dax create at=8G size=1G",
            "1: 'D0' is not a name; expected small letters, digits and _, a letter first",
        ),
        ("ram0 = memory add at=8G size=1G", "1: ram0 is already made in the boot memory; expected a new name"),
        ("ram9 = memory add at=8G size=1G", "1: the name ram9 is kept for boot memory; expected another name"),
        ("a = pages alloc count=1\na = pages alloc count=1", "1: a is already made in line 4; expected a new name"),
        (
            "a = pages alloc count=1\npages free a\npages free a",
            "12: a is gone since line 5, and there is no page allocation here",
        ),
        (
            "a = pages alloc count=1\npages free a\na = pages alloc count=1",
            "1: a is already made in line 4; expected a new name",
        ),
    ],
)
def test_handles(line: str, said: str) -> None:
    assert wrong(line) == said


def test_a_removed_range_can_still_be_named() -> None:
    """Whether a removal succeeds is not known from the text."""
    one = parse(HEAD + "m0 = memory add at=8G size=1G\nmemory remove m0\nmemory online m0 block=0\n")
    assert one.ops[-1].args["m"] == "m0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty; expected a program, whose first line is 'vmm 1'"),
        (" \n\n", "the file is empty; expected a program, whose first line is 'vmm 1'"),
        ("boot\n", "1:1: this is not a program; expected 'vmm 1' on the first line\n  boot\n  ^"),
        ("# x\nvmm 1\n", "1:1: this is not a program; expected 'vmm 1' on the first line\n  # x\n  ^"),
        ("vmm\n", "1:4: the language version is missing; expected 'vmm 1' on the first line\n  vmm\n     ^"),
        ("vmm x\n", "1:5: 'x' is not a language version; expected a number from 1 to 1\n  vmm x\n      ^"),
        ("vmm 0\n", "1:5: '0' is not a language version; expected a number from 1 to 1\n  vmm 0\n      ^"),
        (
            "vmm 2\n",
            "1:5: the file is in language version 2, this program reads versions up to 1\n  vmm 2\n      ^",
        ),
        ("vmm 1 x\n", "1:7: unexpected 'x' after the version; expected the end of the line\n  vmm 1 x\n        ^"),
        (
            "vmm 1\n",
            "1:6: the file ends before the machine line; expected 'machine ...' on the second line\n  vmm 1\n       ^",
        ),
        (
            "vmm 1\nboot\n",
            "2:1: the machine line is missing; expected 'machine ...' before the first operation\n  boot\n  ^",
        ),
        (
            "vmm 1\nmachine\nreserve size=2M count=1\n",
            (
                "3:24: the file ends before 'boot'; expected 'boot' after the reserves\n"
                "  reserve size=2M count=1\n                         ^"
            ),
        ),
        (
            "vmm 1\nmachine\nhugetlb resize size=2M to=1\n",
            "3:1: hugetlb resize before boot; expected reserve or boot\n  hugetlb resize size=2M to=1\n  ^",
        ),
        (
            "vmm 1\nmachine ram=511M\n",
            "2:13: ram cannot be 511M; expected 512M to 64T, multiple of 2M\n  machine ram=511M\n              ^",
        ),
        (
            "vmm 1\nmachine arch=s390x page=16K\nboot\n",
            "2:20: s390x has no pages of 16K; expected page=4K\n  machine arch=s390x page=16K\n                     ^",
        ),
        (
            "vmm 1\nmachine node=2\n",
            "2:9: the machine has no argument 'node', did you mean 'nodes'?\n  machine node=2\n          ^",
        ),
        (
            "vmm 1\nmachine nodes=3\n",
            "2:15: nodes cannot be 3; expected one of 1, 2\n  machine nodes=3\n                ^",
        ),
    ],
)
def test_files(text: str, said: str) -> None:
    assert told(text) == said


def test_binary_files() -> None:
    assert told(b"vmm 1\nmach\0ine\n").startswith("2:5: this is a binary file: there is a NUL byte; expected the text")
    assert told(b"vmm 1\nma\xffchine\n").startswith("2:3: this is a binary file: byte 0xff is not UTF-8; expected")
    assert told("vmm 1\0") == told(b"vmm 1\0")


def test_an_oversized_file(tmp_path: Path) -> None:
    path = tmp_path / "big.vmm"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ProgramError, match=r"big\.vmm: the file is larger than 1M; expected a program"):
        parse_file(path)


def test_every_prefix_of_a_file_is_a_program_or_is_told_where_it_ends() -> None:
    text = HEAD + "d0 = dax create at=8G size=1G # x\nmemory online ram0 block=1\ndax destroy d0"
    good = [length for length in range(len(text) + 1) if legal(text[:length])]
    # Behind the boot, the comment, a number cut short, and each whole line.
    cuts = ["boot", "boot\n", "size=1", "size=1G", "size=1G ", "# ", "# x", "# x\n", "#", "block=1", "block=1\n", "d0"]
    assert [length for length in good if not text[:length].endswith(tuple(cuts))] == []
    assert len(good) == len(cuts)


def legal(text: str) -> bool:
    """Whether it is a program; if not, the error must be in the last line of what is there."""
    try:
        parse(text)
    except ProgramError as error:
        last = text.rstrip("\n").count("\n") + 1 if text else 0
        if (error.line, error.column <= len(error.source) + 1) != (last, True):
            raise AssertionError(text) from error
        return False
    return True


def test_a_long_line_is_shown_around_its_fault() -> None:
    with pytest.raises(ProgramError) as caught:
        parse(f"{HEAD}hugetlb dissolve {' ' * 5000}att=5G\n")
    _, shown, caret = str(caught.value).split("\n")
    assert len(shown) < 200
    assert shown[caret.index("^") :].startswith("att=5G")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        parse_file(tmp_path / "none.vmm")
