"""Heat maps: each attack on each row, and transfer from model to model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from iqarena.bench.leaderboard.board import Board, select_rows
from iqarena.bench.leaderboard.plots.style import INK, WIDTH, set_title, shorten_names, subtitle
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.results.formatting import format_number
from iqarena.bench.results.ranking import CellValue, Row
from iqarena.bench.results.track import TRANSFER

MAX_ROWS = 40
MAX_PANEL_CELLS = 260
"""Largest number of cells in which each setting has a panel; of more, one panel shows the worst setting."""

Scale = tuple[Colormap, Normalize]


class Column(NamedTuple):
    """A column of the heat map: an attack with its objective."""

    control: bool
    attack: str
    objective: str

    @property
    def name(self) -> str:
        """The label below the column."""
        return f"{self.attack} · {self.objective}{' (control)' if self.control else ''}"


def attacks(board: Board, measure: str) -> Figure:
    """Plot all cells, with a panel for each setting: SROCC after attack (`srocc`), or mean |quality shift| (`shift`)."""
    rows = select_rows(board.rows, MAX_ROWS)
    columns = sorted({_column(cell) for row in rows for cell in row.cells})
    panels = sorted({_setting(cell) for row in rows for cell in row.cells}, key=lambda s: (s != "oblivious", s))
    if len(panels) * len(rows) * len(columns) > MAX_PANEL_CELLS:
        settings = dict.fromkeys(panel.partition(" from ")[0] for panel in panels)
        panels = ["the worst of " + ", ".join(settings)] if len(panels) > 1 else panels
    grids = [_grid(rows, columns, panel if len(panels) > 1 else None, measure) for panel in panels]
    if measure == "srocc":
        heading, label, scale = "SROCC after each attack", board.measure, srocc_scale()
    else:
        heading, label = "Mean |quality shift| by each attack (1 = the whole scale; uses no labels)", "mean |quality shift|"
        largest = max(np.nanmax(grid, initial=0.05) for grid in grids)
        scale = (
            mpl.colormaps["YlOrBr"],
            Normalize(0, min(largest, 1.0)),
        )  # one model far off its scale would make all others pale
    names = [column.name for column in columns]
    figure, axes = heat_map([row.name for row in rows], names, panels, grids, scale, label)
    controls = sum(column.control for column in columns)
    for panel_axes in axes:
        if 0 < controls < len(columns):
            panel_axes.axvline(len(columns) - controls - 0.5, color=INK, linewidth=1.2)
    set_title(figure, heading, subtitle(board, len(rows)))
    return figure


def transfer(board: Board) -> Figure:
    """Plot the SROCC of each row under attacks crafted on each undefended model, the least over the transferred attacks."""
    rows, grid = transfer_matrix(board)
    sources = [f"crafted on {source}" for source in board.sources]
    figure, _ = heat_map([row.name for row in rows], sources, [""], [grid], srocc_scale(), board.measure)
    set_title(figure, "Transfer: attacks crafted on one undefended model, scored by another", subtitle(board, len(rows)))
    return figure


def transfer_matrix(board: Board) -> tuple[list[Row], Reals]:
    """Return the rows under transfer attacks and their least SROCC by source model, (rows, sources).

    Where the source is the row's own model, the value is that of its oblivious cells.
    """
    sources = board.sources
    transferred = {
        _column(c) for row in board.rows for c in row.cells if c.key.setting.startswith(TRANSFER) and not c.control
    }

    def least(row: Row, source: str) -> float:
        setting = "oblivious" if row.model == source else TRANSFER + source
        values = [cell.srocc[0] for cell in row.cells if cell.key.setting == setting and _column(cell) in transferred]
        return min(values, default=np.nan)

    attacked = [
        row for row in board.rows if any(np.isfinite(least(row, source)) for source in sources if source != row.model)
    ]
    rows = select_rows(attacked, MAX_ROWS)
    return rows, np.array([[least(row, source) for source in sources] for row in rows]).reshape(len(rows), len(sources))


def _column(cell: CellValue) -> Column:
    return Column(cell.control, cell.key.attack, f"{cell.key.objective} {cell.key.variant}".strip())


def _setting(cell: CellValue) -> str:
    return cell.key.setting


def _grid(rows: Sequence[Row], columns: Sequence[Column], setting: str | None, measure: str) -> Reals:
    """Return the values, (rows, columns): the worst of several settings, NaN where there is no cell.

    Args:
        rows, columns: of the heat map.
        setting: only this one; all if None.
        measure: `srocc` or `shift`.
    """
    indices = {column: index for index, column in enumerate(columns)}
    worse: Callable[[float, float], float] = np.fmin if measure == "srocc" else np.fmax
    grid = np.full((len(rows), len(columns)), np.nan)
    for number, row in enumerate(rows):
        for cell in row.cells:
            if setting is None or _setting(cell) == setting:
                at = number, indices[_column(cell)]
                grid[at] = worse(grid[at], cell.srocc[0] if measure == "srocc" else cell.shift)
    return grid


def srocc_scale() -> Scale:
    """Return the diverging colour scale of an SROCC, from −1 to 1."""
    return mpl.colormaps["PuOr_r"], Normalize(-1, 1)


def heat_map(
    names: Sequence[str], columns: Sequence[str], panels: Sequence[str], grids: Sequence[Reals], scale: Scale, label: str
) -> tuple[Figure, Sequence[Axes]]:
    """Plot panels one above the other, with row names at the left, column names below and a colour bar.

    Args:
        names: of the rows.
        columns: names of the columns.
        panels: titles of the panels.
        grids: values of each panel, (rows, columns).
        scale: colours of the values.
        label: of the colour bar.
    """
    names, columns = shorten_names(names), shorten_names(columns)
    reserved = 1.3 + 0.073 * max(map(len, names), default=0)  # inches for the names and the colour bar
    width = max(WIDTH, reserved + 0.125 * len(columns))
    column_width = 72 * (width - reserved) / max(len(columns), 1)  # points
    row_height = 0.29 if len(names) <= 16 else 0.2  # inches
    steep = column_width < 26
    columns = [name if steep else name.replace("[", "\n[", 1) for name in columns]
    longest = max((len(line) for name in columns for line in name.splitlines()), default=0)
    height = 1.2 + (0.075 if steep else 0.05) * longest + len(panels) * (0.35 + row_height * len(names))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes: Sequence[Axes] = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    for panel_axes, panel, grid in zip(axes, panels, grids, strict=True):
        _draw_cells(panel_axes, grid, scale, min(8.0, column_width / 3.2, 72 * row_height / 1.6))
        panel_axes.set_title(panel)
        panel_axes.set_yticks(range(len(names)), names, fontsize=8.5 if row_height > 0.25 else 7.5)
    axes[-1].set_xticks(
        range(len(columns)),
        columns,
        rotation=90 if steep else 40,
        ha="center" if steep else "right",
        va="top",
        rotation_mode="default" if steep else "anchor",
        fontsize=min(8, column_width * 0.9),
    )
    bar = figure.colorbar(ScalarMappable(scale[1], scale[0]), ax=axes, fraction=0.025, pad=0.012, aspect=30)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return figure, axes


def _draw_cells(axes: Axes, grid: Reals, scale: Scale, size: float) -> None:
    """Draw the colour of every cell and, where the font size is large enough to read, its number in black or white."""
    cmap, norm = scale
    axes.imshow(np.ma.masked_invalid(grid), cmap=cmap.with_extremes(bad="#eeeeee"), norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if size < 4.5:
            break
        red, green, blue, _ = cmap(norm(value)) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
        dark = (
            0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.21
        )  # black and white contrast alike at this luminance
        ink = "white" if dark else INK
        text = format_number(float(value))
        # these texts are many and inside their axes, so the layout need not look at them
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=size, in_layout=False)
    rows, columns = grid.shape
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2 if size >= 4.5 else 0.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
