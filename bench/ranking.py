"""Who holds best: the rows of a leaderboard, track by track, from the records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from bench.bootstrap import Interval, interval, shared_ranks
from bench.measures import image_table
from bench.records import Records
from bench.sample import Sample
from bench.weighted import Reals

Track = tuple[str, str, str, float]
"""(dataset, label_kind, norm, eps)"""
NOTHING: Interval = (float("nan"),) * 3
FEW_REFERENCES = 30  # below it a percentile bootstrap over reference pictures is only a rough guide
TRANSFER = "transfer from "
SAME_QUALITY = 1e-3  # quality units; machines differ by less, other weights by more


class Key(NamedTuple):
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
class CellValue:
    """One ok cell: its SROCC with the labels and its mean |quality shift|."""

    key: Key
    control: bool
    srocc: float
    shift: float


@dataclass(frozen=True)
class Row:
    """One model and defense in one track.

    Attributes:
        rank: 1 + the number of rows that are better beyond their intervals; None where it is not complete.
        clean, robust: SROCC without attack, and the least over attacks, objectives and settings.
        worst_attack: the cell that gave `robust`.
        shift, shift_attack: the largest mean |quality shift| of a cell, and that cell.
        noise: the same for the controls, which never rank.
        cost_ratio: seconds an image, defended over undefended, the median over cells.
        missing: what it lacks to be complete.
        cells: all ok cells, controls included.
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
    noise: Interval
    cost_ratio: float
    complete: bool
    missing: tuple[str, ...]
    flags: tuple[str, ...]
    cells: tuple[CellValue, ...]
    images: int
    references: int


@dataclass(frozen=True)
class _Cell:
    key: Key
    record: dict[str, Any]
    pictures: tuple[tuple[str, str], ...]  # (image_id, reference_id)
    table: dict[str, Reals]

    @property
    def control(self) -> bool:
        return bool(self.record["attack"]["control"])

    @property
    def ok(self) -> bool:
        return bool(self.record["status"] == "ok")


def tracks(records: Records) -> dict[Track, list[Row]]:
    """The rows of every track, complete ones first, by falling robust SROCC.

    Cells on other pictures than most cells of the track are not comparable: they count as missing.
    """
    grouped: dict[Track, list[dict[str, Any]]] = {}
    for record in records.all():
        cell = record["cell"]
        track = (cell["dataset"], record["dataset"]["label_kind"], cell["norm"], float(cell["eps"]))
        grouped.setdefault(track, []).append(record)
    return {track: _rows(records, grouped[track]) for track in sorted(grouped)}


def _rows(records: Records, found: Sequence[dict[str, Any]]) -> list[Row]:
    cells = _cells(records, found)
    counts = Counter(cell.pictures for cell in cells if cell.ok)
    pictures = max(counts, key=lambda p: (counts[p], len(p), p), default=())
    sample = Sample.of([reference for _, reference in pictures]) if pictures else Sample(np.ones((1, 0)))
    standard = {cell.key for cell in cells if cell.ok and not cell.control and cell.pictures == pictures}
    names = sorted({(c.record["cell"]["model"], c.record["cell"]["defense"]) for c in cells})
    rows = []
    for name in names:
        own = [c for c in cells if (c.record["cell"]["model"], c.record["cell"]["defense"]) == name]
        rows.append(_row(own, pictures, sample, standard))
    complete = [row for row in rows if row.complete]
    ranks = shared_ranks([row.robust for row in complete])
    ranked = [replace(row, rank=rank) for row, rank in zip(complete, ranks, strict=True)]
    unranked = [row for row in rows if not row.complete]
    return [*sorted(ranked, key=_place), *sorted(unranked, key=_place)]


def _place(row: Row) -> tuple[float, str, str]:
    return -np.nan_to_num(row.robust[0], nan=-2.0), row.model, row.defense


def _cells(records: Records, found: Sequence[dict[str, Any]]) -> list[_Cell]:
    """The cells of a track with their pictures in one order, so that resamples are paired."""
    differing = [name for name in ("seed", "queries", "draws") if len({str(r["cell"].get(name)) for r in found}) > 1]
    cells = []
    for record in found:
        cell, images = record["cell"], records.images(record["cell_id"]).sort_values("image_id")
        variant = " ".join(f"{name}={cell.get(name)}" for name in differing)
        setting = TRANSFER + cell["source"] if cell.get("source") else cell["setting"]
        key = Key(cell["attack"], cell["objective"], setting, variant)
        cells.append(_Cell(key, record, tuple(zip(images.image_id, images.reference_id, strict=True)), image_table(images)))
    return sorted(_newest(cells), key=lambda c: (c.control, c.key, c.record["cell_id"]))


def _newest(cells: Sequence[_Cell]) -> Iterable[_Cell]:
    """Of cells that differ only in weights or code, or that failed before they went well, the last to finish counts."""
    last: dict[tuple[Any, ...], _Cell] = {}
    for cell in cells:
        known = (cell.record["cell"]["model"], cell.record["cell"]["defense"], cell.key, cell.pictures)
        if known not in last or _finished(last[known]) <= _finished(cell):
            last[known] = cell
    return last.values()


def _finished(cell: _Cell) -> tuple[str, str]:
    return str(cell.record.get("provenance", {}).get("finished", "")), cell.record["cell_id"]


def _row(own: Sequence[_Cell], pictures: tuple[tuple[str, str], ...], sample: Sample, standard: set[Key]) -> Row:
    usable = [cell for cell in own if cell.ok and cell.pictures == pictures]
    attacks = [cell for cell in usable if not cell.control]  # they come first
    sroccs = [_srocc(cell.table["mos"], cell.table["adv"], sample) for cell in usable]
    shifts = [sample.mean(np.abs(cell.table["adv"] - cell.table["clean"])) for cell in usable]
    references = len({reference for _, reference in pictures})

    def bounded(values: Iterable[Reals], extreme: Callable[..., Reals]) -> Interval:
        """The extreme over cells, taken anew in every resample; without two references there is no interval."""
        stack = list(values)
        value, low, high = interval(extreme(np.stack(stack), axis=0)) if stack else NOTHING
        return (value, low, high) if references > 1 else (value, float("nan"), float("nan"))

    robust = bounded(sroccs[: len(attacks)], np.min)
    clean = [_srocc(cell.table["mos"], cell.table["clean"], sample) for cell in usable[:1]]
    missing = _missing(own, pictures, standard)
    if not missing and not np.isfinite(robust[0]):
        missing = ("labels that differ: SROCC is not defined",)
    first = own[0].record
    return Row(
        model=first["cell"]["model"],
        defense=first["cell"]["defense"],
        kind=first["defense"]["kind"],
        rank=None,
        clean=bounded(clean, np.min),
        robust=robust,
        worst_attack=_culprit(attacks, [-s[0] for s in sroccs]),
        shift=bounded(shifts[: len(attacks)], np.max),
        shift_attack=_culprit(attacks, [s[0] for s in shifts]),
        noise=bounded(shifts[len(attacks) :], np.max),
        cost_ratio=_cost_ratio([cell.record for cell in usable]),
        complete=not missing,
        missing=missing,
        flags=tuple(sorted({flag for cell in own if not cell.control for flag in cell.record["flags"]})),
        cells=tuple(
            CellValue(c.key, c.control, float(s[0]), float(g[0])) for c, s, g in zip(usable, sroccs, shifts, strict=True)
        ),
        images=len(pictures),
        references=references,
    )


def _srocc(mos: Reals, quality: Reals, sample: Sample) -> Reals:
    """SROCC (B,), 0 where all qualities are equal: they tell nothing apart, and an undefined value must not look robust."""
    found = sample.spearman(mos, quality)
    undefined = np.isnan(found)
    if undefined.any():
        found[undefined & np.isfinite(sample.spearman(mos, mos))] = 0
    return found


def _culprit(attacks: Sequence[_Cell], badness: Sequence[Any]) -> str:
    """The first cell of the largest badness; nothing without cells."""
    return str(max(zip(attacks, badness, strict=False), key=lambda pair: float(pair[1]))[0].key) if attacks else ""


def _cost_ratio(found: Sequence[dict[str, Any]]) -> float:
    seconds = [record.get("score_seconds_an_image", {}) for record in found]
    ratios = [s["defended"] / s["undefended"] for s in seconds if s.get("defended") and s.get("undefended")]
    return float(np.median(ratios)) if ratios else float("nan")


def _missing(own: Sequence[_Cell], pictures: tuple[tuple[str, str], ...], standard: set[Key]) -> tuple[str, ...]:
    """What keeps a row from being complete, as lines."""
    done = {cell.key for cell in own if cell.ok and not cell.control and cell.pictures == pictures}
    why: dict[Key, str] = {}
    for cell in own:
        if not cell.control and not cell.ok and cell.key not in done:
            errors = cell.record.get("errors") or [""]
            why[cell.key] = f" ({cell.record['status']}{': ' if errors[0] else ''}{errors[0][:120]})"
    elsewhere = {cell.key for cell in own if cell.ok} - done
    standard = {key for key in standard if key.setting != TRANSFER + own[0].record["cell"]["model"]}  # that is `oblivious`
    for key in standard - done - set(why):
        why[key] = " (run on other pictures)" if key in elsewhere else ""
    lines = [f"{key}{reason}" for key, reason in sorted(why.items())]
    usable = [cell for cell in own if cell.ok and cell.pictures == pictures]
    fixed = [cell for cell in usable if not cell.record["defense"].get("stochastic")]
    apart = any(np.abs(a.table["clean"] - b.table["clean"]).max() > SAME_QUALITY for a, b in pairwise(fixed))
    weights = {(c.record["model"].get("weights_sha256"), c.record["defense"].get("weights_sha256")) for c in usable}
    if apart or len(weights) > 1:
        lines.append("cells of one model: their clean qualities or weights differ")
    return tuple(lines)
