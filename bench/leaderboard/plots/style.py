"""One look for all plots: fonts, colours, order, sizes. White paper, so that they read on a dark page too."""

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

WIDTH = 8.3  # inches: 1245 pixels, so that 8 point text is still 11 pixels high at a README's 830
INK, GREY, FAINT = "#222222", "#767676", "#dddddd"
COLORS = {
    "none": "#5b5b5b",
    "purification": "#0072B2",
    "architecture": "#CC79A7",
    "training": "#D55E00",
    "certified": "#009E73",
}
"""Of each kind of defense, after Okabe and Ito: told apart by colour-blind people too."""
OTHER = "#B8860B"
MARKERS = "osD^vP*X"
STYLE: Any = {
    "font.family": "DejaVu Sans",
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
    "figure.dpi": 150,  # as it is saved: letters are as wide as the layout thinks
    "svg.hashsalt": "iqarena",
    "svg.fonttype": "path",
}


@contextmanager
def styled() -> Iterator[None]:
    """A context in which figures are made and saved in this look; whoever runs this may have a matplotlibrc of their own."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def head(figure: Figure, heading: str, below: str) -> None:
    """Heading, and what it is of."""
    figure.suptitle(f"{heading}\n{below}", x=0.01, ha="left", fontsize=9.5)


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Below, in as many columns as fit."""
    widest = 0.45 + 0.078 * max(len(str(handle.get_label())) for handle in handles)  # inches
    columns = max(min(int(figure.get_figwidth() / widest), len(handles)), 1)
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, columnspacing=1.2, handletextpad=0.4)


def part_of(board: Board, count: int) -> str:
    """Title and images of a track, and how many of its rows are drawn where that is not all."""
    some = f" · {count} of {len(board.rows)} rows" if count < len(board.rows) else ""
    return f"{board.title} · {board.images}{some}"


def short(names: Sequence[str]) -> list[str]:
    """Names with long parameters left out, where they differ without them."""
    less = [re.sub(r"\[[^\[\]]{24,}\]", "[…]", name) for name in names]
    times = Counter(less)
    return [name if times[brief] > 1 else brief for name, brief in zip(names, less, strict=True)]


def cut(name: str, most: int) -> str:
    """As much of a name as fits."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def color(row: Row) -> str:
    """Of the kind of its defense."""
    return COLORS.get(row.kind, OTHER)


def ranked(row: Row) -> str:
    """Its rank in words."""
    return "not ranked" if row.rank is None else f"rank {row.rank}"


def kinds(rows: Sequence[Row]) -> list[Line2D]:
    """Legend entries for the kinds of defense of some rows."""
    present = [
        kind for kind in [*COLORS, *sorted({row.kind for row in rows} - set(COLORS))] if kind in {r.kind for r in rows}
    ]
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
        for kind in present
    ]


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
