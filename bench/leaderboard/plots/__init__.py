"""The plots of a leaderboard, PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from iqarena.bench.leaderboard.board import Board, reflected
from iqarena.bench.leaderboard.plots.curves import curves
from iqarena.bench.leaderboard.plots.frontier import frontier
from iqarena.bench.leaderboard.plots.heat import attacks, transfer
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
    """The plots that a track has, by the first part of their files' names."""
    lacks = set()
    if not board.track.labelled:
        lacks.add("clean-robust")
    if not board.examples:
        lacks.add("images")
    if not board.sources:
        lacks.add("transfer")
    if not any(reflected(row) for row in board.rows):
        lacks.add("reflection")
    return [kind for kind in KINDS if kind not in lacks]


def file_names(boards: Sequence[Board], families: Sequence[Family]) -> list[str]:
    """All files that `draw` writes."""
    stems = [f"{kind}-{board.slug}" for board in boards for kind in kinds(board)]
    return [
        f"{stem}.{end}" for stem in [*stems, *(f"curves-{family.slug}" for family in families)] for end in ("png", "svg")
    ]


def draw(boards: Sequence[Board], families: Sequence[Family], folder: Path) -> Iterator[Path]:
    """Write all plots as PNG and SVG; the bytes depend on what is drawn and on the installed matplotlib alone.

    Raises:
        OSError: where the folder cannot be written to.
    """
    for board in boards:
        for kind in kinds(board):
            yield from save(partial(KINDS[kind], board), folder / f"{kind}-{board.slug}")
    for family in families:
        yield from save(partial(curves, family), folder / f"curves-{family.slug}")


_FEW_COLOURS = 2000
"""Of lines and letters on white: their own, and what smooth edges make of them."""


def save(made: Callable[[], Figure | None], stem: Path) -> Iterator[Path]:
    """Draw a figure, if there is one, and write it beside `stem` as PNG and SVG, the same bytes every time."""
    with styled():
        figure = made()
        if figure is None:
            return
        png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
        if engine := figure.get_layout_engine():
            engine.execute(figure)
        figure.set_layout_engine("none")  # it takes longest, and is the same for both
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        with Image.open(drawn) as image:
            opaque = image.convert("RGB")
            if opaque.getcolors(_FEW_COLOURS) is None:  # photographs, or a scale of colours, which fewer would break up
                opaque.save(png)
            else:  # a third of the size
                opaque.quantize(256, dither=Image.Dither.NONE).save(png)
        figure.savefig(svg, metadata={"Date": None})
    yield from (png, svg)
