"""The plot of robust against clean SROCC, with the cost as the size of the marks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iqarena.bench.leaderboard.board import Board
from iqarena.bench.leaderboard.plots.style import (
    FAINT,
    GREY,
    INK,
    MARKERS,
    WIDTH,
    color,
    kind_handles,
    legend,
    rank_text,
    set_title,
    shorten_names,
    spread,
    subtitle,
)
from iqarena.bench.metrics.bootstrap import Interval
from iqarena.bench.results.formatting import short_spec
from iqarena.bench.results.ranking import Row

MAX_NAMED = 24
"""Largest number of rows that are all named; of more rows, those of the frontier are named."""
COSTS = (1.0, 3.0, 10.0, 100.0)


def frontier(board: Board) -> Figure:
    """Plot a mark for each model and defense; its distance from the diagonal is the SROCC that the attacks cost."""
    rows = [row for row in board.rows if np.isfinite([row.clean[0], row.robust[0]]).all()]
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    axes = figure.subplots()
    best = _best(rows)
    many = len(rows) > MAX_NAMED
    xlim = _limits([row.clean for row in rows], values_only=many)
    ylim = _limits([*((row.clean[0], np.nan, np.nan) for row in rows), *(row.robust for row in rows)], values_only=many)
    axes.plot([-2, 2], [-2, 2], color=GREY, linewidth=1, linestyle=(0, (5, 3)))
    # the region that the frontier dominates
    axes.fill_between(*_stairs(best, xlim[0]), -2, color="#f4f4f4", zorder=0, linewidth=0)
    axes.plot(*_stairs(best, xlim[0]), color=GREY, linewidth=1.1, zorder=1)
    models = sorted({row.model for row in rows})
    for row in rows:
        if not many:
            _bars(axes, row)
        axes.plot(
            row.clean[0],
            row.robust[0],
            _marker(row, models),
            color=color(row),
            markersize=mark_size(row.cost_ratio),
            markeredgecolor="white",
            alpha=0.4 if row.rank is None else 0.9,
            zorder=4,
        )
    axes.set(xlim=xlim, ylim=ylim, xlabel=f"clean {board.measure}", ylabel=f"robust {board.measure}")
    axes.grid(color=FAINT, linewidth=0.6)
    _name_marks(axes, [row for row in rows if row in best] if many else rows, 0.18 / (figure.get_figheight() - 1.5))
    set_title(figure, "Clean against robust SROCC; area grows with seconds an image", subtitle(board, len(board.rows)))
    legend(figure, _legend(rows, models))
    return figure


def mark_size(cost: float) -> float:
    """Return the diameter of a mark in points: the area doubles where the cost grows eightfold."""
    capped = float(np.clip(cost if np.isfinite(cost) else 1.0, 0.5, 1000))
    return float(7.5 * capped ** (1 / 6))


def _marker(row: Row, models: Sequence[str]) -> str:
    """Return the marker of a row's model; a circle for all models where there are not enough shapes."""
    return MARKERS[models.index(row.model)] if len(models) <= len(MARKERS) else "o"


def _best(rows: Sequence[Row]) -> list[Row]:
    """Return the ranked rows that no other ranked row beats in both clean and robust SROCC, from left to right."""
    best: list[Row] = []
    for row in sorted((r for r in rows if r.rank is not None), key=lambda r: (-r.clean[0], -r.robust[0])):
        if not best or row.robust[0] > best[-1].robust[0]:
            best.append(row)
    return best[::-1]


def _stairs(best: Sequence[Row], left: float) -> tuple[list[float], list[float]]:
    x, y = [left], [best[0].robust[0] if best else np.nan]
    for row, following in zip(best, [*best[1:], None], strict=True):
        x += [row.clean[0], row.clean[0]]
        y += [row.robust[0], following.robust[0] if following else -2]
    return x, y


def _bars(axes: Axes, row: Row) -> None:
    axes.plot(row.clean[1:], [row.robust[0]] * 2, color=color(row), linewidth=1.3, alpha=0.3)
    axes.plot([row.clean[0]] * 2, row.robust[1:], color=color(row), linewidth=1.3, alpha=0.3)


def _name_marks(axes: Axes, rows: Sequence[Row], gap: float) -> None:
    """Write names in a column at the right, joined to their marks, `gap` of the axes' height apart so that none overlap."""
    low, high = axes.get_ylim()
    marks = sorted((((row.robust[0] - low) / (high - low), -row.clean[0], row.name), row) for row in rows)
    names, heights = shorten_names([row.name for _, row in marks]), spread([key[0] for key, _ in marks], gap)
    for (_, row), name, height in zip(marks, names, heights, strict=True):
        style = {
            "arrowstyle": "-",
            "color": color(row),
            "linewidth": 0.9,
            "linestyle": (0, (1, 2)),
            "shrinkB": 5,
            "relpos": (0, 0.5),
        }
        axes.annotate(
            f"{name} · {rank_text(row)}",
            (row.clean[0], row.robust[0]),
            (1.04, height),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops=style,
        )


def _legend(rows: Sequence[Row], models: Sequence[str]) -> list[Line2D]:
    handles = kind_handles(rows)
    handles += [
        Line2D([], [], color=INK, marker=marker, linestyle="none", markersize=6, label=short_spec(model))
        for model, marker in zip(models, MARKERS, strict=False)
        if len(models) <= len(MARKERS)
    ]
    highest = max((row.cost_ratio for row in rows if np.isfinite(row.cost_ratio)), default=1.0)
    handles += [
        Line2D([], [], color="#bbbbbb", marker="o", linestyle="none", markersize=mark_size(cost), label=f"cost {cost:g}×")
        for cost in COSTS
        if cost == 1 or cost <= 2 * highest
    ]
    handles.append(Line2D([], [], color=GREY, linewidth=1, linestyle=(0, (5, 3)), label="nothing lost"))
    handles.append(Line2D([], [], color=GREY, linewidth=1.1, label="frontier"))
    return handles


def _limits(triples: Sequence[Interval], values_only: bool) -> tuple[float, float]:
    """Return limits of an axis that hold all values and intervals with a margin; (-1, 1) without values."""
    values = [value for triple in triples for value in (triple[:1] if values_only else triple) if np.isfinite(value)]
    low, high = min(values, default=-1.0), max(values, default=1.0)
    margin = max(0.05 * (high - low), 0.03)
    return low - margin, high + margin
