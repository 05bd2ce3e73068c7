"""Measures exactly as other benchmarks define them, to compare numbers with theirs.

The measures of this benchmark are in `iqarena.bench.metrics.measures`. Neither of the two others has a measure of agreement
with labels, and both average over images, no matter how many of them share a reference.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from iqarena.bench.metrics.weighted import Reals

SMALL = 1e-6
"""Constant that both add to denominators."""


def msu(clear: Reals, attacked: Reals) -> dict[str, float]:
    """Compute the measures of the MSU robustness benchmark (Antsiferova et al., AAAI 2024, arXiv 2310.06958).

    Scores are rescaled by the minimum and the maximum of the *clear* scores of the given images: x = (clear − min) / (max −
    min), and y is the attacked scores on the same scale. So the numbers of two image sets are on two different scales.

    Args:
        clear, attacked: raw scores (n,) before and after the attack, higher is better.

    Returns:
        ``abs_gain`` mean(y − x); ``rel_gain`` mean((y − x) / (x + 1)); ``r_score`` mean log₁₀(max(1 − x, x) / (|y − x| +
        10⁻⁶)); ``wasserstein`` and ``energy``, the distances of the distributions of x and y, with the sign of mean y −
        mean x. Gains and distances are signed: attacks that increase scores and attacks that decrease them cancel out if
        their images are pooled, so never pool them. As in that benchmark, clear scores that are all equal are not rescaled.
    """
    low, high = float(clear.min()), float(clear.max())
    width = (high - low) or 1.0
    x, y = (clear - low) / width, (attacked - low) / width
    gain = y - x
    side = np.sign(y.mean() - x.mean())
    return {
        "abs_gain": float(gain.mean()),
        "rel_gain": float((gain / (x + 1)).mean()),
        "r_score": float(np.log10(np.maximum(1 - x, x) / (np.abs(gain) + SMALL)).mean()),
        "wasserstein": float(stats.wasserstein_distance(x, y) * side),
        "energy": float(stats.energy_distance(x, y) * side),
    }


def guardians(
    clear: Reals, attacked: Reals, defended_clear: Reals, defended_attacked: Reals, score_range: tuple[float, float]
) -> dict[str, float]:
    """Compute the gains of Guardians of Image Quality (ICML 2025, arXiv 2408.01541).

    Args:
        clear, attacked: raw scores (n,) of the undefended model before and after the attack.
        defended_clear, defended_attacked: raw scores (n,) of the defended model for the same images.
        score_range: minimum and maximum of the model's scores.

    Returns:
        Gains between two scores: ``nonpurified`` between the clear and the attacked score, ``robust`` (their main result)
        between the clear and the defended attacked score, ``both_defended`` between the two defended scores. Each is given
        as ``_abs_gain``, mean |difference| / R, and as ``_rel_gain``, mean(|difference| / (c + 10⁻⁶)), with R the width of
        the score range and c the first of the two scores. The latter is of little use if scores can be zero or negative.
    """
    width = score_range[1] - score_range[0]
    pairs = {
        "nonpurified": (clear, attacked),
        "robust": (clear, defended_attacked),
        "both_defended": (defended_clear, defended_attacked),
    }
    out: dict[str, float] = {}
    for name, (before, after) in pairs.items():
        shift = np.abs(before - after)
        out[f"{name}_abs_gain"] = float((shift / width).mean())
        out[f"{name}_rel_gain"] = float((shift / (before + SMALL)).mean())
    return out
