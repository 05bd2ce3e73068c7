"""The plots of a leaderboard, as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from iqarena.bench.leaderboard.board import Board, reflection_cell
from iqarena.bench.leaderboard.plots.curves import curves
from iqarena.bench.leaderboard.plots.frontier import frontier
from iqarena.bench.leaderboard.plots.heat import attacks, transfer
from iqarena.bench.leaderboard.plots.letters import draw as draw_letters
from iqarena.bench.leaderboard.plots.reflection import reflection
from iqarena.bench.leaderboard.plots.robust import robust
from iqarena.bench.leaderboard.plots.sheet import sheet
from iqarena.bench.leaderboard.plots.style import styled
from iqarena.bench.leaderboard.size_curves import Family

KINDS: dict[str, Callable[[Board], Figure | None]] = {
    "robust-srocc": robust,
    "clean-robust": frontier,
    "attack-heatmap": partial(attacks, measure="srocc"),
    "quality-shift": partial(attacks, measure="shift"),
    "reflection": reflection,
    "transfer": transfer,
    "images": sheet,
}


def kinds(board: Board) -> list[str]:
    """Return the kinds of plots of a track; a kind is the first part of the file name."""
    missing = set()
    if not board.track.labelled:
        missing.add("clean-robust")
    if not board.examples:
        missing.add("images")
    if not board.sources:
        missing.add("transfer")
    if not any(reflection_cell(row) for row in board.rows):
        missing.add("reflection")
    return [kind for kind in KINDS if kind not in missing]


def file_names(boards: Sequence[Board], families: Sequence[Family]) -> list[str]:
    """Return the names of all files that `draw` writes."""
    plots = [(kind, f"{kind}-{board.slug}") for board in boards for kind in kinds(board)]
    plots += [("curves", f"curves-{family.slug}") for family in families]
    return [f"{stem}.{suffix}" for kind, stem in plots for suffix in suffixes(kind)]


def suffixes(kind: str) -> tuple[str, ...]:
    """Return the formats of a kind of plot; photographs gain nothing by being in an SVG."""
    return ("png",) if kind == "images" else ("png", "svg")


def draw(boards: Sequence[Board], families: Sequence[Family], folder: Path) -> Iterator[Path]:
    """Write all plots as PNG and SVG; the bytes depend on the data and the installed matplotlib alone.

    Raises:
        OSError: if the folder cannot be written to.
    """
    for board in boards:
        for kind in kinds(board):
            yield from save(partial(KINDS[kind], board), folder / f"{kind}-{board.slug}", suffixes(kind))
    for family in families:
        yield from save(partial(curves, family), folder / f"curves-{family.slug}")


_MAX_COLORS_OF_LINES = 2000
"""Largest number of colours of a figure of lines and text: their own ones and those of antialiased edges."""


def save(plot: Callable[[], Figure | None], stem: Path, formats: Sequence[str] = ("png", "svg")) -> Iterator[Path]:
    """Draw a figure, unless `plot` returns None, and write it, with the same bytes every time.

    Args:
        plot: draws the figure.
        stem: path of the files without their suffix.
        formats: suffixes of the files to write.
    """
    with styled():
        figure = draw_letters(plot)
        if figure is None:
            return
        png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
        if engine := figure.get_layout_engine():
            engine.execute(figure)
        figure.set_layout_engine("none")  # the layout takes longest, and is the same for both formats
        file = io.BytesIO()
        figure.savefig(file, format="png")
        with Image.open(file) as image:
            opaque = image.convert("RGB")
            if opaque.getcolors(_MAX_COLORS_OF_LINES) is None:  # images or a colour scale, which a palette would degrade
                opaque.save(png, optimize=True)
            else:  # with a palette the file has a third of the size
                opaque.quantize(256, dither=Image.Dither.NONE).save(png, optimize=True)
        yield png
        if "svg" in formats:
            figure.savefig(svg, metadata={"Date": None})
            yield svg
