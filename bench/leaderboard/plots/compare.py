"""The plot of two defenses or attacks side by side."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iqarena.bench.leaderboard.plots.style import FAINT, GREY, INK, MAX_NAME, WIDTH, set_title, shorten_names, truncate
from iqarena.bench.results.comparison import MEASURES, Comparison
from iqarena.bench.results.formatting import short_spec

PAIR = ("#0072B2", "#D55E00")
"""Colours of the first and the second, which colour-blind people can distinguish."""
MARKS = ("o", "D")
HOLLOW = "hollow: not told apart"
LABELS = {"srocc": "SROCC with the labels", "shift": "mean |quality shift|"}


def comparison_figure(comparison: Comparison) -> Figure:
    """Plot a line for each attack with a mark for each of the two; filled marks are those of a significant difference."""
    labels = list(dict.fromkeys(row.condition for measure in MEASURES for row in comparison.rows[measure]))
    figure = Figure(figsize=(WIDTH, 1.5 + 0.36 * len(labels)), layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for axes, measure in zip(panels, MEASURES, strict=True):
        for row in comparison.rows[measure]:
            index, significant = labels.index(row.condition), bool(comparison.better(measure, row))
            for side, (value, low, high) in enumerate(row.values):
                y, color = index + (0.17 if side else -0.17), PAIR[side]
                face = color if significant else "white"
                axes.plot([low, high], [y, y], color=color, linewidth=1.8, alpha=0.55, solid_capstyle="butt")
                axes.plot(value, y, MARKS[side], color=color, markersize=5.5, markerfacecolor=face)
        axes.axvline(0, color=GREY, linewidth=0.8)
        for border in range(1, len(labels)):
            axes.axhline(border - 0.5, color=FAINT, linewidth=0.6)
        axes.grid(axis="x", color=FAINT, linewidth=0.7)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        label = LABELS[measure] if comparison.track.labelled or measure == "shift" else "SROCC with the clean qualities"
        axes.set(xlabel=label, ylim=(len(labels) - 0.5, -0.5))
    panels[0].set_xlim(-1.05, 1.05)
    panels[1].set_xlim(left=min(0.0, panels[1].get_xlim()[0]))
    panels[0].set_yticks(range(len(labels)), shorten_names(labels))
    set_title(figure, " against ".join(short_spec(name) for name in comparison.names), comparison.title)
    handles = [
        Line2D([], [], color=color, marker=mark, markersize=5.5, linewidth=1.8, label=truncate(short_spec(name), MAX_NAME))
        for name, color, mark in zip(comparison.names, PAIR, MARKS, strict=True)
    ]
    handles.append(
        Line2D([], [], color=INK, marker="o", markersize=5.5, markerfacecolor="white", linestyle="none", label=HOLLOW)
    )
    figure.legend(handles=handles, loc="outside lower right", ncols=3)
    return figure
