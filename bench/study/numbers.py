"""The results of the study from its records: SROCC of every variant, seed and attack, means over seeds, and paired tests.

The robust SROCC of a variant at a size is the least over the attacks that were run on every variant there, and over its own
surrogates. So additional attacks on a variant do not count against it, and a hidden gradient does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
import pandas as pd

from iqarena.bench.errors import UserError
from iqarena.bench.metrics.bootstrap import Interval, holm, interval, over_seeds, p_value
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.results.comparison import SIGNIFICANCE
from iqarena.bench.results.ranking import TrackSample
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import FinishedCell, Track, cells_of, common_images, data_set_labels
from iqarena.bench.study.suite import MAIN
from iqarena.bench.study.variants import VARIANTS, Variant, variants_by_spec

RESAMPLES = 4000


@dataclass(frozen=True, order=True)
class AttackCase:
    """An attack on a run, with the surrogate that its gradients are taken through, empty for the exact gradient."""

    attack: str
    objective: str
    setting: str
    through: str = ""

    def __str__(self) -> str:
        aim = "" if self.objective in ("away", "reflect") else self.objective  # the objectives that most attacks have
        return ", ".join(filter(None, [self.attack, aim, f"through {self.through}" if self.through else self.setting]))


@dataclass(frozen=True)
class Run:
    """The results of one set of weights at one size ε.

    Attributes:
        clean: SROCC without attack and its resamples, (1 + B,).
        attacked: the same under each attack.
        controls: the same under random noise.
        shifts: mean |quality shift| by each attack.
    """

    variant: Variant
    seed: int
    clean: Reals
    attacked: dict[AttackCase, Reals]
    controls: dict[AttackCase, Reals]
    shifts: dict[AttackCase, float]

    def counted_cases(self, common: frozenset[AttackCase]) -> list[AttackCase]:
        """Return the attacks that count: the common ones, and those through surrogates."""
        return sorted(case for case in self.attacked if case in common or case.through)

    def robust(self, common: frozenset[AttackCase]) -> Reals:
        """Return the least SROCC over the attacks that count, in every resample."""
        least: Reals = np.min([self.attacked[case] for case in self.counted_cases(common)], axis=0)
        return least

    def has_extra_attacks(self, common: frozenset[AttackCase]) -> bool:
        """Check whether the most expensive attacks were run as well, beside those that count and a score-based one."""
        return len(self.attacked) > len(self.counted_cases(common)) + 2

    @property
    def least(self) -> tuple[float, AttackCase]:
        """The least SROCC under all attacks, and the attack that gave it."""
        return min((float(values[0]), case) for case, values in self.attacked.items())


@dataclass(frozen=True)
class Difference:
    """The difference of two variants, mean over seeds, on the same images; p is corrected by Holm for the whole family."""

    value: Interval
    p: float

    @property
    def significant(self) -> bool:
        """Whether the difference is significant."""
        return bool(self.p < SIGNIFICANCE)


@dataclass(frozen=True)
class Size:
    """All runs at one size of the attack.

    Attributes:
        eps: the size, in units of pixels in [0, 1].
        runs: complete runs.
        common: attacks that were run on most defended variants, and so on all runs.
        left_out: runs that lack some of the common attacks.
    """

    eps: float
    runs: list[Run]
    common: frozenset[AttackCase]
    left_out: list[tuple[Variant, int]] = field(default_factory=list)

    def of(self, variant: Variant) -> list[Run]:
        """Return the runs of a variant, one for each seed."""
        return [run for run in self.runs if run.variant == variant]

    @cached_property
    def variants(self) -> list[Variant]:
        """The variants that have runs, in the order of the study."""
        return list(dict.fromkeys(run.variant for run in self.runs))

    def clean(self, variant: Variant) -> Reals:
        """Return the clean SROCC, mean over seeds, and its resamples, for which the seeds are resampled too."""
        return self._mean(variant, lambda run: run.clean)

    def robust(self, variant: Variant) -> Reals:
        """Return the robust SROCC, mean over seeds, and its resamples, for which the seeds are resampled too."""
        return self._mean(variant, lambda run: run.robust(self.common))

    def _mean(self, variant: Variant, value: Callable[[Run], Reals]) -> Reals:
        # every variant has its own random stream, because the seeds of two variants are not paired
        return over_seeds(np.stack([value(run) for run in self.of(variant)]), self.variants.index(variant))

    def worst(self, variant: Variant) -> str:
        """Return the attack with the least mean SROCC over the seeds, of those that count."""
        runs = self.of(variant)
        shared = set.intersection(*(set(run.counted_cases(self.common)) for run in runs))
        return str(min(sorted(shared), key=lambda case: float(np.mean([run.attacked[case][0] for run in runs]))))

    def shift(self, variant: Variant) -> float:
        """Return the largest mean |quality shift| of the attacks that count, mean over seeds."""
        return float(np.mean([max(run.shifts[case] for case in run.counted_cases(self.common)) for run in self.of(variant)]))

    def against(
        self, first: Variant, others: Sequence[Variant], measure: Callable[[Variant], Reals]
    ) -> dict[str, Difference]:
        """Return the difference of each of some variants to the first one, by name."""
        values = {other.name: measure(other) - measure(first) for other in others if other != first}
        corrected = holm([p_value(differences) for differences in values.values()])
        return {
            name: Difference(interval(differences), p)
            for (name, differences), p in zip(values.items(), corrected, strict=True)
        }


@dataclass(frozen=True)
class Findings:
    """The results of the study on one data set, at all sizes.

    `dataset` ends in a label of its fingerprint where several data sets bear its name.
    """

    dataset: str
    label_kind: str
    images: int
    references: int
    sizes: list[Size]

    def find(self, role: str) -> Variant | None:
        """Return the first variant with a role."""
        return next((v for size in self.sizes for v in size.variants if v.role == role), None)

    @property
    def main(self) -> Size:
        """The size with most attacks; where it was not run, the nearest one."""
        return min(self.sizes, key=lambda size: abs(size.eps - float(Fraction(MAIN))))

    def half(self, variant: Variant) -> Size:
        """Return the size at which a variant keeps closest to half of its clean SROCC."""
        sizes = [size for size in self.sizes if variant in size.variants]
        return min(sizes, key=lambda size: abs(size.robust(variant)[0] / size.clean(variant)[0] - 0.5))


def findings(records: Records, variants: tuple[Variant, ...] = VARIANTS) -> list[Findings]:
    """Return the results of the study in a results folder, one for each data set.

    Raises:
        UserError: if the folder has no records of the study.
    """
    known = variants_by_spec(variants)
    grouped: dict[tuple[str, str], dict[Track, list[FinishedCell]]] = {}
    by_track = cells_of(records)
    labels = data_set_labels(by_track)
    for track, cells in by_track.items():
        study_cells = [cell for cell in cells if cell.ok and cell.row in known]
        if study_cells and track.norm == "linf" and track.labelled:
            name = f"{track.dataset}-{labels[track]}" if labels[track] else track.dataset
            grouped.setdefault((name, track.label_kind), {})[track] = study_cells
    if not grouped:
        raise UserError(f"{records.folder}: no record of the study is in it; run the suite cprl with --out {records.folder}")
    return [_findings(*key, tracks, variants) for key, tracks in sorted(grouped.items())]


def _findings(
    dataset: str, label_kind: str, tracks: Mapping[Track, list[FinishedCell]], variants: tuple[Variant, ...]
) -> Findings:
    images = common_images(cell for cells in tracks.values() for cell in cells)
    sample = TrackSample([reference for _, reference in images], RESAMPLES)
    sizes = [
        _size(track.eps, list(_runs([cell for cell in cells if cell.images == images], sample, variants)))
        for track, cells in sorted(tracks.items())
    ]
    return Findings(dataset, label_kind, len(images), sample.references, [size for size in sizes if size.runs])


def _runs(cells: Sequence[FinishedCell], sample: TrackSample, variants: tuple[Variant, ...]) -> Iterator[Run]:
    known = variants_by_spec(variants)
    grouped: dict[tuple[Variant, int], dict[AttackCase, FinishedCell]] = {}
    for cell in cells:
        variant, seed, through = known[cell.row]
        case = AttackCase(cell.key.attack, cell.key.objective, cell.key.setting, through)
        grouped.setdefault((variant, seed), {})[case] = cell
    for variant, seed in sorted(grouped, key=lambda run: (variants.index(run[0]), run[1])):
        run_cells = grouped[variant, seed]
        first = next(iter(run_cells.values())).scores
        clean, *values = sample.sroccs(first.mos, [first.clean, *(cell.scores.adv for cell in run_cells.values())])
        sroccs = dict(zip(run_cells, values, strict=True))
        yield Run(
            variant,
            seed,
            clean,
            {case: sroccs[case] for case, cell in run_cells.items() if not cell.control},
            {case: sroccs[case] for case, cell in run_cells.items() if cell.control},
            {case: float(np.abs(cell.scores.adv - cell.scores.clean).mean()) for case, cell in run_cells.items()},
        )


def _size(eps: float, runs: list[Run]) -> Size:
    """Collect the runs of one size: attacks on most defended runs are common; runs that lack any are left out."""
    defended = [run for run in runs if run.variant.role != "none"]
    cases = {case for run in defended for case in run.attacked if not case.through}
    common = frozenset(case for case in cases if 2 * sum(case in run.attacked for run in defended) > len(defended))
    adaptive = frozenset(case for case in common if case.setting == "adaptive")  # undefended models have no other setting

    def complete(run: Run) -> bool:
        needed = adaptive if run.variant.role == "none" else common
        return bool(needed) and needed <= set(run.attacked)

    left_out = [(run.variant, run.seed) for run in runs if not complete(run)]
    return Size(eps, [run for run in runs if complete(run)], common, left_out)


def frame(all_findings: Sequence[Findings]) -> pd.DataFrame:
    """Return a table with a row for every variant, seed, size and attack, random noise included."""
    rows = []
    for result in all_findings:
        for size in result.sizes:
            for run in size.runs:
                for case, values in {**run.controls, **run.attacked}.items():
                    keys = (result.dataset, size.eps, run.variant.name, run.seed, *astuple(case))
                    rows.append((*keys, float(run.clean[0]), float(values[0]), run.shifts[case]))
    columns = ["dataset", "eps", "variant", "seed", "attack", "objective", "setting", "through"]
    columns += ["srocc_clean", "srocc_adv", "abs_gain"]
    return pd.DataFrame(rows, columns=columns)
