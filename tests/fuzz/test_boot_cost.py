"""The cost of booting, and the command that prints it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fuzz.boot_cost import boot_cost
from fuzz.cli import app
from fuzz.program import parse

CORPUS = Path(__file__).resolve().parents[2] / "corpus"
S, GIGANTIC = 64, 1 << 18
"""Struct pages of a vmemmap page, and of a 1G page."""


@pytest.mark.parametrize("pages", [0, 1, 3])
def test_a_boot_huge_page_saves_all_but_one_vmemmap_page(pages: int) -> None:
    """unified-framework.md 4, row "memmap_init on T slots": 2^order -> S, where nothing is deferred. Both sides then
    initialise its first S - 1 tails again when they make a folio of it.
    """
    reserve = f"reserve size=1G count={pages}\n" if pages else ""
    reference, candidate = boot_cost(parse(f"vmm 1\nmachine ram=8G deferred_init=off\n{reserve}boot\n"))
    ram = 8 << 18
    assert reference.struct_pages_initialized == ram + pages * (S - 1)
    assert candidate.struct_pages_initialized == ram + pages * (S - 1) - pages * (GIGANTIC - S)
    # separate-paths.md 4: BOOT 512 a section, -4096 + 1 for each page.
    assert reference.nr_memmap_boot == candidate.nr_memmap_boot == 64 * 512 - pages * 4095
    assert reference.boot_huge_pages == reference.optimized == candidate.optimized == pages


def test_without_the_optimization_nothing_is_saved() -> None:
    text = "vmm 1\nmachine ram=8G deferred_init=off hugetlb_free_vmemmap=off\nreserve size=1G count=2\nboot\n"
    reference, candidate = boot_cost(parse(text))
    assert reference.struct_pages_initialized == candidate.struct_pages_initialized
    assert reference.optimized == candidate.optimized == 0
    assert reference.boot_huge_pages == candidate.boot_huge_pages == 2


def test_deferred_pages_are_not_written_twice() -> None:
    """All but the first section of the highest zone is deferred, and the page is marked noinit: nobody writes it."""
    reference, candidate = boot_cost(parse("vmm 1\nmachine ram=8G\nreserve size=1G count=1\nboot\n"))
    assert reference.struct_pages_initialized == candidate.struct_pages_initialized == (8 << 18) - GIGANTIC + S


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "boot.vmm"
    file.write_text("vmm 1\nmachine ram=8G deferred_init=off\nreserve size=1G count=1\nboot\nhugetlb flush\n")
    shown = CliRunner().invoke(app, ["boot-cost", str(file)])
    assert shown.exit_code == 0
    assert "initialises 262,080 struct pages fewer" in shown.output  # 2^18 - 64
    data = json.loads(CliRunner().invoke(app, ["boot-cost", str(file), "--json"]).output)
    assert data["struct_pages_saved"] == GIGANTIC - S
    assert [side["side"] for side in data["sides"]] == ["reference", "candidate"]


def test_a_boot_that_dies() -> None:
    file = CORPUS / "regressions/prehvo-interleaved-node.vmm"
    shown = CliRunner().invoke(app, ["boot-cost", str(file), "--json"])
    assert shown.exit_code == 1
    data = json.loads(shown.output)
    assert "sparse_init_early_section" in data["sides"][0]["outcome"]
    assert data["sides"][1]["outcome"] == 0
    assert data["struct_pages_saved"] is None
