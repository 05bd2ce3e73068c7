"""Intervals and tests by resampling reference images, and what ranks and families of comparisons make of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from iqarena.bench.metrics.weighted import Reals

Interval = tuple[float, float, float]
"""(value, lo, hi), 95 %; NaN where there is none."""

RESAMPLES = 1000
_ENDS = (2.5, 97.5)
COMPARED = 10_000
"""Resamples of a comparison: enough for a p of 0.001 to be more than noise after a correction for many."""


def resample_weights(references: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> Reals:
    """How often each image counts in each resample, (1 + resamples, n); the first row is the sample itself.

    References are drawn with replacement and bring all their images, since images made from one reference are not
    independent. The draw depends on the set of references and the seed alone, so cells on the same images are paired.
    """
    names, place = np.unique(np.asarray(references, dtype=str), return_inverse=True)
    digest = hashlib.sha256("\n".join([str(seed), *names]).encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return np.vstack([np.ones(len(place)), drawn[:, place]])


def interval(values: Reals) -> Interval:
    """Value (first entry) and the 2.5 and 97.5 percentiles of the resamples (the rest); NaN resamples are left out.

    The percentiles are widened to hold the value itself.
    """
    return intervals(values[None])[0]


def intervals(values: Reals) -> list[Interval]:
    """`interval` of each row of (K, 1 + B); many at once take a fraction of the time."""
    finite, ends = np.isfinite(values), np.full((2, len(values)), np.nan)
    whole = finite.all(axis=1)
    if values.shape[1] > 1:
        ends[:, whole] = np.percentile(values[whole, 1:], _ENDS, axis=1)
    for k in np.flatnonzero(~whole & finite[:, 0] & finite[:, 1:].any(axis=1)):
        ends[:, k] = np.percentile(values[k, 1:][finite[k, 1:]], _ENDS)
    firsts = values[:, 0].tolist()
    return [(value, min(low, value), max(high, value)) for value, low, high in zip(firsts, *ends.tolist(), strict=True)]


def over_seeds(values: Reals, seed: int = 0) -> Reals:
    """A second level of resampling: the mean over seeds of training, which are drawn anew in every resample.

    Args:
        values: (S, 1 + B), a row a seed, each as resampled over the same references.
        seed: of the draw of seeds.

    Returns:
        (1 + B,): first the mean over all seeds, then over S seeds drawn with replacement. With few seeds the spread between
        them is underestimated, by √((S − 1)/S) on average.
    """
    count, columns = values.shape
    drawn = np.random.default_rng([seed, count]).integers(count, size=(count, columns))
    drawn[:, 0] = np.arange(count)
    found: Reals = np.take_along_axis(values, drawn, axis=0).mean(axis=0)
    return found


def p_value(differences: Reals) -> float:
    """Two-sided p of "no difference", from a difference (first entry) and its resamples (the rest).

    Twice the smaller share of resamples on one side of zero, each side's count and the number of resamples plus one, at most
    1: the level at which the percentile interval begins to hold zero. NaN without a difference or resamples.
    """
    replicates = differences[1:][np.isfinite(differences[1:])]
    if not np.isfinite(differences[0]) or len(replicates) == 0:
        return float("nan")
    side = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    return min(2 * (side + 1) / (len(replicates) + 1), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number by Holm's step-down method (Scand. J. Statist. 6, 1979), in the order given.

    Of those below 0.05, the chance that any is a false alarm stays below 0.05. NaN stays and does not count.

    Example:
        >>> holm([0.01, 0.04])
        [0.02, 0.04]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if np.isfinite(p))
    corrected = [float("nan")] * len(p_values)
    least = 0.0
    for done, (p, place) in enumerate(known):
        least = max(least, min((len(known) - done) * p, 1.0))
        corrected[place] = least
    return corrected


def shared_ranks(intervals: Sequence[Interval]) -> list[int]:
    """1 + the number of intervals that lie wholly above, so that overlapping ones tie unless something parts them.

    Example:
        >>> shared_ranks([(0.5, 0.4, 0.6), (0.45, 0.3, 0.55), (0.1, 0.0, 0.2)])
        [1, 1, 3]
    """
    return [1 + sum(other[1] > own[2] for other in intervals) for own in intervals]
