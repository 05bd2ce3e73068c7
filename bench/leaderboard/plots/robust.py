"""The plot of robust SROCC with its interval, and clean SROCC, for each model and defense."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iqarena.bench.leaderboard.board import Board, select_rows
from iqarena.bench.leaderboard.plots.style import (
    FAINT,
    GREY,
    INK,
    WIDTH,
    color,
    kind_handles,
    legend,
    rank_text,
    set_title,
    shorten_names,
    subtitle,
)

MAX_ROWS = 48


def robust(board: Board) -> Figure:
    """Plot the ranking: a dot for each value and a bar for its interval."""
    rows = select_rows(board.rows, MAX_ROWS)
    figure = Figure(figsize=(WIDTH, 1.75 + 0.25 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.8)
    for y, row in enumerate(rows):
        value, low, high = row.robust
        opacity = 0.35 if row.rank is None else 1.0
        axes.plot([low, high], [y, y], color=color(row), linewidth=2.4, alpha=0.5 * opacity, solid_capstyle="butt")
        axes.plot(value, y, "o", color=color(row), markersize=6, alpha=opacity)
        axes.plot(row.clean[0], y, "o", markersize=6, markerfacecolor="none", markeredgecolor=INK, zorder=3)
        if np.isfinite(row.certified):
            axes.plot(row.certified, y, "|", color=INK, markersize=11, markeredgewidth=1.8, zorder=3)
    names = shorten_names([row.name for row in rows])
    axes.set_yticks(range(len(rows)), [f"{name} · {rank_text(row)}" for name, row in zip(names, rows, strict=True)])
    axes.set(xlim=(-1.03, 1.03), ylim=(len(rows) - 0.5, -0.5), xlabel=f"{board.measure} (1 = same order, −1 = reversed)")
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    set_title(figure, "Robust SROCC, the least over all attacks, with 95 % intervals", subtitle(board, len(rows)))
    handles = kind_handles(rows)
    if board.track.labelled:
        handles.append(
            Line2D([], [], color=INK, marker="o", markersize=6, markerfacecolor="none", linestyle="none", label="clean")
        )
    if any(np.isfinite(row.certified) for row in rows):
        handles.append(
            Line2D(
                [], [], color=INK, marker="|", markersize=10, markeredgewidth=1.8, linestyle="none", label="certified bound"
            )
        )
    if any(row.rank is None for row in rows):
        handles.append(
            Line2D([], [], color=GREY, alpha=0.35, marker="o", markersize=6, linewidth=2.4, label="pale: not ranked")
        )
    legend(figure, handles)
    return figure
