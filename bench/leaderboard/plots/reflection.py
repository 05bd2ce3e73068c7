"""Quality before and after score reflection, image by image."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iqarena.bench.leaderboard.board import Board, reflected, shown
from iqarena.bench.leaderboard.plots.style import FAINT, GREY, INK, WIDTH, color, cut, head, legend, part_of
from iqarena.bench.results.formatting import short_spec

MOST, ACROSS = 8, 4
WIDE = 28
"""Letters above a panel."""


def reflection(board: Board) -> Figure | None:
    """A panel per model and defense: on the mirror line an image has the mirrored quality; None without such cells."""
    rows = shown([row for row in board.rows if reflected(row) is not None], MOST)
    if not rows:
        return None
    down = -(-len(rows) // ACROSS)
    figure = Figure(figsize=(WIDTH, 1.3 + 2.15 * down), layout="constrained")
    panels = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False)
    cells = [reflected(row) for row in rows]
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
        axes.set_title(f"{cut(short_spec(row.model), WIDE)}\n{cut(below, WIDE)}", fontsize=7.5)
        axes.set(xlim=(low - 0.04, high + 0.04), ylim=(low - 0.04, high + 0.04), aspect="equal")
        axes.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.grid(color=FAINT, linewidth=0.6)
    figure.supxlabel("quality before", fontsize=8.5)
    figure.supylabel("quality after", fontsize=8.5)
    head(figure, "Quality of each image before and after score reflection", part_of(board, len(rows)))
    handles = [
        Line2D([], [], color=INK, linewidth=1.1, label="mirror: fully reflected"),
        Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), label="nothing moved"),
    ]
    legend(figure, handles)
    return figure
