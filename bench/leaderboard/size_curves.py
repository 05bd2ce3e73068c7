"""Robust SROCC against the size ε of the threat, from the tracks that differ in ε alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from iqarena.bench.leaderboard.board import Board, slugify
from iqarena.bench.results.formatting import format_eps, labelled_name
from iqarena.bench.results.ranking import Row
from iqarena.bench.results.track import TRANSFER, Condition, TrackFamily


@dataclass(frozen=True)
class Curve:
    """Robust SROCC of a model and defense without attack and at each size; NaN at a size that is missing."""

    model: str
    defense: str
    kind: str
    name: str
    values: tuple[float, ...]

    @property
    def last(self) -> int:
        """Index of the last value that is not missing."""
        return max(index for index, value in enumerate(self.values) if math.isfinite(value))

    @property
    def end(self) -> float:
        """The last value that is not missing."""
        return self.values[self.last]


@dataclass(frozen=True)
class Family:
    """Tracks that differ in ε alone, and the curves over ε.

    Attributes:
        name: see `Board.family`.
        sizes: "clean", then the formatted values of ε, rising.
        attacks: the number of attacks that were run at every size. Only these count, so that a curve falls because of ε
            alone.
    """

    slug: str
    name: str
    title: str
    norm: str
    measure: str
    sizes: tuple[str, ...]
    attacks: int
    curves: tuple[Curve, ...]


def families(boards: Sequence[Board]) -> list[Family]:
    """Return a family for each data set and norm that has tracks of several ε."""
    grouped: dict[TrackFamily, list[Board]] = {}
    for board in boards:
        grouped.setdefault(board.track.family, []).append(board)
    result: list[Family] = []
    for (dataset, label_kind, norm, _), group in grouped.items():
        members = _comparable(group)
        keys = [
            {cell.key for row in board.rows if row.complete for cell in row.cells if not cell.control} for board in members
        ]
        common = set[Condition].intersection(*keys)
        curves = _curves(members, common)
        if len(members) < 2 or not common or not curves:
            continue
        slug = members[0].slug.removesuffix(slugify(format_eps(norm, members[0].track.eps))).strip("-")
        sizes = ("clean", *(format_eps(norm, board.track.eps) for board in members))
        slug = slug if slug not in {family.slug for family in result} else f"{slug}-{slugify(label_kind)}"
        title, measure = f"{labelled_name(dataset, members[0].label)}, {norm}", members[0].measure
        result.append(Family(slug, members[0].family, title, norm, measure, sizes, len(common), tuple(curves)))
    return result


def _comparable(boards: Sequence[Board]) -> list[Board]:
    """Leave out the sizes that have few rows in common with other sizes.

    Only attacks that were run at every size count, so a size with few rows would remove attacks from all curves.
    """
    sizes = Counter((row.model, row.defense) for board in boards for row in board.rows)
    shared = [sum(sizes[row.model, row.defense] > 1 for row in board.rows) for board in boards]
    return [board for board, count in zip(boards, shared, strict=True) if 2 * count >= max(shared)]


def _curves(boards: Sequence[Board], common: set[Condition]) -> list[Curve]:
    """Return a curve for each row that has two sizes at least, in the order of the first track that has the row."""
    rows: dict[tuple[str, str], dict[int, Row]] = {}
    for index, board in enumerate(boards):
        for row in board.rows:
            needed = {key for key in common if key.setting != TRANSFER + row.model}  # that is its oblivious cell
            if needed <= {cell.key for cell in row.cells}:
                rows.setdefault((row.model, row.defense), {})[index] = row
    curves = []
    for rows_by_size in rows.values():
        values = [math.nan] * len(boards)
        for index, row in rows_by_size.items():
            values[index] = min((cell.srocc[0] for cell in row.cells if cell.key in common), default=math.nan)
        if len(rows_by_size) > 1:
            row = next(iter(rows_by_size.values()))
            clean = row.clean[0] if boards[0].track.labelled else 1.0
            curves.append(Curve(row.model, row.defense, row.kind, row.name, (clean, *values)))
    return curves
