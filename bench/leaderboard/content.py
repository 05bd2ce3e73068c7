"""The content of a leaderboard, collected from a results folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.board import MAX_ROWS_WITH_IMAGES, Board, select_rows, slugify
from iqarena.bench.leaderboard.examples import Example, examples
from iqarena.bench.leaderboard.rerun import reruns
from iqarena.bench.leaderboard.size_curves import Family, families
from iqarena.bench.results.formatting import format_eps
from iqarena.bench.results.ranking import Row, tracks
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import Track


@dataclass(frozen=True)
class Content:
    """The content of a leaderboard.

    Attributes:
        families: see `Family`.
        papers: triples ("model", "defense" or "attack"; name; paper).
    """

    boards: tuple[Board, ...]
    families: tuple[Family, ...]
    papers: tuple[tuple[str, str, str], ...]


def content(records: Records) -> Content:
    """Collect the content of a leaderboard from a results folder.

    Raises:
        UserError: if there are no records.
    """
    all_records = list(records.all())
    if not all_records:
        raise UserError(f"{records.folder}: no records; make some with iqarena run --out {shlex.quote(str(records.folder))}")
    rows_by_track = tracks(records, all_records)
    slugs = _slugs(rows_by_track)
    suites = reruns(all_records, slugs)
    boards = [
        Board(track, slugs[track], tuple(rows), suites[track], _examples(records, rows))
        for track, rows in rows_by_track.items()
    ]
    parts = ("model", "defense", "attack")
    papers = {(part, r["cell"][part], r[part]["paper"]) for r in all_records for part in parts if r[part].get("paper")}
    return Content(tuple(boards), tuple(families(boards)), tuple(sorted(papers)))


def _examples(records: Records, rows: list[Row]) -> tuple[Example, ...]:
    """Return the examples of the rows that kept images, or of some of these where there are many."""
    return examples(records, select_rows([row for row in rows if any(c.crafting for c in row.cells)], MAX_ROWS_WITH_IMAGES))


def _slugs(all_tracks: Iterable[Track]) -> dict[Track, str]:
    """Return a slug for each track; the label kind, then a number, is added where the slug would be taken."""
    slugs: dict[Track, str] = {}
    for track in all_tracks:
        dataset, label_kind, norm, eps = track
        titles = [f"{dataset} {norm} {format_eps(norm, eps)}", f"{dataset} {label_kind} {norm} {format_eps(norm, eps)}"]
        titles += [f"{titles[1]} {number}" for number in range(2, len(slugs) + 3)]
        slugs[track] = next(slug for slug in map(slugify, titles) if slug not in slugs.values())
    return slugs
