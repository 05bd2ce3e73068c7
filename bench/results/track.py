"""Tracks: the cells that can be compared with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from iqarena.attacks.base import GRADIENT_ACCESS
from iqarena.attacks.objective import Objective
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.results.store import Records, Scored

TRANSFER = "transfer from "


class Track(NamedTuple):
    """What rows must have in common to be compared."""

    dataset: str
    label_kind: str
    norm: str
    eps: float

    @property
    def labelled(self) -> bool:
        """Whether ranks are of agreement with labels; else they are of agreement with the clean qualities."""
        return self.label_kind != "none"


class Condition(NamedTuple):
    """What a cell is, within its model, defense and track.

    `setting` names a transfer's source too; `variant` tells seeds and budgets apart where they differ.
    """

    attack: str
    objective: str
    setting: str
    variant: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, self))


@dataclass(frozen=True)
class FinishedCell:
    """One finished cell: its place in a row, its record, and its images in one order for all cells."""

    key: Condition
    record: dict[str, Any]
    scores: Scored

    @property
    def images(self) -> tuple[tuple[str, str], ...]:
        """(image_id, reference_id)."""
        return self.scores.images

    @property
    def control(self) -> bool:
        """Whether it is what an attack must beat."""
        return bool(self.record["attack"]["control"])

    @property
    def ok(self) -> bool:
        """Whether all its images count."""
        return bool(self.record["status"] == "ok")

    @property
    def row(self) -> tuple[str, str]:
        """Model and defense."""
        return self.record["cell"]["model"], self.record["cell"]["defense"]

    @property
    def cell(self) -> dict[str, Any]:
        """What was run."""
        found: dict[str, Any] = self.record["cell"]
        return found

    @property
    def name(self) -> str:
        """Attack, objective and setting in words."""
        source = f" from {self.cell['source']}" if self.cell.get("source") else ""
        return f"{self.cell['attack']}, {self.cell['objective']}, {self.cell['setting']}{source}"

    @property
    def knowing(self) -> bool:
        """Whether the attack saw the deployed model; where it did not, its gradients say nothing about that."""
        setting, defense = self.cell["setting"], self.cell["defense"]
        return bool(setting == "adaptive" or (setting == "oblivious" and defense == "none"))

    @property
    def white_box(self) -> bool:
        """Whether it is one attack that follows gradients."""
        attack = self.record["attack"]
        return not self.control and attack.get("access") in GRADIENT_ACCESS and not attack.get("ensemble", False)

    @property
    def black_box(self) -> bool:
        """Whether it asks for scores only."""
        return not self.control and bool(self.record["attack"].get("access") == "score")

    @cached_property
    def shift(self) -> Reals:
        """|q′ − q| (n,)."""
        return np.abs(self.scores.adv - self.scores.clean)

    @cached_property
    def left(self) -> Reals:
        """How far each image is from where the attack wanted it, in quality units (n,); smaller is a stronger attack."""
        kind, scores = self.cell["objective"], self.scores
        clean, adv, labels = (torch.tensor(values) for values in (scores.clean, scores.adv, scores.mos))
        loss = Objective(kind, clean, float(clean.mean()), labels, float(self.cell.get("target", 1.0))).loss(adv)
        return np.asarray((loss.sqrt() if kind in ("reflect", "target") else loss).numpy())

    @property
    def spread(self) -> float:
        """Inter-quartile range of the clean qualities."""
        return float(np.subtract(*np.percentile(self.scores.clean, [75, 25])))


def cells_of(records: Records, found: Sequence[dict[str, Any]] | None = None) -> dict[Track, list[FinishedCell]]:
    """The cells of every track, controls last.

    Args:
        records: a results folder.
        found: all its records, if they are at hand.
    """
    grouped: dict[Track, list[dict[str, Any]]] = {}
    for record in records.all() if found is None else found:
        cell = record["cell"]
        track = Track(cell["dataset"], record["dataset"]["label_kind"], cell["norm"], float(cell["eps"]))
        grouped.setdefault(track, []).append(record)
    return {track: _cells(records, grouped[track]) for track in sorted(grouped)}


def common_images(cells: Iterable[FinishedCell]) -> tuple[tuple[str, str], ...]:
    """Those that most cells that went well are of; others are not comparable."""
    counts = Counter(cell.images for cell in cells if cell.ok)
    return max(counts, key=lambda p: (counts[p], len(p), p), default=())


def _cells(records: Records, found: Sequence[dict[str, Any]]) -> list[FinishedCell]:
    """The cells of a track with their images in one order, so that resamples are paired."""
    differing = [name for name in ("seed", "queries", "draws") if len({str(r["cell"].get(name)) for r in found}) > 1]
    cells = []
    for record in found:
        cell = record["cell"]
        variant = " ".join(f"{name}={cell.get(name)}" for name in differing)
        setting = TRANSFER + cell["source"] if cell.get("source") else cell["setting"]
        key = Condition(cell["attack"], cell["objective"], setting, variant)
        cells.append(FinishedCell(key, record, records.scores(record["cell_id"])))
    return sorted(_newest(cells), key=lambda c: (c.control, c.key, c.record["cell_id"]))


def _newest(cells: Sequence[FinishedCell]) -> Iterable[FinishedCell]:
    """Of cells that differ only in weights or code, or that failed before they went well, the last to finish counts."""
    last: dict[tuple[Any, ...], FinishedCell] = {}
    for cell in cells:
        known = (*cell.row, cell.key, cell.images)
        if known not in last or _finished(last[known]) <= _finished(cell):
            last[known] = cell
    return last.values()


def _finished(cell: FinishedCell) -> tuple[str, str]:
    return str(cell.record.get("provenance", {}).get("finished", "")), cell.record["cell_id"]
