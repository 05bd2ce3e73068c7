"""Confidence intervals and tests by resampling reference images; ranks from intervals, and corrections of p values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from iqarena.bench.metrics.weighted import Reals

Interval = tuple[float, float, float]
"""(value, lo, hi) of a 95 % interval; NaN if it is not defined."""

RESAMPLES = 1000
_ENDS = (2.5, 97.5)
COMPARED = 10_000
"""Number of resamples for comparisons: enough to estimate a p value of 0.001, as the correction for many tests requires."""


def resample_weights(references: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> Reals:
    """Draw the weight of each image in each resample, (1 + resamples, n); the first row is the sample itself.

    References are drawn with replacement, each with all its images, since images made from one reference are not
    independent. The draw depends only on the set of references and the seed, so cells on the same images are paired.
    """
    names, group = np.unique(np.asarray(references, dtype=str), return_inverse=True)
    digest = hashlib.sha256("\n".join([str(seed), *names]).encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return np.vstack([np.ones(len(group)), drawn[:, group]])


def interval(values: Reals) -> Interval:
    """Return the value (first entry) with the 2.5 and 97.5 percentiles of its resamples (other entries), ignoring NaN.

    The percentiles are widened to contain the value itself.
    """
    return intervals(values[None])[0]


def intervals(values: Reals) -> list[Interval]:
    """Compute `interval` of each row of (K, 1 + B), which is much faster for many rows at once."""
    finite, ends = np.isfinite(values), np.full((2, len(values)), np.nan)
    whole = finite.all(axis=1)
    if values.shape[1] > 1:
        ends[:, whole] = np.percentile(values[whole, 1:], _ENDS, axis=1)
    for k in np.flatnonzero(~whole & finite[:, 0] & finite[:, 1:].any(axis=1)):
        ends[:, k] = np.percentile(values[k, 1:][finite[k, 1:]], _ENDS)
    firsts = values[:, 0].tolist()
    return [(value, min(low, value), max(high, value)) for value, low, high in zip(firsts, *ends.tolist(), strict=True)]


def over_seeds(values: Reals, seed: int = 0) -> Reals:
    """Resample training seeds as a second level of the bootstrap: average over seeds drawn anew in every resample.

    Args:
        values: (S, 1 + B), one row per training seed, all resampled over the same references.
        seed: seed of this draw.

    Returns:
        (1 + B,): first the mean over all training seeds, then means over S of them drawn with replacement. With few training
        seeds their spread is underestimated, by √((S − 1)/S) on average.
    """
    count, columns = values.shape
    drawn = np.random.default_rng([seed, count]).integers(count, size=(count, columns))
    drawn[:, 0] = np.arange(count)
    means: Reals = np.take_along_axis(values, drawn, axis=0).mean(axis=0)
    return means


def p_value(differences: Reals) -> float:
    """Compute the two-sided p value of "no difference" from a difference (first entry) and its resamples (other entries).

    It is twice the smaller share of resamples on one side of zero, at most 1, with one added to the count and to the number
    of resamples: the level at which the percentile interval starts to contain zero. NaN without a difference or resamples.
    """
    replicates = differences[1:][np.isfinite(differences[1:])]
    if not np.isfinite(differences[0]) or len(replicates) == 0:
        return float("nan")
    side = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    return min(2 * (side + 1) / (len(replicates) + 1), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for multiple testing by Holm's step-down method (Scand. J. Statist. 6, 1979), in the order given.

    It controls the family-wise error rate: the probability of any false rejection at 0.05 is at most 0.05. NaN values are
    kept and not counted.

    Example:
        >>> holm([0.01, 0.04])
        [0.02, 0.04]
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if np.isfinite(p))
    corrected = [float("nan")] * len(p_values)
    least = 0.0
    for done, (p, index) in enumerate(known):
        least = max(least, min((len(known) - done) * p, 1.0))
        corrected[index] = least
    return corrected


def shared_ranks(intervals: Sequence[Interval]) -> list[int]:
    """Rank intervals by 1 + the number of intervals that lie wholly above; overlapping intervals can share a rank.

    Example:
        >>> shared_ranks([(0.5, 0.4, 0.6), (0.45, 0.3, 0.55), (0.1, 0.0, 0.2)])
        [1, 1, 3]
    """
    return [1 + sum(other[1] > own[2] for other in intervals) for own in intervals]
