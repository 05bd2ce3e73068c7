"""Who holds best: the rows of a leaderboard, track by track, from the records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from iqarena.bench.metrics.bootstrap import RESAMPLES, Interval, interval, shared_ranks
from iqarena.bench.metrics.resampled import ResampledStatistics
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.results.flags import SAME_QUALITY, Flag, diagnose
from iqarena.bench.results.formatting import short_spec
from iqarena.bench.results.store import Records, Scored
from iqarena.bench.results.track import TRANSFER, Condition, FinishedCell, Track, cells_of, common_images

NOTHING: Interval = (float("nan"),) * 3
FEW_REFERENCES = 30  # below it a percentile bootstrap over reference images is only a rough guide


@dataclass(frozen=True)
class CellValue:
    """One ok cell.

    Attributes:
        srocc: of attacked qualities and labels; clean qualities stand in for labels where there are none.
        stability: SROCC of attacked and clean qualities.
        shift: mean |quality shift|.
        clean, adv: qualities (n,), image by image.
        crafting: of its attacked images, where they were kept.
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
        kind: of the defense.
        rank: 1 + the number of rows that are better beyond their intervals; None where it is not complete.
        clean, robust: SROCC with the labels without attack, and the least over attacks, objectives and settings. Without
            labels there is no clean one, and the robust one is with the clean qualities.
        worst_attack: the cell that gave `robust`.
        shift, shift_attack: the largest mean |quality shift| of a cell, and that cell.
        spread: inter-quartile range of the clean qualities: a model that uses little of its range moves by little of it too.
        noise: the same for the controls, which never rank.
        certified: SROCC with the labels that no change within the threat model undercuts; NaN where nothing is certified.
        cost_ratio: seconds an image, defended over undefended, the median over cells.
        missing: what it lacks to be complete.
        signs: flags that its robustness may not be real, of all sizes of the threat model, and what raised them.
        cells: all ok cells, controls last.
        image_ids: of the images of all cells.
        papers: of model and defense; empty where there is none.
        weights: sha256 of the model's and of the defended model's.
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

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of its signs."""
        return tuple(flag.name for flag in self.signs)

    @property
    def images(self) -> int:
        """How many images each cell has."""
        return len(self.image_ids)

    @property
    def name(self) -> str:
        """What stands beside its mark."""
        model = short_spec(self.model)
        return f"{model}, no defense" if self.defense == "none" else f"{model} + {short_spec(self.defense)}"


def tracks(records: Records, found: Sequence[dict[str, Any]] | None = None) -> dict[Track, list[Row]]:
    """The rows of every track, complete ones first, by falling robust SROCC.

    Cells on other images than most cells of the track are not comparable: they count as missing.

    Args:
        records: a results folder.
        found: all its records, if they are at hand.
    """
    cells = cells_of(records, found)
    signs = signs_of(cells)
    return {track: _rows(track, own, signs) for track, own in cells.items()}


Family = tuple[str, str, str, str, str]
"""(dataset, label_kind, norm, model, defense)"""


def signs_of(cells: dict[Track, list[FinishedCell]]) -> dict[Family, list[Flag]]:
    """The flags of every model and defense, from its cells of all sizes."""
    grouped: dict[Family, list[FinishedCell]] = {}
    for track, own in cells.items():
        for cell in own:
            grouped.setdefault((*track[:3], *cell.row), []).append(cell)
    return {family: diagnose(evidence) for family, evidence in grouped.items()}


class TrackSample:
    """Statistics of the images of a track, (B,) each: of themselves, then of resamples over reference images."""

    def __init__(self, references: Sequence[str], resamples: int = RESAMPLES) -> None:
        self.sample = ResampledStatistics.of(references, resamples) if references else ResampledStatistics(np.ones((1, 0)))
        self.alone = ResampledStatistics(np.ones((1, len(references))))
        self.references = len(set(references))

    def sroccs(self, labels: Reals, qualities: Sequence[Reals]) -> list[Reals]:
        """SROCC with the labels; 0 where all qualities are equal, since no value must not look robust."""
        found = self.sample.spearmans(labels, qualities)
        if any(np.isnan(values).any() for values in found):
            defined = np.isfinite(self.sample.spearman(labels, labels))
            found = [np.where(np.isnan(values) & defined, 0.0, values) for values in found]
        return found

    def shift(self, scores: Scored) -> Reals:
        """Mean |quality shift|."""
        return self.sample.mean(np.abs(scores.adv - scores.clean))

    def bounded(self, values: Sequence[Reals], extreme: Callable[..., Reals]) -> Interval:
        """The extreme over cells, taken anew in every resample."""
        return self.interval(extreme(np.stack(values), axis=0)) if values else NOTHING

    def interval(self, values: Reals) -> Interval:
        """Of a statistic (B,); without two references there is none around its value."""
        value, low, high = interval(values)
        return (value, low, high) if self.references > 1 else (value, float("nan"), float("nan"))


def _rows(track: Track, cells: Sequence[FinishedCell], signs: dict[Family, list[Flag]]) -> list[Row]:
    images = common_images(cells)
    sample = TrackSample([reference for _, reference in images])
    standard = _standard(cells, images)
    grouped: dict[tuple[str, str], list[FinishedCell]] = {}
    for cell in cells:
        grouped.setdefault(cell.row, []).append(cell)
    rows = [
        _row(grouped[name], track.labelled, images, sample, standard, signs[(*track[:3], *name)]) for name in sorted(grouped)
    ]
    complete = [row for row in rows if row.complete]
    ranks = shared_ranks([row.robust for row in complete])
    ranked = [replace(row, rank=rank) for row, rank in zip(complete, ranks, strict=True)]
    unranked = [row for row in rows if not row.complete]
    return [*sorted(ranked, key=_place), *sorted(unranked, key=_place)]


def _place(row: Row) -> tuple[float, str, str]:
    return -np.nan_to_num(row.robust[0], nan=-2.0), row.model, row.defense


def _standard(cells: Sequence[FinishedCell], images: tuple[tuple[str, str], ...]) -> set[Condition]:
    """What a row needs to be complete: that went well on the track's images, and was tried on half of the rows at least.

    So an attack that somebody tried on a few rows counts against those, and takes nobody else's rank away.
    """
    tried: dict[Condition, set[tuple[str, str]]] = {}
    for cell in cells:
        if not cell.control:
            tried.setdefault(cell.key, set()).add(cell.row)
    rows = {name for names in tried.values() for name in names}
    went_well = {cell.key for cell in cells if cell.ok and cell.images == images}
    return {key for key, names in tried.items() if key in went_well and 2 * len(names) >= len(rows)}


def _row(
    own: Sequence[FinishedCell],
    labelled: bool,
    images: tuple[tuple[str, str], ...],
    sample: TrackSample,
    standard: set[Condition],
    signs: Sequence[Flag],
) -> Row:
    usable = [cell for cell in own if cell.ok and cell.images == images]
    attacks = [cell for cell in usable if not cell.control]  # they come first
    sroccs, clean = [], []
    if usable:
        first = usable[0].scores
        sroccs = sample.sroccs(first.mos if labelled else first.clean, [cell.scores.adv for cell in usable])
        clean = sample.sroccs(first.mos, [first.clean]) if labelled else []
    shifts = [sample.shift(cell.scores) for cell in usable]
    robust = sample.bounded(sroccs[: len(attacks)], np.min)
    missing = _missing(own, images, standard)
    if not missing and not np.isfinite(robust[0]):
        what = "labels" if labelled else "clean qualities"
        missing = (f"{what} that differ: SROCC is not defined",)
    record = own[0].record
    return Row(
        model=record["cell"]["model"],
        defense=record["cell"]["defense"],
        kind=record["defense"]["kind"],
        rank=None,
        clean=sample.bounded(clean, np.min),
        robust=robust,
        worst_attack=_culprit(attacks, [-s[0] for s in sroccs]),
        shift=sample.bounded(shifts[: len(attacks)], np.max),
        shift_attack=_culprit(attacks, [s[0] for s in shifts]),
        spread=float(np.subtract(*np.percentile(usable[0].scores.clean, [75, 25]))) if usable else float("nan"),
        noise=sample.bounded(shifts[len(attacks) :], np.max),
        certified=_certified([cell.record for cell in usable]),
        cost_ratio=_cost_ratio([cell.record for cell in usable]),
        complete=not missing,
        missing=missing,
        signs=tuple(signs),
        cells=tuple(_value(*parts, sample) for parts in zip(usable, sroccs, shifts, strict=True)),
        image_ids=tuple(image_id for image_id, _ in images),
        references=sample.references,
        papers=(record["model"].get("paper", ""), record["defense"].get("paper", "")),
        weights=(record["model"].get("weights_sha256", ""), record["defense"].get("weights_sha256", "")),
    )


def _value(cell: FinishedCell, sroccs: Reals, shifts: Reals, sample: TrackSample) -> CellValue:
    scores = cell.scores
    stability = float(sample.alone.spearman(scores.clean, scores.adv)[0])
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


def _culprit(attacks: Sequence[FinishedCell], badness: Sequence[Any]) -> str:
    """The first cell of the largest badness; nothing without cells."""
    return str(max(zip(attacks, badness, strict=False), key=lambda pair: float(pair[1]))[0].key) if attacks else ""


def _certified(found: Sequence[dict[str, Any]]) -> float:
    """The least of its cells, which should all have the same; certificates hold in ℓ2 and say nothing of another norm."""
    values = [record["measures"].get("certified_srocc") for record in found if record["cell"]["norm"] == "l2"]
    return min((float(value) for value in values if value is not None), default=float("nan"))


def _cost_ratio(found: Sequence[dict[str, Any]]) -> float:
    seconds = [record.get("score_seconds_an_image", {}) for record in found]
    ratios = [s["defended"] / s["undefended"] for s in seconds if s.get("defended") and s.get("undefended")]
    return float(np.median(ratios)) if ratios else float("nan")


def _missing(own: Sequence[FinishedCell], images: tuple[tuple[str, str], ...], standard: set[Condition]) -> tuple[str, ...]:
    """What keeps a row from being complete, as lines."""
    done = {cell.key for cell in own if cell.ok and not cell.control and cell.images == images}
    why: dict[Condition, str] = {}
    for cell in own:
        if not cell.control and not cell.ok and cell.key not in done:
            errors = cell.record.get("errors") or [""]
            why[cell.key] = f" ({cell.record['status']}{': ' if errors[0] else ''}{errors[0][:120]})"
    elsewhere = {cell.key for cell in own if cell.ok} - done
    standard = {key for key in standard if key.setting != TRANSFER + own[0].record["cell"]["model"]}  # that is `oblivious`
    for key in standard - done - set(why):
        why[key] = " (run on other images)" if key in elsewhere else ""
    lines = [f"{key}{reason}" for key, reason in sorted(why.items())]
    usable = [cell for cell in own if cell.ok and cell.images == images]
    fixed = [cell for cell in usable if not cell.record["defense"].get("stochastic")]
    apart = any(np.abs(a.scores.clean - b.scores.clean).max() > SAME_QUALITY for a, b in pairwise(fixed))
    weights = {(c.record["model"].get("weights_sha256"), c.record["defense"].get("weights_sha256")) for c in usable}
    if apart or len(weights) > 1:
        lines.append("cells of one model: their clean qualities or weights differ")
    return tuple(lines)
