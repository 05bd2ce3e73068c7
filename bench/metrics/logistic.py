"""The logistic curve that maps a model's qualities to labels before their agreement is measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import optimize, special

from iqarena.bench.metrics.weighted import Reals

Curve = Callable[[Reals], Reals]

_TRIES = 200
"""Maximum number of evaluations, after which the best curve so far is used. If an exponential or a straight line fits best,
the asymptotes diverge, and further evaluations change at most the fourth digit of the sum of squares."""


def fit(qualities: Reals, labels: Reals) -> Curve:
    """Fit the four-parameter logistic of VQEG (Final report on the validation of objective models, 2000) by least squares.

    f(q) = (β₁ − β₂) / (1 + exp(−(q − β₃) / |β₄|)) + β₂, starting from β₁ = max y, β₂ = min y, β₃ = mean q, β₄ = sd q / 4.
    It may increase or decrease.

    Args:
        qualities, labels: (n,).

    Returns:
        The function f; it is NaN everywhere for fewer than five images, a missing label, or if all qualities or all labels
        are equal.
    """
    usable = len(qualities) > 4 and np.isfinite(qualities).all() and np.isfinite(labels).all()
    if not usable or np.ptp(qualities) == 0 or np.ptp(labels) == 0:
        return lambda values: np.full(len(values), np.nan)
    order = np.lexsort((labels, qualities))  # the result of the fit must not depend on the order of the images
    qualities, labels = qualities[order], labels[order]
    center, width = float(qualities.mean()), float(qualities.std())
    x = (qualities - center) / width

    def error(beta: Reals) -> Reals:
        return _logistic(x, beta) - labels

    def jacobian(beta: Reals) -> Reals:
        scale = max(abs(beta[3]), _THIN)
        rise = special.expit((x - beta[2]) / scale)
        steep = (beta[0] - beta[1]) * rise * (1 - rise) / scale
        return np.stack([rise, 1 - rise, -steep, -steep * (x - beta[2]) / scale * np.sign(beta[3])], axis=1)

    start = np.array([labels.max(), labels.min(), 0.0, 0.25])
    beta = optimize.least_squares(error, start, jacobian, method="lm", max_nfev=_TRIES).x
    return lambda values: _logistic((values - center) / width, beta)


_THIN = 1e-6  # minimum width of the curve in standard deviations


def _logistic(x: Reals, beta: Reals) -> Reals:
    return np.asarray((beta[0] - beta[1]) * special.expit((x - beta[2]) / max(abs(beta[3]), _THIN)) + beta[1])
