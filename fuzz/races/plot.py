"""Survival: the share of trials in which a defect is not yet reached, triggered, detected, over CPU time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

from fuzz.races.trial import Mark, Trial

FIRST: Final = 0.01
"""Left end of the time axis, in seconds: what is faster is drawn there."""
COLUMNS: Final = 4
STYLES: Final = (("reached", "#999999", ":"), ("triggered", "#666666", "--"), ("detected", "#000000", "-"))


def survival_plot(trials: Sequence[Trial]) -> str:
    """SVG, black on white, a small picture for each defect; raises ImportError without matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    defects = list(dict.fromkeys(trial.defect for trial in trials))
    lines = -(-len(defects) // COLUMNS)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "survival", "font.size": 8}):
        figure = Figure(figsize=(2.2 * COLUMNS, 1.5 * lines + 0.4), layout="constrained", facecolor="white")
        axes = figure.subplots(lines, COLUMNS, sharex=True, sharey=True, squeeze=False)
        for at, defect in enumerate(defects):
            _draw(axes[at // COLUMNS][at % COLUMNS], defect, [t for t in trials if t.defect == defect])
        for at in range(len(defects), lines * COLUMNS):
            axes[at // COLUMNS][at % COLUMNS].set_axis_off()
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(STYLES), frameon=False)
        figure.supxlabel("CPU seconds of one core")
        figure.supylabel("share of trials without it yet")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _draw(axes: Any, title: str, trials: list[Trial]) -> None:
    cap = trials[0].cap
    for name, color, line in STYLES:
        marks: list[Mark | None] = [getattr(trial, name) for trial in trials]
        seconds = sorted(max(FIRST, mark.seconds) for mark in marks if mark is not None)
        x = [FIRST, *seconds, cap]
        alive = [1 - i / len(trials) for i in range(len(seconds) + 1)]
        axes.step(x, [*alive, alive[-1]], where="post", color=color, linestyle=line, linewidth=1.1, label=name)
    axes.set(xscale="log", xlim=(FIRST, cap), ylim=(-0.04, 1.04), yticks=(0, 0.5, 1))
    axes.minorticks_off()  # each is an element of the picture
    axes.set_title(title, fontsize=8)
    axes.grid(visible=True, linewidth=0.3, color="#cccccc")
