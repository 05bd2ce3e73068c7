"""The letters of a figure: fonts for those that the usual font lacks, and stand-ins for those that no installed font has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from functools import partial

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, Formatter, FuncFormatter

from iqarena.bench.leaderboard.plots.style import truncate
from iqarena.bench.results.formatting import shown

USUAL = "DejaVu Sans"
MAX_LINE = 160
"""Largest number of characters of a line in a figure; a line in a plot is never that long, but for a name."""
_INVISIBLE = {*"\u200c\u200d", *map(chr, range(0xFE00, 0xFE10))}
"""Joiners and variants of the letter before, which say nothing alone."""
NOTE = "? is a letter that no font here has"


def draw(plot: Callable[[], Figure | None]) -> Figure | None:
    """Draw a figure inside of `iqarena.bench.leaderboard.plots.style.styled`, such that all its letters can be seen.

    Letters that the usual font lacks are taken from other installed fonts. Those that none has become question marks, and a
    note says so.
    """
    figure = plot()
    if figure is None:
        return None
    missing = {letter for text in _texts(figure) for letter in shown(text)} - _letters(_usual())
    families, covered = _other_fonts(frozenset(missing))
    if families:
        mpl.rcParams["font.family"] = [USUAL, *families]  # until the style ends, since ticks are made late
        figure = plot()
        assert figure is not None
    _replace_texts(figure, missing - covered)
    return figure


def _texts(figure: Figure) -> Iterator[str]:
    """Yield all texts of a figure, those of ticks included."""
    for text in figure.findobj(Text):
        yield text.get_text()
    for axis, _ in _named_ticks(figure):
        yield from (label.get_text() for label in axis.get_majorticklabels())


def _named_ticks(figure: Figure) -> Iterator[tuple[Axis, Formatter]]:
    """Yield the axes whose ticks have names, which are set anew whenever a figure is drawn, with what sets them."""
    for axes in figure.get_axes():
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(formatter := axis.get_major_formatter(), FixedFormatter | FuncFormatter):
                yield axis, formatter


def _replace_texts(figure: Figure, unknown: set[str]) -> None:
    """Clean all texts of a figure, line by line: nothing that cannot be shown, and no endless line."""
    stand_ins = {ord(letter): "" if letter in _INVISIBLE else "?" for letter in unknown}

    def clean(text: str) -> str:
        return "\n".join(truncate(shown(line), MAX_LINE).translate(stand_ins) for line in text.split("\n"))

    for _, formatter in _named_ticks(figure):
        formatter.format_ticks = partial(_cleaned_ticks, formatter.format_ticks, clean)  # type: ignore[method-assign]
    for text in figure.findobj(Text):
        if (cleaned := clean(text.get_text())) != text.get_text():
            text.set_text(cleaned)
    if unknown - _INVISIBLE:
        title = figure.get_suptitle()
        figure.suptitle(f"{title} · {NOTE}" if title else NOTE, x=0.01, ha="left", fontsize=9.5)


def _cleaned_ticks(
    format_ticks: Callable[[list[float]], list[str]], clean: Callable[[str], str], values: list[float]
) -> list[str]:
    return [clean(text) for text in format_ticks(values)]


def _usual() -> str:
    return findfont(USUAL, fallback_to_default=True)


@functools.lru_cache(maxsize=512)
def _letters(path: str) -> frozenset[str]:
    """Return the letters of a font file; empty where matplotlib cannot draw with it, as with bitmaps of emoji."""
    try:
        font = FT2Font(path)
        font.set_size(8, 100)
        codes = font.get_charmap()
        font.load_char(next(iter(codes)))
    except (OSError, RuntimeError, StopIteration, TypeError, ValueError):
        return frozenset()
    return frozenset(map(chr, codes)) | {" "}


@functools.lru_cache(maxsize=64)
def _other_fonts(missing: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the families of installed fonts that have missing letters, those with most first, and these letters."""
    if not missing:
        return (), frozenset()
    fonts = {entry.name: entry.fname for entry in fontManager.ttflist if not entry.name.startswith("Last Resort")}
    left, families, covered = set(missing), [], set[str]()
    while left:
        counts = {name: len(left & _letters(path)) for name, path in fonts.items()}
        best = max(sorted(counts), key=lambda name: counts[name], default="")
        if not best or not counts[best]:
            break
        found = left & _letters(_font_of(best))
        if found:
            families.append(best)
            covered |= found
            left -= found
        del fonts[best]
    return tuple(families), frozenset(covered)


def _font_of(family: str) -> str:
    """Return the file that matplotlib draws a family with."""
    return findfont(family, fallback_to_default=True)
