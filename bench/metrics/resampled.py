"""Statistics of one image set under all resamples of a bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from iqarena.bench.metrics import weighted
from iqarena.bench.metrics.bootstrap import RESAMPLES, resample_weights
from iqarena.bench.metrics.weighted import Indices, Reals


class ResampledStatistics:
    """Statistics of weighted images. Values are (n,), results (B,), one for each row of weights.

    Args:
        weights: (B, n), how often each image counts in each resample; small whole numbers.
        groups: (n,); images of one group have the same weights. Each image is its own group if omitted.
    """

    def __init__(self, weights: Reals, groups: Indices | None = None) -> None:
        self.weights = weights
        self.groups = np.arange(weights.shape[1]) if groups is None else groups
        self.total = weights.sum(1)
        self._concordances: dict[bytes, Reals] = {}

    @classmethod
    def of(cls, references: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> ResampledStatistics:
        """Create the statistics of the sample itself and of its resamples over reference images."""
        groups = np.unique(np.asarray(references, dtype=str), return_inverse=True)[1]
        return cls(resample_weights(references, resamples, seed), groups)

    @cached_property
    def _blocks(self) -> list[Reals]:
        return list(weighted.blocks(self.weights))

    def _each(self, statistic: Callable[[Reals], Reals]) -> Reals:
        return np.concatenate([statistic(block) for block in self._blocks])

    def mean(self, values: Reals) -> Reals:
        """Compute the mean."""
        return np.asarray((self.weights @ values) / self.total)

    def pearson(self, a: Reals, b: Reals) -> Reals:
        """Compute Pearson's correlation, in [-1, 1]; NaN if one list is constant up to rounding."""
        return self._each(lambda block: weighted.correlation(a, b, block))

    def spearman(self, a: Reals, b: Reals) -> Reals:
        """Compute Spearman's rank correlation with mid-ranks for ties, in [-1, 1]; NaN if one list is constant."""
        return self.spearmans(a, [b])[0]

    def spearmans(self, a: Reals, others: Sequence[Reals]) -> list[Reals]:
        """Compute Spearman's correlation of one list with each of several others, faster than one by one."""
        by_block = [weighted.rank_correlations(a, others, block) for block in self._blocks]
        return [np.concatenate(parts) for parts in zip(*by_block, strict=True)]

    def kendall(self, a: Reals, b: Reals) -> Reals:
        """Compute Kendall's τ-b, in [-1, 1]: (concordant − discordant) / √((pairs untied in a) (pairs untied in b)).

        NaN if one list is constant.
        """
        pairs = self.total**2
        untied = (pairs - self._same_pairs(a)) * (pairs - self._same_pairs(b))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(untied > 0, self._concordance(a, b) / np.sqrt(untied), np.nan)

    def reversed_share(self, before: Reals, after: Reals) -> Reals:
        """Compute the share, among pairs with different values before, of those whose order is reversed after, in [0, 1].

        NaN if there is no such pair.
        """
        pairs, same = self.total**2, self._same_pairs(before)
        both = np.unique(np.stack([before, after]), axis=1, return_inverse=True)[1].ravel().astype(np.float64)
        ordered = pairs - same - self._same_pairs(after) + self._same_pairs(both)  # tied neither before nor after
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > same, (ordered - self._concordance(before, after)) / 2 / (pairs - same), np.nan)

    def _same_pairs(self, values: Reals) -> Reals:
        return self._each(lambda block: weighted.same_pairs(values, block))

    def _concordance(self, a: Reals, b: Reals) -> Reals:
        """Compute the concordance; cached, since it is slow, and τ and the share of reversed pairs both use it."""
        key = a.tobytes() + b.tobytes()
        if key not in self._concordances:
            self._concordances[key] = weighted.concordance(a, b, self.weights.T, self.groups)
        return self._concordances[key]

    def quantile(self, values: Reals, share: float) -> Reals:
        """Compute the `share` quantile, as NumPy does for a list that repeats each image as often as it counts."""
        return self._each(lambda block: weighted.quantile(values, block, share))

    def wasserstein(self, a: Reals, b: Reals) -> Reals:
        """Compute the Wasserstein distance W₁ between the distributions of the values of `a` and of `b`: ∫ |F_a − F_b|."""
        return self._each(lambda block: weighted.cumulative_gap(a, b, block, power=1))

    def energy(self, a: Reals, b: Reals) -> Reals:
        """Compute the energy distance between the distributions of the values of `a` and of `b`: √(2 ∫ (F_a − F_b)²)."""
        return np.sqrt(2 * self._each(lambda block: weighted.cumulative_gap(a, b, block, power=2)))
