"""The content of a leaderboard, collected from a results folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.board import MAX_ROWS_WITH_IMAGES, Board, select_rows, slugify
from iqarena.bench.leaderboard.examples import Example, examples
from iqarena.bench.leaderboard.rerun import reruns
from iqarena.bench.leaderboard.size_curves import Family, families
from iqarena.bench.results.formatting import format_eps
from iqarena.bench.results.ranking import Row, tracks
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import Track, data_set_labels

MAX_LEFT_OUT = 8
"""Largest number of cells that a line about left-out cells names."""


@dataclass(frozen=True)
class Content:
    """The content of a leaderboard.

    Attributes:
        families: see `Family`.
        papers: triples ("model", "defense" or "attack"; name; paper).
        left_out: lines that say which cells are in the folder and not on the board, and why.
    """

    boards: tuple[Board, ...]
    families: tuple[Family, ...]
    papers: tuple[tuple[str, str, str], ...]
    left_out: tuple[str, ...] = ()


def content(records: Records) -> Content:
    """Collect the content of a leaderboard from a results folder.

    Raises:
        UserError: if there are no records.
    """
    all_records = list(records.all())
    rows_by_track = tracks(records, all_records)
    if not rows_by_track:
        make = f"make some with iqarena run --out {shlex.quote(str(records.folder))}"
        damaged = f", and {_left_out(records)[0]}" if records.left_out else ""
        raise UserError(f"{records.folder}: no records{damaged}; {make}")
    all_records = [record for record in all_records if record["cell_id"] not in records.left_out]
    labels = data_set_labels(rows_by_track)
    slugs = _slugs(labels)
    suites = reruns(all_records, slugs)
    boards = [
        Board(track, slugs[track], tuple(rows), suites[track], _examples(records, rows), labels[track])
        for track, rows in rows_by_track.items()
    ]
    parts = ("model", "defense", "attack")
    papers = {(part, r["cell"][part], r[part]["paper"]) for r in all_records for part in parts if r[part].get("paper")}
    return Content(tuple(boards), tuple(families(boards)), tuple(sorted(papers)), tuple(_left_out(records)))


def _left_out(records: Records) -> list[str]:
    """Return a line for each reason why cells are left out, with the first of these cells."""
    by_reason: dict[str, list[str]] = {}
    for cell_id, reason in sorted(records.left_out.items()):
        by_reason.setdefault(reason, []).append(re.sub(r"[^\w.-]", "?", cell_id)[:64])
    lines = []
    for reason, cells in by_reason.items():
        more = f" and {len(cells) - MAX_LEFT_OUT} more" if len(cells) > MAX_LEFT_OUT else ""
        lines.append(f"left out: {', '.join(cells[:MAX_LEFT_OUT])}{more} ({reason})")
    return lines


def _examples(records: Records, rows: list[Row]) -> tuple[Example, ...]:
    """Return the examples of the rows that kept images, or of some of these where there are many."""
    return examples(records, select_rows([row for row in rows if any(c.crafting for c in row.cells)], MAX_ROWS_WITH_IMAGES))


def _slugs(labels: Mapping[Track, str]) -> dict[Track, str]:
    """Return a slug for each track; the label kind, then a number, is added where the slug would be taken."""
    slugs: dict[Track, str] = {}
    for track, label in labels.items():
        dataset, label_kind, norm, eps, _ = track
        threat = f"{label} {norm[:12]} {format_eps(norm, eps)}"
        name, kind = slugify(dataset)[:60], slugify(label_kind)[:20]
        titles = [f"{name} {threat}", f"{name} {kind} {threat}"]
        titles += [f"{titles[1]} {number}" for number in range(2, len(slugs) + 3)]
        slugs[track] = next(slug for slug in map(slugify, titles) if slug not in slugs.values())
    return slugs
