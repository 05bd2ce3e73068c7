"""The plots of one track, drawn from plain numbers.

A `Board` holds every number that is drawn, already rounded, so ``plots/data.json`` says what the pictures show and can be
compared where fonts and matplotlib versions make the pictures themselves differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

Number = float | None
Triple = tuple[Number, Number, Number]

KINDS = ("robust-srocc", "attack-heatmap", "clean-robust", "quality-shift")
WIDTH = 8.3  # inches: 1245 pixels, so that 8 point text is still 11 pixels high at a README's 830
INK, GREY, FAINT = "#222222", "#777777", "#dddddd"
OKABE_ITO = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # without its yellow, which white swallows
MARKERS = "osD^vP*X"
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 8.5, "axes.titlesize": 9.5, "axes.titlelocation": "left",
    "axes.edgecolor": GREY, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "legend.frameon": False,
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
    "svg.hashsalt": "iqarena", "svg.fonttype": "path",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One model and defense; the triples are (value, lo, hi), missing is None."""

    rank: int | None
    model: str
    defense: str
    clean: Triple
    robust: Triple

    @property
    def name(self) -> str:
        """What stands beside its mark."""
        return f"{self.model}, no defense" if self.defense == "none" else f"{self.model} + {self.defense}"


@dataclass(frozen=True)
class Panel:
    """The cells of one setting: [line][column], None where there is no cell."""

    setting: str
    srocc: tuple[tuple[Number, ...], ...]
    shift: tuple[tuple[Number, ...], ...]


@dataclass(frozen=True)
class Board:
    """All numbers of a track's plots. Columns are (attack, objective); the last `controls` of them are controls."""

    slug: str
    title: str
    label_kind: str
    lines: tuple[Line, ...]
    columns: tuple[tuple[str, str], ...]
    controls: int
    panels: tuple[Panel, ...]


def rounded(value: float) -> Number:
    """Six digits, without a minus zero; None for NaN and infinity."""
    return round(float(value), 6) + 0.0 if np.isfinite(value) else None


def signed(value: Number, digits: int = 2) -> str:
    """A number with a true minus; `–` where there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def file_names(slug: str) -> list[str]:
    """The files that `draw` writes for a track."""
    return [f"{kind}-{slug}.{end}" for kind in KINDS for end in ("png", "svg")]


def draw(board: Board, folder: Path) -> list[Path]:
    """Write all plots of a track as PNG and SVG; the bytes depend on the board and on the installed matplotlib alone.

    Raises:
        OSError: where the folder cannot be written to.
    """
    paths = []
    with mpl.rc_context():
        mpl.rcdefaults()  # whoever runs this may have a matplotlibrc of their own
        mpl.rcParams.update(STYLE)
        figures = (_dots(board), _heat(board, "srocc"), _scatter(board), _heat(board, "shift"))
        for kind, figure in zip(KINDS, figures, strict=True):
            png, svg = folder / f"{kind}-{board.slug}.png", folder / f"{kind}-{board.slug}.svg"
            figure.savefig(png, dpi=150, metadata={"Software": None})
            figure.savefig(svg, metadata={"Date": None})
            paths += [png, svg]
    return paths


def _head(figure: Figure, heading: str, board: Board) -> None:
    figure.suptitle(f"{heading}\n{board.title}", x=0.01, ha="left", fontsize=9.5)


def _rank(line: Line) -> str:
    return "not ranked" if line.rank is None else f"rank {line.rank}"


def _dots(board: Board) -> Figure:
    """Robust SROCC with its interval, and clean SROCC, a line per model and defense."""
    count = len(board.lines)
    figure = Figure(figsize=(WIDTH, 1.5 + 0.32 * count), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.8)
    for place, line in enumerate(board.lines):
        color = GREY if line.rank is None else OKABE_ITO[0]
        value, low, high = line.robust
        if value is not None and low is not None and high is not None:
            axes.plot([low, high], [place, place], color=color, linewidth=2.2, alpha=0.65, solid_capstyle="butt")
        if value is not None:
            axes.plot(value, place, "o", color=color, markersize=6.5)
        if line.clean[0] is not None:
            axes.plot(line.clean[0], place, "o", markersize=6.5, markerfacecolor="none", markeredgecolor=INK, zorder=3)
    axes.set_yticks(range(count), [f"{line.name} · {_rank(line)}" for line in board.lines])
    axes.set(
        xlim=(-1.03, 1.03), ylim=(count - 0.5, -0.5), xlabel=f"SROCC with {board.label_kind} (1 = same order, −1 = reversed)"
    )
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _head(figure, "Robust and clean SROCC", board)
    handles = [
        Line2D(
            [], [], color=OKABE_ITO[0], marker="o", markersize=6.5, linewidth=2.2, label="robust: least over attacks, 95 %"
        ),
        Line2D([], [], color=INK, marker="o", markersize=6.5, markerfacecolor="none", linestyle="none", label="clean"),
    ]
    if any(line.rank is None for line in board.lines):
        handles.append(Line2D([], [], color=GREY, marker="o", markersize=6.5, linewidth=2.2, label="not ranked"))
    figure.legend(handles=handles, loc="outside lower right", ncols=3)
    return figure


def _heat(board: Board, measure: str) -> Figure:
    """All cells, a panel per setting: SROCC after attack, or mean |quality shift|."""
    grids = [np.array(getattr(panel, measure), dtype=float) for panel in board.panels]
    if measure == "srocc":
        title, label = "SROCC after each attack", f"SROCC with {board.label_kind}"
        cmap, norm = mpl.colormaps["PuOr_r"], Normalize(-1, 1)
    else:
        title, label = "Mean |quality shift| by each attack (1 = the whole scale; uses no labels)", "mean |quality shift|"
        known = [grid[np.isfinite(grid)].max(initial=0.05) for grid in grids]
        cmap, norm = mpl.colormaps["YlOrBr"], Normalize(0, max(known))
    beside = 1.3 + 0.073 * max(len(line.name) for line in board.lines)  # inches for the names and the colour bar
    width = max(WIDTH, beside + 0.29 * len(board.columns))
    height = 2.1 + len(board.panels) * (0.35 + 0.29 * len(board.lines))
    figure = Figure(figsize=(width, height), layout="constrained")
    panels: Sequence[Axes] = list(figure.subplots(len(board.panels), 1, sharex=True, squeeze=False)[:, 0])
    size = min(8.5, 72 * (width - beside) / len(board.columns) / 3.2)
    for axes, panel, grid in zip(panels, board.panels, grids, strict=True):
        _cells(axes, grid, cmap, norm, size)
        axes.set_title(panel.setting)
        axes.set_yticks(range(len(board.lines)), [line.name for line in board.lines])
        if board.controls and board.controls < len(board.columns):
            axes.axvline(len(board.columns) - board.controls - 0.5, color=INK, linewidth=1.2)
    panels[-1].set_xticks(
        range(len(board.columns)),
        _column_names(board),
        rotation=40, ha="right", rotation_mode="anchor", fontsize=8,
    )  # fmt: skip
    bar = figure.colorbar(ScalarMappable(norm, cmap), ax=panels, fraction=0.025, pad=0.012, aspect=30)
    bar.set_label(label)
    bar.outline.set_visible(False)
    _head(figure, title, board)
    return figure


def _cells(
    axes: Axes, grid: np.ndarray[tuple[int, int], np.dtype[np.float64]], cmap: Colormap, norm: Normalize, size: float
) -> None:
    """Colour and number of every cell, in the text colour that reads on it."""
    axes.imshow(np.ma.masked_invalid(grid), cmap=cmap.with_extremes(bad="#eeeeee"), norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        red, green, blue, _ = cmap(norm(value)) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
        dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.21  # where white and ink contrast alike
        color = "white" if dark else INK
        axes.text(column, row, signed(float(value)), ha="center", va="center", color=color, fontsize=size)
    rows, columns = grid.shape
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _column_names(board: Board) -> list[str]:
    """An attack and its objective, on two lines where they are long and there is room for it."""
    names = []
    for place, (attack, objective) in enumerate(board.columns):
        control = " (control)" if place >= len(board.columns) - board.controls else ""
        name, bracket, parameters = attack.partition("[")
        fold = "\n" if bracket and len(board.columns) <= 12 else ""
        names.append(f"{name}{fold}{bracket}{parameters} · {objective}{control}")
    return names


def _scatter(board: Board) -> Figure:
    """Clean against robust SROCC; how far a mark is below the diagonal is what the attacks cost it."""
    shown = [line for line in board.lines if line.clean[0] is not None and line.robust[0] is not None]
    figure = Figure(figsize=(WIDTH, max(5.2, 1.4 + 0.24 * len(shown))), layout="constrained")
    axes = figure.subplots()
    diagonal: list[Triple] = [(line.clean[0], None, None) for line in shown]  # keeps it in view above the marks
    xlim, ylim = _limits([line.clean for line in shown]), _limits([*diagonal, *(line.robust for line in shown)])
    axes.plot([-2, 2], [-2, 2], color=GREY, linewidth=1, linestyle=(0, (5, 3)), label="nothing lost under attack")
    models, defenses = sorted({line.model for line in shown}), sorted({line.defense for line in shown})
    colors = [OKABE_ITO[defenses.index(line.defense) % len(OKABE_ITO)] for line in shown]
    for line, color in zip(shown, colors, strict=True):
        for x, y in _bars(line):
            axes.plot(x, y, color=color, linewidth=1.3, alpha=0.45)
        marker, edge = MARKERS[models.index(line.model) % len(MARKERS)], INK if line.rank is None else "white"
        axes.plot(_at(line.clean), _at(line.robust), marker, color=color, markersize=8, markeredgecolor=edge, zorder=4)
    axes.set(xlim=xlim, ylim=ylim)
    axes.set(xlabel=f"clean SROCC with {board.label_kind}", ylabel=f"robust SROCC with {board.label_kind}")
    axes.grid(color=FAINT, linewidth=0.6)
    _name_marks(axes, shown, colors, 0.18 / (figure.get_figheight() - 1.2))
    _head(figure, "Clean against robust SROCC, 95 % intervals", board)
    figure.legend(handles=axes.get_legend_handles_labels()[0], loc="outside lower left")
    return figure


def _name_marks(axes: Axes, shown: Sequence[Line], colors: Sequence[str], gap: float) -> None:
    """Names in a column at the right, joined to their marks, `gap` of the axes' height apart so that none overlap."""
    low, high = axes.get_ylim()
    marks = sorted(
        (((_at(line.robust) - low) / (high - low), -_at(line.clean), line.name), line, color)
        for line, color in zip(shown, colors, strict=True)
    )
    for (_, line, color), height in zip(marks, spread([place[0] for place, _, _ in marks], gap), strict=True):
        style = {"arrowstyle": "-", "color": color, "linewidth": 0.9, "linestyle": (0, (1, 2)), "shrinkB": 5,
                 "relpos": (0, 0.5)}  # fmt: skip
        axes.annotate(
            f"{line.name} · {_rank(line)}", (_at(line.clean), _at(line.robust)), (1.04, height), textcoords="axes fraction",
            va="center", annotation_clip=False, arrowprops=style,
        )  # fmt: skip


def _at(triple: Triple) -> float:
    return float("nan") if triple[0] is None else triple[0]


def _bars(line: Line) -> list[tuple[list[float], list[float]]]:
    """The two interval bars of a mark, where it has intervals, as x and y pairs."""
    found, x, y = [], _at(line.clean), _at(line.robust)
    if line.clean[1] is not None and line.clean[2] is not None:
        found.append(([line.clean[1], line.clean[2]], [y, y]))
    if line.robust[1] is not None and line.robust[2] is not None:
        found.append(([x, x], [line.robust[1], line.robust[2]]))
    return found


def _limits(triples: Sequence[Triple]) -> tuple[float, float]:
    """Ends of an axis that hold all values and intervals with some room; (-1, 1) for nothing."""
    values = [value for triple in triples for value in triple if value is not None]
    low, high = min(values, default=-1.0), max(values, default=1.0)
    room = max(0.05 * (high - low), 0.03)
    return low - room, high + room


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Rising positions in [0, 1], at least `gap` apart where they fit, near the rising `heights` wanted."""
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    ceiling = 1.0
    for place in reversed(range(len(placed))):
        placed[place] = min(placed[place], ceiling)
        ceiling = placed[place] - gap
    return placed
