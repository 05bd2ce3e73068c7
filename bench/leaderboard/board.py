"""The content of a leaderboard for one track: its ranked rows, the slug of its files, and links and commands of a row."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from iqarena.bench.checkout import project_file
from iqarena.bench.leaderboard.examples import Example
from iqarena.bench.leaderboard.rerun import Rerun
from iqarena.bench.results.formatting import format_eps, labelled_name, short_spec
from iqarena.bench.results.ranking import CellValue, Row
from iqarena.bench.results.track import TRANSFER, Track
from iqarena.models.zoo import ZOO, WeightsError, card_of, weight_file

MAX_SLUG = 100
"""Largest number of characters of a slug; a file name has 255 bytes at most."""
MAX_ROWS_WITH_IMAGES = 12
"""Largest number of rows of a track whose images are shown."""


@dataclass(frozen=True)
class Board:
    """The leaderboard of one track.

    Attributes:
        slug: part of the names of its files.
        rows: complete rows first, by falling robust SROCC.
        reruns: suites that run its cells again.
        examples: clean and attacked images to show, if a run kept any.
        label: tells the data set from others of the same name; empty if there is none.
    """

    track: Track
    slug: str
    rows: tuple[Row, ...]
    reruns: tuple[Rerun, ...]
    examples: tuple[Example, ...] = ()
    label: str = ""

    @property
    def title(self) -> str:
        """Data set and threat model in words."""
        name = labelled_name(self.track.dataset, self.label)
        return f"{name}, {short_spec(self.track.norm)}, ε = {format_eps(self.track.norm, self.track.eps)}"

    @property
    def family(self) -> str:
        """The name that it shares with tracks that differ in ε alone."""
        name = f"{self.track.dataset}/{self.track.label_kind}/{self.track.norm}"
        return f"{name}/{self.label}" if self.label else name

    @property
    def images(self) -> str:
        """The number of images and of reference images in words, and of those without a label where there are some."""
        images, references = self.rows[0].images, self.rows[0].references
        text = f"{images} images" if images == references else f"{images} images of {references} references"
        unlabelled = max(row.unlabelled for row in self.rows)
        return f"{text}, {unlabelled} of them without a label and in no SROCC with labels" if unlabelled else text

    @property
    def measure(self) -> str:
        """The name of the SROCC, which says what the scores are correlated with."""
        return f"SROCC with {self.track.label_kind}" if self.track.labelled else "SROCC with the clean qualities"

    @property
    def robust(self) -> str:
        """The name of the measure that ranks the rows."""
        return "robust SROCC" if self.track.labelled else "stability SROCC"

    @property
    def sources(self) -> tuple[str, ...]:
        """Source models of the transfer attacks."""
        settings = {cell.key.setting for row in self.rows for cell in row.cells}
        return tuple(sorted(s.removeprefix(TRANSFER) for s in settings if s.startswith(TRANSFER)))

    def commands(self, row: Row, results: str) -> str:
        """Return the shell command that runs the cells of a row again.

        Args:
            row: a row of this board.
            results: the results folder as seen from where the command is run.
        """
        return " && ".join(rerun.command(row.model, row.defense, results) for rerun in self.reruns if rerun.covers(row))


def select_rows(rows: Sequence[Row], count: int) -> list[Row]:
    """Return at most `count` rows for a plot that cannot show all: the best ones, and undefended models as baselines."""
    if len(rows) <= count:
        return list(rows)
    undefended = [row for row in rows if row.defense == "none"][: max(count // 4, 1)]
    best = [row for row in rows if row not in undefended][: count - len(undefended)]
    return [row for row in rows if row in undefended or row in best]


def reflection_cell(row: Row) -> CellValue | None:
    """Return the cell of a row that shows score reflection best: with objective `reflect` and the lowest stability."""
    cells = [c for c in row.cells if c.key.objective == "reflect" and not c.control and math.isfinite(c.stability)]
    return min(cells, key=lambda cell: cell.stability, default=None)


def links(row: Row, out: Path) -> dict[str, str]:
    """Return links from the folder `out` to the card and the papers of a row, by "card", model or defense."""
    path = card(row)
    address = link(path, out) if path else None
    addresses = {"card": address} if address else {}
    for spec, paper in zip((row.model, row.defense), row.papers, strict=True):
        if paper.startswith("https://"):
            addresses[short_spec(spec)] = paper.split()[0]
    return addresses


def card(row: Row) -> Path | None:
    """Return the card of a row's weights, or of the undefended model's weights where the defense has none.

    Returns:
        None where the weights are not shipped, or have changed since the records were made.
    """
    for defense, sha256 in ((row.defense, row.weights[1]), ("none", row.weights[0])):
        path = weight_file(row.model, defense)
        with suppress(OSError, ValueError, WeightsError):  # a name may be too long for a file, or no name of one
            in_zoo = sha256 and path.parent == ZOO
            if in_zoo and path.is_file() and card_of(path).get("sha256") == sha256:
                return path.with_suffix(".yaml")
    return None


def link(path: Path, out: Path) -> str | None:
    """Return the relative path from `out` to a file of the project; None where it is not installed."""
    file = project_file(path, out)
    return Path(os.path.relpath(file, out.resolve())).as_posix() if file else None


def slugify(text: str) -> str:
    """Return a text as part of a file name: lower case, with hyphens for all but letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_SLUG]
