"""The plot of the quality of each image before and after score reflection."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iqarena.bench.leaderboard.board import Board, reflection_cell, select_rows
from iqarena.bench.leaderboard.plots.style import FAINT, GREY, INK, WIDTH, color, legend, set_title, subtitle, truncate
from iqarena.bench.results.formatting import short_spec

MAX_ROWS, ACROSS = 8, 4
MAX_TITLE = 28
"""Largest number of characters in a line above a panel."""


def reflection(board: Board) -> Figure | None:
    """Plot a panel for each model and defense, with the mirror line of full reflection; None without such cells."""
    rows = select_rows([row for row in board.rows if reflection_cell(row) is not None], MAX_ROWS)
    if not rows:
        return None
    down = -(-len(rows) // ACROSS)
    figure = Figure(figsize=(WIDTH, 1.3 + 2.15 * down), layout="constrained")
    panels = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False)
    cells = [reflection_cell(row) for row in rows]
    values = np.concatenate([np.r_[cell.clean, cell.adv] for cell in cells if cell])
    low, high = min(float(np.nanmin(values)), 0.0), max(float(np.nanmax(values)), 1.0)
    for axes in panels.flat[len(rows) :]:
        axes.set_visible(False)
    for axes, row, cell in zip(panels.flat, rows, cells, strict=False):
        assert cell is not None
        axes.plot([low, high], [low, high], color=GREY, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.plot([low, high], [1 - low, 1 - high], color=INK, linewidth=1.1)
        axes.plot(cell.clean, cell.adv, "o", color=color(row), markersize=3.4, markeredgecolor="none", alpha=0.65)
        below = "no defense" if row.defense == "none" else f"+ {short_spec(row.defense)}"
        axes.set_title(f"{truncate(short_spec(row.model), MAX_TITLE)}\n{truncate(below, MAX_TITLE)}", fontsize=7.5)
        axes.set(xlim=(low - 0.04, high + 0.04), ylim=(low - 0.04, high + 0.04), aspect="equal")
        axes.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.grid(color=FAINT, linewidth=0.6)
    figure.supxlabel("quality before", fontsize=8.5)
    figure.supylabel("quality after", fontsize=8.5)
    set_title(figure, "Quality of each image before and after score reflection", subtitle(board, len(rows)))
    handles = [
        Line2D([], [], color=INK, linewidth=1.1, label="mirror: fully reflected"),
        Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), label="nothing moved"),
    ]
    legend(figure, handles)
    return figure
