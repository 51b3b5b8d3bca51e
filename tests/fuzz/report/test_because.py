"""The functions that a derivation names, layer by layer: those of the planted defects, and sums that must come out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz.program.text import parse_file
from fuzz.report.authors import changes, owners
from fuzz.report.case import Case
from fuzz.report.derive import derivation
from fuzz.trace import counters, trace

Make = Callable[[str], Case]
SEEDS = Path(__file__).resolve().parents[3] / "corpus" / "seeds"

SENTENCES = {
    # returns: 7.3's __hugetlb_vmemmap_restore_folio is what fails when memory is short; the other side need not fail.
    "HPG-2023-47": ["The reference gets its -ENOMEM in __hugetlb_vmemmap_restore_folio()."],
    "DAX-2026-20": ["The candidate gets its -EINVAL in dev_dax_probe()."],
    "MHP-2026-02": ["The reference dies in vmemmap_free()."],
    # accounting: one frame of a list that is given back stays counted on the side of the defect.
    "ACC-2024-35": ["On the candidate it is moved in alloc_vmemmap_page_list() by +1."],
    "ARM64-2026-18": [
        "On the reference it is moved in vmemmap_free() by -1.",
        "On the candidate no function moves it.",
    ],
    # mapping: who shares, who protects.
    "HVO-2026-09": [
        "vmemmap_populate_hvo() maps that page to a shared tail page, RW (step 2)",
        "vmemmap_wrprotect_hvo() maps that page to a shared frame, RO (step 2).",
    ],
    "HVO-2026-08": ["vmemmap_split_pmd() maps that page to a frame of its own, RW (step 4)."],
    "PPC-2026-13": ["Of the reference's functions, vmemmap_pte_populate() maps that page to a frame of its own, RW"],
    # struct pages: memmap_init_zone_device, which is to write them, does so on one side only.
    "INIT-2026-06": [
        "On the reference that struct page changes in step 2, in sparse_add_section().",
        "On the candidate that struct page changes in step 2, in sparse_add_section() and memmap_init_zone_device().",
    ],
}


@pytest.mark.parametrize("name", SENTENCES)
def test_functions_are_named(case: Make, name: str) -> None:
    said = derivation(case(name))
    for sentence in SENTENCES[name]:
        assert any(sentence in text for text in said), "\n".join(said)


@pytest.mark.parametrize(
    "seed", ["pool-grow-shrink-2m", "ndctl-devdax-2m", "demote-1g-to-2m", "memmap-on-memory-hugetlb"]
)
def test_what_functions_did_adds_up_to_the_trace(seed: str) -> None:
    """Every frame and every huge page that an operation moved was moved by a function that is named for it."""
    program = parse_file(SEEDS / f"{seed}.vmm")
    told = trace(program)
    moved = changes(program, "posted", owners, 1)
    pool = "hugetlb.9.nr"
    pools = changes(program, "posted", lambda k: counters(k)[pool][1], 2)
    for side, name in enumerate(("reference", "candidate")):
        before: dict[str, int] = {}
        for step in told.steps:
            after = dict(getattr(step, name).frames)
            total: dict[str, int] = {}
            for move in moved[side]:
                if move.step == step.number:
                    for owner, n in move.after:
                        total[owner] = total.get(owner, 0) + n
                    for owner, n in move.before:
                        total[owner] = total.get(owner, 0) - n
            wanted = {owner: after.get(owner, 0) - before.get(owner, 0) for owner in {*after, *before}}
            assert {o: n for o, n in total.items() if n} == {o: n for o, n in wanted.items() if n}, step.text
            before = after
            if step.number > 1:
                by = sum(c.after - c.before for c in getattr(step, name).counters if c.field == pool)
                assert sum(m.after - m.before for m in pools[side] if m.step == step.number) == by, step.text
        assert all(move.function for move in pools[side])
