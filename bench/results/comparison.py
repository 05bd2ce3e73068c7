"""Compare two defenses, or two attacks, on the same images: differences, their intervals and p values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import pandas as pd

from iqarena.bench.errors import UserError
from iqarena.bench.metrics.bootstrap import COMPARED, Interval, holm, over_seeds, p_value
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.registry import links
from iqarena.bench.results.flags import Flag
from iqarena.bench.results.formatting import format_eps, labelled_name, short_spec, spec_parts
from iqarena.bench.results.ranking import Family, TrackSample, flags_by_family
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import FinishedCell, Track, cells_of, common_images, data_set_labels

Kind = Literal["defense", "attack"]
Measure = Literal["srocc", "shift"]
MEASURES: tuple[Measure, ...] = ("srocc", "shift")
SIGNIFICANCE = 0.05
"""Level of a corrected p value below which two values count as different."""
WORST = "worst of"


@dataclass(frozen=True)
class ComparisonRow:
    """One row of a comparison.

    Attributes:
        condition: the attack that both defenses face, or the target of both attacks.
        values: of the first and of the second.
        difference: second − first, resample by resample on the same images.
        p: two-sided p value of no difference, corrected by Holm for all rows of the table.
    """

    condition: str
    values: tuple[Interval, Interval]
    difference: Interval
    p: float


@dataclass(frozen=True)
class Comparison:
    """A comparison of two defenses or two attacks on one track.

    Attributes:
        context: the model, for defenses; empty for attacks, whose rows name model and defense.
        names: the two, as the user gave them.
        seeds: number of training seeds that each value is a mean of.
        rows: by measure: SROCC with the labels (with the clean qualities where there are none), and mean |quality shift|.
        unmatched: conditions that only one of the two was run with, which are not compared.
        flags: raised flags of each of the two, with the reason.
        unlabelled: number of the images that have no label, which SROCC leaves out.
        label: tells the data set from others of the same name in the results folder; empty if there is none.
    """

    kind: Kind
    track: Track
    context: str
    names: tuple[str, str]
    seeds: tuple[int, int]
    images: int
    references: int
    rows: dict[Measure, list[ComparisonRow]]
    unmatched: tuple[str, ...]
    flags: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    unlabelled: int = 0
    label: str = ""

    @property
    def title(self) -> str:
        """Model, track and number of images of the comparison."""
        threat = f"{labelled_name(self.track.dataset, self.label)}, {self.track.norm}"
        threat += f", ε = {format_eps(self.track.norm, self.track.eps)}"
        images = f"{self.images} images of {self.references} references"
        images += f", {self.unlabelled} without a label" if self.unlabelled else ""
        return " · ".join(filter(None, [short_spec(self.context) if self.context else "", threat, images]))

    def winner(self, measure: Measure, row: ComparisonRow) -> int | None:
        """Return the index (0 or 1) of the better defense or the stronger attack; None without a significant difference."""
        if not row.p < SIGNIFICANCE:
            return None
        return int((row.difference[0] > 0) == ((measure == "srocc") == (self.kind == "defense")))

    def better(self, measure: Measure, row: ComparisonRow) -> str:
        """Return the name of the better defense or the stronger attack; empty without a significant difference."""
        index = self.winner(measure, row)
        return "" if index is None else short_spec(self.names[index])


def compare(records: Records, first: str, second: str, model: str | None = None) -> list[Comparison]:
    """Compare two defenses or two attacks on every track that has both; defenses are compared model by model.

    A name without ``weights=`` stands for all weights of that recipe, which count as seeds of its training.

    Args:
        records: a results folder.
        first, second: two defenses or two attacks.
        model: restricts the comparison to this model.

    Raises:
        UserError: where there is nothing to compare.
    """
    tracks = cells_of(records)
    kind = _kind(records, [cell for cells in tracks.values() for cell in cells], first, second)
    candidates = []
    for track, cells in tracks.items():
        chosen = [cell for cell in cells if model is None or matches_spec(model, cell.row[0])]
        if kind == "attack":
            candidates.append(_compare_on_track(kind, track, chosen, (first, second), ""))
        for name in sorted({cell.row[0] for cell in chosen}) if kind == "defense" else ():
            of_model = [cell for cell in chosen if cell.row[0] == name]
            candidates.append(_compare_on_track(kind, track, of_model, (first, second), name))
    labels = data_set_labels(tracks)
    comparisons = [replace(found, label=labels[found.track]) for found in candidates if found is not None]
    if not comparisons:
        on = f" on {model}" if model else ""
        raise UserError(f"{records.folder}: nothing was run with both {first} and {second}{on} on the same images")
    if kind == "attack":
        return comparisons
    flags = flags_by_family(tracks)
    return [_with_flags(comparison, flags) for comparison in comparisons]


def frame(comparisons: Iterable[Comparison]) -> pd.DataFrame:
    """Return the comparisons as a data frame with one row per condition and measure."""
    rows = []
    for comparison in comparisons:
        for measure, measured in comparison.rows.items():
            for row in measured:
                keys = (*comparison.track[:4], comparison.context, measure, row.condition, *comparison.names)
                numbers = (*row.values[0], *row.values[1], *row.difference, row.p)
                rows.append((*keys, *numbers, comparison.better(measure, row), comparison.track.fingerprint))
    ends = [f"{value}{end}" for value in ("first_value", "second_value", "difference") for end in ("", "_lo", "_hi")]
    keys_of_row = ["dataset", "label_kind", "norm", "eps", "model", "measure", "what", "first", "second"]
    return pd.DataFrame(rows, columns=[*keys_of_row, *ends, "p", "better", "fingerprint"])


# --- names


def _without_weights(spec: str) -> list[tuple[str, dict[str, Any]]]:
    """Return name and parameters, except for weights, of each link of a chain; one link where the spec is no chain."""
    parsed = [spec_parts(link) for link in links(spec)]
    return [(name, {key: value for key, value in given.items() if key != "weights"}) for name, given in parsed]


def matches_spec(asked: str, spec: str) -> bool:
    """Check whether a spec equals the one that was asked for, up to its weights where none were asked for."""
    return asked == spec or ("weights=" not in asked and _without_weights(asked) == _without_weights(spec))


def _kind(records: Records, cells: Sequence[FinishedCell], first: str, second: str) -> Kind:
    specs = {"defense": {cell.row[1] for cell in cells}, "attack": {cell.key.attack for cell in cells}}
    kinds: tuple[Kind, ...] = ("defense", "attack")
    both = [[kind for kind in kinds if any(matches_spec(name, spec) for spec in specs[kind])] for name in (first, second)]
    for name, kinds_of_name in zip((first, second), both, strict=True):
        if not kinds_of_name:
            known = sorted({short_spec(spec) for of_kind in specs.values() for spec in of_kind})
            near = get_close_matches(name, known, n=3, cutoff=0.5) or known
            raise UserError(f"{records.folder}: no record of {name!r}; there are {', '.join(near) or 'none at all'}")
    shared = [kind for kind in both[0] if kind in both[1]]
    if not shared:
        raise UserError(f"{first} is {_a(both[0][0])} and {second} {_a(both[1][0])}; give two defenses or two attacks")
    return shared[0]


def _a(kind: Kind) -> str:
    return "a defense" if kind == "defense" else "an attack"


# --- values

_Values = dict[str, Reals]
"""Condition → the value and its resamples, (1 + B,)."""
_CellsOfSeed = dict[str, list[FinishedCell]]
"""Condition → the cells of one spec, of which the worst counts."""
_Side = dict[str, _CellsOfSeed]
"""Spec → its cells by condition; specs that differ only by weights are the seeds of a training recipe."""


def _compare_on_track(
    kind: Kind, track: Track, cells: Sequence[FinishedCell], names: tuple[str, str], context: str
) -> Comparison | None:
    """Compare both on one track; return None where one of them is missing."""
    if kind == "defense":
        sides = [_side(cells, name, lambda cell: cell.row[1], _attack) for name in names]
    else:
        sides = [_side(cells, name, lambda cell: cell.key.attack, _target) for name in names]
    seeds = [by_condition for side in sides for by_condition in side.values()]
    if not all(sides):
        return None
    images = common_images(cell for by_condition in seeds for group in by_condition.values() for cell in group)
    conditions = [
        condition
        for condition in seeds[0]
        if all(condition in by_condition and _on_images(by_condition[condition], images) for by_condition in seeds)
    ]
    if not conditions:
        return None
    conditions.sort(key=lambda condition: seeds[0][condition][0].control)
    sample = TrackSample([reference for _, reference in images], COMPARED)
    values = [_measure_side(kind, track, sample, list(side.values()), conditions, index) for index, side in enumerate(sides)]
    return Comparison(
        kind,
        track,
        context,
        names,
        (len(sides[0]), len(sides[1])),
        len(images),
        sample.references,
        _rows(sample, values),
        tuple(sorted({condition for by_condition in seeds for condition in by_condition} - set(conditions))),
        unlabelled=int(np.isnan(seeds[0][conditions[0]][0].scores.mos).sum()) if track.labelled else 0,
    )


def _side(
    cells: Sequence[FinishedCell],
    name: str,
    spec: Callable[[FinishedCell], str],
    condition: Callable[[FinishedCell], str],
) -> _Side:
    side: _Side = {}
    for cell in cells:
        if cell.ok and matches_spec(name, spec(cell)):
            side.setdefault(spec(cell), {}).setdefault(condition(cell), []).append(cell)
    return side


def _attack(cell: FinishedCell) -> str:
    return f"{cell.key}{' (control)' if cell.control else ''}"


def _target(cell: FinishedCell) -> str:
    model, defense = (short_spec(part) for part in cell.row)
    attacked = model if defense == "none" else f"{model} + {defense}"
    return ", ".join(filter(None, [attacked, cell.key.setting, cell.key.variant]))


def _on_images(cells: Sequence[FinishedCell], images: tuple[tuple[str, str], ...]) -> bool:
    return all(cell.images == images for cell in cells)


def _measure_side(
    kind: Kind,
    track: Track,
    sample: TrackSample,
    seeds: Sequence[_CellsOfSeed],
    conditions: Sequence[str],
    index: int,
) -> dict[Measure, _Values]:
    """Compute both measures of one side, over its seeds; for a defense also without attack and under its worst attack."""
    stacks: dict[Measure, list[_Values]] = {measure: [] for measure in MEASURES}
    for cells in seeds:
        sroccs = {key: np.min(_sroccs(track, sample, cells[key]), axis=0) for key in conditions}
        shifts = {key: np.max([sample.shift(cell.scores) for cell in cells[key]], axis=0) for key in conditions}
        attacks = [key for key in conditions if not cells[key][0].control]
        if kind == "defense" and attacks:
            worst = f"{WORST} {len(attacks)} attack{'s' * (len(attacks) > 1)}"
            sroccs = {worst: np.min([sroccs[key] for key in attacks], axis=0), **sroccs}
            shifts = {worst: np.max([shifts[key] for key in attacks], axis=0), **shifts}
        if kind == "defense" and track.labelled:
            scores = cells[conditions[0]][0].scores
            sroccs = {"no attack": sample.sroccs(scores.mos, [scores.clean])[0], **sroccs}
        stacks["srocc"].append(sroccs)
        stacks["shift"].append(shifts)
    return {
        measure: {
            condition: over_seeds(np.stack([values[condition] for values in by_seed]), index) for condition in by_seed[0]
        }
        for measure, by_seed in stacks.items()
    }


def _sroccs(track: Track, sample: TrackSample, cells: Sequence[FinishedCell]) -> list[Reals]:
    """Compute SROCC with the labels; where there are none, with each cell's clean qualities."""
    if track.labelled:
        return sample.sroccs(cells[0].scores.mos, [cell.scores.adv for cell in cells])
    return [sample.sroccs(cell.scores.clean, [cell.scores.adv])[0] for cell in cells]


def _rows(sample: TrackSample, sides: Sequence[dict[Measure, _Values]]) -> dict[Measure, list[ComparisonRow]]:
    rows: dict[Measure, list[ComparisonRow]] = {}
    for measure in MEASURES:
        first, second = (side[measure] for side in sides)
        enough = sample.references > 1
        differences = {condition: second[condition] - first[condition] for condition in first}
        corrected = holm([p_value(values) if enough else float("nan") for values in differences.values()])
        rows[measure] = [
            ComparisonRow(
                condition,
                (sample.interval(first[condition]), sample.interval(second[condition])),
                sample.interval(values),
                p,
            )
            for (condition, values), p in zip(differences.items(), corrected, strict=True)
        ]
    return rows


def _with_flags(comparison: Comparison, flags: Mapping[Family, Sequence[Flag]]) -> Comparison:
    family = [*comparison.track.family, comparison.context]
    by_defense = {defense: raised for (*key, defense), raised in flags.items() if key == family}
    first, second = (
        tuple(
            f"{flag.name}: {flag.why}"
            for spec, raised in sorted(by_defense.items())
            if matches_spec(name, spec)
            for flag in raised
        )
        for name in comparison.names
    )
    return replace(comparison, flags=(first, second))
