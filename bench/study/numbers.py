"""What the records of the study say: SROCC of every variant, seed and attack, means over seeds, and paired tests.

A variant's robust SROCC at a size is the least over the attacks that every run met there, and over its own surrogates; so a
variant that was attacked harder than others is not the worse for it, and one that hides its gradient is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
import pandas as pd

from iqarena.bench.errors import UserError
from iqarena.bench.metrics.bootstrap import Interval, holm, interval, over_seeds, p_value
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.results.comparison import BELIEVED
from iqarena.bench.results.ranking import TrackSample
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import FinishedCell, Track, cells_of, common_images
from iqarena.bench.study.suite import MAIN
from iqarena.bench.study.variants import VARIANTS, Variant, named

RESAMPLES = 4000


@dataclass(frozen=True, order=True)
class Met:
    """What a run was attacked by, and the surrogate of its gradient where that is not the exact one."""

    attack: str
    objective: str
    setting: str
    through: str = ""

    def __str__(self) -> str:
        aim = "" if self.objective in ("away", "reflect") else self.objective  # the usual ones
        return ", ".join(filter(None, [self.attack, aim, f"through {self.through}" if self.through else self.setting]))


@dataclass(frozen=True)
class Run:
    """One set of weights at one size.

    Attributes:
        clean: SROCC without attack and its resamples, (1 + B,).
        attacked: the same under each attack.
        controls: the same under noise.
        shifts: mean |quality shift| by each attack.
    """

    variant: Variant
    seed: int
    clean: Reals
    attacked: dict[Met, Reals]
    controls: dict[Met, Reals]
    shifts: dict[Met, float]

    def counted(self, common: frozenset[Met]) -> list[Met]:
        """What counts against it: what all met, and its surrogates."""
        return sorted(met for met in self.attacked if met in common or met.through)

    def robust(self, common: frozenset[Met]) -> Reals:
        """The least over what counts, in every resample."""
        least: Reals = np.min([self.attacked[met] for met in self.counted(common)], axis=0)
        return least

    def met_more(self, common: frozenset[Met]) -> bool:
        """Whether it met the most expensive attacks as well, beside what counts and a search by scores alone."""
        return len(self.attacked) > len(self.counted(common)) + 2

    @property
    def least(self) -> tuple[float, Met]:
        """The least under everything that was tried, and by what."""
        return min((float(values[0]), met) for met, values in self.attacked.items())


@dataclass(frozen=True)
class Difference:
    """One variant less another, mean over seeds, on the same images; p is corrected by Holm for the whole family."""

    value: Interval
    p: float

    @property
    def believed(self) -> bool:
        """Whether it is told from nothing."""
        return bool(self.p < BELIEVED)


@dataclass(frozen=True)
class Size:
    """All runs at one size of the attack.

    Attributes:
        left_out: runs that lack attacks which most others met.
    """

    eps: float
    runs: list[Run]
    common: frozenset[Met]
    left_out: list[tuple[Variant, int]] = field(default_factory=list)

    def of(self, variant: Variant) -> list[Run]:
        """Its runs, a seed each."""
        return [run for run in self.runs if run.variant == variant]

    @cached_property
    def variants(self) -> list[Variant]:
        """Those that have runs, in the order of the study."""
        return list(dict.fromkeys(run.variant for run in self.runs))

    def clean(self, variant: Variant) -> Reals:
        """Mean clean SROCC over seeds, which are drawn anew in every resample."""
        return self._mean(variant, lambda run: run.clean)

    def robust(self, variant: Variant) -> Reals:
        """Mean robust SROCC over seeds, likewise."""
        return self._mean(variant, lambda run: run.robust(self.common))

    def _mean(self, variant: Variant, value: Callable[[Run], Reals]) -> Reals:
        # a stream of its own for every variant: seeds of two of them are not pairs
        return over_seeds(np.stack([value(run) for run in self.of(variant)]), self.variants.index(variant))

    def worst(self, variant: Variant) -> str:
        """What gives the least mean SROCC over its seeds, of what counts."""
        runs = self.of(variant)
        shared = set.intersection(*(set(run.counted(self.common)) for run in runs))
        return str(min(sorted(shared), key=lambda met: float(np.mean([run.attacked[met][0] for run in runs]))))

    def shift(self, variant: Variant) -> float:
        """The largest mean |quality shift| of what counts, mean over seeds."""
        return float(np.mean([max(run.shifts[met] for met in run.counted(self.common)) for run in self.of(variant)]))

    def against(self, first: Variant, others: Sequence[Variant], of: Callable[[Variant], Reals]) -> dict[str, Difference]:
        """Each of some variants less the first, by name."""
        values = {other.name: of(other) - of(first) for other in others if other != first}
        corrected = holm([p_value(differences) for differences in values.values()])
        return {
            name: Difference(interval(differences), p)
            for (name, differences), p in zip(values.items(), corrected, strict=True)
        }


@dataclass(frozen=True)
class Findings:
    """All sizes on one data set."""

    dataset: str
    label_kind: str
    images: int
    references: int
    sizes: list[Size]

    def find(self, role: str) -> Variant | None:
        """The first variant with a role."""
        return next((v for size in self.sizes for v in size.variants if v.role == role), None)

    @property
    def main(self) -> Size:
        """The size at which most was tried; the nearest to it that was run."""
        return min(self.sizes, key=lambda size: abs(size.eps - float(Fraction(MAIN))))

    def half(self, variant: Variant) -> Size:
        """The size at which a variant keeps most nearly half of its clean SROCC."""
        there = [size for size in self.sizes if variant in size.variants]
        return min(there, key=lambda size: abs(size.robust(variant)[0] / size.clean(variant)[0] - 0.5))


def findings(records: Records, variants: tuple[Variant, ...] = VARIANTS) -> list[Findings]:
    """What a results folder says, a data set each.

    Raises:
        UserError: where nothing of the study is in it.
    """
    known = named(variants)
    grouped: dict[tuple[str, str], dict[Track, list[FinishedCell]]] = {}
    for track, cells in cells_of(records).items():
        own = [cell for cell in cells if cell.ok and cell.row in known]
        if own and track.norm == "linf" and track.labelled:
            grouped.setdefault((track.dataset, track.label_kind), {})[track] = own
    if not grouped:
        raise UserError(f"{records.folder}: no record of the study is in it; run the suite cprl with --out {records.folder}")
    return [_findings(*where, tracks, variants) for where, tracks in sorted(grouped.items())]


def _findings(
    dataset: str, kind: str, tracks: Mapping[Track, list[FinishedCell]], variants: tuple[Variant, ...]
) -> Findings:
    images = common_images(cell for cells in tracks.values() for cell in cells)
    sample = TrackSample([reference for _, reference in images], RESAMPLES)
    sizes = [
        _size(track.eps, list(_runs([cell for cell in cells if cell.images == images], sample, variants)))
        for track, cells in sorted(tracks.items())
    ]
    return Findings(dataset, kind, len(images), sample.references, [size for size in sizes if size.runs])


def _runs(cells: Sequence[FinishedCell], sample: TrackSample, variants: tuple[Variant, ...]) -> Iterator[Run]:
    known = named(variants)
    grouped: dict[tuple[Variant, int], dict[Met, FinishedCell]] = {}
    for cell in cells:
        variant, seed, through = known[cell.row]
        met = Met(cell.key.attack, cell.key.objective, cell.key.setting, through)
        grouped.setdefault((variant, seed), {})[met] = cell
    for variant, seed in sorted(grouped, key=lambda run: (variants.index(run[0]), run[1])):
        own = grouped[variant, seed]
        first = next(iter(own.values())).scores
        clean, *values = sample.sroccs(first.mos, [first.clean, *(cell.scores.adv for cell in own.values())])
        sroccs = dict(zip(own, values, strict=True))
        yield Run(
            variant,
            seed,
            clean,
            {met: sroccs[met] for met, cell in own.items() if not cell.control},
            {met: sroccs[met] for met, cell in own.items() if cell.control},
            {met: float(np.abs(cell.scores.adv - cell.scores.clean).mean()) for met, cell in own.items()},
        )


def _size(eps: float, runs: list[Run]) -> Size:
    """Common is what most defended runs met; a run that lacks any of it is left out."""
    defended = [run for run in runs if run.variant.role != "none"]
    every = {met for run in defended for met in run.attacked if not met.through}
    common = frozenset(met for met in every if 2 * sum(met in run.attacked for run in defended) > len(defended))
    through = frozenset(met for met in common if met.setting == "adaptive")  # on an undefended model there is no other

    def whole(run: Run) -> bool:
        needed = through if run.variant.role == "none" else common
        return bool(needed) and needed <= set(run.attacked)

    left_out = [(run.variant, run.seed) for run in runs if not whole(run)]
    return Size(eps, [run for run in runs if whole(run)], common, left_out)


def frame(found: Sequence[Findings]) -> pd.DataFrame:
    """A row for every variant, seed, size and attack; noise and no attack among them."""
    rows = []
    for one in found:
        for size in one.sizes:
            for run in size.runs:
                for met, values in {**run.controls, **run.attacked}.items():
                    where = (one.dataset, size.eps, run.variant.name, run.seed)
                    what = (met.attack, met.objective, met.setting, met.through)
                    rows.append((*where, *what, float(run.clean[0]), float(values[0]), run.shifts[met]))
    columns = [
        "dataset",
        "eps",
        "variant",
        "seed",
        "attack",
        "objective",
        "setting",
        "through",
        "srocc_clean",
        "srocc_adv",
        "abs_gain",
    ]
    return pd.DataFrame(rows, columns=columns)
