"""The plot of images before and after attacks."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure, SubFigure

from iqarena.bench.leaderboard.board import Board
from iqarena.bench.leaderboard.examples import GAIN, Example
from iqarena.bench.leaderboard.plots.style import WIDTH, set_title, truncate
from iqarena.bench.results.formatting import format_number

MAX_EXAMPLES = 4

DPI = 110
"""Fewer than for other plots, since photographs take half of all bytes of a board."""


def sheet(board: Board) -> Figure:
    """Plot the images that moved most at the left and those that moved least at the right, no row twice in either half."""
    most = sorted((e for e in board.examples if e.moved_most), key=lambda e: -abs(e.adv - e.clean))[:MAX_EXAMPLES]
    least = sorted((e for e in board.examples if not e.moved_most), key=lambda e: abs(e.adv - e.clean))[:MAX_EXAMPLES]
    figure = Figure(figsize=(WIDTH, 1.05 + 1.62 * max(len(most), len(least))), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(1, 2, wspace=0.04)
    left, right = (figure.add_subfigure(grid[0, half]) for half in range(2))
    _draw_half(left, most, "moved most", max(len(most), len(least)))
    _draw_half(right, least, "moved least", max(len(most), len(least)))
    set_title(figure, f"Images before and after attacks, and their difference ×{GAIN}", f"{board.title} · {board.images}")
    return figure


def _draw_half(half: SubFigure, examples: Sequence[Example], title: str, down: int) -> None:
    half.suptitle(title, fontsize=9)
    panels = half.subplots(down, 3, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for row, example in zip(panels, examples, strict=False):
        captions = (f"quality {format_number(example.clean)}", f"quality {format_number(example.adv)}", "difference")
        for axes, pixels, caption in zip(row, example.pixels(), captions, strict=True):
            axes.imshow(pixels, interpolation="lanczos")
            axes.text(0.5, -0.04, caption, transform=axes.transAxes, ha="center", va="top", fontsize=7)
        row[0].set_title(
            f"{truncate(example.row.name, 40)} · {truncate(example.cell.key.attack, 24)}", fontsize=7, loc="left"
        )
