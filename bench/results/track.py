"""Tracks: groups of finished cells that can be compared with each other."""

from __future__ import annotations

import hashlib
import re
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


TrackFamily = tuple[str, str, str, str]
"""(dataset, label_kind, norm, fingerprint)"""


class Track(NamedTuple):
    """The settings that rows must have in common to be compared.

    `fingerprint` is that of the data set, and of the images and labels too where these differ under one fingerprint, see
    `tracks_of`.
    """

    dataset: str
    label_kind: str
    norm: str
    eps: float
    fingerprint: str = ""

    @property
    def labelled(self) -> bool:
        """Whether robust SROCC is with the labels; otherwise it is with the clean qualities."""
        return self.label_kind != "none"

    @property
    def family(self) -> TrackFamily:
        """The fields that it shares with tracks that differ in ε alone."""
        return self.dataset, self.label_kind, self.norm, self.fingerprint


class Condition(NamedTuple):
    """The attack of a cell, within its model, defense and track.

    `setting` includes the source model of a transfer; `variant` names seed, queries and draws where they differ in a track.
    """

    attack: str
    objective: str
    setting: str
    variant: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, self))


@dataclass(frozen=True)
class FinishedCell:
    """A finished cell: its condition, its record, and its scores, with the images of all cells in the same order."""

    key: Condition
    record: dict[str, Any]
    scores: Scored

    @property
    def images(self) -> tuple[tuple[str, str], ...]:
        """(image_id, reference_id) of each image."""
        return self.scores.images

    @property
    def control(self) -> bool:
        """Whether its attack is a control, which real attacks must beat."""
        return bool(self.record["attack"]["control"])

    @property
    def ok(self) -> bool:
        """Whether it ended well, so that its scores count."""
        return bool(self.record["status"] == "ok")

    @property
    def row(self) -> tuple[str, str]:
        """Model and defense."""
        return self.record["cell"]["model"], self.record["cell"]["defense"]

    @property
    def cell(self) -> dict[str, Any]:
        """The parameters of the cell."""
        parameters: dict[str, Any] = self.record["cell"]
        return parameters

    @property
    def name(self) -> str:
        """Attack, objective and setting, for messages."""
        source = f" from {self.cell['source']}" if self.cell.get("source") else ""
        return f"{self.cell['attack']}, {self.cell['objective']}, {self.cell['setting']}{source}"

    @property
    def saw_deployed_model(self) -> bool:
        """Whether the attack saw the deployed model; otherwise its gradients say nothing about that model."""
        setting, defense = self.cell["setting"], self.cell["defense"]
        return bool(setting == "adaptive" or (setting == "oblivious" and defense == "none"))

    @property
    def white_box(self) -> bool:
        """Whether it is a single attack that uses gradients."""
        attack = self.record["attack"]
        return not self.control and attack.get("access") in GRADIENT_ACCESS and not attack.get("ensemble", False)

    @property
    def black_box(self) -> bool:
        """Whether it uses scores only."""
        return not self.control and bool(self.record["attack"].get("access") == "score")

    @cached_property
    def shift(self) -> Reals:
        """|q′ − q| (n,)."""
        return np.abs(self.scores.adv - self.scores.clean)

    @cached_property
    def remaining(self) -> Reals:
        """Distance of each image from the attack's goal in quality units (n,); smaller is a stronger attack."""
        kind, scores = self.cell["objective"], self.scores
        clean, adv, labels = (torch.tensor(values) for values in (scores.clean, scores.adv, scores.mos))
        loss = Objective(kind, clean, float(clean.mean()), labels, float(self.cell.get("target", 1.0))).loss(adv)
        return np.asarray((loss.sqrt() if kind in ("reflect", "target") else loss).numpy())

    @property
    def spread(self) -> float:
        """Inter-quartile range of the clean qualities."""
        return float(np.subtract(*np.percentile(self.scores.clean, [75, 25])))


def cells_of(records: Records, loaded: Sequence[dict[str, Any]] | None = None) -> dict[Track, list[FinishedCell]]:
    """Return the cells of every track, controls last.

    Args:
        records: a results folder.
        loaded: all its records, if they are already loaded.
    """
    loaded = list(records.all()) if loaded is None else loaded
    grouped: dict[Track, list[dict[str, Any]]] = {}
    for record, track in zip(loaded, tracks_of(loaded), strict=True):
        grouped.setdefault(track, []).append(record)
    by_track = {track: _cells(records, grouped[track]) for track in sorted(grouped)}
    return {track: cells for track, cells in by_track.items() if cells}


def tracks_of(records: Sequence[dict[str, Any]]) -> list[Track]:
    """Return the track of each record.

    Data sets of one name are told apart by their fingerprints. Where the records say that equally many images of one data
    set had other labels or pixels, though its fingerprint is the same, these are different tracks too.
    """
    contents: dict[tuple[str, str, str, int], set[str]] = {}
    for record in records:
        if content := record["dataset"].get("content_sha256"):
            contents.setdefault((*_data_set(record), record["n_images"]), set()).add(content)
    ambiguous = {key[:3] for key, several in contents.items() if len(several) > 1}
    tracks = []
    for record in records:
        cell, (dataset, label_kind, fingerprint) = record["cell"], _data_set(record)
        if (dataset, label_kind, fingerprint) in ambiguous:
            fingerprint = content_fingerprint(fingerprint, record["dataset"].get("content_sha256", ""))
        tracks.append(Track(dataset, label_kind, cell["norm"], float(cell["eps"]), fingerprint))
    return tracks


def content_fingerprint(fingerprint: str, content: str) -> str:
    """Return the fingerprint of a data set together with that of some of its images and labels."""
    return f"{fingerprint}+{content}"


def _data_set(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["cell"]["dataset"], record["dataset"]["label_kind"], record["dataset"].get("fingerprint", "")


def data_set_labels(tracks: Iterable[Track]) -> dict[Track, str]:
    """Return a short label for the data set of each track; empty where no other data set bears its name.

    It is the beginning of the fingerprint, or of a hash of it where the beginning says too little.
    """
    tracks = list(tracks)
    of_name: dict[str, set[str]] = {}
    for track in tracks:
        of_name.setdefault(track.dataset, set()).add(track.fingerprint)
    return {track: _label(track.fingerprint, of_name[track.dataset]) for track in tracks}


def _label(fingerprint: str, of_name: set[str]) -> str:
    if len(of_name) == 1:
        return ""
    short = _beginning(fingerprint)
    if re.fullmatch(r"[0-9a-f]{8}(\+[0-9a-f]{8})?", short) and [_beginning(other) for other in of_name].count(short) == 1:
        return short
    return hashlib.sha256(fingerprint.encode("utf-8", "backslashreplace")).hexdigest()[:8]


def _beginning(fingerprint: str) -> str:
    return "+".join(part[:8] for part in fingerprint.split("+"))


def common_images(cells: Iterable[FinishedCell]) -> tuple[tuple[str, str], ...]:
    """Return the images that most ok cells have; cells on other images are not comparable."""
    counts = Counter(cell.images for cell in cells if cell.ok)
    return max(counts, key=lambda images: (counts[images], len(images), images), default=())


def _cells(records: Records, of_track: Sequence[dict[str, Any]]) -> list[FinishedCell]:
    """Return the cells of a track with their images in the same order, so that resamples are paired."""
    differing = [name for name in ("seed", "queries", "draws") if len({str(r["cell"].get(name)) for r in of_track}) > 1]
    cells = []
    for record in of_track:
        cell = record["cell"]
        variant = " ".join(f"{name}={cell.get(name)}" for name in differing)
        setting = TRANSFER + cell["source"] if cell.get("source") else cell["setting"]
        key = Condition(cell["attack"], cell["objective"], setting, variant)
        if (scores := records.usable_scores(record)) is not None:
            cells.append(FinishedCell(key, record, scores))
    return sorted(_newest(cells), key=lambda cell: (cell.control, cell.key, cell.record["cell_id"]))


def _newest(cells: Sequence[FinishedCell]) -> Iterable[FinishedCell]:
    """Keep the last to finish of cells that differ only in weights or code, or that failed before they ended ok."""
    last: dict[tuple[Any, ...], FinishedCell] = {}
    for cell in cells:
        identity = (*cell.row, cell.key, cell.images)
        if identity not in last or _finished(last[identity]) <= _finished(cell):
            last[identity] = cell
    return last.values()


def _finished(cell: FinishedCell) -> tuple[str, str]:
    return str(cell.record.get("provenance", {}).get("finished", "")), cell.record["cell_id"]
