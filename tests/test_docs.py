"""The pages that say what the program says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

RENDER = Path(__file__).resolve().parents[1] / "docs" / "render.py"


def test_command_line_page_is_the_program_s_help() -> None:
    spec = importlib.util.spec_from_file_location("render", RENDER)
    assert spec is not None
    assert spec.loader is not None
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    assert render.PAGE.read_text(encoding="utf-8") == render.page(), "run docs/render.py"
