"""Measures exactly as other benchmarks define them, for comparing numbers with theirs; ours are in `iqarena.bench.metrics.measures`.

Both benchmarks give no agreement with labels a place, and their means are of images, however many share a reference.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from iqarena.bench.metrics.weighted import Reals

SMALL = 1e-6
"""What both add to divisors."""


def msu(clear: Reals, attacked: Reals) -> dict[str, float]:
    """The measures of the MSU robustness benchmark (Antsiferova et al., AAAI 2024, arXiv 2310.06958).

    Scores are scaled so that the least and the largest *clear* one of this very list become 0 and 1: x = (clear − min) /
    (max − min), and y the attacked ones by the same ends. So numbers of two lists of images are on two scales.

    Args:
        clear, attacked: raw scores (n,) before and after the attack, higher is better.

    Returns:
        ``abs_gain`` mean(y − x); ``rel_gain`` mean((y − x) / (x + 1)); ``r_score`` mean log₁₀(max(1 − x, x) / (|y − x| +
        10⁻⁶)); ``wasserstein`` and ``energy``, the distances of the distributions of x and y, with the sign of mean y −
        mean x. The gains and distances are signed: attacks that raise scores and attacks that lower them cancel out where
        their images are pooled, so never pool them. Equal clear scores are not stretched, as there.
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
    """The gains of Guardians of Image Quality (ICML 2025, arXiv 2408.01541).

    Args:
        clear, attacked: raw scores (n,) of the undefended model before and after the attack.
        defended_clear, defended_attacked: raw scores (n,) of the defended model for the same images.
        score_range: the two ends of the model's scores.

    Returns:
        With c the clear score and R the width of the range: ``nonpurified`` of c and the attacked score, ``robust`` (their
        headline) of c and the defended attacked one, ``both_defended`` of the two defended ones; each as ``_abs_gain``, mean
        |difference| / R, and ``_rel_gain``, mean(|difference| / (c + 10⁻⁶)), with c the first of the two. The latter is
        of little use where scores may be zero or below.
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
