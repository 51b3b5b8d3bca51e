"""Curves as SVG, by matplotlib, in the colours of the page: readable in light and in dark, and on paper.

matplotlib writes colours as numbers; a few that nobody else uses stand for the page's CSS variables and are replaced.
Text stays text, in the page's font.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Final

from markupsafe import Markup

Row = dict[str, Any]

INK: Final = {
    "#0a0b01": "var(--fg)",
    "#0a0b02": "var(--line)",
    "#0a0b03": "var(--accent)",
    "#0a0b04": "var(--shared-rw)",
}
TEXT, GRID, *LINES = INK

_one_at_a_time: Final = Lock()
"""matplotlib's settings are those of the process."""


def curves(series: Sequence[tuple[str, list[Row]]], salt: str) -> Markup:
    """Novelty, P(new) and speed over time, one line a campaign; empty without matplotlib (the extra `report`)."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return Markup("")
    panels: list[tuple[str, str, bool]] = [
        ("features", "features seen", False),
        ("chance", "P(new)", True),
        ("operations_per_second", "operations a second", False),
    ]
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": TEXT,
        "axes.edgecolor": GRID,
        "axes.labelcolor": TEXT,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": GRID,
        "xtick.color": TEXT,
        "ytick.color": TEXT,
        "legend.frameon": False,
    }
    with _one_at_a_time, mpl.rc_context(style):
        figure = Figure(figsize=(10, 2.7), layout="constrained", facecolor="none")
        for axes, (field, title, log) in zip(figure.subplots(1, 3), panels, strict=True):
            for (name, rows), ink in zip(series, LINES, strict=False):
                points = [(row["seconds"], row[field]) for row in rows if row[field] is not None]
                if log:
                    points = [point for point in points if point[1] > 0]
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    color=ink,
                    label=name,
                    marker="." if len(points) < 40 else None,
                )
            if log and _decades([row[field] for _, rows in series for row in rows if row[field]]):
                axes.set_yscale("log")
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("seconds")
            axes.yaxis.set_major_formatter(_plain(log))
        if len(series) > 1:
            figure.axes[0].legend()
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for number, variable in INK.items():
        text = text.replace(number, variable)
    return Markup(text)  # made here, of numbers; matplotlib escapes the names


def _decades(values: list[float]) -> bool:
    """Whether values are so far apart that a logarithmic axis has ticks."""
    return bool(values) and max(values) > 20 * min(values)


def _plain(log: bool) -> Callable[[float, Any], str]:
    return lambda value, _: f"{value:g}" if log else f"{value:,.0f}"
