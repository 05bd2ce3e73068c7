"""Robust SROCC with its interval, and clean SROCC, a line per model and defense."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iqarena.bench.leaderboard.board import Board, shown
from iqarena.bench.leaderboard.plots.style import FAINT, GREY, INK, WIDTH, color, head, kinds, legend, part_of, ranked, short

MOST = 48


def robust(board: Board) -> Figure:
    """The ranking as dots and bars."""
    rows = shown(board.rows, MOST)
    figure = Figure(figsize=(WIDTH, 1.75 + 0.25 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.8)
    for place, row in enumerate(rows):
        value, low, high = row.robust
        faint = 0.35 if row.rank is None else 1.0
        axes.plot([low, high], [place, place], color=color(row), linewidth=2.4, alpha=0.5 * faint, solid_capstyle="butt")
        axes.plot(value, place, "o", color=color(row), markersize=6, alpha=faint)
        axes.plot(row.clean[0], place, "o", markersize=6, markerfacecolor="none", markeredgecolor=INK, zorder=3)
        if np.isfinite(row.certified):
            axes.plot(row.certified, place, "|", color=INK, markersize=11, markeredgewidth=1.8, zorder=3)
    names = short([row.name for row in rows])
    axes.set_yticks(range(len(rows)), [f"{name} · {ranked(row)}" for name, row in zip(names, rows, strict=True)])
    axes.set(xlim=(-1.03, 1.03), ylim=(len(rows) - 0.5, -0.5), xlabel=f"{board.measure} (1 = same order, −1 = reversed)")
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    head(figure, "Robust SROCC, the least over all attacks, with 95 % intervals", part_of(board, len(rows)))
    handles = kinds(rows)
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
