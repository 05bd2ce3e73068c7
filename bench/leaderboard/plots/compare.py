"""Two defenses or attacks side by side."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iqarena.bench.leaderboard.plots.style import FAINT, GREY, INK, WIDTH, head
from iqarena.bench.results.comparison import MEASURES, Comparison
from iqarena.bench.results.formatting import short_spec

PAIR = ("#0072B2", "#D55E00")
"""The first and the second; told apart by colour-blind people, and by their marks."""
MARKS = ("o", "D")
LABELS = {"srocc": "SROCC with the labels", "shift": "mean |quality shift|"}


def compared(duel: Comparison) -> Figure:
    """A line per attack, the two marks on it; filled where they are told apart."""
    whats = list(dict.fromkeys(line.what for measure in MEASURES for line in duel.lines[measure]))
    figure = Figure(figsize=(WIDTH, 1.5 + 0.36 * len(whats)), layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for axes, measure in zip(panels, MEASURES, strict=True):
        for line in duel.lines[measure]:
            place, told = whats.index(line.what), bool(duel.better(measure, line))
            for side, (value, low, high) in enumerate(line.values):
                at, color = place + (0.17 if side else -0.17), PAIR[side]
                axes.plot([low, high], [at, at], color=color, linewidth=1.8, alpha=0.55, solid_capstyle="butt")
                axes.plot(value, at, MARKS[side], color=color, markersize=5.5, markerfacecolor=color if told else "white")
        axes.axvline(0, color=GREY, linewidth=0.8)
        for border in range(1, len(whats)):
            axes.axhline(border - 0.5, color=FAINT, linewidth=0.6)
        axes.grid(axis="x", color=FAINT, linewidth=0.7)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        label = LABELS[measure] if duel.track.labelled or measure == "shift" else "SROCC with the clean qualities"
        axes.set(xlabel=label, ylim=(len(whats) - 0.5, -0.5))
    panels[0].set_xlim(-1.05, 1.05)
    panels[1].set_xlim(left=min(0.0, panels[1].get_xlim()[0]))
    panels[0].set_yticks(range(len(whats)), whats)
    head(figure, " against ".join(short_spec(name) for name in duel.names), duel.title)
    handles = [
        Line2D([], [], color=color, marker=mark, markersize=5.5, linewidth=1.8, label=short_spec(name))
        for name, color, mark in zip(duel.names, PAIR, MARKS, strict=True)
    ]
    handles.append(
        Line2D(
            [],
            [],
            color=INK,
            marker="o",
            markersize=5.5,
            markerfacecolor="white",
            linestyle="none",
            label="hollow: not told apart",
        )
    )
    figure.legend(handles=handles, loc="outside lower right", ncols=3)
    return figure
