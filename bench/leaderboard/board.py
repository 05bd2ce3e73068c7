"""What a leaderboard shows of each track: its rows, a name for its files, and what stands beside a row."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from iqarena.bench.metrics.bootstrap import Interval
from iqarena.bench.claims import Claim, claims_of
from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.examples import Example, examples
from iqarena.bench.results.ranking import TRANSFER, CellValue, Key, Row, Track, brief, tracks
from iqarena.bench.results.store import Records
from iqarena.bench.leaderboard.rerun import Rerun, reruns
from iqarena.models.zoo import card_of, weight_file

MOST_SEEN = 12
"""Rows of a track whose pictures are shown."""
PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Board:
    """One track.

    Attributes:
        slug: part of its files' names.
        rows: complete ones first, by falling robust SROCC.
        reruns: suites that make its cells again.
        examples: pictures to look at, where any were kept.
        claims: what papers say of rows, by (model, defense).
    """

    track: Track
    slug: str
    rows: tuple[Row, ...]
    reruns: tuple[Rerun, ...]
    claims: dict[tuple[str, str], Claim]
    examples: tuple[Example, ...] = ()

    @property
    def title(self) -> str:
        """Data set and threat model, as people write them."""
        return f"{self.track.dataset}, {self.track.norm}, ε = {size(self.track.norm, self.track.eps)}"

    @property
    def pictures(self) -> str:
        """How many, and of how many references."""
        images, references = self.rows[0].images, self.rows[0].references
        return f"{images} pictures" if images == references else f"{images} pictures of {references} references"

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


@dataclass(frozen=True)
class Content:
    """All that a leaderboard shows.

    Attributes:
        families: see `Family`.
        papers: (model, defense or attack; its name; its paper).
    """

    boards: tuple[Board, ...]
    families: tuple[Family, ...]
    papers: tuple[tuple[str, str, str], ...]


def content(records: Records) -> Content:
    """What a results folder gives.

    Raises:
        UserError: without records.
    """
    found = list(records.all())
    if not found:
        raise UserError(f"{records.folder}: no records; make some with iqarena run --out {shlex.quote(str(records.folder))}")
    ranked = tracks(records, found)
    names = _slugs(ranked)
    again = reruns(found, names)
    made = [
        Board(track, names[track], tuple(rows), again[track], claims_of(track), examples(records, _seen(rows)))
        for track, rows in ranked.items()
    ]
    parts = ("model", "defense", "attack")
    papers = {(part, r["cell"][part], r[part]["paper"]) for r in found for part in parts if r[part].get("paper")}
    return Content(tuple(made), tuple(families(made)), tuple(sorted(papers)))


def size(norm: str, eps: float) -> str:
    """A threat's size as people write it: k/255 for linf where it is one.

    Example:
        >>> size("linf", 2 / 255), size("l2", 0.5)
        ('2/255', '0.5')
    """
    steps = round(eps * 255)
    return f"{steps}/255" if norm == "linf" and 0 < steps < 255 and abs(eps * 255 - steps) < 1e-6 else f"{eps:g}"


def signed(value: float | None, digits: int = 2) -> str:
    """A number with a true minus; `–` where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def span(values: Interval, with_value: bool = True) -> str:
    """A value and its interval, or the interval alone."""
    return (f"{signed(values[0])} " if with_value else "") + f"[{signed(values[1])}, {signed(values[2])}]"


def shown(rows: Sequence[Row], count: int) -> list[Row]:
    """At most so many rows for a plot that cannot show all: the best, and undefended models to compare them with."""
    if len(rows) <= count:
        return list(rows)
    bare = [row for row in rows if row.defense == "none"][: max(count // 4, 1)]
    best = [row for row in rows if row not in bare][: count - len(bare)]
    return [row for row in rows if row in bare or row in best]


def _seen(rows: Sequence[Row]) -> list[Row]:
    """The rows that have examples, of those that kept pictures."""
    return shown([row for row in rows if any(cell.crafting for cell in row.cells)], MOST_SEEN)


def reflected(row: Row) -> CellValue | None:
    """The cell of a row that shows score reflection best: of those that aim at the mirror, the one that reversed most."""
    cells = [c for c in row.cells if c.key.objective == "reflect" and not c.control and math.isfinite(c.stability)]
    return min(cells, key=lambda cell: cell.stability, default=None)


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
        common = set[Key].intersection(*keys)
        lines = _curves(own, common)
        if len(own) < 2 or not common or not lines:
            continue
        slug = own[0].slug.removesuffix(_slug(size(norm, own[0].track.eps))).strip("-")
        sizes = ("clean", *(size(norm, board.track.eps) for board in own))
        slug = slug if slug not in {family.slug for family in made} else f"{slug}-{_slug(label_kind)}"
        name = f"{dataset}/{label_kind}/{norm}"
        made.append(Family(slug, name, f"{dataset}, {norm}", norm, own[0].measure, sizes, len(common), tuple(lines)))
    return made


def _comparable(found: Sequence[Board]) -> list[Board]:
    """Sizes at which half as many rows go on as at any other; one of few rows would take away attacks from all curves."""
    often = Counter((row.model, row.defense) for board in found for row in board.rows)
    going_on = [sum(often[row.model, row.defense] > 1 for row in board.rows) for board in found]
    return [board for board, count in zip(found, going_on, strict=True) if 2 * count >= max(going_on)]


def _curves(own: Sequence[Board], common: set[Key]) -> list[Curve]:
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


def links(row: Row, out: Path) -> dict[str, str]:
    """Card and papers of a row as seen from `out`, by what they are of."""
    shipped = card(row)
    address = link(shipped, out) if shipped else None
    found = {"card": address} if address else {}
    for what, paper in zip((row.model, row.defense), row.papers, strict=True):
        if paper.startswith("https://"):
            found[brief(what)] = paper.split()[0]
    return found


def card(row: Row) -> Path | None:
    """The card of a row's weights, if they are shipped and still the same; the model's own where a defense has none."""
    for defense, sha256 in ((row.defense, row.weights[1]), ("none", row.weights[0])):
        path = weight_file(row.model, defense)
        if sha256 and path.is_file() and card_of(path).get("sha256") == sha256:
            return path.with_suffix(".yaml")
    return None


def link(path: Path, out: Path) -> str | None:
    """A file of the project as seen from `out`; None where it is not installed."""
    return Path(os.path.relpath(path, out)).as_posix() if path.is_file() else None


def _slugs(found: Iterable[Track]) -> dict[Track, str]:
    """A file name part for each track; the label kind, then a number, where it would be taken."""
    slugs: dict[Track, str] = {}
    for track in found:
        dataset, label_kind, norm, eps = track
        plain = [f"{dataset} {norm} {size(norm, eps)}", f"{dataset} {label_kind} {norm} {size(norm, eps)}"]
        tries = [*plain, *(f"{plain[1]} {n}" for n in range(2, len(slugs) + 3))]
        slugs[track] = next(name for name in map(_slug, tries) if name not in slugs.values())
    return slugs


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
