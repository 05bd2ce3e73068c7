"""Robust SROCC over the size of the threat: the tracks that differ in ε alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from iqarena.bench.leaderboard.board import Board, _slug
from iqarena.bench.results.formatting import format_eps
from iqarena.bench.results.ranking import Row
from iqarena.bench.results.track import TRANSFER, Condition


@dataclass(frozen=True)
class Curve:
    """Robust SROCC of a model and defense at no attack and at each size; NaN where a size is lacking."""

    model: str
    defense: str
    kind: str
    name: str
    values: tuple[float, ...]

    @property
    def last(self) -> int:
        """Place of the last value that is there."""
        return max(place for place, value in enumerate(self.values) if math.isfinite(value))

    @property
    def end(self) -> float:
        """The last value that is there."""
        return self.values[self.last]


@dataclass(frozen=True)
class Family:
    """Tracks that differ in ε alone.

    Attributes:
        name: the same for all its tracks.
        sizes: "clean", then the sizes of ε as people write them, rising.
        attacks: how many were run at every size; only they count, so that a curve falls because of ε alone.
    """

    slug: str
    name: str
    title: str
    norm: str
    measure: str
    sizes: tuple[str, ...]
    attacks: int
    curves: tuple[Curve, ...]


def families(found: Sequence[Board]) -> list[Family]:
    """Tracks on one data set under one norm, where there are several sizes of ε."""
    grouped: dict[tuple[str, str, str], list[Board]] = {}
    for board in found:
        grouped.setdefault((board.track.dataset, board.track.label_kind, board.track.norm), []).append(board)
    made: list[Family] = []
    for (dataset, label_kind, norm), every in grouped.items():
        own = _comparable(every)
        keys = [{cell.key for row in board.rows if row.complete for cell in row.cells if not cell.control} for board in own]
        common = set[Condition].intersection(*keys)
        lines = _curves(own, common)
        if len(own) < 2 or not common or not lines:
            continue
        slug = own[0].slug.removesuffix(_slug(format_eps(norm, own[0].track.eps))).strip("-")
        sizes = ("clean", *(format_eps(norm, board.track.eps) for board in own))
        slug = slug if slug not in {family.slug for family in made} else f"{slug}-{_slug(label_kind)}"
        name = f"{dataset}/{label_kind}/{norm}"
        made.append(Family(slug, name, f"{dataset}, {norm}", norm, own[0].measure, sizes, len(common), tuple(lines)))
    return made


def _comparable(found: Sequence[Board]) -> list[Board]:
    """Sizes at which half as many rows go on as at any other; one of few rows would take away attacks from all curves."""
    often = Counter((row.model, row.defense) for board in found for row in board.rows)
    going_on = [sum(often[row.model, row.defense] > 1 for row in board.rows) for board in found]
    return [board for board, count in zip(found, going_on, strict=True) if 2 * count >= max(going_on)]


def _curves(own: Sequence[Board], common: set[Condition]) -> list[Curve]:
    """One for each row that is at two sizes at least, in the order of the first track that has it."""
    rows: dict[tuple[str, str], dict[int, Row]] = {}
    for place, board in enumerate(own):
        for row in board.rows:
            wanted = {key for key in common if key.setting != TRANSFER + row.model}  # that is its oblivious cell
            if wanted <= {cell.key for cell in row.cells}:
                rows.setdefault((row.model, row.defense), {})[place] = row
    curves = []
    for at in rows.values():
        values = [math.nan] * len(own)
        for place, row in at.items():
            values[place] = min((cell.srocc[0] for cell in row.cells if cell.key in common), default=math.nan)
        if len(at) > 1:
            row = next(iter(at.values()))
            clean = row.clean[0] if own[0].track.labelled else 1.0
            curves.append(Curve(row.model, row.defense, row.kind, row.name, (clean, *values)))
    return curves
