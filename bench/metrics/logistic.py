"""The curve that takes a model's qualities to people's labels before their agreement is measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import optimize, special

from iqarena.bench.metrics.weighted import Reals

Curve = Callable[[Reals], Reals]

_TRIES = 200
"""Evaluations, after which the best curve so far counts. Where an exponential or a straight line fits best, the ends go off
to infinity, and the sum of squares changes in its fourth digit at most."""


def fit(qualities: Reals, labels: Reals) -> Curve:
    """The four-parameter logistic of VQEG (Final report on the validation of objective models, 2000), by least squares.

    f(q) = (β₁ − β₂) / (1 + exp(−(q − β₃) / |β₄|)) + β₂, from β₁ = max y, β₂ = min y, β₃ = mean q, β₄ = sd q / 4. It rises
    or falls, whichever fits.

    Args:
        qualities, labels: (n,).

    Returns:
        f; NaN everywhere with fewer than five images, a missing label, or qualities or labels that are all equal.
    """
    usable = len(qualities) > 4 and np.isfinite(qualities).all() and np.isfinite(labels).all()
    if not usable or np.ptp(qualities) == 0 or np.ptp(labels) == 0:
        return lambda values: np.full(len(values), np.nan)
    order = np.lexsort((labels, qualities))  # where the fit ends must not depend on the order of the images
    qualities, labels = qualities[order], labels[order]
    center, width = float(qualities.mean()), float(qualities.std())
    x = (qualities - center) / width

    def error(beta: Reals) -> Reals:
        return _logistic(x, beta) - labels

    def slopes(beta: Reals) -> Reals:
        scale = max(abs(beta[3]), _THIN)
        rise = special.expit((x - beta[2]) / scale)
        steep = (beta[0] - beta[1]) * rise * (1 - rise) / scale
        return np.stack([rise, 1 - rise, -steep, -steep * (x - beta[2]) / scale * np.sign(beta[3])], axis=1)

    start = np.array([labels.max(), labels.min(), 0.0, 0.25])
    beta = optimize.least_squares(error, start, slopes, method="lm", max_nfev=_TRIES).x
    return lambda values: _logistic((values - center) / width, beta)


_THIN = 1e-6  # standard deviations; a step narrower than that is a step


def _logistic(x: Reals, beta: Reals) -> Reals:
    return np.asarray((beta[0] - beta[1]) * special.expit((x - beta[2]) / max(abs(beta[3]), _THIN)) + beta[1])
