"""What `vmemmap-fuzz corpus` does with the programs and findings of a campaign's folder."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from fuzz.campaign.rebuild import features_of, program_row, record_rows
from fuzz.campaign.settings import SETTINGS, CampaignError, Settings
from fuzz.program.codec import decode, encode
from fuzz.program.text import parse
from fuzz.store.files import Store, canonical, put
from fuzz.store.index import NAME

EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip file can hold: equal corpora make equal packs."""


def opened(folder: Path, *, make: bool = False) -> Store:
    """The store in a folder; raises CampaignError if there is none and none is to be made."""
    store = Store(folder)
    if make:
        store.make()
    elif not store.corpus.is_dir():
        raise CampaignError(f"{folder} is no corpus: there is no folder {store.corpus}")
    return store


def settings_of(folder: Path) -> Settings:
    """Of the campaign in a folder; the usual ones where it is only a corpus."""
    return Settings.load(folder) if (folder / SETTINGS).exists() else Settings()


def stats(store: Store) -> dict[str, Any]:
    """Numbers about programs and findings."""
    rows = [program_row(digest, text) for digest, text in store.programs()]
    lengths = sorted(row["operations"] for row in rows)
    findings = Counter(row["status"] for row in record_rows(store.records()))
    return {
        "programs": len(rows),
        "operations": sum(lengths),
        "shortest": lengths[0] if lengths else 0,
        "median": median(lengths) if lengths else 0,
        "longest": lengths[-1] if lengths else 0,
        "architectures": dict(sorted(Counter(row["arch"] for row in rows).items())),
        "findings": dict(sorted(findings.items())),
        "corrupt": len(store.corrupt),
    }


def merge(into: Store, source: Path) -> tuple[int, int]:
    """Take over what a folder or a pack has and `into` has not: numbers of programs and of records."""
    if not source.is_file():
        other = opened(source)
        counts = into.merge(other)
        into.corrupt += other.corrupt
        return counts
    with tempfile.TemporaryDirectory(prefix="vmemmap-fuzz-") as folder:
        try:
            with zipfile.ZipFile(source) as pack:
                pack.extractall(folder)
        except zipfile.BadZipFile:
            raise CampaignError(f"{source} is neither a folder nor a pack") from None
        other = opened(Path(folder))
        counts = into.merge(other)
        into.corrupt += other.corrupt
        return counts


@dataclass(frozen=True, slots=True)
class Chosen:
    """The outcome of a minimization."""

    before: int
    after: int
    features: int
    """That all programs together show, before and after."""
    operations_before: int
    operations_after: int
    unrunnable: int
    """Programs that could not be run, which are kept."""


def minimize(store: Store, settings: Settings, progress: Callable[[int], None]) -> Chosen:
    """Remove programs that show nothing which the others do not show.

    Greedy covering: again and again the program that shows most of what is not shown yet, of equal ones the shortest;
    then, from the longest down, those that turned out to be superfluous go. Finding the least number is NP-hard.
    """
    programs = dict(store.programs())
    shown = dict(zip(programs, features_of(programs.values(), settings, progress), strict=True))
    sets = {digest: set(features) for digest, features in shown.items() if features is not None}
    kept = cover(sets, {digest: len(text.splitlines()) for digest, text in programs.items()})
    kept |= programs.keys() - sets.keys()
    for digest in programs.keys() - kept:
        store.remove_program(digest)
    # The index has rows of what is gone; it is made again by the next run.
    for suffix in ("", "-wal", "-shm"):
        (store.root / f"{NAME}{suffix}").unlink(missing_ok=True)
    operations = {digest: len(text.splitlines()) - 2 for digest, text in programs.items()}
    return Chosen(
        len(programs),
        len(kept),
        len(set().union(*sets.values())),
        sum(operations.values()),
        sum(operations[digest] for digest in kept),
        len(programs) - len(sets),
    )


def cover(sets: dict[str, set[str]], lengths: dict[str, int]) -> set[str]:
    """Names of sets that together have all elements, few and short ones."""
    left = {name: set(elements) for name, elements in sets.items()}
    kept: set[str] = set()
    times: Counter[str] = Counter()
    while left:
        best = min(left, key=lambda name: (-len(left[name]), lengths[name], name))
        new = left.pop(best)
        if not new:
            break
        kept.add(best)
        times.update(sets[best])
        for elements in left.values():
            elements -= new
    for name in sorted(kept, key=lambda name: (-lengths[name], name)):
        if all(times[element] > 1 for element in sets[name]):
            kept.discard(name)
            times.subtract(sets[name])
    return kept


def files_below(paths: Iterable[Path], pattern: str) -> list[Path]:
    """Files, and files of a pattern in folders."""
    out: list[Path] = []
    for path in paths:
        out += sorted(p for p in path.rglob(pattern) if p.is_file()) if path.is_dir() else [path]
    return out


def import_files(store: Store, paths: Iterable[Path], *, raw: bool) -> tuple[int, int]:
    """Take in `.vmm` files, or inputs of libFuzzer if `raw`: numbers of new programs and of files.

    All files are read before one is kept; raises ProgramError for the first that is no program.
    """
    files = files_below(paths, "*" if raw else "*.vmm")
    programs = [decode(path.read_bytes()) if raw else canonical(path.read_bytes(), str(path)) for path in files]
    return sum(store.add_program(program)[1] for program in programs), len(files)


def export(store: Store, folder: Path, *, raw: bool) -> int:
    """Write the programs as files of one flat folder; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for digest, text in store.programs():
        if raw:
            put(folder / digest, encode(parse(text)))
        else:
            put(folder / f"{digest}.vmm", text.encode())
        count += 1
    return count


def pack(store: Store, file: Path, *, raw: bool) -> int:
    """Write one zip file: all programs and findings to merge elsewhere, or a seed corpus for libFuzzer; how many
    programs. Equal corpora give equal bytes."""
    part = file.with_name(f".{file.name}.part")
    count = 0
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for digest, text in store.programs():
                count += 1
                if raw:
                    archive.writestr(zipfile.ZipInfo(digest, EPOCH), encode(parse(text)))
                else:
                    name = store.path_of(digest).relative_to(store.root).as_posix()
                    archive.writestr(zipfile.ZipInfo(name, EPOCH), text)
            for digest in () if raw else sorted(store.records()):
                path = store.findings / f"{digest}.json"
                archive.writestr(zipfile.ZipInfo(path.relative_to(store.root).as_posix(), EPOCH), path.read_bytes())
        shutil.move(part, file)
    finally:
        part.unlink(missing_ok=True)
    return count
