"""`report.html`: what it says, and that it needs nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fuzz.report.case import Case
from fuzz.report.derive import derivation
from fuzz.report.page import html
from fuzz.report.strips import CELLS
from tests.fuzz.browser import Visit

Make = Callable[[str], Case]


class Tags(HTMLParser):
    """Counts elements and collects addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count = 0
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count += 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]


def test_the_page_refers_to_nothing_outside_itself(case: Make) -> None:
    text = html(case("ACC-2026-03"))
    assert [address for address in Tags(text).addresses if not address.startswith(("#", "data:"))] == []
    assert not re.search(r"url\(|@import|https?://", text)


def test_a_huge_range_costs_few_elements_and_bytes(case: Make) -> None:
    """A 1G device has 4096 vmemmap pages, thirty-two times what is drawn one by one."""
    assert CELLS == 4096 // 32
    text = html(case("INIT-2026-05"))
    assert Tags(text).count < 4096 // 5
    assert len(text) < 60_000


def test_derivation_of_a_counter_that_does_not_match_its_frames(case: Make) -> None:
    """A 2M compound page has 2M / 4K / 64 = 8 vmemmap pages; 7.3 keeps VMEMMAP_RESERVE_NR = 2 of them, and the defect
    counts all 8 (ACC-2026-03): 6 share a frame."""
    sentences = derivation(case("ACC-2026-03"))
    assert (
        "In step 2 the reference has taken 2 frames of memory map but has raised nr_memmap_pages by 8, because it "
        "counts the 6 vmemmap pages that share a frame as if they had one each."
    ) in sentences
    assert "In step 2 the candidate has taken 8 frames of memory map, and its counter says so." in sentences


def test_derivation_of_a_counter_that_is_lowered_by_too_much(case: Make) -> None:
    """The same page taken away: the defect counts all 8 of which 2 are released (ACC-2026-04)."""
    sentences = derivation(case("ACC-2026-04"))
    assert (
        "In step 3 the reference has released 2 frames of memory map but has lowered nr_memmap_pages by 8, because it "
        "counts the 6 vmemmap pages that share a frame as if they had one each."
    ) in sentences


def test_derivation_of_a_failed_operation_that_counts(case: Make) -> None:
    """A section of 128M has 512 vmemmap pages (ACC-2026-01)."""
    sentences = derivation(case("ACC-2026-01"))
    assert (
        "In step 3 the reference has taken no frames of memory map but has lowered nr_memmap_pages by 512, though the "
        "operation failed with -ENOMEM and left no memory map behind."
    ) in sentences


def test_derivation_of_a_mapping_names_the_page_and_since_when(case: Make) -> None:
    """The tails of a 1G page that HVO's write protection forgot (HVO-2026-09): 4096 vmemmap pages, one kept."""
    sentences = derivation(case("HVO-2026-09"))
    assert any(
        s.startswith("On the reference, vmemmap page ") and s.endswith("4095 share the zone's tail page (RW).")
        for s in sentences
    )
    assert any(
        s.startswith("On the candidate, vmemmap page ") and s.endswith("4095 share the zone's tail page (RO).")
        for s in sentences
    )


def test_derivation_of_a_death(case: Make) -> None:
    sentences = derivation(case("MHP-2026-02"))
    assert any(s.startswith("The reference does not survive `m0 = memory add") for s in sentences)
    assert any(s.startswith("The candidate survives") and s.endswith("returns -ENOMEM.") for s in sentences)


def test_edits_that_matter_are_told_from_those_that_do_not(case: Make) -> None:
    """The defect counts wrongly whatever is optimized: another place of the device keeps it, an altmap, which turns
    optimization off (vmemmap_can_optimize), does not."""
    edits = case("ACC-2026-03").edits
    assert edits.complete
    effects = {(edit.what, edit.after): edit.effect for edit in edits.tried}
    assert effects["dax create", ""] == "vanishes"
    assert effects["altmap", "on"] == "vanishes"
    assert effects["at", "0x100200000"] == "same"
    assert effects["deferred_init", "off"] == "same"


def test_functions_come_from_the_docstrings(case: Make) -> None:
    entered = {f.name: f for f in case("INIT-2026-05").functions}
    function = entered["memmap_init_zone_device"]
    assert function.kernel_file == "mm/mm_init.c"
    path, _, line = function.model.partition(":")
    assert "def memmap_init_zone_device(" in Path(path).read_text().splitlines()[int(line) - 1]


def test_the_first_difference_is_marked_once(case: Make) -> None:
    text = html(case("ACC-2026-03"))
    assert text.count("First difference:") == 1
    assert len(re.findall(r"<tr class=\"first\"><td>nr_memmap_pages", text)) == 1


def test_operations_in_a_sentence_are_code(case: Make) -> None:
    story = html(case("MHP-2026-02")).partition('<ol class="story">')[2].partition("</ol>")[0]
    assert "The reference does not survive <code>m0 = memory add" in story
    assert "`" not in story


def test_what_the_program_says_is_escaped(case: Make) -> None:
    made = case("ACC-2026-03")
    evil = replace(made, trace=replace(made.trace, program="# <script>alert(1)</script>\n"))
    assert "<script>alert" not in html(evil)


SCRUB = """<script>
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const now = () => document.querySelector(".step.now").dataset.step;
const seen = [now()];
press("ArrowLeft"); seen.push(now());
press("ArrowLeft"); seen.push(now());
press("ArrowRight"); seen.push(now());
const slider = document.getElementById("at");
slider.value = 1; slider.dispatchEvent(new Event("input")); seen.push(now());
const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
document.body.dataset.seen = seen.join(" ") + " " + document.querySelectorAll(".step.now").length + " " + wide;
</script>"""


def test_a_browser_opens_and_scrubs_it(case: Make, visit: Callable[[str], Visit], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(html(case("ACC-2026-01")).replace("</body>", f"{SCRUB}</body>"))
    seen = visit(path.as_uri())
    # Three steps, the last of them is the guilty one; one is shown at a time, and nothing sticks out sideways.
    assert 'data-seen="3 2 1 2 1 1 false"' in seen.dom
    assert seen.console == []
    assert seen.requests == []


WIDE = """<script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument.documentElement;
  document.body.dataset.wide = page.scrollWidth - page.clientWidth;
});
</script>"""


def test_a_phone_need_not_scroll_sideways(case: Make, visit: Callable[[str], Visit], tmp_path: Path) -> None:
    """Chromium's windows are at least 500 px wide, so the page stands in a frame of 390."""
    inner = escape(html(case("HVO-2026-08")))
    path = tmp_path / "phone.html"
    path.write_text(f'<body>{WIDE}<iframe style="width:390px;height:800px;border:0" srcdoc="{inner}"></iframe></body>')
    seen = visit(path.as_uri())
    assert 'data-wide="0"' in seen.dom


def test_a_browser_would_be_caught_asking(visit: Callable[[str], Visit], tmp_path: Path) -> None:
    """The check above can fail: a page with a request and an error is seen to have both."""
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://127.0.0.1:9/x.png"><script>nothing()</script>')
    seen = visit(path.as_uri())
    assert seen.requests == ["http://127.0.0.1:9/x.png"]
    assert any("nothing is not defined" in line for line in seen.console)


@pytest.mark.parametrize("name", ["HVO-2026-08", "PPC-2026-13", "INIT-2026-06"])
def test_pages_of_other_layers_render(case: Make, name: str) -> None:
    made = case(name)
    assert made.trace.finding is not None
    assert escape(made.trace.finding.signature) in html(made)
