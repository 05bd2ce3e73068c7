"""Two defenses, or two attacks, side by side on the same images: differences, their intervals, and which to believe."""

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
from iqarena.bench.registry import links, parse_spec
from iqarena.bench.results.flags import Flag
from iqarena.bench.results.formatting import format_eps, short_spec
from iqarena.bench.results.ranking import Family, TrackSample, signs_of
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import FinishedCell, Track, cells_of, common_images

Kind = Literal["defense", "attack"]
Measure = Literal["srocc", "shift"]
MEASURES: tuple[Measure, ...] = ("srocc", "shift")
BELIEVED = 0.05
WORST = "worst of"


@dataclass(frozen=True)
class ComparisonRow:
    """One comparison.

    Attributes:
        what: under what the two are compared.
        values: of the first and of the second.
        difference: second − first, resample by resample on the same images.
        p: of no difference, two-sided, corrected by Holm for all lines of the table.
    """

    what: str
    values: tuple[Interval, Interval]
    difference: Interval
    p: float


@dataclass(frozen=True)
class Comparison:
    """Two of a kind on one track.

    Attributes:
        context: the model, for defenses; empty for attacks, whose lines name model and defense.
        names: as they were asked for.
        seeds: trainings that each value is a mean of.
        lines: by measure: SROCC with the labels (with the clean qualities where there are none), and mean |quality shift|.
        alone: what only one of the two was run with, and so is not compared.
        flags: of the two, with what raised them.
    """

    kind: Kind
    track: Track
    context: str
    names: tuple[str, str]
    seeds: tuple[int, int]
    images: int
    references: int
    lines: dict[Measure, list[ComparisonRow]]
    alone: tuple[str, ...]
    flags: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @property
    def title(self) -> str:
        """What the two are compared on."""
        place = f"{self.track.dataset}, {self.track.norm}, ε = {format_eps(self.track.norm, self.track.eps)}"
        images = f"{self.images} images of {self.references} references"
        return " · ".join(filter(None, [short_spec(self.context), place, images]))

    def winner(self, measure: Measure, line: ComparisonRow) -> int | None:
        """The better defense or the stronger attack, 0 or 1; None where they are not told apart."""
        if not line.p < BELIEVED:
            return None
        return int((line.difference[0] > 0) == ((measure == "srocc") == (self.kind == "defense")))

    def better(self, measure: Measure, line: ComparisonRow) -> str:
        """Its name, or nothing."""
        place = self.winner(measure, line)
        return "" if place is None else short_spec(self.names[place])


def compare(records: Records, first: str, second: str, model: str | None = None) -> list[Comparison]:
    """Compare on every track that has both; defenses model by model.

    A name without ``weights=`` stands for all weights of that recipe, which count as seeds of its training.

    Args:
        records: a results folder.
        first, second: two defenses or two attacks.
        model: only this one.

    Raises:
        UserError: where there is nothing to compare.
    """
    tracks = cells_of(records)
    kind = _kind(records, [cell for cells in tracks.values() for cell in cells], first, second)
    duels = []
    for track, cells in tracks.items():
        chosen = [cell for cell in cells if model is None or same(model, cell.row[0])]
        if kind == "attack":
            duels.append(_pair(kind, track, chosen, (first, second), ""))
        for name in sorted({cell.row[0] for cell in chosen}) if kind == "defense" else ():
            duels.append(_pair(kind, track, [cell for cell in chosen if cell.row[0] == name], (first, second), name))
    found = [duel for duel in duels if duel is not None]
    if not found:
        on = f" on {model}" if model else ""
        raise UserError(f"{records.folder}: nothing was run with both {first} and {second}{on} on the same images")
    if kind == "attack":
        return found
    signs = signs_of(tracks)
    return [_flagged(duel, signs) for duel in found]


def frame(duels: Iterable[Comparison]) -> pd.DataFrame:
    """A row a comparison."""
    rows = []
    for duel in duels:
        for measure, lines in duel.lines.items():
            for line in lines:
                what = (*duel.track, duel.context, measure, line.what, *duel.names)
                numbers = (*line.values[0], *line.values[1], *line.difference, line.p)
                rows.append((*what, *numbers, duel.better(measure, line)))
    ends = [f"{what}{end}" for what in ("first_value", "second_value", "difference") for end in ("", "_lo", "_hi")]
    where = ["dataset", "label_kind", "norm", "eps", "model", "measure", "what", "first", "second"]
    return pd.DataFrame(rows, columns=[*where, *ends, "p", "better"])


# --- who is meant


def _bare(spec: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and parameters of each link of a chain, one where it is none; without weights."""
    parsed = [parse_spec(link) for link in links(spec)]
    return [(name, {key: value for key, value in given.items() if key != "weights"}) for name, given in parsed]


def same(asked: str, spec: str) -> bool:
    """Whether a spec is what was asked for, or differs from it only by weights where none were asked for."""
    return asked == spec or ("weights=" not in asked and _bare(asked) == _bare(spec))


def _kind(records: Records, cells: Sequence[FinishedCell], first: str, second: str) -> Kind:
    there = {"defense": {cell.row[1] for cell in cells}, "attack": {cell.key.attack for cell in cells}}
    kinds: tuple[Kind, ...] = ("defense", "attack")
    both = [[kind for kind in kinds if any(same(name, spec) for spec in there[kind])] for name in (first, second)]
    for name, found in zip((first, second), both, strict=True):
        if not found:
            known = sorted({short_spec(spec) for specs in there.values() for spec in specs})
            near = get_close_matches(name, known, n=3, cutoff=0.5) or known
            raise UserError(f"{records.folder}: no record of {name!r}; there are {', '.join(near) or 'none at all'}")
    shared = [kind for kind in both[0] if kind in both[1]]
    if not shared:
        raise UserError(f"{first} is {_a(both[0][0])} and {second} {_a(both[1][0])}; give two defenses or two attacks")
    return shared[0]


def _a(kind: Kind) -> str:
    return "a defense" if kind == "defense" else "an attack"


# --- what is compared

_Values = dict[str, Reals]
"""What is compared → the value and its resamples, (1 + B,)."""
_Side = dict[str, dict[str, list[FinishedCell]]]
"""Spec → what is compared → its cells, of which the worst counts."""


def _pair(
    kind: Kind, track: Track, cells: Sequence[FinishedCell], names: tuple[str, str], context: str
) -> Comparison | None:
    """Both on one track; None where one of them is not on it."""
    if kind == "defense":
        sides = [_side(cells, name, lambda cell: cell.row[1], _attack) for name in names]
    else:
        sides = [_side(cells, name, lambda cell: cell.key.attack, _target) for name in names]
    specs = [own for side in sides for own in side.values()]
    if not all(sides):
        return None
    images = common_images(cell for own in specs for some in own.values() for cell in some)
    keys = [what for what in specs[0] if all(what in own and _of(own[what], images) for own in specs)]
    if not keys:
        return None
    keys.sort(key=lambda what: specs[0][what][0].control)
    sample = TrackSample([reference for _, reference in images], COMPARED)
    found = [_measured(kind, track, sample, list(side.values()), keys, place) for place, side in enumerate(sides)]
    alone = sorted({what for own in specs for what in own} - set(keys))
    return _duel(kind, track, context, names, (len(sides[0]), len(sides[1])), sample, found, tuple(alone))


def _side(
    cells: Sequence[FinishedCell], name: str, spec: Callable[[FinishedCell], str], what: Callable[[FinishedCell], str]
) -> _Side:
    side: _Side = {}
    for cell in cells:
        if cell.ok and same(name, spec(cell)):
            side.setdefault(spec(cell), {}).setdefault(what(cell), []).append(cell)
    return side


def _attack(cell: FinishedCell) -> str:
    return f"{cell.key}{' (control)' if cell.control else ''}"


def _target(cell: FinishedCell) -> str:
    model, defense = (short_spec(part) for part in cell.row)
    attacked = model if defense == "none" else f"{model} + {defense}"
    return ", ".join(filter(None, [attacked, cell.key.setting, cell.key.variant]))


def _of(cells: Sequence[FinishedCell], images: tuple[tuple[str, str], ...]) -> bool:
    return all(cell.images == images for cell in cells)


def _measured(
    kind: Kind,
    track: Track,
    sample: TrackSample,
    seeds: Sequence[dict[str, list[FinishedCell]]],
    keys: Sequence[str],
    place: int,
) -> dict[Measure, _Values]:
    """Both measures of one side, over its seeds; of a defense also without attack and under the worst of all."""
    stacks: dict[Measure, list[_Values]] = {measure: [] for measure in MEASURES}
    for own in seeds:
        sroccs = {key: np.min(_sroccs(track, sample, own[key]), axis=0) for key in keys}
        shifts = {key: np.max([sample.shift(cell.scores) for cell in own[key]], axis=0) for key in keys}
        attacks = [key for key in keys if not own[key][0].control]
        if kind == "defense" and attacks:
            worst = f"{WORST} {len(attacks)} attack{'s' * (len(attacks) > 1)}"
            sroccs = {worst: np.min([sroccs[key] for key in attacks], axis=0), **sroccs}
            shifts = {worst: np.max([shifts[key] for key in attacks], axis=0), **shifts}
        if kind == "defense" and track.labelled:
            scores = own[keys[0]][0].scores
            sroccs = {"no attack": sample.sroccs(scores.mos, [scores.clean])[0], **sroccs}
        stacks["srocc"].append(sroccs)
        stacks["shift"].append(shifts)
    return {
        measure: {what: over_seeds(np.stack([one[what] for one in values]), place) for what in values[0]}
        for measure, values in stacks.items()
    }


def _sroccs(track: Track, sample: TrackSample, cells: Sequence[FinishedCell]) -> list[Reals]:
    """With the labels; where there are none, with each cell's clean qualities."""
    if track.labelled:
        return sample.sroccs(cells[0].scores.mos, [cell.scores.adv for cell in cells])
    return [sample.sroccs(cell.scores.clean, [cell.scores.adv])[0] for cell in cells]


def _duel(
    kind: Kind,
    track: Track,
    context: str,
    names: tuple[str, str],
    seeds: tuple[int, int],
    sample: TrackSample,
    found: Sequence[dict[Measure, _Values]],
    alone: tuple[str, ...],
) -> Comparison:
    lines: dict[Measure, list[ComparisonRow]] = {}
    for measure in MEASURES:
        one, other = (side[measure] for side in found)
        enough = sample.references > 1
        differences = {what: other[what] - one[what] for what in one}
        corrected = holm([p_value(values) if enough else float("nan") for values in differences.values()])
        lines[measure] = [
            ComparisonRow(what, (sample.interval(one[what]), sample.interval(other[what])), sample.interval(values), p)
            for (what, values), p in zip(differences.items(), corrected, strict=True)
        ]
    images = sample.sample.weights.shape[1]
    return Comparison(kind, track, context, names, seeds, images, sample.references, lines, alone)


def _flagged(duel: Comparison, signs: Mapping[Family, Sequence[Flag]]) -> Comparison:
    own = {defense: flags for (*where, defense), flags in signs.items() if where == [*duel.track[:3], duel.context]}
    first, second = (
        tuple(f"{flag.name}: {flag.why}" for spec, flags in sorted(own.items()) if same(name, spec) for flag in flags)
        for name in duel.names
    )
    return replace(duel, flags=(first, second))
