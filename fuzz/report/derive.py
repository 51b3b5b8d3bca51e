"""The contradiction in plain words, derived step by step from the numbers of the trace.

Every sentence is a template filled with what the two sides did; none is written for a particular bug. What happened
before the difference comes first, then what cannot both be right, by the layer in which it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from fuzz.oracle.finding import Finding
from fuzz.oracle.observe import VMSTAT
from fuzz.report.authors import Change
from fuzz.report.case import Case, block_at, place, place_pfn
from fuzz.trace import SideStep, Step, Trace

OWNER_WORDS: Final = {
    "memmap": "frames of memory map",
    "memmap_boot": "frames of boot memory map",
    "tail": "shared tail frames",
    "tail_boot": "shared tail frames of boot",
    "pgtable": "page table frames",
    "pgtable_boot": "page table frames of boot",
    "hugetlb": "frames of huge pages",
    "pages": "order-0 pages",
    "pages_movable": "movable order-0 pages",
    "selfhosted": "frames of memory map in the memory block itself",
    "altmap": "frames of memory map in the device itself",
    "hwpoison": "poisoned frames",
    "offline": "offline frames",
    "leaked": "frames that nobody will free",
    "reserved": "reserved frames",
}


def derivation(case: Case) -> list[str]:
    """Sentences, in order."""
    told = case.trace
    out = [text for number, step in enumerate(told.steps) for text in _step(told, number, step)]
    finding = told.finding
    if finding is not None:
        if not told.steps or told.steps[-1].finding is None:
            out.append("No single operation shows it: the full comparison after the last one does.")
        out += _BY_LAYER[finding.layer](case, finding)
    elif told.terminal is not None:
        out.append(f"Here the two part for good, as clause {told.terminal} of the ledger says.")
    else:
        out.append("Whatever the two sides do differently here, the ledger says they should.")
    return out


def _step(told: Trace, number: int, step: Step) -> Iterator[str]:
    """What one operation did, in one or two sentences."""
    before = told.steps[number - 1] if number else None
    ref = _did(step.reference, before.reference if before else None)
    cand = _did(step.candidate, before.candidate if before else None)
    if ref == cand:
        yield f"After step {step.number} (`{step.text}`) both sides have {ref}."
    else:
        yield f"After step {step.number} (`{step.text}`) the reference has {ref}; the candidate has {cand}."
    if step.clauses:
        yield f"What differs there by intention: {_list(list(step.clauses))}, in the ledger."


def _did(side: SideStep, before: SideStep | None) -> str:
    """What one side did, as it follows "has"."""
    if isinstance(side.rc, str):
        return f"died: {side.rc}"
    parts = []
    if side.rc:
        parts.append(f"returned {side.outcome}")
    old, new = dict(before.frames) if before else {}, dict(side.frames)
    changes = [(owner, new.get(owner, 0) - old.get(owner, 0)) for owner in sorted({*old, *new})]
    taken = [_frames_of(owner, by) for owner, by in changes if by > 0]
    gone = [_frames_of(owner, -by) for owner, by in changes if by < 0]
    if taken:
        parts.append(f"taken {_list(taken)}")
    if gone:
        parts.append(f"released {_list(gone)}")
    for change in side.counters:
        if change.field in VMSTAT:
            by = change.after - change.before
            parts.append(f"{'raised' if by > 0 else 'lowered'} {change.name} by {abs(by):,}")
    shared = shared_pages(side) - (shared_pages(before) if before else 0)
    if shared > 0:
        parts.append(f"mapped {_pages(shared)} to shared tail pages")
    elif shared < 0:
        parts.append(f"unmapped {_pages(-shared)} from shared tail pages")
    return _list(parts) if parts else "changed neither frames nor counters of the memory map"


def shared_pages(side: SideStep) -> int:
    """Vmemmap pages without a frame of their own."""
    return sum(block.end - block.first - block.own_pages(block.first, block.end) for block in side.blocks)


def _frames_of(owner: str, n: int) -> str:
    words = OWNER_WORDS.get(owner, f"frames of {owner}")
    if n == 1:
        words = words.replace("frames", "frame", 1).replace("pages", "page", 1)
    return f"{n:,} {words}" if n else f"no {words}"


def _pages(n: int) -> str:
    return f"{n:,} vmemmap page{'s' * (n > 1)}"


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


# -- the contradiction ----------------------------------------------------------------------------------------------


def _returns(case: Case, finding: Finding) -> list[str]:
    told = case.trace
    step = told.steps[-1]
    ref, cand = step.reference, step.candidate
    out = []
    for name, side in (("reference", ref), ("candidate", cand)):
        if isinstance(side.rc, str):
            out.append(f"The {name} does not survive `{step.text}`: {side.rc}.")
        else:
            out.append(f"The {name} survives `{step.text}` and returns {side.outcome}.")
    for name, side, origin in zip(SIDES, (ref, cand), case.authors.origins, strict=True):
        if origin is not None:
            what = "dies" if origin.died else f"gets its {side.outcome}"
            out.append(f"The {name} {what} in {origin.function}().")
    out.append("Until then the two agreed in all that the ledger does not explain: the same call met the same state.")
    out.append("No clause of the ledger allows this pair of results.")
    return out


def _accounting(case: Case, finding: Finding) -> list[str]:
    told = case.trace
    step = told.steps[-1]
    pair = [{value.field: value for value in side.values} for side in (step.reference, step.candidate)]
    out = []
    if finding.field in pair[0]:
        name = pair[0][finding.field].name
        values = [values[finding.field].value for values in pair]
        moved = [
            next((c.after - c.before for c in side.counters if c.field == finding.field), 0)
            for side in (step.reference, step.candidate)
        ]
        out.append(
            f"In step {step.number} the reference moved {name} by {moved[0]:+,} to {values[0]:,}, the candidate by "
            f"{moved[1]:+,} to {values[1]:,}."
        )
    for name, moves in zip(SIDES, case.authors.counter, strict=True):
        sums = _sums(moves, lambda move: (move.after or 0) - (move.before or 0))
        if sums:
            did = [f"{_called(function)} by {n:+,}" for function, n in sums]
            out.append(f"On the {name} it is moved in {_list(did)}.")
        else:
            out.append(f"On the {name} no function moves it.")
    if finding.field == "nr_memmap":
        out += _backing(told)
    out.append(f"From the reference's state the ledger computes what the candidate must show: {finding.detail}.")
    return out


HOLDERS: Final = ("memmap", "selfhosted", "altmap")
"""Owners of frames that hold memory map that was added after boot."""


def _backing(told: Trace) -> Iterator[str]:
    """Whether the counter of memory map pages moved with the frames that hold memory map, on each side."""
    step = told.steps[-1]
    for name in ("reference", "candidate"):
        side: SideStep = getattr(step, name)
        before: SideStep | None = getattr(told.steps[-2], name) if len(told.steps) > 1 else None
        frames = _holding(side) - (_holding(before) if before else 0)
        counted = next((c.after - c.before for c in side.counters if c.field == "nr_memmap"), 0)
        moved = "taken" if frames >= 0 else "released"
        text = f"In step {step.number} the {name} has {moved} {_frames_of('memmap', abs(frames))}"
        if frames == counted:
            yield f"{text}, and its counter says so."
            continue
        shared = shared_pages(side) - (shared_pages(before) if before else 0)
        if counted - frames == shared:
            why = f", because it counts the {_pages(abs(shared))} that share a frame as if they had one each"
        elif isinstance(side.rc, int) and side.rc < 0 and not frames:
            why = f", though the operation failed with {side.outcome} and left no memory map behind"
        else:
            why = ""
        yield f"{text} but has {'raised' if counted >= 0 else 'lowered'} nr_memmap_pages by {abs(counted):,}{why}."


def _holding(side: SideStep) -> int:
    return sum(n for owner, n in side.frames if owner in HOLDERS)


def _mapping(case: Case, finding: Finding) -> list[str]:
    told = case.trace
    out = _history(case, place(finding, told))
    out.append(f"From the reference's mapping the ledger computes the candidate's: {finding.detail}.")
    return out


def _structpages(case: Case, finding: Finding) -> list[str]:
    told = case.trace
    out = _history(case, place(finding, told))
    if out:
        out.append("Struct pages are read through that mapping.")
    number = told.steps[-1].number
    for name, moves in zip(SIDES, case.authors.contents, strict=True):
        if moves:
            did = [_called(function) for function in dict.fromkeys(move.function for move in moves)]
            out.append(f"On the {name} that struct page changes in step {number}, in {_list(did)}.")
        elif place_pfn(finding) is not None:
            out.append(f"On the {name} no function changes that struct page in step {number}.")
    out.append(f"From the reference's struct pages the ledger computes the candidate's: {finding.detail}.")
    return out


def _frames(case: Case, finding: Finding) -> list[str]:
    told = case.trace
    step = told.steps[-1]
    ref, cand = dict(step.reference.frames), dict(step.candidate.frames)
    out = []
    for owner in sorted({*ref, *cand}):
        mine, theirs = ref.get(owner, 0), cand.get(owner, 0)
        if mine != theirs:
            out.append(f"{OWNER_WORDS.get(owner, owner)}: {mine:,} on the reference, {theirs:,} on the candidate.")
    for name, moves in zip(SIDES, case.authors.frames, strict=True):
        out += [f"On the {name}, {text}." for text in _movers(moves)]
    out.append(f"What the ledger does not explain: {finding.detail}.")
    return out


def _movers(moves: tuple[Change, ...]) -> Iterator[str]:
    """Which functions gave frames to which owner, or took them, in the last step."""
    owners = sorted({owner for move in moves for owner, _ in (*move.before, *move.after)})
    for owner in owners:
        sums = _sums(moves, lambda move: dict(move.after).get(owner, 0) - dict(move.before).get(owner, 0))  # noqa: B023
        for function, n in sums:
            yield f"{_called(function)} {'takes' if n > 0 else 'releases'} {_frames_of(owner, abs(n))}"


def _history(case: Case, page: int | None) -> list[str]:
    """How the page at fault is mapped on both sides, since when, and which functions did it."""
    told = case.trace
    if page is None:
        return []
    out = []
    for name in ("reference", "candidate"):
        since, text = 0, ""
        for step in told.steps:
            side: SideStep = getattr(step, name)
            block = block_at(side, page)
            now = block.text if block else "not mapped"
            if now != text:
                since, text = step.number, now
        operation = told.steps[since - 1].text
        out.append(f"On the {name}, vmemmap page {page:#x} has been so since step {since} (`{operation}`): {text}.")
    for name, moves in zip(SIDES, case.authors.page, strict=True):
        if moves:
            did = [f"{_called(move.function)} {_mapped(move.after)} (step {move.step})" for move in moves[-LAST:]]
            out.append(f"Of the {name}'s functions, {', then '.join(did)}.")
    return out


SIDES: Final = ("reference", "candidate")
LAST: Final = 4
"""Functions that are named in a row, the last ones."""


def _called(function: str) -> str:
    return f"{function}()" if function else "code that stands for no one function"


def _mapped(way: str) -> str:
    return f"maps that page {way}" if way else "unmaps that page"


def _sums(moves: tuple[Change, ...], by: Callable[[Change], int]) -> list[tuple[str, int]]:
    """What each function added, all its calls together; those whose calls cancel out are left out."""
    total: dict[str, int] = {}
    for move in moves:
        total[move.function] = total.get(move.function, 0) + by(move)
    return [(function, n) for function, n in total.items() if n]


_BY_LAYER: Final = {
    "returns": _returns,
    "accounting": _accounting,
    "mapping": _mapping,
    "structpages": _structpages,
    "frames": _frames,
}
