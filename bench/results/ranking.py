"""Rank the models and defenses of every track by robust SROCC, from the records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iqarena.bench.metrics.bootstrap import RESAMPLES, Interval, interval, shared_ranks
from iqarena.bench.metrics.resampled import ResampledStatistics
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.results.flags import SAME_QUALITY, Flag, diagnose
from iqarena.bench.results.formatting import short_spec
from iqarena.bench.results.store import Records, Scored
from iqarena.bench.results.track import TRANSFER, Condition, FinishedCell, Track, cells_of, common_images

NO_VALUE: Interval = (float("nan"),) * 3
FEW_REFERENCES = 30
"""Number of reference images below which a percentile bootstrap over them is only a rough guide."""


@dataclass(frozen=True)
class CellValue:
    """The values of one ok cell.

    Attributes:
        srocc: SROCC of attacked qualities with the labels; with the clean qualities where there are no labels.
        stability: SROCC of attacked with clean qualities.
        shift: mean |quality shift|.
        clean, adv: qualities (n,), image by image.
        crafting: hash that names the folder of its attacked images; empty where they were not kept.
    """

    key: Condition
    control: bool
    cell_id: str
    srocc: Interval
    stability: float
    shift: float
    flags: tuple[str, ...]
    clean: Reals
    adv: Reals
    crafting: str


@dataclass(frozen=True)
class Row:
    """One model and defense in one track.

    Attributes:
        kind: kind of the defense.
        rank: 1 + the number of rows that are better with disjoint intervals; None where the row is not complete.
        clean, robust: SROCC with the labels without attack, and the least over attacks, objectives and settings. Without
            labels there is no clean SROCC, and the robust one is with the clean qualities.
        worst_attack: the cell that gave `robust`.
        shift, shift_attack: the largest mean |quality shift| of a cell, and that cell.
        spread: inter-quartile range of the clean qualities; a model that uses little of its range also shifts little.
        noise: the largest mean |quality shift| of the controls, which do not count for the rank.
        certified: lower bound of SROCC with the labels over all changes within the threat model; NaN without certificates.
        cost_ratio: seconds per image, defended over undefended, the median over cells.
        missing: reasons why the row is not complete.
        unlabelled: number of images without a label, which no SROCC with the labels counts.
        elsewhere: number of its ok cells that do not count, because they are on other images than the track.
        signs: raised flags, from all sizes of the threat model, with their reasons.
        cells: all ok cells, controls last.
        image_ids: ids of the images of all cells.
        papers: papers of model and defense; empty where there is none.
        weights: sha256 of the weights of the model and of the defended model.
    """

    model: str
    defense: str
    kind: str
    rank: int | None
    clean: Interval
    robust: Interval
    worst_attack: str
    shift: Interval
    shift_attack: str
    spread: float
    noise: Interval
    certified: float
    cost_ratio: float
    complete: bool
    missing: tuple[str, ...]
    signs: tuple[Flag, ...]
    cells: tuple[CellValue, ...]
    image_ids: tuple[str, ...]
    references: int
    papers: tuple[str, str]
    weights: tuple[str, str]
    unlabelled: int = 0
    elsewhere: int = 0

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the raised flags."""
        return tuple(flag.name for flag in self.signs)

    @property
    def images(self) -> int:
        """Number of images of each cell."""
        return len(self.image_ids)

    @property
    def name(self) -> str:
        """Model and defense as they are shown on the board."""
        model = short_spec(self.model)
        return f"{model}, no defense" if self.defense == "none" else f"{model} + {short_spec(self.defense)}"


def tracks(records: Records, loaded: Sequence[dict[str, Any]] | None = None) -> dict[Track, list[Row]]:
    """Return the rows of every track, complete ones first, by decreasing robust SROCC.

    Cells on other images than most cells of the track are not comparable and count as missing.

    Args:
        records: a results folder.
        loaded: all its records, if they are already loaded.
    """
    by_track = cells_of(records, loaded)
    flags = flags_by_family(by_track)
    return {track: _rows(track, cells, flags) for track, cells in by_track.items()}


Family = tuple[str, str, str, str, str, str]
"""(dataset, label_kind, norm, fingerprint, model, defense)"""


def flags_by_family(by_track: dict[Track, list[FinishedCell]]) -> dict[Family, list[Flag]]:
    """Return the flags of every model and defense, from its cells of all sizes."""
    grouped: dict[Family, list[FinishedCell]] = {}
    for track, cells in by_track.items():
        for cell in cells:
            grouped.setdefault((*track.family, *cell.row), []).append(cell)
    return {family: diagnose(cells) for family, cells in grouped.items()}


class TrackSample:
    """Statistics of the images of a track, (B,) each: first of the images themselves, then of resamples over references."""

    def __init__(self, references: Sequence[str], resamples: int = RESAMPLES) -> None:
        self.sample = ResampledStatistics.of(references, resamples) if references else ResampledStatistics(np.ones((1, 0)))
        self.without_resamples = ResampledStatistics(np.ones((1, len(references))))
        self.references = len(set(references))
        self._references, self._resamples = np.asarray(references, dtype=object), resamples
        self._parts: dict[bytes, ResampledStatistics] = {}

    def sroccs(self, labels: Reals, qualities: Sequence[Reals]) -> list[Reals]:
        """Compute SROCC with the labels, from the images that have one.

        It is 0 where all qualities are equal, since an undefined value must not look robust.
        """
        known = ~np.isnan(labels)
        if not known.all() and known.sum() > 1:
            sample, labels, qualities = self._part(known), labels[known], [values[known] for values in qualities]
        else:
            sample = self.sample
        sroccs = sample.spearmans(labels, qualities)
        if any(np.isnan(values).any() for values in sroccs):
            defined = np.isfinite(sample.spearman(labels, labels))
            sroccs = [np.where(np.isnan(values) & defined, 0.0, values) for values in sroccs]
        return sroccs

    def _part(self, known: NDArray[np.bool_]) -> ResampledStatistics:
        """Return the statistics of some of the images alone, as if the others were not there."""
        key = known.tobytes()
        if key not in self._parts:
            self._parts[key] = ResampledStatistics.of(list(self._references[known]), self._resamples)
        return self._parts[key]

    def shift(self, scores: Scored) -> Reals:
        """Compute the mean |quality shift|."""
        return self.sample.mean(np.abs(scores.adv - scores.clean))

    def bounded(self, values: Sequence[Reals], extreme: Callable[..., Reals]) -> Interval:
        """Return the extreme over cells and its interval; the extreme is taken anew in every resample."""
        return self.interval(extreme(np.stack(values), axis=0)) if values else NO_VALUE

    def interval(self, values: Reals) -> Interval:
        """Return a statistic (B,) with its interval, which is NaN with fewer than two references."""
        value, low, high = interval(values)
        return (value, low, high) if self.references > 1 else (value, float("nan"), float("nan"))


def _rows(track: Track, cells: Sequence[FinishedCell], flags: dict[Family, list[Flag]]) -> list[Row]:
    images = common_images(cells)
    sample = TrackSample([reference for _, reference in images])
    required = _required(cells, images)
    grouped: dict[tuple[str, str], list[FinishedCell]] = {}
    for cell in cells:
        grouped.setdefault(cell.row, []).append(cell)
    rows = [
        _row(grouped[name], track.labelled, images, sample, required, flags[(*track.family, *name)])
        for name in sorted(grouped)
    ]
    complete = [row for row in rows if row.complete]
    ranks = shared_ranks([row.robust for row in complete])
    ranked = [replace(row, rank=rank) for row, rank in zip(complete, ranks, strict=True)]
    unranked = [row for row in rows if not row.complete]
    return [*sorted(ranked, key=_sort_key), *sorted(unranked, key=_sort_key)]


def _sort_key(row: Row) -> tuple[float, str, str]:
    return -np.nan_to_num(row.robust[0], nan=-2.0), row.model, row.defense


def _required(cells: Sequence[FinishedCell], images: tuple[tuple[str, str], ...]) -> set[Condition]:
    """Return the conditions that a complete row needs: ok in a row on the track's images, run in at least half of the rows.

    So an attack that was only run on a few rows counts for those rows, and costs no other row its rank.
    """
    tried: dict[Condition, set[tuple[str, str]]] = {}
    for cell in cells:
        if not cell.control:
            tried.setdefault(cell.key, set()).add(cell.row)
    rows = {name for names in tried.values() for name in names}
    ok = {cell.key for cell in cells if cell.ok and cell.images == images}
    return {key for key, names in tried.items() if key in ok and 2 * len(names) >= len(rows)}


def _row(
    cells: Sequence[FinishedCell],
    labelled: bool,
    images: tuple[tuple[str, str], ...],
    sample: TrackSample,
    required: set[Condition],
    flags: Sequence[Flag],
) -> Row:
    usable = [cell for cell in cells if cell.ok and cell.images == images]
    attacks = [cell for cell in usable if not cell.control]  # controls come last
    sroccs, clean, unlabelled = [], [], 0
    if usable:
        first = usable[0].scores
        unlabelled = int(np.isnan(first.mos).sum()) if labelled else 0
        sroccs = sample.sroccs(first.mos if labelled else first.clean, [cell.scores.adv for cell in usable])
        clean = sample.sroccs(first.mos, [first.clean]) if labelled else []
    shifts = [sample.shift(cell.scores) for cell in usable]
    robust = sample.bounded(sroccs[: len(attacks)], np.min)
    missing = _missing(cells, images, required)
    if not missing and not np.isfinite(robust[0]):
        ranked_by = "labels" if labelled else "clean qualities"
        missing = (f"{ranked_by} that differ: SROCC is not defined",)
        if unlabelled > len(images) - 2:
            missing = (f"labels: {unlabelled} of {len(images)} images have none, and SROCC needs two",)
    record = cells[0].record
    return Row(
        model=record["cell"]["model"],
        defense=record["cell"]["defense"],
        kind=record["defense"]["kind"],
        rank=None,
        clean=sample.bounded(clean, np.min),
        robust=robust,
        worst_attack=_worst_cell(attacks, [-s[0] for s in sroccs]),
        shift=sample.bounded(shifts[: len(attacks)], np.max),
        shift_attack=_worst_cell(attacks, [s[0] for s in shifts]),
        spread=float(np.subtract(*np.percentile(usable[0].scores.clean, [75, 25]))) if usable else float("nan"),
        noise=sample.bounded(shifts[len(attacks) :], np.max),
        certified=_certified([cell.record for cell in usable]),
        cost_ratio=_cost_ratio([cell.record for cell in usable]),
        complete=not missing,
        missing=missing,
        signs=tuple(flags),
        cells=tuple(_value(*parts, sample) for parts in zip(usable, sroccs, shifts, strict=True)),
        image_ids=tuple(image_id for image_id, _ in images),
        references=sample.references,
        papers=(record["model"].get("paper", ""), record["defense"].get("paper", "")),
        weights=(record["model"].get("weights_sha256", ""), record["defense"].get("weights_sha256", "")),
        unlabelled=unlabelled,
        elsewhere=sum(cell.ok and cell.images != images for cell in cells),
    )


def _value(cell: FinishedCell, sroccs: Reals, shifts: Reals, sample: TrackSample) -> CellValue:
    scores = cell.scores
    stability = float(sample.without_resamples.spearman(scores.clean, scores.adv)[0])
    return CellValue(
        cell.key,
        cell.control,
        cell.record["cell_id"],
        sample.bounded([sroccs], np.min),
        stability,
        float(shifts[0]),
        tuple(cell.record["flags"]),
        scores.clean,
        scores.adv,
        cell.record["crafting"] if cell.record["attacked_images"] else "",
    )


def _worst_cell(attacks: Sequence[FinishedCell], badness: Sequence[Any]) -> str:
    """Return the first cell of the largest badness; empty without cells."""
    return str(max(zip(attacks, badness, strict=False), key=lambda pair: float(pair[1]))[0].key) if attacks else ""


def _certified(records: Sequence[dict[str, Any]]) -> float:
    """Return the least certified SROCC of its cells, which should be equal; certificates hold for ℓ2 only."""
    values = [record["measures"].get("certified_srocc") for record in records if record["cell"]["norm"] == "l2"]
    return min((float(value) for value in values if value is not None), default=float("nan"))


def _cost_ratio(records: Sequence[dict[str, Any]]) -> float:
    seconds = [record.get("score_seconds_an_image", {}) for record in records]
    ratios = [s["defended"] / s["undefended"] for s in seconds if s.get("defended") and s.get("undefended")]
    return float(np.median(ratios)) if ratios else float("nan")


def _missing(
    cells: Sequence[FinishedCell], images: tuple[tuple[str, str], ...], required: set[Condition]
) -> tuple[str, ...]:
    """Return the reasons why a row is not complete."""
    done = {cell.key for cell in cells if cell.ok and not cell.control and cell.images == images}
    reasons: dict[Condition, str] = {}
    for cell in cells:
        if not cell.control and not cell.ok and cell.key not in done:
            errors = cell.record.get("errors") or [""]
            reasons[cell.key] = f" ({cell.record['status']}{': ' if errors[0] else ''}{errors[0][:120]})"
    elsewhere = {cell.key for cell in cells if cell.ok} - done
    # a transfer from the model itself is `oblivious`
    required = {key for key in required if key.setting != TRANSFER + cells[0].record["cell"]["model"]}
    for key in required - done - set(reasons):
        reasons[key] = " (run on other images)" if key in elsewhere else ""
    lines = [f"{key}{reason}" for key, reason in sorted(reasons.items())]
    usable = [cell for cell in cells if cell.ok and cell.images == images]
    fixed = [cell for cell in usable if not cell.record["defense"].get("stochastic")]
    scores_differ = any(np.abs(a.scores.clean - b.scores.clean).max() > SAME_QUALITY for a, b in pairwise(fixed))
    weights = {(c.record["model"].get("weights_sha256"), c.record["defense"].get("weights_sha256")) for c in usable}
    if scores_differ or len(weights) > 1:
        lines.append("cells of one model: their clean qualities or weights differ")
    return tuple(lines)
