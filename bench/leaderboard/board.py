"""What a leaderboard shows of each track: its rows, a name for its files, and what stands beside a row."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iqarena.bench.checkout import project_file
from iqarena.bench.leaderboard.examples import Example
from iqarena.bench.leaderboard.rerun import Rerun
from iqarena.bench.results.formatting import format_eps, short_spec
from iqarena.bench.results.ranking import CellValue, Row
from iqarena.bench.results.track import TRANSFER, Track
from iqarena.models.zoo import card_of, weight_file

MOST_SEEN = 12
"""Rows of a track whose images are shown."""


@dataclass(frozen=True)
class Board:
    """One track.

    Attributes:
        slug: part of its files' names.
        rows: complete ones first, by falling robust SROCC.
        reruns: suites that make its cells again.
        examples: images to look at, where any were kept.
    """

    track: Track
    slug: str
    rows: tuple[Row, ...]
    reruns: tuple[Rerun, ...]
    examples: tuple[Example, ...] = ()

    @property
    def title(self) -> str:
        """Data set and threat model, as people write them."""
        return f"{self.track.dataset}, {self.track.norm}, ε = {format_eps(self.track.norm, self.track.eps)}"

    @property
    def images(self) -> str:
        """How many, and of how many references."""
        images, references = self.rows[0].images, self.rows[0].references
        return f"{images} images" if images == references else f"{images} images of {references} references"

    @property
    def measure(self) -> str:
        """What the robust SROCC is with."""
        return f"SROCC with {self.track.label_kind}" if self.track.labelled else "SROCC with the clean qualities"

    @property
    def robust(self) -> str:
        """What rows are ranked by."""
        return "robust SROCC" if self.track.labelled else "stability SROCC"

    @property
    def sources(self) -> tuple[str, ...]:
        """Models that attacks were transferred from."""
        settings = {cell.key.setting for row in self.rows for cell in row.cells}
        return tuple(sorted(s.removeprefix(TRANSFER) for s in settings if s.startswith(TRANSFER)))

    def commands(self, row: Row, results: str) -> str:
        """What makes a row's cells again."""
        return " && ".join(again.command(row.model, row.defense, results) for again in self.reruns if again.covers(row))


def shown(rows: Sequence[Row], count: int) -> list[Row]:
    """At most so many rows for a plot that cannot show all: the best, and undefended models to compare them with."""
    if len(rows) <= count:
        return list(rows)
    bare = [row for row in rows if row.defense == "none"][: max(count // 4, 1)]
    best = [row for row in rows if row not in bare][: count - len(bare)]
    return [row for row in rows if row in bare or row in best]


def reflected(row: Row) -> CellValue | None:
    """The cell of a row that shows score reflection best: of those that aim at the mirror, the one that reversed most."""
    cells = [c for c in row.cells if c.key.objective == "reflect" and not c.control and math.isfinite(c.stability)]
    return min(cells, key=lambda cell: cell.stability, default=None)


def links(row: Row, out: Path) -> dict[str, str]:
    """Card and papers of a row as seen from `out`, by what they are of."""
    shipped = card(row)
    address = link(shipped, out) if shipped else None
    found = {"card": address} if address else {}
    for what, paper in zip((row.model, row.defense), row.papers, strict=True):
        if paper.startswith("https://"):
            found[short_spec(what)] = paper.split()[0]
    return found


def card(row: Row) -> Path | None:
    """The card of a row's weights, if they are shipped and still the same; the model's own where a defense has none."""
    for defense, sha256 in ((row.defense, row.weights[1]), ("none", row.weights[0])):
        path = weight_file(row.model, defense)
        if sha256 and path.is_file() and card_of(path).get("sha256") == sha256:
            return path.with_suffix(".yaml")
    return None


def link(path: Path, out: Path) -> str | None:
    """Return the relative path from `out` to a file of the project; None where it is not installed."""
    found = project_file(path, out)
    return Path(os.path.relpath(found, out.resolve())).as_posix() if found else None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
