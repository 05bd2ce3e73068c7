"""All that a leaderboard shows, gathered from a results folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.board import MOST_SEEN, Board, _slug, shown
from iqarena.bench.leaderboard.examples import examples
from iqarena.bench.leaderboard.rerun import reruns
from iqarena.bench.leaderboard.size_curves import Family, families
from iqarena.bench.results.formatting import format_eps
from iqarena.bench.results.ranking import Row, tracks
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import Track


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
        Board(track, names[track], tuple(rows), again[track], examples(records, _seen(rows)))
        for track, rows in ranked.items()
    ]
    parts = ("model", "defense", "attack")
    papers = {(part, r["cell"][part], r[part]["paper"]) for r in found for part in parts if r[part].get("paper")}
    return Content(tuple(made), tuple(families(made)), tuple(sorted(papers)))


def _seen(rows: Sequence[Row]) -> list[Row]:
    """The rows that have examples, of those that kept images."""
    return shown([row for row in rows if any(cell.crafting for cell in row.cells)], MOST_SEEN)


def _slugs(found: Iterable[Track]) -> dict[Track, str]:
    """A file name part for each track; the label kind, then a number, where it would be taken."""
    slugs: dict[Track, str] = {}
    for track in found:
        dataset, label_kind, norm, eps = track
        plain = [f"{dataset} {norm} {format_eps(norm, eps)}", f"{dataset} {label_kind} {norm} {format_eps(norm, eps)}"]
        tries = [*plain, *(f"{plain[1]} {n}" for n in range(2, len(slugs) + 3))]
        slugs[track] = next(name for name in map(_slug, tries) if name not in slugs.values())
    return slugs
