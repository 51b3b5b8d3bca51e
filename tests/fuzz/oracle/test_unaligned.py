"""docs/findings/0001: the clause explains what the finding tells of either side, and nothing beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from candidate.framework import UnifiedFramework
from fuzz.execute import Profile, RunOutcome, run_program
from fuzz.program import parse
from mm.kernel import Kernel
from mm.mmzone import ZONE_DEVICE
from mm.page import Plain
from mm.page_alloc import OWNER_MEMMAP
from mm.pgtable import Pte, Shared
from reference.paths import SeparatePaths

CLAUSE = "dax-1g-unaligned-start"
CORPUS = Path(__file__).resolve().parents[3] / "corpus" / "regressions"
PROGRAMS = sorted(CORPUS.glob("dax-1g-*.vmm"))

ADD, INIT = "sparse_add_section", "memmap_init_zone_device"

Tamper = Callable[[Kernel, int, int], None]
"""Changes a kernel that has added or initialised n frames from a pfn on."""


def run(name: str, profile: Profile, side: str = "", method: str = "", tamper: Tamper | None = None) -> RunOutcome:
    """Run a program of the corpus with one side's `method` followed by `tamper`."""
    paths: dict[str, type] = {"reference": SeparatePaths, "candidate": UnifiedFramework}
    if tamper is not None:
        original = getattr(paths[side], method)

        def planted(self: Any, first: Any, pfn: int, nr: int, *rest: Any) -> Any:
            rc = original(self, first, pfn, nr, *rest)
            tamper(self.k, pfn, nr)
            return rc

        paths[side] = type("Planted", (paths[side],), {method: planted})
    make = paths["candidate"]
    return run_program(
        parse((CORPUS / f"{name}.vmm").read_text(encoding="utf-8")),
        profile=profile,
        make_reference=paths["reference"],
        make_candidate=lambda k: make(k, profile),
    )


def private_tail(k: Kernel, pfn: int, nr: int) -> None:
    """A vmemmap page in the middle of the first compound page gets a frame of its own."""
    vpn = pfn // k.arch.spp + 2000
    m = k.tables.get(vpn)
    frame = k.pages.alloc_page(0, OWNER_MEMMAP)
    if isinstance(m, Shared) and frame is not None:
        k.tables.set(vpn, vpn + 1, Pte(frame - vpn, True))
        k.pages.put_refs(m.frame, 1)


def writable_tails(k: Kernel, pfn: int, nr: int) -> None:
    """Shared tails can be written."""
    for lo, hi, m in k.tables.runs(pfn // k.arch.spp, (pfn + nr) // k.arch.spp):
        if isinstance(m, Shared):
            k.tables.set(lo, hi, Shared(m.frame, True))


def other_tail(k: Kernel, pfn: int, nr: int) -> None:
    """What the device's shared tail pages show was never written there."""
    m = k.tables.get(pfn // k.arch.spp + 2000)
    if isinstance(m, Shared):
        k.memmap.frames[m.frame] = Plain(0, ZONE_DEVICE)


def other_head(k: Kernel, pfn: int, nr: int) -> None:
    """A struct page of the first section shows something else."""
    k.memmap.own.set(pfn + 3, pfn + 4, Plain(0, ZONE_DEVICE))


def private_in_front(k: Kernel, pfn: int, nr: int) -> None:
    """The second page of the compound page in progress is an ordinary one."""
    vpn = (pfn >> 18 << 18) // k.arch.spp + 1
    m = k.tables.get(vpn)
    if isinstance(m, Shared):
        k.tables.set(vpn, vpn + 1, Pte(m.frame - vpn, True))


def nothing_in_front(k: Kernel, pfn: int, nr: int) -> None:
    """The first page of the compound page in progress is missing."""
    k.tables.clear((pfn >> 18 << 18) // k.arch.spp, (pfn >> 18 << 18) // k.arch.spp + 1)


def extra_in_front(k: Kernel, pfn: int, nr: int) -> None:
    """A page in front of the device that nobody needs."""
    vpn = pfn // k.arch.spp - 1
    frame = k.pages.alloc_page(0, OWNER_MEMMAP)
    if frame is not None and k.tables.get(vpn) is None:
        k.tables.set(vpn, vpn + 1, Pte(frame - vpn, True))


def tails_of_a_leaf(k: Kernel, pfn: int, nr: int) -> None:
    """As if vmemmap_compound_tail_page took the second page's frame although a leaf maps it."""
    head = (pfn >> 18 << 18) // k.arch.spp
    leaf = k.tables.get(head + 1)
    for lo, hi, m in k.tables.runs(pfn // k.arch.spp, min(head + 4096, (pfn + nr) // k.arch.spp)):
        if isinstance(m, Pte) and leaf is not None and leaf.kind == "leaf":
            k.tables.set(lo, hi, Shared(head + 1 + leaf.delta, True))


def reference_more(k: Kernel, pfn: int, nr: int) -> None:
    """A reference that no entry holds."""
    k.pages.get_refs(max(k.pages.refs, key=lambda frame: k.pages.refs[frame]), 1)


@pytest.mark.parametrize("profile", ["posted", "merged"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_what_the_finding_tells(program: Path, profile: Profile) -> None:
    out = run(program.stem, profile)
    assert (out.verdict, out.finding) == ("explained", None)
    assert CLAUSE in out.clauses


@pytest.mark.parametrize(
    ("program", "side", "method", "tamper"),
    [
        ("dax-1g-in-early-section", "candidate", ADD, writable_tails),
        ("dax-1g-in-mid-section", "candidate", ADD, private_tail),
        ("dax-1g-in-mid-section", "candidate", ADD, writable_tails),
        ("dax-1g-in-mid-section", "reference", ADD, private_tail),
        ("dax-1g-in-mid-section", "reference", ADD, reference_more),
        ("dax-1g-in-mid-section", "reference", INIT, other_head),
        ("dax-1g-behind-split-leaf", "reference", ADD, private_tail),
        ("dax-1g-radix-between-compounds", "candidate", ADD, private_tail),
        ("dax-1g-radix-between-compounds", "reference", ADD, private_in_front),
        ("dax-1g-radix-between-compounds", "reference", ADD, nothing_in_front),
        ("dax-1g-radix-between-compounds", "reference", ADD, extra_in_front),
        ("dax-1g-radix-second-page-in-leaf", "reference", ADD, tails_of_a_leaf),
        ("dax-1g-radix-second-page-of-another", "reference", ADD, reference_more),
        ("dax-1g-radix-left-in-front", "reference", ADD, extra_in_front),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_it_does_not_tell(program: str, side: str, method: str, tamper: Tamper) -> None:
    out = run(program, "posted", side, method, tamper)
    assert out.finding is not None
    assert CLAUSE not in out.clauses or out.finding.layer == "frames"  # an invariant of a side that lives


@pytest.mark.parametrize(
    ("program", "side", "tamper"),
    [
        ("dax-1g-in-mid-section", "candidate", other_tail),
        ("dax-1g-in-mid-section", "candidate", other_head),
        ("dax-1g-radix-between-compounds", "candidate", other_tail),
        ("dax-1g-radix-between-compounds", "reference", other_tail),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_struct_pages_must_show(program: str, side: str, tamper: Tamper) -> None:
    """Where tails are writable, both sides live: the shared page shows what was written through it last."""
    out = run(program, "merged", side, INIT, tamper)
    assert out.finding is not None
    assert CLAUSE not in out.clauses
