"""Writes the pages of this folder: a defect of the zoo each, planted in one side. Run it after changing a page."""

from __future__ import annotations

from pathlib import Path

from fuzz.program import parse
from fuzz.report.page import page_of
from zoo import find, planted

DEFECTS = ("ACC-2026-01", "ACC-2026-03", "HVO-2026-08", "HVO-2026-09", "INIT-2026-05", "INIT-2026-06", "MHP-2026-02")

for name in DEFECTS:
    defect = find(name)
    assert defect.program is not None
    with planted(defect):
        page = page_of(parse(defect.program), "posted", defect.id)
    Path(__file__).with_name(f"{name}.html").write_text(page, encoding="utf-8")
