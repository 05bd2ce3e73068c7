"""Compare submitted images with the row that a board lists: listed, claimed and measured values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from iqarena.bench.cells import Cell
from iqarena.bench.results.formatting import format_eps
from iqarena.bench.results.ranking import Row, tracks
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import content_fingerprint

SAME_RANKS = 5e-3
"""Largest difference of SROCC of the same stored images: nearly equal qualities may swap ranks on another machine."""


class Number(NamedTuple):
    """One number of a row.

    Attributes:
        what: its name.
        listed, claimed, measured: its values; None where there is none.
        by: the attack of the listed value.
    """

    what: str
    listed: float | None
    claimed: float | None
    measured: float | None
    by: str = ""


@dataclass(frozen=True)
class BoardStanding:
    """A submission compared with a listed row.

    Attributes:
        row: name of the row, with its threat model.
        numbers: clean SROCC, robust SROCC, largest mean |quality shift|.
        beats: whether the robust SROCC is below the listed one; None where the two cannot be compared.
        summary: the result and its reason in one line.
    """

    row: str
    numbers: tuple[Number, ...]
    beats: bool | None
    summary: str


def standing(
    results: Path,
    cell: Cell,
    image_ids: Sequence[str],
    claimed: Mapping[str, float | None],
    measured: Mapping[str, float],
    as_claimed: bool,
    fingerprint: str = "",
    content: str = "",
) -> BoardStanding | str:
    """Compare attacked images of a listed model and defense with their row.

    Args:
        results: folder of the board's results, whose records `iqarena.bench.results.ranking` turns into rows.
        cell: the cell of the images. Data set, norm, size, model and defense have to be spelled as in the row.
        image_ids: ids of the images.
        claimed, measured: measures by their names in summary.csv.
        as_claimed: whether the submission has been as claimed so far; otherwise it beats nothing.
        fingerprint, content: of the data set and of its images and labels, as in a record; a row of another data set of
            that name is none to compare with.

    Returns:
        The comparison, or a line of text where there is no such row.
    """
    track = f"{cell.dataset}, {cell.norm} {format_eps(cell.norm, cell.eps)}"
    row, labelled = _find(results, cell, fingerprint, content)
    if row is None:
        return f"not set beside a listed row: {results} has none of {cell.defended} on {track}"
    names = ("srocc_clean", "srocc_adv" if labelled else "stability_srocc", "abs_gain")
    listed = (row.clean[0], row.robust[0], row.shift[0])
    by = ("", row.worst_attack, row.shift_attack)
    titles = ("clean SROCC", "robust SROCC", "mean |shift|")
    numbers = tuple(
        Number(title, _finite(value), _finite(claimed.get(name)), _finite(measured[name]), attack)
        for title, name, value, attack in zip(titles, names, listed, by, strict=True)
    )
    beats, summary = _judge(row, numbers, set(image_ids), as_claimed)
    return BoardStanding(f"{row.name}, {track}", numbers, beats, summary)


def _find(results: Path, cell: Cell, fingerprint: str, content: str) -> tuple[Row | None, bool]:
    """Return the row of a cell, and whether its data set has labels."""
    known = {fingerprint, content_fingerprint(fingerprint, content), ""}
    for track, rows in tracks(Records(results)).items():
        same_size = math.isclose(track.eps, cell.eps, rel_tol=1e-9)
        same_data = not fingerprint or track.fingerprint in known
        if (track.dataset, track.norm) == (cell.dataset, cell.norm) and same_size and same_data:
            for row in rows:
                if (row.model, row.defense) == (cell.model, cell.defense):
                    return row, track.labelled
    return None, True


def _judge(row: Row, numbers: tuple[Number, ...], image_ids: set[str], as_claimed: bool) -> tuple[bool | None, str]:
    if not as_claimed:
        return None, "beats nothing: it is not as claimed"
    if reason := _not_comparable(row, numbers[0], image_ids):
        return None, f"cannot be compared: {reason}"
    _, listed, _, measured, _ = numbers[1]
    if listed is None or measured is None:
        return None, "cannot be compared: one of the two robust SROCC is not defined"
    state = "" if row.complete else "; the row is incomplete, and unranked"
    gap = listed - measured
    if gap > SAME_RANKS:
        return True, f"beats the listed row: its robust SROCC falls by {gap:.4f}{state}"
    reason = f"{-gap:.4f} above its robust SROCC" if gap < -SAME_RANKS else "as low, not lower"
    return False, f"does not beat the listed row: {reason}{state}"


def _not_comparable(row: Row, clean: Number, image_ids: set[str]) -> str:
    """Return why the submission and the row cannot be compared; empty if they can."""
    if len(image_ids) != row.images:
        return f"the row is of {row.images} images, these are {len(image_ids)}"
    if image_ids != set(row.image_ids):
        return f"the row is of {row.images} other images"
    if abs((clean.listed or 0.0) - (clean.measured or 0.0)) > SAME_RANKS:
        return "the model or defense is another one than the row's, as the clean SROCC shows"
    return ""


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
