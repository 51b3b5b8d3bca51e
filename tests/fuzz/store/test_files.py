"""Content-addressed files: named by content, merged by union, corrupt ones set aside."""

from pathlib import Path

import pytest

from fuzz.program.text import format as format_program
from fuzz.program.text import parse_file
from fuzz.store.files import PART, Store, digest_of, pending, put
from fuzz.store.journal import Journal

ROOT = Path(__file__).resolve().parents[3]
SEEDS = [parse_file(path).bare() for path in sorted((ROOT / "corpus" / "seeds").glob("*.vmm"))]

RECORD = {"stage": "found", "signature": "a|b", "program": "vmm 1\n"}


def store(folder: Path, *numbers: int) -> Store:
    made = Store(folder)
    made.make()
    for number in numbers:
        made.add_program(SEEDS[number])
    return made


def test_a_program_is_named_by_its_content(tmp_path: Path) -> None:
    kept = store(tmp_path)
    digest, new = kept.add_program(SEEDS[0])
    assert new
    assert digest == digest_of(format_program(SEEDS[0]))
    assert kept.path_of(digest).read_text() == format_program(SEEDS[0])
    assert kept.add_program(format_program(SEEDS[0])) == (digest, False)
    assert list(kept.programs()) == [(digest, format_program(SEEDS[0]))]


@pytest.mark.parametrize("damage", [b"", b"vmm 1\n", b"\xff\xfe\x00"])
def test_a_corrupt_file_is_set_aside_and_the_rest_is_read(damage: bytes, tmp_path: Path) -> None:
    kept = store(tmp_path, 0, 1, 2)
    name = sorted(kept.digests())[1]
    kept.path_of(name).write_bytes(damage)
    assert {digest for digest, _ in kept.programs()} == {digest_of(format_program(SEEDS[i])) for i in range(3)} - {name}
    assert [entry.path.name for entry in kept.corrupt] == [f"{name}.vmm"]
    assert (tmp_path / "corrupt" / f"{name}.vmm").read_bytes() == damage
    # Its place is free for the program itself.
    text = next(format_program(p) for p in SEEDS[:3] if digest_of(format_program(p)) == name)
    assert kept.add_program(text) == (name, True)


def test_merge_is_union_and_takes_no_corrupt_file(tmp_path: Path) -> None:
    one, two = store(tmp_path / "one", 0, 1, 2), store(tmp_path / "two", 2, 3)
    one.add_record(RECORD)
    two.add_record(RECORD)
    two.add_record({**RECORD, "signature": "other"})
    bad = digest_of(format_program(SEEDS[3]))
    assert one.merge(two) == (1, 1)
    assert one.merge(two) == (0, 0)
    assert len(one.digests()) == 4
    assert len(one.records()) == 2
    two.path_of(bad).write_text("torn")
    three = store(tmp_path / "three")
    assert three.merge(two) == (1, 2)
    assert bad not in three.digests()


def test_records_are_never_changed_and_damage_shows(tmp_path: Path) -> None:
    kept = store(tmp_path)
    first = kept.add_record(RECORD)
    assert kept.add_record(dict(RECORD)) == first
    assert kept.records() == {first: RECORD}
    (kept.findings / f"{first}.json").write_text("{")
    assert kept.records() == {}
    assert len(kept.corrupt) == 1


def test_what_waits_is_what_no_report_names() -> None:
    records = {
        "f1": {"stage": "found"},
        "f2": {"stage": "found"},
        "r1": {"stage": "report", "of": "f1"},
        "q": {"stage": "quarantine"},
    }
    assert pending(records) == {"f2": records["f2"]}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "file", b"old")

    def no_room(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_room)
    with pytest.raises(OSError, match="No space"):
        put(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_leftovers_of_a_kill_are_tidied_up(tmp_path: Path) -> None:
    kept = store(tmp_path, 0)
    leftover = kept.corpus / f"{PART}123-x.vmm"
    leftover.write_bytes(b"half")
    kept.make()
    assert not leftover.exists()
    assert len(kept.digests()) == 1


def test_a_torn_line_costs_one_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "lines")
    journal.add({"n": 1})
    with (tmp_path / "lines").open("a") as file:
        file.write('{"n": 2, "text": "cut o')  # killed here
    journal.add({"n": 3})
    assert [line["n"] for line in journal.lines()] == [1, 3]
    assert list(Journal(tmp_path / "none").lines()) == []


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    """A reader that took half a file for a corrupt one would set it aside, and the writer could not rename it."""
    kept = store(tmp_path, 0)
    record = kept.add_record({"stage": "found", "signature": "s"})
    parts = [kept.corpus / f"{PART}123-{'a' * 64}.vmm", kept.findings / f"{PART}123-{'b' * 64}.json"]
    for part in parts:
        part.write_text("half")
    assert kept.digests() == {digest for digest, _ in kept.programs()}
    assert kept.records().keys() == {record}
    assert kept.merge(kept) == (0, 0)
    assert kept.corrupt == []
    assert all(part.exists() for part in parts)
