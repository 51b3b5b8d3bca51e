"""A finding as the text of a mail to linux-mm: plain, 72 columns, the program included."""

from __future__ import annotations

import textwrap
from typing import Final

from fuzz.report.case import Case
from fuzz.report.derive import derivation
from fuzz.report.page import grouped

COLUMNS: Final = 72


def mail(case: Case) -> str:
    """The text. Lines of the program are never broken, however long."""
    told = case.trace
    finding = told.finding
    parts: list[str] = []
    if finding is None:
        parts.append(_fill(f"No unexplained difference in {len(told.steps)} operations."))
    else:
        parts.append(_fill(f"Subject: vmemmap: {finding.operation}: {finding.detail}", hang=" "))
    parts.append(
        _fill(
            "Two models were run side by side: the separate HugeTLB and device DAX paths of Linux "
            f"{told.reference.removeprefix('v')} (reference), and the unified vmemmap optimization framework, "
            f"{told.profile} (candidate)."
        )
    )
    if case.planted:
        parts.append(_fill(f"The defect {case.planted} was planted for this; Linux 7.3 does not have it."))
    parts.append("Program:")
    parts.append(textwrap.indent(told.program.rstrip("\n"), "  "))
    parts.append("What happens:")
    parts.append("\n".join(_fill(f"- {sentence}", hang="  ") for sentence in derivation(case)))
    if finding is not None:
        edits = grouped(case.edits.of("vanishes", "explained"))
        if edits:
            lines = [f"- {f'step {step}' if step else 'machine'}: {text}" for step, text in edits]
            parts.append("Each of these alone makes it vanish:")
            parts.append("\n".join(_fill(line, hang="  ") for line in lines))
        parts.append(_fill(f"Signature: {finding.signature}", hang="  "))
    return "\n\n".join(parts) + "\n"


def _fill(text: str, hang: str = "") -> str:
    return textwrap.fill(text, COLUMNS, subsequent_indent=hang, break_on_hyphens=False)
