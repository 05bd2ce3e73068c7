"""Images before and after attacks."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure, SubFigure

from iqarena.bench.leaderboard.board import Board
from iqarena.bench.leaderboard.examples import GAIN, Example
from iqarena.bench.leaderboard.plots.style import WIDTH, cut, head
from iqarena.bench.results.formatting import format_number

MOST = 4


def sheet(board: Board) -> Figure:
    """At the left the images that moved most of all, at the right those that moved least, no row twice."""
    most = sorted((e for e in board.examples if e.moved_most), key=lambda e: -abs(e.adv - e.clean))[:MOST]
    least = sorted((e for e in board.examples if not e.moved_most), key=lambda e: abs(e.adv - e.clean))[:MOST]
    figure = Figure(figsize=(WIDTH, 1.05 + 1.62 * max(len(most), len(least))), layout="constrained")
    grid = figure.add_gridspec(1, 2, wspace=0.04)
    left, right = (figure.add_subfigure(grid[0, half]) for half in range(2))
    _half(left, most, "moved most", max(len(most), len(least)))
    _half(right, least, "moved least", max(len(most), len(least)))
    head(figure, f"Images before and after attacks, and their difference ×{GAIN}", f"{board.title} · {board.images}")
    return figure


def _half(half: SubFigure, shown: Sequence[Example], title: str, down: int) -> None:
    half.suptitle(title, fontsize=9)
    panels = half.subplots(down, 3, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for line, example in zip(panels, shown, strict=False):
        qualities = (f"quality {format_number(example.clean)}", f"quality {format_number(example.adv)}", "difference")
        for axes, pixels, words in zip(line, example.pixels(), qualities, strict=True):
            axes.imshow(pixels, interpolation="lanczos")
            axes.text(0.5, -0.04, words, transform=axes.transAxes, ha="center", va="top", fontsize=7)
        line[0].set_title(f"{cut(example.row.name, 40)} · {cut(example.cell.key.attack, 24)}", fontsize=7, loc="left")
