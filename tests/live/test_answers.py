"""Recorded answers: the words, the text, what is refused, and that a wrong model is seen by them."""

import array
from dataclasses import replace
from pathlib import Path

import pytest

from fuzz.program.model import Program, make_op
from fuzz.program.text import parse
from live.answers import Answer, Answers, AnswersError, digest, format_answers, parse_answers, read_answers
from live.beside import DAX_REUSE_THROUGH_LEAF, Beside
from live.choose import choose, cut
from live.compact import pack_entries, pack_folios, unpack_entries, unpack_folios
from live.compare import BOOT_TAIL_REFCOUNT
from live.folios import HugeFolio
from live.mirror import model_snapshot
from live.pagetable import Leaf
from live.placement import IMAGINARY
from live.recorded import Recorded, load, programs, replay
from live.recorder import Recorder
from live.snapshot import Pool, Snapshot
from mm.kernel import Kernel
from mm.machine import Machine
from reference.paths import SeparatePaths
from zoo import find, planted

M, G = 1 << 20, 1 << 30


def rw(*frames: int) -> list[int]:
    return [frame * 2 + 1 for frame in frames]


def ro(*frames: int) -> list[int]:
    return [frame * 2 for frame in frames]


ENTRIES = {
    "w1a0": rw(0x1A0),
    "r1a0": ro(0x1A0),
    "w1a0-1a3": rw(0x1A0, 0x1A1, 0x1A2, 0x1A3),
    "w1a3-1a0": rw(0x1A3, 0x1A2, 0x1A1, 0x1A0),
    "r99*9": ro(0x99) * 9,
    "w99*9": rw(0x99) * 9,
    "-*3": [-1] * 3,
    "h10-11:99": [*rw(0x10), *ro(0x99) * 7, *rw(0x11), *ro(0x99) * 7],
    "h11-10:99": [*rw(0x11), *ro(0x99) * 7, *rw(0x10), *ro(0x99) * 7],
    "p10-12": [*rw(0x10), *rw(0x11) * 7, *rw(0x12), *rw(0x13) * 7],
    "w10 w20*7": [*rw(0x10), *rw(0x20) * 7],
    "w5-6 -*1 w7": [*rw(5, 6), -1, *rw(7)],
}


@pytest.mark.parametrize("words", ENTRIES)
def test_words_of_page_table_entries(words: str) -> None:
    assert pack_entries(ENTRIES[words]) == words
    assert unpack_entries(words.split()) == ENTRIES[words]


@pytest.mark.parametrize("word", ["w", "x10", "w10-", "h10", "r-1", "w10*", "w0-ffffffff", ""])
def test_what_is_no_entry_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"page table entry|range"):
        unpack_entries([word])


def test_words_of_huge_pages_keep_the_order_of_the_lists() -> None:
    def page(n: int, after: int | None, free: bool = True, cma: bool = False) -> HugeFolio:
        follower = None if after is None else after << 9
        return HugeFolio(n << 9, 9, free, free, int(not free), follower, cma)

    free = [page(7, 8), page(8, 9), page(9, 3), page(3, None, cma=True)]
    used = [page(20, 19, free=False), page(19, None, free=False)]
    folios = {f.pfn: f for f in [*free, *used]}
    words = pack_folios(folios, 9)
    assert words == "fo0:7-9 foc0:3 | u-1:20-19"
    assert unpack_folios(words.split(), 9) == folios
    assert pack_folios(folios, 18) == ""
    stray = {9 << 9: HugeFolio(9 << 9, 9, False, True, 0, 0x1234)}
    assert unpack_folios(pack_folios(stray, 9).split(), 9) == stray


@pytest.mark.parametrize("word", ["f0:1", "fo:1", "fo0:", "fo0:1-", "zo0:1", ">12"])
def test_what_is_no_huge_page_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="no huge page"):
        unpack_folios([word], 9)


TEXT = """vmm 1
machine arch=x86_64 page=4K ram=1G nodes=1
boot
d0 = dax create at=0x48000000 size=128M
hugetlb resize size=2M to=3
sysctl hugetlb_optimize_vmemmap=off
hugetlb resize size=2M to=1
dax destroy d0
hugetlb dissolve at=0x8000000
"""
PAGES = [0x8000, 0x8200, 0xC000]


def as_seen(k: Kernel) -> Snapshot:
    """The model's state as a guest would show it: its frames from nowhere (live.placement) get numbers that fit."""
    out = model_snapshot(k)
    for section, entry in out.mapping.items():
        if isinstance(entry, Leaf):
            out.mapping[section] = Leaf(entry.frame % IMAGINARY, True)
        else:
            words = [pte % (IMAGINARY << 12) for pte in array.array("Q", entry)]
            out.mapping[section] = array.array("Q", words).tobytes()
    return out


def made() -> tuple[Program, Answers]:
    """A program, and answers that a kernel like the model would give: huge pages at PAGES, the last one surplus first
    to go.
    """
    program = parse(TEXT)
    first = Snapshot(pools={9: Pool([0], [0], [0], 0, 0), 18: Pool([0], [0], [0], 0, 0)})
    beside = Beside(program.machine, (), first)
    steps = [Answer(0, "boot", 0, as_seen(beside.model.kernel))]
    beside.seen = steps[0].seen
    for at, op in enumerate(program.ops[1:], 1):
        folios = {p: HugeFolio(p, 9, True, True, 0, n) for p, n in zip(PAGES, [*PAGES[1:], None], strict=True)}
        told = Snapshot(folios=folios, pools=first.pools) if at == 2 else beside.seen
        rc = beside.run(op, told)
        assert isinstance(rc, int)
        beside.seen = as_seen(beside.model.kernel)
        steps.append(Answer(at, op.name, rc, beside.seen))
    return program, Answers("7.3.4", "by the model", digest(program), tuple(steps))


def test_text_and_back() -> None:
    program, answers = made()
    text = format_answers(answers)
    assert parse_answers(text, program=program, kernel="7.3") == answers
    assert replay(Recorded(Path("x"), program, answers)).finding is None


def test_a_step_tells_what_changed_and_no_more() -> None:
    _, answers = made()
    lines = format_answers(answers).splitlines()
    at = lines.index("step 3 returned 0: sysctl")
    assert lines[at + 1].startswith("step 4 returned 0: hugetlb resize")
    begin = lines.index("step 1 returned 0: dax create")
    # 64 pages of 2M with two vmemmap pages each (mm/sparse-vmemmap.c, vmemmap_populate_compound_pages).
    assert "counters nr_memmap=128" in " ".join(lines[begin : begin + 2])


def other(answers: Answers, at: int, **changes: object) -> Answers:
    """The answers with one snapshot changed."""
    steps = list(answers.steps)
    steps[at] = steps[at]._replace(seen=replace(steps[at].seen, **changes))  # type: ignore[arg-type]
    return replace(answers, steps=tuple(steps))


def first_difference(program: Program, answers: Answers) -> tuple[int, str] | None:
    out = replay(Recorded(Path("x"), program, answers))
    return None if out.finding is None else (out.operations, out.finding.field)


def test_a_kernel_that_says_something_else_is_seen() -> None:
    program, answers = made()
    seen = answers.steps[2].seen
    assert first_difference(program, other(answers, 2, nr_memmap=seen.nr_memmap + 1)) == (2, "nr_memmap")
    assert first_difference(program, other(answers, 2, mapping={**seen.mapping, 3: seen.mapping[2]})) == (2, "sharing")
    assert first_difference(program, other(answers, 2, complaints=["BUG: Bad page state"])) == (2, "log")
    assert first_difference(program, other(answers, 0, nr_memmap_boot=1)) == (0, "nr_memmap_boot")
    pools = {**seen.pools, 9: Pool([2], [3], [0], 0, 0)}
    assert first_difference(program, other(answers, 2, pools=pools)) == (2, "nr_hugepages.9")


def lines_of(answers: Answers) -> list[str]:
    return format_answers(answers).splitlines()


BAD = {
    "no answers": ("vmm 1", 1, "expected a line `vmm-answers"),
    "newer format": (
        "vmm-answers 2",
        1,
        "answers of format 2, which is newer than this program (1); expected",
    ),
    "another kernel": ("kernel 6.12.117", 2, "answers of Linux 6.12.117; the reference models Linux 7.3"),
    "another program": ("program 0000000000000000", 4, "it was changed"),
    "another operation": ("step 0 returned 0: reserve", 5, "operation 0 of the program is boot, not reserve"),
    "no number": ("step 0 returned x: boot", 5, "invalid literal"),
    "no line": ("hello", 6, "'hello' is no answer; expected counters"),
    "no counter": ("counters nr_free=3", 6, "'nr_free' is no counter"),
    "no size": ("pool 4M nr=1", 6, "expected a size of huge pages"),
    "no pool": ("pool 2M no=1", 6, "'no' is no counter of a pool"),
    "no table": ("map 3 0 w1", 6, "1 entries from 0 on do not make a table of 512"),
    "no entry": ("map 3 0 q", 6, "'q' is no page table entry"),
    "no leaf": ("map 3-4 leaf 100-200", 6, "does not give frames of 2 leaves"),
    "no block": ("block 3", 6, "expected `block NUMBER STATE`"),
    "no page": ("pages 2M x", 6, "'x' is no huge page"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named(name: str) -> None:
    line, number, message = BAD[name]
    program, answers = made()
    lines = lines_of(answers)
    lines[number - 1] = line
    with pytest.raises(AnswersError) as error:
        parse_answers("\n".join(lines) + "\n", "x.answers", program, "7.3")
    assert str(error.value).startswith(f"x.answers:{number}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_answers_that_are_cut_off_are_named() -> None:
    program, answers = made()
    lines = lines_of(answers)
    for n in range(1, len(lines)):
        with pytest.raises(AnswersError, match=rf"^x:{n + 1}: the file is cut off"):
            parse_answers("\n".join(lines[:n]) + "\n", "x", program)
    last = max(n for n, line in enumerate(lines) if line.startswith("step"))
    with pytest.raises(AnswersError, match=rf"^x:{last + 1}: no answer to operation 6 of 7"):
        parse_answers("\n".join([*lines[:last], "end"]) + "\n", "x", program)
    with pytest.raises(AnswersError, match="nothing may follow"):
        parse_answers("\n".join([*lines, "end"]) + "\n", "x", program)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.answers"
    with pytest.raises(AnswersError, match=r"x\.answers: No such file"):
        read_answers(file)
    file.write_bytes(b"vmm-answers \xff")
    with pytest.raises(AnswersError, match="no text"):
        read_answers(file)
    (tmp_path / "x.vmm").write_text(TEXT)
    file.unlink()
    with pytest.raises(AnswersError, match=r"there are no recorded answers"):
        programs([tmp_path])
    with pytest.raises(AnswersError, match=r"there is no x\.answers beside it"):
        load(tmp_path / "x.vmm")


def test_what_is_kept_can_be_loaded(tmp_path: Path) -> None:
    program, answers = made()
    recorder = Recorder(tmp_path / "new", "live run", "tcg")
    recorder.prepare()
    recorder.keep("x", program, "7.3.4", list(answers.steps))
    kept = load(tmp_path / "new" / "x.vmm")
    assert kept.program == program
    assert kept.answers.steps == answers.steps
    assert kept.answers.made == "live run (program x, tcg)"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["x.answers", "x.vmm"]


def test_what_the_guest_did_not_live_to_answer_is_left_out(tmp_path: Path) -> None:
    program, answers = made()
    recorder = Recorder(tmp_path, "live run", "tcg")
    recorder.keep("x", program, "7.3.4", list(answers.steps[:3]))
    assert [op.name for op in load(tmp_path / "x.vmm").program.ops] == ["boot", "dax create", "hugetlb resize"]


def test_nothing_is_kept_of_failed_allocations(tmp_path: Path) -> None:
    program, answers = made()
    failing = Program(program.machine, (*program.ops, make_op("fail alloc", nth=1)))
    Recorder(tmp_path, "live run", "tcg").keep("x", failing, "7.3.4", list(answers.steps))
    assert not list(tmp_path.iterdir())


def test_choosing_keeps_one_of_two_alike_and_cuts_behind_what_is_new() -> None:
    program, answers = made()
    one = Recorded(Path("a.vmm"), program, answers)
    again = Recorded(Path("b.vmm"), program, answers)
    short = cut(Recorded(Path("c.vmm"), program, answers), 3)
    assert [r.path.name for r in choose([one, again, short])] in (["a.vmm"], ["b.vmm"])
    assert [op.name for op in short.program.ops] == ["boot", "dax create", "hugetlb resize"]
    assert short.answers.made == "by the model, cut behind operation 2"
    assert parse_answers(format_answers(short.answers), program=short.program) == short.answers


def test_a_defect_of_the_reference_is_seen() -> None:
    """ACC-2026-03: memory map pages of device DAX are counted as if none were shared."""
    program, answers = made()
    with planted(find("ACC-2026-03")):
        out = replay(Recorded(Path("x"), program, answers))
    assert out.finding is not None
    assert (out.operations, out.finding.field) == (1, "nr_memmap")


def test_only_as_many_operations_as_wanted() -> None:
    program, answers = made()
    wrong = other(answers, 5, nr_memmap=7)
    recorded = Recorded(Path("x"), program, wrong)
    assert replay(recorded, SeparatePaths, 4).finding is None
    assert replay(recorded, SeparatePaths, 5).finding is not None


def test_a_stale_count_explains_what_cannot_be_poisoned() -> None:
    """take_page_off_buddy (mm/page_alloc.c) stops at a count above 0, which tails of gigantic boot pages have but for
    those in the first vmemmap page, 64 struct pages of 64 bytes.
    """
    beside = Beside(Machine(ram=G), (), Snapshot(pools={9: Pool([0], [0], [0], 0, 0)}))
    beside.comparison.boot_hvo = {0x8000}
    for name in ("memory hard_offline", "memory soft_offline"):
        op = make_op(name, at=0x8000 + 64 << 12)
        assert beside.deviation(op, 0, -16) == BOOT_TAIL_REFCOUNT
        assert beside.deviation(op, 0, -5) == ""
        assert beside.deviation(op, -16, 0) == ""
        assert beside.deviation(make_op(name, at=0x8000 + 63 << 12), 0, -16) == ""
        assert beside.deviation(make_op(name, at=0x7FFF << 12), 0, -16) == ""
    assert beside.deviation(make_op("hugetlb dissolve", at=0x8000 + 64 << 12), 0, -16) == ""


def test_the_replay_ends_where_the_kernel_deviates() -> None:
    """Only with the note that the recorder made, and only if the model agrees that this is it."""
    program, answers = made()
    steps = list(answers.steps)
    for deviation, operations in (("", 5), (DAX_REUSE_THROUGH_LEAF, 5)):
        steps[5] = steps[5]._replace(returned=-16, deviation=deviation)
        out = replay(Recorded(Path("x"), program, replace(answers, steps=tuple(steps))))
        assert out.operations == operations
        assert out.finding is not None
