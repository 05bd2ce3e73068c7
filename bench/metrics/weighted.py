"""Weighted statistics, for all resamples of a bootstrap at once.

In every function `weights` is (n, B): how often each of n images counts in each of B resamples. Resamples are columns, so
sorting by image moves whole rows. Values are (n,), results (B,).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Indices = NDArray[np.intp]

BLOCK = 2**15
"""Number of weights processed at once: a quarter of a megabyte, which fits into a core's cache."""
_ROWS = 512  # rows of the matrix of all pairs that are in memory at once


def blocks(weights: Reals) -> Iterator[Reals]:
    """Split weights (B, n), one row per resample, into blocks (n, b) with one column per resample."""
    size = max(BLOCK // max(weights.shape[1], 1), 1)
    for start in range(0, len(weights), size):
        yield np.ascontiguousarray(weights[start : start + size].T)


def correlation(a: Reals, b: Reals, weights: Reals) -> Reals:
    """Compute Pearson's correlation, in [-1, 1]; NaN if one list is constant up to rounding."""
    total = weights.sum(0)
    a_dev = a[:, None] - (a @ weights) / total
    b_dev = b[:, None] - (b @ weights) / total
    weighted_dev = weights * a_dev
    power = _dot(weighted_dev, a_dev) * _dot(weights * b_dev, b_dev)
    scale = np.abs(a).max(initial=1) * np.abs(b).max(initial=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        coefficient = _dot(weighted_dev, b_dev) / np.sqrt(power)
    return np.where(power > (1e-12 * scale) ** 2, np.clip(coefficient, -1, 1), np.nan)


def _dot(a: Reals, b: Reals) -> Reals:
    return np.asarray(np.einsum("ij,ij->j", a, b))


def _grouped(values: Reals | Indices) -> tuple[Indices, Indices]:
    """Return the order of rising values, and the start of each distinct value in it."""
    order = np.argsort(values, kind="stable")
    rising = values[order]
    return order, np.flatnonzero(np.concatenate([[True], rising[1:] != rising[:-1]])) if len(values) else order


def _group_sums(rows: Reals, order: Indices, starts: Indices) -> Reals:
    """Sum the rows of each distinct value, by rising value."""
    rising = rows[order]
    return rising if len(starts) == len(order) else np.add.reduceat(rising, starts, axis=0)


def rank_correlations(values: Reals, others: Sequence[Reals], weights: Reals) -> list[Reals]:
    """Compute Spearman's correlation of one list with each of several others, with mid-ranks for ties, in [-1, 1].

    NaN if a list is constant. With N images in a resample and t of them tied at a value, mid-ranks r have Σ (r − r̄)² =
    (N³ − Σ t³) / 12.
    """
    if np.isnan(values).any():  # a missing label has no rank, so the correlation is not defined
        return [np.full(weights.shape[1], np.nan)] * len(others)
    order, starts = _grouped(values)
    counts = _group_sums(weights, order, starts)
    group = np.empty(len(values), dtype=np.intp)
    group[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(values)]))
    centered = (_middles(counts) - weights.sum(0) / 2)[group] * weights  # of each image: count × (rank − mean rank)
    power = weights.sum(0) ** 3 - _cubes(counts)
    # these two are the same for every list without ties
    untied_spread, half = weights.sum(0) ** 3 - _cubes(weights), _dot(centered, weights) / 2
    correlations = []
    for other in others:
        if np.isnan(other).any():
            correlations.append(np.full(weights.shape[1], np.nan))
            continue
        order, starts = _grouped(other)
        counts = _group_sums(weights, order, starts)
        if len(starts) == len(other):
            covariance, spread = _dot(np.cumsum(counts, axis=0, out=counts), centered[order]) - half, untied_spread
        else:
            covariance = _dot(_middles(counts), _group_sums(centered, order, starts))
            spread = weights.sum(0) ** 3 - _cubes(counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            coefficient = np.clip(12 * covariance / np.sqrt(power * spread), -1, 1)
        correlations.append(np.where(power * spread > 0, coefficient, np.nan))
    return correlations


def _middles(counts: Reals) -> Reals:
    """Compute mid-ranks minus one half from the counts of rising values."""
    middles = np.cumsum(counts, axis=0)
    middles -= counts * 0.5
    return np.asarray(middles)


def _cubes(counts: Reals) -> Reals:
    return _dot(counts * counts, counts)


def same_pairs(values: Reals, weights: Reals) -> Reals:
    """Count ordered pairs with equal values, including each image with itself."""
    pairs: Reals = (_group_sums(weights, *_grouped(values)) ** 2).sum(0)
    return pairs


def concordance(a: Reals, b: Reals, weights: Reals, groups: Indices) -> Reals:
    """Count concordant minus discordant ordered pairs of two lists.

    Args:
        a, b: (n,).
        weights: (n, B).
        groups: (n,); images of one group have the same weights.
    """
    if np.isnan(a).any() or np.isnan(b).any():
        return np.full(weights.shape[1], np.nan)
    order, starts = _grouped(groups)
    a, b, group_weights = a[order], b[order], weights[order[starts]]
    balance = np.zeros(weights.shape[1])
    # weights are small whole numbers: sums up to 2²⁴ are exact in float32, which is twice as fast
    short = group_weights.astype(np.float32)
    for begin in range(0, len(a), _ROWS):
        rows = slice(begin, begin + _ROWS)
        signs = (np.sign(a[rows, None] - a) * np.sign(b[rows, None] - b)).astype(np.float32)
        balance += _dot(np.add.reduceat(signs, starts, axis=1) @ short, weights[order[rows]])
    return balance


def quantile(values: Reals, weights: Reals, share: float) -> Reals:
    """Compute the `share` quantile with linear interpolation, as NumPy does for repeated values."""
    if np.isnan(values).any():
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(values)
    rising, upto = values[order], np.cumsum(weights[order], axis=0)
    position = share * (upto[-1] - 1)
    lower = np.floor(position)
    below, above = (rising[np.minimum((upto <= at).sum(0), len(values) - 1)] for at in (lower, lower + 1))
    return np.asarray(below + (position - lower) * (np.where(position > lower, above, below) - below))


def cumulative_gap(a: Reals, b: Reals, weights: Reals, power: Literal[1, 2]) -> Reals:
    """Compute ∫ |F_a − F_b|ᵖ for the cumulative distribution functions of two lists."""
    if np.isnan(a).any() or np.isnan(b).any():
        return np.full(weights.shape[1], np.nan)
    both = np.concatenate([a, b])
    order = np.argsort(both, kind="stable")
    gap = np.cumsum(np.concatenate([weights, -weights])[order], axis=0)[:-1]
    gap /= weights.sum(0)
    return np.asarray(np.diff(both[order]) @ (np.abs(gap) if power == 1 else gap * gap))
