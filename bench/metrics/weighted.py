"""Statistics of samples that hold each image so many times: all resamples of a bootstrap at once.

In every function `weights` is (n, B): how often each of n images counts in each of B samples, resamples side by side, so
that what is sorted by image is sorted by whole rows. Values are (n,), results (B,).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Places = NDArray[np.intp]

BLOCK = 2**15
"""Weights that are worked on at once: a quarter of a megabyte, which stays in a core's cache."""
_ROWS = 512  # of the matrix of all pairs that are held at once


def blocks(weights: Reals) -> Iterator[Reals]:
    """Weights (B, n), a row a sample, as blocks (n, b) of samples side by side."""
    size = max(BLOCK // max(weights.shape[1], 1), 1)
    for start in range(0, len(weights), size):
        yield np.ascontiguousarray(weights[start : start + size].T)


def correlation(a: Reals, b: Reals, weights: Reals) -> Reals:
    """Pearson's, in [-1, 1]; NaN where one side is constant up to rounding."""
    total = weights.sum(0)
    a_dev = a[:, None] - (a @ weights) / total
    b_dev = b[:, None] - (b @ weights) / total
    held = weights * a_dev
    power = _dot(held, a_dev) * _dot(weights * b_dev, b_dev)
    scale = np.abs(a).max(initial=1) * np.abs(b).max(initial=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = _dot(held, b_dev) / np.sqrt(power)
    return np.where(power > (1e-12 * scale) ** 2, np.clip(found, -1, 1), np.nan)


def _dot(a: Reals, b: Reals) -> Reals:
    return np.asarray(np.einsum("ij,ij->j", a, b))


def _grouped(values: Reals | Places) -> tuple[Places, Places]:
    """The order of rising values, and where in it each distinct value begins."""
    order = np.argsort(values, kind="stable")
    rising = values[order]
    return order, np.flatnonzero(np.concatenate([[True], rising[1:] != rising[:-1]])) if len(values) else order


def _held(rows: Reals, order: Places, starts: Places) -> Reals:
    """Sums of the rows of each distinct value, by rising value."""
    rising = rows[order]
    return rising if len(starts) == len(order) else np.add.reduceat(rising, starts, axis=0)


def rank_correlations(one: Reals, others: Sequence[Reals], weights: Reals) -> list[Reals]:
    """Spearman's of one list with each of others, with mid-ranks for ties, in [-1, 1]; NaN where a side is constant.

    With N images in a sample and t of them at a value, mid-ranks r have Σ (r − r̄)² = (N³ − Σ t³) / 12.
    """
    if np.isnan(one).any():  # an image without a label: no rank, and no measure that needs one
        return [np.full(weights.shape[1], np.nan)] * len(others)
    order, starts = _grouped(one)
    held = _held(weights, order, starts)
    place = np.empty(len(one), dtype=np.intp)
    place[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(one)]))
    shares = (_middles(held) - weights.sum(0) / 2)[place] * weights  # of each image: count × rank, less the mean rank
    power = weights.sum(0) ** 3 - _cubes(held)
    # where nothing ties, these are the same for every order
    alone, half = weights.sum(0) ** 3 - _cubes(weights), _dot(shares, weights) / 2
    found = []
    for other in others:
        if np.isnan(other).any():
            found.append(np.full(weights.shape[1], np.nan))
            continue
        order, starts = _grouped(other)
        held = _held(weights, order, starts)
        if len(starts) == len(other):
            covariance, spread = _dot(np.cumsum(held, axis=0, out=held), shares[order]) - half, alone
        else:
            covariance, spread = _dot(_middles(held), _held(shares, order, starts)), weights.sum(0) ** 3 - _cubes(held)
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.clip(12 * covariance / np.sqrt(power * spread), -1, 1)
        found.append(np.where(power * spread > 0, correlation, np.nan))
    return found


def _middles(held: Reals) -> Reals:
    """Mid-ranks less a half."""
    found = np.cumsum(held, axis=0)
    found -= held * 0.5
    return np.asarray(found)


def _cubes(held: Reals) -> Reals:
    return _dot(held * held, held)


def same_pairs(values: Reals, weights: Reals) -> Reals:
    """Ordered pairs that agree in `values`, each image with itself among them."""
    found: Reals = (_held(weights, *_grouped(values)) ** 2).sum(0)
    return found


def concordance(a: Reals, b: Reals, weights: Reals, groups: Places) -> Reals:
    """Ordered pairs that two lists put in the same order less those that they put in opposite ones.

    Args:
        groups: (n,); images of one group have the same weights.
    """
    if np.isnan(a).any() or np.isnan(b).any():
        return np.full(weights.shape[1], np.nan)
    order, starts = _grouped(groups)
    a, b, held = a[order], b[order], weights[order[starts]]
    found = np.zeros(weights.shape[1])
    # small whole numbers: every sum of up to 2²⁴ is exact in float32, which multiplies twice as fast
    short = held.astype(np.float32)
    for begin in range(0, len(a), _ROWS):
        rows = slice(begin, begin + _ROWS)
        signs = (np.sign(a[rows, None] - a) * np.sign(b[rows, None] - b)).astype(np.float32)
        found += _dot(np.add.reduceat(signs, starts, axis=1) @ short, weights[order[rows]])
    return found


def quantile(values: Reals, weights: Reals, share: float) -> Reals:
    """The `share` quantile, between neighbours by their distance, as NumPy takes it of repeated values."""
    if np.isnan(values).any():
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(values)
    rising, upto = values[order], np.cumsum(weights[order], axis=0)
    wanted = share * (upto[-1] - 1)
    lower = np.floor(wanted)
    below, above = (rising[np.minimum((upto <= at).sum(0), len(values) - 1)] for at in (lower, lower + 1))
    return np.asarray(below + (wanted - lower) * (np.where(wanted > lower, above, below) - below))


def cumulative_gap(a: Reals, b: Reals, weights: Reals, power: Literal[1, 2]) -> Reals:
    """∫ |F_a − F_b|ᵖ of the cumulative distributions of two lists."""
    if np.isnan(a).any() or np.isnan(b).any():
        return np.full(weights.shape[1], np.nan)
    both = np.concatenate([a, b])
    order = np.argsort(both, kind="stable")
    gap = np.cumsum(np.concatenate([weights, -weights])[order], axis=0)[:-1]
    gap /= weights.sum(0)
    return np.asarray(np.diff(both[order]) @ (np.abs(gap) if power == 1 else gap * gap))
