"""Tables of numbers as colours: each attack on each row, and transfer from model to model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from iqarena.bench.leaderboard.board import Board, shown
from iqarena.bench.leaderboard.plots.style import INK, WIDTH, head, part_of, short
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.results.formatting import format_number
from iqarena.bench.results.ranking import CellValue, Row
from iqarena.bench.results.track import TRANSFER

MOST = 40
PANELS = 260
"""Cells up to which each setting has a panel; of more, the worst setting is shown."""

Scale = tuple[Colormap, Normalize]


class Column(NamedTuple):
    """What is asked of every row."""

    control: bool
    attack: str
    objective: str

    @property
    def name(self) -> str:
        """As it stands below the column."""
        return f"{self.attack} · {self.objective}{' (control)' if self.control else ''}"


def attacks(board: Board, measure: str) -> Figure:
    """All cells, a panel per setting: SROCC after attack (`srocc`), or mean |quality shift| (`shift`)."""
    rows = shown(board.rows, MOST)
    columns = sorted({_column(cell) for row in rows for cell in row.cells})
    panels = sorted({_setting(cell) for row in rows for cell in row.cells}, key=lambda s: (s != "oblivious", s))
    if len(panels) * len(rows) * len(columns) > PANELS:
        words = dict.fromkeys(panel.partition(" from ")[0] for panel in panels)
        panels = ["the worst of " + ", ".join(words)] if len(panels) > 1 else panels
    grids = [_grid(rows, columns, panel if len(panels) > 1 else None, measure) for panel in panels]
    if measure == "srocc":
        heading, label, scale = "SROCC after each attack", board.measure, both_ways()
    else:
        heading, label = "Mean |quality shift| by each attack (1 = the whole scale; uses no labels)", "mean |quality shift|"
        largest = max(np.nanmax(grid, initial=0.05) for grid in grids)
        scale = mpl.colormaps["YlOrBr"], Normalize(0, min(largest, 1.0))  # one model far off its scale pales all others
    names = [column.name for column in columns]
    figure, axes = table([row.name for row in rows], names, panels, grids, scale, label)
    controls = sum(column.control for column in columns)
    for one in axes:
        if 0 < controls < len(columns):
            one.axvline(len(columns) - controls - 0.5, color=INK, linewidth=1.2)
    head(figure, heading, part_of(board, len(rows)))
    return figure


def transfer(board: Board) -> Figure:
    """SROCC of each row under attacks crafted on each undefended model, the least over attacks that were transferred."""
    rows, grid = transfer_matrix(board)
    sources = [f"crafted on {source}" for source in board.sources]
    figure, _ = table([row.name for row in rows], sources, [""], [grid], both_ways(), board.measure)
    head(figure, "Transfer: attacks crafted on one undefended model, scored by another", part_of(board, len(rows)))
    return figure


def transfer_matrix(board: Board) -> tuple[list[Row], Reals]:
    """Rows under attacks from other models, and their least SROCC by source; for their own, that of oblivious cells."""
    sources = board.sources
    moved = {_column(c) for row in board.rows for c in row.cells if c.key.setting.startswith(TRANSFER) and not c.control}

    def least(row: Row, source: str) -> float:
        setting = "oblivious" if row.model == source else TRANSFER + source
        values = [cell.srocc[0] for cell in row.cells if cell.key.setting == setting and _column(cell) in moved]
        return min(values, default=np.nan)

    met = [row for row in board.rows if any(np.isfinite(least(row, source)) for source in sources if source != row.model)]
    rows = shown(met, MOST)
    return rows, np.array([[least(row, source) for source in sources] for row in rows]).reshape(len(rows), len(sources))


def _column(cell: CellValue) -> Column:
    return Column(cell.control, cell.key.attack, f"{cell.key.objective} {cell.key.variant}".strip())


def _setting(cell: CellValue) -> str:
    return cell.key.setting


def _grid(rows: Sequence[Row], columns: Sequence[Column], setting: str | None, measure: str) -> Reals:
    """(rows, columns); of several settings the worst, NaN where there is no cell."""
    place = {column: number for number, column in enumerate(columns)}
    worse: Callable[[float, float], float] = np.fmin if measure == "srocc" else np.fmax
    grid = np.full((len(rows), len(columns)), np.nan)
    for number, row in enumerate(rows):
        for cell in row.cells:
            if setting is None or _setting(cell) == setting:
                where = number, place[_column(cell)]
                grid[where] = worse(grid[where], cell.srocc[0] if measure == "srocc" else cell.shift)
    return grid


def both_ways() -> Scale:
    return mpl.colormaps["PuOr_r"], Normalize(-1, 1)


def table(
    names: Sequence[str], columns: Sequence[str], panels: Sequence[str], grids: Sequence[Reals], scale: Scale, label: str
) -> tuple[Figure, Sequence[Axes]]:
    """One panel above the other with names at the left, columns below and a colour bar."""
    names, columns = short(names), short(columns)
    beside = 1.3 + 0.073 * max(map(len, names), default=0)  # inches for the names and the colour bar
    width = max(WIDTH, beside + 0.125 * len(columns))
    wide = 72 * (width - beside) / max(len(columns), 1)  # points for a column
    tall = 0.29 if len(names) <= 16 else 0.2
    steep = wide < 26
    columns = [name if steep else name.replace("[", "\n[", 1) for name in columns]
    longest = max((len(line) for name in columns for line in name.splitlines()), default=0)
    height = 1.2 + (0.075 if steep else 0.05) * longest + len(panels) * (0.35 + tall * len(names))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes: Sequence[Axes] = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    for one, panel, grid in zip(axes, panels, grids, strict=True):
        _cells(one, grid, scale, min(8.0, wide / 3.2, 72 * tall / 1.6))
        one.set_title(panel)
        one.set_yticks(range(len(names)), names, fontsize=8.5 if tall > 0.25 else 7.5)
    axes[-1].set_xticks(
        range(len(columns)),
        columns,
        rotation=90 if steep else 40,
        ha="center" if steep else "right",
        va="top",
        rotation_mode="default" if steep else "anchor",
        fontsize=min(8, wide * 0.9),
    )
    bar = figure.colorbar(ScalarMappable(scale[1], scale[0]), ax=axes, fraction=0.025, pad=0.012, aspect=30)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return figure, axes


def _cells(axes: Axes, grid: Reals, scale: Scale, size: float) -> None:
    """Colour and, where it can be read, number of every cell, in the text colour that reads on it."""
    cmap, norm = scale
    axes.imshow(np.ma.masked_invalid(grid), cmap=cmap.with_extremes(bad="#eeeeee"), norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if size < 4.5:
            break
        red, green, blue, _ = cmap(norm(value)) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
        dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.21  # where white and ink contrast alike
        ink = "white" if dark else INK
        axes.text(
            column, row, format_number(float(value)), ha="center", va="center", color=ink, fontsize=size, in_layout=False
        )  # inside their axes, and many
    rows, columns = grid.shape
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2 if size >= 4.5 else 0.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
