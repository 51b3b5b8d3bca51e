"""The mail: narrow, complete, and a program that can be cut out of it."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

from fuzz.program import parse
from fuzz.report.case import Case
from fuzz.report.mail import COLUMNS, mail


def test_mail_is_narrow_and_its_program_runs(case: Callable[[str], Case]) -> None:
    made = case("ACC-2026-03")
    text = mail(made)
    program = text.partition("Program:\n\n")[2].partition("\n\nWhat happens:")[0]
    assert parse(dedent(program) + "\n") == made.program
    assert all(len(line) <= COLUMNS for line in text.splitlines() if not line.startswith("  machine"))
    assert made.trace.finding is not None
    assert made.trace.finding.detail in " ".join(text.split())
    assert text.isascii()
