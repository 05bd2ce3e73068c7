"""The common style of all plots: fonts, colours, order, sizes; white background, so that they read on a dark page too."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iqarena.bench.leaderboard.board import Board
from iqarena.bench.results.ranking import Row

WIDTH = 8.3  # inches: 1245 pixels, so that 8 point text is still 11 pixels high at the 830 pixels of a README
INK, GREY, FAINT = "#222222", "#767676", "#dddddd"
COLORS = {
    "none": "#5b5b5b",
    "purification": "#0072B2",
    "architecture": "#CC79A7",
    "training": "#D55E00",
    "certified": "#009E73",
}
"""The colour of each kind of defense, after Okabe and Ito: colour-blind people can distinguish them."""
OTHER = "#B8860B"
MAX_NAME = 64
"""Largest number of characters of a name in a plot."""
MARKERS = "osD^vP*X"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.pad_inches": 0.08,
    "figure.dpi": 150,  # as in the saved file, so that letters are as wide as the layout computes
    "text.parse_math": False,  # a name with two dollar signs is no formula
    "svg.hashsalt": "iqarena",
    "svg.fonttype": "none",  # text as text: a tenth of the size of its outlines, and it can be searched
}


@contextmanager
def styled() -> Iterator[None]:
    """Return a context in which figures are drawn and saved in this style, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def set_title(figure: Figure, heading: str, below: str) -> None:
    """Set the title of a figure, and a subtitle below it."""
    figure.suptitle(f"{heading}\n{below}", x=0.01, ha="left", fontsize=9.5)


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Add a legend below the plot, in as many columns as fit."""
    for handle in handles:
        handle.set_label(truncate(str(handle.get_label()), MAX_NAME))
    widest = 0.45 + 0.078 * max(len(str(handle.get_label())) for handle in handles)  # inches
    columns = max(min(int(figure.get_figwidth() / widest), len(handles)), 1)
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, columnspacing=1.2, handletextpad=0.4)


def subtitle(board: Board, count: int) -> str:
    """Return title and images of a track, and the number of rows that are drawn where that is not all."""
    part = f" · {count} of {len(board.rows)} rows" if count < len(board.rows) else ""
    return f"{board.title} · {board.images}{part}"


def shorten_names(names: Sequence[str]) -> list[str]:
    """Return names without long parameters, where they differ without these, of at most `MAX_NAME` characters."""
    shortened = [re.sub(r"\[[^\[\]]{24,}\]", "[…]", name) for name in names]
    counts = Counter(shortened)
    chosen = [name if counts[short] > 1 else short for name, short in zip(names, shortened, strict=True)]
    return [truncate(name, MAX_NAME) for name in chosen]


def truncate(name: str, length: int) -> str:
    """Return a name of at most `length` characters; an ellipsis stands for the rest."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def color(row: Row) -> str:
    """Return the colour of the kind of a row's defense."""
    return COLORS.get(row.kind, OTHER)


def rank_text(row: Row) -> str:
    """Return the rank of a row in words."""
    return "not ranked" if row.rank is None else f"rank {row.rank}"


def kind_handles(rows: Sequence[Row]) -> list[Line2D]:
    """Return legend handles for the kinds of defense of some rows."""
    present = {row.kind for row in rows}
    ordered = [*(kind for kind in COLORS if kind in present), *sorted(present - set(COLORS))]
    return [
        Line2D(
            [],
            [],
            color=COLORS.get(kind, OTHER),
            marker="o",
            markersize=6,
            linestyle="none",
            label="no defense" if kind == "none" else kind,
        )
        for kind in ordered
    ]


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return rising positions in [0, 1], at least `gap` apart where they fit, near the rising `heights`."""
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    ceiling = 1.0
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed
